"""A strict CBOR reader: one meaning per input, or a refusal.

Two readers that see different values in the same bytes are a way round the whole appraisal: the verifier judges one token
and we another (specification of the CCA token, 6.2). So this reader refuses what lenient ones gloss over: duplicate keys,
trailing bytes, indefinite lengths, keys that are not integers, tags that nobody asked for. It trusts nothing, builds no
value larger than the input, and raises ``MalformedEvidence("cbor.*")`` only.

Implements RFC 8949 section 3 less what the CCA token specification, section 4.2 (items 4 to 9), rules out.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import cbor2

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits

CborValue: TypeAlias = "int | float | bytes | str | bool | tuple[CborValue, ...] | dict[int | str, CborValue] | Tagged | None"
"""What ``decode`` returns: arrays are tuples, maps are dicts with int (and, if asked for, str) keys."""
CborMap: TypeAlias = dict[int | str, CborValue]


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tag and the value under it. No tag is ever interpreted here."""

    number: int
    value: CborValue


_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
"""Major types (RFC 8949 section 3.1); plain integers, because they are compared for every item."""
_INDEFINITE = 31
_LONGEST_INLINE = 23
_LEAST_ARGUMENT = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The least argument for which each width of the head is the shortest one."""
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None}
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_DEPTH_CEILING = 64
"""Python's own stack bounds us as well: a larger ``limits.cbor_depth`` has no effect."""
_KINDS = ("an integer", "an integer", "a byte string", "a text string", "an array", "a map", "a tag", "a simple value")


def decode(
    data: bytes,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_text_keys: bool = False,
    allow_floats: bool = False,
    allowed_tags: frozenset[int] = frozenset(),
    outer_tag: bool = False,
    preferred: bool = False,
    what: str = "CBOR item",
) -> CborValue:
    """Decode exactly one item that fills ``data``.

    ``allowed_tags`` may stand anywhere and come back as ``Tagged``; ``outer_tag`` accepts one tag of any number around the
    whole item, for the caller to judge. ``preferred`` refuses heads that are not in their shortest form. ``what`` names the
    item in error messages. Raises ``MalformedEvidence("cbor.*")``.
    """
    decoder = _Decoder(data, limits, what, allow_text_keys, allow_floats, allowed_tags, preferred)
    value = decoder.outermost() if outer_tag else decoder.value(0)
    if decoder.position != len(data):
        decoder.refuse("cbor.trailing-bytes", "bytes follow the item", seen=f"{len(data) - decoder.position} bytes")
    return value


def decode_sequence(data: bytes, *, limits: Limits = DEFAULT_LIMITS, what: str = "CBOR sequence") -> tuple[CborValue, ...]:
    """Decode a CBOR sequence (RFC 8742): items one after the other until the end. The limits hold for all of them together.

    Raises ``MalformedEvidence("cbor.*")``.
    """
    decoder = _Decoder(data, limits, what, False, False, frozenset(), False)
    values = []
    while decoder.position < len(data):
        values.append(decoder.value(0))
    return tuple(values)


def leading_tag(data: bytes) -> int | None:
    """Return the number of the tag that ``data`` starts with, or None; the rest of the input is not looked at.

    Raises ``MalformedEvidence("cbor.truncated" | "cbor.malformed")`` if not even the first head can be read.
    """
    major, _, argument = _Decoder(data, DEFAULT_LIMITS, "CBOR item", False, False, frozenset(), False).head()
    return argument if major == _TAG else None


class _Decoder:
    """One pass over one input. Recursion is bounded by the depth limit, memory by the size of the input."""

    __slots__ = ("_depth", "_floats", "_items", "_preferred", "_tags", "_text_keys", "_what", "data", "position")

    def __init__(
        self, data: bytes, limits: Limits, what: str, text_keys: bool, floats: bool, tags: frozenset[int], preferred: bool
    ) -> None:
        self.data = data
        self.position = 0
        self._what = what
        self._depth = min(limits.cbor_depth, _DEPTH_CEILING)
        self._items = limits.cbor_items
        self._text_keys = text_keys
        self._floats = floats
        self._tags = tags
        self._preferred = preferred

    def refuse(
        self, finding_id: str, message: str, *, at: int | None = None, expected: str | None = None, seen: str | None = None
    ) -> NoReturn:
        offset = self.position if at is None else at
        raise MalformedEvidence(finding_id, f"{self._what}: {message}", offset=offset, expected=expected, seen=seen)

    def head(self) -> tuple[int, int, int]:
        """Read one head: major type, additional information, argument."""
        start = self.position
        if start >= len(self.data):
            self.refuse("cbor.truncated", "the input ends where an item should start")
        initial = self.data[start]
        major, info = initial >> 5, initial & 0x1F
        if info <= _LONGEST_INLINE:
            self.position = start + 1
            return major, info, info
        if info not in _LEAST_ARGUMENT:
            self._refuse_information(major, info)
        end = start + 1 + (1 << (info - 24))
        if end > len(self.data):
            self.refuse("cbor.truncated", "the input ends inside a head")
        argument = int.from_bytes(self.data[start + 1 : end], "big")
        if self._preferred and major != _SIMPLE and argument < _LEAST_ARGUMENT[info]:
            self.refuse("cbor.encoding", "an integer, length or tag is not in its shortest form", at=start)
        self.position = end
        return major, info, argument

    def _refuse_information(self, major: int, info: int) -> NoReturn:
        if info == _INDEFINITE and major in (_BYTES, _TEXT, _ARRAY, _MAP):
            self.refuse("cbor.indefinite-length", f"{_KINDS[major]} of indefinite length")
        self.refuse("cbor.malformed", "reserved additional information or a stray break")

    def outermost(self) -> CborValue:
        """Read the whole item, which may have one tag of any number around it."""
        if self.data[:1] and self.data[0] >> 5 == _TAG:
            number = self.head()[2]
            return Tagged(number, self.value(1))
        return self.value(0)

    def value(self, depth: int) -> CborValue:
        """Read one item; ``depth`` is the number of arrays, maps and tags around it."""
        start = self.position
        major, info, argument = self.head()
        self._count(start)
        if major == _BYTES:
            return self._string(argument)
        if major == _TEXT:
            return self._text(argument, start)
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _SIMPLE:
            return self._simple(info, start)
        if depth >= self._depth:
            self.refuse("cbor.depth", "items are nested too deeply", at=start, expected=f"at most {self._depth} levels")
        if major == _ARRAY:
            return self._array(argument, depth + 1)
        if major == _MAP:
            return self._map(argument, depth + 1)
        if argument not in self._tags:
            self.refuse("cbor.tag", "a tag stands where none is allowed", at=start, seen=str(argument))
        return Tagged(argument, self.value(depth + 1))

    def _count(self, start: int) -> None:
        self._items -= 1
        if self._items < 0:
            self.refuse("cbor.items", "too many items", at=start)

    def _string(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            self.refuse("cbor.truncated", "the input ends inside a string")
        content = self.data[self.position : end]
        self.position = end
        return content

    def _text(self, length: int, start: int) -> str:
        try:
            return self._string(length).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("cbor.text", "a text string is not valid UTF-8", at=start)

    def _simple(self, info: int, start: int) -> CborValue:
        if info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        if info not in _FLOATS:
            self.refuse("cbor.simple", "a simple value other than false, true and null", at=start)
        if not self._floats:
            self.refuse("cbor.float", "a floating point number stands where none is allowed", at=start)
        number: float = _FLOATS[info].unpack(self.data[start + 1 : self.position])[0]
        return number

    def _array(self, length: int, depth: int) -> tuple[CborValue, ...]:
        self._fits(length)
        return tuple([self.value(depth) for _ in range(length)])

    def _map(self, length: int, depth: int) -> CborMap:
        self._fits(2 * length)
        entries: CborMap = {}
        for _ in range(length):
            start = self.position
            key = self._key()
            if key in entries:
                self.refuse("cbor.duplicate-key", "a map has the same key twice", at=start, seen=_label(key))
            entries[key] = self.value(depth)
        return entries

    def _key(self) -> int | str:
        """Read a key. Only integers and text come back, so Python's 1 == 1.0 == True cannot confuse two of them."""
        start = self.position
        major, _, argument = self.head()
        self._count(start)
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major != _TEXT or not self._text_keys:
            self.refuse("cbor.key-type", "a map key is not an integer", at=start, seen=_KINDS[major])
        return self._text(argument, start)

    def _fits(self, items: int) -> None:
        """Refuse a declared number of items that the rest of the input cannot hold: each takes a byte at least."""
        if items > len(self.data) - self.position:
            self.refuse("cbor.truncated", "an array or map declares more items than follow")


def _label(key: int | str) -> str | None:
    """An integer label may be shown; text is the sender's and stays out of messages."""
    return str(key) if isinstance(key, int) else "a text key"


def _encode_head(major: int, argument: int) -> bytes:
    if argument <= _LONGEST_INLINE:
        return bytes([major << 5 | argument])
    for info, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * width):
            return bytes([major << 5 | info]) + argument.to_bytes(width, "big")
    raise ValueError("an integer needs more than 64 bits")


def encode(value: object) -> bytes:
    """Encode with core deterministic encoding (RFC 8949 section 4.2.1): shortest heads, keys in bytewise order.

    Takes what ``decode`` returns, and lists and other mappings too. Raises ``ValueError`` for anything else, including
    integers beyond 64 bits, since we never write bignums.
    """
    if value is None or isinstance(value, bool | float):
        # cbor2 picks the shortest float that keeps the value.
        return cbor2.dumps(value, canonical=True)
    if isinstance(value, int):
        return _encode_head(_UNSIGNED, value) if value >= 0 else _encode_head(_NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _encode_head(_BYTES, len(value)) + value
    if isinstance(value, str):
        content = value.encode("utf-8")
        return _encode_head(_TEXT, len(content)) + content
    if isinstance(value, tuple | list):
        return _encode_head(_ARRAY, len(value)) + b"".join(encode(item) for item in value)
    if isinstance(value, Mapping):
        entries = sorted((encode(key), encode(item)) for key, item in value.items())
        return _encode_head(_MAP, len(entries)) + b"".join(key + item for key, item in entries)
    if isinstance(value, Tagged):
        return _encode_head(_TAG, value.number) + encode(value.value)
    raise ValueError(f"no CBOR encoding for {type(value).__name__}")
