"""Reads a log of any kind into the neutral form. The kind comes from the log's source; guesses are for display."""

from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.aael import is_aael, parse_aael
from kbs_rim.evidence.cel_cbor import parse_cel_cbor
from kbs_rim.evidence.cel_json import parse_cel_json
from kbs_rim.evidence.cel_tlv import names_measurement_registers, parse_cel_tlv
from kbs_rim.evidence.event_log import REGISTERS_OF, EventLog, LogFormat, RegisterKind, event_log_from_tcg
from kbs_rim.evidence.ima_log import guess_ima_layout, parse_ima_log
from kbs_rim.evidence.ima_text import is_ima_text
from kbs_rim.evidence.tcg_log import LogKind, guess_kind, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS, Limits

TCG_FORMATS: Final = frozenset({LogFormat.VMM, LogFormat.TPM, LogFormat.CC})
CEL_FORMATS: Final = frozenset({LogFormat.CEL_TLV, LogFormat.CEL_CBOR, LogFormat.CEL_JSON})
_OTHER_CHOICE: Final = CEL_FORMATS | {LogFormat.AAEL}
"""Formats that do not say what their register numbers count."""
_LENGTHS = (b"\0\0\0\x04", b"\0\0\0\x08")
_REGISTER_FIELDS = (b"\x01\0\0\0", b"\x02\0\0\0", b"\x6c\0\0\0")


def read_event_log(
    data: bytes, log_format: LogFormat, limits: Limits = DEFAULT_LIMITS, *, registers: RegisterKind | None = None
) -> EventLog:
    """Parse a log of a known format. ``registers`` says what a CEL or AAEL counts, and must be given for a CEL; AAEL counts
    measurement registers unless told otherwise, and the others count one kind only.

    Raises ``MalformedEvidence("log.*")`` for the log, ``ValueError`` for a numbering that its format does not have.
    """
    if log_format in CEL_FORMATS:
        if registers is None:
            raise ValueError(f"what the register numbers of a {log_format} log count must be said")
        return _CEL_PARSERS[log_format](data, registers, limits)
    if log_format is LogFormat.AAEL:
        return parse_aael(data, limits, registers=RegisterKind.MR if registers is None else registers)
    counted = RegisterKind.PCR if log_format is LogFormat.IMA else REGISTERS_OF[LogKind(log_format.value)]
    if registers not in (None, counted):
        raise ValueError(f"a {log_format} log counts {counted} registers, not {registers}")
    if log_format is LogFormat.IMA:
        return parse_ima_log(data, limits)
    return event_log_from_tcg(parse_tcg_log(data, LogKind(log_format.value), limits))


def counts_by_its_own_words(data: bytes, log_format: LogFormat) -> RegisterKind:
    """Return what the numbers of a log count if it is believed: a CEL says "pcr" unless it uses Google's extension. For display."""
    if log_format is LogFormat.AAEL or (log_format is LogFormat.CEL_TLV and names_measurement_registers(data)):
        return RegisterKind.MR
    if log_format in _OTHER_CHOICE or log_format is LogFormat.IMA:
        return RegisterKind.PCR
    return REGISTERS_OF[LogKind(log_format.value)]


def guess_cel_format(data: bytes) -> LogFormat | None:
    """Guess the encoding of a canonical event log by its first bytes; None if it looks like none."""
    first = data.lstrip(b" \t\r\n")[:1]
    if first in (b"[", b"{"):
        return LogFormat.CEL_JSON
    if data[:1] and 0x80 <= data[0] < 0xC0:  # a CBOR array or map
        return LogFormat.CEL_CBOR
    # A TCG2 log may begin with the same five bytes; the head of a second field is then a digest.
    size = int.from_bytes(data[1:5], "big")
    if data[:1] == b"\0" and data[1:5] in _LENGTHS and data[5 + size : 9 + size] in _REGISTER_FIELDS:
        return LogFormat.CEL_TLV
    return None


def guess_format(data: bytes, limits: Limits = DEFAULT_LIMITS) -> LogFormat:
    """Guess the format of a log whose source is not known, for display only: never appraise evidence on a guess. Never raises."""
    if len(data) > limits.log_bytes:
        return LogFormat.TPM
    cel = guess_cel_format(data)
    if cel is not None:
        return cel
    if is_aael(data):
        return LogFormat.AAEL
    kind = guess_kind(data, limits)
    if _is_tcg(data, kind, limits):
        return LogFormat(kind.value)
    if is_ima_text(data) or guess_ima_layout(data, limits) is not None:
        return LogFormat.IMA
    return LogFormat(kind.value)


def _is_tcg(data: bytes, kind: LogKind, limits: Limits) -> bool:
    try:
        parse_tcg_log(data, kind, limits, allow_legacy=kind is LogKind.TPM)
    except MalformedEvidence:
        return False
    return True


_CEL_PARSERS: Final = {
    LogFormat.CEL_TLV: parse_cel_tlv,
    LogFormat.CEL_CBOR: parse_cel_cbor,
    LogFormat.CEL_JSON: parse_cel_json,
}
