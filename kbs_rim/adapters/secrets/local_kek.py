"""A key-encryption key in a local file: 32 bytes, read once, kept in memory.

Trusted with everything: whoever reads the file and the database reads every secret. Keep it out of the database's backups.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kbs_rim.errors import ConfigurationError, KeyUnavailable

KEY_SIZE = 32
_NONCE_SIZE = 12
_ID_DOMAIN = b"kbs_rim kek id"


class LocalKeyEncryptionKey:
    """Implements ``ports.KeyEncryptionKey`` with AES-256-GCM. Wrapped form: nonce (12 bytes) || ciphertext || tag."""

    def __init__(self, keys: Sequence[bytes], entropy: Callable[[int], bytes] = os.urandom) -> None:
        """The first key wraps; all unwrap, so that older ones serve until their secrets are stored anew."""
        if not keys or any(len(key) != KEY_SIZE for key in keys):
            raise ConfigurationError(f"a key-encryption key has exactly {KEY_SIZE} bytes")
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}
        self._id = _id_of(keys[0])
        self._entropy = entropy

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> "LocalKeyEncryptionKey":
        """Read one key a file; raise ``ConfigurationError`` if one cannot be read or others than its owner may read it."""
        return cls([_read_key(file) for file in files])

    @property
    def id(self) -> str:
        """First 16 hex digits of SHA-256(domain || key): names the key, tells nothing about it."""
        return self._id

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """See ``ports.KeyEncryptionKey``."""
        nonce = self._entropy(_NONCE_SIZE)
        return nonce + self._ciphers[self._id].encrypt(nonce, data_key, context)

    async def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        """See ``ports.KeyEncryptionKey``."""
        cipher = self._ciphers.get(kek_id)
        if cipher is None:
            raise KeyUnavailable(f"the key-encryption key {kek_id} is not configured")
        try:
            return cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], context)
        except (InvalidTag, ValueError):
            raise KeyUnavailable("a wrapped key does not belong to this key-encryption key or to this place") from None


def generate_key_file(path: Path) -> None:
    """Write a new random key that only its owner may read; raise ``FileExistsError`` if the file exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(KEY_SIZE))


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(f"secrets.kek_file: {path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(f"secrets.kek_file: {path} may be read by others: chmod 600 {path}")
    if len(key) != KEY_SIZE:
        raise ConfigurationError(f"secrets.kek_file: {path} must hold exactly {KEY_SIZE} bytes, as `kbs-rim secret new-kek {path}` writes")
    return key


def _id_of(key: bytes) -> str:
    return hashlib.sha256(_ID_DOMAIN + key).hexdigest()[:16]
