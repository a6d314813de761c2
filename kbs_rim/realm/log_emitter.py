"""The VMM's measurement log as QEMU and kvmtool really write it.

Shares no code with the parser that reads such logs. Options cover the documented layout, which nobody emits, and the older
kvmtool, which counted a NUL into descriptions.
"""

import struct
from dataclasses import dataclass
from enum import Enum

from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.rim_model import RMI_HASH_CODE, RealmHash, RealmParams, RecParams

LOG_AREA_SIZE = 64 * 1024
_EV_NO_ACTION, _EV_EVENT_TAG, _EV_POST_CODE2, _EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x3, 0x6, 0x13, 0x8000000A
_TAG_REALM_CREATE, _TAG_INIT_RIPAS, _TAG_REC_CREATE = 1, 2, 3
TPM_ALG = {RealmHash.SHA256: 0x000B, RealmHash.SHA384: 0x000C, RealmHash.SHA512: 0x000D}

# signature, platformClass, minor, major, errata, uintnSize, numberOfAlgorithms, algorithm, digest size, vendorInfoSize
_SPEC_ID = struct.Struct("<16sIBBBBIHHB")
# signature, name, version, ram_size, num_cpus, 4 bytes of C padding, flags
_VM_VERSION_EMITTED = struct.Struct("<16s32s40sQI4xQ")
# signature, name, version, log_start, log_size, ram_size, num_cpus
_VM_VERSION_DOCUMENTED = struct.Struct("<16s32s40sQQQI")
# flags, s2sz, sve_vl, num_bps, num_wps, pmu_num_ctrs, hash_algo, 2 bytes of C padding
_REALM_CREATE = struct.Struct("<QBBBBBB2x")
_INIT_RIPAS = struct.Struct("<QQ")
_REC_CREATE = struct.Struct("<QQ8Q")


class VmVersionLayout(Enum):
    """Which of the layouts of the VM VERSION record to write."""

    EMITTED = 112
    DOCUMENTED = 116


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How a VMM writes its log. ``nul_descriptions``: older kvmtool."""

    vmm_name: str
    vmm_version: str
    layout: VmVersionLayout = VmVersionLayout.EMITTED
    nul_descriptions: bool = False


@dataclass(frozen=True, slots=True)
class VmRecord:
    """VM VERSION. ``log_area`` is (base, size); only the documented layout has it."""

    ram_size: int
    cpus: int
    log_area: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """REALM_CREATE."""

    params: RealmParams


@dataclass(frozen=True, slots=True)
class RipasRecord:
    """INIT_RIPAS of ``size`` bytes from ``base`` on."""

    base: int
    size: int


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """An image, or with ``digest`` None an unmeasured range such as the log itself."""

    description: str
    base: int
    size: int
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class RecRecord:
    """REC_CREATE."""

    rec: RecParams


@dataclass(frozen=True, slots=True)
class TreeRecord:
    """EV_NO_ACTION "DTB": a device tree, not measured by standing here. Documented, and written by no VMM yet."""

    tree: bytes


@dataclass(frozen=True, slots=True)
class RawRecord:
    """Bytes as they are: what a hostile host may write."""

    data: bytes


LogRecord = VmRecord | CreateRecord | RipasRecord | BlobRecord | RecRecord | TreeRecord | RawRecord


class LogEmitter:
    """Writes records one after the other; ``finish`` pads to the log area."""

    def __init__(self, hash_: RealmHash, style: LogStyle) -> None:
        """Write the Spec ID record: one algorithm, the realm's."""
        self.hash = hash_
        self.style = style
        spec = _SPEC_ID.pack(b"Spec ID Event03", 0, 0, 2, 106, 2, 1, TPM_ALG[hash_], hash_.size, 0)
        self._parts = [struct.pack("<II20sI", 0, _EV_NO_ACTION, b"", len(spec)), spec]

    @property
    def used_bytes(self) -> int:
        """Bytes written so far."""
        return sum(map(len, self._parts))

    def _record(self, event_type: int, digests: list[tuple[int, bytes]], data: bytes) -> None:
        head = struct.pack("<III", 0, event_type, len(digests))
        body = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests)
        self._parts += [head, body, struct.pack("<I", len(data)), data]

    def _tagged(self, tag: int, data: bytes) -> None:
        self._record(_EV_EVENT_TAG, [], struct.pack("<II", tag, len(data)) + data)

    def write(self, record: LogRecord) -> None:
        """Append one record."""
        match record:
            case VmRecord():
                self._vm_version(record)
            case CreateRecord(params):
                counts = (params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs)
                data = _REALM_CREATE.pack(params.flags, params.s2sz, *counts, RMI_HASH_CODE[params.hash])
                self._tagged(_TAG_REALM_CREATE, data)
            case RipasRecord(base, size):
                self._tagged(_TAG_INIT_RIPAS, _INIT_RIPAS.pack(base, size))
            case RecRecord(rec):
                self._tagged(_TAG_REC_CREATE, _REC_CREATE.pack(rec.flags, rec.pc, *rec.gprs))
            case BlobRecord():
                self._blob(record)
            case TreeRecord(tree):
                self._record(_EV_NO_ACTION, [(0, bytes(self.hash.size))], b"DTB".ljust(16, b"\0") + tree)
            case RawRecord(data):
                self._parts.append(data)

    def _vm_version(self, record: VmRecord) -> None:
        """EV_NO_ACTION with one zero digest of algorithm 0."""
        head = (b"VM VERSION", self.style.vmm_name.encode(), self.style.vmm_version.encode())
        if self.style.layout is VmVersionLayout.DOCUMENTED:
            data = _VM_VERSION_DOCUMENTED.pack(*head, *(record.log_area or (0, 0)), record.ram_size, record.cpus)
        else:
            data = _VM_VERSION_EMITTED.pack(*head, record.ram_size, record.cpus, 0)
        self._record(_EV_NO_ACTION, [(0, bytes(self.hash.size))], data)

    def _blob(self, record: BlobRecord) -> None:
        text = record.description.encode() + (b"\0" if self.style.nul_descriptions else b"")
        event = _EV_EFI_PLATFORM_FIRMWARE_BLOB2 if record.description == "FIRMWARE" else _EV_POST_CODE2
        digests = [] if record.digest is None else [(TPM_ALG[self.hash], record.digest)]
        self._record(event, digests, struct.pack("<B", len(text)) + text + struct.pack("<QQ", record.base, record.size))

    def finish(self, area_size: int = LOG_AREA_SIZE) -> bytes:
        """Return the log, zero padded to the area; raise ``SimulationFailed`` if it does not fit."""
        if self.used_bytes > area_size:
            raise SimulationFailed(f"the log has {self.used_bytes} bytes, its area {area_size}")
        return b"".join(self._parts).ljust(area_size, b"\0")
