"""Secrets: administrators put them in through ``SecretVault``; only ``ReleaseVault`` takes one out, and only the broker holds it.

Each version is encrypted by AES-256-GCM under a data key of its own; that key is wrapped by the key-encryption key. Path and
version are authenticated in both, so that a row of the database cannot be moved to another secret.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kbs_rim.errors import InvalidDocument, KeyUnavailable
from kbs_rim.ledger.canonical import canonical_json
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.limits import Limits
from kbs_rim.ports import Clock, KeyEncryptionKey, SealedVersion, SecretInfo, SecretOpener, SecretWriter

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_PATH = re.compile(rf"{_PART}/{_PART}/{_PART}")
_KEY_ID = re.compile(_PART)
_DATA_KEY_SIZE, _NONCE_SIZE = 32, 12
_MAX_WORKLOADS = 64


class SecretVault:
    """Stores secrets, versions and bindings. Cannot read a value back."""

    def __init__(
        self, *, store: SecretWriter, kek: KeyEncryptionKey, clock: Clock, entropy: Callable[[int], bytes], limits: Limits
    ) -> None:
        """``entropy`` gives data keys and nonces."""
        self._store, self._kek, self._clock, self._entropy, self._limits = store, kek, clock, entropy, limits

    async def create(self, path: Any, *, key_id: Any, workloads: Any, value: bytes, actor: str) -> SecretInfo:
        """Create a secret with its first version. Raises ``InvalidDocument``, ``Conflict``, ``NotFound`` (workload)."""
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise InvalidDocument("document.secret", "path must be repository/type/tag of letters, digits, dots, dashes and underscores")
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            raise InvalidDocument("document.secret", "key_id must be 1 to 64 letters, digits, dots, dashes and underscores")
        names = _workload_names(workloads)
        self._check_value(value)
        sealed = await self._seal(path, 1, value)  # first, so that a key that is not there leaves no empty secret behind
        await self._store.create_secret(path, key_id, names, self._change(actor, "secret.create", path, {"workloads": names}))
        return await self._store.add_version(path, sealed, self._change(actor, "secret.version", path, {"version": 1}))

    async def put_version(self, path: str, value: bytes, *, actor: str) -> SecretInfo:
        """Store the next version. Raises ``NotFound``, or ``Conflict`` if another writer was first."""
        self._check_value(value)
        known = await self._store.get_secret(path)
        version = max((item.version for item in known.versions), default=0) + 1
        sealed = await self._seal(known.path, version, value)
        return await self._store.add_version(known.path, sealed, self._change(actor, "secret.version", known.path, {"version": version}))

    async def revoke_version(self, path: str, version: int, *, actor: str) -> SecretInfo:
        """Erase a version for ever. Raises ``NotFound``."""
        return await self._store.revoke_version(path, version, self._change(actor, "secret.revoke", path, {"version": version}))

    async def bind(self, path: str, workloads: Any, *, actor: str) -> SecretInfo:
        """Replace the set of workloads that may have the secret. Raises ``InvalidDocument``, ``NotFound``."""
        names = _workload_names(workloads)
        return await self._store.bind_secret(path, names, self._change(actor, "secret.bind", path, {"workloads": names}))

    async def get_secret(self, name: str) -> SecretInfo:
        """Find by path or key id. Raises ``NotFound``."""
        return await self._store.get_secret(name)

    async def list_secrets(self, *, after: str | None = None, limit: int = 100) -> list[SecretInfo]:
        """Return secrets ordered by path."""
        return await self._store.list_secrets(after=after, limit=limit)

    async def _seal(self, path: str, version: int, value: bytes) -> SealedVersion:
        context = secret_context(path, version)
        data_key, nonce = self._entropy(_DATA_KEY_SIZE), self._entropy(_NONCE_SIZE)
        return SealedVersion(
            version=version,
            kek_id=self._kek.id,
            wrapped_key=await self._kek.wrap(data_key, context),
            nonce=nonce,
            ciphertext=AESGCM(data_key).encrypt(nonce, value, context),
        )

    def _check_value(self, value: bytes) -> None:
        if not 1 <= len(value) <= self._limits.secret_bytes:
            raise InvalidDocument("document.secret", f"a secret has 1 to {self._limits.secret_bytes} bytes")

    def _change(self, actor: str, action: str, subject: str, detail: dict[str, Any]) -> ChangeRecord:
        return ChangeRecord(at=self._clock.now(), actor=actor, action=action, subject=subject, detail=detail)


class ReleaseVault:
    """The one place where a stored secret becomes plaintext."""

    def __init__(self, opener: SecretOpener, kek: KeyEncryptionKey) -> None:
        """Only the broker may be given this object."""
        self._opener, self._kek = opener, kek

    async def open(self, path: str) -> tuple[int, bytes]:
        """Return the newest active version and its value. Raises ``NotFound``, ``KeyUnavailable``."""
        sealed = await self._opener.newest_version(path)
        context = secret_context(path, sealed.version)
        data_key = await self._kek.unwrap(sealed.kek_id, sealed.wrapped_key, context)
        try:
            return sealed.version, AESGCM(data_key).decrypt(sealed.nonce, sealed.ciphertext, context)
        except (InvalidTag, ValueError):
            raise KeyUnavailable(f"version {sealed.version} of {path} was changed in the database") from None


def secret_context(path: str, version: int) -> bytes:
    """Return the associated data of a version: canonical JSON of its path and number."""
    return canonical_json({"path": path, "version": version})


def _workload_names(value: Any) -> list[str]:
    good = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)
    if not good or len(value) > _MAX_WORKLOADS:
        raise InvalidDocument("document.secret", f"workloads must be a list of at most {_MAX_WORKLOADS} names")
    return sorted(set(value))
