"""Migrations: run from the program itself, in one transaction and under a lock, from a checkout or an installed wheel.

``migrations/`` stands at the top of the repository and is installed as ``kbs_rim/_migrations``. Serving does not import this
module: alembic costs memory, and a server that migrates by itself surprises its operator.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import SQLAlchemyError

import kbs_rim
from kbs_rim.adapters.db.engine import normalise_url, postgres_engine, sqlite_engine
from kbs_rim.errors import ConfigurationError, StoreUnavailable

MIGRATION_LOCK = 0x6B62735F72696D02
"""Advisory lock key on PostgreSQL: of several replicas that migrate at once, one does and the others find it done."""

_TABLE_LOCK_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Migration:
    """Schema versions before and after; ``before`` is None for an empty database."""

    before: str | None
    after: str | None


def migrations_directory(package: Path | None = None) -> Path:
    """Return where the migrations are: in the installed package, else beside it in the checkout.

    Raise ``ConfigurationError`` if the installation lacks them.
    """
    package = package or Path(kbs_rim.__file__).parent
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise ConfigurationError("the migrations are missing from this installation: install the wheel again")


def migration_config(directory: Path | None = None) -> Config:
    """Return alembic's configuration, made here and not read from a file; ``directory`` is for tests."""
    config = Config()
    location = str(directory or migrations_directory())
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def newest_version() -> str | None:
    """Return the version that ``upgrade`` leads to."""
    return ScriptDirectory.from_config(migration_config()).get_current_head()


async def upgrade(url: str, *, directory: Path | None = None) -> Migration:
    """Bring the database to the newest version, whole or not at all; make the file of a new SQLite database (mode 0600).

    Raise ``ConfigurationError`` for a bad URL and ``StoreUnavailable`` if the database cannot be reached or a migration fails.
    """
    _create_private_file(url)
    return await _run(url, partial(_upgrade, config=migration_config(directory)))


async def current(url: str) -> str | None:
    """Return the version the database is at, None if it has no schema. Raise as ``upgrade``."""
    return (await _run(url, _current)).after


async def _run(url: str, work: Callable[[Connection], Migration]) -> Migration:
    address = normalise_url(url)
    try:
        if address.get_backend_name() == "sqlite":
            return await asyncio.to_thread(_run_on_sqlite, address, work)
        return await _run_on_postgres(address, work)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreUnavailable(f"the database could not be used: {type(cause).__name__}: {cause}".splitlines()[0]) from error
    except CommandError as error:
        raise StoreUnavailable(f"the database cannot be migrated: {error}") from error


def _run_on_sqlite(address: URL, work: Callable[[Connection], Migration]) -> Migration:
    # Rebuilding a table drops the old one, which its children's foreign keys would forbid; they are checked at the end.
    engine = sqlite_engine(address, pool_size=1, foreign_keys=False)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


async def _run_on_postgres(address: URL, work: Callable[[Connection], Migration]) -> Migration:
    engine = postgres_engine(address, pool_size=1, statement_timeout_s=None)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _create_private_file(url: str) -> None:
    address = normalise_url(url)
    if address.get_backend_name() != "sqlite" or not address.database:
        return
    path = Path(address.database)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"the database file {path} cannot be made: {error.strerror}") from error


def _current(connection: Connection) -> Migration:
    version = MigrationContext.configure(connection).get_current_revision()
    return Migration(version, version)


def _upgrade(connection: Connection, config: Config) -> Migration:
    if connection.dialect.name == "postgresql":
        # Another replica may migrate for long; but once it is our turn, no table lock may hold up those who serve.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = {_TABLE_LOCK_TIMEOUT_MS}"))
    before = MigrationContext.configure(connection).get_current_revision()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first() is not None:
        raise StoreUnavailable("the migration would leave rows without the rows they refer to; nothing was changed")
    after = MigrationContext.configure(connection).get_current_revision()
    return Migration(before, after)
