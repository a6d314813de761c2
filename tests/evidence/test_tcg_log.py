"""Parsing TCG event logs: real ones must read and replay, hostile ones must be refused by name."""

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_log
from kbs_rim.evidence.tcg_log import LogKind, TcgLog, guess_kind, parse_tcg_log, replay_registers
from kbs_rim.evidence.tcg_names import TPM_ALGORITHMS
from kbs_rim.limits import Limits

VECTORS = Path(__file__).parent.parent / "vectors"
LOGS = VECTORS / "logs"
EXPECTED = json.loads((LOGS / "expected-registers.json").read_text())
MEASURED_BOOTS = sorted((VECTORS / "images" / "measured-boot").glob("*/log.bin"))
KIND_OF_FOLDER = {"tpm": LogKind.TPM, "ccel": LogKind.CC, "cca": LogKind.VMM}
SHA1, SHA256, SHA384, SM3 = 0x4, 0xB, 0xC, 0x12
NO_ACTION, SEPARATOR, TAG, POST_CODE2, FIRMWARE_BLOB2 = 0x3, 0x4, 0x6, 0x13, 0x8000000A


def spec_id(*algorithms: int, index: int = 0, table: bytes | None = None, vendor: bytes = b"", **change: int) -> bytes:
    values = {"platform": 0, "minor": 0, "major": 2, "errata": 106, "uintn": 2, "count": len(algorithms), **change}
    if table is None:
        table = b"".join(struct.pack("<HH", identifier, TPM_ALGORITHMS[identifier].digest_size) for identifier in algorithms)
    event = b"Spec ID Event03\0" + struct.pack("<IBBBBI", *values.values()) + table + bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", index, NO_ACTION, b"", len(event)) + event


def record(index: int, event_type: int, digests: dict[int, bytes] | list[tuple[int, bytes]], data: bytes) -> bytes:
    pairs = list(digests.items()) if isinstance(digests, dict) else digests
    body = b"".join(struct.pack("<H", identifier) + digest for identifier, digest in pairs)
    return struct.pack("<III", index, event_type, len(pairs)) + body + struct.pack("<I", len(data)) + data


def separator(index: int = 0) -> bytes:
    return record(index, SEPARATOR, {SHA256: hashlib.sha256(bytes(4)).digest()}, bytes(4))


def refused(data: bytes, kind: LogKind = LogKind.TPM, limits: Limits = Limits(), **more) -> MalformedEvidence:  # noqa: B008
    with pytest.raises(MalformedEvidence) as caught:
        parse_tcg_log(data, kind, limits, **more)
    return caught.value


def hex_registers(log: TcgLog) -> dict[str, dict[str, str]]:
    return {name: {str(index): value.hex() for index, value in bank.items()} for name, bank in replay_registers(log).items()}


# Real logs


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_log_replays_to_its_registers(name):
    expected = EXPECTED[name]
    kind = KIND_OF_FOLDER[name.split("/")[0]]
    log = parse_tcg_log((LOGS / name).read_bytes(), kind, allow_legacy=kind is LogKind.TPM)
    assert len(log.events) == expected["events_after_spec_id"]
    assert log.used_bytes == expected["used_bytes"]
    assert log.padding == (None if expected["padding_byte"] is None else int(expected["padding_byte"], 16))
    assert (log.header is None) == (expected["format"] == "sha1-legacy")
    registers = hex_registers(log)
    for bank, values in expected["replayed"].items():
        assert registers[bank] == values
    for bank, values in (expected["published"] or {}).items():
        # A published zero is a register that was never extended.
        extended = {index: value for index, value in values.items() if set(value) != {"0"}}
        assert {index: registers[bank][index] for index in extended} == extended


def test_every_vendor_log_is_in_the_table():
    present = {f"{folder}/{path.name}" for folder in ("tpm", "ccel", "cca") for path in (LOGS / folder).iterdir()}
    assert {name for name in present - set(EXPECTED) if "table" not in name} == {"tpm/keylime-binary_bios_measurements-bogus"}


def test_sm3_bank_is_replayed_if_the_crypto_library_knows_sm3():
    log = parse_tcg_log((LOGS / "ccel" / "CCEL_data_csv").read_bytes(), LogKind.CC)
    assert set(log.algorithms) == {SM3}
    if "sm3" not in hashlib.algorithms_available:
        assert replay_registers(log) == {}
        return
    register = bytes(32)
    for event in log.events:
        if event.index == 2 and event.measured:
            register = hashlib.new("sm3", register + event.digests[SM3]).digest()
    assert replay_registers(log)["sm3"][2] == register


@pytest.mark.parametrize("path", MEASURED_BOOTS, ids=lambda path: path.parent.name)
def test_measured_boot_replays_to_the_pcrs_of_its_tpm(path):
    pcrs = json.loads((path.parent / "oracle.json").read_text())["pcrs"]
    registers = hex_registers(parse_tcg_log(path.read_bytes(), LogKind.TPM))
    assert set(registers) == {"sha1", "sha256", "sha384", "sha512"}
    for bank, values in registers.items():
        assert values == {index: pcrs[bank][index] for index in values}
        untouched = {value for index, value in pcrs[bank].items() if index not in values}
        assert all(set(value) in ({"0"}, {"f"}) for value in untouched)


def test_measured_boots_are_there():
    assert len(MEASURED_BOOTS) == 8


def test_text_that_is_no_log_is_refused():
    data = (LOGS / "tpm" / "keylime-binary_bios_measurements-bogus").read_bytes()
    assert refused(data).finding_id == "log.spec-id"
    assert refused(data, allow_legacy=True).finding_id == "log.spec-id"


@pytest.mark.parametrize("kind", list(LogKind))
def test_legacy_sha1_log_is_refused_for_every_kind(kind):
    data = (LOGS / "tpm" / "debian-10.bin").read_bytes()
    assert refused(data, kind).finding_id == "log.legacy"


@pytest.mark.parametrize("kind", [LogKind.VMM, LogKind.CC])
def test_legacy_switch_does_not_open_vmm_and_cc_logs(kind):
    data = (LOGS / "tpm" / "debian-10.bin").read_bytes()
    assert refused(data, kind, allow_legacy=True).finding_id == "log.legacy"


# The Spec ID record


def test_spec_id_is_decoded():
    log = parse_tcg_log(spec_id(SHA256, SHA384, index=1, vendor=b"td-shim"), LogKind.CC)
    assert log.algorithms == {SHA256: 32, SHA384: 48}
    assert (log.header.index, log.header.vendor_info, log.header.errata, log.header.uintn_size) == (1, b"td-shim", 106, 2)
    assert (log.events, log.padding, log.used_bytes) == ((), None, 76)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "log.spec-id"),
        (spec_id(SHA256)[:31], "log.spec-id"),
        (spec_id(SHA256)[:50], "log.spec-id"),
        (spec_id(), "log.spec-id"),
        (spec_id(*[SHA256] * 9), "log.spec-id"),
        (spec_id(SHA256, count=0x40000000), "log.spec-id"),
        (spec_id(SHA256, major=1), "log.spec-id"),
        (spec_id(SHA256, uintn=8), "log.spec-id"),
        (spec_id(SHA256, platform=7), "log.spec-id"),
        (spec_id(SHA256, index=2), "log.spec-id"),
        (spec_id(SHA256, SHA256), "log.algorithm"),
        (spec_id(SHA256, table=struct.pack("<HH", SHA256, 1)), "log.algorithm"),
        (spec_id(SHA256, table=struct.pack("<HH", 0x7777, 32)), "log.algorithm"),
        (spec_id(SHA256, table=struct.pack("<HH", 0, 32)), "log.algorithm"),
        (spec_id(SHA256).replace(b"Event03", b"Event02"), "log.legacy"),
        (spec_id(SHA256).replace(b"Spec ID Event03\0", bytes(16)), "log.legacy"),
        (spec_id(SHA256) + spec_id(SHA256), "log.padding"),
        (spec_id(SHA256) + record(0, NO_ACTION, {}, b"Spec ID Event03\0"), "log.spec-id"),
    ],
)  # fmt: skip
def test_bad_spec_id(data, finding):
    assert refused(data).finding_id == finding


def test_spec_id_with_a_digest_is_refused():
    data = bytearray(spec_id(SHA256))
    data[8] = 1
    assert refused(bytes(data)).finding_id == "log.spec-id"


def test_spec_id_with_bytes_behind_its_contents_is_refused():
    data = spec_id(SHA256)
    assert refused(data[:28] + struct.pack("<I", 34) + data[32:] + b"\0").finding_id == "log.spec-id"


# Endings


@pytest.mark.parametrize(("tail", "padding"), [(b"", None), (b"\0", 0), (bytes(4096), 0), (b"\xff" * 8, 255), (b"\xff" * 3, 255)])
def test_uniform_endings(tail, padding):
    log = parse_tcg_log(spec_id(SHA256) + separator() + tail, LogKind.TPM)
    assert (len(log.events), log.padding, log.used_bytes) == (1, padding, 65 + len(separator()))


@pytest.mark.parametrize(
    ("tail", "finding"),
    [
        (bytes(4095) + b"\x01", "log.padding"),
        (b"\xff" * 8 + b"\0", "log.padding"),
        (bytes(8) + separator(), "log.padding"),
        (b"\xff" * 16 + separator(), "log.padding"),
        (bytes(3) + b"\xff", "log.truncated"),
        (b"\x01", "log.truncated"),
        (separator()[:-1], "log.truncated"),
        (record(1, 0, {SHA256: bytes(32)}, b""), "log.event-type"),
    ],
)  # fmt: skip
def test_anything_behind_the_end_is_refused(tail, finding):
    assert refused(spec_id(SHA256) + separator() + tail).finding_id == finding


def test_record_ending_in_padding_bytes_is_read_whole():
    log = parse_tcg_log(spec_id(SHA256) + record(0, 0x5, {SHA256: bytes([7] * 32)}, bytes(64)) + bytes(100), LogKind.TPM)
    assert log.events[0].data == bytes(64)
    assert log.padding == 0


def test_every_truncation_is_an_error():
    data = spec_id(SHA256) + separator(3) + separator(5)
    whole = {len(spec_id(SHA256)), len(spec_id(SHA256)) + len(separator())}
    for length in range(len(data)):
        if length in whole:
            parse_tcg_log(data[:length], LogKind.TPM)
        else:
            assert refused(data[:length]).finding_id in ("log.truncated", "log.spec-id")


# Records


@pytest.mark.parametrize(
    ("kind", "data", "finding"),
    [
        (LogKind.TPM, record(24, SEPARATOR, {SHA256: bytes(32)}, b""), "log.index"),
        (LogKind.TPM, record(0xFFFFFFFF, SEPARATOR, {SHA256: bytes(32)}, b""), "log.index"),
        (LogKind.CC, record(5, SEPARATOR, {SHA256: bytes(32)}, b""), "log.index"),
        (LogKind.CC, record(0xFFFFFFFF, NO_ACTION, {SHA256: bytes(32)}, b""), "log.index"),
        (LogKind.VMM, record(1, POST_CODE2, {SHA256: bytes(32)}, b""), "log.index"),
        (LogKind.VMM, record(9, TAG, {}, b""), "log.index"),
        (LogKind.VMM, separator(), "log.event-type"),
        (LogKind.VMM, record(0, 0x80000001, {SHA256: bytes(32)}, b""), "log.event-type"),
        (LogKind.TPM, record(0, SEPARATOR, {}, b""), "log.digests"),
        (LogKind.CC, record(1, TAG, {}, b""), "log.digests"),
        (LogKind.TPM, record(0, POST_CODE2, {}, b""), "log.digests"),
        (LogKind.VMM, record(0, FIRMWARE_BLOB2, {}, b""), "log.digests"),
        (LogKind.VMM, record(0, NO_ACTION, {}, b""), "log.digests"),
        (LogKind.TPM, record(0, NO_ACTION, {SHA256: b"\x01" * 32}, b""), "log.digests"),
        (LogKind.VMM, record(0, TAG, {SHA256: b"\x01" * 32}, b""), "log.digests"),
        (LogKind.TPM, record(0, SEPARATOR, [(SHA256, bytes(32)), (SHA256, bytes(32))], b""), "log.digests"),
        (LogKind.TPM, struct.pack("<III", 0, SEPARATOR, 0xFFFFFFFF), "log.digests"),
        (LogKind.TPM, record(0, SEPARATOR, {SHA1: bytes(20)}, b""), "log.algorithm"),
        (LogKind.TPM, record(0, NO_ACTION, {0: bytes(32)}, b""), "log.algorithm"),
        (LogKind.VMM, record(0, POST_CODE2, {0: bytes(32)}, b""), "log.algorithm"),
        (LogKind.TPM, record(0, SEPARATOR, {SHA256: bytes(32)}, b"")[:-4] + struct.pack("<I", 0xFFFFFFFF), "log.event-size"),
        (LogKind.TPM, record(0, SEPARATOR, {SHA256: bytes(32)}, b"")[:-4] + struct.pack("<I", 5), "log.truncated"),
    ],
)  # fmt: skip
def test_bad_record(kind, data, finding):
    error = refused(spec_id(SHA256) + data, kind)
    assert error.finding_id == finding
    assert error.offset is not None


def test_two_digests_of_one_algorithm_are_refused():
    data = spec_id(SHA256, SHA384) + record(0, SEPARATOR, [(SHA256, bytes(32)), (SHA256, bytes(32))], b"")
    assert refused(data).finding_id == "log.digests"


def test_a_missing_bank_is_refused():
    assert refused(spec_id(SHA256, SHA384) + separator()).finding_id == "log.digests"


def test_vmm_relaxations():
    """Emitters write EV_NO_ACTION with algorithm 0, tags without digests, and LOG without a digest."""
    data = (
        spec_id(SHA256, SHA384)
        + record(0, NO_ACTION, [(0, bytes(32)), (0, bytes(48))], b"VM VERSION")
        + record(0, TAG, {}, b"tag")
        + record(0, TAG, {SHA384: bytes(48)}, b"documented")
        + record(0, POST_CODE2, {}, b"log")
        + record(0, POST_CODE2, {SHA256: bytes(32), SHA384: bytes(48)}, b"image")
    )
    log = parse_tcg_log(data, LogKind.VMM)
    assert [sorted(event.digests) for event in log.events] == [[SHA256, SHA384], [], [SHA384], [], [SHA256, SHA384]]
    assert [event.number for event in log.events] == [0, 1, 2, 3, 4]
    assert log.events[0].offset == len(spec_id(SHA256, SHA384))


# Limits


@pytest.mark.parametrize(
    ("kind", "limits", "finding"),
    [
        (LogKind.TPM, Limits(log_bytes=100), "log.too-large"),
        (LogKind.VMM, Limits(vmm_log_bytes=100), "log.too-large"),
        (LogKind.TPM, Limits(log_events=1), "log.events"),
        (LogKind.TPM, Limits(event_bytes=3), "log.spec-id"),
        (LogKind.TPM, Limits(event_bytes=40), "log.event-size"),
        (LogKind.TPM, Limits(log_algorithms=1), "log.spec-id"),
    ],
)  # fmt: skip
def test_named_limits(kind, limits, finding):
    digests = {SHA256: b"\x01" * 32, SHA384: b"\x01" * 48}
    data = spec_id(SHA256, SHA384) + record(0, 0x5, digests, bytes(41)) * 2
    assert refused(data, kind, limits).finding_id == finding


def test_largest_vmm_log_is_read_and_one_byte_more_is_not():
    data = spec_id(SHA256).ljust(64 * 1024, b"\0")
    assert parse_tcg_log(data, LogKind.VMM).padding == 0
    assert refused(data + b"\0", LogKind.VMM).finding_id == "log.too-large"


# Registers


def test_startup_locality_starts_pcr_0_and_nothing_else():
    digest = hashlib.sha256(b"x").digest()
    body = record(0, NO_ACTION, {SHA256: bytes(32)}, b"StartupLocality\0\x03") + b"".join(
        record(i, 5, {SHA256: digest}, b"x") for i in (0, 1)
    )
    tpm = replay_registers(parse_tcg_log(spec_id(SHA256) + body, LogKind.TPM))["sha256"]
    assert tpm == {0: hashlib.sha256(bytes(31) + b"\x03" + digest).digest(), 1: hashlib.sha256(bytes(32) + digest).digest()}
    cc = replay_registers(parse_tcg_log(spec_id(SHA256) + body, LogKind.CC))["sha256"]
    assert cc[0] == cc[1] == tpm[1]


@pytest.mark.parametrize("data", [b"StartupLocality\0\x05", b"StartupLocality\0", b"StartupLocality\0\x03\0"])
def test_bad_startup_locality(data):
    log = parse_tcg_log(spec_id(SHA256) + record(0, NO_ACTION, {SHA256: bytes(32)}, data), LogKind.TPM)
    with pytest.raises(MalformedEvidence) as caught:
        replay_registers(log)
    assert caught.value.finding_id == "log.event-data"


def test_second_startup_locality_is_refused():
    body = record(0, NO_ACTION, {SHA256: bytes(32)}, b"StartupLocality\0\x03")
    with pytest.raises(MalformedEvidence, match="twice"):
        replay_registers(parse_tcg_log(spec_id(SHA256) + body * 2, LogKind.TPM))


def test_no_action_extends_nothing():
    log = parse_tcg_log(spec_id(SHA256) + record(6, NO_ACTION, {SHA256: bytes(32)}, b"SP800-155 Event3"), LogKind.TPM)
    assert replay_registers(log) == {"sha256": {}}


# Guessing the kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (spec_id(SHA256) + record(0, NO_ACTION, {SHA256: bytes(32)}, b"VM VERSION\0\0\0\0\0\0"), LogKind.VMM),
        (spec_id(SHA256) + record(0, NO_ACTION, {0: bytes(32)}, b"whatever"), LogKind.VMM),
        (spec_id(SHA256) + separator() + record(0, TAG, {}, struct.pack("<II", 2, 0)), LogKind.VMM),
        (spec_id(SHA256) + record(0, TAG, {}, struct.pack("<II", 1, 0)) + b"\x01", LogKind.VMM),
        (spec_id(SHA256) + record(9, TAG, {SHA256: bytes(32)}, struct.pack("<II", 2, 0)), LogKind.TPM),
        (spec_id(SHA256) + separator(), LogKind.TPM),
        (spec_id(SHA256, index=1) + separator(), LogKind.CC),
        (b"not a log", LogKind.TPM),
        (bytes(2 << 20), LogKind.TPM),
    ],
)  # fmt: skip
def test_guess_kind(data, kind):
    assert guess_kind(data) is kind


# Properties


@given(st.binary(max_size=400), st.sampled_from(list(LogKind)), st.booleans(), st.booleans())
def test_any_bytes_parse_or_are_refused(data, kind, with_header, allow_legacy):
    """Only MalformedEvidence leaves the parser, and it always names a log finding."""
    data = spec_id(SHA256) + data if with_header else data
    assert guess_kind(data) in LogKind
    finding = "log."
    try:
        replay_registers(parse_tcg_log(data, kind, allow_legacy=allow_legacy))
    except MalformedEvidence as error:
        finding = error.finding_id
    assert finding.startswith("log.")


digest_sets = st.fixed_dictionaries({SHA256: st.binary(min_size=32, max_size=32), SHA384: st.binary(min_size=48, max_size=48)})
firmware_records = st.lists(
    st.tuples(st.integers(0, 4), st.integers(4, 0xFFFFFFFF), digest_sets, st.binary(max_size=60)),
    max_size=6,
)  # fmt: skip


@given(firmware_records, st.sampled_from([LogKind.TPM, LogKind.CC]), st.integers(0, 40), st.sampled_from([b"\0", b"\xff"]))
def test_encoded_log_comes_back(records, kind, padding, filler):
    data = spec_id(SHA256, SHA384) + b"".join(record(*item) for item in records)
    log = parse_tcg_log(data + filler * padding, kind)
    assert [(event.index, event.type, dict(event.digests), event.data) for event in log.events] == records
    assert log.used_bytes == len(data)
    assert log.padding == (filler[0] if padding else None)
    offset = 69
    for event, item in zip(log.events, records, strict=True):
        assert event.offset == offset
        offset += len(record(*item))


@given(st.integers(0, 600), st.integers(0, 255))
def test_flipping_one_byte_of_a_real_log_never_crashes(position, value):
    data = bytearray((LOGS / "synthetic" / "emitter-layout-kernel-sha256.bin").read_bytes()[:700])
    data[position] = value
    finding = "log."
    try:
        parse_tcg_log(bytes(data), LogKind.VMM)
    except MalformedEvidence as error:
        finding = error.finding_id
    assert finding.startswith("log.")


@pytest.mark.parametrize("padding", [b"\x00", b"\xff"])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 9000])
@pytest.mark.parametrize("front", [b"", b"\x01", b"log\x00\xff", b"x" * 4096])
def test_where_padding_begins(front, size, padding):
    data = front + padding * size
    assert tcg_log._end_without(data, padding) == len(data.rstrip(padding))
