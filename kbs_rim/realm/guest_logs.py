"""The logs that a guest sends: the firmware's, which ACPI points to, and those of Linux and its agents, from files.

Logs are neither secret nor trusted, so nothing here judges them; but a file that is missing is explained, an area that belongs to another
kind of machine is not sent as ours, and what fills the firmware's area behind its log stays here (UEFI 2.11 section 38.4.1).
"""

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.ccel import CC_TYPE_ARM_CCA, CCEL_TABLE_SIZE, CcelTable, parse_ccel_table
from kbs_rim.evidence.event_log import LogFormat
from kbs_rim.evidence.log_label import LogLabel, label_of, parse_label
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS, MIB, Limits
from kbs_rim.realm.failures import EvidenceUnavailable

CCEL_DATA = Path("/sys/firmware/acpi/tables/data/CCEL")
CCEL_TABLE = Path("/sys/firmware/acpi/tables/CCEL")
USUAL_PLACES: Mapping[LogLabel, Path] = {
    parse_label("ima"): Path("/sys/kernel/security/ima/binary_runtime_measurements"),
    parse_label("aael"): Path("/run/attestation-agent/eventlog"),
}
"""Where Linux's IMA and the attestation agent of Confidential Containers keep their logs."""
_MISSING = {
    LogFormat.VMM: "the VMM's log must be brought there by another channel: Linux has no interface to it",
    LogFormat.IMA: "securityfs is not mounted, or the kernel runs without IMA",
    LogFormat.AAEL: "the attestation agent has not written it, or it runs without an event log",
    LogFormat.CC: "ACPI has no CCEL, or the kernel does not show the data of its tables",
}
_AREA_BYTES = 16 * MIB
"""Most of a log area that is read: firmware reserves far more than it fills."""
_CC = label_of(LogFormat.CC)


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestLogs:
    """Where the logs of this guest are. ``files`` are named ones; a kind that is named is not looked for.

    ``ccel`` and ``table`` are the firmware's area and the ACPI table about it; in their usual place they may be missing. ``ccel`` None:
    they are not looked for. ``say`` takes what an administrator may want to read on the console.
    """

    files: Mapping[LogLabel, Path] = field(default_factory=dict)
    ccel: Path | None = CCEL_DATA
    table: Path = CCEL_TABLE
    say: Callable[[str], None] = _silent
    limits: Limits = DEFAULT_LIMITS

    def read(self) -> tuple[tuple[LogLabel, bytes], ...]:
        """Return all logs there are, each with its label. Raises ``EvidenceUnavailable`` for one that was named and cannot be had."""
        logs = [(label, self._named(label, path)) for label, path in self.files.items()]
        if _CC not in self.files and (area := self._firmware_log()) is not None:
            logs.append((_CC, area))
        return tuple(logs)

    def _named(self, label: LogLabel, path: Path) -> bytes:
        try:
            data = read_bounded(path, f"the {label} log", _AREA_BYTES if label == _CC else self.limits.log_bytes)
        except OSError as error:
            raise EvidenceUnavailable(_explained(label, path, error)) from None
        return self._trimmed(path, data) if label == _CC else data

    def _firmware_log(self) -> bytes | None:
        """Return what the firmware logged; None if it has no log, which is no error: most realms boot without firmware."""
        if self.ccel is None:
            return None
        table = self._table()
        try:
            area = read_bounded(self.ccel, "the firmware's log area", _AREA_BYTES)
        except FileNotFoundError as error:
            if self.ccel != CCEL_DATA:
                raise EvidenceUnavailable(_explained(_CC, self.ccel, error)) from None
            if table is not None:
                self.say(f"ACPI has a CCEL table, but {self.ccel} is missing: {_MISSING[LogFormat.CC]}; no firmware's log is sent")
            return None
        except OSError as error:
            raise EvidenceUnavailable(_explained(_CC, self.ccel, error)) from None
        if table is not None and len(area) > table.area_bytes:
            raise EvidenceUnavailable(f"{self.ccel}: the log area is larger than its table says ({table.area_bytes} bytes)")
        return self._trimmed(self.ccel, area)

    def _table(self) -> CcelTable | None:
        """Return the ACPI table, checked; None if this system shows none."""
        try:
            with self.table.open("rb") as file:
                data = file.read(CCEL_TABLE_SIZE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EvidenceUnavailable(_explained(_CC, self.table, error)) from None
        try:
            table = parse_ccel_table(data)
        except MalformedEvidence as error:
            raise EvidenceUnavailable(f"{self.table}: {error.message}") from None
        if table.cc_type != CC_TYPE_ARM_CCA:
            raise EvidenceUnavailable(f"{self.table} is of {table.cc_type_name}, not of Arm CCA: this is no log of a realm")
        return table

    def _trimmed(self, path: Path, area: bytes) -> bytes:
        """Return the log without the padding of its area. A log that cannot be read goes as it is: the broker says what is wrong."""
        used = len(area)
        with suppress(MalformedEvidence):
            used = parse_tcg_log(area, LogKind.CC, replace(self.limits, log_bytes=_AREA_BYTES)).used_bytes
        if used > self.limits.log_bytes:
            raise EvidenceUnavailable(f"{path}: the firmware's log has {used} bytes, a broker takes {self.limits.log_bytes}")
        return area[:used]


def read_bounded(path: Path, what: str, most: int) -> bytes:
    """Read a file that may tell no size beforehand, as those of sysfs; raise ``OSError``, ``EvidenceUnavailable`` if empty or larger."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if not data:
        raise EvidenceUnavailable(f"{path}: {what} is empty")
    if len(data) > most:
        raise EvidenceUnavailable(f"{path}: {what} has more than {most} bytes")
    return data


def _explained(label: LogLabel, path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {path}: {_MISSING.get(label.format, f'the {label} log was named, so it must be there')}"
    if isinstance(error, PermissionError):
        return f"{path} is for root only"
    return f"{path} cannot be read ({errno.errorcode.get(error.errno or 0, 'unknown')})"
