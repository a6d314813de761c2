"""Connections, transactions and the error boundary of the database.

SQLite: the driver's own transaction handling loses updates and cannot roll back DDL, so it is switched off; transactions that
write begin with ``BEGIN IMMEDIATE`` on a pool of one connection, transactions that read have connections of their own. A commit is
on the disk when it returns (``synchronous = FULL``): no record, no release, whoever pulls the plug. PostgreSQL: writers run at
READ COMMITTED under explicit locks (``registry_state``), readers see one snapshot (REPEATABLE READ, READ ONLY).
"""

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from kbs_rim.adapters.db.lanes import Lane, LoopLane, Steps, ThreadLane
from kbs_rim.errors import ConfigurationError, Conflict, StoreUnavailable

T = TypeVar("T")
_CONNECT_TIMEOUT_S = 10
_STATEMENT_TIMEOUT_S = 30
"""A statement that takes longer means that the server hangs: every query here is indexed and bounded."""
_LOCK_TIMEOUT_MS = 15_000
"""How long a change waits for releases in flight, and the other way round."""
_IDLE_IN_TRANSACTION_TIMEOUT_MS = 20_000
"""A replica that stalls inside a transaction must not hold up a revocation for ever."""
_BUSY_TIMEOUT_MS = 10_000
_CHECKOUT_TIMEOUT_S = 15
_TRANSLATED = (SQLAlchemyError, sqlite3.Error, OSError, TimeoutError, UnicodeError, json.JSONDecodeError)
"""What drivers and pool raise. ``UnicodeError``: text with lone surrogates, refused before it reaches the engine.

``JSONDecodeError``: a document that somebody damaged in the database.
"""


def normalise_url(text: str) -> URL:
    """Return the URL with its driver: SQLite through Python's own, PostgreSQL through asyncpg.

    libpq's ``sslmode`` is understood. Raise ``ConfigurationError`` for any other database and for SQLite in memory, which
    would forget the record.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError("database.url is not a URL: write sqlite:////path or postgresql://USER@HOST/NAME") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:") or url.query:
            raise ConfigurationError("database.url names no SQLite file: write sqlite:////path/to/kbs_rim.db, without options")
        return url.set(drivername="sqlite")
    if backend in {"postgresql", "postgres"}:
        sslmode = url.query.get("sslmode")
        if sslmode is not None:
            url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": sslmode})
        return url.set(drivername="postgresql+asyncpg")
    raise ConfigurationError(f"database.url names the database {backend!r}: use sqlite or postgresql")


def storable(*texts: str | None) -> bool:
    """Tell whether the database can hold these texts: PostgreSQL refuses NUL, and no engine takes lone surrogates.

    Asked before a look-up with text from outside, so that a hostile name is unknown rather than an outage.
    """
    return not any(text and ("\0" in text or any("\ud800" <= character <= "\udfff" for character in text)) for text in texts)


class Database:
    """The engines of one database, and the only ways to use it.

    A unit of work is a plain function of a session: ``read`` and ``write`` run it whole. With SQLite that is one trip to a thread; with
    PostgreSQL the driver stays asynchronous, and each statement waits on the event loop. ``reading`` and ``writing`` are for
    work in steps with something else in between.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        """Prepare; nothing is connected yet. Raise ``ConfigurationError`` for a URL that cannot be used."""
        self.url = normalise_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._reader: Lane
        self._writer: Lane
        if self.is_sqlite:
            self._writer = ThreadLane(sqlite_engine(self.url, pool_size=1), 1, _CHECKOUT_TIMEOUT_S)
            self._reader = ThreadLane(sqlite_engine(self.url, pool_size=pool_size, read_only=True), pool_size, _CHECKOUT_TIMEOUT_S)
        else:
            engine = postgres_engine(self.url, pool_size=pool_size)
            self._writer = LoopLane(engine)
            # The same pool: options travel with the transaction, not with the connection.
            self._reader = LoopLane(engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True))

    @property
    def engines(self) -> tuple[Engine, Engine]:
        """What reads and what writes; for watching what is sent to the database."""
        return self._reader.engine, self._writer.engine

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` on one snapshot. Raise ``StoreUnavailable`` for whatever the database does."""
        with _boundary():
            return await self._reader.run(work)

    async def write(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` in one transaction: committed when it returns, rolled back when it raises.

        Raise ``Conflict`` if a constraint says no, ``StoreUnavailable`` for whatever else the database does. Whoever is cancelled
        while he waits does not know whether the transaction was committed, but it was whole or not at all, and holds nothing.
        """
        with _boundary():
            return await self._writer.run(work)

    async def read_rows(self, work: Callable[[Connection], T]) -> T:
        """Do as ``read`` for work that knows rows and no objects; it costs less."""
        with _boundary():
            return await self._reader.run_rows(work)

    async def write_rows(self, work: Callable[[Connection], T]) -> T:
        """Do as ``write`` for work that knows rows and no objects; it costs less."""
        with _boundary():
            return await self._writer.run_rows(work)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Steps]:
        """Open one snapshot. Raise as ``read``."""
        with _boundary():
            async with self._reader.open() as steps:
                yield steps

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Steps]:
        """Open one transaction, committed when the block ends and rolled back when it raises. Raise as ``write``."""
        with _boundary():
            async with self._writer.open() as steps:
                yield steps

    async def close(self) -> None:
        """Finish what runs, and close every connection."""
        await self._reader.close()
        await self._writer.close()


@contextmanager
def _boundary() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict("store.conflict", "the change contradicts what is stored") from error
    except _TRANSLATED as error:
        raise StoreUnavailable(f"the database could not be used ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """Name the cause without statement or values: both may hold what must not be logged."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or getattr(cause, "errno", None)
    name = type(cause).__name__
    if isinstance(cause, sqlite3.Error) and str(cause).startswith("unable to open"):
        return f"{cause}; kbs-rim db upgrade makes a new one"
    if isinstance(cause, sqlite3.Error) and str(cause).startswith(("no such table", "database is locked")):
        return f"{name}: {cause}"
    return f"{name} {code}" if code else name


def sqlite_engine(url: URL, *, pool_size: int, read_only: bool = False, create: bool = False, foreign_keys: bool = True) -> Engine:
    """An engine whose transactions are ours. ``create`` makes a missing file; otherwise a missing file is an error."""
    path = Path(url.database or "").absolute()
    # A URI, because only that refuses to make an empty database where a path was mistyped.
    target = f"sqlite:///file:{quote(str(path))}?mode={'rwc' if create else 'rw'}&uri=true"
    engine = create_engine(
        target,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_CHECKOUT_TIMEOUT_S,
        hide_parameters=True,
        # A connection belongs to one transaction at a time, whichever thread runs it.
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )
    pragmas = [
        f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}",
        "PRAGMA secure_delete = ON",
        f"PRAGMA query_only = {'ON' if read_only else 'OFF'}",
    ]
    if not create:
        _look_before_connecting(engine, path)
    _on_connect(engine, pragmas)
    _on_begin(engine, "BEGIN" if read_only else "BEGIN IMMEDIATE")
    return engine


def postgres_engine(url: URL, *, pool_size: int, statement_timeout_s: int | None = _STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """An engine that notices dead connections before it uses them. Raise ``ConfigurationError`` if asyncpg is missing.

    READ COMMITTED whatever the server's default is: after waiting for a lock, a statement must see what was committed meanwhile.
    """
    settings = {
        "application_name": "kbs_rim",
        "timezone": "UTC",
        "lock_timeout": str(_LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_TIMEOUT_MS),
    }
    try:
        return create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_CHECKOUT_TIMEOUT_S,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args={"timeout": _CONNECT_TIMEOUT_S, "command_timeout": statement_timeout_s, "server_settings": settings},
        )
    except ModuleNotFoundError:
        raise ConfigurationError("database.url names PostgreSQL, but asyncpg is not installed: install kbs-rim[postgres]") from None


def _look_before_connecting(engine: Engine, path: Path) -> None:
    """Refuse a file that is not there, or not ours to use, in the same words on every system."""

    @event.listens_for(engine, "do_connect")
    def look(*_unused: Any) -> None:
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            raise sqlite3.OperationalError("unable to open database file")


def _on_connect(engine: Engine, statements: Iterable[str]) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()


def _on_begin(engine: Engine, statement: str) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Past SQLAlchemy, whose own way takes longer than all the statements of a short transaction.
        driver: sqlite3.Connection | None = connection.connection.driver_connection
        if driver is not None:
            driver.execute(statement)
