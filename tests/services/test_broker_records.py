"""No record, no release: whatever breaks, and wherever, the guest gets a 5xx and the secret stays."""

import json
from base64 import b32encode, b64encode, urlsafe_b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from kbs_rim.adapters.db import open_store
from kbs_rim.errors import Conflict, KeyUnavailable, StoreUnavailable
from kbs_rim.services import broker as broker_module
from tests.broker_stage import SECRETS, Answer, Logs, Site, Starter, add_principals, assert_no_secret, furnish, spellings
from tests.postgres import PostgresServer, _administer

VM = "qemu-kernel"


class BreakingRecords:
    """A record writer that does ``before`` and ``after`` around one of its calls; what they raise goes up."""

    def __init__(self, real, call: str, *, before=None, after=None) -> None:
        self._real, self._call, self._before, self._after = real, call, before, after

    async def append_appraisal(self, *args, **options) -> None:
        await self._around("append_appraisal", args, options)

    async def append_release(self, *args, **options) -> None:
        await self._around("append_release", args, options)

    async def _around(self, call: str, args, options) -> None:
        if call == self._call and self._before:
            await self._before()
        await getattr(self._real, call)(*args, **options)
        if call == self._call and self._after:
            await self._after()


def breaking(call: str, **hooks):
    return lambda store: replace(store, records=BreakingRecords(store.records, call, **hooks))


def raising(error: BaseException):
    async def hook() -> None:
        raise error

    return hook


def assert_nothing_left(answer: Answer, *codes: str) -> None:
    assert answer.status in (500, 503), answer
    assert answer.code in codes
    assert set(answer.document) == {"type", "title", "status", "detail", "code", "request_id"}
    assert_no_secret(answer.body, repr(answer.headers))


ERRORS = {"unavailable": StoreUnavailable("the disk is full"), "internal": RuntimeError("a bug"), "timeout": TimeoutError("too slow")}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["append_appraisal", "append_release"])
async def test_a_record_that_cannot_be_written_keeps_the_secret(start: Starter, call: str, error: str) -> None:
    site = await start(stores=breaking(call, before=raising(ERRORS[error])))
    assert_nothing_left(await site.attempt(), "unavailable", "internal")
    assert await site.count("releases") == 0
    assert await site.count("appraisals") == (0 if call == "append_appraisal" else 1)


async def test_not_even_a_refusal_is_told_without_its_record(start: Starter) -> None:
    """The ticket that a guest is told must lead somewhere."""
    site = await start(stores=breaking("append_appraisal", before=raising(StoreUnavailable("gone"))))
    assert_nothing_left(await site.attempt(lie="tampered-kernel"), "unavailable")
    offer = await site.offer()
    assert_nothing_left(await site.send(offer, b"junk", "text/plain"), "unavailable")
    assert_nothing_left(await site.send(offer, b"junk", "text/plain"), "unavailable")


@pytest.mark.parametrize("error", ["unavailable", "internal"])
async def test_a_commit_whose_answer_is_lost_keeps_the_secret_too(start: Starter, error: str) -> None:
    """The release is on record and the secret did not leave: the record may say too much, never too little."""
    site = await start(stores=breaking("append_release", after=raising(ERRORS[error])))
    assert_nothing_left(await site.attempt(), "unavailable", "internal")
    assert await site.count("releases") == 1


@pytest.mark.parametrize("call", ["append_appraisal", "append_release"])
async def test_tables_that_vanish_midway_keep_the_secret(start: Starter, call: str) -> None:
    sites: list[Site] = []

    async def drop() -> None:
        async with sites[0].store.database.writing() as session:
            for table in ("releases", "appraisal_images", "appraisal_findings", "appraisals"):
                await session.execute(text(f"DROP TABLE {table}"))

    sites.append(await start(stores=breaking(call, before=drop)))
    assert_nothing_left(await sites[0].attempt(), "unavailable")


@pytest.mark.parametrize("call", ["append_appraisal", "append_release"])
async def test_a_database_dropped_midway_keeps_the_secret(
    start: Starter, postgres_server: PostgresServer, postgres_url: str, call: str
) -> None:
    name = make_url(postgres_url).database
    armed = []

    async def drop() -> None:
        if armed:
            await _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")

    store = open_store(postgres_url)
    tokens = await add_principals(store)
    await store.close()
    site = await start(database_url=postgres_url, stores=breaking(call, before=drop))
    site.trust = replace(site.trust, tokens=tokens)
    await furnish(site, VM)
    assert await site.fetch() == SECRETS[VM]
    offer = await site.offer()
    evidence = site.realm().evidence(offer.challenge)
    armed.append(True)
    assert_nothing_left(await site.submit(offer, evidence), "unavailable")


async def test_a_registry_that_never_stands_still_gives_503(start: Starter, logs: Logs) -> None:
    site = await start(stores=breaking("append_release", before=raising(Conflict("registry.moved", "the registry changed"))))
    assert_nothing_left(await site.attempt(), "unavailable")
    assert [record["verdict"] for record in await site.appraisals()] == ["allowed"] * broker_module.MAX_ATTEMPTS
    assert len({record["id"] for record in await site.appraisals()}) == broker_module.MAX_ATTEMPTS, "each attempt has its own ticket"
    assert await site.count("releases") == 0
    assert len(logs.of("registry changed during an appraisal; appraising again")) == broker_module.MAX_ATTEMPTS


# --- keys and sealing -------------------------------------------------------------------------------------------------


async def test_without_the_key_encryption_key_nothing_is_released(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await start()

    async def broken(*_args: object) -> bytes:
        raise KeyUnavailable("the key store does not answer")

    monkeypatch.setattr("kbs_rim.adapters.secrets.local_kek.LocalKeyEncryptionKey.unwrap", broken)
    assert_nothing_left(await site.attempt(), "unavailable")
    [record] = await site.appraisals()
    assert record["verdict"] == "allowed"
    assert await site.count("releases") == 0


async def test_a_ciphertext_changed_in_the_database_is_not_released(site: Site) -> None:
    async with site.store.database.writing() as session:
        changed = await session.execute(text("SELECT path, ciphertext FROM secret_material"))
        for path, ciphertext in changed.all():
            flipped = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
            await session.execute(text("UPDATE secret_material SET ciphertext = :c WHERE path = :p"), {"c": flipped, "p": path})
    assert_nothing_left(await site.attempt(), "unavailable")


async def test_a_row_moved_to_another_secret_is_not_released(site: Site) -> None:
    """Whoever writes to the database gives the realm that he controls another secret's row: path and version are authenticated."""
    async with site.store.database.writing() as session:
        for column in ("wrapped_key", "nonce", "ciphertext"):
            query = f"UPDATE secret_material SET {column} = (SELECT {column} FROM secret_material WHERE path = :other) WHERE path = :own"
            await session.execute(text(query), {"other": "vault/disk/kvmtool-kernel", "own": f"vault/disk/{VM}"})
    assert_nothing_left(await site.attempt(), "unavailable")


@pytest.mark.parametrize("quoting", [False, True])
async def test_sealing_that_fails_tells_nobody_the_secret(
    start: Starter, logs: Logs, monkeypatch: pytest.MonkeyPatch, quoting: bool
) -> None:
    """Even a library whose exception quotes what it was given."""
    site = await start()

    def broken(_key: object, plaintext: bytes) -> None:
        raise ValueError("cannot encrypt", plaintext if quoting else len(plaintext))

    monkeypatch.setattr(broker_module, "seal", broken)
    assert_nothing_left(await site.attempt(), "unavailable")
    assert await site.count("releases") == 0
    assert_no_secret(logs.text)
    assert [line["reason"] for line in logs.of("cannot serve")] == ["the secret could not be sealed: ValueError"]


# --- where the plaintext is not ---------------------------------------------------------------------------------------


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_the_plaintext_is_in_no_answer_log_metric_record_or_file(site: Site, logs: Logs, tmp_path: Path) -> None:
    site.seen.clear()
    assert await site.fetch() == SECRETS[VM]
    for lie in ("tampered-kernel", "pc-off-entry", "duplicate-keys-text"):
        assert (await site.attempt(lie=lie)).status == 403
    for path in (
        "/metrics",
        "/readyz",
        "/admin/v1/secrets",
        f"/admin/v1/secrets/vault/disk/{VM}",
        "/audit/v1/changes",
        "/audit/v1/appraisals",
    ):
        await site.ask("GET", path)
    for record in await site.appraisals():
        await site.record(record["id"])
    assert len(site.seen) > 10
    assert_no_secret(*site.seen, logs.text)
    files = files_in(tmp_path)
    assert "broker.db" in files
    assert_no_secret(*files.values())


async def test_what_passes_through_the_broker_does_not_print_itself(site: Site) -> None:
    seen = []
    real = broker_module.Release.__init__

    def spying(self, sealed, ticket) -> None:
        real(self, sealed, ticket)
        seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_module.Release, "__init__", spying)
        await site.fetch()
    [release] = seen
    assert release.sealed.value not in repr(release) + str(release) + repr(release.sealed)


def test_spellings_find_what_they_look_for() -> None:
    value = SECRETS[VM]
    for shown in (value, value.hex(), repr(value), json.dumps(repr([value])), b64encode(value), urlsafe_b64encode(value), b32encode(value)):
        data = shown if isinstance(shown, bytes) else shown.encode()
        assert any(spelling in data for spelling in spellings(value)), shown
    with pytest.raises(AssertionError):
        assert_no_secret(b"{" + value + b"}")
