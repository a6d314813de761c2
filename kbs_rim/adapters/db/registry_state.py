"""The registry's sequence: how a release learns that trust changed underneath it.

Every change of images, workloads, secrets or bindings runs as ``change_registry``: alone, and with one step of the
sequence in the same transaction. A release compares the sequence after ``hold_registry``. On SQLite both are
``BEGIN IMMEDIATE`` transactions, so one follows the other. On PostgreSQL a transaction-level advisory lock does the same,
exclusive for changes and shared for releases. An advisory lock and not a row lock, because its queue is fair: a stream of releases
on many replicas cannot keep a revocation waiting.
"""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.engine import Database
from kbs_rim.adapters.db.models import ChangeRow, RegistryStateRow
from kbs_rim.errors import StoreUnavailable
from kbs_rim.ledger.records import ChangeRecord

T = TypeVar("T")
REGISTRY_LOCK = 0x6B62735F72696D01
"""Advisory lock key; PostgreSQL's key space is per database. ``kbs_rim`` in ASCII, and a number."""

_SEQUENCE = select(RegistryStateRow.sequence)
_STEP = update(RegistryStateRow).values(sequence=RegistryStateRow.sequence + 1)
_SHARE = select(func.pg_advisory_xact_lock_shared(REGISTRY_LOCK))
_EXCLUDE = select(func.pg_advisory_xact_lock(REGISTRY_LOCK))


class RegistryChange:
    """A transaction that may change the registry. What it reads cannot change before it ends."""

    def __init__(self, session: Session) -> None:
        """Exclude every other change and every release until the transaction of ``session`` ends."""
        self.session = session
        if _is_sqlite(session):
            session.connection()  # begins, and so takes the lock, now and not at the first statement
        else:
            session.execute(_EXCLUDE)
        self.sequence = read_sequence(session) + 1
        """What the sequence will be when this change is committed."""

    def record(self, *changes: ChangeRecord) -> None:
        """Write down what changed, with one step of the sequence; without this call nothing may have been changed."""
        self.session.execute(_STEP, execution_options={"synchronize_session": False})
        for change in changes:
            write_change(self.session, change)


async def change_registry(database: Database, work: Callable[[RegistryChange], T]) -> T:
    """Run ``work`` in a transaction that excludes every other change and every release."""
    return await database.write(lambda session: work(RegistryChange(session)))


def hold_registry(connection: Connection) -> None:
    """Exclude every change, but not other releases, until the transaction of ``connection`` ends. On SQLite it does so already."""
    if connection.dialect.name != "sqlite":
        connection.execute(_SHARE)


def read_sequence(session: Session) -> int:
    """Return the present sequence; raise ``StoreUnavailable`` if the row is gone."""
    return known_sequence(session.scalar(_SEQUENCE))


def known_sequence(sequence: int | None) -> int:
    """Return ``sequence``; raise ``StoreUnavailable`` if it is None, because the row is gone."""
    if sequence is None:
        raise StoreUnavailable("the database has lost the sequence of the registry")
    return sequence


def write_change(session: Session, change: ChangeRecord) -> None:
    """Append an administrative change."""
    values = {"at": change.at, "actor": change.actor, "action": change.action, "subject": change.subject, "detail": dict(change.detail)}
    session.execute(insert(ChangeRow), values)


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"
