"""Attacks on the verifier's answer, and verifiers that cannot answer: the first are refused, the second are nobody's fault but ours."""

import json

import pytest
from aiohttp import web

from kbs_rim.realm.failures import BrokerUnavailable
from kbs_rim.realm.guest_http import Patience, get_secret
from kbs_rim.reference_verifier.faults import EAR_FAULTS, Fault
from kbs_rim.reference_verifier.signing import SigningKey
from tests.broker_stage import SECRETS, Answer, Logs, Site, Starter, assert_says_nothing

VM = "qemu-kernel"
SESSION = "/challenge-response/v1/session/"
TOLERATED = {Fault.REALM_WARNING}
"""A realm without reference values is what an honest verifier reports here."""
LIES = {
    Fault.WRONG_NONCE: "verifier.nonce",
    Fault.MISSING_NONCE: "verifier.nonce",
    Fault.DUPLICATE_NONCE: "verifier.malformed",
    Fault.WRONG_KEY: "verifier.signature",
    Fault.ROTATED_KEY: "verifier.signature",
    Fault.ALG_NONE: "verifier.algorithm",
    Fault.ALG_HS256: "verifier.algorithm",
    Fault.STALE_IAT: "verifier.stale",
    Fault.FUTURE_IAT: "verifier.future",
    Fault.MISSING_REALM: "verifier.submods",
    Fault.EXTRA_SUBMOD: "verifier.submods",
    Fault.TRUSTEE_PROFILE: "verifier.profile",
    Fault.PLATFORM_WARNING: "verifier.status",
    Fault.CONTRAINDICATED: "verifier.status",
    Fault.BAD_CRYPTO: "verifier.submods",
    Fault.MALFUNCTION: "verifier.status",
    Fault.STATUS_ONLY: "verifier.status",
    Fault.OTHER_EVIDENCE: "verifier.evidence-mismatch",
    Fault.NO_ANNOTATED_EVIDENCE: "verifier.evidence-mismatch",
}


class Replayer:
    """Sits in front of the verifier and answers every session with the first result it saw."""

    def __init__(self) -> None:
        self.first: str | None = None

    @web.middleware
    async def replay(self, request: web.Request, handler) -> web.StreamResponse:
        response = await handler(request)
        if request.method != "POST" or not request.path.startswith(SESSION):
            return response
        document = json.loads(response.body)
        if self.first is None:
            self.first = document["result"]
        document["result"] = self.first
        return web.Response(body=json.dumps(document).encode(), headers={"Content-Type": response.headers["Content-Type"]})


async def test_attack_ear_of_another_session(start: Starter) -> None:
    """A genuine, fresh, affirming result about the same platform, replayed by whoever is between us and the verifier."""
    site = await start(verifier={"middlewares": [Replayer().replay]})
    assert await site.fetch() == SECRETS[VM]
    answer = await site.attempt()
    assert (answer.status, answer.code) == (403, "platform-refused")
    assert_says_nothing(answer)
    record = (await site.record(answer.document["ticket"]))["appraisal"]
    assert "verifier.nonce" in [finding["id"] for finding in record["findings"]]
    assert await site.count("releases") == 1


async def test_attack_ear_by_a_foreign_key(start: Starter) -> None:
    """Another verifier, with a key of its own, affirms everything; its discovery document even advertises that key."""
    site = await start(verifier={"signing_key": SigningKey.generate()})
    record = await site.assert_refused(await site.attempt(), "verifier.signature", code="platform-refused")
    assert "verifier.key-drift" in [finding["id"] for finding in record["findings"]]


@pytest.mark.parametrize("fault", LIES)
async def test_attack_dishonest_attestation_result(start: Starter, fault: Fault) -> None:
    site = await start(faults={fault})
    await site.assert_refused(await site.attempt(), LIES[fault], code="platform-refused")


def test_every_fault_of_a_result_is_tried() -> None:
    untried = set(EAR_FAULTS) - set(LIES) - TOLERATED - {Fault.INTEGER_STATUS}
    assert untried == set()


@pytest.mark.parametrize(
    "fault", sorted(TOLERATED | {Fault.INTEGER_STATUS, Fault.PROCESSING, Fault.HTTP_500_ONCE, Fault.SESSION_LOST_ONCE})
)
async def test_a_verifier_that_is_merely_odd_is_understood(start: Starter, fault: Fault) -> None:
    site = await start(faults={fault})
    assert await site.fetch() == SECRETS[VM]


async def test_attack_verifier_that_reads_another_platform_than_we_do(start: Starter) -> None:
    """What a doubly keyed token does to a lenient verifier: it affirms, and speaks of other claims than ours."""
    site = await start(faults={Fault.OTHER_EVIDENCE})
    record = await site.assert_refused(await site.attempt(), "verifier.evidence-mismatch", code="platform-refused")
    assert record["facts"]["instance_id"] == site.trust.stage.identity.instance_id.hex()


# --- verifiers that cannot answer -------------------------------------------------------------------------------------

OUTAGES = {
    "discovery fails": {"faults": {Fault.DISCOVERY_500}},
    "not ready": {"faults": {Fault.NOT_READY}},
    "500": {"faults": {Fault.HTTP_500}},
    "500 without a body": {"faults": {Fault.EMPTY_500}},
    "HTML": {"faults": {Fault.HTML_502}},
    "202 for ever": {"faults": {Fault.PROCESSING_FOREVER}},
    "silence": {"faults": {Fault.DELAY}, "verifier": {"delay_s": 30.0}},
    "failed session": {"faults": {Fault.SESSION_FAILED}},
    "lost session": {"faults": {Fault.SESSION_LOST}},
    "a session for another nonce": {"faults": {Fault.OTHER_SESSION_NONCE}},
    "no CCA": {"faults": {Fault.NO_CCA_MEDIA_TYPE}},
    "redirect": {"faults": {Fault.REDIRECT}},
    "an answer without end": {"faults": {Fault.OVERSIZED}},
    "nobody there": {"verifier_url": "http://127.0.0.1:9"},
    "no such host": {"verifier_url": "http://verifier.invalid"},
}


async def assert_unavailable(site: Site, answer: Answer) -> None:
    assert (answer.status, answer.code) == (503, "verifier-unavailable"), answer
    assert int(answer.headers["Retry-After"]) > 0
    assert set(answer.document) == {"type", "title", "status", "detail", "code", "request_id", "ticket"}
    [record] = await site.appraisals()
    assert record["verdict"] == "unavailable"
    assert [finding["id"] for finding in record["findings"]] == ["platform.not-judged"]
    assert (record["request_id"], record["id"]) == (answer.document["request_id"], answer.document["ticket"])
    assert set(record["inputs"]) == {"token", "log.vmm"}
    assert await site.appraisals(verdict="refused") == []
    assert await site.count("releases") == 0


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_verifier_that_cannot_answer_is_no_verdict_about_the_realm(start: Starter, logs: Logs, outage: str) -> None:
    site = await start(**{"verifier": {}, **OUTAGES[outage]}, verifying={"deadline_s": 0.6})
    await assert_unavailable(site, await site.attempt())
    [line] = logs.of("verifier unavailable")
    assert line["level"] == "error"
    assert line["reason"]
    assert logs.of("unhandled error") == []


async def test_not_even_a_hostile_realm_is_called_untrusted_while_the_verifier_is_down(start: Starter) -> None:
    site = await start(verifier_url="http://127.0.0.1:9")
    await assert_unavailable(site, await site.attempt(lie="tampered-kernel"))


async def test_the_guest_comes_again_until_the_verifier_is_back(start: Starter) -> None:
    """Its first exchange fails, it waits as long as it is told, and asks again with a new challenge."""
    down = [True]

    @web.middleware
    async def outage(request: web.Request, handler) -> web.StreamResponse:
        return web.Response(status=500) if down[0] else await handler(request)

    site = await start(verifier={"middlewares": [outage]}, verifying={"deadline_s": 1.0})
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        down[0] = False

    secret = await get_secret(site.exchange(), site.realm(), Patience(deadline_s=30, spread=lambda: 0.0, sleep=sleep))
    assert secret.value == SECRETS[VM]
    assert waits == [5.0]
    verdicts = [record["verdict"] for record in await site.appraisals()]
    assert verdicts == ["allowed", "unavailable"]


async def test_a_guest_without_patience_says_that_the_broker_was_not_available(start: Starter) -> None:
    site = await start(verifier_url="http://127.0.0.1:9")
    with pytest.raises(BrokerUnavailable):
        await get_secret(site.exchange(), site.realm(), Patience(deadline_s=2))
