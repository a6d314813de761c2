"""Tar archives, read forward, never unpacked to disk: POSIX.1-2017 "ustar" and "pax", and GNU's long names.

Readers of one archive must not disagree about what it holds, so whatever different tools read differently is refused: sparse
files, sizes that contradict each other, names that climb out of the archive, names that stand twice, data behind the end.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.byte_streams import Readable, Window, drain, read_up_to
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits

_BLOCK = 512
_HEADER = struct.Struct("<100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
"""name, mode, uid, gid, size, mtime, chksum, typeflag, linkname, magic and version, uname, gname, devmajor, devminor, prefix."""
_CHECKSUM = slice(148, 156)
_UNUSED_NUMBERS = (1, 2, 3, 5, 12, 13)
"""mode, uid, gid, mtime, devmajor, devminor: a reader that cannot make them out takes the archive to end there."""
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_SIZE_BITS = 63
_BINARY = (0x80, 0xFF)
"""First byte of a number in GNU's binary form, positive and negative."""
_NAME_BYTES = DEFAULT_SOURCE_LIMITS.name_bytes


class TarKind(StrEnum):
    """What a member is. ``OTHER`` is what boots nothing: devices and pipes."""

    FILE = "file"
    FOLDER = "folder"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    OTHER = "other"


_KINDS = {
    b"0": TarKind.FILE, b"\0": TarKind.FILE, b"1": TarKind.HARD_LINK, b"2": TarKind.SYMBOLIC_LINK,
    b"3": TarKind.OTHER, b"4": TarKind.OTHER, b"5": TarKind.FOLDER, b"6": TarKind.OTHER,
}  # fmt: skip
_HARMLESS_GLOBAL = frozenset({"comment"})


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member: ``path`` without a leading slash, ``size`` in bytes, ``offset`` of its content in the unpacked archive.

    ``target`` is where a link leads, as it is written. ``content`` can be read until the next member is asked for.
    """

    path: str
    kind: TarKind
    size: int
    offset: int
    target: str
    content: Window


@dataclass(slots=True)
class _Extended:
    """What headers in front of a member say about it."""

    path: bytes | None = None
    target: bytes | None = None
    size: int | None = None


def _refused(message: str, path: str = "") -> RefusedSource:
    return RefusedSource("source.archive", f"{path}: {message}" if path else message)


def tar_members(source: Readable, limits: SourceLimits) -> Iterator[TarMember]:
    """Yield the members of an archive, and read it to its end.

    Raises ``RefusedSource``: ``source.archive``, ``source.name-twice``, ``source.too-large``.
    """
    reader = _TarReader(source, limits)
    names: set[str] = set()
    held = 0
    for member in reader.members():
        if member.path in names and member.kind is not TarKind.FOLDER:
            raise RefusedSource("source.name-twice", f"{member.path} stands twice in the archive", seen=member.path)
        names.add(member.path)
        if len(names) > limits.files:
            raise RefusedSource("source.too-large", f"the archive has more than {limits.files} files")
        held += len(member.path) + len(member.target)
        if held > limits.names_bytes:
            raise RefusedSource("source.too-large", f"the names in the archive have more than {limits.names_bytes} bytes")
        yield member


class _TarReader:
    def __init__(self, source: Readable, limits: SourceLimits) -> None:
        self._source, self._limits = source, limits
        self._offset = 0

    def members(self) -> Iterator[TarMember]:
        extended = _Extended()
        while (header := self._block()) is not None:
            fields = _HEADER.unpack(header)
            size, kind = _number(fields[4]), fields[7]
            if kind in (b"L", b"K", b"x", b"g"):
                self._extend(extended, kind, self._extension(size))
                continue
            member = _member(header, extended, self._offset, Window(self._source, size))
            extended = _Extended()
            yield member
            drain(member.content)
            self._offset += size
            self._padding(size)
        if extended != _Extended():
            raise _refused("an extended header has no member")
        self._expect_zeros()

    def _block(self) -> bytes | None:
        """Return the next header, None for the block of zeros that begins the end."""
        header = read_up_to(self._source, _BLOCK)
        self._offset += len(header)
        if len(header) < _BLOCK:
            raise _refused("the archive is cut off")
        if not any(header):
            return None
        fields = _HEADER.unpack(header)
        if fields[9] not in (_POSIX, _GNU):
            raise _refused("the header of a member is not one of ustar, pax or GNU tar")
        for number in _UNUSED_NUMBERS:
            _expect_number(fields[number])
        stated = _octal(fields[6])
        if stated != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
            raise _refused("the checksum of a header is wrong")
        return header

    def _extension(self, size: int) -> bytes:
        if size > self._limits.extended_header_bytes:
            raise RefusedSource("source.too-large", "an extended header is too long", seen=f"{size} bytes")
        data = read_up_to(self._source, size)
        if len(data) < size:
            raise _refused("the archive is cut off")
        self._offset += size
        self._padding(size)
        return data

    def _extend(self, extended: _Extended, kind: bytes, data: bytes) -> None:
        if kind == b"L":
            _set_once(extended, "path", data.rstrip(b"\0"))
        elif kind == b"K":
            _set_once(extended, "target", data.rstrip(b"\0"))
        else:
            _apply_pax(extended, _pax_records(data), for_all=kind == b"g")

    def _padding(self, size: int) -> None:
        wanted = -size % _BLOCK
        if len(read_up_to(self._source, wanted)) < wanted:
            raise _refused("the archive is cut off")
        self._offset += wanted

    def _expect_zeros(self) -> None:
        while data := self._source.read(_BLOCK * 128):
            if any(data):
                raise _refused("something stands behind the end of the archive")


def _set_once(extended: _Extended, name: str, value: bytes) -> None:
    if getattr(extended, name) is not None:
        raise _refused(f"two extended headers give the {name} of one member")
    setattr(extended, name, value)


def _pax_records(data: bytes) -> dict[str, bytes]:
    """Read ``LENGTH KEY=VALUE\\n`` records."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise _refused("a pax header is damaged")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals:
            raise _refused("a pax header is damaged")
        name = key.decode("utf-8", "backslashreplace")
        if name in records:
            raise _refused(f"a pax header gives {name} twice")
        records[name] = value
        at = end
    return records


def _apply_pax(extended: _Extended, records: dict[str, bytes], *, for_all: bool) -> None:
    for name, value in records.items():
        if name.startswith("GNU.sparse") or (for_all and name not in _HARMLESS_GLOBAL) or name == "hdrcharset":
            raise _refused(f"the pax record {name} is not taken: tools read it differently")
        if name == "path":
            _set_once(extended, "path", value)
        elif name == "linkpath":
            _set_once(extended, "target", value)
        elif name == "size":
            if not value.isdigit() or len(value) > 19:
                raise _refused("a pax size is no number")
            extended.size = int(value)


def _member(header: bytes, extended: _Extended, offset: int, content: Window) -> TarMember:
    fields = _HEADER.unpack(header)
    name = _until_nul(fields[0])
    if fields[9] == _POSIX and (prefix := _until_nul(fields[14])):
        name = prefix + b"/" + name
    path = safe_path(extended.path if extended.path is not None else name)
    kind = _KINDS.get(fields[7])
    if kind is None:
        raise _refused(f"members of the type {fields[7]!r} are not taken", path)
    if extended.size is not None and extended.size != content.left:
        raise _refused("two headers give different sizes", path)
    if kind is not TarKind.FILE and content.left:
        raise _refused(f"a {kind} with content", path)
    if kind is not TarKind.FOLDER and (path.endswith("/") or path == "."):
        raise _refused(f"a {kind} whose name is that of a folder", path)
    target = extended.target if extended.target is not None else _until_nul(fields[8])
    shown = target.decode("utf-8", "backslashreplace")
    if kind is TarKind.HARD_LINK:
        shown = safe_path(target)
    return TarMember(path.rstrip("/"), kind, content.left, offset, shown, content)


def safe_path(name: bytes) -> str:
    """Return a member's name without ``./`` in front. Raises ``RefusedSource`` (``source.archive``) if it leads out of the archive."""
    text = name.decode("utf-8", "backslashreplace")
    if not name or b"\0" in name or name.startswith(b"/"):
        raise _refused("a member's name is empty, absolute, or has a NUL in it", text)
    if len(name) > _NAME_BYTES:
        raise _refused("a member's name is too long", text[:80])
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _refused("a member's name leads out of the archive", text)
    return "/".join(parts) + ("/" if parts and text.endswith(("/", "/.")) else "") or "."


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    digits = field.rstrip(b" \0").lstrip(b" ")
    if not digits or any(digit not in b"01234567" for digit in digits):
        raise _refused("a number in a header is not octal")
    return int(digits, 8)


def _expect_number(field: bytes) -> None:
    """Refuse a field that holds neither a number nor nothing."""
    if field[0] not in _BINARY and field.strip(b" \0"):
        _octal(field)


def _number(field: bytes) -> int:
    """Read a size: octal, or GNU's binary form for what is too long for it."""
    if field[0] != _BINARY[0]:
        return _octal(field)
    value = int.from_bytes(field[1:], "big")
    if not 0 <= value < 1 << _SIZE_BITS:
        raise _refused("a size is negative or absurd")
    return value
