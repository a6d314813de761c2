"""What the digest of an event is the hash of: computed again from the event where that can be done, named where it cannot.

Implements PC Client PFP 10.4. Event types, data and prefixes are not
measured, so a match proves the bytes that were hashed and nothing else: "grub_cmd: x" and "kernel_cmdline: x" have one digest.
What is ``external`` says only where to look; a digest that is found in no trusted place is unknown, and unknown is refused by
whoever judges. Nothing here raises for anything that a log can hold.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_names as names
from kbs_rim.evidence.aael import TAG_AAEL
from kbs_rim.evidence.event_log import CelManagement, ImaTemplate, MeasuredEvent, OpaqueContent, RegisterKind, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_template import hashed_bytes
from kbs_rim.evidence.printable import printable, printable_bytes
from kbs_rim.evidence.tcg_structures import parse_firmware_blob2, parse_image_load, parse_tagged_event, parse_variable, utf16_text
from kbs_rim.limits import DEFAULT_LIMITS


class DigestKind(StrEnum):
    """How an event's digest is known.

    ``recomputed``: it must be the hash of bytes that stand in the event. ``constant``: it is the hash of bytes that everybody
    knows. ``external``: it is the hash of something that is not in the log. ``none``: nobody can say.
    """

    RECOMPUTED = "recomputed"
    CONSTANT = "constant"
    EXTERNAL = "external"
    NONE = "none"


class Material(StrEnum):
    """What an external digest is the hash of, by the event's own words: where to look it up, not what it is."""

    PE_IMAGE = "pe-image"
    FILE = "file"
    INITRD = "initrd"
    LOAD_OPTIONS = "load-options"
    COMMAND_LINE = "command-line"
    SECTION = "section"
    FIRMWARE = "firmware"
    ACPI = "acpi"
    DEVICE_TREE = "device-tree"
    HANDOFF_TABLES = "handoff-tables"
    SMBIOS = "smbios"
    MOK_LIST = "mok-list"
    DEVICE = "device"
    VMM_IMAGE = "vmm-image"


@dataclass(frozen=True, slots=True)
class Rederivation:
    """``matches`` is true or false where the digest was computed again, None where it could not be. ``what`` is printable text."""

    kind: DigestKind
    matches: bool | None
    what: str
    material: Material | None = None


def rederive(event: MeasuredEvent, algorithm: HashAlgorithm | int) -> Rederivation:
    """Say what the digest of ``event`` in ``algorithm`` (or TPM_ALG_ID) is, computing it again where the event holds what was hashed."""
    identifier = algorithm.tpm_id if isinstance(algorithm, HashAlgorithm) else algorithm
    if not event.measured:
        return _none("not measured")
    digest = event.digests.get(identifier)
    known = names.TPM_ALGORITHMS.get(identifier)
    if digest is None or known is None:
        return _none("no digest of this algorithm")
    if known.hashlib_name not in hashlib.algorithms_available:
        return _none(f"{known.name} cannot be computed here")
    try:
        return _of_content(event, _Digest(digest, known.hashlib_name))
    except MalformedEvidence:
        return _none("event data that are malformed")


class _Digest:
    """A logged digest that candidates are compared with. What is compared is public, so time does not matter."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: bytes, hash_name: str) -> None:
        self.value = value
        self._hash = hash_name

    def is_of(self, data: bytes) -> bool:
        return hashlib.new(self._hash, data).digest() == self.value


def _recomputed(what: str, *, matches: bool = True) -> Rederivation:
    return Rederivation(DigestKind.RECOMPUTED, matches, what)


def _constant(what: str) -> Rederivation:
    return Rederivation(DigestKind.CONSTANT, True, what)


def _external(material: Material, what: str) -> Rederivation:
    return Rederivation(DigestKind.EXTERNAL, None, what, material)


def _none(what: str) -> Rederivation:
    return Rederivation(DigestKind.NONE, None, what)


def _of_content(event: MeasuredEvent, digest: _Digest) -> Rederivation:
    content = event.content
    if isinstance(content, ImaTemplate):
        return _ima(content, digest)
    if isinstance(content, CelManagement | OpaqueContent):
        return _cel(content, digest)
    if event.register_kind is RegisterKind.RIM:
        return _external(Material.VMM_IMAGE, "a loaded image, judged by the RIM")
    return _tcg(content, digest)


def _ima(template: ImaTemplate, digest: _Digest) -> Rederivation:
    if template.violation:
        return Rederivation(DigestKind.CONSTANT, not digest.value.strip(b"\xff"), "ones: a violation")
    if not template.data:
        return _none("the fields of the template are not known")
    return _recomputed("template data", matches=digest.is_of(hashed_bytes(template)))


def _cel(content: CelManagement | OpaqueContent, digest: _Digest) -> Rederivation:
    if isinstance(content, OpaqueContent):
        if digest.is_of(content.data):
            return _recomputed("content")
        # Google's writers hash the field as it stands in the log, head included.
        if digest.is_of(content.type.to_bytes(4, "big")[-1:] + len(content.data).to_bytes(4, "big") + content.data):
            return _recomputed("content with its head")
    return _none("what was hashed is not known")


def _tcg(content: TcgContent, digest: _Digest) -> Rederivation:
    handler = _HANDLERS.get(content.type)
    if handler is not None:
        return handler(content.data, digest)
    if content.type in _WHOLE:
        return _recomputed("event data", matches=digest.is_of(content.data))
    if digest.is_of(content.data):
        return _recomputed("event data")
    if content.type in _ELSEWHERE:
        return _external(*_ELSEWHERE[content.type])
    return _none("what was hashed is not known")


def _separator(data: bytes, digest: _Digest) -> Rederivation:
    if data in _SEPARATORS and digest.is_of(data):
        return _constant("separator")
    if digest.is_of(_ERROR_SEPARATOR):
        return _constant("separator of an error")
    return _recomputed("a separator", matches=False)


def _action(data: bytes, digest: _Digest) -> Rederivation:
    if not digest.is_of(data):
        return _recomputed("event data", matches=False)
    return _constant("a well-known action") if data in _ACTIONS else _recomputed("event data")


def _boot_variable(data: bytes, digest: _Digest) -> Rederivation:
    if digest.is_of(parse_variable(data).data):
        return _recomputed("data of the variable")
    return _recomputed("event data", matches=digest.is_of(data))


def _authority(data: bytes, digest: _Digest) -> Rederivation:
    if data and digest.is_of(data[:-1]):
        return _recomputed("event data less a stray byte")  # Old shims log one byte more than they hash.
    return _recomputed("event data", matches=digest.is_of(data))


def _image(data: bytes, _: _Digest) -> Rederivation:
    path = parse_image_load(data, DEFAULT_LIMITS.device_path_nodes).path
    files = [utf16_text(node.data) for node in path if (node.type, node.subtype) == _FILE_PATH_NODE]
    return _external(Material.PE_IMAGE, f"Authenticode hash of {printable(files[-1])}" if files else "Authenticode hash of a PE image")


def _post_code(data: bytes, digest: _Digest) -> Rederivation:
    if digest.is_of(data):
        return _recomputed("event data")
    if data.rstrip(b"\0") == b"ACPI DATA":
        return _external(Material.ACPI, "ACPI tables")
    return _external(Material.FIRMWARE, "a part of the firmware")


def _blob2(data: bytes, _: _Digest) -> Rederivation:
    name = printable_bytes(parse_firmware_blob2(data).description.rstrip(b"\0"))
    return _external(Material.FIRMWARE, f"a part of the firmware: {name}")


def _platform_config(data: bytes, digest: _Digest) -> Rederivation:
    if digest.is_of(data):
        return _recomputed("event data")
    if len(data) >= _TD_SHIM_HEAD and digest.is_of(data[_TD_SHIM_HEAD:]):
        return _recomputed("event data behind name and length")
    text = data.partition(b"\0")[0]
    if text == b"ACPI DATA" or text.startswith(b"etc/"):
        return _external(Material.ACPI, f"what the VMM gave as {printable_bytes(text)}")
    if text == b"DirectBoot Command Line":
        return _external(Material.COMMAND_LINE, "kernel command line")
    if utf16_text(data) == "kernel":
        return _external(Material.FILE, "kernel file")
    return _none("what was hashed is not known")


def _device_tree_or_config(data: bytes, digest: _Digest) -> Rederivation:
    if digest.is_of(data):
        return _recomputed("event data")
    if data.rstrip(b"\0").endswith(b" FDT."):
        return _external(Material.DEVICE_TREE, "device tree")
    return _none("what was hashed is not known")


def _tagged(data: bytes, digest: _Digest) -> Rederivation:
    if data.startswith(_BARE_LOAD_OPTIONS):
        return _external(Material.LOAD_OPTIONS, "load options of the kernel, in UTF-16")
    event = parse_tagged_event(data)
    if event.tag in _TAGS:
        return _external(*_TAGS[event.tag])
    if event.tag == TAG_AAEL:
        return _recomputed("tag, length and line", matches=digest.is_of(data))
    if digest.is_of(data):
        return _recomputed("event data")
    if digest.is_of(event.data):
        return _recomputed("data of the tagged event")
    return _none("what was hashed is not known")


def _ipl(data: bytes, digest: _Digest) -> Rederivation:
    """EV_IPL by producer (1.4): GRUB's strings, shim's lists, systemd-stub's sections, and files by name."""
    text = data.partition(b"\0")[0]
    for prefix, nul, what in _GRUB_STRINGS:
        if text.startswith(prefix):
            return _recomputed(what, matches=digest.is_of(text[len(prefix) :] + nul))
    if text in _IPL_MATERIAL:
        if text == b"MokListTrusted" and digest.is_of(b"\x01"):
            return _constant("MokListTrusted is 1")
        return _external(*_IPL_MATERIAL[text])
    if digest.is_of(data):
        return _recomputed("event data")
    if digest.is_of(data.rstrip(b"\0")):
        return _recomputed("event data without NUL")
    if len(data) % 2 and digest.is_of(data + b"\0"):
        return _recomputed("event data with the rest of a NUL")  # Old systemd-boot logs one byte of UTF-16 less than it hashes.
    name = _file_name(data)
    return _section(data, digest) or (_external(Material.FILE, f"file {name}") if name else _none("what was hashed is not known"))


def _file_name(data: bytes) -> str:
    """Return the text that an event consists of, in UTF-16 as from systemd or in 8-bit characters; empty if it is no text."""
    try:
        text = data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-8").rstrip("\0")
    except UnicodeDecodeError:
        return ""
    return printable(text) if text.isprintable() else ""


def _section(data: bytes, digest: _Digest) -> Rederivation | None:
    """systemd-stub logs a section's name twice, in UTF-16: first for the name in ASCII, then for the contents."""
    if len(data) % 2 or not data.endswith(b"\0\0") or data[:1] != b"." or data[1:2] != b"\0":
        return None
    name = utf16_text(data)
    if name.isascii() and digest.is_of(name.encode("ascii") + b"\0"):
        return _recomputed(f"name of section {printable(name)}")
    return _external(Material.SECTION, f"contents of section {printable(name)}")


_Handler = Callable[[bytes, _Digest], Rederivation]
_FILE_PATH_NODE = (4, 4)
_TD_SHIM_HEAD: Final = 20
"""td-shim writes a name of 16 bytes and a length, and hashes what follows."""
_SEPARATORS = (bytes(4), b"\xff" * 4)
_ERROR_SEPARATOR = b"\1\0\0\0"
_ACTIONS = frozenset({
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
    b"Exit Boot Services Returned with Failure",
})  # fmt: skip
_BARE_LOAD_OPTIONS = b"LOADED_IMAGE::LoadOptions\0"
_GRUB_STRINGS = (
    (b"grub_cmd: ", b"", "GRUB command"),
    (b"kernel_cmdline: ", b"", "kernel command line"),
    (b"module_cmdline: ", b"", "module command line"),
    (b"grub_cmd ", b"\0", "GRUB command with NUL"),
    (b"grub_kernel_cmdline ", b"", "kernel command line"),
)
"""Prefix, what is hashed behind the rest of the string, what it is. The last two are Red Hat's old GRUB."""
_IPL_MATERIAL: Mapping[bytes, tuple[Material, str]] = {
    b"grub_linuxefi Kernel": (Material.FILE, "kernel file"),
    b"grub_linuxefi Initrd": (Material.INITRD, "initrd file"),
    b"MokList": (Material.MOK_LIST, "contents of MokList"),
    b"MokListX": (Material.MOK_LIST, "contents of MokListX"),
    b"MokListTrusted": (Material.MOK_LIST, "contents of MokListTrusted"),
}
_TAGS: Mapping[int, tuple[Material, str]] = {
    0x8F3B22EC: (Material.INITRD, "initrd that the kernel got"),
    0x8F3B22ED: (Material.LOAD_OPTIONS, "load options of the kernel, in UTF-16"),
    0xF5BC582A: (Material.FILE, "file loader.conf"),
    0x6C46F751: (Material.FILE, "device tree addon"),
    0x49DFFE0F: (Material.FILE, "initrd addon"),
    0xDAC08E1A: (Material.FILE, "microcode addon"),
    0xD5CB7CBC: (Material.SMBIOS, "an SMBIOS structure"),
}
_WHOLE = frozenset({
    names.EV_S_CRTM_VERSION,
    names.EV_OMIT_BOOT_DEVICE_EVENTS,
    names.EV_EFI_VARIABLE_DRIVER_CONFIG,
    names.EV_EFI_GPT_EVENT,
    names.EV_EFI_VARIABLE_BOOT2,
    names.EV_EFI_SPDM_DEVICE_POLICY,
    names.EV_EFI_SPDM_DEVICE_AUTHORITY,
})  # fmt: skip
"""Types whose digest must be the hash of the whole event data. Of all others that is tried, and not required."""
_ELSEWHERE: Mapping[int, tuple[Material, str]] = {
    names.EV_S_CRTM_CONTENTS: (Material.FIRMWARE, "the firmware's root of trust"),
    names.EV_CPU_MICROCODE: (Material.FIRMWARE, "CPU microcode"),
    names.EV_NONHOST_CODE: (Material.FIRMWARE, "code of another processor"),
    names.EV_NONHOST_INFO: (Material.FIRMWARE, "what another processor reports"),
    names.EV_EFI_PLATFORM_FIRMWARE_BLOB: (Material.FIRMWARE, "a part of the firmware"),
    names.EV_EFI_HANDOFF_TABLES: (Material.HANDOFF_TABLES, "tables handed over by the firmware"),
    names.EV_EFI_HANDOFF_TABLES2: (Material.HANDOFF_TABLES, "tables handed over by the firmware"),
    names.EV_EFI_SPDM_FIRMWARE_BLOB: (Material.DEVICE, "a device's firmware"),
    names.EV_EFI_SPDM_FIRMWARE_CONFIG: (Material.DEVICE, "a device's configuration"),
}
_HANDLERS: Mapping[int, _Handler] = {
    names.EV_POST_CODE: _post_code,
    names.EV_SEPARATOR: _separator,
    names.EV_ACTION: _action,
    names.EV_EVENT_TAG: _tagged,
    names.EV_PLATFORM_CONFIG_FLAGS: _platform_config,
    names.EV_IPL: _ipl,
    names.EV_NONHOST_CONFIG: _device_tree_or_config,
    names.EV_POST_CODE2: _blob2,
    names.EV_EFI_VARIABLE_BOOT: _boot_variable,
    names.EV_EFI_BOOT_SERVICES_APPLICATION: _image,
    names.EV_EFI_BOOT_SERVICES_DRIVER: _image,
    names.EV_EFI_RUNTIME_SERVICES_DRIVER: _image,
    names.EV_EFI_ACTION: _action,
    names.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _blob2,
    names.EV_EFI_VARIABLE_AUTHORITY: _authority,
}
