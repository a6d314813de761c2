"""The calculator: RIM and REMs of a VM that need not exist, from a request, granule digests and an RMM version.

Nothing is read here. Who calls it hashes the images, at the places that ``plan`` names, and hands in the digests.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.granules import granule_digests
from kbs_rim.measurement.rem import REMS, RemValues, extend_rem
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags, RimChain, RmmOperation, RmmVersion
from kbs_rim.measurement.vmm.layout import plan_layout
from kbs_rim.measurement.vmm.memory_map import lay_out
from kbs_rim.measurement.vmm.operations import (
    MeasuredImage,
    PlannedOperation,
    UnmeasuredArea,
    padded_granules,
    plan_operations,
    rmm_operations,
)
from kbs_rim.measurement.vmm.profile import VmLayout, VmRequest, refuse
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

DEVICE_TREE = "device-tree"


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """All that will be measured. ``extended`` names the images that firmware measures into REM0, in order."""

    layout: VmLayout
    operations: tuple[PlannedOperation, ...]
    extended: tuple[str, ...]

    @property
    def algorithm(self) -> HashAlgorithm:
        """The realm's hash."""
        return self.layout.params.hash_algorithm

    @property
    def images(self) -> tuple[MeasuredImage, ...]:
        """The images whose granule digests are needed, the device tree not among them: its bytes are in the layout."""
        return tuple(step for step in self.operations if isinstance(step, MeasuredImage) and step.thing != DEVICE_TREE)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, how many times the RMM extended the RIM for it, the RIM after it, and what is loaded, if anything is."""

    operation: RealmCreate | PlannedOperation | RmmOperation
    extensions: int
    rim: bytes
    thing: str = ""


@dataclass(frozen=True, slots=True)
class Calculation:
    """The result: register values as long as the realm's digest."""

    rim: bytes
    rem: RemValues
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealmExtras:
    """What is measured and no VMM option of today sets: a memory encryption key of its own (RMM 2.0), assigned devices, and the page size
    of the host, in bytes, to which a VMM rounds what it loads.
    """

    memory_private: bool = False
    device_assignment: bool = False
    host_page_size: int = GRANULE_SIZE


NO_EXTRAS = RealmExtras()


def plan_measurement(
    profile: VmmProfile, request: VmRequest, rmm: RmmVersion, device_tree: bytes | None = None, extras: RealmExtras = NO_EXTRAS
) -> MeasurementPlan:
    """Return what will be measured of this VM.

    Raises ``InvalidDocument`` (``document.vm``) for a VM that cannot be, and for parameters that this RMM does not have.
    """
    if rmm is RmmVersion.V1_0 and request.host.hash_algorithm is HashAlgorithm.SHA384:
        raise refuse("RMM 1.0 has no SHA-384: choose sha256 or sha512, or RMM 2.0")
    if rmm is RmmVersion.V1_0 and extras.memory_private:
        raise refuse("RMM 1.0 has no memory encryption policy: leave it out, or choose RMM 2.0")
    memory = lay_out(profile, request)
    layout = plan_layout(profile, request, device_tree)
    flags = layout.params.flags
    flags |= RealmFlags.MEC_PRIVATE if extras.memory_private else 0
    flags |= RealmFlags.DA if extras.device_assignment else 0
    layout = replace(layout, params=replace(layout.params, flags=int(flags)))
    present = {"kernel": request.kernel_size, "initrd": request.initrd_size, "firmware": request.firmware_size}
    extended = tuple(thing for thing in memory.flow.extended if present.get(thing) is not None)
    return MeasurementPlan(layout, plan_operations(profile, memory, layout, extras.host_page_size), extended)


def calculate(
    plan: MeasurementPlan, rmm: RmmVersion, granules: Mapping[str, bytes], digests: Mapping[str, bytes] | None = None
) -> Calculation:
    """Return RIM and REMs. ``granules`` has the granule digests of ``plan.images``, ``digests`` the whole digest of ``plan.extended``.

    Raises ``InvalidDocument`` (``document.vm``) if the granules of an image are missing or too few.
    """
    steps = tuple(steps_of(plan, rmm, granules))
    rem0 = bytes(plan.algorithm.digest_size)
    for thing in plan.extended:
        if digests is None or thing not in digests:
            raise refuse(f"the digest of the {thing} is missing, which the firmware measures")
        rem0 = extend_rem(plan.algorithm, rem0, digests[thing])
    empty = bytes(plan.algorithm.digest_size)
    others = (empty,) * (REMS - 1)
    return Calculation(steps[-1].rim, (rem0, others[0], others[1], others[2]), steps)


def steps_of(plan: MeasurementPlan, rmm: RmmVersion, granules: Mapping[str, bytes], *, each: bool = False) -> Iterator[Step]:
    """Yield one step for every operation, or with ``each`` for every RTT entry and granule; nothing of them is kept.

    The RIM of the last one is the realm's. Raises as ``calculate`` does, once the iteration gets there.
    """
    tree = granule_digests(plan.layout.device_tree, plan.algorithm, plan.layout.device_tree_base % GRANULE_SIZE)
    known = {**granules, DEVICE_TREE: tree}
    chain = RimChain(rmm, plan.layout.params)
    yield Step(plan.layout.params, 1, chain.value)
    for operation in plan.operations:
        yield from _perform(chain, operation, known, plan, each=each)


def _perform(
    chain: RimChain, operation: PlannedOperation, granules: Mapping[str, bytes], plan: MeasurementPlan, *, each: bool
) -> Iterator[Step]:
    size = plan.algorithm.digest_size
    thing = operation.thing if isinstance(operation, MeasuredImage | UnmeasuredArea) else ""
    if isinstance(operation, MeasuredImage):
        given = granules.get(operation.thing, b"")
        wanted = -(-(operation.lead + operation.size) // GRANULE_SIZE) * size
        if len(given) != wanted:
            raise _missing(operation, len(given) // size, wanted // size)
        if not each:
            padded = padded_granules(operation, given, plan.algorithm)
            chain.data_run(operation.start, padded)
            yield Step(operation, len(padded) // size, chain.value, thing)
            return
    count = 0
    for step in rmm_operations(operation, plan.layout.params.s2sz, granules, plan.algorithm):
        before = chain.value
        chain.apply(step)
        changed = chain.value != before
        count += changed
        if each:
            yield Step(step, int(changed), chain.value, thing)
    if not each:
        yield Step(operation, count, chain.value, thing)


def _missing(operation: MeasuredImage, given: int, wanted: int) -> InvalidDocument:
    return refuse(f"{operation.thing}: {given} granule digests for {wanted} granules")
