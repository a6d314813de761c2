"""What anybody on the network can make the broker store or compute is bounded, and what the database says is not believed blindly."""

import hashlib
import threading

import pytest
from sqlalchemy import text

from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE
from kbs_rim.realm.guest import KeyType, new_key
from kbs_rim.realm.lies import Lie
from kbs_rim.sealing.guest_key import guest_key_of
from kbs_rim.services import broker
from tests.broker_stage import SECRETS, Site, Starter

VM = "qemu-kernel"


async def test_attack_flood_of_challenges_fills_neither_table_nor_patience(start: Starter) -> None:
    site = await start(challenge={"max_outstanding": 3})
    answers = [await site.request_key(site.exchange()) for _ in range(6)]
    assert [answer.status for answer in answers] == [201, 201, 201, 503, 503, 503]
    assert answers[-1].code == "busy"
    assert answers[-1].headers["Retry-After"] == "5"
    assert await site.count("challenges") == 3
    site.clock.advance(site.settings.challenge.lifetime_s)
    assert (await site.request_key(site.exchange())).status == 201, "the flood is over"


async def test_answered_challenges_make_room(start: Starter) -> None:
    site = await start(challenge={"max_outstanding": 1})
    for _ in range(3):
        assert await site.fetch() == SECRETS[VM]
    await site.offer()
    assert (await site.request_key(site.exchange())).status == 503


async def test_attack_flood_of_replays_does_not_fill_the_record(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "REPLAYS_ON_RECORD", 2)
    site = await start()
    offer = await site.offer()
    evidence = site.realm().evidence(offer.challenge)
    assert (await site.submit(offer, evidence)).status == 200
    replays = [await site.submit(offer, evidence) for _ in range(6)]
    assert {(answer.status, answer.code) for answer in replays} == {(403, "challenge-refused")}
    assert await site.count("appraisals") == 1 + 2
    assert await site.count("releases") == 1


async def test_attack_megabytes_that_nobody_vouches_for_are_not_kept(site: Site) -> None:
    junk = b'{"token":"' + b"A" * 100_000 + b'"}'
    record = await site.assert_refused(await site.send(await site.offer(), junk, EVIDENCE_JSON_TYPE), "envelope.malformed")
    assert record["inputs"] == {"body": hashlib.sha256(junk).hexdigest()}
    assert (await site.ask("GET", f"/audit/v1/payloads/{record['inputs']['body']}")).status == 404


async def test_attack_a_forged_token_keeps_its_small_inputs_and_not_its_large_ones(start: Starter) -> None:
    site = await start(limits={"unproven_payload_bytes": 16384})
    record = await site.assert_refused(await site.attempt(lie=Lie.REPLAYED_NONCE), "realm.challenge")
    inputs = record["inputs"]
    kept = {name: (await site.ask("GET", f"/audit/v1/payloads/{digest}")).status == 200 for name, digest in inputs.items()}
    assert kept == {"token": True, "attestation-result": True, "log.vmm": False}, "the log area is 64 KiB"


async def test_inputs_of_a_genuine_realm_are_kept_whatever_it_did(start: Starter) -> None:
    site = await start(limits={"unproven_payload_bytes": 1})
    record = await site.assert_refused(await site.attempt(lie=Lie.TAMPERED_KERNEL), "rim.mismatch")
    assert len(record["inputs"]) == 3
    for digest in record["inputs"].values():
        assert (await site.ask("GET", f"/audit/v1/payloads/{digest}")).status == 200


@pytest.mark.parametrize("column", ["jwk", "salt", "value"])
async def test_attack_key_swapped_in_the_database(site: Site, column: str) -> None:
    """Somebody who can write to the database lets an honest realm attest for his own key: the commitment gives him away."""
    thief = guest_key_of(new_key(KeyType.P256).public_key())
    offer = await site.offer()
    change = {"jwk": '{"kty":"EC"}', "salt": bytes(32), "value": bytes(64)}[column]
    if column == "jwk":
        change = str(thief.to_jwk()).replace("'", '"')
    async with site.store.database.writing() as session:
        await session.execute(text(f"UPDATE challenges SET {column} = :change"), {"change": change})
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    await site.assert_refused(answer, "challenge.altered", code="challenge-refused")
    assert await site.fetch() == SECRETS[VM]


async def test_large_bodies_are_not_decoded_on_the_event_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, parse = [], broker.parse_evidence

    def watched(*arguments):
        threads.append(threading.current_thread())
        return parse(*arguments)

    monkeypatch.setattr(broker, "parse_evidence", watched)
    assert await site.fetch() == SECRETS[VM]
    assert threads[0] is not threading.main_thread()
