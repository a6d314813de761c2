"""Stage 2 translation tables of a realm, with the state of every entry (RMM 1.0 A5.5, as TF-RMM keeps it).

Only what decides measurements is kept: which tables exist, and for each leaf entry whether it is empty, RAM or holds data.
Tables are sparse: an entry never touched costs nothing but its place in a list.
"""

from dataclasses import dataclass
from enum import Enum, auto

from kbs_rim.realm.failures import RmmRefused

LAST_LEVEL = 3
_ENTRIES = 512


class Leaf(Enum):
    """State of a leaf entry: HIPAS and RIPAS together."""

    UNASSIGNED_EMPTY = auto()
    UNASSIGNED_RAM = auto()
    ASSIGNED_RAM = auto()


def span_of(level: int) -> int:
    """Return the bytes that one entry at ``level`` covers: 4 KiB at level 3, 2 MiB at 2, 1 GiB at 1, 512 GiB at 0."""
    return 4096 << (9 * (LAST_LEVEL - level))


class Table:
    """One table; the start table may be several concatenated ones. ``base`` is the first address it translates."""

    __slots__ = ("base", "entries", "level", "span")

    def __init__(self, base: int, level: int, count: int, fill: Leaf) -> None:
        self.base = base
        self.level = level
        self.span = span_of(level)
        self.entries: list[Leaf | Table] = [fill] * count

    def index_of(self, ipa: int) -> int:
        """Return the index of the entry that translates ``ipa``."""
        return (ipa - self.base) // self.span


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk ended: the deepest table that exists for the address, and the entry in it."""

    table: Table
    index: int

    @property
    def leaf(self) -> Leaf:
        """State of the entry."""
        entry = self.table.entries[self.index]
        if isinstance(entry, Table):
            raise TypeError("a walk ends at a leaf")
        return entry


class Stage2:
    """The tables of one realm. ``s2sz`` fixes the start level in the way Linux KVM chooses it."""

    def __init__(self, s2sz: int) -> None:
        # Linux: a stage 2 may concatenate up to 16 start tables, so it needs as many levels as a stage 1 of s2sz - 4 bits.
        levels = (s2sz - 4 - 4) // 9
        if not 1 <= levels <= LAST_LEVEL + 1:
            raise RmmRefused("RMI_ERROR_INPUT", f"no start level for {s2sz} IPA bits")
        self.start_level = LAST_LEVEL + 1 - levels
        size = 1 << s2sz
        self.root = Table(0, self.start_level, max(1, size // span_of(self.start_level)), Leaf.UNASSIGNED_EMPTY)
        self.protected_top = size // 2

    def walk(self, ipa: int) -> Walk:
        """Walk as deep as tables exist."""
        table = self.root
        while True:
            index = table.index_of(ipa)
            entry = table.entries[index]
            if not isinstance(entry, Table):
                return Walk(table, index)
            table = entry

    def create_table(self, ipa: int, level: int) -> None:
        """RMI_RTT_CREATE: put a table of ``level`` under the entry above it; its entries inherit that entry's RIPAS."""
        found = self.walk(ipa)
        if found.table.level != level - 1:
            raise RmmRefused("RMI_ERROR_RTT", f"no place for a level {level} table at {ipa:#x}")
        if found.leaf is Leaf.ASSIGNED_RAM:
            raise RmmRefused("RMI_ERROR_RTT", f"{ipa:#x} is mapped as a block")
        base = found.table.base + found.index * found.table.span
        found.table.entries[found.index] = Table(base, level, _ENTRIES, found.leaf)
