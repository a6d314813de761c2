"""Lies about a measured boot: another disk, or a log that hides one.

REMs cannot be taken back, so whoever booted something else can only hope for the log: it comes from him. Each lie about the log takes what
was truly measured and what an honest boot would have measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from kbs_rim.realm.cc_log import cc_area, cc_log, cc_record
from kbs_rim.realm.firmware_boot import Disk, Measured
from kbs_rim.realm.rim_model import RealmHash

Events = tuple[Measured, ...]
_EV_EFI_ACTION = 0x80000007
_PCR_OF = {1: 7, 2: 4, 3: 9, 4: 17}
"""A PCR of each measurement register."""
_GAP = 4096


class BootLie(StrEnum):
    """Names of the lies, as on the command line."""

    DISK_PROGRAM = "disk-program"
    DISK_INITRD = "disk-initrd"
    DISK_COMMAND_LINE = "disk-command-line"
    LOG_RELABELLED = "cc-log-relabelled"
    LOG_DROPPED = "cc-log-dropped"
    LOG_CLAIMED = "cc-log-claimed"
    LOG_REORDERED = "cc-log-reordered"
    LOG_IN_PCRS = "cc-log-in-pcrs"
    LOG_TRUNCATED = "cc-log-truncated"
    LOG_BEHIND_PADDING = "cc-log-behind-padding"
    LOG_WITHHELD = "cc-log-withheld"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDistortion:
    """One lie: what lies on the disk in truth, and the log area that is sent, None for none."""

    about: str
    findings: frozenset[str]
    disk: Callable[[Disk], Disk] = lambda disk: disk
    log: Callable[[Events, Events, RealmHash], bytes | None] = lambda true, _, hash_: cc_area(cc_log(true, hash_))


# --- the disk ---------------------------------------------------------------------------------------------------------


def _flipped(data: bytes) -> bytes:
    """Change a byte in the middle, where no header is."""
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 0xFF,)) + data[middle + 1 :]


def _other_program(disk: Disk) -> Disk:
    if disk.uki is not None:
        return replace(disk, uki=_flipped(disk.uki))
    if disk.grub is not None:
        return replace(disk, grub=_flipped(disk.grub))
    return replace(disk, kernel=_flipped(disk.kernel or b""))


def _other_initrd(disk: Disk) -> Disk:
    return _other_program(disk) if disk.initrd is None else replace(disk, initrd=_flipped(disk.initrd))


def _other_command_line(disk: Disk) -> Disk:
    return _other_program(disk) if disk.uki is not None else replace(disk, append=f"{disk.append} init=/bin/sh".strip())


# --- the log ----------------------------------------------------------------------------------------------------------


def _hidden(true: Sequence[Measured], honest: Sequence[Measured]) -> list[int]:
    """Return where the digests differ: what must be hidden."""
    return [place for place, (one, two) in enumerate(zip(true, honest, strict=True)) if one.digest != two.digest]


def _relabelled(true: Events, honest: Events, hash_: RealmHash) -> bytes:
    hidden, action = _hidden(true, honest), b"Exit Boot Services Invocation"
    told = (replace(item, event_type=_EV_EFI_ACTION, event=action) if place in hidden else item for place, item in enumerate(true))
    return cc_area(cc_log(tuple(told), hash_))


def _dropped(true: Events, honest: Events, hash_: RealmHash) -> bytes:
    hidden = _hidden(true, honest)
    return cc_area(cc_log([item for place, item in enumerate(true) if place not in hidden], hash_))


def _claimed(_: Events, honest: Events, hash_: RealmHash) -> bytes:
    return cc_area(cc_log(honest, hash_))


def _reordered(true: Events, _: Events, hash_: RealmHash) -> bytes:
    """Swap the first two neighbours of one register, which changes no event and every register behind it."""
    events = list(true)
    place = next(at for at in range(len(events) - 1) if events[at].register == events[at + 1].register)
    events[place], events[place + 1] = events[place + 1], events[place]
    return cc_area(cc_log(events, hash_))


def _in_pcrs(true: Events, _: Events, hash_: RealmHash) -> bytes:
    return cc_area(cc_log([replace(item, register=_PCR_OF[item.register]) for item in true], hash_))


def _truncated(true: Events, _: Events, hash_: RealmHash) -> bytes:
    return cc_log(true, hash_)[:-5]


def _behind_padding(true: Events, _: Events, hash_: RealmHash) -> bytes:
    return cc_area(cc_log(true[:-1], hash_) + b"\xff" * _GAP + cc_record(true[-1], hash_))


def _withheld(_: Events, __: Events, ___: RealmHash) -> None:
    return None


_REPLAYED_WRONG = frozenset({"rem.replay"})

BOOT_LIES: Mapping[BootLie, BootDistortion] = MappingProxyType({
    BootLie.DISK_PROGRAM: BootDistortion(
        about="One byte of the program that the firmware starts is changed; the log says so.",
        findings=frozenset({"rem.event-unknown"}),
        disk=_other_program,
    ),
    BootLie.DISK_INITRD: BootDistortion(
        about="One byte of the initrd on the disk (or of the UKI) is changed; the log says so.",
        findings=frozenset({"rem.event-unknown"}),
        disk=_other_initrd,
    ),
    BootLie.DISK_COMMAND_LINE: BootDistortion(
        about="The host's disk gives the kernel init=/bin/sh (or a changed UKI); the log says so.",
        findings=frozenset({"rem.event-unknown", "rem.command-line", "rem.event-refused"}),
        disk=_other_command_line,
    ),
    BootLie.LOG_RELABELLED: BootDistortion(
        about="Another program was started; the log gives its digest the label and text of a harmless action.",
        findings=frozenset({"rem.event-unknown"}),
        disk=_other_program,
        log=_relabelled,
    ),
    BootLie.LOG_DROPPED: BootDistortion(
        about="Another program was started; the log leaves it out.", findings=_REPLAYED_WRONG, disk=_other_program, log=_dropped
    ),
    BootLie.LOG_CLAIMED: BootDistortion(
        about="Another program was started; the log is that of the trusted boot.",
        findings=_REPLAYED_WRONG,
        disk=_other_program,
        log=_claimed,
    ),
    BootLie.LOG_REORDERED: BootDistortion(
        about="Two events of the firmware's log have changed places.", findings=_REPLAYED_WRONG, log=_reordered
    ),
    BootLie.LOG_IN_PCRS: BootDistortion(
        about="The firmware's log has PCR numbers in place of measurement registers.", findings=frozenset({"log.index"}), log=_in_pcrs
    ),
    BootLie.LOG_TRUNCATED: BootDistortion(
        about="The firmware's log ends inside a record.", findings=frozenset({"log.truncated"}), log=_truncated
    ),
    BootLie.LOG_BEHIND_PADDING: BootDistortion(
        about="The last record stands behind the padding, where careless readers stop.",
        findings=frozenset({"log.padding"}),
        log=_behind_padding,
    ),
    BootLie.LOG_WITHHELD: BootDistortion(
        about="The firmware's log is not sent.", findings=frozenset({"rem.log-missing"}), log=_withheld
    ),
})  # fmt: skip
"""Every lie about a measured boot, complete: a lie without an entry is a defect that a test finds."""
