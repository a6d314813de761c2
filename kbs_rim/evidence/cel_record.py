"""What the three encodings of the TCG Canonical Event Log (CEL) have in common: the rules for a record, and names.

Implements the TCG Canonical Event Log Format. A CEL names its registers "pcr" even where the writer means measurement registers,
so the caller says what they count. Record numbers count per register in CEL 1.1 and over the whole log in Google's code: both
rise strictly within a register, and that is what is checked.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import (
    CelManagement,
    Content,
    EventLog,
    ImaTemplate,
    LogFormat,
    Management,
    MeasuredEvent,
    OpaqueContent,
    RegisterKind,
    TcgContent,
    check_register,
    event_type_name,
)
from kbs_rim.evidence.tcg_names import EV_NO_ACTION, EV_PREBOOT_CERT, TPM_ALGORITHMS
from kbs_rim.limits import Limits

RECNUM, PCR, NV_INDEX, DIGESTS, CONTENT_TYPE, CONTENT = 0, 1, 2, 3, 9, 10
"""Fields of a record: types in TLV, keys in CBOR. CBOR's 9 and 10 are not used in TLV."""
CEL, PCCLIENT_STD, IMA_TEMPLATE, IMA_TLV, SYSTEMD = 4, 5, 7, 8, 9
"""Content types."""
CONTENT_NAMES: Final[Mapping[int, str]] = MappingProxyType({
    CEL: "cel",
    PCCLIENT_STD: "pcclient_std",
    IMA_TEMPLATE: "ima_template",
    IMA_TLV: "ima_tlv",
    SYSTEMD: "systemd",
})  # fmt: skip
CONTENT_NUMBERS: Final[Mapping[str, int]] = MappingProxyType({name: number for number, name in CONTENT_NAMES.items()})
_NO_CONTENT = frozenset({0, 1, 2, 3, 6, 10})
"""Types of fields, and what the specification reserves."""
_MOST_U32, _MOST_U64 = (1 << 32) - 1, (1 << 64) - 1
_TRANSITIONS = range(3)


class Records:
    """Takes a log's records in order, checks each, and gives the log. ``registers`` says what the numbers count."""

    def __init__(self, log_format: LogFormat, registers: RegisterKind, limits: Limits) -> None:
        if registers is RegisterKind.RIM:
            raise ValueError("a canonical event log says nothing about the RIM")
        self._format = log_format
        self._registers = registers
        self._limits = limits
        self._events: list[MeasuredEvent] = []
        self._last: dict[int, int] = {}

    @property
    def next_number(self) -> int:
        """Number of the record that comes next."""
        return len(self._events)

    def refuse(self, finding_id: str, what: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
        """Raise the error of the record that comes next."""
        raise MalformedEvidence(finding_id, f"record {self.next_number} {what}", expected=expected, seen=seen)

    def add(self, recnum: int, register: int, digests: Iterable[tuple[int, bytes]], content: Content) -> None:
        """Check and keep one record. Raises ``MalformedEvidence("log.*")``."""
        if self.next_number >= self._limits.log_events:
            raise MalformedEvidence("log.events", "the log has too many records", expected=f"at most {self._limits.log_events}")
        check_register(self._registers, register, self.next_number)
        self._check_recnum(register, recnum)
        measured = self._measured(content)
        kept = self._digests(digests, content, measured=measured)
        self._events.append(MeasuredEvent(self.next_number, register, self._registers, type_name(content), kept, content, measured))

    def log(self) -> EventLog:
        """Return all records."""
        return EventLog(self._format, self._registers, tuple(self._events))

    def _check_recnum(self, register: int, recnum: int) -> None:
        last = self._last.get(register, -1)
        if not last < recnum <= _MOST_U64:
            self.refuse("log.recnum", "does not follow the last one of its register", expected=f"more than {last}", seen=str(recnum))
        self._last[register] = recnum

    def _measured(self, content: Content) -> bool:
        if isinstance(content, CelManagement):
            return content.type.measured
        if len(content.data) > self._limits.event_bytes:
            most = f"at most {self._limits.event_bytes} bytes"
            self.refuse("log.event-size", "is larger than the limit", expected=most, seen=f"{len(content.data)} bytes")
        if not isinstance(content, TcgContent):
            return True
        if content.type > _MOST_U32:
            self.refuse("log.content", "has an event type of more than 32 bits", seen=str(content.type))
        if content.type == EV_PREBOOT_CERT:
            self.refuse("log.event-type", "has a type that no log may contain", seen=event_type_name(content.type))
        return content.type != EV_NO_ACTION

    def _digests(self, digests: Iterable[tuple[int, bytes]], content: Content, *, measured: bool) -> dict[int, bytes]:
        kept: dict[int, bytes] = {}
        for identifier, digest in digests:
            known = TPM_ALGORITHMS.get(identifier)
            if known is None or len(digest) != known.digest_size:
                expected = None if known is None else f"{known.name} of {known.digest_size} bytes"
                seen = f"algorithm {identifier:#x} of {len(digest)} bytes"
                self.refuse("log.algorithm", "has a digest of an unknown algorithm or a wrong size", expected=expected, seen=seen)
            if identifier in kept:
                self.refuse("log.digests", "has two digests of one algorithm", seen=known.name)
            kept[identifier] = digest
        if len(kept) > self._limits.log_algorithms or (measured and not kept):
            most = f"1 to {self._limits.log_algorithms}"
            self.refuse("log.digests", "has the wrong number of digests", expected=most, seen=str(len(kept)))
        if isinstance(content, TcgContent):
            self._check_zeros(kept, measured=measured)
        return kept

    def _check_zeros(self, digests: Mapping[int, bytes], *, measured: bool) -> None:
        """A measured digest is never zeros; one of a record that is not measured always is (hazard D26)."""
        if measured and not all(any(digest) for digest in digests.values()):
            self.refuse("log.digests", "has a digest of zeros")
        if not measured and any(any(digest) for digest in digests.values()):
            self.refuse("log.digests", "has a digest though nothing is measured")


def type_name(content: Content) -> str:
    """Return the name of what a record is about: event type, template, management event or content type."""
    if isinstance(content, TcgContent):
        return event_type_name(content.type)
    if isinstance(content, ImaTemplate):
        return content.name
    if isinstance(content, CelManagement):
        return content.type.name.lower()
    return CONTENT_NAMES.get(content.type, f"content type {content.type}")


def check_content_type(content_type: int, number: int) -> None:
    """Raise ``MalformedEvidence("log.content")`` for a content type that is a field's or reserved."""
    if content_type in _NO_CONTENT or content_type < 0 or content_type > _MOST_U32:
        raise _refused(number, "has a content type that is reserved", str(content_type))


def management(number: int, kind: int, values: tuple[int, ...]) -> CelManagement:
    """Build the content of a management record. Raises ``MalformedEvidence("log.content")`` for what CEL does not define."""
    try:
        event = Management(kind)
    except ValueError:
        raise _refused(number, "is a management event that is not defined", str(kind)) from None
    counts = {Management.CEL_VERSION: 2, Management.FIRMWARE_END: 0}
    if len(values) != counts.get(event, 1) or not all(0 <= value <= _MOST_U64 for value in values):
        raise _refused(number, f"is a {event.name.lower()} of the wrong shape", None)
    if event is Management.STATE_TRANS and values[0] not in _TRANSITIONS:
        raise _refused(number, "is a state transition that is not defined", str(values[0]))
    return CelManagement(event, values)


def opaque(number: int, content_type: int, data: bytes) -> OpaqueContent:
    """Build content whose inside is not read. Raises ``MalformedEvidence("log.content")`` for a reserved type."""
    check_content_type(content_type, number)
    return OpaqueContent(content_type, data)


def ima_template(number: int, name: str, data: bytes, limits: Limits) -> ImaTemplate:
    """Build an IMA record. Its digests are what was extended, also for a violation: CEL has no other place for them."""
    if not 0 < len(name) <= limits.ima_name_bytes or not (name.isascii() and name.isprintable()):
        raise _refused(number, "has no name of an IMA template", None)
    return ImaTemplate(name, data)


def _refused(number: int, what: str, seen: str | None) -> MalformedEvidence:
    return MalformedEvidence("log.content", f"record {number} {what}", seen=seen)
