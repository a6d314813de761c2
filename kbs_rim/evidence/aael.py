"""The runtime log of Confidential Containers' attestation agent (AAEL), as it is really written.

See docs/logs.md. The specification of AAEL is text; the agent writes TCG2 records: tagged
events with one digest each, over the whole tagged event. Its file has no header, since it is meant to follow the firmware's
log. Without such a log the agent puts a fixed header in front that no TCG2 parser should accept, with a signature of zeros; only
those very bytes are accepted here. When the agent sends the log it appends eight bytes 0xFF.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import EventLog, LogFormat, MeasuredEvent, RegisterKind, TcgContent, check_register, event_log_from_tcg
from kbs_rim.evidence.tcg_log import LogKind, TcgLog, parse_tcg_log
from kbs_rim.evidence.tcg_names import EV_EVENT_TAG, EV_NO_ACTION, TPM_ALGORITHMS
from kbs_rim.evidence.tcg_spec_id import SPEC_ID_SIGNATURE
from kbs_rim.evidence.tcg_structures import parse_tagged_event
from kbs_rim.limits import DEFAULT_LIMITS, Limits

TAG_AAEL: Final = 0x4141454C
END_MARK: Final = b"\xff" * 8
_FIRST_RECORD = struct.Struct("<II20sI")
_RECORD = struct.Struct("<IIIH")
_SPEC_ID = struct.Struct("<16sIBBBBI")


def _header(signature: bytes, versions: tuple[int, int, int, int], algorithms: tuple[int, ...]) -> bytes:
    """Return a Spec ID record."""
    table = b"".join(struct.pack("<HH", identifier, TPM_ALGORITHMS[identifier].digest_size) for identifier in algorithms)
    event = _SPEC_ID.pack(signature, 0, *versions, len(algorithms)) + table + b"\0"
    return _FIRST_RECORD.pack(0, EV_NO_ACTION, b"", len(event)) + event


_SHA256, _SHA384, _SM3 = 0x000B, 0x000C, 0x0012
AGENT_HEADERS: Final = tuple(_header(b"", (0, 0, 0, 0), table) for table in ((_SHA384, _SM3), (_SHA256, _SHA384, _SM3)))
"""What agents put in front: 69 bytes at first, 73 bytes since SHA-256 was added."""


@dataclass(frozen=True, slots=True)
class AaelEntry:
    """One line: who said it, what was done, to what. ``content`` may hold blanks; it is often JSON."""

    domain: str
    operation: str
    content: str


def is_aael(data: bytes) -> bool:
    """Whether ``data`` begins as an AAEL file does: with an agent's header, or with a tagged event of its tag."""
    if data.startswith(AGENT_HEADERS):
        return True
    if len(data) < _RECORD.size or data.startswith(END_MARK):
        return False
    _, event_type, count, identifier = _RECORD.unpack_from(data)
    if event_type != EV_EVENT_TAG or count != 1 or identifier not in TPM_ALGORITHMS:
        return False
    at = _RECORD.size + TPM_ALGORITHMS[identifier].digest_size + 4
    return data[at : at + 4] == TAG_AAEL.to_bytes(4, "little")


def parse_aael(data: bytes, limits: Limits = DEFAULT_LIMITS, *, registers: RegisterKind = RegisterKind.MR) -> EventLog:
    """Parse an AAEL file, with or without an agent's header and end mark. Agents of TDX and the like count measurement registers.

    Every record has one digest, of the first record's algorithm. A file without records is an empty log. Raises
    ``MalformedEvidence("log.*")``.
    """
    skipped = next((len(header) for header in AGENT_HEADERS if data.startswith(header)), 0)
    records = data[skipped:].removesuffix(END_MARK)
    if not records:
        return EventLog(LogFormat.AAEL, registers, ())
    if len(records) < _RECORD.size:
        raise MalformedEvidence("log.truncated", "the log ends inside record 0", offset=skipped, seen=f"{len(records)} bytes")
    identifier = _RECORD.unpack_from(records)[3]
    if identifier not in TPM_ALGORITHMS:
        raise MalformedEvidence("log.algorithm", "record 0 uses an unknown algorithm", offset=skipped, seen=f"{identifier:#06x}")
    if skipped and identifier not in _table_of(data[:skipped]):
        raise MalformedEvidence("log.algorithm", "record 0 uses an algorithm that the header does not list", offset=skipped)
    log = _parse_records(records, identifier, skipped, limits, registers)
    if log.padding is not None:
        raise MalformedEvidence("log.padding", "padding stands behind the log", offset=skipped + log.used_bytes)
    return _as_aael(log, registers)


def _table_of(header: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"<{(len(header) - 61) // 2}H", header, 60)[::2]


def _parse_records(records: bytes, identifier: int, skipped: int, limits: Limits, registers: RegisterKind) -> TcgLog:
    """Parse the records behind a Spec ID of our own, so that the one parser of TCG2 logs checks them."""
    ours = _header(SPEC_ID_SIGNATURE, (0, 2, 0, 2), (identifier,))
    kind = LogKind.CC if registers is RegisterKind.MR else LogKind.TPM
    try:
        log = parse_tcg_log(ours + records, kind, replace(limits, log_bytes=limits.log_bytes + len(ours)))
    except MalformedEvidence as error:
        offset = None if error.offset is None else max(0, error.offset - len(ours) + skipped)
        raise MalformedEvidence(error.finding_id, error.message, offset=offset, expected=error.expected, seen=error.seen) from None
    return replace(log, used_bytes=log.used_bytes - len(ours))


def _as_aael(log: TcgLog, registers: RegisterKind) -> EventLog:
    events = event_log_from_tcg(log).events
    for event in events:
        check_register(registers, event.register, event.number)
        entry_of(event)
    return EventLog(LogFormat.AAEL, registers, events)


def entry_of(event: MeasuredEvent) -> AaelEntry:
    """Return the line of a record; raise ``MalformedEvidence("log.event-data")`` if it is no AAEL record."""
    content = event.content
    if isinstance(content, TcgContent) and content.type == EV_EVENT_TAG:
        tagged = parse_tagged_event(content.data)
        if tagged.tag == TAG_AAEL:
            return parse_aael_line(tagged.data)
    raise MalformedEvidence("log.event-data", f"record {event.number} is no tagged event of the attestation agent", seen=event.type_name)


def parse_aael_line(line: bytes) -> AaelEntry:
    """Split a line at its first two blanks. Raises ``MalformedEvidence("log.event-data")`` unless it is one line of text in three parts."""
    try:
        parts = line.decode("utf-8").split(" ", 2)
    except UnicodeDecodeError:
        parts = []
    if len(parts) != 3 or not all(parts) or not all(part.isprintable() for part in parts):
        raise MalformedEvidence("log.event-data", "a record of the attestation agent is not one line of domain, operation and content")
    return AaelEntry(*parts)
