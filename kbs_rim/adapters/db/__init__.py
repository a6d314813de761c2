"""The database: SQLite and PostgreSQL behind the storage ports.

Trusted for what it is asked to keep, and for the order of changes. Whoever can write to it can register images and bind secrets;
whoever can only read it gets no secret (each is encrypted under a key that the database does not have) and no bearer token.
"""

from dataclasses import dataclass

from kbs_rim.adapters.db.challenges import Challenges
from kbs_rim.adapters.db.engine import Database
from kbs_rim.adapters.db.health import StoreHealth
from kbs_rim.adapters.db.images import Images
from kbs_rim.adapters.db.principals import Principals
from kbs_rim.adapters.db.records import RecordQueries, Records
from kbs_rim.adapters.db.secrets import SecretMaterial, Secrets
from kbs_rim.adapters.db.trust import Trust
from kbs_rim.adapters.db.workloads import Workloads
from kbs_rim.ports import (
    ChallengeStore,
    Health,
    ImageWriter,
    PrincipalStore,
    RecordReader,
    RecordWriter,
    SecretOpener,
    SecretWriter,
    TrustReader,
    WorkloadWriter,
)


@dataclass(frozen=True, slots=True)
class Store:
    """One database in all its roles. Hand each component the role it needs, never the whole."""

    database: Database
    images: ImageWriter
    workloads: WorkloadWriter
    secrets: SecretWriter
    opener: SecretOpener
    trust: TrustReader
    challenges: ChallengeStore
    records: RecordWriter
    record_reader: RecordReader
    principals: PrincipalStore
    health: Health

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()


def open_store(url: str, *, pool_size: int = 5) -> Store:
    """Prepare the roles for ``sqlite:///...`` or ``postgresql://...``; nothing is connected before the first call.

    Raise ``ConfigurationError`` if the URL names no database that we can use.
    """
    database = Database(url, pool_size=pool_size)
    return Store(
        database=database,
        images=Images(database),
        workloads=Workloads(database),
        secrets=Secrets(database),
        opener=SecretMaterial(database),
        trust=Trust(database),
        challenges=Challenges(database),
        records=Records(database),
        record_reader=RecordQueries(database),
        principals=Principals(database),
        health=StoreHealth(database),
    )
