"""Values as VMM command lines write them: sizes, numbers, switches, lists of properties, hash names, personalization values.

Hostile or just mistyped text ends in ``InvalidDocument`` (``document.vm-arguments``) that names the option and what it wants.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import KIB, MIB
from kbs_rim.measurement.vmm.definition import RPV_SIZE, SveSwitch, refuse_argument
from kbs_rim.measurement.vmm.host_capabilities import SVE_MAX, SVE_STEP

SUFFIXES: Mapping[str, int] = {
    "B": 1,
    "K": KIB,
    "M": MIB,
    "G": 1024 * MIB,
    "T": 1024**2 * MIB,
    "P": 1024**3 * MIB,
}
_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,12}))?([A-Za-z]?)")
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,16}")
_LARGEST_SIZE = 1 << 52
_DIGITS = re.compile(r"[0-9]{1,10}")
_ON, _OFF = ("on", "yes", "true", "y"), ("off", "no", "false", "n")
LONGEST_ARGUMENT = 64 * KIB
"""Characters of one argument; Linux itself stops at 128 KiB."""


class Property(NamedTuple):
    """One item of a list: ``key`` is empty where the item has no ``=``."""

    key: str
    value: str


def parse_size(option: str, text: str, *, unit: int = MIB, suffixes: str = "BKMGTP", hexadecimal: bool = False) -> int:
    """Return a size in bytes. Without a suffix the number counts ``unit`` bytes; case does not matter; "1.5G" is exact or refused.

    ``hexadecimal`` takes 0x and digits, without a suffix, as well.
    """
    if hexadecimal and _HEXADECIMAL.fullmatch(text):
        text = str(int(text, 16))
    match = _SIZE.fullmatch(text)
    letter = match[3].upper() if match else ""
    if match is None or (letter and letter not in suffixes):
        raise refuse_argument(option, f"{_shown(text)} is not a size; write a number and one of {', '.join(suffixes)}, such as 512M")
    step = SUFFIXES[letter] if letter else unit
    digits = match[2] or ""
    scale: int = 10 ** len(digits)
    scaled, rest = divmod(int(match[1] + digits) * step, scale)
    if rest:
        raise refuse_argument(option, f"{_shown(text)} is not a whole number of bytes")
    if scaled > _LARGEST_SIZE:
        raise refuse_argument(option, f"{_shown(text)} is more than any realm can have")
    return scaled


def parse_number(option: str, text: str, low: int, high: int, *, hexadecimal: bool = False) -> int:
    """Return a decimal number within [low, high]; with ``hexadecimal`` 0x is allowed too."""
    value = -1
    if _DIGITS.fullmatch(text):
        value = int(text)
    elif hexadecimal and _HEXADECIMAL.fullmatch(text):
        value = int(text, 16)
    if not low <= value <= high:
        raise refuse_argument(option, f"{_shown(text)} is not a whole number from {low} to {high}")
    return value


def parse_switch(option: str, text: str) -> bool | None:
    """Return True or False for on, yes, true, y and off, no, false, n; None for auto."""
    if text in _ON:
        return True
    if text in _OFF:
        return False
    if text == "auto":
        return None
    raise refuse_argument(option, f"{_shown(text)} is neither on, off nor auto")


def parse_sve_switch(where: str, item: Property) -> SveSwitch | None:
    """Return what sve=on|off or sveN=on|off of a CPU switches; None for auto."""
    bits = parse_number(where, item.key.removeprefix("sve"), SVE_STEP, SVE_MAX) if item.key != "sve" else 0
    switch = parse_switch(where, item.value)
    return None if switch is None else SveSwitch(bits, switch)


def parse_hash(option: str, text: str) -> HashAlgorithm:
    """Return the realm's hash from sha256, sha384 or sha512."""
    for algorithm in HashAlgorithm:
        if text in (algorithm.compact_name, algorithm.value):
            return algorithm
    raise refuse_argument(option, f"{_shown(text)} is not a hash of the RMM; choose sha256, sha384 (RMM 2.0 only) or sha512")


def parse_rpv_base64(option: str, text: str) -> bytes:
    """Return a personalization value given in base64, padded to 64 bytes."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise refuse_argument(option, "the personalization value is not base64") from None
    return pad_rpv(option, value)


def pad_rpv(option: str, value: bytes) -> bytes:
    """Return ``value`` with zero bytes behind it up to 64."""
    if len(value) > RPV_SIZE:
        raise refuse_argument(option, f"a personalization value has at most {RPV_SIZE} bytes, this one has {len(value)}")
    return value.ljust(RPV_SIZE, b"\0")


def split_properties(text: str, *, escaped: bool) -> tuple[Property, ...]:
    """Split ``a,b=c``. With ``escaped`` a doubled comma stands for one, as in QEMU's option lists."""
    parts = list(_unescaped_parts(text)) if escaped else text.split(",")
    return tuple(Property(*_key_and_value(part)) for part in parts)


def join_properties(properties: tuple[Property, ...]) -> str:
    """Write what ``split_properties(..., escaped=True)`` reads back."""
    written = (f"{item.key}={item.value}" if item.key else item.value for item in properties)
    return ",".join(part.replace(",", ",,") for part in written)


def split_bracketed(text: str) -> tuple[Property, ...]:
    """Split ``a=1,b=[2,3],c="4,5"`` at the commas outside of brackets and double quotes, as cloud-hypervisor does."""
    parts, depth, quoted, start = [], 0, False, 0
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == "," and depth <= 0 and not quoted:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return tuple(Property(*_key_and_value(part)) for part in parts)


def properties_of(option: str, text: str, first: str) -> tuple[Property, ...]:
    """Read QEMU's ``type,key=value`` or its JSON form; the type (JSON: member ``first``) comes first, without a key."""
    if not text.startswith("{"):
        return split_properties(text, escaped=True)
    try:
        members = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise refuse_argument(option, "begins like JSON but is none, or has a member twice") from None
    kind = members.get(first) if isinstance(members, dict) else None
    if not isinstance(kind, str):
        raise refuse_argument(option, f'its JSON object needs "{first}"')
    return (Property("", kind), *(Property(key, _scalar(value)) for key, value in members.items() if key != first))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def _unescaped_parts(text: str) -> Iterator[str]:
    pieces: list[str] = []
    position = 0
    while position < len(text):
        end = text.find(",", position)
        end = len(text) if end < 0 else end
        pieces.append(text[position:end])
        if text.startswith(",,", end):
            pieces.append(",")
            end += 1
        elif end < len(text):
            yield "".join(pieces)
            pieces = []
        position = end + 1
    yield "".join(pieces)


def _key_and_value(part: str) -> tuple[str, str]:
    key, sign, value = part.partition("=")
    return (key, value) if sign else ("", part)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
