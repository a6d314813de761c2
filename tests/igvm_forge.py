"""Writes IGVM files, good and bad; shares nothing with the reader."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

PLATFORM_CCA = 6
_PAGE_DATA, _VP_CONTEXT = 0x302, 0x304


@dataclass(frozen=True)
class Part:
    """A variable header; ``payload`` is put behind the headers, and its offset into the data at ``offset_at``."""

    kind: int
    data: bytes
    payload: bytes | None = None
    offset_at: int = 12


def header(kind: int, data: bytes) -> Part:
    return Part(int(kind), data)


def platform(mask: int = 1, *, kind: int = PLATFORM_CCA) -> Part:
    return Part(0x1, struct.pack("<IBBHQ", mask, 0, kind, 1, 0))


def policy(code: int, *, zeroes: int = 0, ones: int = 0, activation: int = 0) -> Part:
    return Part(0x106, struct.pack("<IIQQBB6x", 1, 0, zeroes, ones, code, activation))


def page(address: int, content: bytes | None, flags: int = 0, *, mask: int = 1, kind: int = 0) -> Part:
    return Part(
        _PAGE_DATA, struct.pack("<QIIIHH", address, mask, 0, flags, kind, 0), None if content is None else content.ljust(4096, b"\0")
    )


def context(pc: int, x0: int = 0, *, flags: int = 1, number: int = 0, x1: int = 0, pad: int = 0, mask: int = 1) -> Part:
    registers = struct.pack("<11Q", x0, x1, 0, 0, 0, 0, 0, 0, pc, flags, pad)
    return Part(_VP_CONTEXT, struct.pack("<QIIHH", 0, mask, 0, number, 0), registers.ljust(4096, b"\0"))


def igvm_file(parts: Sequence[Part], *, architecture: int = 1) -> bytes:
    size = sum(8 + len(part.data) + -len(part.data) % 8 for part in parts)
    offset = 32 + size
    headers, payload = b"", b""
    for part in parts:
        data = part.data
        if part.payload is not None:
            data = data[: part.offset_at] + struct.pack("<I", offset + len(payload)) + data[part.offset_at + 4 :]
            payload += part.payload
        headers += struct.pack("<II", part.kind, len(data)) + data + bytes(-len(data) % 8)
    fixed = struct.pack("<4s5I", b"IGVM", 2, 32, size, 32 + size + len(payload), 0) + struct.pack("<II", architecture, 4096)
    return fixed[:20] + struct.pack("<I", zlib.crc32(fixed + headers)) + fixed[24:] + headers + payload
