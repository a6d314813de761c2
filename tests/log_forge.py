"""Writers of event logs, for tests of readers: each writes what the specification's layout says, and nothing checks it."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping

import cbor2

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.tcg_names import EVENT_TYPES, TPM_ALGORITHMS

SHA1, SHA256, SHA384, SHA512, SM3 = 0x4, 0xB, 0xC, 0xD, 0x12
SEPARATOR, TAG, IPL, ACTION = 0x4, 0x6, 0xD, 0x80000007
NAMES = {0x4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512", 0x12: "sm3_256", 0x27: "sha3-256", 0x28: "sha3-384", 0x29: "sha3-512"}
CONTENT_NAMES = {4: "cel", 5: "pcclient_std", 7: "ima_template", 8: "ima_tlv", 9: "systemd"}
MANAGEMENT_NAMES = {1: "cel_version", 2: "firmware_end", 80: "cel_timestamp", 81: "state_trans"}
TRANSITION_NAMES = ("suspend", "hibernate", "kexec")

Record = tuple[int, int, Mapping[int, bytes], tuple[int, object]]
"""Record number, register, digests, (content type, content): content is (event type, data), (name, data), (kind, values) or bytes."""


def digest_of(algorithm: int, data: bytes) -> bytes:
    return hashlib.new(TPM_ALGORITHMS[algorithm].hashlib_name, data).digest()


def finding_of(read: Callable[..., object], *arguments: object, **more: object) -> str | None:
    """The finding id of a refusal, or None if ``read`` returns; any other exception is the test's failure."""
    try:
        read(*arguments, **more)
    except MalformedEvidence as error:
        return error.finding_id
    return None


# TCG2


def spec_id(*algorithms: int, index: int = 0) -> bytes:
    table = b"".join(struct.pack("<HH", identifier, TPM_ALGORITHMS[identifier].digest_size) for identifier in algorithms)
    event = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 106, 2, len(algorithms)) + table + b"\0"
    return struct.pack("<II20sI", index, 3, b"", len(event)) + event


def tcg_record(index: int, event_type: int, digests: Mapping[int, bytes], data: bytes) -> bytes:
    body = b"".join(struct.pack("<H", identifier) + digest for identifier, digest in digests.items())
    return struct.pack("<III", index, event_type, len(digests)) + body + struct.pack("<I", len(data)) + data


def tcg_log(algorithm: int, *events: tuple[int, int, bytes, bytes | None]) -> bytes:
    """Events are (register, type, event data, hashed bytes); None: the event data is hashed."""
    return spec_id(algorithm) + b"".join(
        tcg_record(index, event_type, {algorithm: digest_of(algorithm, data if hashed is None else hashed)}, data)
        for index, event_type, data, hashed in events
    )


def tagged(tag: int, data: bytes) -> bytes:
    return struct.pack("<II", tag, len(data)) + data


# AAEL


AGENT_HEADER = struct.pack("<II20sI16sIBBBBI", 0, 3, b"", 37, b"", 0, 0, 0, 0, 0, 2) + struct.pack("<HHHHB", SHA384, 48, SM3, 32, 0)


def aael_record(line: bytes, algorithm: int = SHA384, register: int = 4, tag: int = 0x4141454C) -> bytes:
    event = tagged(tag, line)
    return tcg_record(register, TAG, {algorithm: digest_of(algorithm, event)}, event)


# CEL


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BI", kind, len(value)) + value


def cel_tlv(records: Iterable[Record], *, register_type: int = 1, number_size: int = 8, register_size: int = 1) -> bytes:
    out = b""
    for recnum, register, digests, (kind, content) in records:
        out += tlv(0, recnum.to_bytes(number_size, "big")) + tlv(register_type, register.to_bytes(register_size, "big"))
        out += tlv(3, b"".join(tlv(identifier, digest) for identifier, digest in digests.items()))
        out += tlv(kind, _tlv_content(kind, content))
    return out


def _tlv_content(kind: int, content: object) -> bytes:
    if kind == 5:
        event_type, data = content
        return tlv(0, event_type.to_bytes(4, "big")) + tlv(1, data)
    if kind == 7:
        name, data = content
        return tlv(0, name.encode()) + tlv(1, data)
    if kind == 4:
        management, values = content
        numbers = [value.to_bytes(8, "big") for value in values]
        fields = [tlv(place, number) for place, number in enumerate(numbers)] if management == 1 else numbers
        return tlv(management, b"".join(fields))
    return content


def cel_cbor(records: Iterable[Record], *, sequence: bool = False, old: bool = False) -> bytes:
    maps = []
    for recnum, register, digests, (kind, content) in records:
        inner = _cbor_content(kind, content)
        base = {0: recnum, 1: register, 3: [{0: identifier, 1: digest} for identifier, digest in digests.items()]}
        maps.append({**base, kind: inner} if old else {**base, 9: kind, 10: inner})
    return b"".join(map(cbor2.dumps, maps)) if sequence else cbor2.dumps(maps)


def _cbor_content(kind: int, content: object) -> object:
    if kind in (5, 7):
        return {0: content[0], 1: content[1]}
    if kind == 4:
        management, values = content
        return {0: management, **({1: values[0] if len(values) == 1 else {0: values[0], 1: values[1]}} if values else {})}
    return content


def cel_json(records: Iterable[Record], *, numbers: bool = False, old: bool = False) -> bytes:
    return json.dumps([cel_object(record, numbers=numbers, old=old) for record in records]).encode()


def cel_object(record: Record, *, numbers: bool = False, old: bool = False) -> dict[str, object]:
    recnum, register, digests, (kind, content) = record
    name = kind if numbers else CONTENT_NAMES.get(kind, kind)
    inner = _json_content(kind, content, numbers=numbers)
    listed = [{"hashAlg": identifier if numbers else NAMES[identifier], "digest": digest.hex()} for identifier, digest in digests.items()]
    base = {"recnum": recnum, "pcr": register, "digests": listed}
    return {**base, CONTENT_NAMES[kind]: inner} if old else {**base, "content_type": name, "content": inner}


def _json_content(kind: int, content: object, *, numbers: bool) -> object:
    if kind == 5:
        event_type = content[0] if numbers else EVENT_TYPES.get(content[0], content[0])
        return {"event_type": event_type, "event_data": content[1].hex()}
    if kind == 7:
        return {"template_name": content[0], "template_data": content[1].hex()}
    if kind == 4:
        management, values = content
        name = management if numbers else MANAGEMENT_NAMES[management]
        if not values:
            return {"type": name}
        if len(values) == 2:
            return {"type": name, "data": {"major": values[0], "minor": values[1]}}
        named = management == 81 and not numbers
        return {"type": name, "data": TRANSITION_NAMES[values[0]] if named else values[0]}
    return content.hex()


# IMA


def ima_fields(*fields: bytes, order: str = "<") -> bytes:
    return b"".join(struct.pack(order + "I", len(field)) + field for field in fields)


def ima_ng(path: bytes, content: bytes = b"content", order: str = "<") -> bytes:
    return ima_fields(b"sha256:\0" + hashlib.sha256(content).digest(), path + b"\0", order=order)


def ima_record(name: bytes, data: bytes, *, digest: bytes | None = None, pcr: int = 10, algorithm: int = SHA1, order: str = "<") -> bytes:
    """One entry; ``digest`` defaults to the hash of ``data``. The old template ``ima`` has no length in front of its data."""
    digest = digest_of(algorithm, data) if digest is None else digest
    length = b"" if name == b"ima" else struct.pack(order + "I", len(data))
    return struct.pack(order + "I", pcr) + digest + struct.pack(order + "I", len(name)) + name + length + data


def ima_legacy(path: bytes, digest: bytes, order: str = "<") -> tuple[bytes, bytes]:
    """Return data of the old template, and what its template digest is the hash of."""
    return digest + struct.pack(order + "I", len(path)) + path, digest + path.ljust(256, b"\0")
