"""Reading forward only: counted, hashed, cut into windows. An archive is read once, and its digest is that of the bytes we used."""

import hashlib
from collections.abc import Iterator
from typing import Protocol

from kbs_rim.errors import RefusedSource

CHUNK_BYTES = 256 * 1024


class Readable(Protocol):
    """What a file, a decompressor and a window have in common."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, and none only at the end."""
        ...


class HashingReader:
    """Passes bytes on and hashes them: a file that changes while it is read has the digest of what was read."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes."""
        data = self._source.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    def finish(self) -> str:
        """Read to the end and return the SHA-256 of everything, in hex."""
        drain(self)
        return self._sha256.hexdigest()


class Window:
    """The next ``size`` bytes of a source, as a source of its own. Raises ``RefusedSource`` (``source.archive``) if they are fewer."""

    def __init__(self, source: Readable, size: int) -> None:
        self._source = source
        self.left = size

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none behind the window."""
        wanted = min(size, self.left)
        data = self._source.read(wanted) if wanted else b""
        if wanted and not data:
            raise RefusedSource("source.archive", "the archive is cut off", expected=f"{self.left} bytes more")
        self.left -= len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """Yield what is left."""
        while chunk := self.read(CHUNK_BYTES):
            yield chunk


def read_up_to(source: Readable, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end."""
    pieces = []
    while size and (piece := source.read(min(size, CHUNK_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def drain(source: Readable) -> None:
    """Read to the end and forget it."""
    while source.read(CHUNK_BYTES):
        pass
