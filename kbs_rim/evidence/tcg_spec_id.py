"""The first record of a crypto-agile log: which hash algorithms follow.

Implements PC Client PFP 10. Only "Spec ID Event03" is read; its older relatives belong to the SHA-1 format.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.tcg_names import TPM_ALGORITHMS
from kbs_rim.limits import Limits

SPEC_ID_SIGNATURE: Final = b"Spec ID Event03\0"
_SPEC_ID_HEAD = struct.Struct("<16sIBBBBI")


@dataclass(frozen=True, slots=True)
class SpecId:
    """The first record of a crypto-agile log (TCG_EfiSpecIdEvent). ``algorithms`` maps TPM_ALG_ID to digest size in bytes."""

    index: int
    platform_class: int
    errata: int
    uintn_size: int
    algorithms: Mapping[int, int]
    vendor_info: bytes


def parse_spec_id(index: int, event: bytes, limits: Limits) -> SpecId:
    """Decode TCG_EfiSpecIdEvent. Its size must be exactly 29 + 4 x algorithms + vendor info (hazards D12, D13)."""
    head = _SPEC_ID_HEAD.size
    if len(event) < head + 1:
        raise MalformedEvidence("log.spec-id", "the Spec ID record is too short", offset=32, seen=f"{len(event)} bytes")
    _, platform_class, minor, major, errata, uintn_size, count = _SPEC_ID_HEAD.unpack_from(event)
    if (major, minor) != (2, 0) or uintn_size not in (1, 2) or platform_class not in (0, 1):
        seen = f"version {major}.{minor}, uintn size {uintn_size}, platform class {platform_class}"
        raise MalformedEvidence("log.spec-id", "the Spec ID record has unknown values", offset=48, expected="version 2.0", seen=seen)
    if not 1 <= count <= limits.log_algorithms or len(event) < head + 4 * count + 1:
        raise MalformedEvidence("log.spec-id", "the Spec ID record lists an impossible number of algorithms", offset=56, seen=str(count))
    vendor_size = event[head + 4 * count]
    if len(event) != head + 4 * count + 1 + vendor_size:
        raise MalformedEvidence(
            "log.spec-id",
            "the Spec ID record's size does not fit its contents",
            offset=32,
            expected=f"{head + 4 * count + 1 + vendor_size} bytes",
            seen=f"{len(event)} bytes",
        )
    algorithms = _algorithm_table(event[head : head + 4 * count])
    return SpecId(index, platform_class, errata, uintn_size, algorithms, event[head + 4 * count + 1 :])


def _algorithm_table(table: bytes) -> dict[int, int]:
    """Decode the algorithm table. Digest sizes are ours, not the log's: a SHA-256 of 1 byte is an attack (hazard D14)."""
    algorithms: dict[int, int] = {}
    for position in range(0, len(table), 4):
        identifier, size = struct.unpack_from("<HH", table, position)
        known = TPM_ALGORITHMS.get(identifier)
        if known is None or identifier in algorithms or size != known.digest_size:
            raise MalformedEvidence(
                "log.algorithm",
                "the Spec ID record lists an algorithm that is unknown, repeated or of a wrong size",
                offset=60 + position,
                expected=None if known is None else f"{known.name} of {known.digest_size} bytes",
                seen=f"algorithm {identifier:#06x} of {size} bytes",
            )
        algorithms[identifier] = size
    return algorithms
