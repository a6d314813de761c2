"""Long strings of a JSON document, set aside while the rest is parsed.

Envelopes and image documents are a few short members and megabytes of base64. The parsers of the library go through that character by
character and keep the interpreter's lock meanwhile, so that the event loop stands still. Here such strings are found by their quotes,
looked at in small pieces, and replaced by short names that the document cannot hold by itself.
"""

import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

LONG = 32 * 1024
"""Bytes from which a string is set aside; shorter ones take the library a fraction of a millisecond."""
_PIECE = 64 * 1024
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_PRINTABLE = bytes(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class ShortenedJson:
    """A document without its long strings. ``restore`` puts them back into what was parsed, ``offset_in_original`` into an error."""

    data: bytes | bytearray
    strings: dict[str, str] = field(default_factory=dict)
    cuts: tuple[tuple[int, int], ...] = ()

    def restore(self, value: Any) -> Any:
        """Return ``value`` with its strings as they were, those within lists too; objects within must have been restored before."""
        if isinstance(value, str):
            return self.strings.get(value, value)
        if isinstance(value, list):
            value[:] = [self.restore(item) for item in value]
        return value

    def offset_in_original(self, offset: int) -> int:
        """Return where the byte at ``offset`` stands in the document as it came."""
        place = bisect_right(self.cuts, offset, key=lambda cut: cut[0])
        return offset + (self.cuts[place - 1][1] if place else 0)


def shorten(data: bytes | bytearray, most_strings: int) -> ShortenedJson:
    """Set aside the long strings of ``data`` that hold nothing but printable ASCII without escapes; others stay where they are.

    What is JSON stays JSON and what is not stays what it was, for a string takes the place of a string. No more than
    ``most_strings`` strings are looked at: a document with more is refused anyway.
    """
    if len(data) <= LONG:
        return ShortenedJson(data)
    found = [(start, end, text) for start, end in _long_strings(data, most_strings) if (text := _plain_text(data, start, end)) is not None]
    if not found:
        return ShortenedJson(data)
    ends, starts = (0, *(end for _, end, _ in found)), (*(start for start, _, _ in found), len(data))
    rest = [data[end:start] for end, start in zip(ends, starts, strict=True)]
    name = hashlib.sha256(b"".join(rest)).hexdigest()  # no document can hold a string that begins with the hash of all around it
    strings: dict[str, str] = {}
    cuts: list[tuple[int, int]] = []
    pieces, missing = [rest[0]], 0
    for (start, end, text), behind in zip(found, rest[1:], strict=True):
        key = f"{name}:{len(strings)}"
        strings[key] = text
        pieces += (key.encode(), behind)
        missing += end - start - len(key)
        cuts.append((end - missing, missing))
    return ShortenedJson(b"".join(pieces), strings, tuple(cuts))


def _long_strings(data: bytes | bytearray, most: int) -> list[tuple[int, int]]:
    """Return where the content of each long string begins and ends."""
    found, position = [], 0
    for _ in range(most):
        opening = data.find(b'"', position)
        if opening < 0:
            break
        closing = data.find(b'"', opening + 1)
        if closing < 0:
            break
        if data.find(b"\\", opening + 1, closing) >= 0:
            token = _STRING.match(data, opening)
            position = token.end() if token else len(data)
            continue
        if closing - opening > LONG:
            found.append((opening + 1, closing))
        position = closing + 1
    return found


def _plain_text(data: bytes | bytearray, start: int, end: int) -> str | None:
    """Return the content if it is printable ASCII, which JSON writes as it is."""
    pieces = []
    for at in range(start, end, _PIECE):
        piece = data[at : min(at + _PIECE, end)]
        if piece.translate(None, _PRINTABLE):
            return None
        pieces.append(piece.decode("ascii"))
    return "".join(pieces)
