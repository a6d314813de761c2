"""What a VMM asks the RMM for, in its order: a profile's list of operations applied to a layout."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.rmm import DataCreate, RecCreate, RmmOperation, ripas_entries
from kbs_rim.measurement.vmm.memory_map import MemoryMap
from kbs_rim.measurement.vmm.profile import Region, VmLayout, down, refuse, up
from kbs_rim.measurement.vmm.vmm_profile import OperationRule, VmmProfile


@dataclass(frozen=True, slots=True)
class RipasRange:
    """RMI_RTT_INIT_RIPAS over [base, top)."""

    base: int
    top: int

    def __str__(self) -> str:
        return f"init_ripas {self.base:#x} {self.top:#x}"


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """RMI_DATA_CREATE, granule by granule, of an image at ``base``; its ``lead`` zero bytes begin at the granule's start."""

    thing: str
    base: int
    size: int

    @property
    def lead(self) -> int:
        """Zero bytes between the start of the first granule and the image."""
        return self.base % GRANULE_SIZE

    def __str__(self) -> str:
        return f"data_measured {down(self.base, GRANULE_SIZE):#x} {up(self.base + self.size, GRANULE_SIZE):#x}"


@dataclass(frozen=True, slots=True)
class UnmeasuredArea:
    """RMI_DATA_CREATE of granules whose content is not measured."""

    thing: str
    base: int
    size: int

    def __str__(self) -> str:
        return f"data_unmeasured {down(self.base, GRANULE_SIZE):#x} {up(self.base + self.size, GRANULE_SIZE):#x}"


@dataclass(frozen=True, slots=True)
class RunnableRec:
    """RMI_REC_CREATE of the first vCPU."""

    rec: RecCreate

    def __str__(self) -> str:
        return "rec_create"


PlannedOperation = RipasRange | MeasuredImage | UnmeasuredArea | RunnableRec


def plan_operations(profile: VmmProfile, memory: MemoryMap, layout: VmLayout) -> tuple[PlannedOperation, ...]:
    """Return the operations behind RMI_REALM_CREATE, in order; images of one rule by ascending address.

    Raises ``InvalidDocument`` (``document.vm``) if the profile populates a granule twice, or makes an empty range RAM.
    """
    return tuple(step for rule in profile.operations for step in _steps(rule, memory, layout))


def rmm_operations(step: PlannedOperation, s2sz: int, granules: Mapping[str, bytes], digest_size: int) -> Iterator[RmmOperation]:
    """Yield what the RMM sees of one step: an RTT entry, a granule, a REC at a time.

    ``granules`` has the granule digests of each measured thing, laid end to end, for its place in memory.
    """
    match step:
        case RipasRange():
            yield from ripas_entries(step.base, step.top, s2sz)
        case MeasuredImage():
            digests, ipa = granules[step.thing], down(step.base, GRANULE_SIZE)
            for start in range(0, len(digests), digest_size):
                yield DataCreate(ipa + start // digest_size * GRANULE_SIZE, digests[start : start + digest_size])
        case UnmeasuredArea():
            for ipa in range(down(step.base, GRANULE_SIZE), up(step.base + step.size, GRANULE_SIZE), GRANULE_SIZE):
                yield DataCreate(ipa, None)
        case RunnableRec():
            yield step.rec


def _steps(rule: OperationRule, memory: MemoryMap, layout: VmLayout) -> Iterator[PlannedOperation]:
    if rule.kind == "ripas":
        yield from _ripas(rule, memory)
    elif rule.kind == "data":
        for place in layout.loads:
            if place.role in rule.things:
                yield MeasuredImage(place.role, place.base, place.size)
    elif rule.kind == "unmeasured":
        areas: Mapping[str, Region] = {"log": layout.log_area} if layout.log_area is not None else {}
        for thing in rule.things:
            if thing in areas:
                yield UnmeasuredArea(thing, *areas[thing])
    else:
        yield RunnableRec(RecCreate(1, layout.pc, (layout.x0, 0, 0, 0, 0, 0, 0, 0)))


def _ripas(rule: OperationRule, memory: MemoryMap) -> Iterator[PlannedOperation]:
    """A range whose end is not above its start is left out: the tail of a kernel that has none. So is one that begins nowhere."""
    if rule.start not in memory.landmarks or rule.end not in memory.landmarks:
        return
    base, top = up(memory.landmarks[rule.start], GRANULE_SIZE), up(memory.landmarks[rule.end], GRANULE_SIZE)
    if base < top:
        if top > memory.ram.end:
            raise refuse(f"the range {base:#x}-{top:#x} leaves the RAM")
        yield RipasRange(base, top)
