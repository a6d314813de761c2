"""Compressed streams with a budget: gzip, bzip2, xz, lzma, zstd; what unpacks to too much is refused while it does.

Formats: RFC 1952 (gzip), the xz file format 1.2, RFC 8878 (zstd). As the usual tools do, streams that follow each other are one.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.byte_streams import CHUNK_BYTES, Readable
from kbs_rim.image_sources.source_limits import SourceLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP_WINDOW = 31
_ERRORS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)
"""What the decompressors raise for damaged input; bz2 raises ``OSError`` and ``ValueError``."""


class Packing(StrEnum):
    """How a stream is compressed. Values are the usual suffixes of file names."""

    NONE = ""
    GZIP = "gz"
    BZIP2 = "bz2"
    XZ = "xz"
    LZMA = "lzma"
    ZSTD = "zst"


_MAGICS = {
    b"\x1f\x8b\x08": Packing.GZIP,
    b"BZh": Packing.BZIP2,
    b"\xfd7zXZ\0": Packing.XZ,
    b"\x28\xb5\x2f\xfd": Packing.ZSTD,
    b"\x5d\0\0": Packing.LZMA,
}


def packing_of(head: bytes) -> Packing:
    """Return how a stream that begins with ``head`` is compressed."""
    return next((packing for magic, packing in _MAGICS.items() if head.startswith(magic)), Packing.NONE)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the interface that all the others have."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP_WINDOW)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _factory(packing: Packing, limits: SourceLimits) -> Callable[[], _Decompressor]:
    memory = limits.decompressor_bytes
    window = memory.bit_length() - 1
    makers: dict[Packing, Callable[[], _Decompressor]] = {
        Packing.GZIP: _Gunzip,
        Packing.BZIP2: bz2.BZ2Decompressor,
        Packing.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory),
        Packing.LZMA: lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=memory),
        Packing.ZSTD: lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window}),
    }
    return makers[packing]


class Unpacked:
    """The unpacked bytes of a source, at most ``budget`` of them.

    Raises ``RefusedSource``: ``source.compressed`` (damaged, cut off, needs too much memory), ``source.too-large``.
    """

    def __init__(self, source: Readable, packing: Packing, limits: SourceLimits, budget: int | None = None) -> None:
        """``budget`` is in bytes; ``limits.unpacked_bytes`` if it is not given."""
        self._source = source
        self._packing = packing
        self._budget = limits.unpacked_bytes if budget is None else min(budget, limits.unpacked_bytes)
        self._buffer, self._buffer_at = b"", 0
        self._new = None if packing is Packing.NONE else _factory(packing, limits)
        self._current = self._new() if self._new else None
        self._ended = False
        self.offset = 0

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` unpacked bytes, and none only at the end."""
        if self._current is None:
            data = self._source.read(size)
        else:
            if self._buffer_at == len(self._buffer):
                self._buffer, self._buffer_at = self._unpack(), 0
            data = self._buffer[self._buffer_at : self._buffer_at + size]
            self._buffer_at += len(data)
        self.offset += len(data)
        if self.offset > self._budget:
            raise RefusedSource("source.too-large", "the archive unpacks to more than is allowed", expected=f"at most {self._budget} bytes")
        return data

    def _unpack(self) -> bytes:
        """Return the next bytes, at most ``CHUNK_BYTES``."""
        packed = b""
        while not self._ended and self._current:
            if self._current.eof:
                packed = self._next_stream(self._current.unused_data)
                continue
            if not packed and self._current.needs_input:
                packed = self._source.read(CHUNK_BYTES)
            try:
                data = self._current.decompress(packed, CHUNK_BYTES)
            except MemoryError:
                raise RefusedSource("source.compressed", f"the {self._packing} stream needs too much memory") from None
            except _ERRORS as error:
                raise RefusedSource("source.compressed", f"the {self._packing} stream is damaged: {error}") from None
            if data:
                return data
            if not packed and not self._current.eof:
                raise RefusedSource("source.compressed", f"the {self._packing} stream is cut off")
            packed = b""
        return b""

    def _next_stream(self, unused: bytes) -> bytes:
        """Begin the stream that follows, and return its first bytes; note the end if there is none."""
        unused = unused or self._source.read(CHUNK_BYTES)
        if self._packing is Packing.XZ:
            unused = self._without_padding(unused)
        if not unused or self._packing is Packing.LZMA or self._new is None:
            self._ended = True
            if unused:
                raise RefusedSource("source.compressed", "something follows the end of the lzma stream")
            return b""
        self._current = self._new()
        return unused

    def _without_padding(self, unused: bytes) -> bytes:
        while unused and not (unused := unused.lstrip(b"\0")):
            unused = self._source.read(CHUNK_BYTES)
        return unused
