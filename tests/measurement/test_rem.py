"""Extending a REM, and replaying logs into all four."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import ima_ng, ima_record

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.aael import parse_aael
from kbs_rim.evidence.event_log import (
    EventLog,
    LogFormat,
    MeasuredEvent,
    RegisterKind,
    TcgContent,
    event_log_from_tcg,
    in_measurement_registers,
)
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, parse_ima_log
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.measurement.rem import extend_rem, rem_candidates, replay_rems
from kbs_rim.realm.rim_model import Measurements, RealmHash, RealmParams


def test_documented_vector():
    """vmm-platforms 1.10: one extend of a zero register with SHA-256("FW CONTENT")."""
    value = extend_rem(HashAlgorithm.SHA256, bytes(32), hashlib.sha256(b"FW CONTENT").digest())
    assert value.hex() == "f3decba632ca2d1697fdd19174bb357ba997bf19a611ee303ba85c3331f7d8bf"


@given(st.sampled_from(list(HashAlgorithm)), st.lists(st.binary(max_size=64), min_size=1, max_size=4))
def test_chains_equal_those_of_the_modelled_rmm(algorithm, values):
    model = Measurements(RealmParams(RealmHash(algorithm.compact_name), 0, 40))
    register = bytes(algorithm.digest_size)
    for value in values:
        model.extend(2, value)
        register = extend_rem(algorithm, register, value)
    assert register == model.rems[1]


def test_short_and_padded_values_differ():
    """The reference tool pads the value to 64 bytes and forgets the old register; both must show."""
    zero = bytes(32)
    once = extend_rem(HashAlgorithm.SHA256, zero, b"x")
    assert once != extend_rem(HashAlgorithm.SHA256, zero, b"x".ljust(64, b"\0"))
    assert extend_rem(HashAlgorithm.SHA256, once, b"x") != once
    assert extend_rem(HashAlgorithm.SHA256, zero, b"") == hashlib.sha256(zero).digest()


@pytest.mark.parametrize(("old", "value"), [(bytes(31), b""), (bytes(64), b""), (b"", b""), (bytes(32), bytes(65))])
def test_wrong_lengths(old, value):
    with pytest.raises(ValueError, match="bytes"):
        extend_rem(HashAlgorithm.SHA256, old, value)


# Replay of logs


VECTORS = Path(__file__).parent.parent / "vectors" / "logs"
SHA384_ALGORITHM, SHA256_ALGORITHM = HashAlgorithm.SHA384, HashAlgorithm.SHA256
EXPECTED = json.loads((VECTORS / "expected-registers.json").read_text())
TDX = [name for name in sorted(EXPECTED) if name.startswith("ccel/") and "sha384" in EXPECTED[name]["replayed"]]


def firmware_log(name: str) -> EventLog:
    return event_log_from_tcg(parse_tcg_log((VECTORS / name).read_bytes(), LogKind.CC))


def log_of(*events: tuple[int, dict[int, bytes]], registers: RegisterKind = RegisterKind.MR, measured: bool = True) -> EventLog:
    return EventLog(
        LogFormat.CC,
        registers,
        tuple(
            MeasuredEvent(number, register, registers, "EV_ACTION", digests, TcgContent(0x5, b""), measured)
            for number, (register, digests) in enumerate(events)
        ),
    )


@pytest.mark.parametrize("name", TDX)
def test_real_firmware_logs_replay_to_the_published_registers(name):
    """Intel's RTMR0 to RTMR3 are extended as REM0 to REM3 are."""
    expected = EXPECTED[name]["replayed"]["sha384"]
    values = replay_rems(firmware_log(name), SHA384_ALGORITHM)
    assert [value.hex() for value in values] == [expected.get(str(index), bytes(48).hex()) for index in range(1, 5)]


def test_firmware_and_runtime_log_make_one_chain():
    """The agent's records, once inside the firmware's log and once as a log of their own."""
    whole = (VECTORS / "ccel/CCEL_AAEL_alibabacloud").read_bytes()
    first = next(event for event in parse_tcg_log(whole, LogKind.CC).events if event.index == 4)
    firmware = event_log_from_tcg(parse_tcg_log(whole[: first.offset], LogKind.CC))
    agent = parse_aael(whole[first.offset :])
    assert replay_rems((firmware, agent), SHA384_ALGORITHM) == replay_rems(firmware_log("ccel/CCEL_AAEL_alibabacloud"), SHA384_ALGORITHM)


def test_order_of_logs_matters():
    one, two = (log_of((3, {0xB: bytes([byte]) * 32})) for byte in (1, 2))
    assert replay_rems((one, two), SHA256_ALGORITHM) != replay_rems((two, one), SHA256_ALGORITHM)


def test_events_of_each_register_are_counted():
    replay = rem_candidates(log_of((1, {0xB: b"\1" * 32}), (3, {0xB: b"\1" * 32}), (3, {0xB: b"\2" * 32})), SHA256_ALGORITHM)
    assert [item.events for item in replay] == [(1, 0, 2, 0)]
    assert replay[0].ima is None


def test_no_logs_leave_the_registers_at_zero():
    assert replay_rems((), SHA256_ALGORITHM) == (bytes(32),) * 4


def test_what_is_not_measured_extends_nothing():
    assert replay_rems(log_of((1, {0xB: bytes(32)}), (0, {}), measured=False), SHA256_ALGORITHM) == (bytes(32),) * 4


def test_event_without_the_realms_algorithm_is_an_error():
    log = log_of((1, {0xB: b"\1" * 32, 0xC: b"\1" * 48}), (2, {0xC: b"\1" * 48}))
    with pytest.raises(MalformedEvidence) as caught:
        replay_rems(log, SHA256_ALGORITHM)
    assert caught.value.finding_id == "rem.algorithm"
    assert "event 1 " in caught.value.message
    assert replay_rems(log, SHA384_ALGORITHM)[1] != bytes(48)


def test_event_that_would_extend_the_rim_is_an_error():
    with pytest.raises(MalformedEvidence) as caught:
        replay_rems(log_of((0, {0xB: b"\1" * 32})), SHA256_ALGORITHM)
    assert caught.value.finding_id == "rem.register"


@pytest.mark.parametrize("registers", [RegisterKind.PCR, RegisterKind.RIM])
def test_ccel_read_under_pcr_numbering_is_not_replayed(registers):
    with pytest.raises(ValueError, match="nothing about REMs"):
        replay_rems(log_of((0, {0xB: b"\1" * 32}), registers=registers), SHA256_ALGORITHM)


def test_pcr_numbering_gives_other_registers():
    """PCR 3 belongs to REM1, measurement register 3 is REM2: the same number, two registers."""
    as_mr = replay_rems(log_of((3, {0xB: b"\1" * 32})), SHA256_ALGORITHM)
    as_pcr = replay_rems(in_measurement_registers(log_of((3, {0xB: b"\1" * 32}), registers=RegisterKind.PCR)), SHA256_ALGORITHM)
    assert [value != bytes(32) for value in as_mr] == [False, False, True, False]
    assert [value != bytes(32) for value in as_pcr] == [False, True, False, False]


def ima_in_rem2(**more) -> EventLog:
    return in_measurement_registers(parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/bin/sh"), **more), algorithm=more.get("algorithm", 0x4)))


def test_ima_list_of_sha1_leaves_two_candidates():
    padded = hashlib.sha1(ima_ng(b"/bin/sh")).digest() + bytes(12)
    hashed = hashlib.sha256(ima_ng(b"/bin/sh")).digest()
    replays = rem_candidates((log_of((1, {0xB: b"\1" * 32})), ima_in_rem2()), SHA256_ALGORITHM)
    assert [(replay.ima, replay.values[2]) for replay in replays] == [
        (ImaBank.HASHED, hashlib.sha256(bytes(32) + hashed).digest()),
        (ImaBank.PADDED, hashlib.sha256(bytes(32) + padded).digest()),
    ]
    assert replays[0].values[0] == replays[1].values[0] != bytes(32)


def test_ima_list_of_the_realms_algorithm_leaves_one():
    replays = rem_candidates(ima_in_rem2(algorithm=0xB), SHA256_ALGORITHM)
    assert [replay.ima for replay in replays] == [None]


def test_ima_list_of_another_algorithm_is_only_hashed():
    assert [replay.ima for replay in rem_candidates(ima_in_rem2(algorithm=0xB), HashAlgorithm.SHA512)] == [ImaBank.HASHED]


def test_ima_is_never_padded_unasked():
    with pytest.raises(MalformedEvidence) as caught:
        replay_rems(ima_in_rem2(), SHA256_ALGORITHM)
    assert caught.value.finding_id == "rem.algorithm"


@given(st.lists(st.tuples(st.integers(1, 4), st.binary(min_size=32, max_size=32)), max_size=8))
def test_replay_is_what_the_modelled_rmm_does(extensions):
    model = Measurements(RealmParams(RealmHash.SHA256, 0, 40))
    for register, digest in extensions:
        model.extend(register, digest)
    assert list(replay_rems(log_of(*((register, {0xB: digest}) for register, digest in extensions)), SHA256_ALGORITHM)) == list(model.rems)
