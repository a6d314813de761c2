"""RMM operations and the RIM chain for RMM 1.0 and RMM 2.0.

Implements the RIM of the specification (RMM 1.0 B4.3.1.4 REALM_CREATE, B4.3.9.4 DATA_CREATE, B4.3.12.4 REC_CREATE,
B4.3.18.4 RTT_INIT_RIPAS, as TF-RMM does them). Raw fields are hashed as the host gave them, never normalised: a host may
set ``sve_vl`` without the SVE flag, and the RMM measures it all the same.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, IntFlag

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.chain_kernel import DESCRIPTOR_LENGTH, RIM_FIELD_SIZE, Run, extend_run, in_use

_U64_MAX = (1 << 64) - 1
MIN_IPA_BITS, MAX_IPA_BITS = 32, 52
"""Bounds of ``s2sz`` that any RMM accepts (52 needs LPA2)."""


class RmmVersion(Enum):
    """Which measurement rules apply. The token does not tell (TF-RMM v0.9.0 has 2.0 rules under a 1.0 profile)."""

    V1_0 = "1.0"
    V2_0 = "2.0"

    @property
    def measures_ripas(self) -> bool:
        """RMM 1.x measures each RTT entry whose RIPAS it initialises; RMM 2.0 does not (TF-RMM bdb07f46)."""
        return self is RmmVersion.V1_0


class RealmFlags(IntFlag):
    """Bits of the measured ``flags`` field of the realm parameters."""

    LPA2 = 1 << 0
    SVE = 1 << 1
    PMU = 1 << 2
    DA = 1 << 3
    MEC_PRIVATE = 1 << 7


def _check_u64(name: str, value: int) -> None:
    if not 0 <= value <= _U64_MAX:
        raise ValueError(f"{name} must fit 64 bits")


def _check_u8(name: str, value: int) -> None:
    if not 0 <= value <= 0xFF:
        raise ValueError(f"{name} must fit 8 bits")


@dataclass(frozen=True, slots=True)
class RealmCreate:
    """RMI_REALM_CREATE: the seven measured realm parameters, raw RMI encodings.

    ``num_bps`` and ``num_wps`` are counts minus one, ``sve_vl`` is the vector length divided by 128 minus one.
    """

    hash_algorithm: HashAlgorithm
    flags: int
    s2sz: int
    sve_vl: int = 0
    num_bps: int = 0
    num_wps: int = 0
    pmu_num_ctrs: int = 0

    def __post_init__(self) -> None:
        _check_u64("flags", self.flags)
        for name in ("s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs"):
            _check_u8(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class DataCreate:
    """RMI_DATA_CREATE (2.0: RMI_RTT_DATA_MAP_INIT) of one granule. ``content_digest`` None: not measured."""

    ipa: int
    content_digest: bytes | None

    def __post_init__(self) -> None:
        _check_u64("ipa", self.ipa)


@dataclass(frozen=True, slots=True)
class RipasEntry:
    """One RTT entry [base, top) whose RIPAS RMM 1.x set to RAM and measured."""

    base: int
    top: int

    def __post_init__(self) -> None:
        _check_u64("base", self.base)
        _check_u64("top", self.top)


@dataclass(frozen=True, slots=True)
class RecCreate:
    """The measurement of one RMI_REC_CREATE: entry state of a vCPU, all 64 bits of ``flags`` included.

    RMI_REC_CREATE takes it only for a REC with bit 0 of ``flags`` (runnable).
    """

    flags: int
    pc: int
    gprs: tuple[int, int, int, int, int, int, int, int]

    def __post_init__(self) -> None:
        _check_u64("flags", self.flags)
        _check_u64("pc", self.pc)
        if len(self.gprs) != 8:
            raise ValueError("a REC has exactly eight measured general purpose registers")
        for value in self.gprs:
            _check_u64("gpr", value)

    @property
    def runnable(self) -> bool:
        """True if the host may run this vCPU from the start."""
        return bool(self.flags & 1)


RmmOperation = RealmCreate | DataCreate | RipasEntry | RecCreate


def realm_params_page(params: RealmCreate) -> bytes:
    """Return the 4096 bytes that REALM_CREATE hashes. Host fields that the RMM does not measure are zero."""
    page = bytearray(GRANULE_SIZE)
    struct.pack_into("<Q", page, 0x00, params.flags)
    page[0x08] = params.s2sz
    page[0x10] = params.sve_vl
    page[0x18] = params.num_bps
    page[0x20] = params.num_wps
    page[0x28] = params.pmu_num_ctrs
    page[0x30] = params.hash_algorithm.rmi_code
    return bytes(page)


def rec_params_page(rec: RecCreate) -> bytes:
    """Return the 4096 bytes whose hash is the content of a REC descriptor."""
    page = bytearray(GRANULE_SIZE)
    struct.pack_into("<Q", page, 0x000, rec.flags)
    struct.pack_into("<Q", page, 0x200, rec.pc)
    struct.pack_into("<8Q", page, 0x300, *rec.gprs)
    return bytes(page)


class RimChain:
    """The RIM of one realm while it is being built.

    Descriptor (256 bytes): type u8 @0x00, length u64 @0x08, old RIM 64 bytes @0x10, then by type. The old RIM and the
    content field are zero padded to 64 bytes inside the hash; the value outside is cut to the digest size.
    """

    def __init__(
        self, rmm: RmmVersion, params: RealmCreate, *, reached: bytes | None = None, pause: Callable[[], None] | None = None
    ) -> None:
        """Start with RMI_REALM_CREATE: RIM = H(parameter page); or go on from a RIM that was ``reached`` earlier.

        ``pause`` is called every few thousand steps of a long run; what it raises ends the run.
        """
        self.rmm = rmm
        self.hash_algorithm = params.hash_algorithm
        self._digest_of = params.hash_algorithm.digest
        self._pad = bytes(RIM_FIELD_SIZE - params.hash_algorithm.digest_size)
        self._rim = self._digest_of(realm_params_page(params)) if reached is None else reached
        self._head = {kind: struct.pack("<B7xQ", kind, DESCRIPTOR_LENGTH) for kind in (0, 1, 2)}
        self._pause = pause

    @property
    def value(self) -> bytes:
        """The RIM, cut to the digest size of the realm's hash."""
        return self._rim

    def data(self, ipa: int, content_digest: bytes | None) -> None:
        """Extend with one DATA granule; None for a granule whose content is not measured."""
        if content_digest is None:
            self._extend(0, struct.pack("<QQ", ipa, 0) + bytes(160))
            return
        if len(content_digest) != self.hash_algorithm.digest_size:
            raise ValueError("a granule digest of another algorithm than the realm's")
        self._extend(0, struct.pack("<QQ", ipa, 1) + content_digest + self._pad + bytes(96))

    def data_run(self, ipa: int, digests: bytes | memoryview) -> None:
        """Extend with consecutive measured granules from ``ipa`` on; ``digests`` is their digests laid end to end."""
        self._extend_run(Run.DATA, ipa, len(digests) // self.hash_algorithm.digest_size, digests=digests)

    def unmeasured_run(self, ipa: int, count: int) -> None:
        """Extend with ``count`` consecutive granules from ``ipa`` on whose content is not measured."""
        self._extend_run(Run.UNMEASURED, ipa, count)

    def ripas_run(self, base: int, size: int, count: int) -> None:
        """Extend with ``count`` consecutive RTT entries of ``size`` bytes; nothing happens under an RMM that does not measure RIPAS."""
        if self.rmm.measures_ripas:
            self._extend_run(Run.RIPAS, base, count, stride=size)

    def _extend_run(
        self, kind: Run, base: int, count: int, *, stride: int = GRANULE_SIZE, digests: bytes | memoryview | None = None
    ) -> None:
        self._rim = extend_run(
            in_use(), kind, self.hash_algorithm, self._rim, base, count, stride=stride, digests=digests, pause=self._pause
        )

    def ripas_entry(self, base: int, top: int) -> None:
        """Extend with one RTT entry; nothing happens under an RMM that does not measure RIPAS."""
        if self.rmm.measures_ripas:
            self._extend(2, struct.pack("<QQ", base, top) + bytes(160))

    def rec(self, rec: RecCreate) -> None:
        """Extend with a REC, as the RMM's measurement code does whatever the flags say.

        The caller decides: RMI_REC_CREATE measures runnable RECs only, so a replay of a log skips the others.
        """
        self._extend(1, self._digest_of(rec_params_page(rec)) + self._pad + bytes(112))

    def apply(self, operation: RmmOperation) -> None:
        """Extend with any operation but REALM_CREATE, which can only start a chain."""
        match operation:
            case DataCreate():
                self.data(operation.ipa, operation.content_digest)
            case RipasEntry():
                self.ripas_entry(operation.base, operation.top)
            case RecCreate():
                self.rec(operation)
            case RealmCreate():
                raise ValueError("a realm is created exactly once, before every other operation")

    def _extend(self, kind: int, body: bytes) -> None:
        self._rim = self._digest_of(b"".join((self._head[kind], self._rim, self._pad, body)))


def replay_operations(rmm: RmmVersion, operations: Iterable[RmmOperation]) -> bytes:
    """Return the RIM after ``operations``, the first of which must be the only ``RealmCreate``.

    Raises ``ValueError`` if it is not.
    """
    steps = iter(operations)
    first = next(steps, None)
    if not isinstance(first, RealmCreate):
        raise ValueError("the first operation must create the realm")
    chain = RimChain(rmm, first)
    for operation in steps:
        chain.apply(operation)
    return chain.value


def rtt_entry_sizes(s2sz: int) -> tuple[int, ...]:
    """Sizes in bytes of one RTT entry at each level, ascending, for ``s2sz`` IPA bits.

    Assumes the coarsest tables a hypervisor can build, with up to 16 concatenated start tables, as KVM does.
    """
    if not 12 < s2sz <= MAX_IPA_BITS:
        raise ValueError(f"an IPA width of {s2sz} bits is not possible")
    bits = s2sz - 12
    levels = -(-bits // 9)
    if levels > 1 and bits - 9 * (levels - 1) <= 4:
        levels -= 1
    return tuple(GRANULE_SIZE << (9 * level) for level in range(levels))


def ripas_entries(base: int, top: int, s2sz: int) -> Iterator[RipasEntry]:
    """Split [base, top) into the RTT entries that RMM 1.x measures when the tables below are fresh (greedy, ascending).

    Raises ``ValueError`` if the range is empty or not granule aligned. Count first with ``count_ripas_entries``.
    """
    _check_ripas_range(base, top)
    sizes = rtt_entry_sizes(s2sz)[::-1]
    current = base
    while current < top:
        for size in sizes:
            if current % size == 0 and current + size <= top:
                yield RipasEntry(current, current + size)
                current += size
                break


def ripas_runs(base: int, top: int, s2sz: int) -> Iterator[tuple[int, int, int]]:
    """Return what ``ripas_entries`` yields with neighbours of one size put together: (base, size, count) of each run.

    Raises ``ValueError`` as ``ripas_entries`` does.
    """
    _check_ripas_range(base, top)
    sizes = rtt_entry_sizes(s2sz)
    current = base
    while current < top:
        fitting = [size for size in sizes if current % size == 0 and current + size <= top]
        size = fitting[-1]
        # Entries of this size go on until a larger one fits or this one does not.
        larger = next((bigger for bigger in sizes if bigger > size and -(-current // bigger) * bigger + bigger <= top), None)
        end = top // size * size if larger is None else -(-current // larger) * larger
        yield current, size, (end - current) // size
        current = end


def count_ripas_entries(base: int, top: int, s2sz: int) -> int:
    """Return how many entries ``ripas_entries`` would yield, in time that does not depend on the size of the range."""
    _check_ripas_range(base, top)
    return _count(base, top, rtt_entry_sizes(s2sz))


def _count(base: int, top: int, sizes: tuple[int, ...]) -> int:
    size = sizes[-1]
    first, last = -(-base // size) * size, top // size * size
    if len(sizes) == 1:
        return (top - base) // size
    if first >= last:
        return _count(base, top, sizes[:-1])
    edges = sum(_count(low, high, sizes[:-1]) for low, high in ((base, first), (last, top)) if low < high)
    return (last - first) // size + edges


def _check_ripas_range(base: int, top: int) -> None:
    if not 0 <= base < top or base % GRANULE_SIZE or top % GRANULE_SIZE:
        raise ValueError(f"RIPAS range {base:#x}-{top:#x} is empty or not granule aligned")
