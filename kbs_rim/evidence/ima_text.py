"""The measurement list of Linux's IMA in its text form (``ascii_runtime_measurements``): to be shown, never judged.

As Linux writes it (security/integrity/ima). The kernel writes file names as they are, so a name with a line feed makes lines that
no measurement stands behind. And it leaves out the lengths of fields; template data is put together again here where the format
is known, so that digests can be computed.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import EventLog, ImaTemplate, LogFormat, MeasuredEvent, RegisterKind
from kbs_rim.evidence.ima_log import ima_event
from kbs_rim.evidence.ima_template import LEGACY_DIGEST_SIZE, LEGACY_TEMPLATE, TEMPLATES, check_file_digest, hashed_bytes, join_fields
from kbs_rim.evidence.tcg_names import TPM_ALGORITHMS
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_LINE = re.compile(rb"\s?(\d{1,2}) ([0-9a-f]{40,128}) ([!-~]+) (.*)")
_LENGTH = 4


def is_ima_text(data: bytes) -> bool:
    """Whether ``data`` begins with a line of a text list."""
    return _LINE.match(data.partition(b"\n")[0]) is not None


def parse_ima_text(data: bytes, limits: Limits = DEFAULT_LIMITS, *, algorithm: int | None = None) -> EventLog:
    """Parse a text list, for display. ``algorithm`` is that of its template digests; without it the digests say: their size, and
    among two algorithms of one size the first under which an entry is the hash of its fields.

    Raises ``MalformedEvidence("log.*")``.
    """
    if len(data) > limits.log_bytes:
        raise MalformedEvidence(
            "log.too-large", "the log is larger than the limit", expected=f"at most {limits.log_bytes} bytes", seen=f"{len(data)} bytes"
        )
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    if len(lines) > limits.log_events:
        raise MalformedEvidence("log.events", "the log has too many records", expected=f"at most {limits.log_events}")
    entries = [_entry(number, line, limits) for number, line in enumerate(lines)]
    if not entries:
        return EventLog(LogFormat.IMA, RegisterKind.PCR, ())
    identifier = _algorithm(entries) if algorithm is None else algorithm
    return EventLog(LogFormat.IMA, RegisterKind.PCR, tuple(_events(entries, identifier)))


_Entry = tuple[int, bytes, ImaTemplate]


def _events(entries: Iterable[_Entry], identifier: int) -> Iterable[MeasuredEvent]:
    for number, (pcr, digest, template) in enumerate(entries):
        if len(digest) != TPM_ALGORITHMS[identifier].digest_size:
            raise MalformedEvidence("log.algorithm", f"line {number} has a template digest of another size", seen=f"{len(digest)} bytes")
        yield ima_event(number, pcr, digest, template, identifier)


def _entry(number: int, line: bytes, limits: Limits) -> _Entry:
    match = _LINE.fullmatch(line)
    name = b"" if match is None else match[3]
    if match is None or len(match[2]) % 2 or len(name) > limits.ima_name_bytes:
        raise MalformedEvidence("log.event-data", f"line {number} is not one of a list of measurements")
    template = name.decode("ascii")
    return int(match[1]), bytes.fromhex(match[2].decode("ascii")), ImaTemplate(template, _template_data(number, template, match[4]))


def _template_data(number: int, template: str, text: bytes) -> bytes:
    """Return template data of the fields in ``text``; empty if a field's binary form does not follow from its text."""
    names = ("d", "n") if template == LEGACY_TEMPLATE else TEMPLATES.get(template) or tuple(template.split("|"))
    # The kernel writes a blank between fields, and an underscore for each blank inside one.
    values = text.split(b" ")
    if len(values) != len(names):
        what = f"line {number} does not have the fields of its template"
        raise MalformedEvidence("log.event-data", what, expected=str(len(names)), seen=str(len(values)))
    if template == LEGACY_TEMPLATE:
        digest = _hex(number, values[0])
        if len(digest) != LEGACY_DIGEST_SIZE:
            raise MalformedEvidence("log.event-data", f"line {number} has a digest of a wrong size", seen=f"{len(digest)} bytes")
        return digest + len(values[1]).to_bytes(_LENGTH, "little") + values[1]
    if not all(name in _FIELDS for name in names):
        return b""
    return join_fields(tuple(_FIELDS[name](number, value) for name, value in zip(names, values, strict=True)))


def _hex(number: int, text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise MalformedEvidence("log.event-data", f"line {number} has a field that is not hex") from None


def _digest(number: int, text: bytes) -> bytes:
    """Turn "sha256:hex" or "ima:sha256:hex" into its binary form."""
    head, _, digest = text.rpartition(b":")
    if not text:
        return b""
    check_file_digest(head.rpartition(b":")[2].decode("ascii", "replace"), _hex(number, digest))
    return head + b":\0" + _hex(number, digest)


def _name(_: int, text: bytes) -> bytes:
    return text + b"\0"


_FIELDS: Final[Mapping[str, Callable[[int, bytes], bytes]]] = {
    "d-ng": _digest,
    "d-ngv2": _digest,
    "d-modsig": _digest,
    "n-ng": _name,
    "sig": _hex,
    "buf": _hex,
    "modsig": _hex,
}


def _algorithm(entries: Iterable[_Entry]) -> int:
    """Find the algorithm of the template digests."""
    fitting: list[int] = []
    for _, digest, template in entries:
        fitting = fitting or [identifier for identifier, known in TPM_ALGORITHMS.items() if known.digest_size == len(digest)]
        for identifier in fitting:
            name = TPM_ALGORITHMS[identifier].hashlib_name
            if name in hashlib.algorithms_available and hashlib.new(name, hashed_bytes(template)).digest() == digest:
                return identifier
    if not fitting:
        raise MalformedEvidence("log.algorithm", "no line has a template digest of a known size")
    return fitting[0]
