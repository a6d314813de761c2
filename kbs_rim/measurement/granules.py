"""Digests of an image's 4 KiB granules, as the RMM measures them when the image is loaded into a realm.

A VMM populates whole granules (zero bytes in front down to the granule start and behind up to its end) for the
two layouts that VMMs use: ``START`` (page aligned) and ``END`` (kvmtool's initrd, at the highest address below the
device tree that is a multiple of 4 and leaves at least one byte).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, KIB

Buffer = bytes | bytearray | memoryview
BLOCK_SIZE = 256 * KIB
"""Bytes that are hashed in all ways before the next ones are touched: small enough to stay in a CPU cache."""
_ZEROS = bytes(GRANULE_SIZE)
_ZERO_DIGESTS = {algorithm: algorithm.digest(_ZEROS) for algorithm in HashAlgorithm}


class Alignment(StrEnum):
    """How an image lies on the granules of the realm."""

    START = "start"
    END = "end"


def lead_of(alignment: Alignment, size: int) -> int:
    """Return how many zero bytes lie in front of an image of ``size`` bytes in its first granule.

    ``END`` is kvmtool's initrd rule: base = up(limit - (size + 4), 4) with a page aligned limit.
    """
    if alignment is Alignment.START:
        return 0
    return -(size + 4 & ~3) % GRANULE_SIZE


def granule_count(size: int, lead: int = 0) -> int:
    """Return how many granules an image of ``size`` bytes touches that begins ``lead`` bytes into its first one."""
    return -(-(lead + size) // GRANULE_SIZE)


def blocks_of(chunks: Iterable[Buffer] | Buffer) -> Iterator[memoryview]:
    """Cut data into blocks of exactly ``BLOCK_SIZE`` bytes (the last may be shorter); large chunks are not copied."""
    pending = bytearray()
    for chunk in (chunks,) if isinstance(chunks, Buffer) else chunks:
        view = memoryview(chunk).cast("B")
        while view:
            if not pending and len(view) >= BLOCK_SIZE:
                yield view[:BLOCK_SIZE]
                view = view[BLOCK_SIZE:]
                continue
            take = BLOCK_SIZE - len(pending)
            pending += view[:take]
            view = view[take:]
            if len(pending) == BLOCK_SIZE:
                yield memoryview(bytes(pending))
                pending.clear()
    if pending:
        yield memoryview(bytes(pending))


def granule_digests(data: Iterable[Buffer] | Buffer, algorithm: HashAlgorithm, lead: int = 0) -> bytes:
    """Return the digests of all granules of ``data``, end to end. ``lead`` is 0..4095 zero bytes in front of it."""
    hasher = _LayoutHasher(lead, (algorithm,))
    for block in blocks_of(data):
        hasher.update(block)
    return hasher.finish()[algorithm]


@dataclass(frozen=True, slots=True)
class HashedBytes:
    """Everything that one pass over ``size`` bytes gave: whole digests, and granule digests end to end."""

    size: int
    digests: Mapping[HashAlgorithm, bytes]
    granules: Mapping[tuple[HashAlgorithm, Alignment], bytes]


class ImageHasher:
    """Computes the digests of an image and of its granules in one pass, for every algorithm and both alignments.

    The size must be known beforehand, because the padding in front of an end-aligned image depends on it.
    """

    def __init__(self, size: int, algorithms: Sequence[HashAlgorithm] = tuple(HashAlgorithm)) -> None:
        """``size`` is the number of bytes that will come. Raises ``ValueError`` if it is not positive."""
        if size < 1:
            raise ValueError("an image has at least one byte")
        self._size = size
        self._seen = 0
        self._whole = {algorithm: algorithm.new() for algorithm in algorithms}
        leads = {alignment: lead_of(alignment, size) for alignment in Alignment}
        self._layouts = {lead: _LayoutHasher(lead, algorithms) for lead in set(leads.values())}
        self._leads = leads

    def update(self, block: memoryview) -> None:
        """Take the next bytes; blocks of ``BLOCK_SIZE`` are fastest."""
        for work in self.works(block):
            work()

    def works(self, block: memoryview) -> tuple[Callable[[], None], Callable[[], None]]:
        """Take the next bytes by two pieces of work that share nothing, the longer last; do both before the next bytes come."""
        self._seen += len(block)
        if self._seen > self._size:
            raise ValueError("more bytes than announced")
        return partial(self._update_whole, block), partial(self._update_layouts, block)

    def _update_whole(self, block: memoryview) -> None:
        for digest in self._whole.values():
            digest.update(block)

    def _update_layouts(self, block: memoryview) -> None:
        for layout in self._layouts.values():
            layout.update(block)

    def finish(self) -> HashedBytes:
        """Return the result. Raises ``ValueError`` if fewer bytes came than announced. Call it once."""
        if self._seen != self._size:
            raise ValueError("fewer bytes than announced")
        by_lead = {lead: layout.finish() for lead, layout in self._layouts.items()}
        return HashedBytes(
            self._size,
            {algorithm: digest.digest() for algorithm, digest in self._whole.items()},
            {(algorithm, alignment): by_lead[lead][algorithm] for alignment, lead in self._leads.items() for algorithm in self._whole},
        )


class _LayoutHasher:
    """Granule digests of one layout, in several algorithms."""

    def __init__(self, lead: int, algorithms: Sequence[HashAlgorithm]) -> None:
        if not 0 <= lead < GRANULE_SIZE:
            raise ValueError(f"the lead of an image is below {GRANULE_SIZE}, not {lead}")
        self._open = bytearray(lead)
        self._touched = False
        self._digests = {algorithm: bytearray() for algorithm in algorithms}

    def update(self, block: memoryview) -> None:
        self._touched = self._touched or len(block) > 0
        if self._open:
            missing = GRANULE_SIZE - len(self._open)
            self._open += block[:missing]
            block = block[missing:]
            if len(self._open) < GRANULE_SIZE:
                return
            self._hash(memoryview(bytes(self._open)))
            self._open.clear()
        whole = len(block) - len(block) % GRANULE_SIZE
        self._hash(block[:whole])
        self._open += block[whole:]

    def finish(self) -> dict[HashAlgorithm, bytes]:
        if self._open and self._touched:
            self._hash(memoryview(bytes(self._open).ljust(GRANULE_SIZE, b"\0")))
        return {algorithm: bytes(digests) for algorithm, digests in self._digests.items()}

    def _hash(self, granules: memoryview) -> None:
        pieces = [granules[at : at + GRANULE_SIZE] for at in range(0, len(granules), GRANULE_SIZE)]
        # Firmware is padded to the size of its flash: megabytes of zeros, whose digest is one.
        zeros = [piece.tobytes() == _ZEROS for piece in pieces]
        for algorithm, digests in self._digests.items():
            new, of_zeros = algorithm.constructor, _ZERO_DIGESTS[algorithm]
            digests += b"".join([of_zeros if zero else new(piece).digest() for piece, zero in zip(pieces, zeros, strict=True)])
