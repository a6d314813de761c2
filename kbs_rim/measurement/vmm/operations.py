"""What a VMM asks the RMM for, in its order: a profile's list of operations applied to a layout."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
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
    """RMI_DATA_CREATE, granule by granule, of an image at ``base``; its ``lead`` zero bytes begin at the granule's start.

    ``page_size`` is the host's: a VMM fills up its own pages with zero bytes, so granules of zeros may come before and behind.
    """

    thing: str
    base: int
    size: int
    page_size: int = GRANULE_SIZE

    @property
    def lead(self) -> int:
        """Zero bytes between the start of the image's first granule and the image."""
        return self.base % GRANULE_SIZE

    @property
    def start(self) -> int:
        """Where its first page begins."""
        return down(self.base, self.page_size)

    @property
    def end(self) -> int:
        """Where its last page ends."""
        return up(self.base + self.size, self.page_size)

    @property
    def zeros(self) -> tuple[int, int]:
        """Granules of zeros before and behind those that hold bytes of the image."""
        first, last = down(self.base, GRANULE_SIZE), up(self.base + self.size, GRANULE_SIZE)
        return (first - self.start) // GRANULE_SIZE, (self.end - last) // GRANULE_SIZE

    def __str__(self) -> str:
        return f"data_measured {self.start:#x} {self.end:#x}"


@dataclass(frozen=True, slots=True)
class UnmeasuredArea:
    """RMI_DATA_CREATE of granules whose content is not measured."""

    thing: str
    base: int
    size: int

    @property
    def start(self) -> int:
        """Where its first granule begins."""
        return down(self.base, GRANULE_SIZE)

    @property
    def end(self) -> int:
        """Where its last granule ends."""
        return up(self.base + self.size, GRANULE_SIZE)

    def __str__(self) -> str:
        return f"data_unmeasured {self.start:#x} {self.end:#x}"


@dataclass(frozen=True, slots=True)
class RunnableRec:
    """RMI_REC_CREATE of the first vCPU."""

    rec: RecCreate

    def __str__(self) -> str:
        return "rec_create"


PlannedOperation = RipasRange | MeasuredImage | UnmeasuredArea | RunnableRec


def plan_operations(
    profile: VmmProfile, memory: MemoryMap, layout: VmLayout, page_size: int = GRANULE_SIZE
) -> tuple[PlannedOperation, ...]:
    """Return the operations behind RMI_REALM_CREATE, in order; images of one rule by ascending address.

    ``page_size`` is that of the host, in bytes. Raises ``InvalidDocument`` (``document.vm``) if two images share a page of the host, or
    something leaves the RAM.
    """
    steps: list[PlannedOperation] = []
    for rule in profile.operations:
        steps.extend(_steps(rule, memory, layout, page_size, tuple(steps)))
    top, before = 0, ""
    for step in sorted(_populated(steps), key=lambda step: step.start):
        if step.start < top:
            raise refuse(f"{before} and {step.thing} share a page of the host, or are loaded twice")
        top, before = step.end, step.thing
    return tuple(steps)


def rmm_operations(step: PlannedOperation, s2sz: int, granules: Mapping[str, bytes], algorithm: HashAlgorithm) -> Iterator[RmmOperation]:
    """Yield what the RMM sees of one step: an RTT entry, a granule, a REC at a time.

    ``granules`` has the granule digests of each measured thing, laid end to end, for its place in memory.
    """
    match step:
        case RipasRange():
            yield from ripas_entries(step.base, step.top, s2sz)
        case MeasuredImage():
            digests, size = padded_granules(step, granules[step.thing], algorithm), algorithm.digest_size
            for start in range(0, len(digests), size):
                yield DataCreate(step.start + start // size * GRANULE_SIZE, digests[start : start + size])
        case UnmeasuredArea():
            for ipa in range(step.start, step.end, GRANULE_SIZE):
                yield DataCreate(ipa, None)
        case RunnableRec():
            yield step.rec


def padded_granules(image: MeasuredImage, digests: bytes, algorithm: HashAlgorithm) -> bytes:
    """Return the granule digests of an image with those of the zeros that fill up the host's pages."""
    before, behind = image.zeros
    if not before and not behind:
        return digests
    zero = algorithm.digest(bytes(GRANULE_SIZE))
    return zero * before + digests + zero * behind


def _populated(steps: Iterable[PlannedOperation]) -> Iterator[MeasuredImage | UnmeasuredArea]:
    return (step for step in steps if isinstance(step, MeasuredImage | UnmeasuredArea))


def _steps(
    rule: OperationRule, memory: MemoryMap, layout: VmLayout, page_size: int, earlier: tuple[PlannedOperation, ...]
) -> Iterator[PlannedOperation]:
    if rule.kind == "ripas":
        yield from _ripas(rule, memory, earlier)
    elif rule.kind == "data":
        for place in layout.loads:
            if place.role in rule.things:
                yield MeasuredImage(place.role, place.base, place.size, page_size)
    elif rule.kind == "unmeasured":
        areas: Mapping[str, Region] = {"log": layout.log_area} if layout.log_area is not None else {}
        for thing in rule.things:
            if thing in areas:
                yield UnmeasuredArea(thing, *areas[thing])
    else:
        yield RunnableRec(RecCreate(1, layout.pc, (layout.x0, 0, 0, 0, 0, 0, 0, 0)))


def _ripas(rule: OperationRule, memory: MemoryMap, earlier: tuple[PlannedOperation, ...]) -> Iterator[PlannedOperation]:
    """A range whose end is not above its start is left out: the tail of a kernel that has none. So is one that begins nowhere.

    Data forces the tables of its block down to granules, so no entry is larger than what fits between two pieces of data: splitting each
    gap by itself is what the RMM and KVM do.
    """
    if rule.start not in memory.landmarks or rule.end not in memory.landmarks:
        return
    current, top = up(memory.landmarks[rule.start], GRANULE_SIZE), up(memory.landmarks[rule.end], GRANULE_SIZE)
    if top > memory.ram.end and current < top:
        raise refuse(f"the range {current:#x}-{top:#x} leaves the RAM")
    taken = sorted((step.start, step.end) for step in _populated(earlier)) if rule.skip_data else []
    for start, end in taken:
        if current < min(start, top):
            yield RipasRange(current, min(start, top))
        current = max(current, end)
    if current < top:
        yield RipasRange(current, top)
