"""IGVM files: what a loader is told to put into a confidential guest (github.com/microsoft/igvm, igvm_defs, as of 2026-06).

This reads the container: the fixed header with its checksum, and the variable headers in their three sections. What they mean for an
Arm CCA realm is in ``igvm_launch``. Nothing in a file is believed that was not checked against its size.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import GRANULE_SIZE, MIB

LARGEST_FILE = 1024 * MIB
"""Bytes; Microsoft's own files have below 100 MiB."""
_LARGEST_HEADERS = 64 * MIB
_MAGIC = b"IGVM"
_FIXED = struct.Struct("<4s5I")
"""magic, format version, offset of the variable headers, their size, size of the file, CRC-32 of both headers with itself as 0."""
_FIXED_V2 = struct.Struct("<II")
"""architecture, page size."""
_CRC_OFFSET = 20
_HEADER = struct.Struct("<II")
"""type, length; data follows, padded to 8."""
_OPTIONAL = 1 << 31
_SECTIONS = ((0x1, 0x100), (0x101, 0x200), (0x301, 0x400))
"""Types of platforms, of initialization and of directives; they stand in this order."""
X64, AARCH64 = 0, 1
_ZEROS = bytes(GRANULE_SIZE)


class IgvmType(IntEnum):
    """Types of variable headers."""

    SUPPORTED_PLATFORM = 0x1
    GUEST_POLICY = 0x101
    RELOCATABLE_REGION = 0x102
    PAGE_TABLE_RELOCATION = 0x103
    CORIM_DOCUMENT = 0x104
    CORIM_SIGNATURE = 0x105
    CCA_POLICY = 0x106
    PARAMETER_AREA = 0x301
    PAGE_DATA = 0x302
    PARAMETER_INSERT = 0x303
    VP_CONTEXT = 0x304
    REQUIRED_MEMORY = 0x305
    VP_COUNT = 0x307
    SRAT = 0x308
    MADT = 0x309
    MMIO_RANGES = 0x30A
    SNP_ID_BLOCK = 0x30B
    MEMORY_MAP = 0x30C
    ERROR_RANGE = 0x30D
    COMMAND_LINE = 0x30E
    SLIT = 0x30F
    PPTT = 0x310
    VBS_MEASUREMENT = 0x311
    DEVICE_TREE = 0x312
    ENVIRONMENT_INFO = 0x313


@dataclass(frozen=True, slots=True)
class IgvmHeader:
    """One variable header. ``kind`` is without the bit that lets a loader pass over a type that it does not know (``optional``)."""

    kind: int
    optional: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IgvmFile:
    """A file whose headers are consistent. ``payload_start`` is the first byte behind the headers."""

    version: int
    architecture: int
    headers: tuple[IgvmHeader, ...]
    payload_start: int
    data: bytes = field(repr=False)

    def page(self, offset: int) -> bytes | memoryview:
        """Return the page at a file offset: zeros for offset 0, and behind the end of the file. Nothing is copied but a last page.

        Raises ``InvalidDocument`` (``document.igvm``) for an offset that is no data of this file.
        """
        if offset == 0:
            return _ZEROS
        if not self.payload_start <= offset < len(self.data):
            raise refuse_igvm(f"data at byte {offset}, which is none of the file's data")
        if offset + GRANULE_SIZE <= len(self.data):
            return memoryview(self.data)[offset : offset + GRANULE_SIZE]
        return self.data[offset:].ljust(GRANULE_SIZE, b"\0")


def refuse_igvm(problem: str) -> InvalidDocument:
    """Make the error for a file."""
    return InvalidDocument("document.igvm", f"the IGVM file: {problem}")


def parse_igvm(data: bytes) -> IgvmFile:
    """Read the headers of a file.

    Raises ``InvalidDocument`` (``document.igvm``): not IGVM, a version other than 1 and 2, pages other than 4 KiB, sizes that
    contradict each other, a wrong checksum, headers in the wrong order.
    """
    if len(data) > LARGEST_FILE:
        raise refuse_igvm(f"has more than {LARGEST_FILE} bytes")
    if len(data) < _FIXED.size or data[:4] != _MAGIC:
        raise refuse_igvm("does not begin like one")
    _, version, start, size, total, checksum = _FIXED.unpack_from(data)
    if version not in (1, 2):
        raise refuse_igvm(f"has format version {version}; known are 1 and 2")
    fixed = _FIXED.size + (_FIXED_V2.size if version == 2 else 0)
    if total != len(data) or start < fixed or start % 8 or size > _LARGEST_HEADERS or start + size > len(data):
        raise refuse_igvm("sizes in its header contradict each other, or the file is cut off")
    architecture, page_size = _FIXED_V2.unpack_from(data, _FIXED.size) if version == 2 else (X64, GRANULE_SIZE)
    if page_size != GRANULE_SIZE:
        raise refuse_igvm(f"has pages of {page_size} bytes; a realm's have {GRANULE_SIZE}")
    head = data[:_CRC_OFFSET] + bytes(4) + data[_CRC_OFFSET + 4 : fixed]
    if zlib.crc32(data[start : start + size], zlib.crc32(head)) != checksum:
        raise refuse_igvm("checksum of the headers is wrong")
    return IgvmFile(version, architecture, tuple(_headers(data, start, start + size)), start + size, data)


def _headers(data: bytes, offset: int, end: int) -> Iterator[IgvmHeader]:
    section = 0
    while offset < end:
        if end - offset < _HEADER.size:
            raise refuse_igvm("last header is cut off")
        word, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        kind = word & ~_OPTIONAL
        here = next((number for number, (low, high) in enumerate(_SECTIONS) if low <= kind <= high), None)
        if length > end - offset or here is None:
            raise refuse_igvm(f"header {kind:#x} is longer than the headers, or of a type that there is not")
        if here < section:
            raise refuse_igvm(f"header {kind:#x} stands behind a later section: platforms, initialization, directives")
        section = here
        yield IgvmHeader(kind, bool(word & _OPTIONAL), data[offset : offset + length])
        offset += -(-length // 8) * 8
