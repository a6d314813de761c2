"""Challenges: issued by one replica, redeemed once by any."""

from datetime import datetime

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import ChallengeRow
from kbs_rim.errors import NotFound
from kbs_rim.ports import Challenge, ChallengeOutcome

_TABLE = ChallengeRow.__table__
_ISSUE = insert(ChallengeRow)
_REDEEM = (
    update(ChallengeRow)
    .where(ChallengeRow.id == bindparam("wanted"), ChallengeRow.redeemed_at.is_(None), ChallengeRow.expires_at > bindparam("at"))
    .values(redeemed_at=bindparam("at"))
    .returning(*_TABLE.c)
)
_KNOWN = select(ChallengeRow.redeemed_at).where(ChallengeRow.id == bindparam("wanted"))


class Challenges:
    """Implements ``ports.ChallengeStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue(self, challenge: Challenge) -> None:
        """See ``ports.ChallengeStore``. Raise ``NotFound`` for a secret whose name no database can hold."""
        if not storable(challenge.secret):
            raise NotFound("request.secret-unknown", "no secret of this name is registered")
        values = {
            "id": challenge.id,
            "secret": challenge.secret,
            "value": challenge.value,
            "salt": challenge.salt,
            "jwk": dict(challenge.jwk),
            "issued_at": challenge.issued_at,
            "expires_at": challenge.expires_at,
        }
        await self._database.write_rows(lambda connection: connection.execute(_ISSUE, values))

    async def redeem(self, challenge_id: str, at: datetime) -> Challenge | ChallengeOutcome:
        """See ``ports.ChallengeStore``.

        The UPDATE is the decision: of two that run at once, the second waits for the first and then no longer matches
        (PostgreSQL re-checks the condition on the new row; SQLite runs one after the other).
        """
        if not storable(challenge_id):
            return ChallengeOutcome.UNKNOWN
        return await self._database.write_rows(lambda connection: _redeem(connection, challenge_id, at))

    async def purge(self, before: datetime) -> int:
        """See ``ports.ChallengeStore``."""
        gone = delete(ChallengeRow).where(ChallengeRow.expires_at < before).returning(ChallengeRow.id)
        return await self._database.write(lambda session: len(session.scalars(gone).all()))


def _redeem(connection: Connection, challenge_id: str, at: datetime) -> Challenge | ChallengeOutcome:
    row = connection.execute(_REDEEM, {"wanted": challenge_id, "at": at}).one_or_none()
    if row is not None:
        return _challenge(row)
    known = connection.execute(_KNOWN, {"wanted": challenge_id}).one_or_none()
    if known is None:
        return ChallengeOutcome.UNKNOWN
    return ChallengeOutcome.EXPIRED if known.redeemed_at is None else ChallengeOutcome.REDEEMED


def _challenge(row: Row[*tuple[object, ...]]) -> Challenge:
    return Challenge(
        id=row.id,
        secret=row.secret,
        value=row.value,
        salt=row.salt,
        jwk=row.jwk,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
    )
