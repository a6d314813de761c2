"""Secrets at rest, who may have them, and the keys that wrap them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kbs_rim.ledger.records import ChangeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInfo:
    """What may be known about a secret: everything but its value. ``path`` is ``repository/type/tag``."""

    path: str
    key_id: str
    workloads: tuple[str, ...]
    versions: tuple["SecretVersionInfo", ...]
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersionInfo:
    """One stored version."""

    version: int
    active: bool
    created_at: datetime
    created_by: str
    kek_id: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SealedVersion:
    """A secret version at rest: AES-256-GCM under a data key, the data key wrapped by a key-encryption key."""

    version: int
    kek_id: str
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes


class SecretReader(Protocol):
    """Reads what is known about secrets; cannot name a ciphertext."""

    async def get_secret(self, name: str) -> SecretInfo:
        """Find by path or by key id; raise ``NotFound``."""
        ...

    async def list_secrets(self, *, after: str | None = None, limit: int = 100) -> list[SecretInfo]:
        """Return secrets ordered by path."""
        ...

    async def secrets_bound_to(self, workloads: Sequence[str]) -> list[SecretInfo]:
        """Return every secret that at least one of the workloads may have, ordered by path."""
        ...


class SecretWriter(SecretReader, Protocol):
    """Stores secrets and who may have them."""

    async def create_secret(self, path: str, key_id: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """Create without a version; raise ``Conflict`` if path or key id is taken, ``NotFound`` for an unknown workload."""
        ...

    async def add_version(self, path: str, sealed: SealedVersion, change: ChangeRecord) -> SecretInfo:
        """Store ``sealed.version``, which must be the next one; raise ``Conflict`` if another writer was first."""
        ...

    async def revoke_version(self, path: str, version: int, change: ChangeRecord) -> SecretInfo:
        """Make a version unusable for ever and erase its ciphertext; raise ``NotFound``."""
        ...

    async def bind_secret(self, path: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """Replace the set of workloads that may have the secret; raise ``NotFound``."""
        ...


class SecretOpener(Protocol):
    """The one role that can name a ciphertext. Only the release path holds it."""

    async def newest_version(self, path: str) -> SealedVersion:
        """Return the newest active version; raise ``NotFound``."""
        ...


class KeyEncryptionKey(Protocol):
    """Wraps data keys. Raises ``KeyUnavailable``."""

    @property
    def id(self) -> str:
        """Names the key, so that rotation can be followed."""
        ...

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Wrap a 32-byte data key; ``context`` (secret path and version) is authenticated."""
        ...

    async def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Unwrap; fails if ``context`` or the key differ."""
        ...
