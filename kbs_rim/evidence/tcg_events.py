"""What a record of an event log says about itself, for people to read.

Implements PC Client PFP 10. **Types and event data are not measured**: a hostile log may label any
digest as it likes. A description is never a reason to trust; it is there so that an auditor can see what was claimed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_names as names
from kbs_rim.evidence.printable import hex_preview, printable, printable_bytes
from kbs_rim.evidence.tcg_log import (
    STARTUP_LOCALITY_SIGNATURE,
    VM_VERSION_SIGNATURE,
    LogKind,
    TcgEvent,
    startup_locality,
)
from kbs_rim.evidence.tcg_structures import (
    DevicePathNode,
    parse_firmware_blob,
    parse_firmware_blob2,
    parse_gpt,
    parse_handoff_tables,
    parse_image_load,
    parse_tagged_event,
    parse_variable,
    utf16_text,
)
from kbs_rim.evidence.vmm_records import parse_init_ripas, parse_realm_create, parse_rec_create, parse_vm_version
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_UNUSED_GUID = "00000000-0000-0000-0000-000000000000"
_FILE_PATH_NODE = (4, 4)
_MAX_LISTED = 16
_BARE_LOAD_OPTIONS = b"LOADED_IMAGE::LoadOptions\0"
"""Some Linux EFI stubs write this text into a CC log without the header of a tagged event."""


@dataclass(frozen=True, slots=True)
class EventDescription:
    """What a record claims. All text is printable; ``fields`` holds the decoded structure, numbers as numbers."""

    type_name: str
    text: str
    fields: Mapping[str, str | int] = field(default_factory=dict)


_Decoded = tuple[str, dict[str, str | int]]


def describe_event(event: TcgEvent, kind: LogKind, limits: Limits = DEFAULT_LIMITS) -> EventDescription:
    """Decode a record's data by its type.

    Raises ``MalformedEvidence("log.event-data")`` if the data does not have the structure of its type, and
    ``MalformedEvidence("log.digests")`` for a measured digest of zeros, which no hash gives.
    """
    try:
        text, fields = _decode(event, kind, limits)
    except MalformedEvidence as error:
        what = f"record {event.number}, {event.type_name}: {error.message}"
        raise MalformedEvidence(error.finding_id, what, offset=event.offset, expected=error.expected, seen=error.seen) from None
    rim_tag = kind is LogKind.VMM and event.type == names.EV_EVENT_TAG
    if event.measured and not rim_tag and any(not any(digest) for digest in event.digests.values()):
        raise MalformedEvidence("log.digests", f"record {event.number}, {event.type_name}, has a digest of zeros", offset=event.offset)
    return EventDescription(event.type_name, text, fields)


def _decode(event: TcgEvent, kind: LogKind, limits: Limits) -> _Decoded:
    if event.type == names.EV_NO_ACTION:
        return _no_action(event)
    if event.type == names.EV_EVENT_TAG:
        return _tagged(event, kind)
    if event.type in _IMAGE_LOADS:
        return _image_load(event.data, limits.device_path_nodes)
    return _DECODERS.get(event.type, _text_or_hex)(event.data)


def _no_action(event: TcgEvent) -> _Decoded:
    if event.data.startswith(STARTUP_LOCALITY_SIGNATURE):
        locality = startup_locality(event)
        return f"startup locality {locality}", {"locality": locality}
    if event.data.startswith(VM_VERSION_SIGNATURE):
        vm = parse_vm_version(event.data)
        text = f"{vm.name} {vm.version}, {vm.num_cpus} CPUs, {vm.ram_size:#x} bytes of RAM"
        return text, {
            "vmm": vm.name,
            "version": vm.version,
            "num_cpus": vm.num_cpus,
            "ram_size": vm.ram_size,
            "layout": vm.layout.name.lower(),
        }
    signature = printable_bytes(event.data[:16].rstrip(b"\0"))
    return f"not measured: {signature}", {"signature": signature, "size": len(event.data)}


def _tagged(event: TcgEvent, kind: LogKind) -> _Decoded:
    if kind is not LogKind.VMM and event.data.startswith(_BARE_LOAD_OPTIONS):
        return f"Linux EFI stub: {_text_or_hex(event.data)[0]}", {"text": _text_or_hex(event.data)[0]}
    tagged = parse_tagged_event(event.data)
    if kind is LogKind.VMM and tagged.tag in names.RIM_TAGS:
        return _rim_tag(tagged.tag, tagged.data)
    name = names.TAGS.get(tagged.tag, f"tag {tagged.tag:#010x}")
    shown = _text_or_hex(tagged.data)[0]
    return f"{name}: {shown}", {"tag": tagged.tag, "data": shown}


def _rim_tag(tag: int, data: bytes) -> _Decoded:
    record: Any
    if tag == names.TAG_REALM_CREATE:
        record = parse_realm_create(data)
        text = f"create realm: {record.s2sz} IPA bits, flags {record.flags:#x}"
    elif tag == names.TAG_INIT_RIPAS:
        record = parse_init_ripas(data)
        text = f"RAM: {record.base:#x}, {record.size:#x} bytes"
    else:
        record = parse_rec_create(data)
        text = f"create vCPU: flags {record.flags:#x}, pc {record.pc:#x}, x0 {record.gprs[0]:#x}"
    fields: dict[str, str | int] = {"tag": tag, "operation": names.RIM_TAGS[tag]}
    for name, value in record._asdict().items():
        fields[name] = " ".join(f"{gpr:#x}" for gpr in value) if name == "gprs" else value
    return text, fields


def _firmware_blob(data: bytes) -> _Decoded:
    blob = parse_firmware_blob(data)
    return f"{blob.base:#x}, {blob.length:#x} bytes", {"base": blob.base, "length": blob.length}


def _firmware_blob2(data: bytes) -> _Decoded:
    blob = parse_firmware_blob2(data)
    name = printable_bytes(blob.description.rstrip(b"\0"))
    return f"{name}: {blob.base:#x}, {blob.length:#x} bytes", {"description": name, "base": blob.base, "length": blob.length}


def _variable(data: bytes) -> _Decoded:
    variable = parse_variable(data)
    name = printable(variable.name)
    owner = names.GUIDS.get(variable.guid, variable.guid)
    value = hex_preview(variable.data)
    return f"{name} ({owner}): {value}", {"name": name, "guid": variable.guid, "size": len(variable.data), "value": value}


def _image_load(data: bytes, max_nodes: int) -> _Decoded:
    load = parse_image_load(data, max_nodes)
    path = "/".join(_node_text(node) for node in load.path)
    text = f"{path or 'no device path'}, {load.length:#x} bytes at {load.location:#x}"
    return text, {
        "location": load.location,
        "length": load.length,
        "link_address": load.link_address,
        "path": path,
        "nodes": len(load.path),
    }


def _node_text(node: DevicePathNode) -> str:
    if (node.type, node.subtype) == _FILE_PATH_NODE:
        return printable(utf16_text(node.data))
    return f"{node.type:#04x}.{node.subtype:#04x}({printable(node.data[:24].hex())})"


def _gpt(data: bytes) -> _Decoded:
    used = [partition for partition in parse_gpt(data) if partition.type_guid != _UNUSED_GUID]
    labels = ", ".join(printable(partition.name) or "unnamed" for partition in used[:_MAX_LISTED])
    return f"{len(used)} partitions: {labels}", {"partitions": len(used), "labels": labels}


def _handoff_tables(data: bytes) -> _Decoded:
    return _tables(data, described=False)


def _handoff_tables2(data: bytes) -> _Decoded:
    return _tables(data, described=True)


def _tables(data: bytes, *, described: bool) -> _Decoded:
    handoff = parse_handoff_tables(data, described=described)
    listed = ", ".join(f"{names.GUIDS.get(guid, guid)} at {address:#x}" for guid, address in handoff.tables[:_MAX_LISTED])
    name = printable_bytes(handoff.description.rstrip(b"\0"))
    return f"{name}: {listed}" if name else listed, {"description": name, "tables": len(handoff.tables), "listed": listed}


def _post_code(data: bytes) -> _Decoded:
    # By the profile either text or the place of a blob; 16 bytes of text exist, so text is tried first.
    text = _plain_text(data)
    if text is None and len(data) == 16:
        return _firmware_blob(data)
    return _text_or_hex(data)


def _separator(data: bytes) -> _Decoded:
    if data in (bytes(4), b"\xff" * 4):
        return "separator", {"value": data.hex()}
    return f"separator of an error: {hex_preview(data)}", {"value": hex_preview(data)}


def _version(data: bytes) -> _Decoded:
    text = _wide_text(data)
    shown = hex_preview(data) if text is None else text
    return f"firmware version {shown}" if shown else "empty firmware version", {"version": shown}


def _text_or_hex(data: bytes) -> _Decoded:
    for text in (_plain_text(data), _wide_text(data)):
        if text is not None:
            return text, {"text": text}
    return hex_preview(data), {"size": len(data)}


def _plain_text(data: bytes) -> str | None:
    """Return the text in ``data``; None if it is not text. Old GRUBs leave one stray byte behind the NUL; shown text stops before."""
    head, _, tail = data.partition(b"\0")
    if not head or len(tail.strip(b"\0")) > 1:
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character in "\t\n\r" for character in text):
        return None
    return printable(text)


def _wide_text(data: bytes) -> str | None:
    """Return UTF-16LE text that ends with its only NUL; None if ``data`` is something else."""
    if len(data) < 2 or len(data) % 2 or data[-2:] != b"\0\0":
        return None
    try:
        text = data[:-2].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return printable(text) if text.isprintable() and text.isascii() else None


_IMAGE_LOADS = frozenset({
    names.EV_EFI_BOOT_SERVICES_APPLICATION,
    names.EV_EFI_BOOT_SERVICES_DRIVER,
    names.EV_EFI_RUNTIME_SERVICES_DRIVER,
})  # fmt: skip
_DECODERS: Mapping[int, Callable[[bytes], _Decoded]] = {
    names.EV_POST_CODE: _post_code,
    names.EV_SEPARATOR: _separator,
    names.EV_S_CRTM_VERSION: _version,
    names.EV_POST_CODE2: _firmware_blob2,
    names.EV_EFI_VARIABLE_DRIVER_CONFIG: _variable,
    names.EV_EFI_VARIABLE_BOOT: _variable,
    names.EV_EFI_VARIABLE_BOOT2: _variable,
    names.EV_EFI_VARIABLE_AUTHORITY: _variable,
    names.EV_EFI_GPT_EVENT: _gpt,
    names.EV_EFI_GPT_EVENT2: _gpt,
    names.EV_EFI_PLATFORM_FIRMWARE_BLOB: _firmware_blob,
    names.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _firmware_blob2,
    names.EV_EFI_HANDOFF_TABLES: _handoff_tables,
    names.EV_EFI_HANDOFF_TABLES2: _handoff_tables2,
}
