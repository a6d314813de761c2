"""The structures inside the records of a firmware log, decoded within bounds.

Implements PC Client PFP 10: every size must be exact,
nothing is read past the end, no input chooses a recursion depth or a step of zero. Only ``MalformedEvidence("log.event-data")``
is raised. Nothing decoded here is measured as such: it describes, it proves nothing.
"""

import struct
import uuid
from dataclasses import dataclass
from typing import Final, NoReturn

from kbs_rim.errors import MalformedEvidence

_GPT_HEADER_SIZE: Final = 92
_GPT_MIN_ENTRY, _GPT_MAX_ENTRY = 128, 4096
_GPT_ENTRY = struct.Struct("<16s16sQQQ72s")
_IMAGE_LOAD = struct.Struct("<QQQQ")
_VARIABLE = struct.Struct("<16sQQ")
_HANDOFF_ENTRY = struct.Struct("<16sQ")
_BLOB = struct.Struct("<QQ")
_TAG = struct.Struct("<II")
_NODE = struct.Struct("<BBH")
_END_OF_PATH = (0x7F, 0xFF)
_STRAY_BYTES: Final = 16
"""Old shims and GRUBs write the size of a C structure that ends in padding: up to 9 bytes of no meaning, seen in real logs."""


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB and BLOB2: where something was loaded, in bytes. The description keeps its NULs."""

    description: bytes
    base: int
    length: int


@dataclass(frozen=True, slots=True)
class TaggedEvent:
    """TCG_PCClientTaggedEvent."""

    tag: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Variable:
    """UEFI_VARIABLE_DATA."""

    guid: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class DevicePathNode:
    """One node of a device path, header removed."""

    type: int
    subtype: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT. ``path`` is without its end node, and empty if the loader gave none."""

    location: int
    length: int
    link_address: int
    path: tuple[DevicePathNode, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """One used GPT entry; addresses are logical blocks."""

    name: str
    type_guid: str
    first_block: int
    last_block: int


@dataclass(frozen=True, slots=True)
class HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS and POINTERS2: GUID and address of each table."""

    description: bytes
    tables: tuple[tuple[str, int], ...]


def malformed(what: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
    """Raise the one error of this module."""
    raise MalformedEvidence("log.event-data", what, expected=expected, seen=seen)


def _exact(what: str, data: bytes, size: int) -> None:
    if len(data) != size:
        malformed(f"{what} has the wrong size", expected=f"{size} bytes", seen=f"{len(data)} bytes")


def _at_least(what: str, data: bytes, size: int) -> None:
    if len(data) < size:
        malformed(f"{what} is too short", expected=f"at least {size} bytes", seen=f"{len(data)} bytes")


def _nearly_exact(what: str, data: bytes, size: int) -> None:
    if not size <= len(data) <= size + _STRAY_BYTES:
        malformed(f"{what} has the wrong size", expected=f"{size} bytes", seen=f"{len(data)} bytes")


def parse_firmware_blob(data: bytes) -> FirmwareBlob:
    """Decode UEFI_PLATFORM_FIRMWARE_BLOB: base u64, length u64."""
    _exact("a firmware blob", data, _BLOB.size)
    base, length = _BLOB.unpack(data)
    return FirmwareBlob(b"", base, length)


def parse_firmware_blob2(data: bytes) -> FirmwareBlob:
    """Decode UEFI_PLATFORM_FIRMWARE_BLOB2: description size u8, description, base u64, length u64."""
    _at_least("a firmware blob", data, 1)
    size = data[0]
    _exact("a firmware blob", data, 1 + size + _BLOB.size)
    base, length = _BLOB.unpack_from(data, 1 + size)
    return FirmwareBlob(data[1 : 1 + size], base, length)


def parse_tagged_event(data: bytes) -> TaggedEvent:
    """Decode TCG_PCClientTaggedEvent: id u32, data size u32, data."""
    _at_least("a tagged event", data, _TAG.size)
    tag, size = _TAG.unpack_from(data)
    _exact("a tagged event", data, _TAG.size + size)
    return TaggedEvent(tag, data[_TAG.size :])


def parse_variable(data: bytes) -> Variable:
    """Decode UEFI_VARIABLE_DATA. The name's length counts UTF-16 units, the data's counts bytes."""
    _at_least("a UEFI variable", data, _VARIABLE.size)
    guid, units, size = _VARIABLE.unpack_from(data)
    end = _VARIABLE.size + 2 * units
    _nearly_exact("a UEFI variable", data, end + size)
    return Variable(guid_text(guid), utf16_text(data[_VARIABLE.size : end]), data[end : end + size])


def parse_image_load(data: bytes, max_nodes: int) -> ImageLoad:
    """Decode UEFI_IMAGE_LOAD_EVENT with at most ``max_nodes`` device path nodes."""
    _at_least("an image load event", data, _IMAGE_LOAD.size)
    location, length, link_address, size = _IMAGE_LOAD.unpack_from(data)
    _nearly_exact("an image load event", data, _IMAGE_LOAD.size + size)
    path = parse_device_path(data[_IMAGE_LOAD.size : _IMAGE_LOAD.size + size], max_nodes) if size else ()
    return ImageLoad(location, length, link_address, path)


def parse_device_path(data: bytes, max_nodes: int) -> tuple[DevicePathNode, ...]:
    """Decode a device path, in a loop: a path of 4-byte nodes must not become a recursion as deep as the log is long."""
    nodes: list[DevicePathNode] = []
    offset = 0
    while True:
        if len(data) - offset < _NODE.size:
            malformed("a device path ends without its end node")
        node_type, subtype, length = _NODE.unpack_from(data, offset)
        if length < _NODE.size or length > len(data) - offset:
            malformed("a device path node has an impossible length", seen=str(length))
        if (node_type, subtype) == _END_OF_PATH:
            _exact("a device path", data, offset + length)
            return tuple(nodes)
        if len(nodes) >= max_nodes:
            malformed("a device path has too many nodes", expected=f"at most {max_nodes}")
        nodes.append(DevicePathNode(node_type, subtype, data[offset + _NODE.size : offset + length]))
        offset += length


def parse_gpt(data: bytes) -> tuple[Partition, ...]:
    """Decode UEFI_GPT_DATA. The entry size is the disk's, so it is bounded before it becomes a step."""
    _at_least("a GPT event", data, _GPT_HEADER_SIZE + 8)
    if not data.startswith(b"EFI PART"):
        malformed("a GPT event has no GPT header")
    (entry_size,) = struct.unpack_from("<I", data, 84)
    (count,) = struct.unpack_from("<Q", data, _GPT_HEADER_SIZE)
    if not _GPT_MIN_ENTRY <= entry_size <= _GPT_MAX_ENTRY:
        malformed("a GPT has an impossible entry size", expected=f"{_GPT_MIN_ENTRY} to {_GPT_MAX_ENTRY} bytes", seen=str(entry_size))
    _exact("a GPT event", data, _GPT_HEADER_SIZE + 8 + count * entry_size)
    partitions = []
    for position in range(_GPT_HEADER_SIZE + 8, len(data), entry_size):
        type_guid, _, first, last, _, name = _GPT_ENTRY.unpack_from(data, position)
        partitions.append(Partition(utf16_text(name), guid_text(type_guid), first, last))
    return tuple(partitions)


def parse_handoff_tables(data: bytes, *, described: bool) -> HandoffTables:
    """Decode UEFI_HANDOFF_TABLE_POINTERS, or POINTERS2 if ``described``: [size u8, text,] count u64, {GUID, address u64}."""
    description = b""
    if described:
        _at_least("a handoff table list", data, 1)
        size = data[0]
        _at_least("a handoff table list", data, 1 + size)
        description, data = data[1 : 1 + size], data[1 + size :]
    _at_least("a handoff table list", data, 8)
    (count,) = struct.unpack_from("<Q", data)
    _exact("a handoff table list", data, 8 + count * _HANDOFF_ENTRY.size)
    pairs = _HANDOFF_ENTRY.iter_unpack(data[8:])
    return HandoffTables(description, tuple((guid_text(guid), address) for guid, address in pairs))


def guid_text(raw: bytes) -> str:
    """Return 16 bytes of an EFI GUID in its usual, mixed-endian text form."""
    return str(uuid.UUID(bytes_le=raw))


def utf16_text(raw: bytes) -> str:
    """Return UTF-16LE text up to its first NUL. What is no UTF-16 is replaced, and so visible, never an error."""
    even = raw[: len(raw) // 2 * 2]
    return even.decode("utf-16-le", "replace").split("\0", 1)[0]
