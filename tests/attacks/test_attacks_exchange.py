"""Attacks on the exchange itself: replays, late answers, and men in the middle on either side."""

import asyncio

import pytest
from aiohttp import web
from small_broker import HostileProxy

from kbs_rim.errors import UnopenableSecret
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE
from kbs_rim.realm.failures import BrokerNotTrusted, BrokerRefused
from kbs_rim.realm.guest import KeyType, Offer, new_key
from kbs_rim.realm.guest_http import get_secret
from kbs_rim.realm.lies import Lie
from kbs_rim.sealing.jwe import open_jwe
from tests.broker_stage import QUICK, SECRETS, Site, Starter, assert_says_nothing

VM = "qemu-kernel"


async def finding_of(site: Site, answer) -> list[str]:
    shown = await site.record(answer.document["ticket"])
    assert shown["releases"] == []
    return [finding["id"] for finding in shown["appraisal"]["findings"]]


# --- replayed nonce ---------------------------------------------------------------------------------------------------


async def test_attack_replayed_nonce(site: Site) -> None:
    """The same evidence for the same challenge, twice: the second time it is worth nothing."""
    offer = await site.offer()
    evidence = site.realm().evidence(offer.challenge)
    assert (await site.submit(offer, evidence)).status == 200
    again = await site.submit(offer, evidence)
    assert (again.status, again.code) == (403, "challenge-refused")
    assert_says_nothing(again)
    assert await finding_of(site, again) == ["challenge.redeemed"]
    assert await site.count("releases") == 1


async def test_attack_replayed_nonce_after_a_refusal(site: Site) -> None:
    """A challenge is spent by the first answer, good or bad: nobody gets a second try."""
    offer = await site.offer()
    await site.assert_refused(await site.send(offer, b"{}", EVIDENCE_JSON_TYPE), "envelope.token-missing")
    again = await site.submit(offer, site.realm().evidence(offer.challenge))
    await site.assert_refused(again, "challenge.redeemed", code="challenge-refused")


@pytest.mark.parametrize("replicas", [1, 2])
async def test_attack_replayed_nonce_twenty_times_at_once(start: Starter, replicas: int) -> None:
    site = await start(replicas=replicas, appraisal={"max_concurrent": 64})
    await twenty_at_once(site)


async def test_attack_replayed_nonce_twenty_times_at_once_on_two_replicas_of_postgresql(pair: Site) -> None:
    await twenty_at_once(pair)


async def twenty_at_once(site: Site) -> None:
    offer = await site.offer()
    evidence = site.realm().evidence(offer.challenge)
    answers = await asyncio.gather(*(site.submit(offer, evidence, replica=number % len(site.services)) for number in range(20)))
    assert sorted(answer.status for answer in answers) == [200] + 19 * [403]
    assert await site.count("releases") == 1
    verdicts = [record["verdict"] for record in await site.appraisals(limit=50)]
    assert sorted(verdicts) == ["allowed"] + 19 * ["refused"]


async def test_attack_replayed_token_for_a_new_challenge(site: Site) -> None:
    first = await site.offer()
    evidence = site.realm().evidence(first.challenge)
    assert (await site.submit(first, evidence)).status == 200
    second = await site.submit(await site.offer(), evidence)
    assert second.status == 403
    assert "realm.challenge" in await finding_of(site, second)
    assert await site.count("releases") == 1


async def test_attack_token_that_answers_an_old_challenge(site: Site) -> None:
    await site.assert_refused(await site.attempt(lie=Lie.REPLAYED_NONCE), "realm.challenge", code="realm-token-refused")


@pytest.mark.parametrize("guess", ["0" * 48, "f" * 48, "x", "%00", "0" * 47, "0" * 48 + "%0A", "A" * 48, "'; DROP TABLE challenges; --"])
async def test_attack_guessed_challenge(site: Site, guess: str) -> None:
    answer = await site.call(
        "POST", f"{site.guest_url()}/keys/v1/evidence/{guess}", data=b"{}", headers={"Content-Type": EVIDENCE_JSON_TYPE}
    )
    assert (answer.status, answer.code) == (403, "challenge-refused")
    assert_says_nothing(answer)
    assert await site.count("appraisals") == 0, "guesses do not fill the record"


# --- expired challenge ------------------------------------------------------------------------------------------------


async def test_attack_expired_challenge(site: Site) -> None:
    offer = await site.offer()
    evidence = site.realm().evidence(offer.challenge)
    site.clock.advance(site.settings.challenge.lifetime_s)
    await site.assert_refused(await site.submit(offer, evidence), "challenge.expired", code="challenge-refused")
    site.clock.advance(-site.settings.challenge.lifetime_s)
    assert await site.fetch() == SECRETS[VM], "a new challenge works"


async def test_a_challenge_in_its_last_second_still_works(site: Site) -> None:
    offer = await site.offer()
    site.clock.advance(site.settings.challenge.lifetime_s - 30)
    assert (await site.submit(offer, site.realm().evidence(offer.challenge))).status == 200


# --- key swapped by a man in the middle -------------------------------------------------------------------------------


@pytest.fixture
async def proxy(site: Site, aiohttp_server) -> HostileProxy:
    hostile = HostileProxy(site.guest_url())
    hostile.url = str((await aiohttp_server(hostile.app)).make_url("")).rstrip("/")
    return hostile


async def test_attack_key_swapped_by_a_man_in_the_middle_client_side(site: Site, proxy: HostileProxy) -> None:
    """He asks with his key and hands that challenge on: the guest sees that it does not commit to its own, and says nothing."""
    exchange = site.exchange()
    exchange.request_url = exchange.request_url.replace(site.guest_url(), proxy.url)
    with pytest.raises(BrokerNotTrusted) as refused:
        await get_secret(exchange, site.realm(), QUICK)
    assert refused.value.code == "guest.challenge-not-ours"
    assert proxy.stolen == []
    assert await site.count("releases") == 0


async def test_attack_key_swapped_by_a_man_in_the_middle_server_side(site: Site) -> None:
    """He takes the honest guest's evidence to an exchange of his own: it answers a challenge that commits to another key."""
    attacker = site.exchange()
    stolen_place, honest = await site.offer(attacker), await site.offer()
    evidence = site.realm().evidence(honest.challenge)
    await site.assert_refused(await site.submit(stolen_place, evidence), "realm.challenge", code="realm-token-refused")
    answer = await site.submit(honest, evidence)
    assert answer.status == 200, "the honest exchange is not disturbed"


async def test_attack_stolen_answer_cannot_be_opened(site: Site) -> None:
    """He may carry the honest guest's evidence to the honest place: what comes back is sealed to the guest's key."""
    attacker = new_key(KeyType.P256)
    offer = await site.offer()
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    with pytest.raises(UnopenableSecret):
        open_jwe(attacker, answer.document["data"])
    with pytest.raises(BrokerNotTrusted):
        site.exchange(private_key=attacker).read_secret(answer.body)


async def test_attack_evidence_of_one_guest_for_the_exchange_of_another(site: Site) -> None:
    """Two honest guests, their evidence crossed on the way: neither gets anything."""
    offers = [await site.offer(), await site.offer()]
    evidence = [site.realm().evidence(offer.challenge) for offer in offers]
    crossed = [await site.submit(offer, other) for offer, other in zip(offers, reversed(evidence), strict=True)]
    for answer in crossed:
        await site.assert_refused(answer, "realm.challenge")


async def test_attack_redirected_guest_does_not_follow(site: Site, aiohttp_server) -> None:
    """A broker whose Location leads elsewhere: the evidence goes nowhere."""
    seen = []

    async def request_key(request: web.Request) -> web.Response:
        honest = await site.call("POST", site.guest_url() + request.path, data=await request.read(), headers=request.headers)
        return web.Response(status=201, body=honest.body, headers={"Location": site.guest_url() + "/keys/v1/evidence/x"})

    app = web.Application()
    app.router.add_post("/keys/v1/key/{name}", request_key)
    exchange = site.exchange()
    exchange.request_url = str((await aiohttp_server(app)).make_url(f"/keys/v1/key/{VM}"))
    with pytest.raises(BrokerNotTrusted) as refused:
        await get_secret(exchange, site.realm(), QUICK)
    assert refused.value.code == "guest.location"
    assert seen == []


async def test_the_guest_is_told_code_and_ticket(site: Site) -> None:
    with pytest.raises(BrokerRefused) as refused:
        await get_secret(site.exchange(), site.realm(lie=Lie.PC_OFF_ENTRY), QUICK)
    assert refused.value.code == "boot-plan-refused"
    shown = await site.record(refused.value.ticket)
    assert "boot.entry-point" in [finding["id"] for finding in shown["appraisal"]["findings"]]


# --- both legs on any replica -----------------------------------------------------------------------------------------


async def test_a_handshake_may_begin_on_one_replica_and_end_on_another(pair: Site) -> None:
    exchange = pair.exchange()
    offer = await pair.offer(exchange)
    answer = await pair.submit(offer, pair.realm().evidence(offer.challenge), replica=1)
    assert answer.status == 200, answer
    assert exchange.read_secret(answer.body).value == SECRETS[VM]
    again = await pair.submit(Offer(offer.challenge, offer.location), pair.realm().evidence(offer.challenge), replica=0)
    assert (again.status, again.code) == (403, "challenge-refused")
