"""The registry's sequence: how a release learns that trust changed underneath it.

Every change of images, workloads, secrets or bindings runs inside ``changing_registry``: alone, and with one step of the
sequence in the same transaction. A release compares the sequence inside ``unchanged_registry``. On SQLite both are
``BEGIN IMMEDIATE`` transactions, so one follows the other. On PostgreSQL a transaction-level advisory lock does the same,
exclusive for changes and shared for releases. An advisory lock and not a row lock, because its queue is fair: a stream of releases
on many replicas cannot keep a revocation waiting.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from kbs_rim.adapters.db.engine import Database
from kbs_rim.adapters.db.models import ChangeRow, RegistryStateRow
from kbs_rim.errors import StoreUnavailable
from kbs_rim.ledger.records import ChangeRecord

REGISTRY_LOCK = 0x6B62735F72696D01
"""Advisory lock key; PostgreSQL's key space is per database. ``kbs_rim`` in ASCII, and a number."""


class RegistryChange:
    """A transaction that may change the registry. What it reads cannot change before it ends."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def record(self, change: ChangeRecord) -> None:
        """Write down that the registry changed; without this call nothing may have been changed."""
        await self.session.execute(update(RegistryStateRow).values(sequence=RegistryStateRow.sequence + 1))
        await write_change(self.session, change)


@asynccontextmanager
async def changing_registry(database: Database) -> AsyncIterator[RegistryChange]:
    """Open a transaction that excludes every other change and every release."""
    async with database.writing() as session:
        if database.is_sqlite:
            await session.connection()  # begins, and so takes the lock, now and not at the first statement
        else:
            await session.execute(select(func.pg_advisory_xact_lock(REGISTRY_LOCK)))
        yield RegistryChange(session)


@asynccontextmanager
async def unchanged_registry(database: Database) -> AsyncIterator[AsyncSession]:
    """Open a transaction that excludes every change, but not other releases."""
    async with database.writing() as session:
        if database.is_sqlite:
            await session.connection()
        else:
            await session.execute(select(func.pg_advisory_xact_lock_shared(REGISTRY_LOCK)))
        yield session


async def read_sequence(session: AsyncSession) -> int:
    """Return the present sequence; raise ``StoreUnavailable`` if the row is gone."""
    sequence: int | None = await session.scalar(select(RegistryStateRow.sequence))
    if sequence is None:
        raise StoreUnavailable("the database has lost the sequence of the registry")
    return sequence


async def write_change(session: AsyncSession, change: ChangeRecord) -> None:
    """Append an administrative change."""
    await session.execute(
        insert(ChangeRow).values(at=change.at, actor=change.actor, action=change.action, subject=change.subject, detail=dict(change.detail))
    )
