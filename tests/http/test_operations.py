"""Health, readiness, metrics, the cap on work at once, and ending in good order."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from kbs_rim import __version__, wiring
from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.errors import KeyUnavailable
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, encode_evidence_json
from kbs_rim.reference_verifier.faults import Fault
from kbs_rim.reference_verifier.signing import SigningKey
from tests.broker_stage import SECRETS, Logs, Site, Starter, Trust

VM = "qemu-kernel"
GOOD = {"database": "ok", "verifier": "ok", "keys": "ok"}


async def readiness(site: Site) -> tuple[int, dict]:
    answer = await site.ask("GET", "/readyz", who=None)
    return answer.status, answer.document["checks"]


# --- health and readiness ---------------------------------------------------------------------------------------------


async def test_a_good_replica_is_ready(site: Site) -> None:
    assert await readiness(site) == (200, GOOD)
    answer = await site.ask("GET", "/healthz", who=None)
    assert (answer.status, answer.document) == (200, {"status": "ok", "version": __version__})


async def test_not_ready_without_the_database_and_healthy_all_the_same(site: Site) -> None:
    async with site.store.database.writing() as session:
        await session.execute(text("DROP TABLE registry_state"))
    assert await readiness(site) == (503, {**GOOD, "database": "unavailable"})
    assert (await site.ask("GET", "/healthz", who=None)).status == 200


async def test_not_ready_on_another_schema(site: Site) -> None:
    async with site.store.database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    status, checks = await readiness(site)
    assert (status, checks["database"]) == (503, "unavailable")


async def test_not_ready_without_the_verifier(start: Starter) -> None:
    site = await start(verifier_url="http://127.0.0.1:9")
    assert await readiness(site) == (503, {**GOOD, "verifier": "unavailable"})


async def test_not_ready_while_the_verifier_says_that_it_is_not(start: Starter) -> None:
    site = await start(faults={Fault.NOT_READY})
    assert await readiness(site) == (503, {**GOOD, "verifier": "unavailable"})


async def test_not_ready_with_a_verifier_whose_key_is_not_pinned(start: Starter, trust: Trust, tmp_path: Path) -> None:
    """It answers, and every realm would be refused with verifier.signature."""
    other = tmp_path / "other.jwk"
    other.write_text(json.dumps(SigningKey.generate().public_jwk()))
    site = await start(verifying={"pinned_keys_files": (other,)})
    assert await readiness(site) == (503, {**GOOD, "verifier": "its key is not pinned"})


async def test_ready_while_one_of_the_pinned_keys_is_advertised(start: Starter, trust: Trust, tmp_path: Path) -> None:
    """A rotation: the next key is pinned already."""
    next_key = tmp_path / "next.jwk"
    next_key.write_text(json.dumps(SigningKey.generate().public_jwk()))
    site = await start(verifying={"pinned_keys_files": (next_key, trust.pinned_key_file)})
    assert await readiness(site) == (200, GOOD)


async def test_not_ready_without_the_keys(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object) -> bytes:
        raise KeyUnavailable("the key store at 10.0.0.7 does not answer")

    monkeypatch.setattr("kbs_rim.adapters.secrets.local_kek.LocalKeyEncryptionKey.wrap", broken)
    assert await readiness(site) == (503, {**GOOD, "keys": "unavailable"})


async def test_not_ready_with_keys_that_do_not_fit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(*_args: object) -> bytes:
        return bytes([1]) * 32

    monkeypatch.setattr("kbs_rim.adapters.secrets.local_kek.LocalKeyEncryptionKey.unwrap", other)
    assert await readiness(site) == (503, {**GOOD, "keys": "unavailable"})


async def test_a_dependency_that_hangs_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_args: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr("kbs_rim.services.readiness._CHECK_TIMEOUT_S", 0.05)
    monkeypatch.setattr("kbs_rim.adapters.secrets.local_kek.LocalKeyEncryptionKey.wrap", silent)
    assert await readiness(site) == (503, {**GOOD, "keys": "no answer in time"})


async def test_readiness_tells_no_addresses(start: Starter) -> None:
    site = await start(verifier_url="http://127.0.0.1:9")
    answer = await site.ask("GET", "/readyz", who=None)
    assert b"127.0.0.1" not in answer.body
    assert b"sqlite" not in answer.body


# --- metrics ----------------------------------------------------------------------------------------------------------


async def samples(site: Site) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await site.ask("GET", "/metrics", who=None)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.body.decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def of(found: dict, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


async def test_metrics_count_what_happened(site: Site) -> None:
    assert await site.fetch() == SECRETS[VM]
    await site.attempt(lie="pc-off-entry")
    await site.attempt(lie="tampered-kernel")
    found = await samples(site)
    assert of(found, "kbs_rim_verdicts_total", outcome="released") == 1
    assert of(found, "kbs_rim_verdicts_total", outcome="boot-plan-refused") == 1
    assert of(found, "kbs_rim_verdicts_total", outcome="measurement-refused") == 1
    assert of(found, "kbs_rim_findings_total", finding="rim.mismatch") == 1
    assert of(found, "kbs_rim_http_requests_total", route="/keys/v1/evidence/{challenge}", method="POST", status="403") == 2
    assert of(found, "kbs_rim_appraisal_stage_seconds_count", stage="seal") == 1
    assert of(found, "kbs_rim_appraisal_stage_seconds_count", stage="appraise") == 3
    assert of(found, "kbs_rim_test_mode_enabled") == 0


async def test_labels_never_come_from_a_request(site: Site) -> None:
    """Names, paths and methods that strangers choose must not make new time series."""
    before = set(await samples(site))
    for number in range(10):
        await site.call(
            "POST", f"{site.guest_url()}/keys/v1/key/stranger-{number}", data=b"{}", headers={"Content-Type": "application/json"}
        )
        await site.call("GET", f"{site.guest_url()}/stranger-{number}")
        await site.call("PROPFIND", f"{site.guest_url()}/keys/v1/key/x")
        await site.send(await site.offer(site.exchange(f"s{number}")), b"x", f"text/stranger-{number}")
    after = set(await samples(site))
    shown = repr(after - before)
    assert "stranger" not in shown
    assert len({labels for name, labels in after - before if name == "kbs_rim_http_requests_total"}) <= 6
    outcomes = {dict(labels)["outcome"] for name, labels in after if name == "kbs_rim_verdicts_total"}
    assert outcomes <= {entry.code for entry in CATALOGUE.values()} | {"released", "busy", "verifier-unavailable", "unavailable"}


# --- the cap on work at once ------------------------------------------------------------------------------------------


class Gate:
    """Holds the verifier's answers back until it is opened."""

    def __init__(self) -> None:
        self.opened, self.waiting = asyncio.Event(), asyncio.Event()

    @web.middleware
    async def hold(self, request: web.Request, handler) -> web.StreamResponse:
        if request.method == "POST" and "/session/" in request.path:
            self.waiting.set()
            await self.opened.wait()
        return await handler(request)


async def test_one_more_than_may_run_at_once_is_told_to_come_again(start: Starter) -> None:
    gate = Gate()
    site = await start(verifier={"middlewares": [gate.hold]}, appraisal={"max_concurrent": 1})
    first, second = await site.offer(), await site.offer()
    realm = site.realm()
    running = asyncio.create_task(site.submit(first, realm.evidence(first.challenge)))
    await gate.waiting.wait()
    busy = await site.submit(second, realm.evidence(second.challenge))
    assert (busy.status, busy.code) == (503, "busy")
    assert int(busy.headers["Retry-After"]) >= 1
    gate.opened.set()
    assert (await running).status == 200
    again = await site.submit(second, realm.evidence(second.challenge))
    assert again.status == 200, "being busy spent nothing"
    assert of(await samples(site), "kbs_rim_verdicts_total", outcome="busy") == 1
    assert await site.count("appraisals") == 2, "and left no record"


async def test_places_are_given_back_whatever_happens(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals, outages and bugs: after more of each than there are places, an honest guest is served."""
    site = await start(appraisal={"max_concurrent": 2})
    for _ in range(3):
        await site.attempt(lie="tampered-kernel")
        await site.send(await site.offer(), b"junk", "text/plain")
        await site.call("POST", f"{site.guest_url()}/keys/v1/evidence/{'0' * 48}", data=b"{}", headers={"Content-Type": EVIDENCE_JSON_TYPE})
    with monkeypatch.context() as patch:
        patch.setattr("kbs_rim.services.broker.parse_cca_token", lambda *_args: 1 / 0)
        for _ in range(3):
            assert (await site.attempt()).status == 500
    assert await site.fetch() == SECRETS[VM]


async def test_guests_that_hang_up_give_their_places_back(start: Starter) -> None:
    gate = Gate()
    site = await start(verifier={"middlewares": [gate.hold]}, appraisal={"max_concurrent": 1})
    offer = await site.offer()
    body = encode_evidence_json(site.realm().evidence(offer.challenge))
    hanging = asyncio.create_task(site.send(offer, body, EVIDENCE_JSON_TYPE))
    await gate.waiting.wait()
    hanging.cancel()
    gate.opened.set()
    for _ in range(50):
        answer = await site.attempt()
        if answer.status == 200:
            break
        assert answer.code == "busy"
        await asyncio.sleep(0.02)
    assert answer.status == 200


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_request_in_flight_is_finished_before_the_end(start: Starter, logs: Logs) -> None:
    gate = Gate()
    site = await start(verifier={"middlewares": [gate.hold]}, service={"shutdown_timeout_s": 10})
    async with wiring.running(site.settings) as service:
        site.services[0] = service
        exchange = site.exchange()
        offer = await site.offer(exchange)
        running = asyncio.create_task(site.submit(offer, site.realm().evidence(offer.challenge)))
        await gate.waiting.wait()
        asyncio.get_running_loop().call_later(0.3, gate.opened.set)
    answer = await running
    assert exchange.read_secret(answer.body).value == SECRETS[VM]
    assert await site.count("releases") == 1
    host, port = service.guest_address
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection(host, port)
    assert logs.of("unhandled error") == []


async def test_a_request_that_takes_for_ever_does_not_hold_up_the_end(start: Starter) -> None:
    gate = Gate()
    site = await start(verifier={"middlewares": [gate.hold]}, service={"shutdown_timeout_s": 1}, verifying={"deadline_s": 60})
    async with asyncio.timeout(8):
        async with wiring.running(site.settings) as service:
            site.services[0] = service
            offer = await site.offer()
            running = asyncio.create_task(site.submit(offer, site.realm().evidence(offer.challenge)))
            await gate.waiting.wait()
        with pytest.raises(aiohttp.ClientError):
            await running
    gate.opened.set()
    assert await site.count("releases") == 0


async def test_the_configuration_is_logged_by_its_digest_alone(site: Site, logs: Logs) -> None:
    [line] = logs.of("serving")
    assert line["config_digest"] == site.settings.digest()
    assert line["version"] == __version__
    assert str(site.trust.kek_file) not in logs.text


async def test_every_request_leaves_one_line_with_its_id(site: Site, logs: Logs) -> None:
    answer = await site.ask("GET", "/admin/v1/images")
    [line] = [line for line in logs.of("request") if line["request_id"] == answer.headers["X-Request-Id"]]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/admin/v1/images", 200)
    for proposed in ("short", "x" * 65, "with blank in it", "<script>alert(1)</script>", "ünïcödé!"):
        answer = await site.ask("GET", "/healthz", who=None, headers={"X-Request-Id": proposed})
        assert answer.headers["X-Request-Id"] != proposed
    assert "script" not in json.dumps([line.get("request_id") for line in logs.of("request")])
