"""What an entry of Linux's IMA holds: file hash, file name, signature and so on, by the template's format.

As Linux writes it (security/integrity/ima). Template data is a row of fields, each a length and bytes. The template's name says
which fields; custom templates have their format as name ("d-ng|n-ng"). Entries of the old template ``ima`` are of fixed form
and hashed in another. Only ``MalformedEvidence("log.event-data")`` and ``MalformedEvidence("log.algorithm")`` are raised.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NoReturn, TypeAlias

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import ImaTemplate

ByteOrder: TypeAlias = Literal["little", "big"]
LEGACY_TEMPLATE: Final = "ima"
LEGACY_DIGEST_SIZE: Final = 20
LEGACY_NAME_SIZE: Final = 256
"""The old template is hashed with its file name filled up to this size with zeros."""
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "ima-ng": ("d-ng", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": ("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode"),
})  # fmt: skip
FILE_HASHES: Final[Mapping[str, int]] = MappingProxyType({
    "md5": 16, "sha1": 20, "rmd160": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64,
    "sm3": 32, "sm3-256": 32, "sm3_256": 32, "streebog256": 32, "streebog512": 64,
    "sha3-256": 32, "sha3-384": 48, "sha3-512": 64, "wp512": 64,
})  # fmt: skip
"""Digest sizes in bytes of the hash algorithms that the kernel names in digest fields."""
_DIGEST_FIELDS = frozenset({"d-ng", "d-ngv2", "d-modsig", "d-modsigv2"})
_DIGEST_TYPES = frozenset({"ima", "verity"})
_MOST_FIELDS = 16


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """A decoded entry. ``path`` and all texts are as logged and may hold anything; escape before showing.

    ``digest_type`` is ``ima`` or, for a file under fs-verity, ``verity``. ``fields`` has everything by field id, as logged.
    """

    path: bytes
    algorithm: str
    digest: bytes
    digest_type: str
    fields: Mapping[str, bytes]


def decode_entry(template: ImaTemplate, order: ByteOrder = "little") -> ImaEntry:
    """Decode template data. ``order`` is the byte order of its lengths."""
    if template.name == LEGACY_TEMPLATE:
        digest, path = _legacy(template.data, order)
        return ImaEntry(path, "sha1", digest, "ima", {"d": digest, "n": path})
    names = TEMPLATES.get(template.name) or tuple(template.name.split("|"))
    values = split_fields(template.data, order)
    if len(values) != len(names) or len(set(names)) != len(names):
        _refuse("an IMA entry does not have the fields of its template", expected=str(len(names)), seen=str(len(values)))
    fields = dict(zip(names, values, strict=True))
    digest_type, algorithm, digest = "ima", "", b""
    for name in names:
        if name in _DIGEST_FIELDS:
            decoded = decode_digest(fields[name], typed=name.endswith("v2"))
            if name in ("d-ng", "d-ngv2"):
                digest_type, algorithm, digest = decoded
    if "d" in fields:
        algorithm, digest = "sha1", fields["d"]
    return ImaEntry(_path(fields), algorithm, digest, digest_type, fields)


def split_fields(data: bytes, order: ByteOrder) -> tuple[bytes, ...]:
    """Split template data into its fields. Each length is compared with what is left."""
    layout = _u32(order)
    fields: list[bytes] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < layout.size or len(fields) >= _MOST_FIELDS:
            _refuse("an IMA entry is not a row of fields")
        (size,) = layout.unpack_from(data, offset)
        offset += layout.size
        if size > len(data) - offset:
            _refuse("a field of an IMA entry is longer than the entry", expected=f"at most {len(data) - offset} bytes", seen=str(size))
        fields.append(data[offset : offset + size])
        offset += size
    return tuple(fields)


def join_fields(fields: tuple[bytes, ...], order: ByteOrder = "little") -> bytes:
    """Return template data of these fields."""
    return b"".join(_u32(order).pack(len(field)) + field for field in fields)


def decode_digest(field: bytes, *, typed: bool) -> tuple[str, str, bytes]:
    """Decode "sha256:" NUL digest, or "verity:sha256:" NUL digest if ``typed``: type, algorithm, digest.

    An empty field is a digest that the kernel did not have.
    """
    if not field:
        return "ima", "", b""
    head, separator, digest = field.partition(b"\0")
    names = head.decode("ascii", "replace").split(":")
    if not separator or len(names) != (3 if typed else 2) or names.pop() or (typed and names[0] not in _DIGEST_TYPES):
        _refuse("a digest of an IMA entry does not name its algorithm")
    digest_type = names[0] if typed else "ima"
    return digest_type, names[-1], check_file_digest(names[-1], digest)


def check_file_digest(algorithm: str, digest: bytes) -> bytes:
    """Return ``digest`` if it has the size of its algorithm; raise ``MalformedEvidence("log.algorithm")`` otherwise."""
    size = FILE_HASHES.get(algorithm)
    if size is None:
        raise MalformedEvidence("log.algorithm", "an IMA entry names an unknown hash algorithm")
    if size != len(digest):
        what, expected = "an IMA entry has a digest of a wrong size", f"{algorithm} of {size} bytes"
        raise MalformedEvidence("log.algorithm", what, expected=expected, seen=f"{len(digest)} bytes")
    return digest


def hashed_bytes(template: ImaTemplate, order: ByteOrder = "little") -> bytes:
    """Return what the template digest is the hash of: the template data, or for ``ima`` the digest and the padded name."""
    if template.name != LEGACY_TEMPLATE:
        return template.data
    digest, path = _legacy(template.data, order)
    return digest + path.ljust(LEGACY_NAME_SIZE, b"\0")


def _legacy(data: bytes, order: ByteOrder) -> tuple[bytes, bytes]:
    layout = _u32(order)
    head = LEGACY_DIGEST_SIZE + layout.size
    if len(data) < head or layout.unpack_from(data, LEGACY_DIGEST_SIZE)[0] != len(data) - head or len(data) - head >= LEGACY_NAME_SIZE:
        _refuse("an entry of the template ima is not a digest and a name")
    return data[:LEGACY_DIGEST_SIZE], data[head:]


def _path(fields: Mapping[str, bytes]) -> bytes:
    name = fields.get("n-ng", fields.get("n", b""))
    return name.removesuffix(b"\0")


def _u32(order: ByteOrder) -> struct.Struct:
    return _LITTLE if order == "little" else _BIG


_LITTLE, _BIG = struct.Struct("<I"), struct.Struct(">I")


def _refuse(what: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
    raise MalformedEvidence("log.event-data", what, expected=expected, seen=seen)
