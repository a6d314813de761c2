"""The JSON encoding of the Canonical Event Log: an array of objects with names for numbers and hex for bytes.

Implements the TCG Canonical Event Log Format. Reading is strict (``strict_json``): no member twice, no member unread. Names of
algorithms, content types and event types may be given as numbers instead, as tpm2-tss and others do. Drafts of version 1.0 put
the content under its own name; that is read too.
"""

import re
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import cel_record as cel
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.event_log import Content, EventLog, LogFormat, Management, RegisterKind, TcgContent
from kbs_rim.evidence.strict_json import JsonValue
from kbs_rim.evidence.tcg_names import EVENT_TYPES, TPM_ALGORITHMS
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_FIELDS = {"recnum", "pcr", "digests"}
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_ALGORITHMS: Final = {
    **{known.name.replace("-", "_"): identifier for identifier, known in TPM_ALGORITHMS.items()},
    "sm3_256": 0x0012,
}
_EVENT_TYPES = {name: number for number, name in EVENT_TYPES.items()}
_MANAGEMENT = {event.name.lower(): event.value for event in Management}
_TRANSITIONS = {"suspend": 0, "hibernate": 1, "kexec": 2}
_WHAT = "the event log"


def parse_cel_json(data: bytes, registers: RegisterKind, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Parse a log in CEL-JSON. ``registers`` says what its register numbers count: PCRs or measurement registers.

    Raises ``MalformedEvidence("log.*")``.
    """
    records = cel.Records(LogFormat.CEL_JSON, registers, limits)
    for value in _records(bytes(data), limits):
        _add(records, value, limits)
    return records.log()


def _records(data: bytes, limits: Limits) -> list[JsonValue]:
    try:
        values = strict_json.decode(data, what=_WHAT, max_bytes=limits.log_bytes, max_depth=limits.json_depth, max_items=limits.log_items)
    except MalformedEvidence as error:
        finding_id = "log.too-large" if error.finding_id == "envelope.too-large" else "log.encoding"
        raise MalformedEvidence(finding_id, error.message, offset=error.offset, expected=error.expected, seen=error.seen) from None
    if not isinstance(values, list):
        raise MalformedEvidence("log.encoding", f"{_WHAT} is no JSON array")
    return values


def _add(records: cel.Records, value: JsonValue, limits: Limits) -> None:
    if not isinstance(value, dict):
        records.refuse("log.encoding", "is no object")
    keys = set(value)
    if "nv_index" in keys:
        records.refuse("log.index", "is about an NV index, which no realm has")
    old = keys & set(cel.CONTENT_NUMBERS)
    if keys != _FIELDS | {"content_type", "content"} and (len(old) != 1 or keys != _FIELDS | old):
        records.refuse("log.encoding", "does not have the fields of a record")
    content_type: JsonValue = next(iter(old)) if old else value["content_type"]
    content = _content(content_type, value[next(iter(old))] if old else value["content"], records, limits)
    digests = _digests(value["digests"], records)
    records.add(_unsigned(value["recnum"], records), _unsigned(value["pcr"], records), digests, content)


def _digests(value: JsonValue, records: cel.Records) -> list[tuple[int, bytes]]:
    if not isinstance(value, list):
        records.refuse("log.encoding", "has digests that are no array")
    pairs = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"hashAlg", "digest"}:
            records.refuse("log.encoding", "has a digest that is not hashAlg and digest")
        name = item["hashAlg"]
        identifier = _ALGORITHMS.get(name.lower().replace("-", "_")) if isinstance(name, str) else _unsigned(name, records)
        if identifier is None:
            records.refuse("log.algorithm", "has a digest of an unknown algorithm")
        pairs.append((identifier, _bytes(item["digest"], records)))
    return pairs


def _content(kind: JsonValue, value: JsonValue, records: cel.Records, limits: Limits) -> Content:
    content_type = cel.CONTENT_NUMBERS.get(kind) if isinstance(kind, str) else _unsigned(kind, records)
    if content_type is None:
        records.refuse("log.content", "has a content type of an unknown name")
    if content_type == cel.CEL:
        return _management(value, records)
    if content_type == cel.PCCLIENT_STD:
        event_type, data = _members(value, "event_type", "event_data", records)
        return TcgContent(_named(event_type, _EVENT_TYPES, "log.event-type", records), _bytes(data, records))
    if content_type == cel.IMA_TEMPLATE:
        name, data = _members(value, "template_name", "template_data", records)
        if not isinstance(name, str):
            records.refuse("log.content", "has a template name that is no text")
        return cel.ima_template(records.next_number, name, _bytes(data, records), limits)
    return cel.opaque(records.next_number, content_type, _bytes(value, records))


def _management(value: JsonValue, records: cel.Records) -> Content:
    members = value if isinstance(value, dict) and {"type"} <= set(value) <= {"type", "data"} else {}
    if not members:
        records.refuse("log.content", "is no management event")
    kind = _named(members["type"], _MANAGEMENT, "log.content", records)
    data = members.get("data")
    if isinstance(data, dict):
        values: tuple[JsonValue, ...] = _members(data, "major", "minor", records)
    else:
        values = (data,) if "data" in members else ()
    names = _TRANSITIONS if kind == Management.STATE_TRANS else {}
    numbers = tuple(_named(item, names, "log.content", records) for item in values)
    return cel.management(records.next_number, kind, numbers)


def _members(value: JsonValue, first: str, second: str, records: cel.Records) -> tuple[JsonValue, JsonValue]:
    if not isinstance(value, dict) or set(value) != {first, second}:
        records.refuse("log.content", f"is not {first} and {second}")
    return value[first], value[second]


def _named(value: JsonValue, names: dict[str, int], finding_id: str, records: cel.Records) -> int:
    """Return a number, given as such or by a name."""
    if isinstance(value, str):
        if value not in names:
            records.refuse(finding_id, "has a name that is not defined")
        return names[value]
    return _unsigned(value, records)


def _unsigned(value: JsonValue, records: cel.Records) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        records.refuse("log.encoding", "has a field that is no unsigned integer")
    return value


def _bytes(value: JsonValue, records: cel.Records) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        records.refuse("log.encoding", "has a field that is not bytes in hex")
    return bytes.fromhex(value)
