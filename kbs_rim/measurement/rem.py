"""Extending a realm extensible measurement as the RMM does it, and replaying the logs of a realm into its four registers."""

from collections.abc import Iterable
from dataclasses import dataclass

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import EventLog, LogFormat, MeasuredEvent, RegisterKind
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, in_bank
from kbs_rim.evidence.tcg_names import TPM_ALG_SHA1

MAX_EXTENSION_SIZE = 64
"""RSI_MEASUREMENT_EXTEND takes at most this many bytes."""
REMS = 4
RemValues = tuple[bytes, bytes, bytes, bytes]


def extend_rem(algorithm: HashAlgorithm, old: bytes, value: bytes) -> bytes:
    """Return REM' = H(REM || value) (RMM 1.0, RSI_MEASUREMENT_EXTEND).

    ``old`` is the register at the length of the realm's hash, all zeros at first; ``value`` is 0 to 64 bytes, hashed at its
    exact size without padding. Raises ``ValueError`` for other lengths.
    """
    if len(old) != algorithm.digest_size:
        raise ValueError(f"a {algorithm.value} register has {algorithm.digest_size} bytes, not {len(old)}")
    if len(value) > MAX_EXTENSION_SIZE:
        raise ValueError(f"a register is extended with at most {MAX_EXTENSION_SIZE} bytes, not {len(value)}")
    return algorithm.digest(old + value)


@dataclass(frozen=True, slots=True)
class RemReplay:
    """What logs replay to: REM0 to REM3, and how many events went into each. ``ima`` is what kind of bank IMA was taken to extend,
    None if no log leaves that open.
    """

    values: RemValues
    events: tuple[int, int, int, int]
    ima: ImaBank | None = None


def replay_rems(logs: EventLog | Iterable[EventLog], algorithm: HashAlgorithm) -> RemValues:
    """Return REM0 to REM3 after all measured events of ``logs``, in order, firmware's log first.

    Every log must count measurement registers; one of PCRs is converted by whoever knows that this is right
    (``event_log.in_measurement_registers``). Raises ``MalformedEvidence("rem.algorithm")`` for a measured event without a digest
    in the realm's ``algorithm``, ``MalformedEvidence("rem.register")`` for one that would extend the RIM, and ``ValueError`` for a
    log that counts something else.
    """
    return _replay(_listed(logs), algorithm, None).values


def rem_candidates(logs: EventLog | Iterable[EventLog], algorithm: HashAlgorithm) -> tuple[RemReplay, ...]:
    """Return what ``logs`` may replay to: one answer, or two if an IMA list has SHA-1 digests only.

    Kernels differ in what they then extend into another bank, and the list does not tell; so
    both are tried, all lists of one realm alike. Raises as ``replay_rems`` does.
    """
    given = _listed(logs)
    open_lists = [log for log in given if log.format is LogFormat.IMA and any(_lacks(event, algorithm) for event in log.events)]
    if not open_lists:
        return (_replay(given, algorithm, None),)
    padded = all(TPM_ALG_SHA1 in event.digests for log in open_lists for event in log.events)
    banks = (ImaBank.HASHED, ImaBank.PADDED) if padded else (ImaBank.HASHED,)
    return tuple(
        _replay([in_bank(log, algorithm, bank) if log.format is LogFormat.IMA else log for log in given], algorithm, bank) for bank in banks
    )


def _listed(logs: EventLog | Iterable[EventLog]) -> list[EventLog]:
    return [logs] if isinstance(logs, EventLog) else list(logs)


def _lacks(event: MeasuredEvent, algorithm: HashAlgorithm) -> bool:
    return event.measured and algorithm.tpm_id not in event.digests


def _replay(logs: list[EventLog], algorithm: HashAlgorithm, ima: ImaBank | None) -> RemReplay:
    values = [bytes(algorithm.digest_size)] * REMS
    counts = [0] * REMS
    for log in logs:
        if log.registers is not RegisterKind.MR:
            raise ValueError(f"a log of {log.registers} registers says nothing about REMs")
        for event in log.events:
            if not event.measured:
                continue
            rem = _rem_of(event, log)
            if _lacks(event, algorithm):
                what = f"event {event.number} of the {log.format} log, {event.type_name}, has no {algorithm.value} digest"
                raise MalformedEvidence("rem.algorithm", what, expected=algorithm.value)
            values[rem] = extend_rem(algorithm, values[rem], event.digests[algorithm.tpm_id])
            counts[rem] += 1
    return RemReplay((values[0], values[1], values[2], values[3]), (counts[0], counts[1], counts[2], counts[3]), ima)


def _rem_of(event: MeasuredEvent, log: EventLog) -> int:
    """Measurement register 1 is REM0. Register 0 is the RIM, which only the RMM extends."""
    if event.register == 0:
        what = f"event {event.number} of the {log.format} log, {event.type_name}, is measured into the RIM"
        raise MalformedEvidence("rem.register", what, expected="1 to 4", seen="0")
    return event.register - 1
