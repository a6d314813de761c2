"""Administrators and auditors."""

from datetime import datetime

from sqlalchemy import insert, or_, select, update
from sqlalchemy.orm import Session

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

        def add(session: Session) -> None:
            session.execute(row)
            write_change(session, change)

        try:
            await self._database.write(add)
        except Conflict as error:
            raise Conflict("registry.principal-exists", "the name is or was a principal's", seen=principal.name) from error

    async def find_principal(self, token_sha256: bytes, at: datetime) -> Principal | None:
        """See ``ports.PrincipalStore``."""
        query = select(PrincipalRow).where(
            PrincipalRow.token_sha256 == token_sha256,
            PrincipalRow.revoked_at.is_(None),
            or_(PrincipalRow.expires_at.is_(None), PrincipalRow.expires_at > at),
        )
        row = await self._database.read(lambda session: session.scalar(query))
        return None if row is None else _principal(row)

    async def list_principals(self) -> list[Principal]:
        """See ``ports.PrincipalStore``."""
        rows = await self._database.read(lambda session: session.scalars(select(PrincipalRow).order_by(PrincipalRow.name)).all())
        return [_principal(row) for row in rows]

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

        def revoke(session: Session) -> Principal:
            row = session.scalar(revoked)
            if row is not None:
                write_change(session, change)
                return _principal(row)
            known = session.scalar(select(PrincipalRow).where(PrincipalRow.name == name))
            if known is None:
                raise _unknown()
            return _principal(known)

        return await self._database.write(revoke)


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
