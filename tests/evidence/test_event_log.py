"""The neutral form of events: what a register number counts is never guessed."""

import json
from pathlib import Path

import pytest

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import (
    NO_REGISTER,
    EventLog,
    LogFormat,
    MeasuredEvent,
    RegisterKind,
    TcgContent,
    check_register,
    event_log_from_tcg,
    in_measurement_registers,
    pcr_to_measurement_register,
    replay_event_log,
)
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log

LOGS = Path(__file__).parent.parent / "vectors" / "logs"
EXPECTED = json.loads((LOGS / "expected-registers.json").read_text())
KINDS = {"tpm": LogKind.TPM, "ccel": LogKind.CC, "cca": LogKind.VMM}


def event(register: int, kind: RegisterKind = RegisterKind.PCR, *, measured: bool = True, **more) -> MeasuredEvent:
    digests = more.get("digests", {0xB: bytes(32)})
    return MeasuredEvent(more.get("number", 0), register, kind, "EV_ACTION", digests, TcgContent(0x5, b""), measured)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_logs_keep_their_kind_and_their_registers(name):
    kind = KINDS[name.split("/")[0]]
    log = event_log_from_tcg(parse_tcg_log((LOGS / name).read_bytes(), kind, allow_legacy=kind is LogKind.TPM))
    assert log.format.value == kind.value
    assert log.registers is {"tpm": RegisterKind.PCR, "cc": RegisterKind.MR, "vmm": RegisterKind.RIM}[kind.value]
    assert len(log.events) == EXPECTED[name]["events_after_spec_id"]
    if kind is LogKind.CC:
        banks = replay_event_log(log)
        replayed = {name: {str(index): value.hex() for index, value in bank.items()} for name, bank in banks.items()}
        assert all(replayed[bank] == values for bank, values in EXPECTED[name]["replayed"].items())


@pytest.mark.parametrize(
    ("pcr", "register"),
    [(0, 0), (1, 1), (7, 1), *((pcr, 2) for pcr in range(2, 7)), *((pcr, 3) for pcr in range(8, 16)), *((pcr, 4) for pcr in range(16, 24))],
)
def test_map_of_pcrs_to_measurement_registers(pcr, register):
    assert pcr_to_measurement_register(pcr) == register


@pytest.mark.parametrize("pcr", [-1, 24, NO_REGISTER])
def test_what_is_no_pcr_maps_to_nothing(pcr):
    with pytest.raises(ValueError, match="no PCR"):
        pcr_to_measurement_register(pcr)


def test_mapping_is_asked_for_and_changes_the_kind():
    log = EventLog(LogFormat.TPM, RegisterKind.PCR, tuple(event(pcr) for pcr in (4, 9)))
    mapped = in_measurement_registers(log)
    assert (mapped.registers, [item.register for item in mapped.events]) == (RegisterKind.MR, [2, 3])
    assert in_measurement_registers(mapped) is mapped


def test_measurement_register_3_is_not_mapped_a_second_time():
    log = EventLog(LogFormat.CC, RegisterKind.MR, (event(3, RegisterKind.MR),))
    assert in_measurement_registers(log).events[0].register == 3


def test_a_vmm_log_has_no_pcrs():
    with pytest.raises(ValueError, match="RIM"):
        in_measurement_registers(EventLog(LogFormat.VMM, RegisterKind.RIM, ()))


def test_record_without_a_register_stays_unmeasured():
    log = EventLog(LogFormat.TPM, RegisterKind.PCR, (event(NO_REGISTER, measured=False),))
    assert in_measurement_registers(log).events[0].register == 0


@pytest.mark.parametrize(
    ("kind", "register"),
    [(RegisterKind.RIM, 1), (RegisterKind.PCR, 24), (RegisterKind.MR, 5), (RegisterKind.MR, NO_REGISTER), (RegisterKind.PCR, NO_REGISTER)],
)
def test_registers_that_do_not_exist(kind, register):
    with pytest.raises(ValueError, match="no register"):
        event(register, kind)
    with pytest.raises(MalformedEvidence) as caught:
        check_register(kind, register, 7)
    assert caught.value.finding_id == "log.index"
    assert "record 7" in caught.value.message


@pytest.mark.parametrize("digests", [{0xB: bytes(31)}, {0xC: bytes(32)}, {0x99: bytes(32)}])
def test_digests_that_do_not_exist(digests):
    with pytest.raises(ValueError, match="digest"):
        event(1, digests=digests)


def test_events_of_two_numberings_do_not_mix():
    with pytest.raises(ValueError, match="counts others"):
        EventLog(LogFormat.CC, RegisterKind.MR, (event(1, RegisterKind.PCR),))


def test_algorithms_are_those_of_measured_events():
    unmeasured = event(0, measured=False, digests={0x4: bytes(20)})
    log = EventLog(LogFormat.TPM, RegisterKind.PCR, (unmeasured, event(1, digests={0xC: bytes(48), 0xB: bytes(32)})))
    assert log.algorithms == (0xC, 0xB)
