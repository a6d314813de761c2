"""Digests over parts of a stream: each over pieces of the file and fixed bytes, in an order of its own.

A PE image is hashed with holes in it, and the initrd that systemd-stub assembles takes sections in another order than they
have in the file. Both are computed while the file passes once. Only what comes earlier in the file than in the digest is
held in memory; ``held_bytes`` tells how much that will be, before anything is read.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kbs_rim.evidence.hash_algorithm import HashAlgorithm

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` up to but not including ``end`` of a file. Raises ``ValueError`` if that is no range."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"{self.start} to {self.end} is no range of bytes")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


Piece = Span | bytes
"""Bytes of the file, or bytes that do not stand in it (padding, the header of an archive)."""


def held_bytes(pieces: Sequence[Piece]) -> int:
    """Return how many bytes of the file must be kept while ``pieces`` are hashed in one pass over it."""
    held = read_until = 0
    for piece in pieces:
        if isinstance(piece, Span):
            held += min(piece.size, max(0, read_until - piece.start))
            read_until = max(read_until, piece.end)
    return held


class _Taker(Protocol):
    def take(self, index: int, data: memoryview, *, last: bool) -> None: ...


class _OrderedDigest:
    """Hashes pieces in their order, whatever the order in which their bytes come."""

    def __init__(self, pieces: Sequence[Piece], algorithms: Iterable[HashAlgorithm]) -> None:
        self.pieces = pieces
        self._hashes = {algorithm: algorithm.new() for algorithm in algorithms}
        self._waiting: dict[int, bytearray] = {}
        self._complete = {index for index, piece in enumerate(pieces) if isinstance(piece, Span) and not piece.size}
        self._now = 0
        self._go_on()

    def take(self, index: int, data: memoryview, *, last: bool) -> None:
        if index == self._now:
            self._hash(data)
        else:
            self._waiting.setdefault(index, bytearray()).extend(data)
        if last:
            self._complete.add(index)
        self._go_on()

    def digests(self) -> dict[HashAlgorithm, bytes]:
        if self._now < len(self.pieces):
            raise ValueError("the file ended before all its pieces were seen")
        return {algorithm: found.digest() for algorithm, found in self._hashes.items()}

    def _go_on(self) -> None:
        while self._now < len(self.pieces):
            piece = self.pieces[self._now]
            if isinstance(piece, bytes):
                self._hash(piece)
            else:
                if waiting := self._waiting.pop(self._now, None):
                    self._hash(waiting)
                if self._now not in self._complete:
                    return
            self._now += 1

    def _hash(self, data: bytes | bytearray | memoryview) -> None:
        for found in self._hashes.values():
            found.update(data)


class _Kept:
    """Keeps one span."""

    def __init__(self) -> None:
        self.content = bytearray()

    def take(self, index: int, data: memoryview, *, last: bool) -> None:
        self.content += data


class SpanReader(Generic[_Name]):
    """Computes any number of such digests, and keeps small spans, in one pass over a file.

    The work is that of hashing the pieces, plus a little for each block and each span; spans that are not open cost nothing.
    """

    def __init__(self, algorithms: Sequence[HashAlgorithm] = tuple(HashAlgorithm)) -> None:
        """Digests are computed with each of ``algorithms``."""
        self._algorithms = algorithms
        self._digests: dict[_Name, _OrderedDigest] = {}
        self._kept: dict[_Name, _Kept] = {}
        self._to_come: list[tuple[Span, int, _Taker]] = []
        self._open: list[tuple[Span, int, _Taker]] = []
        self._position = 0

    def add_digest(self, name: _Name, pieces: Sequence[Piece]) -> None:
        """Ask for the digests of ``pieces`` in this order. Ask for everything before the first ``update``."""
        found = self._digests[name] = _OrderedDigest(pieces, self._algorithms)
        self._expect((piece, index, found) for index, piece in enumerate(pieces) if isinstance(piece, Span) and piece.size)

    def add_content(self, name: _Name, span: Span) -> None:
        """Ask for the bytes of ``span`` themselves."""
        kept = self._kept[name] = _Kept()
        self._expect([(span, 0, kept)] if span.size else [])

    def _expect(self, wanted: Iterable[tuple[Span, int, _Taker]]) -> None:
        if self._position:
            raise ValueError("ask before the file is read")
        self._to_come.extend(wanted)

    def update(self, block: memoryview) -> None:
        """Take the next bytes of the file."""
        if not self._position:
            self._to_come.sort(key=lambda item: item[0].start, reverse=True)
        start, end = self._position, self._position + len(block)
        while self._to_come and self._to_come[-1][0].start < end:
            self._open.append(self._to_come.pop())
        for span, index, taker in self._open:
            taker.take(index, block[max(0, span.start - start) : span.end - start], last=span.end <= end)
        self._open = [item for item in self._open if item[0].end > end]
        self._position = end

    def finish(self) -> tuple[Mapping[_Name, Mapping[HashAlgorithm, bytes]], Mapping[_Name, bytes]]:
        """Return digests and contents by name. Raises ``ValueError`` if the file ended within a span."""
        if self._to_come or self._open:
            raise ValueError("the file ended before all its pieces were seen")
        digests = {name: found.digests() for name, found in self._digests.items()}
        return digests, {name: bytes(kept.content) for name, kept in self._kept.items()}
