"""Replicas that are configured differently: each answers for itself."""

from tests.broker_stage import Starter
from tests.http.test_guest_honest_path import OldClient


async def test_attack_weak_padding_from_the_replica_that_still_allows_it(start: Starter) -> None:
    lax = await start(secrets={"legacy_rsa1_5": True})
    strict = await start(verifier_url=lax.settings.verifier.url)
    offer = await OldClient("RSA1_5").offer(lax)
    answer = await strict.submit(offer, strict.realm().evidence(offer.challenge))
    await strict.assert_refused(answer, "key.legacy", code="key-refused")
