"""What the value of a device tree's property may be, as data: small typed rules, each a table with one telling key.

| key | the value is |
|---|---|
| ``empty = true`` | of no bytes |
| ``string = ["smc", "hvc"]`` | one string, one of these |
| ``strings = ["a", "b"]`` | exactly this list of strings |
| ``cells = [1, "0x10..0x2f", "&gic", "*"]`` | this many u32: a number, a range, the phandle of a labelled node, anything |
| ``rows = [...]``, ``least``, ``most`` | cells in rows of one shape |
| ``regions = [{base, size}, ...]`` | addresses and sizes of 64 bits; see ``RegionRule`` |
| ``ram = true`` | the RAM: one or more regions |
| ``log_area = true`` | the region of the event log, inside the RAM |
| ``initrd = "start"`` or ``"end"`` | an address of 32 or 64 bits |
| ``pci_ranges = [{space, base, size}, ...]`` | windows of a PCI host bridge |
| ``phandle = true`` | this node's own phandle |
| ``seed = 64`` | up to so many bytes that the host chose as a seed; refused unless the workload allows seeds |
| ``bootargs = true`` | one string, judged by the workload's rules |
| ``path_of = "uart"`` | the path of a labelled node that is there |
| ``cpu_number = ["plain"]`` | the CPU's number: as in its name, or ``affinity-16`` (16 CPUs to a cluster) |
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, InstanceOf, StringConstraints, Tag, model_validator

_LABEL = r"[a-z][a-z0-9-]{0,31}"
_NUMBER = r"(?:0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,19})"
_RANGE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?")
_TOP = 1 << 64
_CELL_TOP = 1 << 32


@dataclass(frozen=True, slots=True)
class Numbers:
    """An inclusive range of numbers, or with ``label`` the phandle of a node with that label."""

    low: int
    high: int
    label: str | None = None

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.label is not None:
            return f"&{self.label}"
        if (self.low, self.high) == (0, _CELL_TOP - 1):
            return "*"
        return f"{self.low:#x}" if self.low == self.high else f"{self.low:#x}..{self.high:#x}"


def _numbers(value: Any, top: int) -> Numbers:
    if isinstance(value, Numbers):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a number or a range such as "0x10..0x2f"')
    low = int(match[1], 0)
    high = int(match[2], 0) if match[2] else low
    if not low <= high < top:
        raise ValueError("the range is empty or too large")
    return Numbers(low, high)


def _cell(value: Any) -> Numbers:
    if value == "*":
        return Numbers(0, _CELL_TOP - 1)
    if isinstance(value, str) and re.fullmatch(f"&{_LABEL}", value):
        return Numbers(0, _CELL_TOP - 1, value[1:])
    return _numbers(value, _CELL_TOP)


def _wide(value: Any) -> Numbers:
    return _numbers(value, _TOP)


Cell = Annotated[InstanceOf[Numbers], BeforeValidator(_cell)]
Wide = Annotated[InstanceOf[Numbers], BeforeValidator(_wide)]
Label = Annotated[str, StringConstraints(pattern=f"^{_LABEL}$")]
Positive = Annotated[int, Field(ge=1, lt=_TOP)]


class Strict(BaseModel):
    """A table that knows its keys; another one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RegionRule(Strict):
    """A region: ``base`` (or its end), ``size`` (or ``per_cpu`` bytes for each CPU), ``align`` of the base, all in bytes."""

    base: Wide | None = None
    end: Positive | None = None
    size: Wide | None = None
    per_cpu: Positive | None = None
    align: Positive = 1
    optional: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.base is None) == (self.end is None) or (self.size is None) == (self.per_cpu is None):
            raise ValueError("a region has either base or end, and either size or per_cpu")
        return self

    def __str__(self) -> str:
        place = f"ending at {self.end:#x}" if self.base is None else f"at {self.base}"
        return f"{place}, {f'{self.per_cpu:#x} a CPU' if self.size is None else self.size} bytes"


class PciWindow(Strict):
    """A window of a PCI host bridge; ``bus`` is its address on the bus, the same as for CPUs unless told."""

    space: Literal["io", "memory", "memory-64"]
    base: Wide
    size: Wide
    align: Positive = 1
    bus: Annotated[int, Field(ge=0, lt=_TOP)] | None = None


class Empty(Strict):
    """A property that only has to be there."""

    empty: Literal[True]


class OneString(Strict):
    """One string out of a few."""

    string: Annotated[tuple[str, ...], Field(min_length=1)]


class Strings(Strict):
    """Exactly these strings."""

    strings: Annotated[tuple[str, ...], Field(min_length=1)]


class Cells(Strict):
    """As many cells as are listed, each within its range."""

    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]


class Rows(Strict):
    """Rows of cells, ``least`` to ``most`` of them."""

    rows: Annotated[tuple[Cell, ...], Field(min_length=1)]
    least: int = Field(1, ge=0)
    most: int = Field(ge=1)


class Regions(Strict):
    """Addresses and sizes, each where its device may lie."""

    regions: Annotated[tuple[RegionRule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _optional_last(self) -> Self:
        if any(earlier.optional and not later.optional for earlier, later in zip(self.regions, self.regions[1:], strict=False)):
            raise ValueError("optional regions come last")
        return self


class Ram(Strict):
    """The regions of RAM."""

    ram: Literal[True]


class EventLog(Strict):
    """The region of the event log."""

    log_area: Literal[True]


class Initrd(Strict):
    """Where the initrd starts or ends; the log says what is right."""

    initrd: Literal["start", "end"]


class PciRanges(Strict):
    """The windows of a PCI host bridge."""

    pci_ranges: Annotated[tuple[PciWindow, ...], Field(min_length=1)]


class OwnPhandle(Strict):
    """The node's own phandle."""

    phandle: Literal[True]


class Seed(Strict):
    """Entropy that the host chose, up to so many bytes."""

    seed: int = Field(ge=1, le=4096)


class Bootargs(Strict):
    """The kernel command line; the workload says what is right."""

    bootargs: Literal[True]


class PathOf(Strict):
    """The path of a node that is there."""

    path_of: Label


class CpuNumber(Strict):
    """The CPU's number, in one of the forms that VMMs use."""

    cpu_number: Annotated[tuple[Literal["plain", "affinity-16"], ...], Field(min_length=1)]


_KINDS: Mapping[str, type[Strict]] = {
    "empty": Empty,
    "string": OneString,
    "strings": Strings,
    "cells": Cells,
    "rows": Rows,
    "regions": Regions,
    "ram": Ram,
    "log_area": EventLog,
    "initrd": Initrd,
    "pci_ranges": PciRanges,
    "phandle": OwnPhandle,
    "seed": Seed,
    "bootargs": Bootargs,
    "path_of": PathOf,
    "cpu_number": CpuNumber,
}


def _kind_of(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return next((key for key in _KINDS if key in value), None)
    return next((key for key, kind in _KINDS.items() if isinstance(value, kind)), None)


ValueRule = Annotated[
    Annotated[Empty, Tag("empty")]
    | Annotated[OneString, Tag("string")]
    | Annotated[Strings, Tag("strings")]
    | Annotated[Cells, Tag("cells")]
    | Annotated[Rows, Tag("rows")]
    | Annotated[Regions, Tag("regions")]
    | Annotated[Ram, Tag("ram")]
    | Annotated[EventLog, Tag("log_area")]
    | Annotated[Initrd, Tag("initrd")]
    | Annotated[PciRanges, Tag("pci_ranges")]
    | Annotated[OwnPhandle, Tag("phandle")]
    | Annotated[Seed, Tag("seed")]
    | Annotated[Bootargs, Tag("bootargs")]
    | Annotated[PathOf, Tag("path_of")]
    | Annotated[CpuNumber, Tag("cpu_number")],
    Discriminator(_kind_of),
]


def labels_in(value: ValueRule) -> Iterator[str]:
    """Yield the labels of nodes that a rule names."""
    if isinstance(value, PathOf):
        yield value.path_of
    cells = value.cells if isinstance(value, Cells) else value.rows if isinstance(value, Rows) else ()
    yield from (cell.label for cell in cells if cell.label is not None)
