"""The broker itself, on a real database, with verifiers that do what no real one should: stages, places, cancellation, crashes."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from stage import Stage, endorsements_of

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.errors import NotFound, OurFault, RefusedKey, VerifierUnavailable
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, encode_evidence_json
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.ports import AppraisalFilter, Challenge, VerifierAnswer
from kbs_rim.realm.guest import KeyType, new_key
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.reference_verifier.app import ear_claims
from kbs_rim.reference_verifier.trust_vectors import appraise_token
from kbs_rim.sealing.guest_key import commitment, guest_key_of
from kbs_rim.sealing.jwe import open_jwe
from kbs_rim.services import broker as broker_module
from kbs_rim.services.broker import Broker, BrokerPolicy, BrokerStores, BusyError, RefusedError
from kbs_rim.services.secrets import ReleaseVault
from tests.broker_stage import SECRETS, OffsetClock, Trust

VM = "qemu-kernel"


class Verifier:
    """Judges like the reference verifier, after ``before`` had its way."""

    def __init__(self, stage: Stage, before: Callable | None = None) -> None:
        self.stage, self.before = stage, before
        self.cancelled = 0

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        try:
            if self.before is not None:
                await self.before()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        at = int(OffsetClock().now().timestamp())
        submods = appraise_token(
            token, challenge, endorsements_of(self.stage.identity), at=at, allow_test_keys=False, limits=DEFAULT_LIMITS
        )
        result = self.stage.signing_key.sign(ear_claims(submods, challenge, at=at))
        return VerifierAnswer(attestation_result=result, discovery_keys=(), verifier="here", duration_us=1)


class Bench:
    """A broker on a furnished database, and what a guest needs."""

    def __init__(self, trust: Trust, store: Store, before: Callable | None = None, **policy) -> None:
        self.trust, self.store, self.clock = trust, store, OffsetClock()
        self.observed: list[str] = []
        self.verifier = Verifier(trust.stage, before)
        self.key = new_key(KeyType.P256)
        key = EarKey.from_jwk(trust.stage.signing_key.public_jwk())
        usual = {"limits": DEFAULT_LIMITS, "challenge_lifetime": timedelta(seconds=60), "config_digest": "c0ffee", "software": "a test"}
        self.broker = Broker(
            stores=BrokerStores(trust=store.trust, images=store.images, challenges=store.challenges, records=store.records),
            vault=ReleaseVault(store.opener, LocalKeyEncryptionKey.from_files([trust.kek_file])),
            verifier=self.verifier,
            policy=BrokerPolicy(ear_policy=EarPolicy(keys=(key,)), **{**usual, **policy}),
            clock=self.clock,
            entropy=os.urandom,
            observe=lambda stage, _seconds: self.observed.append(stage),
        )
        self.realm = SimulatedRealm(trust.stage.simulation())

    async def issue(self, name: str = VM, jwk: dict | None = None) -> Challenge:
        return await self.broker.issue_challenge(name, jwk or guest_key_of(self.key.public_key()).to_jwk())

    async def release(self, challenge: Challenge | None = None):
        challenge = challenge or await self.issue()
        body = encode_evidence_json(self.realm.evidence(challenge.value))
        return await self.broker.release(challenge.id, EVIDENCE_JSON_TYPE, body, request_id="r1")

    async def records(self):
        return await self.store.record_reader.list_appraisals(AppraisalFilter())


@pytest.fixture
async def bench(trust: Trust, start):
    store = open_store(start.default_url)
    yield lambda before=None, **policy: Bench(trust, store, before, **policy)
    await store.close()


async def test_a_challenge_commits_to_the_key_and_lives_as_long_as_configured(bench) -> None:
    here = bench()
    challenge = await here.issue()
    key = guest_key_of(here.key.public_key())
    assert challenge.value == commitment(challenge.salt, key.thumbprint)
    assert challenge.expires_at - challenge.issued_at == timedelta(seconds=60)
    assert (len(challenge.id), len(challenge.salt), len(challenge.value)) == (48, 32, 64)
    assert dict(challenge.jwk) == key.to_jwk(), "with the algorithm that was asked for"
    other = await here.issue()
    assert (other.id, other.salt, other.value) != (challenge.id, challenge.salt, challenge.value)


async def test_attack_names_that_no_database_holds_take_no_places(bench) -> None:
    """Such a request costs nothing, and would have kept a place for as long as a challenge lives."""
    here = bench(max_outstanding=1)
    for _ in range(3):
        with pytest.raises(NotFound):
            await here.issue("a name\0")
    assert await here.issue()


async def test_no_challenge_for_a_key_that_nothing_may_be_sealed_to(bench) -> None:
    with pytest.raises(RefusedKey):
        await bench().issue(jwk={"kty": "oct", "k": "AAAA"})


async def test_the_stages_of_a_release_are_measured_in_order(bench) -> None:
    here = bench()
    release = await here.release()
    assert open_jwe(here.key, release.sealed.value) == SECRETS[VM]
    assert [stage for stage in here.observed if stage not in ("log", "verifier")] == ["read", "registry", "appraise", "record", "seal"]
    assert {"log", "verifier"} < set(here.observed)
    [record] = await here.records()
    assert (record.config_digest, record.software, record.request_id) == ("c0ffee", "a test", "r1")
    assert record.facts["verifier"] == "here"
    assert all(duration >= 0 for duration in record.durations_us.values())


async def test_log_and_verifier_work_at_the_same_time(bench, monkeypatch) -> None:
    """The verifier waits for the log to be read: if they took turns, neither would ever end."""
    read = asyncio.Event()
    here = bench(read.wait)
    loop = asyncio.get_running_loop()
    real = broker_module.read_log

    def reading(*args):
        loop.call_soon_threadsafe(read.set)
        return real(*args)

    monkeypatch.setattr(broker_module, "read_log", reading)
    async with asyncio.timeout(5):
        await here.release()


# --- places -----------------------------------------------------------------------------------------------------------


async def test_a_busy_broker_spends_no_challenge_and_writes_no_record(bench) -> None:
    opened, waiting = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        waiting.set()
        await opened.wait()

    here = bench(hold, max_concurrent=1)
    first = asyncio.create_task(here.release())
    await waiting.wait()
    challenge = await here.issue()
    with pytest.raises(BusyError):
        await here.release(challenge)
    opened.set()
    await first
    await here.release(challenge)
    assert len(await here.records()) == 2


async def test_a_cancelled_release_gives_its_place_back_and_stops_asking(bench) -> None:
    waiting = asyncio.Event()

    async def hang() -> None:
        waiting.set()
        await asyncio.Event().wait()

    here = bench(hang, max_concurrent=1)
    task = asyncio.create_task(here.release())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert here.verifier.cancelled == 1, "the question is not left behind"
    here.verifier.before = None
    await here.release()
    assert [record.verdict.value for record in await here.records()] == ["allowed"]


# --- crashes ----------------------------------------------------------------------------------------------------------


def crashing(error: BaseException):
    async def crash() -> None:
        raise error

    return crash


async def test_a_verifier_client_with_a_bug_releases_nothing(bench) -> None:
    here = bench(crashing(ZeroDivisionError()), max_concurrent=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await here.release()
    assert await here.records() == []


async def test_a_slow_question_ends_with_the_exchange_that_asked_it(bench, monkeypatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    here = bench(hang)
    monkeypatch.setattr(broker_module, "read_log", lambda *_args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await here.release()
    assert here.verifier.cancelled == 1
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_an_outage_of_the_verifier_is_recorded_as_one(bench) -> None:
    here = bench(crashing(VerifierUnavailable("down", retry_after_s=7)))
    with pytest.raises(VerifierUnavailable) as caught:
        await here.release()
    assert caught.value.retry_after_s == 7
    [record] = await here.records()
    assert (record.verdict.value, record.finding_ids) == ("unavailable", ("platform.not-judged",))


async def test_a_stage_that_was_skipped_is_our_fault_and_not_a_release(bench, monkeypatch) -> None:
    """Also under ``python -O``, where assertions are gone."""
    here = bench()

    async def nothing(_attempt: object) -> None:
        return

    monkeypatch.setattr(here.broker, "_consult", nothing)
    with pytest.raises(OurFault):
        await here.release()


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_tells_the_caller_code_ticket_and_findings_only(bench) -> None:
    here = bench()
    challenge = await here.issue()
    with pytest.raises(RefusedError) as refused:
        await here.broker.release(challenge.id, "text/plain", b"junk")
    error = refused.value
    assert (error.code, error.finding_ids) == ("evidence-malformed", ("envelope.media-type", "platform.not-judged"))
    assert str(error) == f"evidence-malformed ({error.ticket})"
    [record] = await here.records()
    assert record.id == error.ticket


async def test_the_code_is_that_of_the_earliest_step(bench) -> None:
    """Several things are wrong; the guest is told the first in the order of the appraisal, whichever was found first."""
    here = bench()
    challenge = await here.issue("no-such-secret")
    here.realm = SimulatedRealm(here.trust.stage.simulation(lie="pc-off-entry"))
    with pytest.raises(RefusedError) as refused:
        await here.release(challenge)
    assert {"boot.entry-point", "policy.no-workload", "request.secret-unknown"} & set(refused.value.finding_ids)
    assert refused.value.code == "not-authorized", "no workload was judged, so nothing of the boot plan was"


@pytest.mark.parametrize("member", ["jwk", "salt", "value"])
async def test_attack_challenge_whose_key_was_swapped_in_the_database(bench, member: str) -> None:
    """Who can write to the database puts his own key into an open challenge: it does not commit to that key."""
    here = bench()
    challenge = await here.issue()
    other = guest_key_of(new_key(KeyType.P256).public_key()).to_jwk()
    forged = {"jwk": other, "salt": bytes(32), "value": bytes(64)}[member]
    redeemed = replace(challenge, **{member: forged})

    async def redeem(*_args: object) -> Challenge:
        return redeemed

    here.broker._stores = replace(here.broker._stores, challenges=type("Stub", (), {"redeem": staticmethod(redeem)})())
    with pytest.raises(RefusedError) as refused:
        await here.release(challenge)
    assert refused.value.finding_ids == ("challenge.altered",)
    [record] = await here.records()
    assert record.verdict.value == "refused"
