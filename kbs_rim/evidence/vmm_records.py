"""The records that only a VMM writes: what it did to build the realm.

Implements the records of QEMU and kvmtool (docs/logs.md). Only the structure is checked here (``MalformedEvidence("log.event-data")``);
whether the values make sense is for ``measurement.boot_plan``. All integers are little-endian and raw.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from kbs_rim.evidence.tcg_log import VM_VERSION_SIGNATURE
from kbs_rim.evidence.tcg_structures import malformed

_REALM_CREATE = struct.Struct("<QBBBBBB")
_REALM_CREATE_PADDING = 2
_INIT_RIPAS = struct.Struct("<QQ")
_REC_CREATE = struct.Struct("<QQ8Q")


class VmVersionLayout(Enum):
    """The three layouts of VM VERSION, told apart by the size of the event in bytes.

    All begin with signature[16], name[32], version[40]. ``PACKED`` is what the reference reader needs: ram_size u64,
    num_cpus u32. ``EMITTER`` is what QEMU and kvmtool write, a C structure: the same, then 4 bytes of padding and flags u64.
    ``DOCUMENTED`` has log_start u64 and log_size u64 before ram_size.
    """

    PACKED = 100
    EMITTER = 112
    DOCUMENTED = 116


_LAYOUTS = {
    VmVersionLayout.PACKED: struct.Struct("<16s32s40sQI"),
    VmVersionLayout.EMITTER: struct.Struct("<16s32s40sQI4xQ"),
    VmVersionLayout.DOCUMENTED: struct.Struct("<16s32s40sQQQI"),
}


@dataclass(frozen=True, slots=True)
class VmVersionRecord:
    """EV_NO_ACTION "VM VERSION". Not measured: it may only choose how to look at a device tree. ``ram_size`` is in bytes."""

    layout: VmVersionLayout
    name: str
    version: str
    ram_size: int
    num_cpus: int


class RealmCreateRecord(NamedTuple):
    """Tagged event 1: the raw realm parameters."""

    flags: int
    s2sz: int
    sve_vl: int
    num_bps: int
    num_wps: int
    pmu_num_ctrs: int
    hash_algo: int


class InitRipasRecord(NamedTuple):
    """Tagged event 2: a range of RAM. ``size`` is a size, not an end address."""

    base: int
    size: int


class RecCreateRecord(NamedTuple):
    """Tagged event 3: the entry state of a vCPU."""

    flags: int
    pc: int
    gprs: tuple[int, int, int, int, int, int, int, int]


def parse_vm_version(data: bytes) -> VmVersionRecord:
    """Decode VM VERSION in any of its three layouts; any other size is refused."""
    if not data.startswith(VM_VERSION_SIGNATURE):
        malformed("VM VERSION has another signature")
    try:
        layout = VmVersionLayout(len(data))
    except ValueError:
        sizes = ", ".join(str(known.value) for known in VmVersionLayout)
        malformed("VM VERSION has an unknown size", expected=f"one of {sizes} bytes", seen=f"{len(data)} bytes")
    fields = _LAYOUTS[layout].unpack(data)
    ram_size, num_cpus = fields[5:7] if layout is VmVersionLayout.DOCUMENTED else fields[3:5]
    return VmVersionRecord(layout, _text("the VMM's name", fields[1]), _text("the VMM's version", fields[2]), ram_size, num_cpus)


def parse_realm_create(data: bytes) -> RealmCreateRecord:
    """Decode REALM_CREATE: 14 bytes as documented, or 16 as emitted (C padding of no meaning, ignored)."""
    if len(data) not in (_REALM_CREATE.size, _REALM_CREATE.size + _REALM_CREATE_PADDING):
        malformed("REALM_CREATE has the wrong size", expected="14 or 16 bytes", seen=f"{len(data)} bytes")
    return RealmCreateRecord(*_REALM_CREATE.unpack_from(data))


def parse_init_ripas(data: bytes) -> InitRipasRecord:
    """Decode INIT_RIPAS: base u64, size u64."""
    if len(data) != _INIT_RIPAS.size:
        malformed("INIT_RIPAS has the wrong size", expected=f"{_INIT_RIPAS.size} bytes", seen=f"{len(data)} bytes")
    return InitRipasRecord(*_INIT_RIPAS.unpack(data))


def parse_rec_create(data: bytes) -> RecCreateRecord:
    """Decode REC_CREATE: flags u64, pc u64, eight registers."""
    if len(data) != _REC_CREATE.size:
        malformed("REC_CREATE has the wrong size", expected=f"{_REC_CREATE.size} bytes", seen=f"{len(data)} bytes")
    flags, pc, *gprs = _REC_CREATE.unpack(data)
    return RecCreateRecord(flags, pc, (gprs[0], gprs[1], gprs[2], gprs[3], gprs[4], gprs[5], gprs[6], gprs[7]))


def _text(what: str, field: bytes) -> str:
    # A C string: what stands behind the first NUL is left over from whatever was there before.
    text = field.split(b"\0", 1)[0]
    if not text.isascii() or not text.decode("ascii").isprintable():
        malformed(f"{what} is not printable ASCII")
    return text.decode("ascii")
