"""The logs that explain REMs, read once for all workloads of an appraisal, each event with the bytes that were hashed.

Reading is step 4 of the appraisal for these logs; what they say is step 8. A log that cannot be read becomes a finding of the workloads
that need it, and only of those.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.runtime_workload import LogRule, PcrMapping, RuntimeRules
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.event_log import EventLog, LogFormat, MeasuredEvent, RegisterKind, in_measurement_registers
from kbs_rim.evidence.event_preimage import preimage_of
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, in_bank
from kbs_rim.evidence.log_label import LogLabel
from kbs_rim.evidence.log_reader import read_event_log
from kbs_rim.limits import Limits

_REM0_REGISTER = 1
MOST_LOOKED_UP: Final = 1024
"""Digests that one appraisal looks up in the registry for REMs; a boot with many modules of GRUB has 200."""


@dataclass(frozen=True, slots=True)
class RuntimeLog:
    """One log as it came, and read; ``log`` is None and ``problem`` says why if it could not be."""

    label: LogLabel
    log: EventLog | None
    problem: Finding | None = None


@dataclass(frozen=True, slots=True)
class RuntimeLogs:
    """The logs that some workload of the appraisal asks for; ``unread`` are the labels of those that none does."""

    logs: tuple[RuntimeLog, ...] = ()
    unread: tuple[LogLabel, ...] = ()

    def of(self, log_format: LogFormat) -> RuntimeLog | None:
        """Return the log of a format, if it came and somebody asked for it."""
        return next((log for log in self.logs if log.label.format is log_format), None)

    def labels(self) -> tuple[LogLabel, ...]:
        """Return the labels of all logs beside the VMM's, in the order of formats."""
        return tuple(sorted((*(log.label for log in self.logs), *self.unread), key=lambda label: label.place))


NO_RUNTIME_LOGS = RuntimeLogs()


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One measured event of a log that explains REMs. ``hashed`` is what the digest is the hash of, None if the log does not hold it."""

    label: LogLabel
    rem: int
    event: MeasuredEvent
    digest: bytes = field(repr=False)
    hashed: bytes | None = field(default=None, repr=False)

    @property
    def where(self) -> dict[str, str | int]:
        """Location for a finding."""
        return {"log": self.label.value, "event": self.event.number, "rem": self.rem, "type": self.event.type_name}


def read_runtime_logs(evidence: Evidence, rules: Iterable[RuntimeRules], limits: Limits) -> RuntimeLogs:
    """Read the logs that at least one of ``rules`` names, within ``limits.runtime_events`` events for all of them together."""
    wanted = {rule.kind for table in rules for rule in table.logs}
    read: list[RuntimeLog] = []
    unread: list[LogLabel] = []
    left = limits.runtime_events
    for label, data in evidence.logs:
        if label.format is LogFormat.VMM:
            continue
        if label.format not in wanted:
            unread.append(label)
            continue
        found = _read(label, data, replace(limits, log_events=min(limits.log_events, left)) if left else None)
        read.append(found)
        left -= len(found.log.events) if found.log else 0
    return RuntimeLogs(tuple(read), tuple(unread))


def _read(label: LogLabel, data: bytes, limits: Limits | None) -> RuntimeLog:
    if limits is None:
        return RuntimeLog(label, None, Finding("log.events", "the logs have too many records together", where={"log": label.value}))
    try:
        return RuntimeLog(label, read_event_log(data, label.format, limits, registers=label.registers))
    except MalformedEvidence as error:
        return RuntimeLog(label, None, Finding.from_error(error, log=label.value))


def digests_to_look_up(
    logs: RuntimeLogs, algorithm: HashAlgorithm, named: Collection[bytes] = frozenset()
) -> tuple[tuple[HashAlgorithm, bytes], ...]:
    """Return the digests that only the registry can explain, each once: those of events that do not hold what was hashed.

    Of ``named``, which workloads let in whatever they are of, all that were measured come first: a log that holds the bytes of a revoked
    image shall not hide it. Anybody can send a log of thousands: no more than ``MOST_LOOKED_UP`` are asked for, and the rest is unknown.
    """
    identifier = algorithm.tpm_id
    events = [event for log in logs.logs if log.log for event in log.log.events if event.measured and identifier in event.digests]
    first = {event.digests[identifier] for event in events}.intersection(named)
    wanted = (event.digests[identifier] for event in events if preimage_of(event, algorithm) is None)
    found = dict.fromkeys(sorted(first)[:MOST_LOOKED_UP])
    for digest in wanted:
        if len(found) >= MOST_LOOKED_UP:
            break
        found[digest] = None
    return tuple((algorithm, digest) for digest in found)


def in_rems(log: EventLog, rule: LogRule) -> EventLog | None:
    """Return the log with its events in measurement registers, as the workload says they went; None if it does not say so."""
    if log.registers is RegisterKind.MR:
        return log
    if rule.pcr_mapping is PcrMapping.REFUSE:
        return None
    mapped = in_measurement_registers(log)
    if rule.pcr_mapping is PcrMapping.UEFI:
        return mapped
    return replace(mapped, events=tuple(_out_of_the_rim(event) for event in mapped.events))


def _out_of_the_rim(event: MeasuredEvent) -> MeasuredEvent:
    return replace(event, register=_REM0_REGISTER) if event.measured and event.register == 0 else event


class EventReader:
    """Turns logs into events for one realm's algorithm. What was hashed is found once for all workloads of an appraisal."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self.algorithm = algorithm
        self._hashed: dict[tuple[LogLabel, int, bytes], bytes | None] = {}

    def events(self, log: EventLog, label: LogLabel, rems: Collection[int], bank: ImaBank | None = None) -> list[LoggedEvent]:
        """Return the measured events of a log of measurement registers that went into one of ``rems``.

        ``bank`` is how Linux filled up digests of an IMA list that lacks the realm's algorithm. Every event has a digest in that
        algorithm: whoever calls has replayed the log.
        """
        if bank is not None and log.format is LogFormat.IMA:
            log = in_bank(log, self.algorithm, bank)
        return [self._logged(event, label) for event in log.events if event.measured and event.register - 1 in rems]

    def _logged(self, event: MeasuredEvent, label: LogLabel) -> LoggedEvent:
        digest = event.digests[self.algorithm.tpm_id]
        key = (label, event.number, digest)
        if key not in self._hashed:
            self._hashed[key] = preimage_of(event, self.algorithm)
        return LoggedEvent(label, event.register - 1, event, digest, self._hashed[key])
