"""Reading any kind of log: what it counts is said or refused, and guesses are right for every log there is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import (
    AGENT_HEADER,
    SHA1,
    SHA256,
    aael_record,
    cel_cbor,
    cel_json,
    cel_tlv,
    digest_of,
    ima_fields,
    ima_legacy,
    ima_ng,
    ima_record,
    tcg_log,
)

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import LogFormat, RegisterKind
from kbs_rim.evidence.event_text import describe_measured
from kbs_rim.evidence.ima_log import guess_ima_layout, parse_ima_log
from kbs_rim.evidence.log_reader import counts_by_its_own_words, guess_cel_format, guess_format, read_event_log
from kbs_rim.limits import Limits

LOGS = Path(__file__).parent.parent / "vectors" / "logs"
BOOTS = sorted((LOGS.parent / "images" / "measured-boot").glob("*/log.bin"))
RECORDS = [(0, 4, {SHA256: digest_of(SHA256, b"x")}, (5, (5, b"x")))]
IMA = ima_record(b"ima-ng", ima_ng(b"/bin/sh"))
SAMPLES = {
    LogFormat.CEL_TLV: cel_tlv(RECORDS),
    LogFormat.CEL_CBOR: cel_cbor(RECORDS),
    LogFormat.CEL_JSON: cel_json(RECORDS),
    LogFormat.IMA: IMA,
    LogFormat.AAEL: aael_record(b"d o c"),
    LogFormat.TPM: tcg_log(SHA256, (4, 5, b"x", None)),
}


# Guesses


@pytest.mark.parametrize("log_format", SAMPLES)
def test_guess_of_every_format(log_format):
    assert guess_format(SAMPLES[log_format]) is log_format


@pytest.mark.parametrize(
    ("data", "log_format"),
    [
        (cel_tlv(RECORDS, register_type=108), LogFormat.CEL_TLV),
        (cel_tlv(RECORDS, number_size=4, register_size=4), LogFormat.CEL_TLV),
        (cel_cbor(RECORDS, sequence=True), LogFormat.CEL_CBOR),
        (b" \n" + cel_json(RECORDS), LogFormat.CEL_JSON),
        (AGENT_HEADER, LogFormat.AAEL),
        (ima_record(b"ima", ima_legacy(b"/x", bytes(20))[0]), LogFormat.IMA),
        (ima_record(b"ima-ng", ima_ng(b"/x", order=">"), order=">"), LogFormat.IMA),
        (ima_record(b"ima-ng", ima_ng(b"/x"), algorithm=SHA256), LogFormat.IMA),
        ((LOGS / "ima" / "keylime-ima-log-sha256.txt").read_bytes(), LogFormat.IMA),
        ((LOGS / "synthetic" / "emitter-layout-kernel-sha256.bin").read_bytes(), LogFormat.VMM),
        (b"", LogFormat.TPM),
        (bytes(2 << 20), LogFormat.TPM),
    ],
)
def test_guess_of_variants(data, log_format):
    assert guess_format(data) is log_format


@pytest.mark.parametrize(
    "path", [*BOOTS, *sorted((LOGS / "tpm").iterdir()), *sorted((LOGS / "ccel").iterdir())], ids=lambda path: path.name
)
def test_real_tcg_logs_are_guessed_as_such(path):
    if "table" not in path.name:
        assert guess_format(path.read_bytes()) in (LogFormat.TPM, LogFormat.CC)
        assert guess_cel_format(path.read_bytes()) is None


@given(st.binary(max_size=100), st.sampled_from([b"", *SAMPLES.values()]), st.integers(0, 60))
def test_guesses_never_raise(data, start, keep):
    guess_format(start[:keep] + data)
    guess_cel_format(data)
    guess_ima_layout(data)


def test_layout_of_a_list():
    assert guess_ima_layout(IMA) == (SHA1, "little")
    assert guess_ima_layout(ima_record(b"ima-ng", ima_ng(b"/x"), algorithm=SHA256)) == (SHA256, "little")
    assert guess_ima_layout(ima_record(b"ima-ng", ima_ng(b"/x", order=">"), order=">")) == (SHA1, "big")
    assert guess_ima_layout(b"") is None
    assert guess_ima_layout(bytes(100)) is None


# Numbering


@pytest.mark.parametrize("log_format", [LogFormat.CEL_TLV, LogFormat.CEL_CBOR, LogFormat.CEL_JSON])
def test_numbering_of_a_cel_must_be_said(log_format):
    with pytest.raises(ValueError, match="must be said"):
        read_event_log(SAMPLES[log_format], log_format)
    for registers in (RegisterKind.PCR, RegisterKind.MR):
        log = read_event_log(SAMPLES[log_format], log_format, registers=registers)
        assert (log.format, log.registers, log.events[0].register_kind) == (log_format, registers, registers)


@pytest.mark.parametrize(
    ("log_format", "registers"),
    [(LogFormat.TPM, RegisterKind.PCR), (LogFormat.IMA, RegisterKind.PCR), (LogFormat.AAEL, RegisterKind.MR)],
)
def test_other_formats_count_what_they_count(log_format, registers):
    log = read_event_log(SAMPLES[log_format], log_format)
    assert (log.format, log.registers) == (log_format, registers)


@pytest.mark.parametrize(
    ("log_format", "registers"),
    [
        (LogFormat.TPM, RegisterKind.MR),
        (LogFormat.CC, RegisterKind.PCR),
        (LogFormat.VMM, RegisterKind.MR),
        (LogFormat.IMA, RegisterKind.MR),
    ],
)
def test_numbering_that_a_format_does_not_have(log_format, registers):
    with pytest.raises(ValueError, match="counts"):
        read_event_log(b"", log_format, registers=registers)


def test_firmware_log_is_read_as_what_its_source_says():
    data = (LOGS / "ccel" / "CCEL_data_ovmf").read_bytes()
    assert read_event_log(data, LogFormat.CC).registers is RegisterKind.MR
    with pytest.raises(MalformedEvidence):
        read_event_log((LOGS / "tpm" / "debian-10.bin").read_bytes(), LogFormat.TPM)  # SHA-1 format: shown, never judged


def test_text_list_of_ima_is_not_judged():
    with pytest.raises(MalformedEvidence):
        read_event_log((LOGS / "ima" / "keylime-ima-log-sha256.txt").read_bytes(), LogFormat.IMA)


@pytest.mark.parametrize(
    ("data", "log_format", "registers"),
    [
        (SAMPLES[LogFormat.CEL_JSON], LogFormat.CEL_JSON, RegisterKind.PCR),
        (cel_tlv(RECORDS, register_type=108), LogFormat.CEL_TLV, RegisterKind.MR),
        (SAMPLES[LogFormat.CEL_TLV], LogFormat.CEL_TLV, RegisterKind.PCR),
        (b"", LogFormat.AAEL, RegisterKind.MR),
        (b"", LogFormat.CC, RegisterKind.MR),
        (b"", LogFormat.VMM, RegisterKind.RIM),
        (b"", LogFormat.IMA, RegisterKind.PCR),
    ],
)
def test_what_logs_say_about_their_numbering(data, log_format, registers):
    assert counts_by_its_own_words(data, log_format) is registers


# Descriptions


def described(records) -> list[str]:
    log = read_event_log(cel_cbor(records), LogFormat.CEL_CBOR, registers=RegisterKind.PCR)
    return [describe_measured(event).text for event in log.events]


def test_text_of_every_content():
    digests = {SHA256: digest_of(SHA256, b"x")}
    records = [
        (0, 0, {SHA256: bytes(32)}, (4, (1, (1, 1)))),
        (1, 0, {SHA256: bytes(32)}, (4, (2, ()))),
        (2, 0, digests, (4, (80, (7,)))),
        (3, 0, digests, (4, (81, (2,)))),
        (4, 0, digests, (9, b"enter-initrd\0")),
        (5, 0, digests, (80, b"\xff\0")),
        (6, 0, digests, (80, b"")),
        (7, 0, digests, (7, ("ima-ng", ima_ng(b"/bin/sh", b"")))),
        (8, 0, digests, (5, (0x0D, b"grub_cmd: boot\0"))),
    ]
    assert described(records) == [
        "CEL version 1.1",
        "end of the firmware's events",
        "time 7",
        "transition: kexec",
        "enter-initrd\\x00",
        "2 bytes: ff00",
        "empty",
        f"/bin/sh sha256:{digest_of(SHA256, b'').hex()[:16]}...",
        "grub_cmd: boot",
    ]


def test_text_of_ima_entries():
    typed = b"verity:sha256:\0" + bytes(32)
    raw = (
        ima_record(b"ima-sig", ima_fields(b"", b"/x\0", b"\3\2"))
        + ima_record(b"ima-ngv2", ima_fields(typed, b"/y\0"))
        + ima_record(b"ima-ng", ima_ng(b"/tmp/\x1b[2J"), digest=bytes(20))
    )
    texts = [describe_measured(event) for event in parse_ima_log(raw).events]
    assert texts[0].text == "/x no file hash"
    assert texts[0].fields["sig"] == "2 bytes: 0302"
    assert texts[1].fields["digest_type"] == "verity"
    assert texts[2].text.startswith("violation: /tmp/\\x1b[2J sha256:")
    assert texts[2].fields["violation"] == 1
    assert texts[2].fields["file_hash"] == f"sha256:{digest_of(SHA256, b'content').hex()}"


def test_malformed_ima_entry_names_its_record():
    event = parse_ima_log(IMA + ima_record(b"ima-ng", b"\xff\xff\xff\xff")).events[1]
    with pytest.raises(MalformedEvidence) as caught:
        describe_measured(event)
    assert caught.value.finding_id == "log.event-data"
    assert "record 1, ima-ng" in caught.value.message


@pytest.mark.parametrize(("log_format", "limit"), [(LogFormat.CEL_JSON, {"log_bytes": 16}), (LogFormat.IMA, {"log_bytes": 16})])
def test_limits_are_passed_on(log_format, limit):
    registers = None if log_format is LogFormat.IMA else RegisterKind.PCR
    with pytest.raises(MalformedEvidence) as caught:
        read_event_log(SAMPLES[log_format], log_format, Limits(**limit), registers=registers)
    assert caught.value.finding_id == "log.too-large"
