"""Dialects of the replay: what the log does not say and several real hosts do differently.

A dialect is named and tried in a fixed, bounded order, and the one that matched is part of the record. A wrong dialect can
only fail to match: a RIM is equal only if those very operations were performed.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from kbs_rim.measurement.rmm import RmmVersion


class Rounding(Enum):
    """Host page size to which the VMM rounds each populated range outwards, in bytes; the extra granules are zero."""

    PAGE_4K = 4096
    PAGE_16K = 16384
    PAGE_64K = 65536


class Order(StrEnum):
    """In which order the operations were performed.

    ``log``: as logged. ``ripas-last``: KVM sets RIPAS at the first run: create, data,
    log area, RECs, then RIPAS over the RAM, where pages that hold data already are skipped. ``ripas-last-whole``: the same,
    RIPAS over the whole range.
    """

    LOG = "log"
    RIPAS_LAST = "ripas-last"
    RIPAS_LAST_WHOLE = "ripas-last-whole"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to replay a log."""

    rmm: RmmVersion
    rounding: Rounding = Rounding.PAGE_4K
    order: Order = Order.LOG

    def __str__(self) -> str:
        return f"rmm-{self.rmm.value}/{self.rounding.value // 1024}k/{self.order.value}"
