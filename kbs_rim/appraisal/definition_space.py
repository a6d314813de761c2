"""The VMs that a workload's definition describes, each once, in the order in which they are tried.

Likeliest first: the VM made of the first value of every list, then those that differ from it in one step, and so on. The order depends
on the workload alone, so a number names the same VM in every process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, overload

from kbs_rim.appraisal.definition_rules import OFF, REGISTERED, Definition, numbers_of, states_of
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.workload import Workload

_NONE = "none"
_VALUES_SHOWN, _TEXT_SHOWN, _ID_SHOWN = 3, 80, 19
"""How many values of one thing a message lists, how many characters of a command line, and of an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmChoice:
    """One VM: a value for everything that may vary. Images by id, None where there is none; ``tree`` is an id or the name of a generator.

    ``pmu_counters`` None is no PMU, ``sve_bits`` 0 no SVE, ``ipa_bits`` None what the VMM computes.
    """

    profile: str
    kernel: str | None
    initrd: str | None
    firmware: str | None
    breakpoints: int
    watchpoints: int
    pmu_counters: int | None
    sve_bits: int
    ipa_bits: int | None
    lpa2: bool
    memory_private: bool
    device_assignment: bool
    measurement_log: bool
    its: bool
    ram: int
    cpus: int
    tree: str
    bootargs: str | None

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        sve = f"SVE {self.sve_bits} bits" if self.sve_bits else "SVE off"
        pmu = "PMU off" if self.pmu_counters is None else f"PMU with {self.pmu_counters} counters"
        ram = f"{self.ram >> 30} GiB" if not self.ram % (1 << 30) else f"{self.ram >> 20} MiB"
        tree = self.tree if len(self.tree) < 20 else "registered"
        return f"{self.cpus} vCPUs, {ram}, {sve}, {pmu}, {self.profile}, device tree {tree}"


@dataclass(frozen=True, slots=True)
class VmSpace(Sequence[VmChoice]):
    """The VMs in their order, made when they are asked for. ``axes`` are names with values, ``order`` has positions in each of them."""

    axes: tuple[tuple[str, tuple[Any, ...]], ...]
    order: tuple[tuple[int, ...], ...]

    @property
    def summary(self) -> str:
        """What was given to each VM and what varied, in words: a realm with anything else is none of these."""
        axes = ((name, _shown(name, values)) for name, values in self.axes)
        return ", ".join(f"{name} {shown}" for name, shown in axes if shown != _NONE)

    def __len__(self) -> int:
        """Return how many VMs there are."""
        return len(self.order)

    @overload
    def __getitem__(self, number: int) -> VmChoice: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[VmChoice]: ...
    def __getitem__(self, number: int | slice) -> VmChoice | Sequence[VmChoice]:
        """Return one VM, or a space of some of them."""
        if isinstance(number, slice):
            return VmSpace(self.axes, self.order[number])
        return VmChoice(**{name: values[place] for (name, values), place in zip(self.axes, self.order[number], strict=True)})


def _shown(name: str, values: Sequence[Any]) -> str:
    """Return the values of an axis in words: switches as on and off, images and command lines by their number where there are many."""
    words = [_word(name, value) for value in values]
    if len(words) <= _VALUES_SHOWN:
        return " or ".join(words)
    if all(isinstance(value, int) for value in values):
        return f"{len(values)} values from {_word(name, min(values))} to {_word(name, max(values))}"
    return f"{words[0]} or {len(words) - 1} others"


def _word(name: str, value: Any) -> str:
    if value is None:
        return {"pmu_counters": "off", "ipa_bits": "computed"}.get(name, _NONE)
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "ram":
        return f"{value >> 20} MiB" if not value % (1 << 20) else f"{value:#x}"
    if name == "sve_bits" and not value:
        return "off"
    if name == "bootargs":
        return repr(value if len(value) <= _TEXT_SHOWN else f"{value[:_TEXT_SHOWN]}...")
    text = str(value)
    return f"{text[:_ID_SHOWN]}..." if text.startswith("sha256:") else text


def choices_of(workload: Workload, definition: Definition) -> VmSpace:
    """Return every VM that ``definition``, the one of ``workload``, describes; at most ``definition.max_candidates``."""
    axes = tuple((name, tuple(values)) for name, values in _axes(workload, definition))
    positions = product(*(range(len(values)) for _, values in axes))
    return VmSpace(axes, tuple(sorted(positions, key=lambda places: (sum(places), places))))


def _axes(workload: Workload, definition: Definition) -> Iterator[tuple[str, Sequence[Any]]]:
    """What costs the least to vary comes last: VMs that differ at the end only share most of their measurement."""
    yield "profile", definition.profile_names
    for role in (Role.KERNEL, Role.INITRD, Role.FIRMWARE):
        yield role.value, _images(workload, role)
    yield "breakpoints", numbers_of(definition.breakpoints)
    yield "watchpoints", numbers_of(definition.watchpoints)
    yield "pmu_counters", tuple(dict.fromkeys(None if item == OFF else item for item in definition.pmu_counters))
    yield "sve_bits", tuple(dict.fromkeys(0 if item == OFF else item for item in definition.sve_vector_bits))
    yield "ipa_bits", numbers_of(definition.ipa_bits) or (None,)
    for name in ("lpa2", "memory_private", "device_assignment", "measurement_log", "its"):
        yield name, states_of(getattr(definition, name))
    yield "ram", numbers_of(definition.ram)
    yield "cpus", numbers_of(definition.cpus)
    yield "tree", tuple(dict.fromkeys(_trees(workload, definition)))
    yield "bootargs", definition.bootargs or (None,)


def _images(workload: Workload, role: Role) -> tuple[str | None, ...]:
    rule = workload.rule_for(role)
    if rule is None:
        return (None,)
    return rule.images if rule.required else (*rule.images, None)


def _trees(workload: Workload, definition: Definition) -> Iterator[str]:
    listed = workload.rule_for(Role.DEVICE_TREE)
    for name in definition.device_trees:
        if name == REGISTERED:
            yield from listed.images if listed else ()
        else:
            yield name
