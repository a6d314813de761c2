"""Whether the database can be used."""

import asyncio

from sqlalchemy import text
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.engine import Database
from kbs_rim.adapters.db.models import SCHEMA_VERSION
from kbs_rim.adapters.db.registry_state import read_sequence
from kbs_rim.errors import StoreUnavailable

_DEADLINE_S = 5


class StoreHealth:
    """Implements ``ports.Health``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check_store(self) -> None:
        """See ``ports.Health``. Answers within five seconds."""
        try:
            async with asyncio.timeout(_DEADLINE_S):
                version = await self._database.read(_version)
        except TimeoutError as error:
            raise StoreUnavailable(f"the database did not answer within {_DEADLINE_S} s") from error
        if version != SCHEMA_VERSION:
            raise StoreUnavailable(f"the database has schema {version}, this program needs {SCHEMA_VERSION}: run kbs-rim db upgrade")


def _version(session: Session) -> str | None:
    read_sequence(session)
    version: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return version
