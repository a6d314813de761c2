"""Migrations make exactly the tables of the models, on both engines, whole or not at all."""

import asyncio
import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from kbs_rim.adapters.db import open_store
from kbs_rim.adapters.db.engine import normalise_url, postgres_engine, sqlite_engine
from kbs_rim.adapters.db.migrate import Migration, current, migrations_directory, newest_version, upgrade
from kbs_rim.adapters.db.models import SCHEMA_VERSION, Base
from kbs_rim.errors import ConfigurationError, StoreUnavailable
from kbs_rim.measurement.image import measure_image
from tests.registry_values import kernel_bytes

FAILING = """
revision = "9999"
down_revision = "PRESENT"
import sqlalchemy as sa
from alembic import op

def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO no_such_table VALUES (1)")
"""
ORPHANING = """
revision = "9999"
down_revision = "PRESENT"
from alembic import op

def upgrade():
    op.execute("INSERT INTO secret_bindings VALUES ('no/such/secret', 1, '2026-01-01 00:00:00.000000', 'nobody')")
"""


async def look(url: str, question):
    """Run ``question`` with a connection, in a transaction."""
    address = normalise_url(url)
    if address.get_backend_name() == "sqlite":
        sqlite = sqlite_engine(address, pool_size=1)
        with sqlite.begin() as connection:
            answer = question(connection)
        sqlite.dispose()
        return answer
    engine = postgres_engine(address, pool_size=1)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(question)
    finally:
        await engine.dispose()


def table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def with_migration(folder: Path, source: str) -> Path:
    copy = folder / "migrations"
    shutil.copytree(migrations_directory(), copy)
    (copy / "versions" / "9999_next.py").write_text(source.replace("PRESENT", SCHEMA_VERSION))
    return copy


def test_the_code_needs_the_newest_migration() -> None:
    assert newest_version() == SCHEMA_VERSION


async def test_migrations_make_the_tables_of_the_models(empty_database_url: str) -> None:
    await upgrade(empty_database_url)

    def differences(connection: Connection) -> list:
        # SQLite numbers rows without a default, so alembic would find the models' Identity missing.
        defaults = connection.dialect.name == "postgresql"
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": defaults})
        return compare_metadata(context, Base.metadata)

    assert await look(empty_database_url, differences) == []


async def test_migrations_name_constraints_as_the_models_do(empty_database_url: str) -> None:
    await upgrade(empty_database_url)

    def names(connection: Connection) -> dict[str, set]:
        seen = inspect(connection)
        return {
            table: {
                *(key["name"] for key in seen.get_foreign_keys(table)),
                *(key["name"] for key in seen.get_unique_constraints(table)),
                *(key["name"] for key in seen.get_check_constraints(table)),
                seen.get_pk_constraint(table)["name"],
            }
            for table in Base.metadata.tables
        }

    wanted = {name: {str(item.name) for item in table.constraints} for name, table in Base.metadata.tables.items()}
    assert await look(empty_database_url, names) == wanted


async def test_text_is_compared_byte_by_byte(postgres_url: str) -> None:
    def collations(connection: Connection) -> set:
        question = (
            "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = 'public' AND data_type = 'text'"
            " AND column_name NOT IN ('document', 'detail', 'measurements', 'provenance', 'roles', 'jwk', 'parts')"
        )
        return set(connection.execute(text(question)).scalars())

    assert await look(postgres_url, collations) == {"C"}


def as_of(folder: Path, version: str) -> Path:
    """The migrations up to ``version``."""
    copy = folder / f"migrations-{version}"
    shutil.copytree(migrations_directory(), copy)
    for path in (copy / "versions").glob("[0-9]*.py"):
        if path.name[:4] > version:
            path.unlink()
    return copy


async def run_sql(url: str, *statements: str) -> list:
    return await look(url, lambda connection: [connection.execute(text(statement)) for statement in statements])


async def test_images_from_before_the_index_of_digests_are_found_in_it(empty_database_url: str, tmp_path: Path) -> None:
    """0002 puts the digests of the files that are registered into the new index."""
    assert (await upgrade(empty_database_url, directory=as_of(tmp_path, "0001"))).after == "0001"
    plain, packed = measure_image(b"initrd"), measure_image(gzip.compress(kernel_bytes()))
    for measured in (plain, packed):
        document = measured.with_granules_of().to_document()
        del document["pe"], document["volumes"]
        row = {"id": measured.image_id, "document": json.dumps(document)}
        await run_sql(
            empty_database_url,
            f"INSERT INTO images VALUES ('{row['id']}', 'old', '{row['document']}', '{{}}', '2026-01-01 00:00:00', 'ada')",
            "INSERT INTO image_revisions VALUES"
            f" ('{row['id']}', 1, '[]', 'active', '2026-01-01 00:00:00', 'ada', '', '2026-01-01 00:00:00', 'ada')",
        )
    assert await upgrade(empty_database_url) == Migration("0001", SCHEMA_VERSION)
    store = open_store(empty_database_url)
    for measured, kinds in ((plain, {"file"}), (packed, {"file", "loaded"})):
        found = await store.images.find_images_by_measurement([(item.algorithm.value, item.digest) for item in measured.measured_digests()])
        assert [image.image.id for image in found] == [measured.image_id]
        assert set(found[0].digests) == {item for item in measured.measured_digests() if item.what in kinds}
        assert found[0].image.measurements == replace(measured.with_granules_of(), pe=None)
    await store.close()


async def test_a_second_upgrade_finds_nothing_to_do(empty_database_url: str) -> None:
    assert await upgrade(empty_database_url) == Migration(None, SCHEMA_VERSION)
    assert await upgrade(empty_database_url) == Migration(SCHEMA_VERSION, SCHEMA_VERSION)
    assert await current(empty_database_url) == SCHEMA_VERSION


async def test_replicas_that_upgrade_at_once_migrate_once(empty_database_url: str) -> None:
    done = await asyncio.gather(*(upgrade(empty_database_url) for _ in range(4)))
    assert sorted(migration.before or "" for migration in done) == ["", *[SCHEMA_VERSION] * 3]


async def test_a_failed_migration_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_table"):
        await upgrade(database_url, directory=with_migration(tmp_path, FAILING))
    assert "half" not in await look(database_url, table_names)
    assert await current(database_url) == SCHEMA_VERSION


async def test_a_migration_that_orphans_rows_is_refused(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await upgrade(database_url, directory=with_migration(tmp_path, ORPHANING))
    assert await current(database_url) == SCHEMA_VERSION


async def test_a_newer_schema_is_not_served(database_url: str, tmp_path: Path) -> None:
    await upgrade(
        database_url, directory=with_migration(tmp_path, FAILING.replace('op.execute("INSERT INTO no_such_table VALUES (1)")', "pass"))
    )
    store = open_store(database_url)
    with pytest.raises(StoreUnavailable, match="9999"):
        await store.health.check_store()
    await store.close()
    with pytest.raises(StoreUnavailable, match="9999"):
        await upgrade(database_url)


async def test_a_new_sqlite_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kbs_rim.db"
    await upgrade(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_path_with_reserved_characters_is_that_path(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%41 d.db"
    url = f"sqlite:///{quote(str(path))}"
    await upgrade(url)
    assert path.is_file()
    store = open_store(url)
    await store.health.check_store()
    await store.close()


async def test_a_folder_that_cannot_be_made_is_our_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        await upgrade(f"sqlite:///{tmp_path / 'file' / 'kbs_rim.db'}")


def test_an_installation_without_migrations_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="install the wheel again"):
        migrations_directory(tmp_path / "kbs_rim")


def test_the_wheel_can_migrate(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=root, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import asyncio, sys; from kbs_rim.adapters.db import migrate; "
        "assert migrate.migrations_directory().name == '_migrations', migrate.migrations_directory(); "
        "print(asyncio.run(migrate.upgrade(sys.argv[1])).after)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/wheel.db"],
        cwd=site,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == SCHEMA_VERSION, done.stderr
