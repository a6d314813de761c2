"""The firmware's event log of a realm as EDK2 writes it (CCEL), and the ACPI table that points to it.

Written by hand from UEFI 2.11 section 38 and PC Client PFP 10.2; shares no code with the parser that reads such logs.
"""

import struct
from collections.abc import Sequence

from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.firmware_boot import Measured
from kbs_rim.realm.log_emitter import TPM_ALG
from kbs_rim.realm.rim_model import RealmHash

AREA_SIZE = 64 * 1024
_AREA_BASE = 0x7C00_0000
_EV_NO_ACTION = 0x3
_CC_TYPE_ARM_CCA = 4
# signature, platformClass, minor, major, errata, uintnSize, numberOfAlgorithms, algorithm, digest size, vendorInfoSize
_SPEC_ID = struct.Struct("<16sIBBBBIHHB")
# ACPI header (signature, length, revision, checksum, OEM id, OEM table id, revision, creator, revision), then the CCEL fields
_CCEL = struct.Struct("<4sIBB6s8sI4sIBBHQQ")


def cc_log(measured: Sequence[Measured], hash_: RealmHash) -> bytes:
    """Return the log without what fills the area behind it."""
    spec = _SPEC_ID.pack(b"Spec ID Event03", 0, 0, 2, 106, 2, 1, TPM_ALG[hash_], hash_.size, 0)
    head = struct.pack("<II20sI", 0, _EV_NO_ACTION, b"", len(spec)) + spec
    return b"".join((head, *(cc_record(item, hash_) for item in measured)))


def cc_area(log: bytes, area_size: int = AREA_SIZE) -> bytes:
    """Return the log area, filled up with ones as firmware leaves it; raise ``SimulationFailed`` if the log does not fit."""
    if len(log) > area_size:
        raise SimulationFailed(f"the firmware's log has {len(log)} bytes, its area {area_size}")
    return log.ljust(area_size, b"\xff")


def cc_record(item: Measured, hash_: RealmHash) -> bytes:
    """Return one TCG_PCR_EVENT2 with one digest."""
    head = struct.pack("<IIIH", item.register, item.event_type, 1, TPM_ALG[hash_])
    return head + item.digest + struct.pack("<I", len(item.event)) + item.event


def ccel_table(area_size: int = AREA_SIZE) -> bytes:
    """Return the ACPI table, with a checksum that fits."""
    fields = (b"SIMRLM", b"CCEL    ", 1, b"SIM ", 1, _CC_TYPE_ARM_CCA, 0, 0, area_size, _AREA_BASE)
    table = bytearray(_CCEL.pack(b"CCEL", _CCEL.size, 1, 0, *fields))
    table[9] = -sum(table) % 256
    return bytes(table)
