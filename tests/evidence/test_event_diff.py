"""What differs between two boots: little if little changed, and never more work than allowed."""

import hashlib
import struct
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import SHA256, SHA384, ima_ng, ima_record, tcg_log

from kbs_rim.evidence.event_diff import Change, diff_logs, subject_of
from kbs_rim.evidence.event_log import EventLog, LogFormat, MeasuredEvent, OpaqueContent, RegisterKind, TcgContent, event_log_from_tcg
from kbs_rim.evidence.ima_log import parse_ima_log
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits

BOOTS = Path(__file__).parent.parent / "vectors" / "images" / "measured-boot"
IPL, TAG, BOOT, NO_ACTION = 0x0D, 0x06, 0x80000002, 0x03


def boot(name: str) -> EventLog:
    return event_log_from_tcg(parse_tcg_log((BOOTS / name / "log.bin").read_bytes(), LogKind.TPM))


def log(*events: tuple[int, int, bytes, bytes | None], algorithm: int = SHA256) -> EventLog:
    return event_log_from_tcg(parse_tcg_log(tcg_log(algorithm, *events), LogKind.TPM))


def commands(*texts: str, register: int = 8) -> EventLog:
    return log(*((register, IPL, f"grub_cmd: {text}\0".encode(), text.encode()) for text in texts))


def summary(changes) -> list[tuple[str, int | None, int | None]]:
    return [(item.change.value, item.before and item.before.number, item.after and item.after.number) for item in changes]


@pytest.mark.parametrize("name", sorted(path.name for path in BOOTS.iterdir() if path.is_dir()))
def test_a_boot_equals_itself(name):
    assert diff_logs(boot(name), boot(name)) == ()


def test_same_firmware_with_more_memory_changes_nothing():
    """Of this firmware the specification says that PCRs say nothing about the VM; addresses in the event data do differ."""
    one, two = boot("arm64-direct-edk2-2022.11"), boot("arm64-direct-edk2-2022.11-4cpu-2g")
    assert one.events != two.events
    assert diff_logs(one, two) == ()


def test_another_firmware_changes_its_version_its_volume_and_adds_acpi():
    changes = diff_logs(boot("arm64-direct-edk2-2022.11"), boot("arm64-direct-edk2-2025.02"))
    changed = {(item.register, item.before.type_name) for item in changes if item.change is Change.CHANGED}
    added = [(item.register, item.after.type_name) for item in changes if item.change is Change.ADDED]
    assert {(0, "EV_S_CRTM_VERSION"), (0, "EV_EFI_PLATFORM_FIRMWARE_BLOB")} <= changed
    assert added.count((1, "EV_PLATFORM_CONFIG_FLAGS")) == 4
    assert not [item for item in changes if item.register == 4]


def test_newer_firmware_turns_the_command_line_round():
    changes = diff_logs(boot("arm64-direct-edk2-2025.02"), boot("arm64-direct-edk2-2026.08"))
    in_9 = [item for item in changes if item.register == 9]
    assert [item.change for item in in_9] == [Change.CHANGED]
    assert in_9[0].before.content == in_9[0].after.content


def test_one_event_more():
    assert summary(diff_logs(commands("a", "b", "c"), commands("a", "b", "x", "c"))) == [("added", None, 2)]
    assert summary(diff_logs(commands("a", "b", "x", "c"), commands("a", "b", "c"))) == [("removed", 2, None)]


def test_one_event_changed():
    assert summary(diff_logs(commands("a", "b", "c"), commands("a", "x", "c"))) == [("changed", 1, 1)]


def test_another_register_is_another_place():
    assert summary(diff_logs(commands("a", register=8), commands("a", register=9))) == [("removed", 0, None), ("added", None, 0)]


def test_order_within_a_register_counts():
    assert len(diff_logs(commands("a", "b"), commands("b", "a"))) == 2


def test_order_between_registers_does_not():
    one = log((1, IPL, b"a\0", None), (2, IPL, b"b\0", None))
    two = log((2, IPL, b"b\0", None), (1, IPL, b"a\0", None))
    assert diff_logs(one, two) == ()


def test_data_that_are_not_measured_do_not_count():
    one = log((4, 0x80000003, struct.pack("<QQQQ", 0x1000, 1, 0, 0), b"pe"))
    two = log((4, 0x80000003, struct.pack("<QQQQ", 0x2000, 1, 0, 0), b"pe"))
    assert diff_logs(one, two) == ()


def test_relabelled_event_shows():
    one, two = log((4, 0x05, b"x", None)), log((4, IPL, b"x", None))
    assert summary(diff_logs(one, two)) == [("removed", 0, None), ("added", None, 0)]


def test_records_that_extend_nothing_are_compared_by_what_they_hold():
    def unmeasured(data: bytes) -> EventLog:
        event = MeasuredEvent(0, 0, RegisterKind.PCR, "EV_NO_ACTION", {}, TcgContent(NO_ACTION, data), measured=False)
        return EventLog(LogFormat.TPM, RegisterKind.PCR, (event,))

    assert diff_logs(unmeasured(b"a"), unmeasured(b"a")) == ()
    assert summary(diff_logs(unmeasured(b"a"), unmeasured(b"b"))) == [("changed", 0, 0)]


def variable(name: str, data: bytes) -> bytes:
    return struct.pack("<16sQQ", bytes(16), len(name), len(data)) + name.encode("utf-16-le") + data


def test_variables_are_paired_by_name():
    one = log(*((1, BOOT, variable(name, b"1"), b"1") for name in ("BootOrder", "Boot0000", "Boot0001")))
    two = log(*((1, BOOT, variable(name, b"2"), b"2") for name in ("Boot0001", "BootOrder")))
    assert summary(diff_logs(one, two)) == [("changed", 0, 1), ("removed", 1, None), ("changed", 2, 0)]


def test_files_of_ima_are_paired_by_path():
    one = parse_ima_log(b"".join(ima_record(b"ima-ng", ima_ng(path, b"1")) for path in (b"/a", b"/b")))
    two = parse_ima_log(b"".join(ima_record(b"ima-ng", ima_ng(path, b"2")) for path in (b"/b", b"/c")))
    assert summary(diff_logs(one, two)) == [("removed", 0, None), ("changed", 1, 0), ("added", None, 1)]


def test_logs_of_two_numberings_are_not_compared():
    other = EventLog(LogFormat.CC, RegisterKind.MR, ())
    with pytest.raises(ValueError, match="the other mr"):
        diff_logs(commands("a"), other)


def test_logs_without_a_common_algorithm_are_not_compared():
    with pytest.raises(ValueError, match="no hash algorithm in common"):
        diff_logs(commands("a"), log((8, IPL, b"a\0", None), algorithm=SHA384))


def test_an_empty_log_may_be_compared():
    empty = EventLog(LogFormat.TPM, RegisterKind.PCR, ())
    assert [item.change for item in diff_logs(empty, commands("a", "b"))] == [Change.ADDED, Change.ADDED]
    assert diff_logs(empty, empty) == ()


def test_subject_of_malformed_data_is_its_type():
    assert subject_of(log((8, TAG, b"\1", None)).events[0]) == ("EV_EVENT_TAG", None)


def test_more_changes_than_allowed_are_given_up():
    one, two = (
        commands("0", *(f"a{number}" for number in range(30)), "m", "9"),
        commands("0", *(f"b{number}" for number in range(30)), "m", "9"),
    )
    assert len(diff_logs(one, two, Limits(log_changes=60))) == 30
    changes = diff_logs(commands("0", "x", "m", "y", "9"), commands("0", "z", "m", "w", "9"), Limits(log_changes=3))
    assert summary(changes) == [("changed", 1, 1), ("changed", 2, 2), ("changed", 3, 3)]


def test_two_long_hostile_logs_cost_little():
    """8192 events each, alternating in opposite phase: the worst case for a search without a bound."""

    def hostile(first: int) -> EventLog:
        digests = [{SHA256: hashlib.sha256(bytes([kind])).digest()} for kind in range(3)]
        events = tuple(
            MeasuredEvent(number, 8, RegisterKind.PCR, "EV_IPL", digests[(number * first) % 3], TcgContent(IPL, b"x"), measured=True)
            for number in range(8192)
        )
        return EventLog(LogFormat.TPM, RegisterKind.PCR, events)

    changes = diff_logs(hostile(1), hostile(2), Limits(log_changes=200))
    assert 0 < len(changes) <= 3 * 8192


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_a_difference_is_complete_and_shortest(one, two):
    """Removing what was removed and adding what was added turns one into the other, and no fewer changes would."""
    changes = diff_logs(commands(*one), commands(*two))
    removed = {item.before.number for item in changes if item.before}
    added = {item.after.number for item in changes if item.after}
    kept_old = [text for number, text in enumerate(one) if number not in removed]
    kept_new = [text for number, text in enumerate(two) if number not in added]
    assert kept_old == kept_new
    assert len(kept_old) == longest_common(one, two)
    assert len(kept_old) >= sum(block.size for block in SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks())


def longest_common(one: list[str], two: list[str]) -> int:
    row = [0] * (len(two) + 1)
    for left in one:
        above = row
        row = [0]
        for position, right in enumerate(two):
            row.append(above[position] + 1 if left == right else max(above[position + 1], row[position]))
    return row[-1]


@pytest.mark.parametrize(
    ("event_type", "one", "two"),
    [
        (0x80000003, struct.pack("<QQQQ", 0, 1, 0, 12) + struct.pack("<BBH", 4, 4, 8) + b"a\0\0\0" + b"\x7f\xff\4\0", b""),
        (TAG, struct.pack("<II", 0x8F3B22EC, 0), struct.pack("<II", 0x8F3B22ED, 0)),
    ],
    ids=["image", "tag"],
)
def test_images_and_tags_are_paired_by_what_they_name(event_type, one, two):
    two = two or one.replace(b"a\0", b"b\0")
    assert summary(diff_logs(log((4, event_type, one, b"1")), log((4, event_type, one, b"2")))) == [("changed", 0, 0)]
    assert summary(diff_logs(log((4, event_type, one, b"1")), log((4, event_type, two, b"2")))) == [
        ("removed", 0, None),
        ("added", None, 0),
    ]


def test_contents_of_a_cel_are_paired_by_type():
    def vendor(data: bytes) -> EventLog:
        event = MeasuredEvent(0, 4, RegisterKind.PCR, "content type 80", {SHA256: data * 32}, OpaqueContent(80, data), measured=True)
        return EventLog(LogFormat.CEL_TLV, RegisterKind.PCR, (event,))

    assert summary(diff_logs(vendor(b"1"), vendor(b"2"))) == [("changed", 0, 0)]


def test_of_a_vmm_log_the_records_themselves_are_compared():
    """The RMM measures what the records say; most of them have no digest."""
    from stage import Stage

    from kbs_rim.evidence.event_log import event_log_from_tcg
    from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
    from kbs_rim.realm.lies import Lie
    from kbs_rim.realm.simulator import SimulatedRealm

    stage = Stage()
    logs = [SimulatedRealm(stage.simulation(**told)).log for told in ({}, {}, {"lie": Lie.PC_OFF_ENTRY})]
    first, same, moved = (event_log_from_tcg(parse_tcg_log(log, LogKind.VMM)) for log in logs)
    assert diff_logs(first, same) == ()
    (change,) = diff_logs(first, moved)
    assert (change.change, change.register) == (Change.CHANGED, 0)
