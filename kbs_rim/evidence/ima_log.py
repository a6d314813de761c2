"""The measurement list of Linux's IMA in its binary form (``binary_runtime_measurements``).

As Linux writes it (security/integrity/ima). IMA counts PCRs; in a realm its events would be extended into the measurement register
that the PCR maps to, which is for the caller to say (``in_measurement_registers``). The list has one digest per entry, SHA-1 in
most files. What other banks were extended with depends on the kernel: see ``in_bank``.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import EventLog, ImaTemplate, LogFormat, MeasuredEvent, RegisterKind, check_register
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_template import LEGACY_DIGEST_SIZE, LEGACY_NAME_SIZE, LEGACY_TEMPLATE, ByteOrder, hashed_bytes
from kbs_rim.evidence.tcg_names import TPM_ALG_SHA1, TPM_ALGORITHMS
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_ALGORITHMS: Final = (TPM_ALG_SHA1, 0x000B, 0x000C, 0x000D)
"""Of template digests, one for each size; which of two with one size it is does not show."""
_U32: Final = {"little": struct.Struct("<I"), "big": struct.Struct(">I")}


class ImaBank(StrEnum):
    """What a kernel extends into banks other than SHA-1.

    ``hashed``: the hash of the entry in the bank's algorithm (newer kernels). ``padded``: the SHA-1 digest, filled up with zeros.
    """

    HASHED = "hashed"
    PADDED = "padded"


def parse_ima_log(data: bytes, limits: Limits = DEFAULT_LIMITS, *, algorithm: int = TPM_ALG_SHA1, order: ByteOrder = "little") -> EventLog:
    """Parse a binary list. ``algorithm`` (TPM_ALG_ID) is the one of its template digests, ``order`` the host's byte order, which
    is little unless the kernel runs big-endian without ``ima_canonical_fmt``.

    An entry whose logged digest is zeros is a violation; ones were extended instead, and ones are its digest here. Raises
    ``MalformedEvidence("log.*")``.
    """
    if len(data) > limits.log_bytes:
        raise MalformedEvidence(
            "log.too-large", "the log is larger than the limit", expected=f"at most {limits.log_bytes} bytes", seen=f"{len(data)} bytes"
        )
    reader = _Reader(bytes(data), limits, algorithm, order)
    return EventLog(LogFormat.IMA, RegisterKind.PCR, tuple(reader.events()))


def guess_ima_layout(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, ByteOrder] | None:
    """Guess algorithm and byte order of a binary list by its first entry, for display; None if it does not look like a list."""
    orders: tuple[ByteOrder, ...] = ("little", "big")
    for order in orders:
        for algorithm in _ALGORITHMS:
            try:
                next(_Reader(data, limits, algorithm, order).events(), None)
            except MalformedEvidence:
                continue
            return (algorithm, order) if data else None
    return None


def ima_event(number: int, pcr: int, template_digest: bytes, template: ImaTemplate, algorithm: int) -> MeasuredEvent:
    """Build an event from what a list says of it. A digest of zeros makes it a violation. Raises ``MalformedEvidence("log.index")``."""
    check_register(RegisterKind.PCR, pcr, number)
    if not any(template_digest):
        template_digest, template = b"\xff" * len(template_digest), replace(template, violation=True)
    return MeasuredEvent(number, pcr, RegisterKind.PCR, template.name, {algorithm: template_digest}, template, measured=True)


class _Reader:
    """Reads forward; every size is compared with what is left."""

    def __init__(self, data: bytes, limits: Limits, algorithm: int, order: ByteOrder) -> None:
        self._data = data
        self._limits = limits
        self._algorithm = algorithm
        self._digest_size = TPM_ALGORITHMS[algorithm].digest_size
        self._u32 = _U32[order]
        self._offset = 0
        self._number = 0

    def events(self) -> Iterator[MeasuredEvent]:
        while self._offset < len(self._data):
            if self._number >= self._limits.log_events:
                most = f"at most {self._limits.log_events}"
                raise MalformedEvidence("log.events", "the log has too many records", offset=self._offset, expected=most)
            pcr = self._size_field()
            digest = self._take(self._digest_size)
            name = self._name()
            template = ImaTemplate(name, self._legacy_data() if name == LEGACY_TEMPLATE else self._sized(self._limits.event_bytes))
            yield ima_event(self._number, pcr, digest, template, self._algorithm)
            self._number += 1

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._offset:
            raise MalformedEvidence(
                "log.truncated",
                f"the log ends inside record {self._number}",
                offset=self._offset,
                expected=f"{size} bytes",
                seen=f"{len(self._data) - self._offset} bytes",
            )
        self._offset += size
        return self._data[self._offset - size : self._offset]

    def _size_field(self) -> int:
        (value,) = self._u32.unpack(self._take(self._u32.size))
        return int(value)

    def _sized(self, most: int) -> bytes:
        at = self._offset
        size = self._size_field()
        if size > most:
            what = f"record {self._number} has a field larger than the limit"
            raise MalformedEvidence("log.event-size", what, offset=at, expected=f"at most {most} bytes", seen=f"{size} bytes")
        return self._take(size)

    def _name(self) -> str:
        name = self._sized(self._limits.ima_name_bytes).decode("ascii", "replace")
        if not name or not (name.isascii() and name.isprintable()):
            raise MalformedEvidence("log.event-data", f"record {self._number} has no name of an IMA template", offset=self._offset)
        return name

    def _legacy_data(self) -> bytes:
        """Return digest, length and name of an entry of the old template, which has no length of the whole."""
        start = self._offset
        self._take(LEGACY_DIGEST_SIZE)
        self._sized(LEGACY_NAME_SIZE - 1)
        return self._data[start : self._offset]


def in_bank(log: EventLog, algorithm: HashAlgorithm, bank: ImaBank, order: ByteOrder = "little") -> EventLog:
    """Return ``log`` with the digests that a kernel extends into registers of ``algorithm``, next to those that it logs.

    Entries that have that digest keep it. Raises ``MalformedEvidence("log.digests")`` for an entry that has no SHA-1 digest to
    fill up, and ``MalformedEvidence("log.event-data")`` for one that cannot be hashed; ``ValueError`` for what is no IMA log.
    """
    events = tuple(_in_bank(event, algorithm, bank, order) for event in log.events)
    return EventLog(log.format, log.registers, events)


def _in_bank(event: MeasuredEvent, algorithm: HashAlgorithm, bank: ImaBank, order: ByteOrder) -> MeasuredEvent:
    if not isinstance(event.content, ImaTemplate):
        raise ValueError(f"event {event.number} is no entry of IMA")
    if algorithm.tpm_id in event.digests:
        return event
    if bank is ImaBank.PADDED:
        logged = event.digests.get(TPM_ALG_SHA1)
        if logged is None:
            raise MalformedEvidence("log.digests", f"record {event.number} has no SHA-1 digest")
        # A violation is 20 bytes of ones here too: old kernels filled the SHA-1 digest with ones and padded it like any other.
        digest = logged.ljust(algorithm.digest_size, b"\0")
    elif event.content.violation:
        digest = b"\xff" * algorithm.digest_size
    else:
        digest = algorithm.digest(hashed_bytes(event.content, order))
    return replace(event, digests={**event.digests, algorithm.tpm_id: digest})
