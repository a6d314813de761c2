"""Ranges of guest physical addresses."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Guest physical addresses [base, top)."""

    base: int
    top: int

    @classmethod
    def sized(cls, base: int, size: int) -> "Range":
        """Return the range of ``size`` bytes from ``base`` on."""
        return cls(base, base + size)

    def holds(self, other: "Range") -> bool:
        """True if ``other`` lies wholly inside."""
        return self.base <= other.base and other.top <= self.top

    def meets(self, other: "Range") -> bool:
        """True if the two have an address in common."""
        return self.base < other.top and other.base < self.top

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.base <= address < self.top

    def rounded(self, page: int) -> "Range":
        """Return the range rounded outwards to pages: what was really populated."""
        return Range(self.base // page * page, -(-self.top // page) * page)

    def __str__(self) -> str:
        return f"{self.base:#x}-{self.top:#x}"


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """Return (base, size) pairs as ranges, ascending, neighbours joined: NUMA nodes have one each. What overlaps stays apart."""
    found: list[Range] = []
    for base, size in sorted(ranges):
        if found and found[-1].top == base:
            found[-1] = Range(found[-1].base, base + size)
        else:
            found.append(Range(base, base + size))
    return tuple(found)
