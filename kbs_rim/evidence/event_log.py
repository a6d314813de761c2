"""One neutral form for every kind of event log: what extended which register, whatever the format said it in.

See docs/logs.md. A register number means nothing without what it counts: 3 is a PCR that
belongs to REM1, or the measurement register that is REM2. So every log and every event says which of the two it counts, no
reader guesses, and only ``in_measurement_registers`` converts. Nothing here is believed: digests extend registers; types,
numbers of records and contents are claims.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.tcg_log import LogKind, TcgEvent, TcgLog, replay_registers
from kbs_rim.evidence.tcg_names import EV_NO_ACTION, EVENT_TYPES, TPM_ALGORITHMS

NO_REGISTER: Final = 0xFFFFFFFF
"""What some firmware writes for records that extend nothing."""


class LogFormat(StrEnum):
    """Every kind of log that is read. The first three are the values of ``LogKind``."""

    VMM = "vmm"
    TPM = "tpm"
    CC = "cc"
    CEL_TLV = "cel-tlv"
    CEL_CBOR = "cel-cbor"
    CEL_JSON = "cel-json"
    IMA = "ima"
    AAEL = "aael"


class RegisterKind(StrEnum):
    """What a register number counts: the RIM (VMM logs, 0 only), TPM PCRs 0 to 23, or measurement registers 0 to 4."""

    RIM = "rim"
    PCR = "pcr"
    MR = "mr"


_MOST: Mapping[RegisterKind, int] = {RegisterKind.RIM: 0, RegisterKind.PCR: 23, RegisterKind.MR: 4}
REGISTERS_OF: Final[Mapping[LogKind, RegisterKind]] = MappingProxyType({
    LogKind.VMM: RegisterKind.RIM,
    LogKind.TPM: RegisterKind.PCR,
    LogKind.CC: RegisterKind.MR,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class TcgContent:
    """Event type and event data of the PC Client profile, from a TCG2 log or a CEL record ``pcclient_std``."""

    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ImaTemplate:
    """One entry of Linux's IMA: the template's name and its data as the log has it.

    ``violation`` is true if the logged template digest was all zeros: IMA then extends ones instead.
    """

    name: str
    data: bytes
    violation: bool = False


class Management(IntEnum):
    """CEL management events (type 4). The first two are not measured."""

    CEL_VERSION = 1
    FIRMWARE_END = 2
    CEL_TIMESTAMP = 80
    STATE_TRANS = 81

    @property
    def measured(self) -> bool:
        """Whether such a record extends its register."""
        return self in (Management.CEL_TIMESTAMP, Management.STATE_TRANS)


@dataclass(frozen=True, slots=True)
class CelManagement:
    """A CEL management record. ``values``: (major, minor), (), (timestamp,) or (0 suspend, 1 hibernate, 2 kexec)."""

    type: Management
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OpaqueContent:
    """A CEL record of a content type whose inside is not read, such as ``systemd`` (9) or a vendor's own (80, Google)."""

    type: int
    data: bytes


Content: TypeAlias = TcgContent | ImaTemplate | CelManagement | OpaqueContent


@dataclass(frozen=True, slots=True)
class MeasuredEvent:
    """One record. ``digests`` maps TPM_ALG_ID to what extended ``register``; they count for nothing unless ``measured``.

    ``number`` is the position in the log from 0, and what findings call the event. Raises ``ValueError`` for a register or a
    digest that cannot be.
    """

    number: int
    register: int
    register_kind: RegisterKind
    type_name: str
    digests: Mapping[int, bytes]
    content: Content
    measured: bool

    def __post_init__(self) -> None:
        beyond = self.register == NO_REGISTER and not self.measured and self.register_kind is RegisterKind.PCR
        if self.number < 0 or not (0 <= self.register <= _MOST[self.register_kind] or beyond):
            raise ValueError(f"event {self.number} has no register {self.register_kind} {self.register}")
        for identifier, digest in self.digests.items():
            if identifier not in TPM_ALGORITHMS or len(digest) != TPM_ALGORITHMS[identifier].digest_size:
                raise ValueError(f"event {self.number} has a digest of {len(digest)} bytes for algorithm {identifier:#06x}")


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log of one kind, counting one kind of register. Raises ``ValueError`` if an event counts another."""

    format: LogFormat
    registers: RegisterKind
    events: tuple[MeasuredEvent, ...]

    def __post_init__(self) -> None:
        if any(event.register_kind is not self.registers for event in self.events):
            raise ValueError(f"an event of a log of {self.registers} registers counts others")

    @property
    def algorithms(self) -> tuple[int, ...]:
        """TPM_ALG_IDs that measured events have, in order of appearance."""
        return tuple(dict.fromkeys(identifier for event in self.events if event.measured for identifier in event.digests))


def check_register(kind: RegisterKind, register: int, number: int) -> None:
    """Raise ``MalformedEvidence("log.index")`` unless ``register`` is one that a log of this kind may name."""
    if not 0 <= register <= _MOST[kind]:
        raise MalformedEvidence(
            "log.index",
            f"record {number} has a register index that a log of {kind} registers may not use",
            expected=f"0 to {_MOST[kind]}",
            seen=str(register),
        )


def event_type_name(event_type: int) -> str:
    """Return the specification's name of a TCG event type, or its number in hex."""
    return EVENT_TYPES.get(event_type, f"{event_type:#010x}")


def event_log_from_tcg(log: TcgLog) -> EventLog:
    """Return a parsed TCG2 log in the neutral form; its kind says what its indices count."""
    registers = REGISTERS_OF[log.kind]
    events = tuple(
        MeasuredEvent(
            event.number, event.index, registers, event.type_name, event.digests, TcgContent(event.type, event.data), event.measured
        )
        for event in log.events
    )
    return EventLog(LogFormat(log.kind.value), registers, events)


def pcr_to_measurement_register(pcr: int) -> int:
    """Return the CC measurement register that a PCR's events go to (UEFI 2.11 section 38; section 3.1 of the notes).

    0 is the RIM, 1 to 4 are REM0 to REM3. UEFI maps no PCR above 15; that 16 to 23 are REM3 is the choice of Confidential
    Containers and of the reference tool. Raises ``ValueError`` for what is no PCR.
    """
    if not 0 <= pcr <= _MOST[RegisterKind.PCR]:
        raise ValueError(f"there is no PCR {pcr}")
    if pcr == 0:
        return 0
    if pcr in (1, 7):
        return 1
    if pcr < 7:
        return 2
    return 3 if pcr <= 15 else 4


def in_measurement_registers(log: EventLog) -> EventLog:
    """Return ``log`` with its PCRs mapped to measurement registers. This is a statement about the log's writer, so the caller makes
    it by calling: a log that counts measurement registers already comes back as it is. Raises ``ValueError`` for a VMM log.
    """
    if log.registers is RegisterKind.RIM:
        raise ValueError("a VMM log explains the RIM and has no PCRs to map")
    if log.registers is RegisterKind.MR:
        return log
    events = tuple(
        replace(
            event,
            register=0 if event.register == NO_REGISTER else pcr_to_measurement_register(event.register),
            register_kind=RegisterKind.MR,
        )
        for event in log.events
    )
    return EventLog(log.format, RegisterKind.MR, events)


def as_tcg_events(log: EventLog) -> TcgLog:
    """Return the events in the form of a TCG2 log, for what is written for those. What is no TCG content keeps its digests only."""
    events = tuple(as_tcg_event(event) for event in log.events)
    sizes = {identifier: TPM_ALGORITHMS[identifier].digest_size for identifier in log.algorithms}
    return TcgLog(_KIND_OF[log.registers], sizes, events, 0, None, None)


def as_tcg_event(event: MeasuredEvent) -> TcgEvent:
    """Return one event as a TCG2 record. Its offset in the file is not known any more and is 0."""
    if isinstance(event.content, TcgContent):
        event_type, data = event.content.type, event.content.data
    else:
        event_type, data = (_NO_TCG_TYPE if event.measured else EV_NO_ACTION), b""
    return TcgEvent(event.number, 0, event.register, event_type, event.digests, data)


_KIND_OF: Mapping[RegisterKind, LogKind] = {kind: log_kind for log_kind, kind in REGISTERS_OF.items()}
_NO_TCG_TYPE: Final = 0x02
"""EV_UNUSED: counts as measured and decodes as nothing."""


def replay_event_log(log: EventLog) -> dict[str, dict[int, bytes]]:
    """Return every extended register of every bank, as ``tcg_log.replay_registers`` does for TCG2 logs."""
    return replay_registers(as_tcg_events(log))


def algorithm_names(identifiers: Iterable[int]) -> list[str]:
    """Return our names of TPM_ALG_IDs."""
    return [TPM_ALGORITHMS[identifier].name for identifier in identifiers]
