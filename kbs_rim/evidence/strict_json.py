"""A bounded JSON reader for everything that comes from outside: request bodies, envelopes, keys, headers of sealed answers.

``json.loads`` lets the last of two equal keys win, reads NaN, recurses as deeply as the sender likes and accepts UTF-16.
Two readers that differ in such things can be made to see two different documents (docs/tokens.md). Here a
document has one reading (RFC 8259, with the rules of RFC 7493 on duplicate keys and surrogates), or none.
"""

import json
import math
import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.long_strings import ShortenedJson, shorten
from kbs_rim.limits import DEFAULT_LIMITS

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_MAX_DIGITS = 19
# A string token ends at its quote or at the end of the input, so that no position is looked at twice.
_TOKEN = re.compile(rb'[\[{\]},:]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_OTHER_THAN_MARKS = bytes(set(range(256)) - set(b"[{]},:"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(
    data: bytes | bytearray,
    *,
    what: str = "the JSON document",
    max_bytes: int = DEFAULT_LIMITS.body_bytes,
    max_depth: int = DEFAULT_LIMITS.json_depth,
    max_items: int = DEFAULT_LIMITS.json_items,
    allow_floats: bool = False,
) -> JsonValue:
    """Read one JSON document in UTF-8; ``what`` names it in errors.

    ``max_depth`` counts arrays and objects; ``max_items`` counts tokens other than numbers and literals (brackets, strings,
    commas, colons), which bounds work and memory before a value is built. Integers have at most 19 digits.

    Raises ``MalformedEvidence``: ``envelope.too-large`` above ``max_bytes``, else ``envelope.malformed`` (not UTF-8, not
    JSON, duplicate keys, too deep, too many items, lone surrogates, NaN or infinity, floats unless ``allow_floats``).
    """
    if len(data) > max_bytes:
        raise MalformedEvidence(
            "envelope.too-large", f"{what} is too large", expected=f"at most {max_bytes} bytes", seen=f"{len(data)} bytes"
        )
    short = shorten(data, max_items)
    data = short.data
    _check_bounds(short, what, max_depth, max_items)
    try:
        text = data.decode("utf-8")
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_object_reader(what, short),
            parse_int=_integer_reader(what),
            parse_float=_float_reader(what, allow_floats),
            parse_constant=_constant_refuser(what),
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails if half a pair stands alone
        value = short.restore(value)
    except json.JSONDecodeError as error:
        offset = short.offset_in_original(len(text[: error.pos].encode("utf-8")))
        raise MalformedEvidence("envelope.malformed", f"{what} is not JSON", offset=offset) from None
    except UnicodeError:
        raise MalformedEvidence("envelope.malformed", f"{what} has text that is not Unicode") from None
    return value


def decode_object(
    data: bytes | bytearray,
    *,
    what: str = "the JSON document",
    max_bytes: int = DEFAULT_LIMITS.body_bytes,
    max_depth: int = DEFAULT_LIMITS.json_depth,
    max_items: int = DEFAULT_LIMITS.json_items,
    allow_floats: bool = False,
) -> dict[str, JsonValue]:
    """Like ``decode``, for a document that must be an object at the top."""
    value = decode(data, what=what, max_bytes=max_bytes, max_depth=max_depth, max_items=max_items, allow_floats=allow_floats)
    if not isinstance(value, dict):
        raise MalformedEvidence("envelope.malformed", f"{what} is not a JSON object")
    return value


def _is_within(data: bytes | bytearray, max_depth: int, max_items: int) -> bool:
    """Whether a document has no more tokens and levels than this, by few calls of the library; False also where those would take long."""
    if data.count(b'"') > 2 * max_items:
        return False
    bare, strings = _STRING.subn(b"", data)
    marks = bare.translate(None, _OTHER_THAN_MARKS)
    if strings + len(marks) > max_items:
        return False
    depth = deepest = 0
    for mark in marks.translate(None, b",:"):
        depth += 1 if mark in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest <= max_depth


def _check_bounds(short: ShortenedJson, what: str, max_depth: int, max_items: int) -> None:
    """Count nesting and tokens without recursion; whether it is JSON at all is decided later. What is too much is looked for again."""
    if _is_within(short.data, max_depth, max_items):
        return
    depth, data = 0, short.data
    for number, token in enumerate(_TOKEN.finditer(data), 1):
        if number > max_items:
            raise MalformedEvidence("envelope.malformed", f"{what} has too many items", expected=f"at most {max_items} items")
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > max_depth:
                offset = short.offset_in_original(token.start())
                expected = f"at most {max_depth} levels"
                raise MalformedEvidence("envelope.malformed", f"{what} is nested too deeply", offset=offset, expected=expected)
        elif first in b"]}":
            depth -= 1


def _object_reader(what: str, short: ShortenedJson) -> Callable[[list[tuple[str, JsonValue]]], dict[str, JsonValue]]:
    def read(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
        members = {short.restore(key): short.restore(value) for key, value in pairs} if short.strings else dict(pairs)
        if len(members) != len(pairs):
            raise MalformedEvidence("envelope.malformed", f"{what} has an object with the same key twice")
        return members

    return read


def _integer_reader(what: str) -> Callable[[str], int]:
    def read(digits: str) -> int:
        if len(digits.lstrip("-")) > _MAX_DIGITS:
            raise MalformedEvidence(
                "envelope.malformed", f"{what} has an integer that is too large", expected=f"at most {_MAX_DIGITS} digits"
            )
        return int(digits)

    return read


def _float_reader(what: str, allow_floats: bool) -> Callable[[str], float]:
    def read(digits: str) -> float:
        if not allow_floats:
            raise MalformedEvidence("envelope.malformed", f"{what} has a number with a fraction or an exponent")
        number = float(digits)
        if not math.isfinite(number):
            raise MalformedEvidence("envelope.malformed", f"{what} has a number that is too large")
        return number

    return read


def _constant_refuser(what: str) -> Callable[[str], NoReturn]:
    def refuse(name: str) -> NoReturn:
        raise MalformedEvidence("envelope.malformed", f"{what} has {name}, which is not JSON")

    return refuse


def encode(value: JsonValue) -> bytes:
    """Write JSON in UTF-8 without blanks, in the order of the given members. Raises ``ValueError`` for NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
