"""Fields of an image's JSON document, read strictly: what is missing, unknown, of another type or length is refused.

Addresses and header fields of 64 bits are hex strings (``"0x40000000"``), because many readers of JSON cut numbers above
2**53. Digests are lower-case hex, granule digests canonical base64.
"""

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.device_tree import DeviceTreeFacts, Range

_PIECE = 64 * 1024
"""Characters of base64 that are read at once, a multiple of 4: the library keeps the interpreter's lock, and others wait for it."""
_HEX_NUMBER = re.compile(r"0x(0|[1-9a-f][0-9a-f]{0,15})")
_HEX = re.compile(r"([0-9a-f]{2})*")
_RANGES_MAX = 1024
"""Most ranges of one kind in a document; a real tree has a handful."""
_TREE_MEMBERS = ("memory", "initrd", "bootargs", "log_area", "reserved", "cpus", "size")


def invalid(where: str, problem: str) -> InvalidDocument:
    """Make the error for member ``where``."""
    return InvalidDocument("document.image", f"the image document is not valid: {where}: {problem}")


def members(value: Any, names: Sequence[str], where: str, *, optional: Collection[str] = ()) -> Mapping[str, Any]:
    """Return ``value`` if it is an object with exactly these members, of which the ``optional`` ones may be missing."""
    if not isinstance(value, Mapping):
        raise invalid(where, "must be an object")
    if wrong := (set(names) ^ set(value)) - (set(optional) - set(value)):
        raise invalid(where, f"missing or unknown members: {', '.join(sorted(map(str, wrong)))[:200]}")
    return value


def whole_number(value: Any, where: str, *, low: int, high: int) -> int:
    """Return an integer between ``low`` and ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(where, f"must be a whole number from {low} to {high}")
    return value


def limited_list(value: Any, where: str, most: int) -> list[Any]:
    """Return ``value`` if it is a list of at most ``most`` items."""
    if not isinstance(value, list) or len(value) > most:
        raise invalid(where, f"must be a list of at most {most} items")
    return value


def text_or_none(value: Any, where: str, most: int) -> str | None:
    """Return text of at most ``most`` bytes in UTF-8 and without NUL, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value or len(value) > most or len(value.encode("utf-8", "surrogatepass")) > most:
        raise invalid(where, f"must be null, or text of at most {most} bytes without NUL")
    return value


def number_to_hex(value: int) -> str:
    """Write an unsigned 64-bit field."""
    return f"{value:#x}"


def number_from_hex(value: Any, where: str) -> int:
    """Read an unsigned 64-bit field."""
    if not isinstance(value, str) or not _HEX_NUMBER.fullmatch(value):
        raise invalid(where, 'must be a lower-case hex number such as "0x1000"')
    return int(value, 16)


def digests_to_document(digests: Mapping[HashAlgorithm, bytes]) -> dict[str, str]:
    """Write whole digests by algorithm."""
    return {algorithm.compact_name: digests[algorithm].hex() for algorithm in HashAlgorithm}


def digests_from_document(value: Any, where: str) -> dict[HashAlgorithm, bytes]:
    """Read one digest for each algorithm, of exactly its length."""
    fields = members(value, [algorithm.compact_name for algorithm in HashAlgorithm], where)
    found = {}
    for algorithm in HashAlgorithm:
        text = fields[algorithm.compact_name]
        if not isinstance(text, str) or len(text) != 2 * algorithm.digest_size or not _HEX.fullmatch(text):
            raise invalid(f"{where}.{algorithm.compact_name}", f"must be {algorithm.digest_size} bytes in lower-case hex")
        found[algorithm] = bytes.fromhex(text)
    return found


def base64_to_document(value: bytes) -> str:
    """Write bytes in standard base64 with padding."""
    step = _PIECE // 4 * 3
    return "".join([base64.b64encode(value[at : at + step]).decode("ascii") for at in range(0, len(value), step)])


def base64_from_document(value: Any, where: str, size: int) -> bytes:
    """Read exactly ``size`` bytes of canonical base64; nothing is decoded if the length is wrong."""
    if not isinstance(value, str) or len(value) != -(-size // 3) * 4:
        raise invalid(where, f"must be {size} bytes in base64")
    if 0 <= value.find("=") < len(value) - 2:
        raise invalid(where, "is not base64")
    try:
        found = b"".join([_decoded(value[at : at + _PIECE], where) for at in range(0, len(value), _PIECE)])
    except (binascii.Error, ValueError):
        raise invalid(where, "is not base64") from None
    if len(found) != size:
        raise invalid(where, "is not canonical base64 of the right length")
    return found


def _decoded(text: str, where: str) -> bytes:
    found = base64.b64decode(text, validate=True)
    if base64.b64encode(found).decode("ascii") != text:
        raise invalid(where, "is not canonical base64 of the right length")
    return found


def facts_to_document(facts: DeviceTreeFacts) -> dict[str, Any]:
    """Write the facts of a device tree."""
    return {
        "memory": [_range_to_document(item) for item in facts.memory],
        "initrd": None if facts.initrd is None else _range_to_document(facts.initrd),
        "bootargs": facts.bootargs,
        "log_area": None if facts.log_area is None else _range_to_document(facts.log_area),
        "reserved": [_range_to_document(item) for item in facts.reserved],
        "cpus": facts.cpus,
        "size": facts.size,
    }


def facts_from_document(value: Any, where: str, size: int) -> DeviceTreeFacts:
    """Read the facts of a device tree of ``size`` bytes."""
    fields = members(value, _TREE_MEMBERS, where)
    bootargs = fields["bootargs"]
    if bootargs is not None and (not isinstance(bootargs, str) or "\0" in bootargs):
        raise invalid(f"{where}.bootargs", "must be text or null")
    return DeviceTreeFacts(
        memory=_ranges_from_document(fields["memory"], f"{where}.memory"),
        initrd=None if fields["initrd"] is None else _range_from_document(fields["initrd"], f"{where}.initrd"),
        bootargs=bootargs,
        log_area=None if fields["log_area"] is None else _range_from_document(fields["log_area"], f"{where}.log_area"),
        reserved=_ranges_from_document(fields["reserved"], f"{where}.reserved"),
        cpus=whole_number(fields["cpus"], f"{where}.cpus", low=0, high=size),
        size=whole_number(fields["size"], f"{where}.size", low=size, high=size),
    )


def _range_to_document(item: Range) -> list[str]:
    return [number_to_hex(item[0]), number_to_hex(item[1])]


def _range_from_document(value: Any, where: str) -> Range:
    if not isinstance(value, list) or len(value) != 2:
        raise invalid(where, "must be a list of two hex numbers")
    return number_from_hex(value[0], where), number_from_hex(value[1], where)


def _ranges_from_document(value: Any, where: str) -> tuple[Range, ...]:
    if not isinstance(value, list) or len(value) > _RANGES_MAX:
        raise invalid(where, f"must be a list of at most {_RANGES_MAX} ranges")
    return tuple(_range_from_document(item, where) for item in value)
