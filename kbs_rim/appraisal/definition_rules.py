"""The table ``definition`` of a workload: the VM as its owner starts it, and the bounded space in which hosts may vary it.

From it the broker derives what a VMM does with the registered images, where no log says it. It proposes and permits nothing: a proposal
counts if its RIM is the signed one, and then every other rule of the workload judges it, as if it stood in a log. Lists are written
likeliest first: that is the order of the search.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from kbs_rim.appraisal.rule_values import RANGE_PATTERN, U64, ImageId, Rules
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.rmm import MAX_IPA_BITS, MIN_IPA_BITS
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.host_capabilities import SVE_STEP
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS, SHIPPED
from kbs_rim.measurement.vmm.stock_qemu_profile import VERSIONS

OFF: Final = "off"
GENERATED, REGISTERED = "generated", "registered"
STOCK_TREES = {f"qemu-{profile.name}": profile for profile in VERSIONS.values()}
"""Names of the trees that QEMU makes itself, by its version."""
_U64 = 1 << 64
_BOUNDS = {
    "cpus": (1, DEFAULT_LIMITS.cpus),
    "ram": (MIB, 1 << 48),
    "breakpoints": (1, 64),
    "watchpoints": (1, 64),
    "ipa_bits": (MIN_IPA_BITS, MAX_IPA_BITS),
}
_COUNTERS = 31


def _steps(text: str) -> range:
    """Return the numbers of ``FIRST-LAST`` or ``FIRST-LAST/STEP``; the size of a range is known without counting."""
    ends, _, step = text.partition("/")
    first, _, last = ends.partition("-")
    return range(int(first, 0), int(last, 0) + 1, int(step, 0) if step else 1)


def _check_range(text: str) -> str:
    try:
        numbers = _steps(text)
    except ValueError:
        raise ValueError("is no range such as 1-16 or 0x40000000-0x100000000/0x40000000") from None
    if not numbers or numbers[-1] >= _U64:
        raise ValueError("the range ends before it begins, or beyond 64 bits")
    if (numbers.stop - 1 - numbers.start) // numbers.step >= DEFAULT_LIMITS.definition_candidates:
        raise ValueError(f"the range has more than {DEFAULT_LIMITS.definition_candidates} numbers; write FIRST-LAST/STEP")
    return text


def _one(value: Any) -> Any:
    """A hexadecimal number is no range."""
    return int(value, 16) if isinstance(value, str) and value.lower().startswith("0x") and "-" not in value else value


_Range = Annotated[str, StringConstraints(pattern=RANGE_PATTERN), AfterValidator(_check_range)]
_Number = Annotated[U64 | _Range, BeforeValidator(_one)]
Numbers = Annotated[tuple[_Number, ...], Field(min_length=1, max_length=64)]
"""Numbers and ranges, likeliest first."""
Feature = Annotated[tuple[Literal["off"] | Annotated[int, Field(ge=0, le=2048)], ...], Field(min_length=1, max_length=32)]
Switch = Literal["off", "on", "either"]


def count_of(numbers: Sequence[int | str]) -> int:
    """Return how many numbers these are, without listing them."""
    return sum(1 if isinstance(item, int) else len(_steps(item)) for item in numbers)


def numbers_of(numbers: Sequence[int | str]) -> tuple[int, ...]:
    """List the numbers, each once, in order; ask ``count_of`` first how many they are."""
    listed = (number for item in numbers for number in ((item,) if isinstance(item, int) else _steps(item)))
    return tuple(dict.fromkeys(listed))


def within(numbers: Sequence[int | str], low: int, high: int) -> bool:
    """Return whether all of the numbers are from ``low`` to ``high``."""
    ends = (range(item, item + 1) if isinstance(item, int) else _steps(item) for item in numbers)
    return all(low <= span[0] and span[-1] <= high for span in ends)


def states_of(switch: Switch) -> tuple[bool, ...]:
    """Return the states of a switch; off comes first."""
    return {"off": (False,), "on": (True,), "either": (False, True)}[switch]


class Definition(Rules):
    """A VM, and what may vary. Sizes in bytes, counts are real counts; ``docs/workloads.md`` explains each key."""

    vmm: Vmm
    without_log: bool = False
    profiles: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    cpus: Numbers
    ram: Numbers
    bootargs: Annotated[tuple[Annotated[str, StringConstraints(max_length=2047)], ...], Field(max_length=32)] = ()
    device_trees: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)] = (GENERATED,)
    breakpoints: Numbers
    watchpoints: Numbers
    pmu_counters: Feature = (OFF,)
    sve_vector_bits: Feature = (OFF,)
    ipa_bits: Annotated[tuple[_Number, ...], Field(max_length=64)] = ()
    lpa2: Switch = "off"
    memory_private: Switch = "off"
    device_assignment: Switch = "off"
    measurement_log: Switch = "off"
    its: Switch = "on"
    serial: bool = True
    ram_max: U64 = 0
    hotplug_slots: Annotated[int, Field(ge=0, le=256)] = 0
    virtio_mmio: Annotated[int, Field(ge=0, le=64)] = 0
    firmware_address: Literal["default"] | U64 = "default"
    fw_cfg_kernel: Literal[""] | ImageId = ""
    fw_cfg_initrd: Literal[""] | ImageId = ""
    host_address_bits: Annotated[int, Field(ge=0, le=52)] = 0
    host_caches: tuple[Annotated[int, Field(ge=1, le=1 << 32)], ...] = ()
    max_candidates: Annotated[int, Field(ge=1, le=DEFAULT_LIMITS.definition_candidates)] = 256

    @model_validator(mode="after")
    def _known(self) -> Self:
        ours = [name for name, profile in SHIPPED.items() if profile.vmm == self.vmm]
        if unknown := [name for name in self.profiles if name not in ours]:
            raise ValueError(f"profiles of {self.vmm} are {', '.join(ours)}, not {unknown[0][:40]}")
        trees = [GENERATED, REGISTERED, *(STOCK_TREES if self.vmm == "qemu" else ())]
        if unknown := [name for name in self.device_trees if name not in trees]:
            raise ValueError(f"device_trees of {self.vmm} are {', '.join(trees)}, not {unknown[0][:40]}")
        for name, (low, high) in _BOUNDS.items():
            if not within(getattr(self, name), low, high):
                raise ValueError(f"{name} must be from {low} to {high}")
        if any(item != OFF and item > _COUNTERS for item in self.pmu_counters):
            raise ValueError(f"pmu_counters must be from 0 to {_COUNTERS}, or off")
        if any(item != OFF and (item % SVE_STEP or not item) for item in self.sve_vector_bits):
            raise ValueError(f"sve_vector_bits must be multiples of {SVE_STEP}, or off")
        if len(self.host_caches) not in (0, 6):
            raise ValueError("host_caches has six numbers: line, size and sets of the data cache, then of the instruction cache")
        return self

    @property
    def profile_names(self) -> tuple[str, ...]:
        """The profiles to try."""
        return tuple(dict.fromkeys(self.profiles)) or (DEFAULTS[self.vmm].name,)

    @property
    def handed_over(self) -> tuple[tuple[Literal["kernel", "initrd"], str], ...]:
        """Images that firmware gets through fw_cfg: they are not in the RIM, but the tree may say where they will be."""
        given: tuple[tuple[Literal["kernel", "initrd"], str], ...] = (("kernel", self.fw_cfg_kernel), ("initrd", self.fw_cfg_initrd))
        return tuple((role, image) for role, image in given if image)

    def size(self, images: int, trees: int) -> int:
        """Return the number of candidates: ``images`` choices of images, ``trees`` registered device trees."""
        switches = (self.lpa2, self.memory_private, self.device_assignment, self.measurement_log, self.its)
        return prod((
            images,
            len(self.profile_names),
            sum(trees if name == REGISTERED else 1 for name in dict.fromkeys(self.device_trees)),
            *(count_of(numbers) for numbers in (self.cpus, self.ram, self.breakpoints, self.watchpoints)),
            *(max(1, count_of(numbers)) for numbers in (self.bootargs_choices, self.ipa_bits)),
            *(len(states_of(switch)) for switch in switches),
            len(dict.fromkeys(self.pmu_counters)),
            len(dict.fromkeys(self.sve_vector_bits)),
        ))  # fmt: skip

    @property
    def bootargs_choices(self) -> tuple[int, ...]:
        """Positions in ``bootargs``."""
        return tuple(range(len(self.bootargs)))
