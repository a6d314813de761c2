"""The attestation agent's log: as agents really write it, and as an attacker would."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import AGENT_HEADER, SHA1, SHA256, SHA384, aael_record, finding_of, spec_id, tcg_record

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.aael import AGENT_HEADERS, AaelEntry, entry_of, is_aael, parse_aael, parse_aael_line
from kbs_rim.evidence.event_log import LogFormat, RegisterKind, event_log_from_tcg, replay_event_log
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits

CCEL = Path(__file__).parent.parent / "vectors" / "logs" / "ccel"
LINES = (b'github.com/confidential-containers PullImage {"image":"a b"}', b"coco.com some-operation some-content")
END = b"\xff" * 8


def refused(data: bytes, *arguments, **more) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        parse_aael(data, *arguments, **more)
    return caught.value


def real_tail() -> bytes:
    """The part of a real combined log that the agent wrote."""
    data = (CCEL / "CCEL_AAEL_alibabacloud").read_bytes()
    first = next(event for event in parse_tcg_log(data, LogKind.CC).events if event.index == 4)
    return data[first.offset :]


@pytest.mark.parametrize("header", [b"", *AGENT_HEADERS], ids=["bare", "69", "73"])
@pytest.mark.parametrize("end", [b"", END], ids=["open", "ended"])
def test_agent_files(header, end):
    data = header + b"".join(aael_record(line) for line in LINES) + end
    log = parse_aael(data)
    assert is_aael(data)
    assert (log.format, log.registers, log.algorithms) == (LogFormat.AAEL, RegisterKind.MR, (SHA384,))
    assert [entry_of(event) for event in log.events] == [
        AaelEntry("github.com/confidential-containers", "PullImage", '{"image":"a b"}'),
        AaelEntry("coco.com", "some-operation", "some-content"),
    ]


def test_the_header_is_69_bytes_with_a_signature_of_zeros():
    assert AGENT_HEADERS[0] == AGENT_HEADER
    assert [len(header) for header in AGENT_HEADERS] == [69, 73]
    assert AGENT_HEADER[32:48] == bytes(16)


def test_real_records_of_an_agent():
    log = parse_aael(real_tail())
    assert [entry_of(event).content for event in log.events] == ["some-content", '{"key": "value", "nested-key": {"sub-key": "value"}}']


def test_real_records_read_the_same_behind_the_firmwares_log():
    whole = event_log_from_tcg(parse_tcg_log((CCEL / "CCEL_AAEL_alibabacloud").read_bytes(), LogKind.CC))
    tail = [event for event in whole.events if event.register == 4]
    assert [entry_of(event) for event in tail] == [entry_of(event) for event in parse_aael(real_tail()).events]
    assert replay_event_log(whole)["sha384"][4] == replay_event_log(parse_aael(real_tail()))["sha384"][4]


def test_replay_is_the_hash_of_tag_header_and_line():
    event = struct.pack("<II", 0x4141454C, len(LINES[1])) + LINES[1]
    value = HashAlgorithm.SHA384.digest(bytes(48) + HashAlgorithm.SHA384.digest(event))
    assert replay_event_log(parse_aael(aael_record(LINES[1])))["sha384"] == {4: value}


@pytest.mark.parametrize("data", [b"", AGENT_HEADERS[0], END, AGENT_HEADERS[1] + END])
def test_log_without_records(data):
    assert parse_aael(data).events == ()


def test_agent_of_a_vtpm_counts_pcrs():
    log = parse_aael(AGENT_HEADERS[1] + aael_record(LINES[0], SHA256, 17), registers=RegisterKind.PCR)
    assert (log.registers, log.events[0].register) == (RegisterKind.PCR, 17)


def test_pcr_17_is_not_read_as_a_measurement_register():
    assert refused(aael_record(LINES[0], register=17)).finding_id == "log.index"


def test_algorithm_that_the_header_does_not_list():
    assert refused(AGENT_HEADERS[0] + aael_record(LINES[0], SHA256)).finding_id == "log.algorithm"
    assert parse_aael(AGENT_HEADERS[1] + aael_record(LINES[0], SHA256)).algorithms == (SHA256,)


def test_second_record_of_another_algorithm():
    error = refused(AGENT_HEADERS[1] + aael_record(LINES[0], SHA256) + aael_record(LINES[1], SHA384))
    assert error.finding_id == "log.algorithm"
    assert error.offset == 73 + len(aael_record(LINES[0], SHA256))


def test_unknown_algorithm():
    assert refused(struct.pack("<IIIH", 4, 6, 1, 0x99) + bytes(100)).finding_id == "log.algorithm"


@pytest.mark.parametrize("position", [0, 4, 8, 31, 32, 40, 48, 56, 60, 68])
def test_header_that_differs_in_one_byte_is_no_agents_header(position):
    header = bytearray(AGENT_HEADERS[0])
    header[position] ^= 1
    assert not is_aael(bytes(header) + aael_record(LINES[0]))
    assert refused(bytes(header) + aael_record(LINES[0])).finding_id.startswith("log.")


def test_a_real_spec_id_is_no_agents_header():
    assert refused(spec_id(SHA384) + aael_record(LINES[0])).finding_id.startswith("log.")


@pytest.mark.parametrize(
    "record",
    [
        aael_record(LINES[0], tag=0x8F3B22EC),
        tcg_record(4, 0x4, {SHA384: b"\1" * 48}, bytes(4)),
        tcg_record(4, 0x6, {SHA384: b"\1" * 48}, struct.pack("<II", 0x4141454C, 1 << 31) + b"a b c"),
    ],
    ids=["another tag", "another type", "lying size"],
)
def test_records_of_others_are_refused(record):
    assert refused(aael_record(LINES[1]) + record).finding_id == "log.event-data"


@pytest.mark.parametrize(
    "line", [b"", b"a", b"a b", b"a b ", b" a b", b"a  c", b"a b c\nd e f", b"a b \x1b[2J", b"a b \xff", "a b \u202e".encode()]
)
def test_lines_that_are_not_three_parts_of_text(line):
    assert refused(aael_record(line)).finding_id == "log.event-data"


def test_log_cut_anywhere_is_refused_or_shorter():
    data = AGENT_HEADERS[0] + aael_record(LINES[0]) + aael_record(LINES[1])
    whole = {69, 69 + len(aael_record(LINES[0])), len(data)}
    for size in range(70, len(data)):
        if size in whole:
            assert len(parse_aael(data[:size]).events) < 2
        else:
            assert refused(data[:size]).finding_id == "log.truncated"


def test_size_of_4_gib_is_refused_before_it_is_taken():
    event = tcg_record(4, 6, {SHA384: b"\1" * 48}, b"")[:-4] + struct.pack("<I", 0xFFFFFFFF)
    assert refused(event).finding_id == "log.event-size"


@pytest.mark.parametrize("tail", [bytes(8), b"\xff" * 16, b"\xff" * 7], ids=["zeros", "two marks", "short mark"])
def test_padding_is_not_an_end_mark(tail):
    assert refused(aael_record(LINES[0]) + tail).finding_id in ("log.padding", "log.truncated")


def test_data_behind_the_end_mark():
    assert refused(aael_record(LINES[0]) + END + aael_record(LINES[1])).finding_id == "log.padding"


def test_too_many_records():
    assert refused(aael_record(LINES[0]) * 3, Limits(log_events=2)).finding_id == "log.events"


def test_log_larger_than_the_limit():
    assert refused(aael_record(LINES[0]) * 9, Limits(log_bytes=1024)).finding_id == "log.too-large"


words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20)


@given(st.lists(st.tuples(words, words, words), max_size=5), st.sampled_from([SHA256, SHA384, SHA1]), st.integers(1, 4))
def test_what_an_agent_writes_is_read_back(entries, algorithm, register):
    lines = [" ".join(entry).encode() for entry in entries]
    log = parse_aael(b"".join(aael_record(line, algorithm, register) for line in lines))
    assert [(event.register, entry_of(event)) for event in log.events] == [(register, AaelEntry(*entry)) for entry in entries]


@given(st.binary(max_size=200), st.sampled_from([b"", AGENT_HEADERS[0], AGENT_HEADERS[1], aael_record(LINES[0])]))
def test_any_bytes_are_read_or_refused(data, head):
    is_aael(head + data)
    assert (finding_of(parse_aael, head + data) or "log.").startswith("log.")


def test_content_may_hold_blanks():
    assert parse_aael_line(b"d o c c c") == AaelEntry("d", "o", "c c c")
