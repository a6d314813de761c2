"""Administrators and auditors."""

from datetime import datetime

from sqlalchemy import insert, or_, select, update

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import PrincipalRow
from kbs_rim.adapters.db.registry_state import write_change
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import Principal, PrincipalRole


class Principals:
    """Implements ``ports.PrincipalStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_principal(self, principal: Principal, token_sha256: bytes, change: ChangeRecord) -> None:
        """See ``ports.PrincipalStore``. A revoked principal keeps its name: the audit trail must stay unambiguous."""
        row = insert(PrincipalRow).values(
            name=principal.name,
            role=principal.role.value,
            token_sha256=token_sha256,
            created_at=principal.created_at,
            expires_at=principal.expires_at,
        )
        try:
            async with self._database.writing() as session:
                await session.execute(row)
                await write_change(session, change)
        except Conflict as error:
            raise Conflict("registry.principal-exists", "the name is or was a principal's", seen=principal.name) from error

    async def find_principal(self, token_sha256: bytes, at: datetime) -> Principal | None:
        """See ``ports.PrincipalStore``."""
        query = select(PrincipalRow).where(
            PrincipalRow.token_sha256 == token_sha256,
            PrincipalRow.revoked_at.is_(None),
            or_(PrincipalRow.expires_at.is_(None), PrincipalRow.expires_at > at),
        )
        async with self._database.reading() as session:
            row = await session.scalar(query)
        return None if row is None else _principal(row)

    async def list_principals(self) -> list[Principal]:
        """See ``ports.PrincipalStore``."""
        async with self._database.reading() as session:
            return [_principal(row) for row in await session.scalars(select(PrincipalRow).order_by(PrincipalRow.name))]

    async def revoke_principal(self, name: str, change: ChangeRecord) -> Principal:
        """See ``ports.PrincipalStore``. One who is revoked already is returned as he is."""
        revoked = (
            update(PrincipalRow)
            .where(PrincipalRow.name == name, PrincipalRow.revoked_at.is_(None))
            .values(revoked_at=change.at, revoked_by=change.actor)
            .returning(PrincipalRow)
            .execution_options(synchronize_session=False)
        )
        if not storable(name):
            raise _unknown()
        async with self._database.writing() as session:
            row = await session.scalar(revoked)
            if row is not None:
                await write_change(session, change)
                return _principal(row)
            known = await session.scalar(select(PrincipalRow).where(PrincipalRow.name == name))
            if known is None:
                raise _unknown()
            return _principal(known)


def _unknown() -> NotFound:
    return NotFound("registry.principal-unknown", "no principal of this name exists")


def _principal(row: PrincipalRow) -> Principal:
    return Principal(
        name=row.name,
        role=PrincipalRole(row.role),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked=row.revoked_at is not None,
    )
