"""How the RMM measures, straight from the structure layouts (RMM 1.0 B4.3.1.4, B4.3.9.4, B4.3.12.4).

This is the oracle that the broker's replay is tested against, so it shares no code with ``kbs_rim.measurement``: every
structure is packed here on its own, whole, by one ``struct.Struct`` with the padding written out.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum

PAGE = 4096
_RIM_SLOTS = 5
_EXTEND_LIMIT = 64


class RmmGeneration(StrEnum):
    """Which RMM is modelled: 1.0 (also 1.x) measures RIPAS, 2.0 does not."""

    V1 = "1.0"
    V2 = "2.0"


class RealmHash(StrEnum):
    """The realm's hash; the value is the name that hashlib knows."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Digest length in bytes."""
        return hashlib.new(self.value).digest_size


RMI_HASH_CODE = {RealmHash.SHA256: 0, RealmHash.SHA512: 1, RealmHash.SHA384: 2}


@dataclass(frozen=True, slots=True)
class RealmParams:
    """The realm parameters as the host passes them; ``rpv`` is not measured. Counts are RMI encodings (minus one)."""

    hash: RealmHash
    flags: int
    s2sz: int
    sve_vl: int = 0
    num_bps: int = 0
    num_wps: int = 0
    pmu_num_ctrs: int = 0
    rpv: bytes = bytes(64)


@dataclass(frozen=True, slots=True)
class RecParams:
    """The REC parameters that are measured."""

    flags: int
    pc: int
    gprs: tuple[int, ...]


# flags, then one byte each at 0x08, 0x10, 0x18, 0x20, 0x28, 0x30: s2sz, sve_vl, num_bps, num_wps, pmu_num_ctrs, hash_algo
_PARAMS_PAGE = struct.Struct("<QB7xB7xB7xB7xB7xB4047x")
# flags at 0x000, pc at 0x200, gprs[8] at 0x300
_REC_PAGE = struct.Struct("<Q504xQ248x8Q3264x")
# type, length, old RIM, then: ipa, flags, content | content | base, top
_DATA = struct.Struct("<B7xQ64sQQ64s96x")
_REC = struct.Struct("<B7xQ64s64s112x")
_RIPAS = struct.Struct("<B7xQ64sQQ160x")


class Measurements:
    """RIM and REM0-3 of one realm, kept in 64-byte slots as the RMM keeps them."""

    def __init__(self, params: RealmParams) -> None:
        """RMI_REALM_CREATE: slot 0 becomes the hash of the parameter page, the others are zero."""
        self.hash = params.hash
        self._slots = [bytes(64)] * _RIM_SLOTS
        self._new = getattr(hashlib, params.hash.value)
        code = RMI_HASH_CODE[params.hash]
        page = _PARAMS_PAGE.pack(params.flags, params.s2sz, params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs, code)
        self._set(page)

    def _set(self, structure: bytes) -> None:
        self._slots[0] = self._new(structure).digest().ljust(64, b"\0")

    @property
    def rim(self) -> bytes:
        """The RIM, as long as a digest of the realm's hash."""
        return self._slots[0][: self.hash.size]

    @property
    def rems(self) -> tuple[bytes, bytes, bytes, bytes]:
        """REM0 to REM3."""
        zero, one, two, three = (slot[: self.hash.size] for slot in self._slots[1:])
        return zero, one, two, three

    def measured_data(self, ipa: int, page: bytes | memoryview) -> None:
        """DATA_CREATE with RMI_MEASURE_CONTENT."""
        self._set(_DATA.pack(0, 0x100, self._slots[0], ipa, 1, self._new(page).digest()))

    def unmeasured_data(self, ipa: int) -> None:
        """DATA_CREATE with RMI_NO_MEASURE_CONTENT: the address is measured, the content is not."""
        self._set(_DATA.pack(0, 0x100, self._slots[0], ipa, 0, b""))

    def rec(self, rec: RecParams) -> None:
        """REC_CREATE of a runnable REC."""
        self._set(_REC.pack(1, 0x100, self._slots[0], self._new(_REC_PAGE.pack(rec.flags, rec.pc, *rec.gprs)).digest()))

    def ripas(self, base: int, top: int) -> None:
        """INIT_RIPAS of one RTT entry (RMM 1.x only)."""
        self._set(_RIPAS.pack(2, 0x100, self._slots[0], base, top))

    def extend(self, index: int, value: bytes) -> None:
        """RSI_MEASUREMENT_EXTEND: REM[index] = H(old digest || value). ``index`` counts from 1 as in the RSI call.

        Raises ``ValueError`` for what the RMM answers with RSI_ERROR_INPUT.
        """
        if not 1 <= index < _RIM_SLOTS or len(value) > _EXTEND_LIMIT:
            raise ValueError("RSI_ERROR_INPUT: index is 1 to 4, the value at most 64 bytes")
        old = self._slots[index][: self.hash.size]
        self._slots[index] = self._new(old + value).digest().ljust(64, b"\0")
