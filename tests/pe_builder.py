"""Builds small PE files, UKIs and firmware volumes for tests; computes Authenticode digests slowly, by the specification."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kbs_rim.evidence.hash_algorithm import HashAlgorithm

PE_AT = 64
ALIGNMENT = 0x200
SECTION_AT = 0x1000
"""Section alignment in memory."""


@dataclass
class Section:
    """``virtual_size`` None: that of the content. ``at`` None: behind the previous section in the file."""

    name: str
    content: bytes
    virtual_size: int | None = None
    at: int | None = None
    raw_size: int | None = None


@dataclass
class PeFile:
    """What is written; every field may lie."""

    sections: Sequence[Section] = ()
    pe_at: int = PE_AT
    plus: bool = True
    directories: int = 6
    machine: int = 0xAA64
    headers_size: int | None = None
    optional_size: int | None = None
    section_count: int | None = None
    magic: int | None = None
    checksum: int = 0
    certificate: tuple[int, int] | None = None
    trailer: bytes = b""
    dos: bytes = b"MZ"
    table_order: Sequence[int] | None = None
    alignment: int = ALIGNMENT

    def build(self) -> bytes:
        """Return the file."""
        base = 112 if self.plus else 96
        optional_size = base + 8 * self.directories if self.optional_size is None else self.optional_size
        table_at = self.pe_at + 24 + optional_size
        headers_end = table_at + 40 * len(self.sections)
        headers_size = up(headers_end, self.alignment) if self.headers_size is None else self.headers_size
        places, end = [], max(headers_end, headers_size)
        for section in self.sections:
            raw = up(len(section.content), self.alignment) if section.raw_size is None else section.raw_size
            at = (end if raw else 0) if section.at is None else section.at
            places.append((at, raw))
            end = max(end, at + raw) if section.at is None or at + raw < 1 << 24 else end
        out = bytearray(end)
        for section, (at, raw) in zip(self.sections, places, strict=True):
            if at + len(section.content) <= len(out):
                out[at : at + min(len(section.content), raw)] = section.content[:raw]
        self._headers(out, optional_size, headers_size, places, table_at)
        return bytes(out) + self.trailer

    def _headers(self, out: bytearray, optional_size: int, headers_size: int, places: list[tuple[int, int]], table_at: int) -> None:
        base, optional_at = 112 if self.plus else 96, self.pe_at + 24
        out[: len(self.dos)] = self.dos
        struct.pack_into("<I", out, 60, self.pe_at)
        count = len(self.sections) if self.section_count is None else self.section_count
        struct.pack_into("<4sHHIIIHH", out, self.pe_at, b"PE\0\0", self.machine, count, 0, 0, 0, optional_size, 0x22)
        magic = (0x20B if self.plus else 0x10B) if self.magic is None else self.magic
        struct.pack_into("<H", out, optional_at, magic)
        struct.pack_into("<III", out, optional_at + 56, 0x10000, headers_size, self.checksum)
        struct.pack_into("<I", out, optional_at + base - 4, self.directories)
        if self.certificate:
            struct.pack_into("<II", out, optional_at + base + 32, *self.certificate)
        for index in self.table_order or range(len(self.sections)):
            section, (at, raw) = self.sections[index], places[index]
            virtual = len(section.content) if section.virtual_size is None else section.virtual_size
            where = SECTION_AT * (index + 1)
            struct.pack_into("<8sIIII16x", out, table_at, section.name.encode("latin-1"), virtual, where, raw, at)
            table_at += 40


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def signed(data: bytes, plus: bool = True, certificates: bytes = b"certificate" * 16) -> bytes:
    """Do what a signing tool does: pad to 8 bytes, append a certificate table, set its directory entry and a checksum."""
    data += bytes(-len(data) % 8)
    (pe_at,) = struct.unpack_from("<I", data, 60)
    out = bytearray(data)
    struct.pack_into("<I", out, pe_at + 24 + 64, 0xC0FFEE)
    struct.pack_into("<II", out, pe_at + 24 + (112 if plus else 96) + 32, len(data), len(certificates))
    return bytes(out) + certificates


def slow_authenticode(data: bytes, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> bytes:
    """Step by step as EDK2 does it, for files that are well formed; shares no code with what is tested."""
    (pe_at,) = struct.unpack_from("<I", data, 60)
    optional_at = pe_at + 24
    count, optional_size = struct.unpack_from("<H", data, pe_at + 6)[0], struct.unpack_from("<H", data, pe_at + 20)[0]
    directories_at = optional_at + {0x10B: 96, 0x20B: 112}[struct.unpack_from("<H", data, optional_at)[0]]
    (directories,) = struct.unpack_from("<I", data, directories_at - 4)
    (headers_size,) = struct.unpack_from("<I", data, optional_at + 60)
    certificates = 0
    hashed = data[: optional_at + 64]
    if directories > 4:
        certificates = struct.unpack_from("<I", data, directories_at + 36)[0]
        hashed += data[optional_at + 68 : directories_at + 32] + data[directories_at + 40 : headers_size]
    else:
        hashed += data[optional_at + 68 : headers_size]
    total = headers_size
    rows = [struct.unpack_from("<II", data, optional_at + optional_size + 40 * index + 16) for index in range(count)]
    for size, at in sorted(rows, key=lambda row: row[1]):
        hashed += data[at : at + size]
        total += size
    if len(data) > total:
        hashed += data[total : len(data) - certificates]
    return algorithm.digest(hashed)


MAGIC = Section(".sdmagic", b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####")


def uki(*sections: tuple[str, bytes], magic: Section = MAGIC) -> bytes:
    return PeFile([Section(".text", b"stub"), magic, *(Section(name, content) for name, content in sections)]).build()


def volume(
    size: int, *, revision: int = 2, signature: bytes = b"_FVH", header: int = 72, length: int | None = None, checksum: int = 0
) -> bytes:
    """A volume of ``size`` bytes with pseudo-random content; ``length``, ``checksum`` and the rest may lie."""
    filling = hashlib.shake_128(b"volume").digest(size - 72)
    head = bytearray(72)
    head[16:32] = bytes(range(16))
    struct.pack_into("<Q4sIHHHBB", head, 32, size if length is None else length, signature, 0x4FEFF, header, 0, 0, 0, revision)
    total = sum(word for (word,) in struct.iter_unpack("<H", bytes(head)))
    struct.pack_into("<H", head, 50, (checksum - total) & 0xFFFF)
    return bytes(head) + filling
