"""Writing a secret to a file that only its owner can read, all of it or nothing."""

import os
import secrets
from pathlib import Path


def write_secret(path: Path, value: bytes, *, replace: bool = False) -> None:
    """Write ``value`` to ``path`` with mode 0600, atomically; raise ``FileExistsError`` unless ``replace``.

    The bytes go to a new file in the same directory first, which is then linked (or renamed) into place: nobody ever sees half
    of a secret, and no other process can have the file open before.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
