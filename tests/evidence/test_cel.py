"""The three encodings of the Canonical Event Log: one log, one reading; hostile ones refused by name."""

import json
import struct

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_forge import SHA1, SHA256, SHA384, cel_cbor, cel_json, cel_object, cel_tlv, digest_of, finding_of, tlv

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cel_cbor import parse_cel_cbor
from kbs_rim.evidence.cel_json import parse_cel_json
from kbs_rim.evidence.cel_tlv import CC_REGISTER, names_measurement_registers, parse_cel_tlv
from kbs_rim.evidence.event_log import (
    CelManagement,
    EventLog,
    ImaTemplate,
    LogFormat,
    Management,
    OpaqueContent,
    RegisterKind,
    TcgContent,
    replay_event_log,
)
from kbs_rim.evidence.tcg_names import EVENT_TYPES, TPM_ALGORITHMS
from kbs_rim.limits import Limits

PCR, MR = RegisterKind.PCR, RegisterKind.MR
READERS = {
    "tlv": (cel_tlv, parse_cel_tlv, LogFormat.CEL_TLV),
    "cbor": (cel_cbor, parse_cel_cbor, LogFormat.CEL_CBOR),
    "json": (cel_json, parse_cel_json, LogFormat.CEL_JSON),
}
encodings = pytest.mark.parametrize("encoding", list(READERS))
D = {SHA256: digest_of(SHA256, b"x")}
ZERO = {SHA256: bytes(32)}
EVENT = (5, (0x80000007, b"Calling"))


def read(encoding: str, records, registers=PCR, limits: Limits = Limits(), **more) -> EventLog:  # noqa: B008
    write, parse, _ = READERS[encoding]
    return parse(write(records, **more), registers, limits)


def refused(encoding: str, records, registers=PCR, limits: Limits = Limits(), **more) -> MalformedEvidence:  # noqa: B008
    with pytest.raises(MalformedEvidence) as caught:
        read(encoding, records, registers, limits, **more)
    return caught.value


def finding(parse, data: bytes, registers=PCR) -> str | None:
    return finding_of(parse, data, registers)


# What is read


ALL_CONTENTS = [
    (0, 0, {SHA1: bytes(20)}, (5, (3, b"StartupLocality\0\0"))),
    (1, 0, D, EVENT),
    (0, 4, {SHA256: D[SHA256], SHA384: digest_of(SHA384, b"x")}, (5, (0x0D, b""))),
    (0, 10, {SHA1: digest_of(SHA1, b"y")}, (7, ("ima-ng", b"data"))),
    (2, 0, ZERO, (4, (1, (1, 1)))),
    (3, 0, ZERO, (4, (2, ()))),
    (4, 0, D, (4, (80, (1764000000,)))),
    (5, 0, D, (4, (81, (2,)))),
    (0, 11, D, (9, b"enter-initrd")),
    (1, 11, D, (8, b"\0\1")),
    (0, 13, D, (80, b"vendor")),
]


@encodings
def test_every_content(encoding):
    log = read(encoding, ALL_CONTENTS)
    assert (log.format, log.registers) == (READERS[encoding][2], PCR)
    assert [event.content for event in log.events] == [
        TcgContent(3, b"StartupLocality\0\0"),
        TcgContent(0x80000007, b"Calling"),
        TcgContent(0x0D, b""),
        ImaTemplate("ima-ng", b"data"),
        CelManagement(Management.CEL_VERSION, (1, 1)),
        CelManagement(Management.FIRMWARE_END, ()),
        CelManagement(Management.CEL_TIMESTAMP, (1764000000,)),
        CelManagement(Management.STATE_TRANS, (2,)),
        OpaqueContent(9, b"enter-initrd"),
        OpaqueContent(8, b"\0\1"),
        OpaqueContent(80, b"vendor"),
    ]
    assert [event.measured for event in log.events] == [False, True, True, True, False, False, True, True, True, True, True]
    assert [event.number for event in log.events] == list(range(11))
    assert [event.type_name for event in log.events][:4] == ["EV_NO_ACTION", "EV_EFI_ACTION", "EV_IPL", "ima-ng"]
    assert [event.type_name for event in log.events][7:] == ["state_trans", "systemd", "ima_tlv", "content type 80"]


def test_three_encodings_give_one_log():
    logs = [read(encoding, ALL_CONTENTS) for encoding in READERS]
    assert logs[0].events == logs[1].events == logs[2].events
    assert replay_event_log(logs[0]) == replay_event_log(logs[2])


@encodings
def test_what_is_not_measured_extends_nothing(encoding):
    log = read(encoding, [(0, 1, ZERO, (4, (2, ()))), (1, 1, D, EVENT)])
    assert replay_event_log(log)["sha256"] == {1: digest_of(SHA256, bytes(32) + D[SHA256])}


@encodings
@pytest.mark.parametrize("recnums", [(0, 0, 1), (0, 1, 2), (5, 9, 6)], ids=["per register", "whole log", "gaps"])
def test_numbering_of_both_profiles(encoding, recnums):
    registers = (1, 2, 1)
    assert len(read(encoding, [(number, register, D, EVENT) for number, register in zip(recnums, registers, strict=True)]).events) == 3


@encodings
@pytest.mark.parametrize("old", [True, False])
def test_draft_with_content_under_its_own_name(encoding, old):
    if encoding == "tlv":
        return
    assert read(encoding, [(0, 1, D, EVENT), (1, 1, D, (7, ("ima-ng", b"d")))], old=old).events[0].content == TcgContent(*EVENT[1])


def test_cbor_sequence():
    assert read("cbor", ALL_CONTENTS, sequence=True).events == read("cbor", ALL_CONTENTS).events


def test_json_with_numbers_for_names():
    assert read("json", ALL_CONTENTS, numbers=True).events == read("json", ALL_CONTENTS).events


@pytest.mark.parametrize("name", ["sha256", "SHA256", "Sha256"])
def test_json_algorithm_names_in_any_case(name):
    record = cel_object((0, 1, D, EVENT))
    record["digests"][0]["hashAlg"] = name
    assert parse_cel_json(json.dumps([record]).encode(), PCR).algorithms == (SHA256,)


def test_cbor_event_type_as_text():
    record = {0: 0, 1: 4, 3: [{0: SHA256, 1: D[SHA256]}], 9: 5, 10: {0: "EV_SEPARATOR", 1: bytes(4)}}
    assert parse_cel_cbor(cbor2.dumps([record]), PCR).events[0].content == TcgContent(4, bytes(4))


@pytest.mark.parametrize(("number_size", "register_size"), [(8, 1), (4, 4), (1, 1), (8, 8)])
def test_tlv_integers_of_several_sizes(number_size, register_size):
    log = read("tlv", [(0, 16, D, EVENT), (1, 23, D, EVENT)], number_size=number_size, register_size=register_size)
    assert [event.register for event in log.events] == [16, 23]


@encodings
def test_log_without_records(encoding):
    assert read(encoding, []).events == ()


# Numbering of registers


def test_tlv_of_measurement_registers_says_so():
    data = cel_tlv([(0, 3, D, EVENT)], register_type=CC_REGISTER)
    assert names_measurement_registers(data)
    assert not names_measurement_registers(cel_tlv([(0, 3, D, EVENT)]))
    assert parse_cel_tlv(data, MR).events[0].register == 3


def test_measurement_register_3_is_not_read_as_pcr_3():
    error = refused("tlv", [(0, 3, D, EVENT)], PCR, register_type=CC_REGISTER)
    assert error.finding_id == "log.index"


@encodings
@pytest.mark.parametrize(("registers", "register"), [(MR, 5), (PCR, 24), (MR, 17)])
def test_register_out_of_range(encoding, registers, register):
    assert refused(encoding, [(0, register, D, EVENT)], registers).finding_id == "log.index"


@encodings
def test_register_beyond_32_bits(encoding):
    more = {"register_size": 8} if encoding == "tlv" else {}
    assert refused(encoding, [(0, 1 << 32, D, EVENT)], **more).finding_id == "log.index"


def test_nv_index_is_no_register():
    index = 0x20000000
    assert refused("tlv", [(0, index, D, EVENT)], register_type=2, register_size=4).finding_id == "log.index"
    assert finding(parse_cel_cbor, cbor2.dumps([{0: 0, 2: index, 3: [], 9: 5, 10: {}}])) == "log.index"
    record = cel_object((0, 1, D, EVENT))
    record["nv_index"] = record.pop("pcr")
    assert finding(parse_cel_json, json.dumps([record]).encode()) == "log.index"


@pytest.mark.parametrize("parse", [parse_cel_tlv, parse_cel_cbor, parse_cel_json])
def test_a_cel_never_explains_the_rim(parse):
    with pytest.raises(ValueError, match="RIM"):
        parse(b"", RegisterKind.RIM)


# Hostile records


@encodings
@pytest.mark.parametrize("recnums", [(0, 0), (1, 0), (7, 7)], ids=["repeated", "falling", "repeated later"])
def test_record_numbers_that_do_not_rise(encoding, recnums):
    error = refused(encoding, [(number, 4, D, EVENT) for number in recnums])
    assert error.finding_id == "log.recnum"
    assert "record 1" in error.message


@encodings
@pytest.mark.parametrize("kind", [6, 10])
def test_reserved_content_types(encoding, kind):
    assert refused(encoding, [(0, 1, D, (kind, b""))]).finding_id == "log.content"


def test_content_type_of_a_field():
    for kind in (0, 1, 2, 3):
        assert refused("tlv", [(0, 1, D, (kind, b""))]).finding_id == "log.content"
        assert refused("cbor", [(0, 1, D, (kind, b""))]).finding_id == "log.content"


def test_json_content_type_of_unknown_name():
    record = {**cel_object((0, 1, D, EVENT)), "content_type": "vendor"}
    assert finding(parse_cel_json, json.dumps([record]).encode()) == "log.content"


@encodings
def test_digest_of_zeros_is_no_measurement(encoding):
    assert refused(encoding, [(0, 1, ZERO, EVENT)]).finding_id == "log.digests"


@encodings
def test_no_action_with_a_digest(encoding):
    assert refused(encoding, [(0, 1, D, (5, (3, b"")))]).finding_id == "log.digests"


@encodings
def test_measured_record_without_digests(encoding):
    assert refused(encoding, [(0, 1, {}, EVENT)]).finding_id == "log.digests"


@encodings
def test_too_many_digests(encoding):
    digests = {identifier: b"\1" * known.digest_size for identifier, known in TPM_ALGORITHMS.items()}
    assert refused(encoding, [(0, 1, digests, EVENT)], limits=Limits(log_algorithms=7)).finding_id == "log.digests"


@encodings
def test_digest_of_a_wrong_size(encoding):
    assert refused(encoding, [(0, 1, {SHA256: bytes(20)}, EVENT)]).finding_id == "log.algorithm"


@encodings
def test_event_type_zero(encoding):
    assert refused(encoding, [(0, 1, D, (5, (0, b"")))]).finding_id == "log.event-type"


@encodings
@pytest.mark.parametrize("content", [(5, (5, bytes(65))), (7, ("ima-ng", bytes(65))), (9, bytes(65))])
def test_event_larger_than_the_limit(encoding, content):
    assert refused(encoding, [(0, 1, D, content)], limits=Limits(event_bytes=64)).finding_id == "log.event-size"


@encodings
def test_too_many_records(encoding):
    records = [(number, 1, D, EVENT) for number in range(3)]
    assert refused(encoding, records, limits=Limits(log_events=2)).finding_id == "log.events"


@encodings
def test_log_larger_than_the_limit(encoding):
    assert refused(encoding, [(0, 1, D, (5, (5, bytes(600))))], limits=Limits(log_bytes=512)).finding_id == "log.too-large"


@encodings
@pytest.mark.parametrize(
    "content", [(3, (1,)), (81, (3,)), (80, ()), (2, (1,)), (1, ()), (1, (7,)), (0, ())],
    ids=["undefined", "undefined transition", "no time", "firmware end with data", "no version", "half a version", "zero"],
)  # fmt: skip
def test_management_that_is_not_defined(encoding, content):
    if encoding == "json" and content[0] in (0, 3):
        assert refused("json", [(0, 1, D, (4, content))], numbers=True).finding_id == "log.content"
        return
    more = {"numbers": True} if encoding == "json" else {}
    assert refused(encoding, [(0, 1, D, (4, content))], **more).finding_id == "log.content"


@encodings
@pytest.mark.parametrize("name", ["", "a" * 256, "ima\x1b[2J", "imä"])
def test_template_names_that_are_none(encoding, name):
    assert refused(encoding, [(0, 10, D, (7, (name, b"")))]).finding_id == "log.content"


# Hostile encodings: TLV


def test_tlv_cut_anywhere():
    data = cel_tlv([(0, 1, D, EVENT), (1, 1, D, EVENT)])
    for size in range(1, len(data)):
        if size == len(data) // 2:
            assert len(parse_cel_tlv(data[:size], PCR).events) == 1
        else:
            assert finding(parse_cel_tlv, data[:size]) == "log.truncated"


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 9])
def test_tlv_length_beyond_the_log(length):
    assert finding(parse_cel_tlv, struct.pack(">BI", 0, length) + bytes(8)) == "log.truncated"


def test_tlv_length_beyond_its_parent():
    inner = struct.pack(">BI", SHA256, 0xFFFFFFF0) + bytes(32)
    assert finding(parse_cel_tlv, tlv(0, b"\0") + tlv(1, b"\1") + tlv(3, inner) + tlv(9, b"")) == "log.truncated"


def test_tlv_fields_out_of_order():
    number, register, digests, content = tlv(0, b"\0"), tlv(1, b"\1"), tlv(3, tlv(SHA256, D[SHA256])), tlv(9, b"")
    assert finding(parse_cel_tlv, register + number + digests + content) == "log.encoding"
    assert finding(parse_cel_tlv, number + register + content + digests) == "log.encoding"
    assert finding(parse_cel_tlv, number + number + digests + content) == "log.encoding"


def test_tlv_digest_twice():
    digests = tlv(SHA256, D[SHA256]) * 2
    assert finding(parse_cel_tlv, tlv(0, b"\0") + tlv(1, b"\1") + tlv(3, digests) + tlv(9, b"")) == "log.digests"


def test_tlv_integer_of_no_or_too_many_bytes():
    for number in (b"", bytes(9)):
        assert finding(parse_cel_tlv, tlv(0, number) + tlv(1, b"\1") + tlv(3, tlv(SHA256, D[SHA256])) + tlv(9, b"")) == "log.encoding"


@pytest.mark.parametrize(
    "content",
    [
        tlv(5, tlv(0, b"\0\0\0\4")),
        tlv(5, tlv(1, b"") + tlv(0, b"\4")),
        tlv(5, tlv(0, b"\4") + tlv(1, b"") + tlv(1, b"")),
        tlv(5, tlv(0, b"\1" * 8) + tlv(1, b"")),
        tlv(5, tlv(0, b"") + tlv(1, b"")),
        tlv(7, tlv(0, b"ima-ng")),
        tlv(4, b""),
        tlv(4, tlv(2, b"") + tlv(2, b"")),
        tlv(4, tlv(1, tlv(0, b"\1"))),
    ],
)
def test_tlv_content_of_another_shape(content):
    assert finding(parse_cel_tlv, tlv(0, b"\0") + tlv(1, b"\1") + tlv(3, tlv(SHA256, D[SHA256])) + content) == "log.content"


# Hostile encodings: CBOR


def test_cbor_cut_anywhere():
    data = cel_cbor([(0, 1, D, EVENT), (1, 1, D, EVENT)])
    assert {finding(parse_cel_cbor, data[:size]) for size in range(1, len(data))} == {"log.encoding"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x81\xbb\x00\x00\x00\x01\x00\x00\x00\x00",
        b"\x81" * 200,
        b"\x9f\xff",
        bytes.fromhex("81a500000101038009051000"),
        b"\x81\xa2\x00\x00\x00\x01",
        cbor2.dumps([]) + b"\x00",
        b"\xa1\x61a\x01",
    ],
    ids=["2^64 records", "2^32 fields", "200 levels", "indefinite", "a field twice", "recnum twice", "trailing bytes", "text key"],
)
def test_cbor_that_has_no_single_reading(data):
    assert finding(parse_cel_cbor, data) == "log.encoding"


RECORD = {0: 0, 1: 4, 3: [{0: SHA256, 1: D[SHA256]}], 9: 5, 10: {0: 4, 1: b""}}


@pytest.mark.parametrize(
    ("change", "finding_id"),
    [
        ({11: 0}, "log.encoding"),
        ({0: -1}, "log.encoding"),
        ({0: "0"}, "log.encoding"),
        ({1: True}, "log.encoding"),
        ({3: {}}, "log.encoding"),
        ({3: [1]}, "log.encoding"),
        ({3: [{0: SHA256}]}, "log.encoding"),
        ({3: [{0: SHA256, 1: "00"}]}, "log.encoding"),
        ({3: [{0: SHA256, 1: D[SHA256], 2: 0}]}, "log.encoding"),
        ({9: -1}, "log.encoding"),
        ({9: 1 << 32, 10: b""}, "log.content"),
        ({10: b""}, "log.content"),
        ({10: {0: 4}}, "log.content"),
        ({10: {0: 4, 1: "text"}}, "log.content"),
        ({10: {0: 1 << 32, 1: b""}}, "log.content"),
        ({10: {0: "EV_NEW", 1: b""}}, "log.event-type"),
        ({9: 7, 10: {0: 7, 1: b""}}, "log.content"),
        ({9: 80, 10: {0: 1}}, "log.content"),
        ({9: 4, 10: {}}, "log.content"),
        ({9: 4, 10: {0: 1, 1: {0: 1, 2: 1}}}, "log.content"),
        ({9: 4, 10: {0: 80, 1: None}}, "log.encoding"),
        ({5: {0: 4, 1: b""}}, "log.encoding"),
    ],
)
def test_cbor_records_of_another_shape(change, finding_id):
    assert finding(parse_cel_cbor, cbor2.dumps([{**RECORD, **change}])) == finding_id


def test_cbor_record_that_is_no_map():
    assert finding(parse_cel_cbor, cbor2.dumps([[0]])) == "log.encoding"
    assert finding(parse_cel_cbor, b"\x00") == "log.encoding"


def test_cbor_items_are_bounded():
    data = cel_cbor([(0, 1, D, EVENT), (1, 1, D, EVENT)], sequence=True)
    assert finding_of(parse_cel_cbor, data, PCR, Limits(log_items=20)) == "log.encoding"


# Hostile encodings: JSON


def test_json_cut_anywhere():
    data = cel_json([(0, 1, D, EVENT)])
    assert {finding(parse_cel_json, data[:size]) for size in range(len(data))} == {"log.encoding"}


JSON = json.dumps(cel_object((0, 4, D, (5, (4, b"\0")))))


@pytest.mark.parametrize(
    ("old", "new", "finding_id"),
    [
        ('"pcr": 4', '"pcr": 4, "pcr": 3', "log.encoding"),
        ('"recnum": 0', '"recnum": 0, "recnum": 0', "log.encoding"),
        ('"pcr": 4', '"pcr": 4.0', "log.encoding"),
        ('"pcr": 4', '"pcr": true', "log.encoding"),
        ('"pcr": 4', '"pcr": "4"', "log.encoding"),
        ('"pcr": 4', '"pcr": -4', "log.encoding"),
        ('"pcr": 4', '"pcr": NaN', "log.encoding"),
        ('"recnum": 0', '"recnum": 100000000000000000000', "log.encoding"),
        ('"recnum": 0, ', "", "log.encoding"),
        ('"recnum": 0', '"recnum": 0, "mr": 4', "log.encoding"),
        ('"sha256"', '"sha257"', "log.algorithm"),
        ('"sha256"', "300", "log.algorithm"),
        ('"hashAlg"', '"hash"', "log.encoding"),
        ('"00"', '"0"', "log.encoding"),
        ('"00"', '"0 0 "', "log.encoding"),
        ('"00"', "[0]", "log.encoding"),
        ('"EV_SEPARATOR"', '"EV_NEW"', "log.event-type"),
        ('"EV_SEPARATOR"', "4294967296", "log.content"),
        ('"EV_SEPARATOR"', "null", "log.encoding"),
        ('"event_type"', '"type"', "log.content"),
        ('"pcclient_std"', '"ima_template"', "log.content"),
        ('"pcclient_std"', '"cel"', "log.content"),
        ('"pcclient_std"', '"systemd"', "log.encoding"),
        ('"pcclient_std"', "null", "log.encoding"),
    ],
)
def test_json_records_of_another_shape(old, new, finding_id):
    assert JSON.count(old) == 1
    assert finding(parse_cel_json, f"[{JSON.replace(old, new)}]".encode()) == finding_id
    assert finding(parse_cel_json, f"[{JSON}]".encode()) is None


@pytest.mark.parametrize("data", [b"{}", b"null", b"[1]", b"[" * 500, b'["' + b"x" * 100, b"[]\0", "[]".encode("utf-16")])
def test_json_that_is_no_log(data):
    assert finding(parse_cel_json, data) == "log.encoding"


def test_json_items_are_bounded():
    assert finding_of(parse_cel_json, cel_json([(0, 1, D, EVENT)]), PCR, Limits(log_items=20)) == "log.encoding"


def test_state_transition_names_are_no_versions():
    content = {"type": "cel_version", "data": {"major": "kexec", "minor": 1}}
    record = {**cel_object((0, 1, D, EVENT)), "content_type": "cel", "content": content}
    assert finding(parse_cel_json, json.dumps([record]).encode()) == "log.content"


# Properties


measured_types = st.sampled_from([number for number in EVENT_TYPES if number not in (0, 3)]) | st.integers(1 << 20, (1 << 32) - 1)
template_names = st.from_regex(r"[a-z][a-z|-]{0,20}", fullmatch=True)
management = st.tuples(st.just(80), st.tuples(st.integers(0, 1 << 62))) | st.tuples(st.just(81), st.tuples(st.integers(0, 2)))
contents = st.one_of(
    st.tuples(st.just(5), st.tuples(measured_types, st.binary(max_size=40))),
    st.tuples(st.just(7), st.tuples(template_names, st.binary(max_size=40))),
    st.tuples(st.just(4), management),
    st.tuples(st.sampled_from([8, 9, 11, 80, 255]), st.binary(max_size=40)),
)
banks = st.dictionaries(st.sampled_from([SHA1, SHA256, SHA384]), st.integers(1, 255), min_size=1).map(
    lambda chosen: {identifier: bytes([byte]) * TPM_ALGORITHMS[identifier].digest_size for identifier, byte in chosen.items()}
)
logs = st.lists(st.tuples(st.integers(0, 4), banks, contents), max_size=6).map(
    lambda parts: [(number, register, digests, content) for number, (register, digests, content) in enumerate(parts)]
)


@settings(max_examples=60)
@given(logs, st.sampled_from([PCR, MR]))
def test_what_is_written_is_read_back_in_every_encoding(records, registers):
    read_logs = [read(encoding, records, registers) for encoding in READERS]
    assert read_logs[0].events == read_logs[1].events == read_logs[2].events
    written = [(register, digests) for _, register, digests, _ in records]
    assert [(event.register, dict(event.digests)) for event in read_logs[0].events] == written


@given(st.binary(max_size=120), st.sampled_from([cel_tlv, cel_cbor, cel_json]), st.integers(0, 80))
def test_any_bytes_are_read_or_refused(data, write, keep):
    start = write([(0, 1, D, EVENT)])[:keep]
    for parse in (parse_cel_tlv, parse_cel_cbor, parse_cel_json):
        assert (finding(parse, start + data) or "log.").startswith("log.")
    names_measurement_registers(start + data)


@settings(max_examples=60)
@given(logs, st.data())
def test_one_changed_byte_never_breaks_a_reader(records, data):
    for write, parse, _ in READERS.values():
        raw = bytearray(write(records) or b"\0")
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        assert (finding(parse, bytes(raw)) or "log.").startswith("log.")
