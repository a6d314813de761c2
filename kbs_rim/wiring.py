"""The only place where concrete classes meet: settings in, running service out."""

import asyncio
import gc
import os
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web

from kbs_rim import __version__
from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.db.naming import naming_database
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey
from kbs_rim.adapters.verifiers.veraison import VeraisonSettings, VeraisonVerifier
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.ear_vector import TrustTier
from kbs_rim.appraisal.published_keys import is_published
from kbs_rim.appraisal.tree_pack import RulePack
from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence, OurFault
from kbs_rim.evidence.strict_json import decode_object
from kbs_rim.http.app import guest_app, internal_app, server_logger
from kbs_rim.http.metrics import Metrics
from kbs_rim.measurement.chain_kernel import PURE, KernelChoice, choose, in_use
from kbs_rim.rule_packs import load_rule_packs
from kbs_rim.services.audit import Auditor
from kbs_rim.services.broker import Broker, BrokerPolicy, BrokerStores
from kbs_rim.services.explanation import Explainer
from kbs_rim.services.heavy_work import LANE_COUNTS, HeavyWork
from kbs_rim.services.principals import Principals
from kbs_rim.services.readiness import Readiness
from kbs_rim.services.registry import Registry
from kbs_rim.services.replay_cache import CACHE_COUNTS
from kbs_rim.services.secrets import ReleaseVault, SecretVault
from kbs_rim.settings import GuestListenerSettings, ListenerSettings, Settings, read_secret_file
from kbs_rim.tls_files import server_context

_log = structlog.get_logger("kbs_rim.serve")
KEEPALIVE_S = 75
"""An idle connection is kept this long: longer than a reverse proxy keeps its own, shorter than aiohttp's hour."""
PURGE_INTERVAL_S = 60
SWITCH_INTERVAL_S = 0.001
"""Python's own is 0.005; see docs/decisions/event-loop.md for what others cost."""
ADMINISTRATORS_WAITING = 16
"""Documents, and replays for explanations, that administrators may have in progress; more are told to come again."""
STOP_TIMEOUT_S = 5
PURGE_AGE = timedelta(minutes=10)
"""Expired challenges are kept this long, so that a late answer is told "expired" and not "unknown"."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Service:
    """A running broker: where its two listeners are bound, as (host, port)."""

    guest_address: tuple[str, int]
    internal_address: tuple[str, int]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """Run the broker that ``settings`` describe until the context is left; then finish requests in flight.

    Raises ``ConfigurationError`` or ``StoreUnavailable`` before anything listens.
    """
    if problems := settings.serving_problems():
        raise ConfigurationError("; ".join(problems))
    for warning in settings.warnings():
        _log.warning(warning)
    async with AsyncExitStack() as stack:
        store = open_settings_store(settings)
        stack.push_async_callback(store.close)
        with naming_database(settings.database.resolved_url().get_secret_value()):
            await store.health.check_store()
        verifier = VeraisonVerifier(_veraison_settings(settings), settings.limits)
        stack.push_async_callback(verifier.close)
        heavy = heavy_work(settings)
        stack.callback(heavy.stop)
        guest, internal = _applications(settings, store, verifier, heavy)
        stopping = asyncio.Event()
        stack.push_async_callback(_stop, asyncio.create_task(_purge(store, stopping)), stopping)
        internal_address = await _listen(stack, internal, settings.http.internal, settings.service.shutdown_timeout_s)
        guest_address = await _listen(stack, guest, settings.http.guest, settings.service.shutdown_timeout_s)
        _log.info(
            "serving",
            guest=guest_address,
            internal=internal_address,
            config_digest=settings.digest(),
            version=__version__,
            kernel=in_use().name,
        )
        yield Service(guest_address, internal_address)
        _log.info("stopping")


def heavy_work(settings: Settings) -> HeavyWork:
    """Choose the kernel of the RIM chain for this process, and make the threads beside the event loop.

    Raises ``ConfigurationError`` if the native kernel is demanded and cannot be used.
    """
    try:
        kernel = choose(KernelChoice(settings.appraisal.kernel))
    except ValueError as error:
        raise ConfigurationError(f"appraisal.kernel: {error}") from None
    if kernel is PURE:
        return HeavyWork(1)
    return HeavyWork(settings.appraisal.workers or len(os.sched_getaffinity(0)), native=True)


def prepare_process() -> None:
    """Make threads give the interpreter up sooner, and spare the garbage collector what stays for ever. For processes that only serve.

    A thread that wants the interpreter waits this long before it asks the one that has it; the event loop is such a thread. A full
    collection walks over every object; those of the modules, most of what there is, need not be looked at again.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()


def open_settings_store(settings: Settings) -> Store:
    """Open the database that the settings name."""
    return open_store(settings.database.resolved_url().get_secret_value(), pool_size=settings.database.pool_size)


def file_problems(settings: Settings) -> list[str]:
    """Open every file that serving opens, as serving does; return one sentence for each that is missing or not what it should be.

    Connects to nothing: the database and the verifier are for ``kbs-rim db current`` and ``/readyz``.
    """
    verifier, kek_file = settings.verifier, settings.secrets.kek_file
    openers: list[Callable[[], object]] = [
        settings.database.resolved_url,
        *(partial(LocalKeyEncryptionKey.from_files, [file]) for file in (kek_file, *settings.secrets.previous_kek_files) if file),
        *(partial(_pinned_keys, file, verifier.allow_published_keys) for file in verifier.pinned_keys_files),
        partial(_client_files, settings),
        partial(_rule_packs, settings),
        partial(_tls, settings.http.guest),
        partial(_tls, settings.http.internal),
    ]
    problems = []
    for opener in openers:
        try:
            opener()
        except OurFault as error:
            problems.append(str(error))
    return problems


def _rule_packs(settings: Settings) -> Mapping[str, RulePack]:
    try:
        return load_rule_packs(settings.appraisal.tree_rules_directory)
    except ConfigurationError as error:
        raise ConfigurationError(f"appraisal.tree_rules_directory: {error}") from None


def _client_files(settings: Settings) -> None:
    """Open what the verifier's client opens, and its certificate files even where http:// makes no use of them."""
    client = _veraison_settings(settings)
    VeraisonVerifier(replace(client, url=client.url.replace("http://", "https://", 1)), settings.limits)


def ear_policy(settings: Settings) -> EarPolicy:
    """Build what is demanded of attestation results; pinned keys are read from their files."""
    verifier = settings.verifier
    return EarPolicy(
        keys=tuple(key for file in verifier.pinned_keys_files for key in _pinned_keys(file, verifier.allow_published_keys)),
        trust_discovery=verifier.trust_discovery_key,
        algorithms=frozenset(verifier.algorithms),
        profiles=frozenset(verifier.profiles),
        developer=verifier.developer,
        appraisal_policy_ids=frozenset(verifier.appraisal_policy_ids) or None,
        max_age_s=verifier.max_age_s,
        skew_s=verifier.skew_s,
        allow_published_keys=verifier.allow_published_keys,
        realm_statuses=frozenset(TrustTier[status.upper()] for status in verifier.realm_statuses),
    )


def _applications(
    settings: Settings, store: Store, verifier: VeraisonVerifier, heavy: HeavyWork
) -> tuple[web.Application, web.Application]:
    clock, entropy, metrics = SystemClock(), secrets.token_bytes, Metrics()
    packs, believed = _rule_packs(settings), ear_policy(settings)
    kek = LocalKeyEncryptionKey.from_files([_kek_file(settings), *settings.secrets.previous_kek_files])
    metrics.test_mode.set(settings.service.test_mode)
    metrics.legacy_rsa1_5.set(settings.secrets.legacy_rsa1_5)
    broker = Broker(
        stores=BrokerStores(trust=store.trust, images=store.images, challenges=store.challenges, records=store.records),
        vault=ReleaseVault(store.opener, kek),
        verifier=verifier,
        policy=BrokerPolicy(
            ear_policy=believed,
            limits=settings.limits,
            challenge_lifetime=timedelta(seconds=settings.challenge.lifetime_s),
            max_outstanding=settings.challenge.max_outstanding,
            max_concurrent=settings.appraisal.max_concurrent,
            allow_test_keys=settings.service.test_mode,
            allow_rsa1_5=settings.secrets.legacy_rsa1_5,
            keep_payloads=settings.appraisal.keep_payloads,
            rule_packs=packs,
            config_digest=settings.digest(),
            software=f"kbs_rim {__version__}",
        ),
        clock=clock,
        entropy=entropy,
        executor=heavy.replays.door(settings.appraisal.max_concurrent),
        reading=heavy.reading.door(settings.appraisal.max_concurrent),
        pause=heavy.replays.pause,
        observe=metrics.observe_stage,
    )
    guest = guest_app(broker, settings.limits, metrics, public_url=settings.http.guest.public_url or "")
    _watch_caches(metrics, broker)
    _watch_heavy_work(metrics, heavy)
    reading = heavy.reading.door(ADMINISTRATORS_WAITING)
    auditor = Auditor(store.record_reader)
    internal = internal_app(
        registry=Registry(
            images=store.images,
            workloads=store.workloads,
            secrets=store.secrets,
            records=store.record_reader,
            clock=clock,
            limits=settings.limits,
            rule_packs=packs.keys(),
            reading=reading,
        ),
        vault=SecretVault(store=store.secrets, kek=kek, clock=clock, entropy=entropy, limits=settings.limits),
        auditor=auditor,
        explainer=Explainer(
            auditor=auditor, images=store.images, limits=settings.limits, executor=heavy.replays.door(ADMINISTRATORS_WAITING)
        ),
        principals=Principals(store=store.principals, clock=clock, entropy=entropy),
        readiness=Readiness(health=store.health, verifier=verifier, kek=kek, pinned={key.thumbprint for key in believed.keys}),
        limits=settings.limits,
        metrics=metrics,
        reading=reading,
    )
    return guest, internal


def _watch_caches(metrics: Metrics, broker: Broker) -> None:
    rims, granules = broker.trust.rims, broker.trust.granules
    metrics.watch("rim_cache_entries", "RIMs held", lambda: len(rims))
    metrics.watch("rim_prefix_hits", "Replays that went on from a RIM on the way, since the start", lambda: rims.prefixes.hits)
    metrics.watch("rim_prefix_misses", "Replays that began at the beginning, since the start", lambda: rims.prefixes.misses)
    metrics.watch("granule_cache_entries", "Images whose granule digests are held, one for each algorithm", lambda: len(granules))
    metrics.watch("granule_cache_bytes", "Granule digests held", lambda: granules.held_bytes)
    for name, counts in (("rim", rims.counts), ("granule", granules.counts)):
        for what, about in CACHE_COUNTS.items():
            metrics.watch(f"{name}_cache_{what}", f"{about}, since the start", partial(getattr, counts, what))


def _watch_heavy_work(metrics: Metrics, heavy: HeavyWork) -> None:
    metrics.watch("native_kernel", "1 if RIMs are computed by the native kernel", lambda: in_use() is not PURE)
    for name, lane in (("reading", heavy.reading), ("replay", heavy.replays)):
        metrics.watch(f"{name}_threads", f"Threads for {name}", partial(getattr, lane, "threads"))
        for what, about in LANE_COUNTS.items():
            metrics.watch(f"{name}_{what}", about, partial(getattr, lane.counts, what))


def _kek_file(settings: Settings) -> Path:
    if settings.secrets.kek_file is None:
        raise ConfigurationError("secrets.kek_file is not set: without a key-encryption key no secret can be read")
    return settings.secrets.kek_file


def _pinned_keys(file: Path, allow_published: bool) -> list[EarKey]:
    """Read a JWK or a JWKS. A published key would refuse every realm later, so it is refused here."""
    try:
        document = decode_object(read_secret_file(file, "verifier.pinned_keys_files").encode(), what=str(file))
        jwks = document.get("keys", [document])
        if not isinstance(jwks, list) or not jwks:
            raise ConfigurationError(f"verifier.pinned_keys_files: {file} holds no key")
        if not all(isinstance(jwk, dict) for jwk in jwks):
            raise ConfigurationError(f"verifier.pinned_keys_files: {file} holds something that is no JWK")
        keys = [EarKey.from_jwk(jwk) for jwk in jwks if isinstance(jwk, dict)]
    except (MalformedEvidence, InvalidDocument) as error:
        raise ConfigurationError(f"verifier.pinned_keys_files: {file}: {error}") from None
    if not allow_published and any(is_published(key.thumbprint) for key in keys):
        raise ConfigurationError(
            f"verifier.pinned_keys_files: {file} holds a key whose private half is published: make the verifier a new one"
        )
    return keys


async def _listen(stack: AsyncExitStack, app: web.Application, listener: ListenerSettings, timeout_s: int) -> tuple[str, int]:
    """Bind one listener; return its real address (port 0 takes a free one)."""
    context = _tls(listener)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        shutdown_timeout=timeout_s,
        keepalive_timeout=KEEPALIVE_S,
        logger=server_logger(),
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, port = listener.address
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError as error:
        raise OurFault(f"cannot listen on {listener.listen}: {error.strerror}") from error
    address: tuple[str, int] = runner.addresses[0][:2]
    return address


def _tls(listener: ListenerSettings) -> ssl.SSLContext | None:
    certificate, key = listener.tls_certificate_file, listener.tls_key_file
    if certificate is None or key is None:
        return None
    section = "http.guest" if isinstance(listener, GuestListenerSettings) else "http.internal"
    return server_context(certificate, key, options=(f"{section}.tls_certificate_file", f"{section}.tls_key_file"))


async def _purge(store: Store, stopping: asyncio.Event) -> None:
    """Forget old challenges until told to stop; an outage of the database is waited out."""
    while not stopping.is_set():
        with suppress(OurFault):
            await store.challenges.purge(datetime.now(UTC) - PURGE_AGE)
        with suppress(TimeoutError):
            async with asyncio.timeout(PURGE_INTERVAL_S):
                await stopping.wait()


async def _stop(task: asyncio.Task[None], stopping: asyncio.Event) -> None:
    """Let the task finish what it is at: a cancelled statement leaves a connection behind that nobody closes."""
    stopping.set()
    await asyncio.wait((task,), timeout=STOP_TIMEOUT_S)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _veraison_settings(settings: Settings) -> VeraisonSettings:
    verifier = settings.verifier
    authorization = verifier.authorization_file
    return VeraisonSettings(
        url=verifier.url,
        ca_file=verifier.ca_file,
        client_certificate_file=verifier.client_certificate_file,
        client_key_file=verifier.client_key_file,
        authorization=read_secret_file(authorization, "verifier.authorization_file") if authorization else None,
        deadline_s=verifier.deadline_s,
        **({"media_type": verifier.media_type} if verifier.media_type else {}),
    )
