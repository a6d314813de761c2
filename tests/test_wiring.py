"""Where the parts meet: what keeps a service from starting, what its settings do, and that nothing is left when it ends."""

import asyncio
import datetime
import ipaddress
import json
import socket
import ssl
import threading

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import text

from kbs_rim import wiring
from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.errors import ConfigurationError, OurFault, StoreUnavailable
from kbs_rim.reference_verifier.faults import Fault
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.settings import HttpSettings, InternalListenerSettings, Settings
from tests.broker_stage import SECRETS, Logs, Site, Starter, Trust, expect, settings_of

VM = "qemu-kernel"


def changed(settings: Settings, **sections) -> Settings:
    """The same settings with some values of some sections replaced."""
    updates = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=updates)


@pytest.fixture
def settings(trust: Trust, start: Starter) -> Settings:
    return settings_of(trust, start.default_url, "http://127.0.0.1:9")


async def refusal(settings: Settings, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        async with wiring.running(settings):
            pytest.fail("it started")
    return str(caught.value)


def left_over() -> tuple[list, list]:
    """Tasks, and threads of the appraisal that do not end by themselves."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("appraisal")]
    for thread in threads:
        thread.join(timeout=1)
    return tasks, [thread for thread in threads if thread.is_alive()]


# --- what keeps it from starting --------------------------------------------------------------------------------------


async def test_it_does_not_start_without_a_key_encryption_key(settings: Settings, tmp_path) -> None:
    assert "kek_file" in await refusal(changed(settings, secrets={"kek_file": None}), ConfigurationError)
    assert "kek_file" in await refusal(changed(settings, secrets={"kek_file": tmp_path / "none"}), ConfigurationError)
    short = tmp_path / "short"
    short.touch(0o600)
    short.write_bytes(b"x" * 31)
    assert "32 bytes" in await refusal(changed(settings, secrets={"kek_file": short}), ConfigurationError)
    readable = tmp_path / "readable"
    readable.write_bytes(bytes(32))
    readable.chmod(0o644)
    assert "chmod 600" in await refusal(changed(settings, secrets={"kek_file": readable}), ConfigurationError)


async def test_it_does_not_start_without_a_key_of_the_verifier(settings: Settings) -> None:
    assert "pinned_keys_files" in await refusal(changed(settings, verifier={"pinned_keys_files": ()}), ConfigurationError)


PINNED_KEYS_THAT_ARE_NONE = [
    "",
    "x",
    "[]",
    "{}",
    '{"keys": []}',
    '{"keys": {}}',
    '{"keys": [1]}',
    '{"kty": "oct", "k": "AAAA"}',
    '{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}',
]


async def test_it_does_not_start_with_pinned_keys_that_are_none(settings: Settings, tmp_path) -> None:
    file = tmp_path / "keys"
    for content in PINNED_KEYS_THAT_ARE_NONE:
        file.write_text(content)
        assert "pinned_keys_files" in await refusal(changed(settings, verifier={"pinned_keys_files": (file,)}), ConfigurationError), content
    assert left_over() == ([], [])


async def test_it_does_not_start_on_a_database_that_is_not_there_or_of_another_schema(settings: Settings, site: Site, tmp_path) -> None:
    missing = settings_of(site.trust, f"sqlite:///{tmp_path / 'missing.db'}", "http://127.0.0.1:9")
    await refusal(missing, StoreUnavailable)
    async with site.store.database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    assert "schema" in await refusal(settings, StoreUnavailable)


async def test_a_port_that_is_taken_is_our_fault_and_leaves_nothing_behind(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for http in (
            HttpSettings(guest=settings.http.guest.model_copy(update={"listen": listen}), internal=settings.http.internal),
            HttpSettings(guest=settings.http.guest, internal=InternalListenerSettings(listen=listen)),
        ):
            assert "cannot listen" in await refusal(settings.model_copy(update={"http": http}), OurFault)
    assert left_over() == ([], [])


async def test_published_keys_and_discovery_over_http_need_test_mode(settings: Settings) -> None:
    assert "test_mode" in await refusal(changed(settings, verifier={"allow_published_keys": True}), ConfigurationError)
    assert "http" in await refusal(changed(settings, verifier={"trust_discovery_key": True}), ConfigurationError)


# --- what the settings do ---------------------------------------------------------------------------------------------


async def test_dangerous_settings_are_shouted_at_every_start_and_shown_as_metrics(start: Starter, logs: Logs) -> None:
    site = await start(service={"test_mode": True}, secrets={"legacy_rsa1_5": True})
    warnings = [line["event"] for line in logs.lines if line["level"] == "warning"]
    assert any("test_mode" in event for event in warnings)
    assert any("legacy_rsa1_5" in event for event in warnings)
    metrics = (await site.ask("GET", "/metrics", who=None)).body
    assert b"kbs_rim_test_mode_enabled 1.0" in metrics
    assert b"kbs_rim_legacy_rsa1_5_enabled 1.0" in metrics


async def test_a_jwks_pins_each_of_its_keys(start: Starter, trust: Trust, tmp_path) -> None:
    file = tmp_path / "jwks"
    file.write_text(json.dumps({"keys": [SigningKey.generate().public_jwk(), trust.stage.signing_key.public_jwk()]}))
    site = await start(verifying={"pinned_keys_files": (file,)})
    assert await site.fetch() == SECRETS[VM]


async def test_a_key_of_the_discovery_document_is_trusted_only_by_choice_and_with_a_warning(start: Starter) -> None:
    site = await start(verifying={"pinned_keys_files": (), "trust_discovery_key": True}, service={"test_mode": True})
    assert await site.fetch() == SECRETS[VM]
    [record] = await site.appraisals()
    assert "verifier.discovery-key" in [finding["id"] for finding in record["findings"]]


@pytest.mark.parametrize(
    ("choice", "finding"),
    [
        ({"developer": "Veraison Project"}, "verifier.identity"),
        ({"profiles": ("tag:example.org,2026:other",)}, "verifier.profile"),
        ({"algorithms": ("ES384",)}, "verifier.algorithm"),
        ({"realm_statuses": ("affirming",)}, "verifier.realm-status"),
        ({"appraisal_policy_ids": ("policy:other",)}, "verifier.policy-id"),
    ],
)
async def test_what_is_demanded_of_a_verifier_is_what_the_configuration_says(start: Starter, choice: dict, finding: str) -> None:
    site = await start(verifying=choice)
    await site.assert_refused(await site.attempt(), finding, code="platform-refused")


async def test_the_age_of_a_result_is_what_the_configuration_says(start: Starter) -> None:
    site = await start(faults={Fault.STALE_IAT}, verifying={"max_age_s": 86400, "skew_s": 600})
    await site.assert_refused(await site.attempt(), "verifier.stale")


LIMITS = {
    "token_bytes": (100, "token.too-large"),
    "vmm_log_bytes": (1000, "log.too-large"),
    "image_records": (1, "plan.image"),
    "cbor_items": (5, "cbor.items"),
    "recs": (1, None),
    "attestation_result_bytes": (100, "verifier.malformed"),
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_limits_of_the_configuration_are_those_that_hold(start: Starter, limit: str) -> None:
    value, finding = LIMITS[limit]
    site = await start(limits={limit: value})
    answer = await site.attempt()
    if finding is None:
        assert answer.status == 200
    else:
        await site.assert_refused(answer, finding)


async def test_the_limit_of_the_verifiers_answers_holds(start: Starter) -> None:
    site = await start(limits={"verifier_response_bytes": 300})
    answer = await site.attempt()
    assert (answer.status, answer.code) == (503, "verifier-unavailable")


async def test_the_limit_of_bodies_holds_on_both_listeners(start: Starter) -> None:
    site = await start(limits={"body_bytes": 1000, "key_request_bytes": 50, "admin_body_bytes": 60})
    assert (await site.request_key(site.exchange())).status == 413
    assert (await site.ask("POST", "/admin/v1/images", {"name": "x" * 100})).status == 413


async def test_a_replaced_key_encryption_key_still_opens_what_the_old_one_wrapped(start: Starter, trust: Trust, tmp_path) -> None:
    newer = tmp_path / "newer"
    generate_key_file(newer)
    site = await start(secrets={"kek_file": newer, "previous_kek_files": (trust.kek_file,)})
    assert await site.fetch() == SECRETS[VM]
    path = f"/admin/v1/secrets/vault/disk/{VM}"
    versions = (await expect(site, 201, "POST", f"{path}/versions", {"value": "bmV3ZXI"})).document["versions"]
    assert versions[0]["kek_id"] != versions[1]["kek_id"]
    assert await site.fetch() == b"newer"


async def test_tls_is_spoken_where_a_certificate_is_given(start: Starter, settings: Settings, trust: Trust, tmp_path) -> None:
    certificate, key = self_signed(tmp_path)
    tls = {"tls_certificate_file": certificate, "tls_key_file": key}
    http = HttpSettings(
        guest=settings.http.guest.model_copy(update=tls), internal=InternalListenerSettings(listen="127.0.0.1:0").model_copy(update=tls)
    )
    context = ssl.create_default_context(cafile=certificate)
    async with wiring.running(settings.model_copy(update={"http": http})) as service, aiohttp.ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{service.internal_address[1]}/healthz", ssl=context) as answer:
            assert answer.status == 200
        url = f"https://127.0.0.1:{service.guest_address[1]}/keys/v1/key/x"
        async with session.post(url, data=b"{}", headers={"Content-Type": "application/json"}, ssl=context) as answer:
            assert answer.status == 400
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{service.internal_address[1]}/healthz")


def self_signed(folder) -> tuple:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kbs_rim test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(private)
    return folder / "tls.crt", folder / "tls.key"


# --- while it runs, and when it ends ----------------------------------------------------------------------------------


async def test_old_challenges_are_forgotten_and_an_outage_of_the_database_is_waited_out(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "PURGE_INTERVAL_S", 0.02)
    monkeypatch.setattr(wiring, "PURGE_AGE", datetime.timedelta(0))
    site = await start()
    site.clock.advance(-3600)  # issued an hour ago
    await site.offer()
    site.clock.advance(3600)
    await site.offer()
    await until(lambda: site.count("challenges"), 1)
    async with site.store.database.writing() as session:
        await session.execute(text("ALTER TABLE challenges RENAME TO hidden"))
    await asyncio.sleep(0.08)
    async with site.store.database.writing() as session:
        await session.execute(text("UPDATE hidden SET expires_at = '2020-01-01 00:00:00.000000'"))
        await session.execute(text("ALTER TABLE hidden RENAME TO challenges"))
    await until(lambda: site.count("challenges"), 0)


async def until(ask, expected: int) -> None:
    for _ in range(250):
        if await ask() == expected:
            return
        await asyncio.sleep(0.02)
    assert await ask() == expected


async def test_nothing_is_left_when_it_ends(start: Starter) -> None:
    site = await start()
    before, _ = left_over()
    async with wiring.running(site.settings) as service:
        site.services[0] = service
        assert await site.fetch() == SECRETS[VM]
    tasks, threads = left_over()
    own = [task for task in tasks if task not in before]
    assert [task for task in own if "purge" in repr(task) or "verifier" in task.get_name()] == []
    assert threads == []


async def test_an_end_right_after_the_start_leaves_no_statement_behind(settings: Settings) -> None:
    """The first purge is under way when the end comes: it is finished, or its connection would outlive the event loop."""
    for _ in range(5):
        async with wiring.running(settings):
            pass
        workers = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
        for worker in workers:
            worker.join(timeout=1)
        assert [worker for worker in workers if worker.is_alive()] == []


async def test_a_purge_that_hangs_does_not_hold_up_the_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_args: object) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(wiring, "STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr("kbs_rim.adapters.db.challenges.Challenges.purge", hang)
    async with asyncio.timeout(3), wiring.running(settings):
        await asyncio.sleep(0)
    assert left_over() == ([], [])


async def test_ports_are_told_as_they_are(settings: Settings) -> None:
    async with wiring.running(settings) as service:
        assert service.guest_address[0] == service.internal_address[0] == "127.0.0.1"
        assert service.guest_address[1] not in (0, service.internal_address[1])
