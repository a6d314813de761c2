"""The hypervisor between VMM and RMM, modelled after Linux KVM: it creates tables on demand, as coarse as it can.

Source: the Arm CCA series for KVM.
"""

from enum import StrEnum

from kbs_rim.realm.failures import RmmRefused
from kbs_rim.realm.guest_memory import GuestMemory
from kbs_rim.realm.rim_model import PAGE, RecParams
from kbs_rim.realm.rmm_model import RmmModel, RttError
from kbs_rim.realm.stage2 import LAST_LEVEL, span_of


class BuildOrder(StrEnum):
    """When RIPAS is set: before the data by the VMM, or by the kernel when the realm is activated (KVM series v12)."""

    RIPAS_FIRST = "log"
    RIPAS_LAST = "ripas-last"


class KvmHost:
    """Drives one realm's construction."""

    def __init__(self, rmm: RmmModel) -> None:
        self.rmm = rmm

    def _coarsest_level(self, ipa: int, end: int) -> int:
        level = LAST_LEVEL
        while level > self.rmm.tables.start_level:
            size = span_of(level - 1)
            if ipa % size or ipa + size > end:
                break
            level -= 1
        return level

    def _create_levels(self, ipa: int, existing: int, wanted: int) -> None:
        for level in range(existing + 1, wanted + 1):
            self.rmm.rtt_create(ipa, level)

    def init_ripas(self, base: int, size: int, *, skip_data: bool = False) -> None:
        """Make [base, base + size) RAM. ``skip_data``: step over pages that hold data, as KVM v12 does at activation."""
        ipa, end = base, base + size
        while ipa < end:
            result = self.rmm.init_ripas(ipa, end)
            if not isinstance(result, RttError):
                ipa = result
                continue
            wanted = self._coarsest_level(ipa, end)
            if result.level < wanted:
                self._create_levels(ipa, result.level, wanted)
            elif skip_data and result.level == LAST_LEVEL:
                ipa += PAGE
            else:
                raise RmmRefused("RMI_ERROR_RTT", f"{ipa:#x} cannot become RAM: it holds data")

    def populate(
        self, memory: GuestMemory, base: int, size: int, *, measured: bool = True, page_size: int = PAGE, skip: frozenset[int] = frozenset()
    ) -> None:
        """Load the pages around [base, base + size), rounded outwards to the host's ``page_size``, zeros included.

        ``skip``: page addresses to leave out (a host may do that).
        """
        low, high = base // page_size * page_size, -(-(base + size) // page_size) * page_size
        for ipa, page in memory.pages(low, high):
            if ipa in skip:
                continue
            error = self.rmm.data_create(ipa, page, measured=measured)
            if error is not None:
                self._create_levels(ipa, error.level, LAST_LEVEL)
                if self.rmm.data_create(ipa, page, measured=measured) is not None:
                    raise RmmRefused("RMI_ERROR_RTT", f"no table for {ipa:#x}")

    def create_rec(self, rec: RecParams) -> None:
        """Create one vCPU."""
        self.rmm.rec_create(rec)
