"""A model of the RMM: the commands that build a realm, their checks, their effect on the tables and on the RIM.

Follows TF-RMM (the loop of RTT_INIT_RIPAS as in its source). It is an oracle: nothing here is
shared with the broker's replay, which has no tables at all. What the RMM refuses, the model refuses, so a simulated host
cannot do what a real one cannot do.
"""

from dataclasses import dataclass

from kbs_rim.realm.failures import RmmRefused
from kbs_rim.realm.rim_model import PAGE, Measurements, RealmHash, RealmParams, RecParams, RmmGeneration
from kbs_rim.realm.stage2 import LAST_LEVEL, Leaf, Stage2

_FLAG_LPA2, _FLAG_SVE, _FLAG_PMU = 1 << 0, 1 << 1, 1 << 2
_KNOWN_FLAGS = {RmmGeneration.V1: 0x00F, RmmGeneration.V2: 0x0EF}
_REC_RUNNABLE = 1


@dataclass(frozen=True, slots=True)
class RttError:
    """RMI_ERROR_RTT: the walk ended at ``level``; the host may create a table below and try again."""

    level: int


def check_realm_params(generation: RmmGeneration, params: RealmParams) -> None:
    """Raise ``RmmRefused`` for parameters that TF-RMM refuses."""

    def need(condition: bool, text: str) -> None:
        if not condition:
            raise RmmRefused("RMI_ERROR_INPUT", text)

    lpa2 = bool(params.flags & _FLAG_LPA2)
    need(32 <= params.s2sz <= (52 if lpa2 else 48), f"s2sz {params.s2sz} is out of range")
    need(1 <= params.num_bps <= 63 and 1 <= params.num_wps <= 63, "a realm has 2 to 64 breakpoints and watchpoints")
    need(not params.flags & _FLAG_SVE or params.sve_vl <= 15, "SVE vector length is out of range")
    need(not params.flags & _FLAG_PMU or params.pmu_num_ctrs <= 31, "too many PMU counters")
    need(not params.flags & ~_KNOWN_FLAGS[generation], f"flags {params.flags:#x} are unknown to RMM {generation.value}")
    need(generation is RmmGeneration.V2 or params.hash is not RealmHash.SHA384, "RMM 1.0 has no SHA-384")
    need(len(params.rpv) == 64, "the RPV has 64 bytes")


class RmmModel:
    """One realm inside the RMM, from REALM_CREATE on."""

    def __init__(self, generation: RmmGeneration, params: RealmParams) -> None:
        """RMI_REALM_CREATE; raises ``RmmRefused``."""
        check_realm_params(generation, params)
        self.generation = generation
        self.params = params
        self.tables = Stage2(params.s2sz)
        self.measurements = Measurements(params)
        self.active = False
        self.runnable_recs = 0

    def _check_new(self) -> None:
        if self.active:
            raise RmmRefused("RMI_ERROR_REALM", "the realm is active")

    def _check_ipa(self, ipa: int) -> None:
        if ipa % PAGE or not 0 <= ipa < self.tables.protected_top:
            raise RmmRefused("RMI_ERROR_INPUT", f"{ipa:#x} is not a page of the protected address space")

    def rtt_create(self, ipa: int, level: int) -> None:
        """RMI_RTT_CREATE."""
        self._check_ipa(ipa)
        if not self.tables.start_level < level <= LAST_LEVEL:
            raise RmmRefused("RMI_ERROR_INPUT", f"a table cannot be created at level {level}")
        self.tables.create_table(ipa, level)

    def init_ripas(self, base: int, top: int) -> int | RttError:
        """RMI_RTT_INIT_RIPAS: return how far it came, or the level where the walk ended when it came nowhere."""
        self._check_new()
        self._check_ipa(base)
        self._check_ipa(top - PAGE)
        if top <= base:
            raise RmmRefused("RMI_ERROR_INPUT", "the range is empty")
        found = self.tables.walk(base)
        table, index, address = found.table, found.index, base
        if (base - table.base) % table.span:
            return RttError(table.level)
        while index < len(table.entries) and address + table.span <= top:
            if table.entries[index] not in (Leaf.UNASSIGNED_EMPTY, Leaf.UNASSIGNED_RAM):
                break
            table.entries[index] = Leaf.UNASSIGNED_RAM
            if self.generation is RmmGeneration.V1:
                self.measurements.ripas(address, address + table.span)
            index, address = index + 1, address + table.span
        return address if address > base else RttError(table.level)

    def data_create(self, ipa: int, page: bytes | memoryview, *, measured: bool) -> RttError | None:
        """RMI_DATA_CREATE (2.0: RMI_RTT_DATA_MAP_INIT) of one page of 4096 bytes."""
        self._check_new()
        self._check_ipa(ipa)
        if len(page) != PAGE:
            raise RmmRefused("RMI_ERROR_INPUT", "a granule has 4096 bytes")
        found = self.tables.walk(ipa)
        if found.table.level != LAST_LEVEL:
            return RttError(found.table.level)
        if found.leaf is Leaf.ASSIGNED_RAM:
            raise RmmRefused("RMI_ERROR_RTT", f"granule {ipa:#x} holds data already")
        found.table.entries[found.index] = Leaf.ASSIGNED_RAM
        if measured:
            self.measurements.measured_data(ipa, page)
        else:
            self.measurements.unmeasured_data(ipa)
        return None

    def rec_create(self, rec: RecParams) -> None:
        """RMI_REC_CREATE; only a runnable REC is measured."""
        self._check_new()
        if rec.flags & ~_REC_RUNNABLE:
            raise RmmRefused("RMI_ERROR_INPUT", f"REC flags {rec.flags:#x}")
        if rec.flags & _REC_RUNNABLE:
            self.runnable_recs += 1
            self.measurements.rec(rec)

    def activate(self) -> None:
        """RMI_REALM_ACTIVATE: from now on the RIM is fixed."""
        self._check_new()
        self.active = True

    def extend(self, index: int, value: bytes) -> None:
        """RSI_MEASUREMENT_EXTEND by the running realm, ``index`` 1 to 4."""
        if not self.active:
            raise RmmRefused("RSI_ERROR_STATE", "the realm does not run yet")
        try:
            self.measurements.extend(index, value)
        except ValueError as error:
            raise RmmRefused("RSI_ERROR_INPUT", str(error)) from None
