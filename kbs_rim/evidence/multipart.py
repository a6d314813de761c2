"""A small, strict reader of MIME multipart bodies (RFC 2046 section 5.1) in binary.

Written for one use, a token with its logs: no preamble, no epilogue, no nesting, no transfer encoding but ``binary``, CRLF
only, few parts. What a general mail parser would repair is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~]*?)[ \t]*")
# Clients add these by themselves; they say nothing that we use.
_IGNORED_FIELDS = frozenset({"content-disposition", "content-id"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part: the text of its Content-Type field and its body."""

    content_type: str
    body: bytes = field(repr=False)


def parse_multipart(body: bytes, boundary: str, *, max_parts: int, limits: Limits = DEFAULT_LIMITS) -> tuple[Part, ...]:
    """Split ``body`` into 1 to ``max_parts`` parts. Raises ``MalformedEvidence("envelope.malformed")``."""
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedEvidence("envelope.malformed", "the boundary of the multipart envelope is missing or malformed")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    if not body.startswith(delimiter[2:] + b"\r\n"):
        raise MalformedEvidence("envelope.malformed", "the multipart envelope does not start with its boundary")
    parts: list[Part] = []
    position = len(delimiter)
    while True:
        end = body.find(delimiter, position)
        if end < 0:
            raise MalformedEvidence("envelope.malformed", "the multipart envelope is not closed", offset=len(body))
        if len(parts) == max_parts:
            raise MalformedEvidence(
                "envelope.malformed", "the multipart envelope has too many parts", expected=f"at most {max_parts} parts"
            )
        parts.append(_part(body[position:end], position, limits))
        position = end + len(delimiter) + 2
        separator = body[position - 2 : position]
        if separator == b"--":
            break
        if separator != b"\r\n":
            raise MalformedEvidence("envelope.malformed", "a boundary of the multipart envelope is malformed", offset=end)
    if body[position:] not in {b"", b"\r\n"}:
        raise MalformedEvidence("envelope.malformed", "bytes follow the multipart envelope", offset=position)
    return tuple(parts)


def _part(data: bytes, offset: int, limits: Limits) -> Part:
    """Split one part into its header fields and its body."""
    end = data.find(b"\r\n\r\n", 0, limits.part_header_bytes)
    if end < 0:
        raise MalformedEvidence("envelope.malformed", "a part of the multipart envelope has no end of header", offset=offset)
    fields = _fields(data[:end], offset)
    body = data[end + 4 :]
    if "content-type" not in fields:
        raise MalformedEvidence("envelope.malformed", "a part of the multipart envelope has no Content-Type", offset=offset)
    if fields.get("content-transfer-encoding", "binary").lower() != "binary":
        raise MalformedEvidence("envelope.malformed", "a part of the multipart envelope is not sent in binary", offset=offset)
    if fields.get("content-length", str(len(body))) != str(len(body)):
        raise MalformedEvidence("envelope.malformed", "a part of the multipart envelope has another length than it says", offset=offset)
    return Part(fields["content-type"], body)


def _fields(header: bytes, offset: int) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    for line in header.split(b"\r\n"):
        match = _FIELD.fullmatch(line)
        name = match.group(1).decode("ascii").lower() if match else ""
        if match is None or name in fields:
            raise MalformedEvidence(
                "envelope.malformed", "a header field in the multipart envelope is malformed or stands twice", offset=offset
            )
        if name not in _IGNORED_FIELDS | {"content-type", "content-transfer-encoding", "content-length"}:
            raise MalformedEvidence(
                "envelope.unknown-member", "a part of the multipart envelope has an unknown header field", offset=offset
            )
        fields[name] = match.group(2).decode("ascii")
    return fields
