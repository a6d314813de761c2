"""The TCG crypto-agile event log: bytes in, typed records out, nothing believed.

Implements PC Client PFP 10 and docs/logs.md. Three kinds of log share one format and differ in what
the first field of a record counts and in which rules their writers keep; a log is parsed as the kind that its source says,
never as another. What a record *means* is decoded in ``tcg_events`` and ``vmm_records``; types and descriptions are not
measured and prove nothing.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.tcg_names import (
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EVENT_TAG,
    EV_NO_ACTION,
    EV_POST_CODE2,
    EV_PREBOOT_CERT,
    EVENT_TYPES,
    TPM_ALG_ERROR,
    TPM_ALG_SHA1,
    TPM_ALGORITHMS,
)
from kbs_rim.evidence.tcg_spec_id import SPEC_ID_SIGNATURE, SpecId, parse_spec_id
from kbs_rim.limits import DEFAULT_LIMITS, Limits

STARTUP_LOCALITY_SIGNATURE: Final = b"StartupLocality\0"
VM_VERSION_SIGNATURE: Final = b"VM VERSION\0\0\0\0\0\0"
DEVICE_TREE_SIGNATURE: Final = b"DTB".ljust(16, b"\0")
"""EV_NO_ACTION data that begin with this go on with a device tree."""
_LEGACY_HEAD = struct.Struct("<II20sI")
_EVENT2_HEAD = struct.Struct("<III")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_NO_REGISTER = 0xFFFFFFFF
_MAX_TPM_INDEX, _MAX_CC_INDEX = 23, 4
_PADDING_BLOCK = 4096
_VMM_TYPES = frozenset({EV_NO_ACTION, EV_EVENT_TAG, EV_POST_CODE2, EV_EFI_PLATFORM_FIRMWARE_BLOB2})


class LogKind(StrEnum):
    """Who wrote a log, and so what its register numbers count.

    ``vmm``: the host's VMM, index 0 is the RIM. ``tpm``: firmware with a TPM, PCR 0 to 23. ``cc``: firmware of a confidential
    guest (CCEL), CC measurement registers 0 to 4.
    """

    VMM = "vmm"
    TPM = "tpm"
    CC = "cc"


@dataclass(frozen=True, slots=True)
class TcgEvent:
    """One record after the Spec ID. ``number`` counts from 0, ``offset`` is in bytes, ``digests`` is keyed by TPM_ALG_ID.

    ``index`` counts PCRs or CC measurement registers, whichever the kind of the log says.
    """

    number: int
    offset: int
    index: int
    type: int
    digests: Mapping[int, bytes]
    data: bytes

    @property
    def type_name(self) -> str:
        """The specification's name of the type, or its number in hex."""
        return EVENT_TYPES.get(self.type, f"{self.type:#010x}")

    @property
    def measured(self) -> bool:
        """False for EV_NO_ACTION, which extends nothing."""
        return self.type != EV_NO_ACTION


@dataclass(frozen=True, slots=True)
class TcgLog:
    """A whole log. ``padding`` is the byte (0 or 255) that fills the area behind ``used_bytes``, None if nothing follows.

    ``header`` is None for a log in the SHA-1 format of TPM 1.2.
    """

    kind: LogKind
    algorithms: Mapping[int, int]
    events: tuple[TcgEvent, ...]
    used_bytes: int
    padding: int | None
    header: SpecId | None


class _Cursor:
    """Reads forward over the log; every read is checked against what is left."""

    __slots__ = ("_end_of_ones", "_end_of_zeros", "data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0
        self._end_of_zeros = _end_without(data, b"\x00")
        self._end_of_ones = _end_without(data, b"\xff")

    def take(self, size: int, what: str) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise MalformedEvidence(
                "log.truncated",
                f"the log ends inside {what}",
                offset=self.offset,
                expected=f"{size} bytes",
                seen=f"{len(self.data) - self.offset} bytes",
            )
        piece = self.data[self.offset : end]
        self.offset = end
        return piece

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size, what))

    def padding_from_here(self) -> int | None:
        """Return the padding byte if nothing but padding is left (all of it is checked, not its first bytes), else None."""
        if self.offset >= self._end_of_zeros:
            return 0x00
        return 0xFF if self.offset >= self._end_of_ones else None

    @property
    def at_end(self) -> bool:
        return self.offset == len(self.data)


def _end_without(data: bytes, padding: bytes) -> int:
    """Return where the padding behind ``data`` begins. Most of a log area is padding: it is compared in blocks, not byte by byte."""
    end, block = len(data), padding * _PADDING_BLOCK
    while end >= _PADDING_BLOCK and data.endswith(block, 0, end):
        end -= _PADDING_BLOCK
    start = max(0, end - _PADDING_BLOCK)
    return start + len(data[start:end].rstrip(padding))


def parse_tcg_log(data: bytes, kind: LogKind, limits: Limits = DEFAULT_LIMITS, *, allow_legacy: bool = False) -> TcgLog:
    """Parse a whole log area, padding included.

    ``allow_legacy`` also reads the SHA-1 format of TPM 1.2, for display only; never for a VMM or CC log. Raises
    ``MalformedEvidence("log.*")``; cost is linear in the size of the log, which ``limits`` caps.
    """
    cap = limits.vmm_log_bytes if kind is LogKind.VMM else limits.log_bytes
    if len(data) > cap:
        raise MalformedEvidence(
            "log.too-large", "the log is larger than the limit", expected=f"at most {cap} bytes", seen=f"{len(data)} bytes"
        )
    data = bytes(data)
    header, cursor = _read_header(data, limits)
    if header is None and not (allow_legacy and kind is LogKind.TPM):
        raise MalformedEvidence("log.legacy", "the log does not start with Spec ID Event03: it has the SHA-1 format of TPM 1.2")
    algorithms = {TPM_ALG_SHA1: 20} if header is None else header.algorithms
    events = tuple(_read_events(cursor, kind, None if header is None else algorithms, limits))
    padding = None if cursor.at_end else cursor.padding_from_here()
    return TcgLog(kind, algorithms, events, cursor.offset, padding, header)


def guess_kind(data: bytes, limits: Limits = DEFAULT_LIMITS) -> LogKind:
    """Guess the kind of a log whose source is not known, for display only: never appraise evidence on a guess.

    VMM if it holds a record that only VMMs write (VM VERSION, a tagged event 1 to 3 at index 0, an EV_NO_ACTION digest with
    algorithm 0); CC if the Spec ID has index 1, as OVMF writes for TDX; TPM otherwise. Never raises: what is malformed is
    left to ``parse_tcg_log``.
    """
    if len(data) > limits.log_bytes:
        return LogKind.TPM
    header = None
    try:
        header, cursor = _read_header(bytes(data), limits)
        # Only the shape is read here, no profile is enforced; looking stops at the first record that only a VMM writes.
        for event, ids in _scan(cursor, None if header is None else header.algorithms, limits):
            if _only_vmm_writes(event, ids):
                return LogKind.VMM
    except MalformedEvidence:
        pass
    return LogKind.CC if header is not None and header.index == 1 else LogKind.TPM


def _only_vmm_writes(event: TcgEvent, written_ids: tuple[int, ...]) -> bool:
    if event.type == EV_NO_ACTION:
        return event.data.startswith(VM_VERSION_SIGNATURE) or TPM_ALG_ERROR in written_ids
    if event.type == EV_EVENT_TAG and event.index == 0 and len(event.data) >= 4:
        return int(_U32.unpack_from(event.data)[0]) in (1, 2, 3)
    return False


def _read_header(data: bytes, limits: Limits) -> tuple[SpecId | None, _Cursor]:
    """Read the first record. Returns None and a cursor at offset 0 for a log in the SHA-1 format."""
    cursor = _Cursor(data)
    if len(data) < _LEGACY_HEAD.size:
        raise MalformedEvidence("log.spec-id", "the log is shorter than one record", seen=f"{len(data)} bytes")
    index, event_type, digest, size = _LEGACY_HEAD.unpack(cursor.take(_LEGACY_HEAD.size, "the first record"))
    if size > limits.event_bytes or size > len(data) - cursor.offset:
        raise MalformedEvidence("log.spec-id", "the first record is larger than the log", offset=28, seen=f"{size} bytes")
    event = cursor.take(size, "the first record")
    if event_type != EV_NO_ACTION or not event.startswith(SPEC_ID_SIGNATURE):
        return None, _Cursor(data)
    if index not in (0, 1) or any(digest):
        raise MalformedEvidence("log.spec-id", "the Spec ID record has a register index or a digest", offset=0, seen=f"index {index}")
    return parse_spec_id(index, event, limits), cursor


def _read_events(cursor: _Cursor, kind: LogKind, algorithms: Mapping[int, int] | None, limits: Limits) -> Iterator[TcgEvent]:
    for event, _ in _scan(cursor, algorithms, limits, kind):
        _check_profile(event, kind, 1 if algorithms is None else len(algorithms))
        yield event


def _scan(
    cursor: _Cursor, algorithms: Mapping[int, int] | None, limits: Limits, kind: LogKind = LogKind.VMM
) -> Iterator[tuple[TcgEvent, tuple[int, ...]]]:
    """Yield every record with the algorithm ids as written, until the end or the padding. ``algorithms`` None: SHA-1 format."""
    number = 0
    while not cursor.at_end and cursor.padding_from_here() is None:
        if number >= limits.log_events:
            raise MalformedEvidence(
                "log.events", "the log has too many records", offset=cursor.offset, expected=f"at most {limits.log_events}"
            )
        _refuse_data_after_padding(cursor)
        if algorithms is None:
            yield _read_legacy_record(cursor, number, limits), (TPM_ALG_SHA1,)
        else:
            yield _read_record(cursor, number, kind, algorithms, limits)
        number += 1


def _refuse_data_after_padding(cursor: _Cursor) -> None:
    # The tail is known not to be uniform. A record may not begin like padding: index and type both zero, or all ones.
    if cursor.data[cursor.offset : cursor.offset + 8] in (bytes(8), b"\xff" * 8):
        raise MalformedEvidence("log.padding", "data stands behind the log's padding", offset=cursor.offset)


def _read_record(
    cursor: _Cursor, number: int, kind: LogKind, algorithms: Mapping[int, int], limits: Limits
) -> tuple[TcgEvent, tuple[int, ...]]:
    """Read one TCG_PCR_EVENT2. Counts and sizes are compared before anything is allocated (hazards D10, D11)."""
    offset, what = cursor.offset, f"record {number}"
    index, event_type, count = cursor.unpack(_EVENT2_HEAD, what)
    if count > len(algorithms):
        raise MalformedEvidence(
            "log.digests", f"{what} has too many digests", offset=offset, expected=f"at most {len(algorithms)}", seen=str(count)
        )
    table, written = tuple(algorithms), []
    digests: dict[int, bytes] = {}
    for position in range(count):
        (identifier,) = cursor.unpack(_U16, what)
        written.append(identifier)
        if identifier == TPM_ALG_ERROR and event_type == EV_NO_ACTION and kind is LogKind.VMM:
            # QEMU and kvmtool write algorithm 0 here; the digest has the size that the table gives this position.
            identifier = table[position]
        if identifier not in algorithms:
            raise MalformedEvidence(
                "log.algorithm", f"{what} uses an algorithm that the header does not list", offset=offset, seen=f"{identifier:#06x}"
            )
        if identifier in digests:
            raise MalformedEvidence("log.digests", f"{what} has two digests of one algorithm", offset=offset, seen=f"{identifier:#06x}")
        digests[identifier] = cursor.take(algorithms[identifier], what)
    data = _read_event_data(cursor, what, limits)
    return TcgEvent(number, offset, index, event_type, digests, data), tuple(written)


def _read_event_data(cursor: _Cursor, what: str, limits: Limits) -> bytes:
    at = cursor.offset
    (size,) = cursor.unpack(_U32, what)
    if size > limits.event_bytes:
        raise MalformedEvidence(
            "log.event-size",
            f"{what} is larger than the limit",
            offset=at,
            expected=f"at most {limits.event_bytes} bytes",
            seen=f"{size} bytes",
        )
    return cursor.take(size, what)


def _read_legacy_record(cursor: _Cursor, number: int, limits: Limits) -> TcgEvent:
    offset, what = cursor.offset, f"record {number}"
    index, event_type = cursor.unpack(struct.Struct("<II"), what)
    digest = cursor.take(20, what)
    return TcgEvent(number, offset, index, event_type, {TPM_ALG_SHA1: digest}, _read_event_data(cursor, what, limits))


def _check_profile(event: TcgEvent, kind: LogKind, algorithms: int) -> None:
    """Apply the rules that differ between the kinds of log (section 7)."""
    what = f"record {event.number}"
    if event.type == EV_PREBOOT_CERT or (kind is LogKind.VMM and event.type not in _VMM_TYPES):
        raise MalformedEvidence(
            "log.event-type", f"{what} has a type that a {kind} log may not contain", offset=event.offset, seen=event.type_name
        )
    if not event.measured and event.data.startswith(SPEC_ID_SIGNATURE):
        raise MalformedEvidence("log.spec-id", f"{what} is a second Spec ID", offset=event.offset)
    _check_index(event, kind)
    count = len(event.digests)
    rim_tag = kind is LogKind.VMM and event.type == EV_EVENT_TAG
    if rim_tag:
        wrong = False  # Emitters write no digest, the documentation shows one of zeros; neither is measured.
    elif event.measured:
        wrong = count != algorithms and not (kind is LogKind.VMM and event.type == EV_POST_CODE2 and count == 0)
    else:
        wrong = kind is LogKind.VMM and count != algorithms
    if wrong:
        raise MalformedEvidence(
            "log.digests", f"{what} has the wrong number of digests", offset=event.offset, expected=str(algorithms), seen=str(count)
        )
    if (rim_tag or not event.measured) and any(any(digest) for digest in event.digests.values()):
        raise MalformedEvidence("log.digests", f"{what} has a digest though nothing is measured", offset=event.offset, seen=event.type_name)


def _check_index(event: TcgEvent, kind: LogKind) -> None:
    if kind is LogKind.VMM:
        good, expected = event.index == 0, "0, the RIM"
    elif kind is LogKind.CC:
        good, expected = event.index <= _MAX_CC_INDEX, f"a CC measurement register, 0 to {_MAX_CC_INDEX}"
    else:
        good, expected = event.index <= _MAX_TPM_INDEX, f"a PCR, 0 to {_MAX_TPM_INDEX}"
        good = good or (event.index == _NO_REGISTER and not event.measured)
    if not good:
        raise MalformedEvidence(
            "log.index",
            f"record {event.number} has a register index that a {kind} log may not use",
            offset=event.offset,
            expected=expected,
            seen=str(event.index),
        )


def replay_registers(log: TcgLog) -> dict[str, dict[int, bytes]]:
    """Return every extended register of every bank: register = H(register || digest), from zeros, in log order.

    Banks are named ``sha256`` and so on. EV_NO_ACTION extends nothing, but StartupLocality sets the last byte of a TPM's
    initial PCR 0; it must not touch a CC register. For a VMM log this chain is not the RIM and means little. A bank whose
    hash the crypto library lacks (SM3 in some builds) is left out. Raises ``MalformedEvidence("log.event-data")``.
    """
    locality = _startup_locality(log)
    banks: dict[str, dict[int, bytes]] = {}
    for identifier, size in log.algorithms.items():
        algorithm = TPM_ALGORITHMS[identifier]
        if algorithm.hashlib_name not in hashlib.algorithms_available:
            continue
        bank: dict[int, bytes] = {}
        for event in log.events:
            digest = event.digests.get(identifier)
            if digest is None or not event.measured:
                continue
            start = bytes(size - 1) + bytes([locality]) if event.index == 0 else bytes(size)
            bank[event.index] = hashlib.new(algorithm.hashlib_name, bank.get(event.index, start) + digest).digest()
        banks[algorithm.name] = bank
    return banks


def _startup_locality(log: TcgLog) -> int:
    seen = [event for event in log.events if not event.measured and event.data.startswith(STARTUP_LOCALITY_SIGNATURE)]
    if log.kind is not LogKind.TPM or not seen:
        return 0
    if len(seen) > 1:
        raise MalformedEvidence("log.event-data", "StartupLocality stands twice in the log", offset=seen[1].offset)
    return startup_locality(seen[0])


def startup_locality(event: TcgEvent) -> int:
    """Return the locality (0, 3 or 4) of a StartupLocality record; raise ``MalformedEvidence("log.event-data")``."""
    if len(event.data) != 17 or event.data[16] not in (0, 3, 4):
        raise MalformedEvidence("log.event-data", f"record {event.number} has no valid startup locality", offset=event.offset)
    return event.data[16]
