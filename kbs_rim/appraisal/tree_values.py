"""One property of a device tree against one value rule of a pack.

Pure functions of the value and of what the rest of the tree says (``Scope``). Values are read as the tree's bytes have them:
big-endian cells, strings with their NULs, regions of 64 bits (packs pin ``#address-cells`` and ``#size-cells``).
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal import tree_value_rules as rules
from kbs_rim.appraisal.address_range import Range
from kbs_rim.limits import GRANULE_SIZE, Limits
from kbs_rim.measurement.device_tree_text import value_preview

_PAIR = struct.Struct(">QQ")
_PCI_WINDOW = struct.Struct(">IQQQ")
_PCI_SPACES = {"io": 0x01000000, "memory": 0x02000000, "memory-64": 0x03000000}
_NO_PHANDLES = (0, 0xFFFFFFFF)
_AFFINITY_CPUS = 16
_MOST_REGIONS = 64
"""Of one property; GICs have three, a NUMA machine one for each node."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a value: an id of the catalogue, a sentence, what would be right, what is there."""

    id: str
    message: str
    expected: str | None
    seen: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Addresses that a node takes for itself; ``what`` is its path."""

    range: Range
    what: str


@dataclass(slots=True)
class Scope:
    """What a value may be compared with. ``claims`` and ``ram`` are filled while values are judged; ``paths`` and ``phandles`` by label.

    ``path`` and ``name`` are those of the node that the property belongs to; ``named_by_address``: its rule leaves the address open.
    """

    cpus: int
    limits: Limits
    allow_seeds: bool
    paths: Mapping[str, frozenset[str]]
    phandles: Mapping[str, frozenset[int]]
    path: str = "/"
    name: str = ""
    named_by_address: bool = False
    claims: list[Claim] = field(default_factory=list)
    ram: list[Claim] = field(default_factory=list)


def judge_value(rule: rules.ValueRule, value: bytes, scope: Scope) -> Iterator[Fault]:
    """Yield what is wrong with ``value``; boot arguments are judged elsewhere, by the workload."""
    yield from _JUDGES[type(rule)](rule, value, scope)


def read_regions(value: bytes) -> tuple[Range, ...] | None:
    """Return the regions of a ``reg`` property with two cells each; None if it is no such list, a long one, or one wraps around."""
    if not value or len(value) % _PAIR.size or len(value) > _MOST_REGIONS * _PAIR.size:
        return None
    regions = [Range.sized(*pair) for pair in _PAIR.iter_unpack(value)]
    return None if any(region.top > 1 << 64 or region.base == region.top for region in regions) else tuple(regions)


def _wrong(value: bytes, expected: str) -> Fault:
    return Fault("tree.value", "the value is not one that the rules allow", expected, value_preview(value))


def _empty(_rule: rules.Empty, value: bytes, _scope: Scope) -> Iterator[Fault]:
    if value:
        yield _wrong(value, "no value")


def _strings(rule: rules.Strings, value: bytes, _scope: Scope) -> Iterator[Fault]:
    if value != b"".join(item.encode() + b"\0" for item in rule.strings):
        yield _wrong(value, ", ".join(f'"{item}"' for item in rule.strings))


def _one_string(rule: rules.OneString, value: bytes, _scope: Scope) -> Iterator[Fault]:
    if value not in [item.encode() + b"\0" for item in rule.string]:
        yield _wrong(value, " or ".join(f'"{item}"' for item in rule.string))


def _cells(rule: rules.Cells, value: bytes, scope: Scope) -> Iterator[Fault]:
    if len(value) != 4 * len(rule.cells):
        yield _wrong(value, _cells_text(rule.cells))
        return
    yield from _row_faults(rule.cells, value, scope)


def _rows(rule: rules.Rows, value: bytes, scope: Scope) -> Iterator[Fault]:
    width = 4 * len(rule.rows)
    count, rest = divmod(len(value), width)
    if rest or not rule.least <= count <= rule.most:
        yield _wrong(value, f"{rule.least} to {rule.most} rows of {_cells_text(rule.rows)}")
        return
    for start in range(0, len(value), width):
        faults = list(_row_faults(rule.rows, value[start : start + width], scope))
        yield from faults
        if faults:
            return


def _row_faults(wanted: tuple[rules.Numbers, ...], row: bytes, scope: Scope) -> Iterator[Fault]:
    for rule, (cell,) in zip(wanted, struct.iter_unpack(">I", row), strict=True):
        if rule.label is not None and cell not in scope.phandles.get(rule.label, ()):
            yield Fault("tree.phandle", f"a phandle does not name the {rule.label}", _cells_text(wanted), value_preview(row))
            return
        if cell not in rule:
            yield Fault("tree.value", "the value is not one that the rules allow", _cells_text(wanted), value_preview(row))
            return


def _cells_text(wanted: tuple[rules.Numbers, ...]) -> str:
    return f"<{' '.join(map(str, wanted))}>"


def _regions(rule: rules.Regions, value: bytes, scope: Scope) -> Iterator[Fault]:
    regions = read_regions(value)
    expected = "; ".join(map(str, rule.regions))
    least = sum(not region.optional for region in rule.regions)
    if regions is None or not least <= len(regions) <= len(rule.regions):
        yield _wrong(value, expected)
        return
    for region, wanted in zip(regions, rule.regions, strict=False):
        scope.claims.append(Claim(region, scope.path))
        if not _fits(region, wanted, scope.cpus):
            yield Fault("tree.address", "the device does not lie where it may", str(wanted), str(region))
    if scope.named_by_address:
        yield from _unit_address(regions[0], scope)


def _fits(region: Range, wanted: rules.RegionRule, cpus: int) -> bool:
    size = region.top - region.base
    right_size = size in wanted.size if wanted.size is not None else size == cpus * (wanted.per_cpu or 0)
    right_place = region.base in wanted.base if wanted.base is not None else region.top == wanted.end
    return right_size and right_place and region.base % wanted.align == 0


def _unit_address(region: Range, scope: Scope) -> Iterator[Fault]:
    """A node that may lie in several places is called after its own; otherwise readers by name see another device."""
    unit = scope.name.partition("@")[2]
    if unit != f"{region.base:x}":
        yield Fault("tree.value", "the node is called after another address", f"@{region.base:x}", f"@{unit}")


def _ram(_rule: rules.Ram, value: bytes, scope: Scope) -> Iterator[Fault]:
    regions = read_regions(value)
    if regions is None:
        yield _wrong(value, "addresses and sizes of 64 bits")
        return
    scope.ram.extend(Claim(region, scope.path) for region in regions)
    if any(region.rounded(GRANULE_SIZE) != region for region in regions):
        yield _wrong(value, f"multiples of {GRANULE_SIZE}")
    yield from _unit_address(regions[0], scope)


def _event_log(_rule: rules.EventLog, value: bytes, scope: Scope) -> Iterator[Fault]:
    regions = read_regions(value)
    most = scope.limits.unmeasured_bytes
    if regions is None or len(regions) != 1 or regions[0].rounded(GRANULE_SIZE) != regions[0] or regions[0].top - regions[0].base > most:
        message = "the event log is not one page aligned range within the limit"
        yield Fault("tree.log-area", message, f"one range of at most {most} bytes", value_preview(value))
        return
    yield from _unit_address(regions[0], scope)


def _initrd(_rule: rules.Initrd, value: bytes, _scope: Scope) -> Iterator[Fault]:
    if len(value) not in (4, 8):
        yield _wrong(value, "one address")


def _pci_ranges(rule: rules.PciRanges, value: bytes, scope: Scope) -> Iterator[Fault]:
    if len(value) != _PCI_WINDOW.size * len(rule.pci_ranges):
        yield _wrong(value, f"{len(rule.pci_ranges)} PCI windows")
        return
    for wanted, (space, bus, base, size) in zip(rule.pci_ranges, _PCI_WINDOW.iter_unpack(value), strict=True):
        seen = f"space {space:#x}, bus {bus:#x}, {base:#x}, {size:#x} bytes"
        expected = f"{wanted.space} at {wanted.base}, {wanted.size} bytes"
        if base + size > 1 << 64 or not size:
            yield Fault("tree.address", "a PCI window is empty or wraps around", expected, seen)
            continue
        scope.claims.append(Claim(Range.sized(base, size), f"{scope.path} ranges"))
        if space != _PCI_SPACES[wanted.space] or bus != (base if wanted.bus is None else wanted.bus):
            yield Fault("tree.value", "a PCI window is of another kind", expected, seen)
        elif base not in wanted.base or size not in wanted.size or base % wanted.align:
            yield Fault("tree.address", "a PCI window does not lie where it may", expected, seen)


def _own_phandle(_rule: rules.OwnPhandle, value: bytes, _scope: Scope) -> Iterator[Fault]:
    if len(value) != 4 or int.from_bytes(value, "big") in _NO_PHANDLES:
        yield Fault("tree.phandle", "this is no phandle", "one cell, neither 0 nor -1", value_preview(value))


def _seed(rule: rules.Seed, value: bytes, scope: Scope) -> Iterator[Fault]:
    if not scope.allow_seeds:
        yield Fault("tree.seed", "the host chose this seed, and so knows what is made of it", "no seed", f"{len(value)} bytes")
    elif len(value) > rule.seed:
        yield Fault("tree.value", "the seed is too long", f"at most {rule.seed} bytes", f"{len(value)} bytes")


def _bootargs(_rule: rules.Bootargs, _value: bytes, _scope: Scope) -> Iterator[Fault]:
    return iter(())


def _path_of(rule: rules.PathOf, value: bytes, scope: Scope) -> Iterator[Fault]:
    paths = scope.paths.get(rule.path_of, frozenset())
    if value not in [path.encode() + b"\0" for path in paths]:
        yield _wrong(value, " or ".join(sorted(paths)) or f"the path of the {rule.path_of}")


def _cpu_number(rule: rules.CpuNumber, value: bytes, scope: Scope) -> Iterator[Fault]:
    unit = scope.name.partition("@")[2]
    if not unit.isdecimal():
        yield Fault("tree.cpus", "the CPU has no number", "cpu@NUMBER", scope.name)
        return
    number = int(unit)
    forms = {"plain": number, "affinity-16": number // _AFFINITY_CPUS << 8 | number % _AFFINITY_CPUS}
    wanted = [forms[form] for form in rule.cpu_number]
    if len(value) != 4 or int.from_bytes(value, "big") not in wanted:
        yield Fault("tree.cpus", "the CPU's number is not that of its name", " or ".join(map(hex, wanted)), value_preview(value))


_JUDGES: Mapping[type[Any], Callable[[Any, bytes, Scope], Iterator[Fault]]] = {
    rules.Empty: _empty,
    rules.OneString: _one_string,
    rules.Strings: _strings,
    rules.Cells: _cells,
    rules.Rows: _rows,
    rules.Regions: _regions,
    rules.Ram: _ram,
    rules.EventLog: _event_log,
    rules.Initrd: _initrd,
    rules.PciRanges: _pci_ranges,
    rules.OwnPhandle: _own_phandle,
    rules.Seed: _seed,
    rules.Bootargs: _bootargs,
    rules.PathOf: _path_of,
    rules.CpuNumber: _cpu_number,
}
