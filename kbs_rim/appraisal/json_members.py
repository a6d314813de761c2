"""Typed access to members of a JSON document of an endorser; every refusal is ``InvalidDocument("endorsement.malformed")``."""

import re
from collections.abc import Mapping
from typing import Any

from kbs_rim.appraisal.annotated_evidence import decode_base64
from kbs_rim.appraisal.comid_shape import malformed

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


def object_member(value: Any, what: str, allowed: set[str] | None) -> dict[str, Any]:
    """Return ``value`` if it is an object with no members but ``allowed`` (None: any)."""
    if not isinstance(value, dict):
        malformed(f"{what} is not an object")
    if allowed is not None and (unknown := sorted(set(value) - allowed)):
        malformed(f"{what} has a member that is not read here", expected=", ".join(sorted(allowed)), seen=ascii(unknown[0])[:40])
    return value


def list_member(value: Any, what: str) -> list[Any]:
    """Return ``value`` if it is a list."""
    return value if isinstance(value, list) else malformed(f"{what} is not a list")


def non_empty_member(value: Any, what: str) -> list[Any]:
    """Return ``value`` if it is a list of at least one item."""
    return list_member(value, what) or malformed(f"{what} is empty")


def hex_member(members: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes that the member ``name`` has in hexadecimal."""
    value = members.get(name)
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        malformed(f"{name or 'a value'} is not hexadecimal")
    return bytes.fromhex(value)


def optional_text_member(members: Mapping[str, Any], name: str) -> str | None:
    """Return the member ``name`` if it is text, or None if it is missing."""
    value = members.get(name)
    return value if value is None or isinstance(value, str) else malformed(f"{name} is not text")


def base64_member(value: Any, what: str) -> bytes:
    """Return the bytes that ``value`` has in base64, padded or not."""
    data = decode_base64(value) if isinstance(value, str) else None
    return data if data is not None else malformed(f"{what} is not base64")
