"""What the bytes behind a measured event can mean, by themselves and by the register they went to; never by the type of the event.

Each reader below accepts one language of bytes. The languages of one register are kept apart: text in 8-bit characters (GRUB), text in
UTF-16 (load options), UEFI structures and files have no byte string in common that matters, and where two readers do take the same bytes
both meanings are returned, so that a rule that refuses one of them is not evaded by claiming the other (``docs/security.md``). Sources:
UEFI 2.11 sections 3.1.3, 10.2, 32.4 and 38; TCG PC Client PFP 10.4.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kbs_rim.appraisal.runtime_logs import LoggedEvent
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.aael import TAG_AAEL, parse_aael_line
from kbs_rim.evidence.event_log import ImaTemplate, OpaqueContent
from kbs_rim.evidence.event_preimage import ERROR_SEPARATOR, ONE, SEPARATORS
from kbs_rim.evidence.ima_template import TEMPLATES, ImaEntry, decode_entry
from kbs_rim.evidence.printable import printable
from kbs_rim.evidence.tcg_structures import parse_device_path, parse_gpt, parse_tagged_event, parse_variable
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.uki import STUB_ORDER

REM0, REM1, REM2, REM3 = range(4)
_TEXT_BYTES: Final = 4096
"""No command line that a kernel takes is longer; GRUB's commands are shorter still."""
_LOAD_OPTION = struct.Struct("<IH")
_LOAD_OPTION_ATTRIBUTES: Final = 0x0000_1F0B
"""Attributes that UEFI defines (LOAD_OPTION_ACTIVE, FORCE_RECONNECT, HIDDEN, CATEGORY)."""
_BOOT_ENTRIES: Final = 64
"""More would be room for something else: of boot variables only the contents are hashed."""
_GLOBAL_VARIABLE, _IMAGE_SECURITY = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SECURE_BOOT_VARIABLES: Final[Mapping[str, str]] = {
    "SecureBoot": _GLOBAL_VARIABLE,
    "PK": _GLOBAL_VARIABLE,
    "KEK": _GLOBAL_VARIABLE,
    "db": _IMAGE_SECURITY,
    "dbx": _IMAGE_SECURITY,
}
"""Variables of Secure Boot and whose they are."""
_SIGNATURE_LIST = struct.Struct("<16sIII")


class Meaning(StrEnum):
    """What hashed bytes can be."""

    SEPARATOR = "separator"
    ERROR_SEPARATOR = "separator of an error"
    FIRMWARE_VERSION = "firmware version"
    SECURE_BOOT_VARIABLE = "variable of Secure Boot"
    VARIABLE = "measured variable"
    BOOT_ORDER = "boot order"
    BOOT_OPTION = "boot option"
    PARTITION_TABLE = "partition table"
    ACTION = "action"
    BOOT_TEXT = "text of a boot loader"
    KERNEL_TEXT = "kernel command line of a boot loader"
    LOAD_OPTIONS = "load options"
    SECTION_NAME = "name of a UKI section"
    MOK_LIST_TRUSTED = "MokListTrusted is 1"
    AGENT_EVENT = "event of the attestation agent"
    IMA_ENTRY = "IMA entry"
    IMA_VIOLATION = "IMA violation"
    CEL_CONTENT = "content of a canonical event log"


BINDING: Final = frozenset({
    Meaning.ERROR_SEPARATOR,
    Meaning.SECURE_BOOT_VARIABLE,
    Meaning.KERNEL_TEXT,
    Meaning.LOAD_OPTIONS,
})  # fmt: skip
"""Meanings that must be good where the bytes allow them, whatever else the bytes could be."""


@dataclass(frozen=True, slots=True)
class EventMeaning:
    """One thing that hashed bytes can be. ``text`` is what they say, as text where they are text; ``data`` are the bytes that count."""

    kind: Meaning
    text: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.kind}: {printable(self.text)}" if self.text else str(self.kind)


def meanings_of(event: LoggedEvent) -> tuple[EventMeaning, ...]:
    """Return everything that the hashed bytes can be in this register; empty if the log does not hold them or nobody reads them."""
    content = event.event.content
    if isinstance(content, ImaTemplate) and content.violation and event.digest.rstrip(b"\0").strip(b"\xff") == b"":
        return (EventMeaning(Meaning.IMA_VIOLATION),)  # Ones are the digest of nothing.
    if event.hashed is None:
        return ()
    hashed = event.hashed
    found = [meaning for read in _READERS[event.rem] if (meaning := read(hashed)) is not None]
    if isinstance(content, ImaTemplate) and hashed == content.data and event.rem in (REM2, REM3) and (entry := ima_entry(content)):
        found.append(EventMeaning(Meaning.IMA_ENTRY, entry.path.decode("utf-8"), hashed))
    if isinstance(content, OpaqueContent) and hashed.endswith(content.data):
        found.append(EventMeaning(Meaning.CEL_CONTENT, "", content.data))
    return tuple(found)


def plain_text(data: bytes) -> str | None:
    """Return printable ASCII, at most one NUL behind it dropped; None for anything else. No image, structure or UTF-16 text is that."""
    text = data.removesuffix(b"\0")
    if not text or len(text) > _TEXT_BYTES or not all(0x20 <= byte < 0x7F for byte in text):
        return None
    return text.decode("ascii")


def wide_text(data: bytes) -> str | None:
    """Return printable text of UTF-16LE, with or without one NUL behind it; None for anything else."""
    if len(data) % 2 or len(data) > 2 * _TEXT_BYTES:
        return None
    try:
        text = data.removesuffix(b"\0\0").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and text.isascii() else None


def could_name_a_kernel(text: str) -> bool:
    """Whether a kernel's command line by GRUB could begin like this: with a file's path, a device in brackets, or a list of blocks."""
    first = text.split(" ", 1)[0]
    return "/" in first or first[:1] in tuple("(+0123456789")


def _separator(data: bytes) -> EventMeaning | None:
    if data in SEPARATORS:
        return EventMeaning(Meaning.SEPARATOR)
    return EventMeaning(Meaning.ERROR_SEPARATOR) if data == ERROR_SEPARATOR else None


def _version(data: bytes) -> EventMeaning | None:
    text = wide_text(data) if data.endswith(b"\0\0") else None
    return None if text is None else EventMeaning(Meaning.FIRMWARE_VERSION, text)


def _variable(data: bytes) -> EventMeaning | None:
    """A variable with its name and owner. One of Secure Boot holds lists of signatures; what vouched for an image is a single one."""
    try:
        variable = parse_variable(data)
    except MalformedEvidence:
        return None
    ours = SECURE_BOOT_VARIABLES.get(variable.name) == variable.guid
    state = variable.name == "SecureBoot"
    if ours and (state or _is_signature_lists(variable.data)):
        return EventMeaning(Meaning.SECURE_BOOT_VARIABLE, variable.name, variable.data)
    return EventMeaning(Meaning.VARIABLE, variable.name, variable.data)


def _is_signature_lists(data: bytes) -> bool:
    """Whether ``data`` is a row of EFI_SIGNATURE_LISTs that fill it (UEFI 2.11 section 32.4.1); nothing at all is one."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _SIGNATURE_LIST.size:
            return False
        _, size, header, entry = _SIGNATURE_LIST.unpack_from(data, offset)
        body = size - _SIGNATURE_LIST.size - header
        if size > len(data) - offset or body < 0 or entry <= 16 or body % entry:
            return False
        offset += size
    return True


def _boot_order(data: bytes) -> EventMeaning | None:
    """BootOrder: numbers of boot options, each once. Text and variables of that shape are what they look like."""
    numbers = [number for (number,) in struct.iter_unpack("<H", data)] if len(data) % 2 == 0 else []
    if not numbers or len(numbers) > _BOOT_ENTRIES or len(set(numbers)) != len(numbers) or plain_text(data) is not None:
        return None
    return EventMeaning(Meaning.BOOT_ORDER, ", ".join(f"{number:04X}" for number in numbers), data)


def _boot_option(data: bytes) -> EventMeaning | None:
    """Boot####: EFI_LOAD_OPTION (UEFI 2.11 section 3.1.3), strictly."""
    if len(data) < _LOAD_OPTION.size:
        return None
    attributes, path_size = _LOAD_OPTION.unpack_from(data)
    if attributes & ~_LOAD_OPTION_ATTRIBUTES:
        return None
    rest = data[_LOAD_OPTION.size :]
    end = next((at for at in range(0, len(rest) - 1, 2) if rest[at : at + 2] == b"\0\0"), None)
    description = None if end is None else wide_text(rest[: end + 2])
    if end is None or description is None or path_size > len(rest) - end - 2 or path_size < 4:
        return None
    try:
        parse_device_path(rest[end + 2 : end + 2 + path_size], DEFAULT_LIMITS.device_path_nodes)
    except MalformedEvidence:
        return None
    return EventMeaning(Meaning.BOOT_OPTION, description, data)


def _partition_table(data: bytes) -> EventMeaning | None:
    try:
        parse_gpt(data)
    except MalformedEvidence:
        return None
    return EventMeaning(Meaning.PARTITION_TABLE, "", data)


def _action(data: bytes) -> EventMeaning | None:
    text = plain_text(data)
    return None if text is None else EventMeaning(Meaning.ACTION, text)


def _boot_text(data: bytes) -> EventMeaning | None:
    text = plain_text(data)
    if text is None:
        return None
    return EventMeaning(Meaning.KERNEL_TEXT if could_name_a_kernel(text) else Meaning.BOOT_TEXT, text)


def _load_options(data: bytes) -> EventMeaning | None:
    text = wide_text(data)
    return None if text is None else EventMeaning(Meaning.LOAD_OPTIONS, text)


def _section_name(data: bytes) -> EventMeaning | None:
    name = data.removesuffix(b"\0")
    known = data.endswith(b"\0") and name.decode("ascii", "replace") in STUB_ORDER
    return EventMeaning(Meaning.SECTION_NAME, name.decode("ascii")) if known else None


def _mok_list_trusted(data: bytes) -> EventMeaning | None:
    return EventMeaning(Meaning.MOK_LIST_TRUSTED) if data == ONE else None


def _agent_event(data: bytes) -> EventMeaning | None:
    """A tagged event of the attestation agent, which hashes tag, length and line."""
    try:
        tagged = parse_tagged_event(data)
        if tagged.tag != TAG_AAEL:
            return None
        parse_aael_line(tagged.data)
    except MalformedEvidence:
        return None
    return EventMeaning(Meaning.AGENT_EVENT, tagged.data.decode("utf-8"), data)


def ima_entry(template: ImaTemplate) -> ImaEntry | None:
    """Decode an entry of a template that the kernel has, with a file's digest and a printable path; None for others.

    The template's name is the log's word, so a format that somebody made up could fit any bytes, and a line feed in a path could make a
    configuration of GRUB out of an entry. The oldest template has no structure that would tell it from other bytes. Without a digest in
    front an entry begins with zeros, which Linux skips before an initrd, and a length that it would take for the head of one.
    """
    if template.name not in TEMPLATES:
        return None
    try:
        entry = decode_entry(template)
        return entry if entry.digest and entry.path and entry.path.decode("utf-8").isprintable() else None
    except (MalformedEvidence, UnicodeDecodeError):
        return None


_Reader = Callable[[bytes], EventMeaning | None]
_READERS: Mapping[int, tuple[_Reader, ...]] = {
    REM0: (_separator, _version, _variable, _boot_order, _boot_option, _action),
    REM1: (_separator, _partition_table, _action),
    REM2: (_separator, _boot_text, _load_options, _section_name, _mok_list_trusted),
    REM3: (_separator, _agent_event),
}
"""Which readers look at the bytes of which register (UEFI 2.11 section 38; measured boots by EDK2, shim, GRUB and systemd-stub)."""
