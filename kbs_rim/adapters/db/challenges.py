"""Challenges: issued by one replica, redeemed once by any."""

from datetime import datetime

from sqlalchemy import delete, insert, select, update

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import ChallengeRow
from kbs_rim.errors import NotFound
from kbs_rim.ports import Challenge, ChallengeOutcome


class Challenges:
    """Implements ``ports.ChallengeStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue(self, challenge: Challenge) -> None:
        """See ``ports.ChallengeStore``. Raise ``NotFound`` for a secret whose name no database can hold."""
        if not storable(challenge.secret):
            raise NotFound("request.secret-unknown", "no secret of this name is registered")
        async with self._database.writing() as session:
            await session.execute(
                insert(ChallengeRow).values(
                    id=challenge.id,
                    secret=challenge.secret,
                    value=challenge.value,
                    salt=challenge.salt,
                    jwk=dict(challenge.jwk),
                    issued_at=challenge.issued_at,
                    expires_at=challenge.expires_at,
                )
            )

    async def redeem(self, challenge_id: str, at: datetime) -> Challenge | ChallengeOutcome:
        """See ``ports.ChallengeStore``.

        The UPDATE is the decision: of two that run at once, the second waits for the first and then no longer matches
        (PostgreSQL re-checks the condition on the new row; SQLite runs one after the other).
        """
        if not storable(challenge_id):
            return ChallengeOutcome.UNKNOWN
        redeemed = (
            update(ChallengeRow)
            .where(ChallengeRow.id == challenge_id, ChallengeRow.redeemed_at.is_(None), ChallengeRow.expires_at > at)
            .values(redeemed_at=at)
            .returning(ChallengeRow)
            .execution_options(synchronize_session=False)
        )
        async with self._database.writing() as session:
            row = await session.scalar(redeemed)
            if row is not None:
                return _challenge(row)
            known = await session.scalar(select(ChallengeRow).where(ChallengeRow.id == challenge_id))
        if known is None:
            return ChallengeOutcome.UNKNOWN
        return ChallengeOutcome.EXPIRED if known.redeemed_at is None else ChallengeOutcome.REDEEMED

    async def purge(self, before: datetime) -> int:
        """See ``ports.ChallengeStore``."""
        async with self._database.writing() as session:
            gone = await session.scalars(delete(ChallengeRow).where(ChallengeRow.expires_at < before).returning(ChallengeRow.id))
            return len(gone.all())


def _challenge(row: ChallengeRow) -> Challenge:
    return Challenge(
        id=row.id,
        secret=row.secret,
        value=row.value,
        salt=row.salt,
        jwk=row.jwk,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
    )
