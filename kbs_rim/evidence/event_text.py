"""What an event of any log says about itself, for people to read. A description is a claim, never a reason to trust."""

from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import (
    CelManagement,
    ImaTemplate,
    Management,
    MeasuredEvent,
    OpaqueContent,
    RegisterKind,
    as_tcg_event,
)
from kbs_rim.evidence.ima_template import ByteOrder, decode_entry
from kbs_rim.evidence.printable import hex_preview, printable, printable_bytes
from kbs_rim.evidence.tcg_events import EventDescription, describe_event
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_KINDS: Final = {RegisterKind.RIM: LogKind.VMM, RegisterKind.PCR: LogKind.TPM, RegisterKind.MR: LogKind.CC}
_SHOWN_DIGITS = 16
"""Of a file's hash, in the text; the fields have all of it."""
_TRANSITIONS = ("suspend", "hibernate", "kexec")


def describe_measured(event: MeasuredEvent, limits: Limits = DEFAULT_LIMITS, order: ByteOrder = "little") -> EventDescription:
    """Decode what an event holds. ``order`` is that of IMA's lengths. Raises ``MalformedEvidence("log.*")`` if it is malformed."""
    content = event.content
    if isinstance(content, ImaTemplate):
        return _ima(event, content, order)
    if isinstance(content, CelManagement):
        return _management(event, content)
    if isinstance(content, OpaqueContent):
        shown = printable_bytes(content.data) if content.data.isascii() and content.data.rstrip(b"\0") else hex_preview(content.data)
        return EventDescription(event.type_name, shown, {"content_type": content.type, "size": len(content.data)})
    return describe_event(as_tcg_event(event), _KINDS[event.register_kind], limits)


def _ima(event: MeasuredEvent, content: ImaTemplate, order: ByteOrder) -> EventDescription:
    if not content.data:
        return EventDescription(event.type_name, "an entry whose fields are not known", {"violation": int(content.violation)})
    try:
        entry = decode_entry(content, order)
    except MalformedEvidence as error:
        what = f"record {event.number}, {event.type_name}: {error.message}"
        raise MalformedEvidence(error.finding_id, what, expected=error.expected, seen=error.seen) from None
    path = printable_bytes(entry.path)
    digest = f"{entry.algorithm}:{entry.digest.hex()}" if entry.digest else "no file hash"
    fields: dict[str, str | int] = {"path": path, "file_hash": digest, "violation": int(content.violation)}
    if entry.digest_type != "ima":
        fields["digest_type"] = entry.digest_type
    for name in ("sig", "buf", "modsig"):
        if entry.fields.get(name):
            fields[name] = hex_preview(entry.fields[name])
    shown = f"{entry.algorithm}:{entry.digest.hex()[:_SHOWN_DIGITS]}..." if entry.digest else digest
    return EventDescription(event.type_name, f"{'violation: ' if content.violation else ''}{path} {shown}", fields)


def _management(event: MeasuredEvent, content: CelManagement) -> EventDescription:
    if content.type is Management.CEL_VERSION:
        text = f"CEL version {content.values[0]}.{content.values[1]}"
    elif content.type is Management.FIRMWARE_END:
        text = "end of the firmware's events"
    elif content.type is Management.CEL_TIMESTAMP:
        text = f"time {content.values[0]}"
    else:
        text = f"transition: {_TRANSITIONS[content.values[0]]}"
    return EventDescription(event.type_name, printable(text), {"management": content.type.name.lower()})
