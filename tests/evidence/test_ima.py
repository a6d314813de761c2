"""IMA's measurement lists: binary ones to be judged, text ones to be shown."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import SHA1, SHA256, SM3, digest_of, finding_of, ima_fields, ima_legacy, ima_ng, ima_record

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import (
    EventLog,
    ImaTemplate,
    LogFormat,
    MeasuredEvent,
    RegisterKind,
    TcgContent,
    in_measurement_registers,
    replay_event_log,
)
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, in_bank, parse_ima_log
from kbs_rim.evidence.ima_template import decode_entry, hashed_bytes
from kbs_rim.evidence.ima_text import is_ima_text, parse_ima_text
from kbs_rim.limits import Limits

VECTORS = Path(__file__).parent.parent / "vectors"
KEYLIME = VECTORS / "logs" / "ima"
BOOTS = sorted((VECTORS / "images" / "measured-boot").glob("*/oracle.json"))
ONES = b"\xff" * 20
SHA256_ALGORITHM = HashAlgorithm.SHA256


def refused(data: bytes, *arguments, **more) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        parse_ima_log(data, *arguments, **more)
    return caught.value


def binary_of_line(line: str) -> bytes:
    """The binary entry of a real text line (ima-ng or ima-sig), with the template digest that the line has."""
    pcr, digest, name, file_digest, path, *signature = line.split(" ")
    algorithm, value = file_digest.split(":")
    fields = [algorithm.encode() + b":\0" + bytes.fromhex(value), path.encode() + b"\0", *(bytes.fromhex(item) for item in signature)]
    return ima_record(name.encode(), ima_fields(*fields), digest=bytes.fromhex(digest), pcr=int(pcr))


# The binary list


@pytest.mark.parametrize("boot", BOOTS, ids=lambda path: path.parent.name)
def test_entries_of_real_boots(boot):
    lines = json.loads(boot.read_text())["ima"]
    log = parse_ima_log(b"".join(binary_of_line(line) for line in lines))
    assert (log.format, log.registers, len(log.events)) == (LogFormat.IMA, RegisterKind.PCR, len(lines))
    for event, line in zip(log.events, lines, strict=True):
        assert (event.register, event.type_name, event.digests[SHA1].hex()) == (10, "ima-sig", line.split(" ")[1])
        assert digest_of(SHA1, hashed_bytes(event.content)) == event.digests[SHA1]
        assert decode_entry(event.content).path.decode() == line.split(" ")[4]


def test_entries_of_several_templates():
    digest = b"sha256:\0" + bytes(range(32))
    typed = b"verity:sha256:\0" + bytes(range(32))
    rows = [
        (b"ima-ng", (digest, b"/bin/sh\0")),
        (b"ima-sig", (digest, b"/bin/sh\0", b"\3\2signature")),
        (b"ima-ngv2", (typed, b"/bin/sh\0")),
        (b"ima-sigv2", (b"ima:" + digest, b"/bin/sh\0", b"")),
        (b"ima-buf", (digest, b".builtin_trusted_keys\0", b"\x30\x82")),
        (b"ima-modsig", (digest, b"/lib/m.ko\0", b"", digest, b"signature")),
        (b"d-ng|n-ng|sig", (digest, b"/custom\0", b"")),
        (b"d|n", (bytes(range(20)), b"/older")),
    ]
    log = parse_ima_log(b"".join(ima_record(name, ima_fields(*fields)) for name, fields in rows))
    entries = [decode_entry(event.content) for event in log.events]
    assert [entry.path for entry in entries] == [
        b"/bin/sh", b"/bin/sh", b"/bin/sh", b"/bin/sh", b".builtin_trusted_keys", b"/lib/m.ko", b"/custom", b"/older",
    ]  # fmt: skip
    assert [entry.digest_type for entry in entries] == ["ima", "ima", "verity", "ima", "ima", "ima", "ima", "ima"]
    assert {entry.algorithm for entry in entries} == {"sha256", "sha1"}
    assert entries[1].fields["sig"] == b"\3\2signature"


def test_old_template():
    data, hashed = ima_legacy(b"/sbin/init", bytes(range(20)))
    log = parse_ima_log(ima_record(b"ima", data, digest=digest_of(SHA1, hashed)) + ima_record(b"ima-ng", ima_ng(b"/x")))
    assert [event.type_name for event in log.events] == ["ima", "ima-ng"]
    assert digest_of(SHA1, hashed_bytes(log.events[0].content)) == log.events[0].digests[SHA1]
    entry = decode_entry(log.events[0].content)
    assert (entry.path, entry.algorithm, entry.digest) == (b"/sbin/init", "sha1", bytes(range(20)))


def test_violation_extends_ones():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/tmp/x"), digest=bytes(20)))
    assert log.events[0].content.violation
    assert log.events[0].digests == {SHA1: ONES}
    assert replay_event_log(log)["sha1"][10] == digest_of(SHA1, bytes(20) + ONES)


def test_big_endian_host():
    data, hashed = ima_legacy(b"/init", bytes(range(20)), order=">")
    raw = ima_record(b"ima-ng", ima_ng(b"/x", order=">"), order=">") + ima_record(b"ima", data, digest=digest_of(SHA1, hashed), order=">")
    log = parse_ima_log(raw, order="big")
    assert [decode_entry(event.content, "big").path for event in log.events] == [b"/x", b"/init"]
    assert all(digest_of(SHA1, hashed_bytes(event.content, "big")) == event.digests[SHA1] for event in log.events)
    assert refused(raw).finding_id in ("log.event-size", "log.index")


def test_list_with_digests_of_another_bank():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), algorithm=SHA256), algorithm=SHA256)
    assert log.algorithms == (SHA256,)


def test_empty_list():
    assert parse_ima_log(b"").events == ()


def test_pcr_10_becomes_rem_2_only_when_asked():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x")))
    assert (log.events[0].register, in_measurement_registers(log).events[0].register) == (10, 3)


# Other banks


def test_bank_of_newer_kernels_has_the_hash_of_the_entry():
    data, hashed = ima_legacy(b"/init", bytes(range(20)))
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x")) + ima_record(b"ima", data, digest=digest_of(SHA1, hashed)))
    banked = in_bank(log, SHA256_ALGORITHM, ImaBank.HASHED)
    assert [event.digests[SHA256] for event in banked.events] == [hashlib.sha256(ima_ng(b"/x")).digest(), hashlib.sha256(hashed).digest()]
    assert [event.digests[SHA1] for event in banked.events] == [event.digests[SHA1] for event in log.events]


def test_bank_of_older_kernels_has_sha1_and_zeros():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x")))
    banked = in_bank(log, SHA256_ALGORITHM, ImaBank.PADDED)
    assert banked.events[0].digests[SHA256] == log.events[0].digests[SHA1] + bytes(12)


def test_violation_in_other_banks():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), digest=bytes(20)))
    assert in_bank(log, SHA256_ALGORITHM, ImaBank.HASHED).events[0].digests[SHA256] == b"\xff" * 32
    assert in_bank(log, SHA256_ALGORITHM, ImaBank.PADDED).events[0].digests[SHA256] == ONES + bytes(12)


def test_digest_that_is_logged_is_kept():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), algorithm=SHA256), algorithm=SHA256)
    assert in_bank(log, SHA256_ALGORITHM, ImaBank.PADDED) == log


def test_padding_needs_a_sha1_digest():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), algorithm=SHA256), algorithm=SHA256)
    with pytest.raises(MalformedEvidence) as caught:
        in_bank(log, HashAlgorithm.SHA512, ImaBank.PADDED)
    assert caught.value.finding_id == "log.digests"


def test_only_imas_entries_have_other_banks():
    event = MeasuredEvent(0, 4, RegisterKind.PCR, "EV_ACTION", {SHA1: ONES}, TcgContent(5, b""), measured=True)
    with pytest.raises(ValueError, match="no entry of IMA"):
        in_bank(EventLog(LogFormat.CEL_TLV, RegisterKind.PCR, (event,)), SHA256_ALGORITHM, ImaBank.HASHED)


# Hostile lists


def test_list_cut_anywhere():
    data, _ = ima_legacy(b"/init", bytes(range(20)))
    first = ima_record(b"ima-ng", ima_ng(b"/x"))
    raw = first + ima_record(b"ima", data)
    for size in range(1, len(raw)):
        if size == len(first):
            assert len(parse_ima_log(raw[:size]).events) == 1
        else:
            assert refused(raw[:size]).finding_id == "log.truncated"


@pytest.mark.parametrize("pcr", [24, 0xFFFFFFFF])
def test_pcr_that_does_not_exist(pcr):
    assert refused(ima_record(b"ima-ng", ima_ng(b"/x"), pcr=pcr)).finding_id == "log.index"


def test_name_of_4_gib():
    assert refused(struct.pack("<I", 10) + bytes(20) + struct.pack("<I", 0xFFFFFFFF) + b"ima-ng").finding_id == "log.event-size"


@pytest.mark.parametrize(("size", "finding_id"), [(0xFFFFFFFF, "log.event-size"), (1 << 20, "log.truncated")])
def test_data_of_4_gib(size, finding_id):
    raw = struct.pack("<I", 10) + bytes(20) + struct.pack("<I", 6) + b"ima-ng" + struct.pack("<I", size)
    assert refused(raw).finding_id == finding_id


def test_old_template_with_a_name_that_does_not_fit():
    data, _ = ima_legacy(b"/" * 256, bytes(20))
    assert refused(ima_record(b"ima", data)).finding_id == "log.event-size"


@pytest.mark.parametrize("name", [b"", b"ima\0", b"ima\x1b[2J", "imä".encode()])
def test_template_names_that_are_none(name):
    assert refused(ima_record(name, ima_ng(b"/x"))).finding_id == "log.event-data"


def test_too_many_entries():
    assert refused(ima_record(b"ima-ng", ima_ng(b"/x")) * 3, Limits(log_events=2)).finding_id == "log.events"


def test_list_larger_than_the_limit():
    assert refused(ima_record(b"ima-ng", ima_ng(b"/x")) * 20, Limits(log_bytes=1024)).finding_id == "log.too-large"


DIGEST = b"sha256:\0" + bytes(32)


@pytest.mark.parametrize(
    ("name", "data", "finding_id"),
    [
        ("ima-ng", ima_fields(DIGEST), "log.event-data"),
        ("ima-ng", ima_fields(DIGEST, b"/x\0", b""), "log.event-data"),
        ("ima-ng", ima_fields(DIGEST, b"/x\0") + b"\0", "log.event-data"),
        ("ima-ng", struct.pack("<I", 0xFFFFFFFF) + DIGEST, "log.event-data"),
        ("ima-ng", ima_fields(b"sha256" + bytes(32), b"/x\0"), "log.event-data"),
        ("ima-ng", ima_fields(b"sha256:" + b"\1" * 32, b"/x\0"), "log.event-data"),
        ("ima-ng", ima_fields(b"sha256:\0" + bytes(31), b"/x\0"), "log.algorithm"),
        ("ima-ng", ima_fields(b"sha257:\0" + bytes(32), b"/x\0"), "log.algorithm"),
        ("ima-ng", ima_fields(b"ima:sha256:\0" + bytes(32), b"/x\0"), "log.event-data"),
        ("ima-ngv2", ima_fields(DIGEST, b"/x\0"), "log.event-data"),
        ("ima-ngv2", ima_fields(b"evil:sha256:\0" + bytes(32), b"/x\0"), "log.event-data"),
        ("d-ng|d-ng", ima_fields(DIGEST, DIGEST), "log.event-data"),
        ("ima", bytes(23), "log.event-data"),
        ("ima", bytes(20) + struct.pack("<I", 5) + b"/x", "log.event-data"),
        ("ima", bytes(20) + struct.pack("<I", 256) + b"/" * 256, "log.event-data"),
        ("|".join("n-ng" for _ in range(40)), ima_fields(*[b"x"] * 40), "log.event-data"),
    ],
)
def test_entries_of_another_shape(name, data, finding_id):
    assert finding_of(decode_entry, ImaTemplate(name, data)) == finding_id


def test_a_digest_that_the_kernel_did_not_have():
    assert decode_entry(ImaTemplate("ima-ng", ima_fields(b"", b"/x\0"))).algorithm == ""


# The text list


@pytest.mark.parametrize(("name", "violations"), [("sha1", 1), ("sha256", 0), ("sha384", 1), ("sha512", 1)])
def test_keylimes_lists(name, violations):
    data = (KEYLIME / f"keylime-ima-log-{name}.txt").read_bytes()
    log = parse_ima_text(data)
    assert is_ima_text(data)
    assert (log.algorithms, [event.type_name for event in log.events]) == ((SHA1,), ["ima-ng", "ima-ng"])
    assert [decode_entry(event.content).path for event in log.events] == [b"boot_aggregate", b"/data"]
    assert sum(event.content.violation for event in log.events) == violations
    for event in log.events:
        if not event.content.violation:
            assert digest_of(SHA1, hashed_bytes(event.content)) == event.digests[SHA1]


@pytest.mark.skipif("sm3" not in hashlib.algorithms_available, reason="the crypto library has no SM3")
def test_keylimes_list_of_the_sm3_bank():
    log = parse_ima_text((KEYLIME / "keylime-ima-log-sm3_256.txt").read_bytes())
    assert log.algorithms == (SM3,)
    assert digest_of(SM3, log.events[1].content.data) == log.events[1].digests[SM3]


def test_keylimes_negative_case():
    assert finding_of(parse_ima_text, (KEYLIME / "keylime-ima-log-unknown.txt").read_bytes()) == "log.algorithm"


@pytest.mark.parametrize("boot", BOOTS, ids=lambda path: path.parent.name)
def test_text_and_binary_agree(boot):
    lines = json.loads(boot.read_text())["ima"]
    text = parse_ima_text("".join(line + "\n" for line in lines).encode())
    assert text.events == parse_ima_log(b"".join(binary_of_line(line) for line in lines)).events


def test_old_template_as_text():
    data, hashed = ima_legacy(b"/init", bytes(range(20)))
    line = f"10 {digest_of(SHA1, hashed).hex()} ima {bytes(range(20)).hex()} /init\n"
    assert parse_ima_text(line.encode()).events == parse_ima_log(ima_record(b"ima", data, digest=digest_of(SHA1, hashed))).events


def test_text_of_fields_whose_bytes_are_not_known():
    line = f"10 {'ab' * 20} evm-sig sha256:{'00' * 32} /x 03 security.ima 1 0102 0 0 0644\n".encode()
    assert parse_ima_text(line).events[0].content == ImaTemplate("evm-sig", b"")


def test_text_with_the_algorithm_given():
    line = f"10 {'ab' * 32} ima-ng sha256:{'00' * 32} /x\n".encode()
    assert parse_ima_text(line).algorithms == (SHA256,)
    assert parse_ima_text(line, algorithm=SM3).algorithms == (SM3,)
    assert finding_of(parse_ima_text, line, algorithm=SHA1) == "log.algorithm"


def test_empty_text():
    assert parse_ima_text(b"").events == ()


GOOD = f"10 {'ab' * 20} ima-ng sha256:{'00' * 32} /x"


@pytest.mark.parametrize(
    ("line", "finding_id"),
    [
        ("", "log.event-data"),
        ("10", "log.event-data"),
        (GOOD.replace("10 ", "100 "), "log.event-data"),
        (GOOD.replace("10 ", "24 "), "log.index"),
        (GOOD.replace("ab" * 20, "ab" * 20 + "a"), "log.event-data"),
        (GOOD.replace("ab" * 20, "ab" * 21), "log.algorithm"),
        (GOOD.replace("ab" * 20, "AB" * 20), "log.event-data"),
        (GOOD.replace("ima-ng", "ima-ng" * 50), "log.event-data"),
        (GOOD.replace("/x", "/x y"), "log.event-data"),
        (GOOD.replace("00" * 32, "00" * 31), "log.algorithm"),
        (GOOD.replace("00" * 32, "0x" * 32), "log.event-data"),
        (GOOD.replace("ima-ng", "ima"), "log.event-data"),
        (f"10 {'ab' * 20} ima {'00' * 19} /x", "log.event-data"),
        (GOOD + "\n\n" + GOOD, "log.event-data"),
        (GOOD + f"\n10 {'ab' * 32} ima-ng sha256:{'00' * 32} /x", "log.algorithm"),
    ],
)
def test_lines_of_another_shape(line, finding_id):
    assert finding_of(parse_ima_text, (line + "\n").encode()) == finding_id


def test_a_name_with_a_line_feed_forges_a_line_in_text_only():
    """Why the text form is never judged: the kernel writes the name as it is."""
    forged = f"/x\n10 {'cd' * 20} ima-ng sha256:{'11' * 32} /sbin/init"
    assert len(parse_ima_text((GOOD.replace("/x", forged) + "\n").encode()).events) == 2
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(forged.encode())))
    assert [decode_entry(event.content).path for event in log.events] == [forged.encode()]


def test_too_many_lines():
    assert finding_of(parse_ima_text, (GOOD + "\n").encode() * 3, Limits(log_events=2)) == "log.events"
    assert finding_of(parse_ima_text, (GOOD + "\n").encode() * 30, Limits(log_bytes=1024)) == "log.too-large"


# Properties


paths = st.binary(max_size=30).filter(lambda path: b"\0" not in path)
rows = st.lists(st.tuples(st.integers(0, 23), paths, st.booleans(), st.booleans()), max_size=5)


@given(rows, st.sampled_from(["<", ">"]))
def test_what_a_kernel_writes_is_read_back(entries, order):
    raw = b""
    for pcr, path, old, violation in entries:
        data = ima_legacy(path, bytes(range(20)), order)[0] if old else ima_ng(path, order=order)
        raw += ima_record(b"ima" if old else b"ima-ng", data, digest=bytes(20) if violation else b"\1" * 20, pcr=pcr, order=order)
    byte_order = "little" if order == "<" else "big"
    log = parse_ima_log(raw, order=byte_order)
    assert [(event.register, decode_entry(event.content, byte_order).path, event.content.violation) for event in log.events] == [
        (pcr, path, violation) for pcr, path, _, violation in entries
    ]


@given(st.binary(max_size=150), st.integers(0, 120))
def test_any_bytes_are_read_or_refused(data, keep):
    start = ima_record(b"ima-ng", ima_ng(b"/x"))[:keep]
    assert (finding_of(parse_ima_log, start + data) or "log.").startswith("log.")
    assert (finding_of(parse_ima_text, (GOOD + "\n").encode()[:keep] + data) or "log.").startswith("log.")
    is_ima_text(data)


@given(st.binary(max_size=80), st.sampled_from(["ima", "ima-ng", "ima-sigv2", "d-modsig", "x", "d-ng|n-ng"]), st.integers(0, 60))
def test_any_entry_is_decoded_or_refused(data, name, keep):
    template = ImaTemplate(name, ima_ng(b"/x")[:keep] + data)
    assert (finding_of(decode_entry, template) or "log.").startswith("log.")
    assert finding_of(hashed_bytes, template) in (None, "log.event-data")
