"""Debian packages as deb(5) describes them: an ar archive of ``debian-binary``, ``control.tar*`` and ``data.tar*``, in this order.

A package is read once, from the front; its digest is known when everything was read, and is that of the bytes that were used.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.byte_streams import HashingReader, Readable, Window, drain, read_up_to
from kbs_rim.image_sources.control_fields import parse_stanza
from kbs_rim.image_sources.decompression import Packing, Unpacked
from kbs_rim.image_sources.source_limits import SourceLimits
from kbs_rim.image_sources.tar_stream import TarKind, TarMember, tar_members

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = re.compile(rb"([!-~]{1,16}) {0,15}[0-9 ]{12}[0-9 ]{6}[0-9 ]{6}[0-7 ]{8}([0-9]{1,10}) {0,9}`\n", re.DOTALL)
_AR_HEADER_BYTES = 60
_FORMAT = re.compile(rb"2\.[0-9]{1,4}\n")
_CONTROL_PACKINGS = (Packing.NONE, Packing.GZIP, Packing.XZ, Packing.ZSTD)
_DATA_PACKINGS = (*_CONTROL_PACKINGS, Packing.BZIP2, Packing.LZMA)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,199}")
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]{1,200}")


@dataclass(frozen=True, slots=True)
class ArMember:
    """A member of an ar archive; ``offset`` of its content in the file."""

    name: str
    offset: int
    content: Window


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """What a package says of itself; trustworthy as far as its digest is."""

    package: str
    version: str
    architecture: str

    def __post_init__(self) -> None:
        if not _PACKAGE.fullmatch(self.package) or not _VERSION.fullmatch(self.version) or not _PACKAGE.fullmatch(self.architecture):
            raise RefusedSource("source.package", "the package has no proper name, version or architecture")

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> "PackageFacts":
        """Take them from a stanza. Raises ``RefusedSource`` (``source.package``)."""
        return cls(*(fields.get(name, "") for name in ("package", "version", "architecture")))


def ar_members(source: Readable) -> Iterator[ArMember]:
    """Yield the members of an ar archive. Raises ``RefusedSource`` (``source.package``, ``source.archive``)."""
    if read_up_to(source, len(_AR_MAGIC)) != _AR_MAGIC:
        raise RefusedSource("source.package", "this is no Debian package: it does not begin as an ar archive")
    offset = len(_AR_MAGIC)
    while header := read_up_to(source, _AR_HEADER_BYTES):
        match = _AR_HEADER.fullmatch(header)
        if not match:
            raise RefusedSource("source.package", "the header of an ar member is damaged", seen=f"at byte {offset}")
        offset += _AR_HEADER_BYTES
        size = int(match[2])
        member = ArMember(match[1].decode("ascii").removesuffix("/"), offset, Window(source, size))
        yield member
        drain(member.content)
        offset += size
        if size % 2 and read_up_to(source, 1) not in (b"\n", b""):
            raise RefusedSource("source.package", "an ar member is not padded", seen=f"at byte {offset}")
        offset += size % 2


class DebPackage:
    """A package that is being read. Ask in this order: ``facts``, ``files``, ``finish``."""

    def __init__(self, source: Readable, limits: SourceLimits) -> None:
        """Read the control part. Raises ``RefusedSource``: ``source.package``, and as archives do."""
        self._limits = limits
        self._whole = HashingReader(source)
        self._members = self._known_members()
        if not _FORMAT.fullmatch(self._next("debian-binary").content.read(16)):
            raise RefusedSource("source.package", "the format of the package is not 2.x")
        control = self._next("control.tar")
        self.fields = self._control(Unpacked(control.content, _packing(control.name, _CONTROL_PACKINGS), limits, limits.control_bytes))
        self.facts = PackageFacts.from_fields(self.fields)

    def files(self, budget: int | None = None) -> Iterator[tuple[str, TarMember]]:
        """Yield the members of the data part with the name of that part, each readable until the next is asked for."""
        data = self._next("data.tar")
        unpacked = Unpacked(data.content, _packing(data.name, _DATA_PACKINGS), self._limits, budget)
        for member in tar_members(unpacked, self._limits):
            yield data.name, member
        drain(unpacked)

    def finish(self) -> tuple[str, int]:
        """Return SHA-256 and size of the whole file, which is then read to its end. Raises ``RefusedSource`` if there is more."""
        for member in self._members:
            raise RefusedSource("source.package", "something stands behind the data of the package", seen=member.name)
        return self._whole.finish(), self._whole.size

    def _known_members(self) -> Iterator[ArMember]:
        """Pass on what is not to be ignored: deb(5) reserves names that begin with an underscore."""
        for number, member in enumerate(ar_members(self._whole)):
            if number == 0 or not member.name.startswith("_"):
                yield member

    def _next(self, name: str) -> ArMember:
        member = next(self._members, None)
        if member is None or not (member.name == name or member.name.startswith(name + ".")):
            raise RefusedSource(
                "source.package", f"the package has no {name} where it must be", expected=name, seen=member.name if member else "the end"
            )
        return member

    def _control(self, unpacked: Unpacked) -> Mapping[str, str]:
        fields: Mapping[str, str] | None = None
        for member in tar_members(unpacked, self._limits):
            if member.path == "control" and member.kind is TarKind.FILE:
                fields = parse_stanza(read_up_to(member.content, member.size), "source.package")
        drain(unpacked)
        if fields is None:
            raise RefusedSource("source.package", "the package has no control file")
        return fields


def _packing(name: str, allowed: tuple[Packing, ...]) -> Packing:
    suffix = name.partition(".tar")[2].removeprefix(".")
    if suffix not in [packing.value for packing in allowed]:
        raise RefusedSource("source.package", "a part of the package is packed in a way that deb(5) does not know", seen=name)
    return Packing(suffix)
