"""The CBOR encoding of the Canonical Event Log (CEL 1.1, 5.2): an array of maps, or the maps one after the other.

Implements the TCG Canonical Event Log Format. Reading is strict (``strict_cbor``): no key twice, nothing of indefinite length,
nothing behind the end. Drafts of version 1.0 put the content under its own type as key; that is read too.
"""

from dataclasses import replace

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import cel_record as cel
from kbs_rim.evidence import strict_cbor
from kbs_rim.evidence.event_log import Content, EventLog, LogFormat, RegisterKind, TcgContent
from kbs_rim.evidence.strict_cbor import CborMap, CborValue
from kbs_rim.evidence.tcg_names import EVENT_TYPES
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_ARRAY = 4
_CONTENT_KEYS = frozenset({cel.CEL, cel.PCCLIENT_STD, cel.IMA_TEMPLATE, cel.IMA_TLV})
"""Keys of a content in drafts of version 1.0. 9 was one of them and is now the content type, so it is not read as content."""
_EVENT_TYPES = {name: number for number, name in EVENT_TYPES.items()}
_WHAT = "the event log"


def parse_cel_cbor(data: bytes, registers: RegisterKind, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Parse a log in CEL-CBOR. ``registers`` says what its register numbers count: PCRs or measurement registers.

    Raises ``MalformedEvidence("log.*")``.
    """
    if len(data) > limits.log_bytes:
        raise MalformedEvidence(
            "log.too-large", "the log is larger than the limit", expected=f"at most {limits.log_bytes} bytes", seen=f"{len(data)} bytes"
        )
    records = cel.Records(LogFormat.CEL_CBOR, registers, limits)
    for value in _records(bytes(data), replace(limits, cbor_items=limits.log_items)):
        _add(records, value, limits)
    return records.log()


def _records(data: bytes, limits: Limits) -> tuple[CborValue, ...]:
    try:
        if data[:1] and data[0] >> 5 == _ARRAY:
            values = strict_cbor.decode(data, limits=limits, what=_WHAT)
        else:
            values = strict_cbor.decode_sequence(data, limits=limits, what=_WHAT)
    except MalformedEvidence as error:
        raise MalformedEvidence(
            "log.encoding", error.message, offset=error.offset, expected=error.expected, seen=error.seen or error.finding_id
        ) from None
    return values if isinstance(values, tuple) else ()


def _add(records: cel.Records, value: CborValue, limits: Limits) -> None:
    if not isinstance(value, dict):
        records.refuse("log.encoding", "is no map")
    keys = set(value)
    if cel.NV_INDEX in keys:
        records.refuse("log.index", "is about an NV index, which no realm has")
    fields = {cel.RECNUM, cel.PCR, cel.DIGESTS}
    old = keys & _CONTENT_KEYS
    if keys != fields | {cel.CONTENT_TYPE, cel.CONTENT} and (len(old) != 1 or keys != fields | old):
        records.refuse("log.encoding", "does not have the fields of a record")
    recnum, register = (_unsigned(value[key], records) for key in (cel.RECNUM, cel.PCR))
    if old:
        (content_type,) = (key for key in old if isinstance(key, int))
        content = _content(content_type, value[content_type], records, limits)
    else:
        content = _content(_unsigned(value[cel.CONTENT_TYPE], records), value[cel.CONTENT], records, limits)
    records.add(recnum, register, _digests(value[cel.DIGESTS], records), content)


def _digests(value: CborValue, records: cel.Records) -> list[tuple[int, bytes]]:
    if not isinstance(value, tuple):
        records.refuse("log.encoding", "has digests that are no array")
    pairs = []
    for item in value:
        digest = item.get(1) if isinstance(item, dict) and set(item) == {0, 1} else None
        if not isinstance(item, dict) or not isinstance(digest, bytes):
            records.refuse("log.encoding", "has a digest that is not an algorithm and bytes")
        pairs.append((_unsigned(item[0], records), digest))
    return pairs


def _content(content_type: int, value: CborValue, records: cel.Records, limits: Limits) -> Content:
    number = records.next_number
    if content_type == cel.CEL:
        return _management(value, records)
    if content_type in (cel.PCCLIENT_STD, cel.IMA_TEMPLATE):
        inner = value if isinstance(value, dict) and set(value) == {0, 1} else {}
        name, data = inner.get(0), inner.get(1)
        if not isinstance(data, bytes):
            records.refuse("log.content", f"is no {cel.CONTENT_NAMES[content_type]} of two fields")
        if content_type == cel.PCCLIENT_STD:
            return TcgContent(_event_type(name, records), data)
        if not isinstance(name, str):
            records.refuse("log.content", "has a template name that is no text")
        return cel.ima_template(number, name, data, limits)
    if not isinstance(value, bytes):
        records.refuse("log.content", "has content that is no byte string", seen=f"content type {content_type}")
    return cel.opaque(number, content_type, value)


def _event_type(value: CborValue, records: cel.Records) -> int:
    if isinstance(value, str):
        if value not in _EVENT_TYPES:
            records.refuse("log.event-type", "names an unknown event type")
        return _EVENT_TYPES[value]
    return _unsigned(value, records)


def _management(value: CborValue, records: cel.Records) -> Content:
    inner: CborMap = value if isinstance(value, dict) and set(value) <= {0, 1} and 0 in value else {}
    if not inner:
        records.refuse("log.content", "is no management event")
    data = inner.get(1)
    if isinstance(data, dict):
        if set(data) != {0, 1}:
            records.refuse("log.content", "is no management event")
        values: tuple[CborValue, ...] = (data[0], data[1])
    else:
        values = (data,) if 1 in inner else ()
    return cel.management(records.next_number, _unsigned(inner[0], records), tuple(_unsigned(item, records) for item in values))


def _unsigned(value: CborValue, records: cel.Records) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        records.refuse("log.encoding", "has a field that is no unsigned integer")
    return value
