"""The TLV encoding of the Canonical Event Log: type u8, length u32 big-endian, value.

Implements the TCG Canonical Event Log Format. A record is four TLVs: record number, register, digests, content. Integers are
big-endian and of any length up to 8 bytes, since writers differ. Google's writers give measurement registers a type of their
own (108); a log that uses it is never read as one of PCRs, nor the other way round when the caller says so.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import cel_record as cel
from kbs_rim.evidence.event_log import Content, EventLog, LogFormat, Management, RegisterKind, TcgContent
from kbs_rim.limits import DEFAULT_LIMITS, Limits

CC_REGISTER: Final = 108
"""Type of a field that names a measurement register (Google's extension); it stands where ``pcr`` would."""
_HEAD = struct.Struct(">BI")
_FIELDS = 4
"""Record number, register, digests, content."""
_LONGEST_INTEGER = 8


def parse_cel_tlv(data: bytes, registers: RegisterKind, limits: Limits = DEFAULT_LIMITS) -> EventLog:
    """Parse a log in CEL-TLV. ``registers`` says what its register numbers count: PCRs or measurement registers.

    Raises ``MalformedEvidence("log.*")``; cost is linear in the size of the log.
    """
    if len(data) > limits.log_bytes:
        raise MalformedEvidence(
            "log.too-large", "the log is larger than the limit", expected=f"at most {limits.log_bytes} bytes", seen=f"{len(data)} bytes"
        )
    records = cel.Records(LogFormat.CEL_TLV, registers, limits)
    fields = _tlvs(bytes(data), 0)
    for field in fields:
        record = (field, *islice(fields, _FIELDS - 1))
        if len(record) < _FIELDS:
            raise MalformedEvidence("log.truncated", f"the log ends inside record {records.next_number}", offset=len(data))
        number, register, digests, content = record
        if number[0] != cel.RECNUM or digests[0] != cel.DIGESTS:
            records.refuse("log.encoding", "does not have its fields in order", seen=f"types {number[0]} and {digests[0]}")
        _check_register_type(register[0], registers, records)
        recnum, index = _integer(number[1], records), _integer(register[1], records)
        # The type of a digest is the low byte of its TPM_ALG_ID, which has no other byte for any hash.
        records.add(recnum, index, _tlvs(digests[1], 0), _content(content[0], content[1], records.next_number, limits))
    return records.log()


def names_measurement_registers(data: bytes) -> bool:
    """Whether the first record says that it counts measurement registers. Never raises; for display, when nobody said it."""
    try:
        fields = _tlvs(bytes(data), 0)
        return next(fields)[0] == cel.RECNUM and next(fields)[0] == CC_REGISTER
    except (MalformedEvidence, StopIteration):
        return False


def _tlvs(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each TLV until the end. A length is compared with what is left before anything is taken."""
    while offset < len(data):
        if len(data) - offset < _HEAD.size:
            raise MalformedEvidence("log.truncated", "the log ends inside the head of a field", offset=offset)
        kind, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        if length > len(data) - offset:
            left = f"at most {len(data) - offset} bytes"
            raise MalformedEvidence("log.truncated", "a field is longer than what is left", offset=offset, expected=left, seen=str(length))
        yield kind, data[offset : offset + length]
        offset += length


def _check_register_type(kind: int, registers: RegisterKind, records: cel.Records) -> None:
    if kind == cel.NV_INDEX:
        records.refuse("log.index", "is about an NV index, which no realm has")
    if kind not in (cel.PCR, CC_REGISTER):
        records.refuse("log.encoding", "does not name a register", seen=f"type {kind}")
    if kind == CC_REGISTER and registers is not RegisterKind.MR:
        records.refuse("log.index", "counts measurement registers", expected=f"{registers} registers")


def _integer(value: bytes, records: cel.Records) -> int:
    if not 0 < len(value) <= _LONGEST_INTEGER:
        records.refuse("log.encoding", "has an integer of an impossible length", seen=f"{len(value)} bytes")
    return int.from_bytes(value, "big")


def _content(kind: int, value: bytes, number: int, limits: Limits) -> Content:
    if kind == cel.PCCLIENT_STD:
        event_type, event_data = _pair(value, number, "pcclient_std")
        if not 0 < len(event_type) <= _LONGEST_INTEGER:
            raise _malformed(number, "has an integer of an impossible length")
        return TcgContent(int.from_bytes(event_type, "big"), event_data)
    if kind == cel.IMA_TEMPLATE:
        name, data = _pair(value, number, "ima_template")
        return cel.ima_template(number, name.decode("ascii", "replace"), data, limits)
    if kind == cel.CEL:
        return _management(value, number)
    return cel.opaque(number, kind, value)


def _pair(value: bytes, number: int, what: str) -> tuple[bytes, bytes]:
    fields = list(islice(_tlvs(value, 0), 3))
    if [kind for kind, _ in fields] != [0, 1]:
        raise _malformed(number, f"is no {what} of two fields")
    return fields[0][1], fields[1][1]


def _management(value: bytes, number: int) -> Content:
    fields = list(islice(_tlvs(value, 0), 2))
    if len(fields) != 1:
        raise _malformed(number, "is not one management event")
    kind, inner = fields[0]
    if kind == Management.CEL_VERSION:
        numbers: tuple[bytes, ...] = _pair(inner, number, "cel_version")
    else:
        numbers = (inner,) if inner else ()
    if any(not 0 < len(item) <= _LONGEST_INTEGER for item in numbers):
        raise _malformed(number, "has an integer of an impossible length")
    return cel.management(number, kind, tuple(int.from_bytes(item, "big") for item in numbers))


def _malformed(number: int, what: str) -> MalformedEvidence:
    return MalformedEvidence("log.content", f"record {number} {what}")
