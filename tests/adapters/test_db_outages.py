"""Whatever the database does, what comes out is ``StoreUnavailable`` without statements or values in it."""

import asyncio
import hashlib
import sqlite3
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.db.column_types import UtcDateTime
from kbs_rim.adapters.db.engine import Database, normalise_url, storable
from kbs_rim.adapters.db.migrate import upgrade
from kbs_rim.adapters.db.models import Base
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import ConfigurationError, StoreUnavailable
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.ports import AppraisalFilter, Challenge, ImageState, Principal, PrincipalRole
from tests.postgres import PostgresServer, _binaries
from tests.registry_values import AT, appraisal, challenge, change, image, kernel_bytes, release, sealed, workload


def every_call(store: Store) -> dict:
    return {
        "find_images": lambda: store.images.find_images([("sha-256", bytes(32))]),
        "get_image": lambda: store.images.get_image("x"),
        "list_images": store.images.list_images,
        "registry_sequence": store.images.registry_sequence,
        "add_image": lambda: store.images.add_image(image(), change()),
        "set_image_state": lambda: store.images.set_image_state("x", ImageState.REVOKED, "", change()),
        "get_workload": lambda: store.workloads.get_workload("x"),
        "list_workloads": store.workloads.list_workloads,
        "workloads_naming": lambda: store.workloads.workloads_naming("x"),
        "retire_workload": lambda: store.workloads.retire_workload("x", change()),
        "get_secret": lambda: store.secrets.get_secret("x"),
        "list_secrets": store.secrets.list_secrets,
        "secrets_bound_to": lambda: store.secrets.secrets_bound_to(["x"]),
        "create_secret": lambda: store.secrets.create_secret("a/b/c", "x", [], change()),
        "add_version": lambda: store.secrets.add_version("a/b/c", sealed(1), change()),
        "revoke_version": lambda: store.secrets.revoke_version("a/b/c", 1, change()),
        "bind_secret": lambda: store.secrets.bind_secret("a/b/c", [], change()),
        "newest_version": lambda: store.opener.newest_version("a/b/c"),
        "issue": lambda: store.challenges.issue(challenge()),
        "redeem": lambda: store.challenges.redeem("x", AT),
        "purge": lambda: store.challenges.purge(AT),
        "append_appraisal": lambda: store.records.append_appraisal(appraisal("x"), {}),
        "append_release": lambda: store.records.append_release(release("x"), registry_sequence=0),
        "list_appraisals": lambda: store.record_reader.list_appraisals(AppraisalFilter()),
        "get_appraisal": lambda: store.record_reader.get_appraisal("x"),
        "get_payload": lambda: store.record_reader.get_payload("x"),
        "count_releases": lambda: store.record_reader.count_releases(image="x"),
        "list_changes": store.record_reader.list_changes,
        "add_principal": lambda: store.principals.add_principal(
            Principal(name="x", role=PrincipalRole.ADMIN, created_at=AT), bytes(32), change()
        ),
        "find_principal": lambda: store.principals.find_principal(bytes(32), AT),
        "list_principals": store.principals.list_principals,
        "revoke_principal": lambda: store.principals.revoke_principal("x", change()),
        "check_store": store.health.check_store,
    }


async def assert_all_unavailable(store: Store) -> None:
    for name, call in every_call(store).items():
        with pytest.raises(StoreUnavailable) as caught:
            await call()
        assert "SELECT" not in str(caught.value), name
        assert "INSERT" not in str(caught.value), name


async def test_a_database_without_tables_is_unavailable(store: Store) -> None:
    async with store.database.writing() as session:
        for table in reversed(Base.metadata.sorted_tables):
            await session.execute(text(f"DROP TABLE {table.name}"))
    await assert_all_unavailable(store)


@pytest.mark.parametrize(
    ("damage", "call"),
    [
        ("UPDATE images SET measurements = '{}'", "list_images"),
        ("UPDATE images SET measurements = 'not json'", "list_images"),
        ("UPDATE image_granules SET digests = substr(digests, 2)", "find_images"),
        ("UPDATE workload_revisions SET document = '{}'", "list_workloads"),
        ("UPDATE appraisals SET document = '{}'", "get_appraisal"),
        ("UPDATE appraisals SET document = 'not json'", "list_appraisals"),
        ("DELETE FROM registry_state", "registry_sequence"),
        ("DELETE FROM registry_state", "append_release"),
        ("DELETE FROM registry_state", "check_store"),
    ],
)
async def test_what_is_damaged_in_the_database_is_our_fault(store: Store, damage: str, call: str) -> None:
    kernel, tree = image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"tree", roles=(Role.DEVICE_TREE,))
    for record in (kernel, tree):
        await store.images.add_image(record, change())
    await store.workloads.add_workload(workload("web", kernel, tree), change())
    await store.records.append_appraisal(appraisal("x"), {})
    async with store.database.writing() as session:
        await session.execute(text(damage))
    calls = every_call(store) | {
        "find_images": lambda: store.images.find_images([("sha-256", kernel.measurements.digests[HashAlgorithm.SHA256])])
    }
    with pytest.raises(StoreUnavailable):
        await calls[call]()


async def test_a_sqlite_file_that_is_missing_is_unavailable_and_not_made(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'missing.db'}")
    await assert_all_unavailable(store)
    await store.close()
    assert not (tmp_path / "missing.db").exists()


async def test_a_sqlite_file_that_is_garbage_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"not a database, not at all. " * 1000)
    store = open_store(f"sqlite:///{path}")
    await assert_all_unavailable(store)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:1/none",
        "postgresql://nobody:hunter2@/none?host=/nonexistent",
        "postgresql://nobody:hunter2@host.invalid/none",
    ],
)
async def test_a_server_that_is_not_there_is_unavailable(url: str) -> None:
    store = open_store(url)
    with pytest.raises(StoreUnavailable) as caught:
        await store.health.check_store()
    await store.close()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_database_that_does_not_exist_is_unavailable(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.url("no_such_database"))
    await assert_all_unavailable(store)
    await store.close()


async def test_a_server_that_dies_is_unavailable_and_used_again_when_it_is_back() -> None:
    binaries = _binaries()
    if binaries is None:
        pytest.fail("no PostgreSQL server on this machine")
    server = PostgresServer(binaries)
    try:
        server.start()
        await upgrade(server.url("postgres"))
        store = open_store(server.url("postgres"), pool_size=2)
        await store.challenges.issue(challenge())
        server.stop()
        await assert_all_unavailable(store)
        server.start()
        assert isinstance(await store.challenges.redeem(challenge().id, AT), Challenge)
        await store.close()
    finally:
        server.remove()


async def test_a_server_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    monkeypatch.setattr("kbs_rim.adapters.db.health._DEADLINE_S", 0.2)
    store = open_store(postgres_url)
    async with store.database.writing() as holder:
        await holder.execute(text("LOCK TABLE alembic_version"))
        with pytest.raises(StoreUnavailable, match="within"):
            await store.health.check_store()
    await store.health.check_store()
    await store.close()


async def test_a_pool_without_a_free_connection_is_unavailable(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setattr("kbs_rim.adapters.db.engine._CHECKOUT_TIMEOUT_S", 0.05)
    store = open_store(database_url, pool_size=1)
    async with store.database.writing() as holder:
        await holder.execute(text("SELECT 1"))
        with pytest.raises(StoreUnavailable):
            await store.challenges.issue(challenge())
    await store.challenges.issue(challenge())
    await store.close()


async def test_a_sqlite_file_that_another_process_locks_is_unavailable_not_waited_for_ever(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbs_rim.adapters.db.engine._BUSY_TIMEOUT_MS", 50)
    store = open_store(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        await store.challenges.issue(challenge())
    assert await store.images.registry_sequence() == 0, "readers are not held up"
    other.execute("ROLLBACK")
    await store.challenges.issue(challenge())
    other.close()
    await store.close()


async def test_a_cancelled_change_leaves_nothing_and_blocks_nobody(store: Store) -> None:
    for delay in (0, 1, 2, 3, 5, 8):
        attempt = asyncio.create_task(store.images.add_image(image(), change()))
        for _ in range(delay):
            await asyncio.sleep(0.001)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
    await store.database.write(lambda session: session.execute(text("SELECT 1")))  # behind what is still under way
    added = len(await store.images.list_images())
    assert await store.images.registry_sequence() == added
    await store.images.add_image(image(b"another"), change())
    assert await store.images.registry_sequence() == added + 1


@pytest.mark.parametrize("delay_s", [0, 0.0005, 0.002, 0.01])
async def test_a_guest_who_hangs_up_leaves_whole_records_or_none(store: Store, delay_s: float) -> None:
    """Cancelled at any point of the record or of the release: no half record, no lock, and nothing lost of what others wrote."""
    record = replace(appraisal("kept", images=("sha256:aa", "sha256:bb")), inputs={"token": hashlib.sha256(b"token").hexdigest()})
    await store.records.append_appraisal(record, {"token": b"token"})
    for number in range(6):
        writing = [
            asyncio.create_task(store.records.append_appraisal(replace(record, id=f"dropped-{number}"), {"token": b"token"})),
            asyncio.create_task(store.records.append_release(release("kept"), registry_sequence=0)),
        ]
        await asyncio.sleep(delay_s)
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
    await store.records.append_release(release("kept"), registry_sequence=0)
    for found in await store.record_reader.list_appraisals(AppraisalFilter()):
        whole, _ = await store.record_reader.get_appraisal(found.id)
        assert whole == replace(record, id=found.id)
        assert await store.record_reader.get_payload(whole.inputs["token"]) == b"token"
    async with store.database.reading() as steps:
        for table in ("appraisal_findings", "appraisal_images", "releases"):
            orphans = f"SELECT count(*) FROM {table} WHERE appraisal_id NOT IN (SELECT id FROM appraisals)"
            assert await steps.scalar(text(orphans)) == 0
        images = await steps.scalar(text("SELECT count(*) FROM appraisal_images"))
        assert images == len(record.facts["images"]) * await steps.scalar(text("SELECT count(*) FROM appraisals"))
    await store.images.add_image(image(), change())
    assert await store.images.registry_sequence() == 1


async def test_a_closed_database_has_finished_what_was_under_way(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    under_way = asyncio.create_task(store.images.add_image(image(), change()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)
    await store.close()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    images, sequence = (other.execute(f"SELECT {what}").fetchone()[0] for what in ("count(*) FROM images", "sequence FROM registry_state"))
    assert images == sequence
    other.close()


async def test_two_transactions_that_read_then_write_lose_no_update_on_sqlite(sqlite_url: str) -> None:
    databases = [Database(sqlite_url), Database(sqlite_url)]

    async def read_then_write(database: Database) -> None:
        async with database.writing() as session:
            value = await session.scalar(text("SELECT sequence FROM registry_state"))
            await asyncio.sleep(0)
            await session.execute(text("UPDATE registry_state SET sequence = :next"), {"next": value + 1})

    await asyncio.gather(*(read_then_write(databases[number % 2]) for number in range(20)))
    async with databases[0].reading() as session:
        assert await session.scalar(text("SELECT sequence FROM registry_state")) == 20
    for database in databases:
        await database.close()


async def test_a_reader_cannot_write(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(StoreUnavailable):
        async with database.reading() as session:
            await session.execute(text("UPDATE registry_state SET sequence = 7"))
    await database.close()


async def test_a_reader_sees_one_snapshot(database_url: str) -> None:
    store = open_store(database_url)
    async with store.database.reading() as session:
        question = text("SELECT sequence FROM registry_state")
        assert await session.scalar(question) == 0
        await store.images.add_image(image(), change())
        assert await session.scalar(question) == 0
    assert await store.images.registry_sequence() == 1
    await store.close()


async def test_a_writer_is_not_given_what_a_reader_asked_of_the_connection(postgres_url: str) -> None:
    opened = open_store(postgres_url, pool_size=1)
    async with opened.database.writing() as session:
        database_name = await session.scalar(text("SELECT current_database()"))
        await session.execute(text(f"ALTER DATABASE {database_name} SET default_transaction_isolation = 'serializable'"))
    await opened.close()
    store = open_store(postgres_url, pool_size=1)
    for _ in range(2):
        for transaction, expected in (
            (store.database.reading, ("repeatable read", "on")),
            (store.database.writing, ("read committed", "off")),
        ):
            async with transaction() as session:
                isolation = await session.scalar(text("SHOW transaction_isolation"))
                assert (isolation, await session.scalar(text("SHOW transaction_read_only"))) == expected
    await store.close()


async def test_sqlite_is_durable_and_checks_foreign_keys(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    for transaction in (database.writing, database.reading):
        async with transaction() as session:
            found = [
                await session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
            ]
            assert found == ["wal", 2, 1, 1]
    await database.close()


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("sqlite+aiosqlite:///x.db", "sqlite:///x.db"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h/d?sslmode=verify-full", "postgresql+asyncpg://u@h/d?ssl=verify-full"),
    ],
)
def test_urls_get_their_async_driver(given_url: str, expected: str) -> None:
    assert normalise_url(given_url).render_as_string() == expected


@pytest.mark.parametrize(
    "url", ["", "x", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///x.db?mode=memory", "postgresql://h:port/d"]
)
def test_urls_of_no_database_that_we_use_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"database\.url"):
        open_store(url)


def test_a_bad_url_does_not_print_its_password() -> None:
    password = "hunter" + "2"
    with pytest.raises(ConfigurationError) as caught:
        open_store(f"mysql://user:{password}@host/d")
    assert password not in "".join(traceback.format_exception(caught.value))


@given(st.text(alphabet=st.characters() | st.sampled_from("\0\ud800\udfff")))
def test_storable_text_is_what_postgresql_takes(value: str) -> None:
    try:
        encodes = "\0" not in value and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        encodes = False
    assert storable(value) is encodes


@given(st.datetimes(timezones=st.timezones()))
def test_times_are_stored_in_utc(moment: datetime) -> None:
    kind = UtcDateTime()
    bound = kind.process_bind_param(moment, None)
    assert bound is not None
    assert bound.utcoffset().total_seconds() == 0
    assert kind.process_result_value(bound.replace(tzinfo=None), None) == moment.astimezone(UTC)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), None)  # noqa: DTZ001
