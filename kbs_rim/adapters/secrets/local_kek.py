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
_MOUNTED_SECRETS = Path("/run/secrets")
"""Where container engines mount secrets: readable by every user inside the container, of which there is one."""


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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(KEY_SIZE))
        file.flush()
        os.fsync(file.fileno())


def _read_key(path: Path) -> bytes:
    try:
        # Not blocking: opening a named pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(file.fileno())
            key = file.read(KEY_SIZE + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise ConfigurationError(f"secrets.kek_file: {path} cannot be read: {error.strerror}") from error
    if problem := _exposure(path, status):
        raise ConfigurationError(f"secrets.kek_file: {path} {problem}: chmod 600 {path}")
    if len(key) != KEY_SIZE:
        raise ConfigurationError(f"secrets.kek_file: {path} must hold exactly {KEY_SIZE} bytes, as `kbs-rim secret new-kek {path}` writes")
    return key


def _exposure(path: Path, status: os.stat_result) -> str | None:
    """Say who else may read or replace the key, None if nobody may.

    A group may read a file that belongs to root while we are somebody else: so do systemd's credentials and Kubernetes' volumes
    hand over secrets, and so PostgreSQL judges its key file.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        return "may be changed by others"
    if mode & 0o004 and not path.is_relative_to(_MOUNTED_SECRETS):
        return "may be read by everybody"
    if mode & 0o040 and not mode & 0o004 and not (status.st_uid == 0 and os.geteuid() != 0):
        return "may be read by its group"
    return None


def _id_of(key: bytes) -> str:
    return hashlib.sha256(_ID_DOMAIN + key).hexdigest()[:16]
