"""What an IGVM file has a loader ask the RMM for: the pages, measured or not, and the first vCPU's registers (igvm_defs, Arm CCA).

A file says neither how wide the address space is nor which RAM the realm has nor what the RMM's version is: those are arguments.
Pages that the host fills (parameters) are never measured.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, MIB
from kbs_rim.measurement.igvm import AARCH64, LARGEST_FILE, IgvmFile, IgvmHeader, IgvmType, refuse_igvm
from kbs_rim.measurement.rmm import DataCreate, RecCreate, RmmOperation

PLATFORM_CCA = 6
PLATFORMS: Mapping[int, str] = MappingProxyType({
    0: "native", 1: "VSM", 2: "SEV-SNP", 3: "TDX", 4: "SEV", 5: "SEV-ES", PLATFORM_CCA: "CCA",
})  # fmt: skip
_HASHES = {0: HashAlgorithm.SHA256, 1: HashAlgorithm.SHA512, 2: HashAlgorithm.SHA384}
_PLATFORM = struct.Struct("<IBBHQ")
"""compatibility mask, highest VTL, platform, version, boundary of shared addresses."""
_POLICY = struct.Struct("<IIQQBB6s")
"""mask, reserved, bits that must be 0, bits that must be 1, hash, live firmware activation, reserved."""
_PAGE = struct.Struct("<QIIIHH")
"""address, mask, file offset, flags, data type, reserved."""
_AREA = struct.Struct("<QII")
"""bytes, index, file offset."""
_INSERT = struct.Struct("<QII")
"""address, mask, index of the area."""
_CONTEXT = struct.Struct("<QIIHH")
"""address (0), mask, file offset, index of the vCPU, reserved."""
_MEMORY = struct.Struct("<QIIII")
"""address, mask, bytes, flags, reserved."""
_REGISTERS = struct.Struct("<10Q")
"""x0 to x7, pc, flags; the rest of the page is zero."""
_LARGEST_PARAMETERS = 16 * MIB
"""Bytes of all areas together: a few bytes of header stand for any number of pages. A device tree has up to 2 MiB."""
_MOST_PAGES = LARGEST_FILE // GRANULE_SIZE
_LARGE_PAGE, _UNMEASURED, _SHARED = 1, 2, 4
_IGNORED = frozenset({
    IgvmType.GUEST_POLICY, IgvmType.CORIM_DOCUMENT, IgvmType.CORIM_SIGNATURE, IgvmType.SNP_ID_BLOCK, IgvmType.VBS_MEASUREMENT,
    IgvmType.ERROR_RANGE,
})  # fmt: skip
_PARAMETERS = frozenset({
    IgvmType.VP_COUNT, IgvmType.SRAT, IgvmType.MADT, IgvmType.MMIO_RANGES, IgvmType.MEMORY_MAP, IgvmType.COMMAND_LINE, IgvmType.SLIT,
    IgvmType.PPTT, IgvmType.DEVICE_TREE, IgvmType.ENVIRONMENT_INFO,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class IgvmPolicy:
    """The realm's policy: its hash, attribute bits that must be clear or set, whether its firmware may be replaced while it runs."""

    hash_algorithm: HashAlgorithm
    must_be_zero: int
    must_be_one: int
    live_activation: bool


@dataclass(frozen=True, slots=True)
class IgvmPage:
    """One granule. ``content`` is None if it is not measured; ``host_filled`` says that the host writes it."""

    address: int
    content: bytes | memoryview | None = field(repr=False)
    host_filled: bool = False


@dataclass(frozen=True, slots=True)
class IgvmRec:
    """One vCPU."""

    number: int
    rec: RecCreate


@dataclass(frozen=True, slots=True)
class IgvmRun:
    """Pages that follow one another in memory and in the file and are all measured, or all not."""

    base: int
    measured: bool
    pages: tuple[IgvmPage, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.pages) * GRANULE_SIZE

    @property
    def content(self) -> bytes:
        """What is measured; nothing for pages that are not."""
        return b"".join(page.content or b"" for page in self.pages)


@dataclass(frozen=True, slots=True)
class IgvmLaunch:
    """All of a file that concerns a realm. ``parameters`` names what the host is asked to write, which nothing measures."""

    policy: IgvmPolicy | None
    steps: tuple[IgvmPage | IgvmRec, ...]
    parameters: tuple[str, ...]
    required_memory: tuple[tuple[int, int], ...]
    """Address and size in bytes: a hint to the host."""

    @property
    def pages(self) -> tuple[IgvmPage, ...]:
        """The pages, in the order of the file."""
        return tuple(step for step in self.steps if isinstance(step, IgvmPage))

    @property
    def recs(self) -> tuple[IgvmRec, ...]:
        """The vCPUs, in the order of the file."""
        return tuple(step for step in self.steps if isinstance(step, IgvmRec))

    def runs(self, *starts: int) -> tuple[IgvmRun, ...]:
        """Group the pages, in the order of the file; a run begins at each address of ``starts``, whatever is before it."""
        groups: list[list[IgvmPage]] = []
        for page in self.pages:
            last = groups[-1][-1] if groups and page.address not in starts else None
            if last is not None and last.address + GRANULE_SIZE == page.address and (last.content is None) == (page.content is None):
                groups[-1].append(page)
            else:
                groups.append([page])
        return tuple(IgvmRun(group[0].address, group[0].content is not None, tuple(group)) for group in groups)

    def operations(self, algorithm: HashAlgorithm) -> Iterator[RmmOperation]:
        """Yield what the RMM is asked for behind RMI_REALM_CREATE, in the order of the file; RIPAS is not in a file."""
        for step in self.steps:
            if isinstance(step, IgvmRec):
                yield step.rec
            else:
                yield DataCreate(step.address, None if step.content is None else algorithm.digest(step.content))


def read_launch(file: IgvmFile) -> IgvmLaunch:
    """Return what a loader does with a file on a platform with Arm CCA.

    Raises ``InvalidDocument`` (``document.igvm``): no platform CCA among those of the file, header fields that mean nothing, kinds of
    pages that a realm does not have, a page or vCPU twice, no vCPU.
    """
    return _Reader(file).launch()


class _Reader:
    """Goes through the headers once."""

    def __init__(self, file: IgvmFile) -> None:
        self._file = file
        self._mask = _cca_mask(file)
        self._policy: IgvmPolicy | None = None
        self._steps: list[IgvmPage | IgvmRec] = []
        self._used: set[int] = set()
        self._vcpus: set[int] = set()
        self._areas: dict[int, int] = {}
        self._filled = 0
        self._parameters: list[str] = []
        self._memory: list[tuple[int, int]] = []

    def launch(self) -> IgvmLaunch:
        readers = {
            IgvmType.CCA_POLICY: self._read_policy,
            IgvmType.PAGE_DATA: self._read_page,
            IgvmType.PARAMETER_AREA: self._read_area,
            IgvmType.PARAMETER_INSERT: self._read_insert,
            IgvmType.VP_CONTEXT: self._read_context,
            IgvmType.REQUIRED_MEMORY: self._read_memory,
        }
        for header in self._file.headers:
            if header.kind in readers:
                readers[IgvmType(header.kind)](header)
            elif header.kind in _PARAMETERS:
                self._parameters.append(IgvmType(header.kind).name.lower().replace("_", "-"))
            elif header.kind in (IgvmType.RELOCATABLE_REGION, IgvmType.PAGE_TABLE_RELOCATION):
                self._refuse_relocation(header)
            elif header.kind not in _IGNORED and header.kind != IgvmType.SUPPORTED_PLATFORM and not header.optional:
                raise refuse_igvm(f"header {header.kind:#x} is not known, and a loader may not pass over it")
        if not self._vcpus:
            raise refuse_igvm("starts no vCPU")
        return IgvmLaunch(self._policy, tuple(self._steps), tuple(dict.fromkeys(self._parameters)), tuple(self._memory))

    def _read_policy(self, header: IgvmHeader) -> None:
        mask, reserved, zeroes, ones, code, activation, rest = _fields(header, _POLICY)
        if not mask & self._mask:
            return
        if self._policy is not None or reserved or any(rest) or zeroes & ones or code not in _HASHES or activation > 1:
            raise refuse_igvm("the CCA policy stands twice, contradicts itself, or has values that mean nothing")
        self._policy = IgvmPolicy(_HASHES[code], zeroes, ones, bool(activation))

    def _read_page(self, header: IgvmHeader) -> None:
        address, mask, offset, flags, kind, reserved = _fields(header, _PAGE)
        if not mask & self._mask:
            return
        if kind or reserved or flags & ~_UNMEASURED:
            what = "shared" if flags & _SHARED else "of 2 MiB" if flags & _LARGE_PAGE else "of a kind that a realm does not have"
            raise refuse_igvm(f"the page at {address:#x} is {what}")
        content = self._file.page(offset)
        self._add(IgvmPage(address, None if flags & _UNMEASURED else content))

    def _read_area(self, header: IgvmHeader) -> None:
        size, index, _offset = _fields(header, _AREA)
        if index in self._areas or not size or size % GRANULE_SIZE:
            raise refuse_igvm(f"the parameter area {index} stands twice, or its size is no whole number of pages")
        self._filled += size
        if self._filled > _LARGEST_PARAMETERS:
            raise refuse_igvm(f"parameter areas have more than {_LARGEST_PARAMETERS} bytes")
        self._areas[index] = size

    def _read_insert(self, header: IgvmHeader) -> None:
        address, mask, index = _fields(header, _INSERT)
        if not mask & self._mask:
            return
        if index not in self._areas:
            raise refuse_igvm(f"the parameter area {index} is not there, or inserted twice")
        for page in range(address, address + self._areas.pop(index), GRANULE_SIZE):
            self._add(IgvmPage(page, None, host_filled=True))

    def _read_context(self, header: IgvmHeader) -> None:
        address, mask, offset, number, reserved = _fields(header, _CONTEXT)
        if not mask & self._mask:
            return
        page = self._file.page(offset)
        if address or reserved or any(page[_REGISTERS.size :]) or number in self._vcpus:
            raise refuse_igvm(f"vCPU {number} stands twice, or its context has fields that mean nothing")
        self._vcpus.add(number)
        a, b, c, d, e, f, g, h, pc, flags = _REGISTERS.unpack_from(page)
        self._steps.append(IgvmRec(number, RecCreate(flags, pc, (a, b, c, d, e, f, g, h))))

    def _read_memory(self, header: IgvmHeader) -> None:
        address, mask, size, _flags, _reserved = _fields(header, _MEMORY)
        if mask & self._mask:
            self._memory.append((address, size))

    def _refuse_relocation(self, header: IgvmHeader) -> None:
        if len(header.data) >= 4 and int.from_bytes(header.data[:4], "little") & self._mask:
            raise refuse_igvm("may be relocated: where its pages lie is not certain")

    def _add(self, page: IgvmPage) -> None:
        if page.address % GRANULE_SIZE or page.address >= 1 << 52:
            raise refuse_igvm(f"the page at {page.address:#x} has no address of a granule")
        if page.address in self._used:
            raise refuse_igvm(f"the page at {page.address:#x} stands twice")
        if len(self._used) >= _MOST_PAGES:
            raise refuse_igvm(f"has more than {_MOST_PAGES} pages")
        self._used.add(page.address)
        self._steps.append(page)


def _cca_mask(file: IgvmFile) -> int:
    """Return the mask's bit that marks headers for a realm."""
    masks: list[int] = []
    others: list[str] = []
    taken = 0
    for header in file.headers:
        if header.kind != IgvmType.SUPPORTED_PLATFORM:
            continue
        mask, _vtl, platform, _version, _boundary = _fields(header, _PLATFORM)
        if not mask or mask & (mask - 1) or mask & taken:
            raise refuse_igvm("a platform has no mask of exactly one bit, or that of another one")
        taken |= mask
        if platform == PLATFORM_CCA:
            masks.append(mask)
        else:
            others.append(PLATFORMS.get(platform, f"number {platform}"))
    if len(masks) != 1 or file.architecture != AARCH64:
        listed = f"; its platforms are {', '.join(others)}" if others else ""
        raise refuse_igvm(f"is not for Arm CCA{listed}" if not masks else "has the platform CCA twice, or is not for AArch64")
    return masks[0]


def _fields(header: IgvmHeader, layout: struct.Struct) -> tuple[Any, ...]:
    if len(header.data) != layout.size:
        raise refuse_igvm(f"header {header.kind:#x} has {len(header.data)} bytes instead of {layout.size}")
    return layout.unpack(header.data)
