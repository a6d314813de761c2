"""What makes one VMM version differ from another, as data: memory map, placement rules, entry state, list of operations.

Another version, or the flow of an older series, is another ``VmmProfile`` (``shipped_profiles``, or a TOML file read by
``profile_document``), not other code. Rules name *landmarks*, addresses known when the rule is applied: ``zero``, ``ram.base``,
``ram.middle``, ``ram.low-end``, ``ram.end``, ``firmware.wanted``, and for each thing placed before ``THING.base``, ``THING.end`` (its
file) and ``kernel.memory-end`` (with its uninitialised data).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.profile import Boot, Region

THINGS = ("kernel", "initrd", "firmware", "device-tree", "log")
FIXED_LANDMARKS = ("zero", "ram.base", "ram.middle", "ram.low-end", "ram.end", "firmware.wanted")
LANDMARKS = (*FIXED_LANDMARKS, *(f"{thing}.{edge}" for thing in THINGS for edge in ("base", "end")), "kernel.memory-end")
Rule = Literal["at", "above", "below"]
RULES: tuple[Rule, ...] = ("at", "above", "below")
OperationKind = Literal["ripas", "data", "rec", "unmeasured"]
OPERATION_KINDS: tuple[OperationKind, ...] = ("ripas", "data", "rec", "unmeasured")
Feature = Literal["hotplug", "movable-firmware", "virtio-mmio", "lone-initrd", "log", "sve-on-request", "pmu-by-counters"]
FEATURES: tuple[Feature, ...] = (
    "hotplug", "movable-firmware", "virtio-mmio", "lone-initrd", "log", "sve-on-request", "pmu-by-counters",
)  # fmt: skip
"""``sve-on-request``: no SVE unless the arguments limit its length. ``pmu-by-counters``: a PMU if they limit its counters."""
TreeShape = Literal["qemu-virt", "kvmtool", "cloud-hypervisor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRule:
    """Where one thing goes.

    ``at``: the first landmark of ``of`` plus ``offset``. ``above``: the highest of ``of``, rounded up to ``align``. ``below``: the lowest
    of ``of``, minus the size and ``slack``, rounded up to ``align``. Landmarks that do not exist (no log) are passed over.
    ``text_offset`` adds the kernel header's field of that name. Raises ``ValueError`` for a name that means nothing.
    """

    thing: str
    rule: Rule
    of: tuple[str, ...]
    offset: int = 0
    text_offset: bool = False
    align: int = 1
    slack: int = 0

    def __post_init__(self) -> None:
        if self.thing not in THINGS or self.rule not in RULES:
            raise ValueError(f"a rule places one of {', '.join(THINGS)}, {', '.join(RULES)} a landmark")
        _check_landmarks(*self.of)
        if not self.of or self.align < 1 or self.offset < 0 or self.slack < 0:
            raise ValueError(f"the rule for {self.thing} needs a landmark, an alignment of 1 or more, and no negative numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFlow:
    """How a VM starts: where everything lies, what is in the RIM, what its firmware measures into REM0, where the first vCPU begins."""

    places: tuple[PlacementRule, ...]
    measured: tuple[str, ...]
    extended: tuple[str, ...] = ()
    pc: str
    x0: str

    def __post_init__(self) -> None:
        _check_landmarks(self.pc, self.x0)
        if not set(self.measured) | set(self.extended) <= set(THINGS):
            raise ValueError(f"only {', '.join(THINGS)} can be measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRule:
    """One step of building the realm, after REALM_CREATE.

    ``ripas`` makes [``start``, ``end``) RAM, rounded up to granules, but with ``skip_data`` only what holds no data yet; ``data`` loads
    ``things``, ascending, those that are there; ``rec`` makes the runnable vCPU; ``unmeasured`` loads ``things`` without measuring their
    content.
    """

    kind: OperationKind
    things: tuple[str, ...] = ()
    start: str = "zero"
    end: str = "zero"
    skip_data: bool = False

    def __post_init__(self) -> None:
        if self.kind not in OPERATION_KINDS or not set(self.things) <= set(THINGS):
            raise ValueError(f"an operation is one of {', '.join(OPERATION_KINDS)}, of {', '.join(THINGS)}")
        _check_landmarks(self.start, self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmmProfile:
    """One VMM version. Addresses and sizes in bytes.

    ``tree`` names the shape of the device tree, ``tree_size`` is what it is padded to and loaded as (None: its own length).
    ``ram_low_end`` caps ``ram.low-end``, ``ram_middle`` how far ``ram.middle`` is above the RAM's base. ``ipa_bits`` None means:
    computed from the highest address, of at least ``ipa_floor`` bits, plus one for the unprotected half; a number is what the VMM
    asks for, or less if the host has less. ``regions`` are the devices; ``high_regions`` (name and size) float above the RAM, from
    ``high_base`` on, each aligned to its size. ``firmware_room`` is where firmware may be, None for anywhere in the RAM.
    """

    name: str
    vmm: Vmm
    version: str
    source: str
    tree: TreeShape
    hash_algorithm: HashAlgorithm
    ram_base: int
    ram_step: int = 4096
    ram_low_end: int | None = None
    ram_middle: int = 0
    tree_size: int | None = None
    log_size: int = 65536
    ipa_bits: int | None = None
    ipa_floor: int = 32
    firmware_room: Region | None = None
    regions: Mapping[str, Region]
    high_base: int = 0
    high_regions: tuple[tuple[str, int], ...] = ()
    features: frozenset[Feature]
    flows: Mapping[Boot, BootFlow]
    operations: tuple[OperationRule, ...]

    def __post_init__(self) -> None:
        if "kernel" not in self.flows:
            raise ValueError("a profile needs at least the flow that starts a kernel")
        if not self.features <= set(FEATURES):
            raise ValueError(f"features are {', '.join(FEATURES)}")
        if not any(rule.kind == "rec" for rule in self.operations):
            raise ValueError("a realm needs a vCPU: the operations lack rec")


def _check_landmarks(*names: str) -> None:
    for name in names:
        if name not in LANDMARKS:
            raise ValueError(f"{name} is not a landmark; they are {', '.join(LANDMARKS)}")
