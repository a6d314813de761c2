"""PE/COFF images: the headers that decide what firmware measures, and where the bytes are that its Authenticode digest covers.

Implements Authenticode (as EDK2 computes the digest; the rules of the PE specification, appendix on
Authenticode, agree on every file that has no holes). Trusts nothing: whatever EDK2 refuses to load is refused, since nothing
is ever measured of it. Only the headers are read here, from the first bytes of the file; the rest is a list of ranges.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.granules import Buffer
from kbs_rim.measurement.spans import Piece, Span

SIGNED_SIZE_MULTIPLE = 8
"""Signing tools append zeros up to a multiple of this before they hash; the certificate table begins at one."""
_PE_OFFSET = struct.Struct("<60xI")
_PE_SIGNATURE = b"PE\0\0"
_COFF = struct.Struct("<4sHH12xH2x")
"""Signature, Machine, NumberOfSections, (time stamp, symbol table, number of symbols), SizeOfOptionalHeader, (characteristics)."""
_SIZE_OF_HEADERS = struct.Struct("<60xI")
_CHECKSUM_OFFSET, _CHECKSUM_SIZE = 64, 4
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_DIRECTORY = struct.Struct("<II")
_CERTIFICATE_ENTRY = 4
_DIRECTORIES_MAX = 16
_SECTION = struct.Struct("<8sIIII16x")
"""Name, VirtualSize, VirtualAddress, SizeOfRawData, PointerToRawData, (relocations, line numbers, characteristics)."""


class OptionalMagic(IntEnum):
    """Which optional header stands in the file; they differ in where the data directories begin."""

    PE32 = 0x10B
    PE32_PLUS = 0x20B

    @property
    def directories_offset(self) -> int:
        """Offset of the first data directory in the optional header; NumberOfRvaAndSizes stands 4 bytes in front of it."""
        return 96 if self is OptionalMagic.PE32 else 112


@dataclass(frozen=True, slots=True)
class PeSection:
    """One section: ``name`` up to the first NUL, its size in memory, and the range of the file that is loaded there."""

    name: str
    virtual_size: int
    raw: Span

    @property
    def stored(self) -> Span:
        """The bytes of the file that are really part of the section: without the padding to the file alignment."""
        return Span(self.raw.start, self.raw.start + min(self.raw.size, self.virtual_size))

    @property
    def zero_fill(self) -> int:
        """Zero bytes that the loader appends in memory."""
        return self.virtual_size - self.stored.size


@dataclass(frozen=True, slots=True)
class PeHeaders:
    """What the headers of a PE file of ``file_size`` bytes say. ``certificates_size`` is 0 for an unsigned file."""

    machine: int
    sections: tuple[PeSection, ...]
    certificates_size: int
    file_size: int
    authenticode: tuple[Piece, ...]

    @property
    def authenticode_padded(self) -> tuple[Piece, ...] | None:
        """What is hashed once the file is signed, if that is more than now; None for signed files and for sizes that fit."""
        padding = -self.file_size % SIGNED_SIZE_MULTIPLE
        return None if self.certificates_size or not padding else (*self.authenticode, bytes(padding))


def read_pe_headers(head: Buffer, file_size: int, limits: Limits = DEFAULT_LIMITS) -> PeHeaders | None:
    """Read the headers of a file of ``file_size`` bytes that begins with ``head``; None if it is no PE file.

    ``head`` must hold the whole file or ``limits.pe_header_bytes``, whichever is less. Raises ``MalformedEvidence``
    (``image.pe``) for a PE file that EDK2 would not load, or whose headers are larger than the limits.
    """
    view = memoryview(head)[: min(limits.pe_header_bytes, file_size)]
    at = _signature_offset(view, file_size)
    if at is None:
        return None
    return _HeaderReader(view, at, file_size).read(limits)


def _signature_offset(view: memoryview, file_size: int) -> int | None:
    if bytes(view[:4]) == _PE_SIGNATURE:
        return 0
    if bytes(view[:2]) != b"MZ" or len(view) < _PE_OFFSET.size:
        return None
    (at,) = _PE_OFFSET.unpack_from(view)
    if at + len(_PE_SIGNATURE) > len(view):
        if at + len(_PE_SIGNATURE) <= file_size:
            raise malformed_pe("the PE header begins too far into the file", expected=f"below {len(view)}", seen=at)
        return None
    return at if bytes(view[at : at + len(_PE_SIGNATURE)]) == _PE_SIGNATURE else None


class _HeaderReader:
    """Reads one set of headers, each part at a checked offset."""

    def __init__(self, view: memoryview, at: int, file_size: int) -> None:
        self._view, self._at, self._file_size = view, at, file_size
        self._optional_at = at + _COFF.size

    def read(self, limits: Limits) -> PeHeaders:
        _, machine, count, optional_size = self._fields(_COFF, self._at, "COFF header")
        (headers_size,) = self._fields(_SIZE_OF_HEADERS, self._optional_at, "optional header")
        certificate_entry = self._certificate_entry(optional_size)
        sections = self._sections(count, optional_size, headers_size, limits)
        certificates = self._certificates(certificate_entry, max([headers_size, *(section.raw.end for section in sections)]))
        covered = self._covered(headers_size, certificate_entry, sections, certificates)
        return PeHeaders(machine, sections, certificates, self._file_size, covered)

    def _fields(self, fields: struct.Struct, at: int, what: str) -> tuple[int, ...]:
        if at + fields.size > len(self._view):
            raise malformed_pe(f"the {what} is cut off, or lies too far into the file", expected=f"up to {len(self._view)}", seen=at)
        return fields.unpack_from(self._view, at)

    def _certificate_entry(self, optional_size: int) -> int | None:
        """Return where the data directory's entry for the certificate table is, None if the directory is too short."""
        (magic,) = self._fields(_U16, self._optional_at, "optional header")
        if magic not in set(OptionalMagic):
            raise malformed_pe("the optional header is neither PE32 nor PE32+", expected="0x10b or 0x20b", seen=f"{magic:#x}")
        directories = OptionalMagic(magic).directories_offset
        (count,) = self._fields(_U32, self._optional_at + directories - _U32.size, "optional header")
        if count > _DIRECTORIES_MAX or directories + count * _DIRECTORY.size > optional_size:
            raise malformed_pe("the data directories do not fit the optional header", seen=count)
        return self._optional_at + directories + _CERTIFICATE_ENTRY * _DIRECTORY.size if count > _CERTIFICATE_ENTRY else None

    def _sections(self, count: int, optional_size: int, headers_size: int, limits: Limits) -> tuple[PeSection, ...]:
        if count > limits.pe_sections:
            raise malformed_pe("the PE file has too many sections", expected=f"at most {limits.pe_sections}", seen=count)
        table = self._optional_at + optional_size
        if not table + count * _SECTION.size <= headers_size <= self._file_size:
            raise malformed_pe(
                "SizeOfHeaders does not cover the section table, or is larger than the file",
                expected=f"{table + count * _SECTION.size} to {self._file_size}",
                seen=headers_size,
            )
        sections = tuple(self._section(table + index * _SECTION.size) for index in range(count))
        stored = sorted((section.raw for section in sections if section.raw.size), key=lambda raw: (raw.start, raw.end))
        for before, after in pairwise([Span(0, headers_size), *stored]):
            if after.start < before.end:
                raise malformed_pe("two sections, or a section and the headers, overlap in the file", seen=f"byte {after.start}")
        if stored and stored[-1].end > self._file_size:
            raise malformed_pe("a section reaches beyond the file", expected=f"up to {self._file_size}", seen=stored[-1].end)
        return sections

    def _section(self, at: int) -> PeSection:
        if at + _SECTION.size > len(self._view):
            raise malformed_pe("the section table is cut off, or lies too far into the file", expected=f"up to {len(self._view)}", seen=at)
        name, virtual_size, _address, size, start = _SECTION.unpack_from(self._view, at)
        return PeSection(_printable(name.partition(b"\0")[0]), virtual_size, Span(start, start + size) if size else Span(0, 0))

    def _certificates(self, entry: int | None, contents_end: int) -> int:
        """Return the size of the certificate table, which must be the end of the file: only its size enters the digest."""
        if entry is None:
            return 0
        start, size = self._fields(_DIRECTORY, entry, "data directory")
        if size and (start + size != self._file_size or start % SIGNED_SIZE_MULTIPLE or start < contents_end):
            raise malformed_pe(
                "the certificate table is not behind everything else at the end of the file, at a multiple of 8",
                expected=f"{contents_end} or higher, to {self._file_size}",
                seen=f"{start} to {start + size}",
            )
        return size

    def _covered(self, headers_size: int, entry: int | None, sections: tuple[PeSection, ...], certificates: int) -> tuple[Piece, ...]:
        checksum = self._optional_at + _CHECKSUM_OFFSET
        pieces = [Span(0, checksum)]
        if entry is None:
            pieces.append(Span(checksum + _CHECKSUM_SIZE, headers_size))
        else:
            pieces += [Span(checksum + _CHECKSUM_SIZE, entry), Span(entry + _DIRECTORY.size, headers_size)]
        pieces += sorted((section.raw for section in sections if section.raw.size), key=lambda raw: raw.start)
        # What lies in a hole between sections is not counted, so the rest begins too early by its size: as EDK2 has it.
        hashed = headers_size + sum(section.raw.size for section in sections)
        pieces.append(Span(hashed, self._file_size - certificates))
        return tuple(pieces)


def _printable(name: bytes) -> str:
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in name)


def malformed_pe(message: str, *, expected: str | None = None, seen: object = None) -> MalformedEvidence:
    """Make the error for a PE file that cannot be measured."""
    return MalformedEvidence("image.pe", message, expected=expected, seen=None if seen is None else str(seen))
