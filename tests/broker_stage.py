"""The real thing on loopback: a broker with both its listeners, a verifier process's application, databases, simulated realms.

Everything is started by ``kbs_rim.wiring``; tests that need a broken part put it in where wiring takes it from. What a guest
does is done by the guest's own code. One folder of trust (platform, keys, a furnished SQLite file) is made for the whole run.
"""

import asyncio
import base64
import io
import json
import logging
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web
from multidict import CIMultiDictProxy
from sqlalchemy import text
from stage import KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, ROLES, Stage, Vm, endorsements_of

from kbs_rim import wiring
from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.appraisal.finding_catalogue import ENTRIES
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, encode_evidence_json
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import measure_image
from kbs_rim.observability import configure_logging
from kbs_rim.ports import PrincipalRole
from kbs_rim.realm.guest import KEY_REQUEST_TYPE, Exchange, KeyType, Offer, new_key
from kbs_rim.realm.guest_http import Patience, get_secret
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.reference_verifier.app import Settings as VerifierOptions
from kbs_rim.reference_verifier.app import make_app
from kbs_rim.services.principals import Principals
from kbs_rim.settings import (
    AppraisalSettings,
    ChallengeSettings,
    DatabaseSettings,
    GuestListenerSettings,
    HttpSettings,
    InternalListenerSettings,
    SecretsSettings,
    ServiceSettings,
    Settings,
    VerifierSettings,
)

VMS: dict[str, Vm] = {"qemu-kernel": QEMU_KERNEL, "qemu-firmware": QEMU_FIRMWARE, "kvmtool-kernel": KVMTOOL_KERNEL}
SECRETS = {name: f"the disk key of {name} <\u00df> 8b1f".encode() + b"\x00\xfe" for name in VMS}
GUEST_CODES = {entry.code for entry in ENTRIES}
QUICK = Patience(deadline_s=10, spread=lambda: 0.0)
_TABLES = ("appraisals", "releases", "challenges")


class OffsetClock:
    """The machine's clock plus what a test adds: the verifier beside us goes by the machine's."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def document(self):
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.document["code"]


@dataclass(frozen=True)
class Trust:
    """What all sites of a run share: one platform, the verifier's key, the key-encryption key, two bearer tokens."""

    folder: Path
    stage: Stage
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def kek_file(self) -> Path:
        return self.folder / "kek"

    @property
    def pinned_key_file(self) -> Path:
        return self.folder / "verifier.jwk"

    @property
    def database(self) -> Path:
        return self.folder / "furnished.db"


class Site:
    """One or more replicas of a broker on one database, seen from outside. Calls go to the first replica unless told."""

    def __init__(self, trust: Trust, settings: Settings, store: Store, session: aiohttp.ClientSession, clock: OffsetClock) -> None:
        self.trust, self.settings, self.store, self.session, self.clock = trust, settings, store, session, clock
        self.services: list[wiring.Service] = []
        self.seen: list[bytes] = []

    # --- callers ------------------------------------------------------------------------------------------------------

    def guest_url(self, replica: int = 0) -> str:
        return "http://{}:{}".format(*self.services[replica].guest_address)

    def internal_url(self, replica: int = 0) -> str:
        return "http://{}:{}".format(*self.services[replica].internal_address)

    async def call(self, method: str, url: str, **options) -> Answer:
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])  # aiohttp warns of large bodies in one piece
        async with self.session.request(method, url, allow_redirects=False, **options) as response:
            answer = Answer(response.status, response.headers, await response.read())
        self.seen.append(repr(answer).encode() + answer.body)
        return answer

    async def ask(self, method: str, path: str, document=None, *, who: str | None = "admin", replica: int = 0, **options) -> Answer:
        """Call the internal listener as ``admin``, ``auditor`` or nobody."""
        headers = dict(options.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.trust.tokens.get(who, who)}"
        return await self.call(method, self.internal_url(replica) + path, json=document, headers=headers, **options)

    async def get(self, path: str, **options):
        answer = await self.ask("GET", path, **options)
        assert answer.status == 200, answer
        return answer.document

    # --- guests -------------------------------------------------------------------------------------------------------

    def realm(self, vm: str = "qemu-kernel", **simulated) -> SimulatedRealm:
        stage = replace(self.trust.stage, vm=VMS[vm])
        return SimulatedRealm(stage.simulation(**simulated))

    def exchange(self, name: str = "qemu-kernel", private_key=None, *, replica: int = 0) -> Exchange:
        return Exchange(self.guest_url(replica), name, private_key or new_key(KeyType.P256))

    async def fetch(self, vm: str = "qemu-kernel", *, key: KeyType = KeyType.P256, replica: int = 0, **simulated) -> bytes:
        """A whole exchange by the guest's own client; returns the secret's value."""
        return (await get_secret(self.exchange(vm, new_key(key), replica=replica), self.realm(vm, **simulated), QUICK)).value

    async def request_key(self, exchange: Exchange) -> Answer:
        return await self.call("POST", exchange.request_url, data=exchange.key_request(), headers={"Content-Type": KEY_REQUEST_TYPE})

    async def offer(self, exchange: Exchange | None = None) -> Offer:
        """First leg: a challenge that the guest's code accepted."""
        exchange = exchange or self.exchange()
        answer = await self.request_key(exchange)
        assert answer.status == 201, answer
        return exchange.read_offer(answer.headers["Location"], answer.body)

    async def submit(self, offer: Offer, evidence: Evidence, *, replica: int = 0) -> Answer:
        """Second leg, on any replica."""
        return await self.send(offer, encode_evidence_json(evidence), EVIDENCE_JSON_TYPE, replica=replica)

    async def send(self, offer: Offer, body, media_type: str, *, replica: int = 0, **options) -> Answer:
        url = self.guest_url(replica) + offer.location[offer.location.index("/keys/") :]
        headers = {"Content-Type": media_type, **options.pop("headers", {})}
        return await self.call("POST", url, data=body, headers=headers, **options)

    async def attempt(self, vm: str = "qemu-kernel", *, evidence: Evidence | None = None, **simulated) -> Answer:
        """Both legs, and the raw answer to the second."""
        offer = await self.offer(self.exchange(vm))
        return await self.submit(offer, evidence or self.realm(vm, **simulated).evidence(offer.challenge))

    # --- what is on record --------------------------------------------------------------------------------------------

    async def record(self, ticket: str) -> dict:
        return await self.get(f"/audit/v1/appraisals/{ticket}", who="auditor")

    async def appraisals(self, **query) -> list[dict]:
        return (await self.get("/audit/v1/appraisals", who="auditor", params=query))["appraisals"]

    async def count(self, table: str) -> int:
        assert table in _TABLES
        async with self.store.database.reading() as session:
            return await session.scalar(text(f"SELECT count(*) FROM {table}"))

    async def assert_refused(self, answer: Answer, *findings: str, code: str | None = None) -> dict:
        """Refused over HTTP with code and ticket only, on record with (at least one of) ``findings``, and nothing released."""
        assert answer.status == 403, answer
        assert code is None or answer.code == code
        assert_says_nothing(answer)
        shown = await self.record(answer.document["ticket"])
        record, releases = shown["appraisal"], shown["releases"]
        assert record["verdict"] == "refused"
        errors = [finding for finding in record["findings"] if finding["severity"] == "error"]
        assert {finding["id"] for finding in errors} & set(findings), errors
        assert releases == []
        assert await self.count("releases") == 0
        return record


def assert_says_nothing(answer: Answer) -> None:
    """A refusal is a function of a code from the catalogue and a ticket number: there is no room for anything else."""
    code, ticket = answer.document["code"], answer.document["ticket"]
    assert code in GUEST_CODES
    assert re.fullmatch("[0-9a-f]{20}", ticket)
    detail = f"The request was refused. Give the administrator ticket {ticket}."
    problem = {"type": f"urn:kbs-rim:problem:{code}", "title": "Forbidden", "status": 403, "detail": detail, "code": code}
    assert answer.document == {**problem, "ticket": ticket}
    assert answer.headers["Content-Type"].startswith("application/problem+json")


class Logs:
    """Everything that was logged, as text and as lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str) -> list[dict]:
        return [line for line in self.lines if line["event"] == event]


def spellings(value: bytes) -> set[bytes]:
    """How a secret could show up in a text: its first 24 bytes, which are ASCII (so that no escaping hides them), in every coding."""
    head = value[:24]
    coded = {base64.b64encode(head), base64.urlsafe_b64encode(head), base64.b32encode(head[:20]), head.hex().encode()}
    return {head, *coded, *(item.upper() for item in coded), head[::-1]}


def assert_no_secret(*texts: str | bytes) -> None:
    for shown in texts:
        data = shown.encode("utf-8", "surrogateescape") if isinstance(shown, str) else shown
        for value in SECRETS.values():
            assert not any(spelling in data for spelling in spellings(value))


# --- furnishing -------------------------------------------------------------------------------------------------------


async def furnish(site: Site, *names: str) -> None:
    """Register images, workload and secret of each VM, the way an administrator does."""
    for name in names or VMS:
        vm = VMS[name]
        for load in vm.script.loads:
            await register_image(site, bytes(load.data), ROLES[load.name].value)
        await expect(site, 201, "POST", "/admin/v1/workloads", vm.workload_document(name))
        value = base64.urlsafe_b64encode(SECRETS[name]).rstrip(b"=").decode()
        secret = {"path": f"vault/disk/{name}", "key_id": name, "workloads": [name], "value": value}
        await expect(site, 201, "POST", "/admin/v1/secrets", secret)


async def register_image(site: Site, data: bytes, *roles: str) -> str:
    """Register one image; return its id."""
    measured = measure_image(data)
    document = {"name": "an image", "roles": list(roles), "measurements": measured.to_document()}
    answer = await site.ask("POST", "/admin/v1/images", document)
    assert answer.status in (200, 201), answer
    return measured.image_id


async def expect(site: Site, status: int, method: str, path: str, document=None, **options) -> Answer:
    answer = await site.ask(method, path, document, **options)
    assert answer.status == status, answer
    return answer


async def add_principals(store: Store) -> dict[str, str]:
    """Make an admin and an auditor, as the command line does; return their tokens."""
    principals = Principals(store=store.principals, clock=wiring.SystemClock(), entropy=wiring.secrets.token_bytes)
    tokens = {}
    for role in PrincipalRole:
        tokens[role.value] = (await principals.add(f"an-{role.value}", role, lifetime=None, actor="test"))[1]
    return tokens


# --- starting ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def verifier_running(trust: Trust, *faults, middlewares=(), signing_key=None, **options) -> AsyncIterator[str]:
    """The reference verifier on a real socket; yields its URL."""
    settings = VerifierOptions(
        signing_key=signing_key or trust.stage.signing_key,
        endorsements=endorsements_of(trust.stage.identity),
        faults=frozenset(faults),
        **options,
    )
    app = make_app(settings)
    for middleware in middlewares:
        app.middlewares.append(middleware)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def settings_of(trust: Trust, database_url: str, verifier_url: str, **sections) -> Settings:
    """The configuration of a site. ``sections`` hold changes: ``appraisal={"workers": 1}``."""

    def section(name: str, **defaults):
        return {**defaults, **sections.get(name, {})}

    guest = GuestListenerSettings(**section("guest", listen="127.0.0.1:0"))
    internal = InternalListenerSettings(listen="127.0.0.1:0")
    return Settings(
        service=ServiceSettings(**section("service", shutdown_timeout_s=1)),
        http=HttpSettings(guest=guest, internal=internal),
        database=DatabaseSettings(url=database_url, **section("database")),
        challenge=ChallengeSettings(**section("challenge")),
        secrets=SecretsSettings(**section("secrets", kek_file=trust.kek_file)),
        verifier=VerifierSettings(**section("verifying", url=verifier_url, pinned_keys_files=(trust.pinned_key_file,), deadline_s=5.0)),
        appraisal=AppraisalSettings(**section("appraisal")),
        limits=Limits(**section("limits")),
    )


class Starter:
    """Starts sites; everything it started ends with the test."""

    def __init__(self, trust: Trust, monkeypatch: pytest.MonkeyPatch, default_url: str, stack: AsyncExitStack) -> None:
        self.trust, self._monkeypatch, self.default_url, self.stack = trust, monkeypatch, default_url, stack

    async def __call__(
        self,
        *,
        database_url: str | None = None,
        verifier_url: str | None = None,
        faults=(),
        verifier: dict | None = None,
        replicas: int = 1,
        stores: Callable[[Store], Store] = lambda store: store,
        **sections,
    ) -> Site:
        """``stores`` may replace roles of the store that each replica uses; ``verifier`` goes to ``verifier_running``."""
        if verifier_url is None:
            verifier_url = await self.stack.enter_async_context(verifier_running(self.trust, *faults, **(verifier or {})))
        settings = settings_of(self.trust, database_url or self.default_url, verifier_url, **sections)
        clock = OffsetClock()
        opened = wiring.open_settings_store
        self._monkeypatch.setattr(wiring, "SystemClock", lambda: clock)
        self._monkeypatch.setattr(wiring, "open_settings_store", lambda given: stores(opened(given)))
        store = open_store(settings.database.resolved_url().get_secret_value())
        self.stack.push_async_callback(store.close)
        session = await self.stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        site = Site(self.trust, settings, store, session, clock)
        for _ in range(replicas):
            site.services.append(await self.stack.enter_async_context(wiring.running(settings)))
        self._monkeypatch.setattr(wiring, "open_settings_store", opened)
        return site


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Trust:
    """A platform, keys, and a SQLite file with everything registered, made once for a run."""
    made = Trust(tmp_path_factory.mktemp("trust"), Stage())
    generate_key_file(made.kek_file)
    made.pinned_key_file.write_text(json.dumps(made.stage.signing_key.public_jwk()))
    shutil.copy(sqlite_template, made.database)
    asyncio.run(_furnished(made))
    return made


async def _furnished(trust: Trust) -> None:
    url = f"sqlite:///{trust.database}"
    store = open_store(url)
    trust.tokens.update(await add_principals(store))
    settings = settings_of(trust, url, "http://127.0.0.1:9")
    async with aiohttp.ClientSession() as session, wiring.running(settings) as service:
        site = Site(trust, settings, store, session, OffsetClock())
        site.services.append(service)
        await furnish(site)
    await store.close()


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    """What is logged, in production's form, down to debug. A secret in it fails the test."""
    captured = Logs()
    level = logging.root.level
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own handlers stay out of configure_logging's hands
    configure_logging("debug", "json", stream=captured.stream)
    structlog.configure(cache_logger_on_first_use=False)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    yield captured
    logging.root.setLevel(level)
    structlog.reset_defaults()
    assert_no_secret(captured.text)


@pytest.fixture
async def start(trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> AsyncIterator[Starter]:
    """Starts sites on a furnished SQLite database, or on ``database_url``."""
    path = tmp_path / "broker.db"
    shutil.copy(trust.database, path)
    async with AsyncExitStack() as stack:
        yield Starter(trust, monkeypatch, f"sqlite:///{path}", stack)


@pytest.fixture
async def site(start: Starter, logs: Logs) -> AsyncIterator[Site]:
    """A broker with everything registered on SQLite, and an honest verifier."""
    started = await start()
    yield started
    assert logs.of("unhandled error") == []


@pytest.fixture
async def pair(start: Starter, postgres_url: str, trust: Trust) -> Site:
    """Two replicas on PostgreSQL with the VM ``qemu-kernel`` registered, and an honest verifier."""
    store = open_store(postgres_url)
    tokens = await add_principals(store)
    await store.close()
    started = await start(database_url=postgres_url, replicas=2)
    started.trust = replace(trust, tokens=tokens)
    await furnish(started, "qemu-kernel")
    return started
