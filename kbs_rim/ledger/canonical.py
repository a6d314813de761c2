"""Canonical JSON (RFC 8785) for the values that records hold: objects, arrays, strings, integers, booleans, null.

Floats are refused: no record holds one, and their canonical form is where implementations differ.
"""

import hashlib
import json
from typing import Any

_MAX_SAFE_INTEGER = (1 << 53) - 1


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 encoding of ``value``; raise ``TypeError`` or ``ValueError`` for what a record may not hold.

    Keys are sorted by UTF-16 code units, as RFC 8785 3.2.3 says; Python would sort by code point.
    """
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def digest_of(value: Any) -> str:
    """Return the lower-case hex SHA-256 of the canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _ordered(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_SAFE_INTEGER:
            raise ValueError("an integer beyond 2**53 has no canonical JSON form; write it as text")
        return value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys of a record are strings")
        keys = sorted(value) if "".join(value).isascii() else sorted(value, key=lambda key: key.encode("utf-16-be"))
        return {key: _ordered(value[key]) for key in keys}
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
