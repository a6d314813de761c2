"""The CCEL ACPI table, and the event log of the firmware that it points to.

Implements the CCEL table of ACPI 6.5 and UEFI 2.11 38. The table says what kind of confidential guest this is and where the log area lies;
the area is a TCG2 log that counts measurement registers. Neither is signed, and the table proves nothing: it is read so that an
area is never taken for the log of another machine by mistake.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.tcg_log import LogKind, TcgLog, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS, Limits

CCEL_TABLE_SIZE: Final = 56
CCEL_SIGNATURE: Final = b"CCEL"
CC_TYPE_ARM_CCA: Final = 4
CC_TYPES: Final[Mapping[int, str]] = MappingProxyType({1: "AMD SEV", 2: "Intel TDX", 3: "RISC-V AP-TEE", CC_TYPE_ARM_CCA: "Arm CCA"})
_TABLE = struct.Struct("<4sIBB6s8sI4sIBBHQQ")


@dataclass(frozen=True, slots=True)
class CcelTable:
    """The table. ``area_bytes`` is LAML, the size of the log area; ``area_address`` is LASA, its guest physical address."""

    revision: int
    cc_type: int
    cc_subtype: int
    area_bytes: int
    area_address: int

    @property
    def cc_type_name(self) -> str:
        """The architecture's name, or its number."""
        return CC_TYPES.get(self.cc_type, f"CC type {self.cc_type}")


def parse_ccel_table(data: bytes) -> CcelTable:
    """Decode the table: exactly 56 bytes that sum up to 0, with an area that Linux would accept.

    Raises ``MalformedEvidence("log.table")``.
    """
    if len(data) != CCEL_TABLE_SIZE:
        raise _refused("the CCEL table has the wrong size", expected=f"{CCEL_TABLE_SIZE} bytes", seen=f"{len(data)} bytes")
    signature, length, revision, _, _, _, _, _, _, cc_type, cc_subtype, _, area_bytes, area_address = _TABLE.unpack(data)
    if signature != CCEL_SIGNATURE:
        raise _refused("the table is no CCEL table", expected=CCEL_SIGNATURE.decode())
    if length != CCEL_TABLE_SIZE:
        raise _refused("the CCEL table names another length", offset=4, expected=str(CCEL_TABLE_SIZE), seen=str(length))
    if sum(data) % 256:
        raise _refused("the CCEL table's checksum is wrong", offset=9, seen=str(sum(data) % 256))
    if cc_type == 0:
        raise _refused("the CCEL table has the reserved CC type", offset=36, seen="0")
    if not area_bytes or not area_address or area_address + area_bytes > 1 << 64:
        raise _refused("the CCEL table names no log area", offset=40, seen=f"{area_bytes} bytes at {area_address:#x}")
    return CcelTable(revision, cc_type, cc_subtype, area_bytes, area_address)


def parse_ccel(table: bytes, area: bytes, limits: Limits = DEFAULT_LIMITS, *, cc_type: int = CC_TYPE_ARM_CCA) -> TcgLog:
    """Parse a log area together with its table, which must be of ``cc_type``. The area may be trimmed, never longer than the table says.

    Raises ``MalformedEvidence("log.*")``.
    """
    described = parse_ccel_table(table)
    if described.cc_type != cc_type:
        expected = CC_TYPES.get(cc_type, str(cc_type))
        raise _refused("the CCEL table is of another kind of machine", offset=36, expected=expected, seen=described.cc_type_name)
    if len(area) > described.area_bytes:
        limit = f"at most {described.area_bytes} bytes"
        raise _refused("the log area is larger than its table says", expected=limit, seen=f"{len(area)} bytes")
    return parse_tcg_log(area, LogKind.CC, limits)


def _refused(what: str, *, offset: int | None = None, expected: str | None = None, seen: str | None = None) -> MalformedEvidence:
    return MalformedEvidence("log.table", what, offset=offset, expected=expected, seen=seen)
