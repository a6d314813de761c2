"""What a boot plan makes the RMM measure, in one dialect: runs of operations, small, comparable and countable.

Image granules and RAM ranges are kept whole. From the runs follow the number of chain steps, before anything is hashed, and a name
for every state of the chain (RMM 1.0 B4.3.1.4, B4.3.9.4, B4.3.12.4, B4.3.18.4).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage, LogArea, RecRecord, RipasRecord, Step
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.rmm import RealmCreate, RecCreate, count_ripas_entries


@dataclass(frozen=True, slots=True)
class ImageRun:
    """Measured granules of one image with the zero granules that the rounding adds around it.

    ``lead`` is the number of zero bytes in front of the image in its first granule: on it depends what the granules hold.
    """

    base: int
    lead: int
    zeros_before: int
    image: int
    zeros_after: int
    granules: int


@dataclass(frozen=True, slots=True)
class UnmeasuredRun:
    """Granules that are populated but not measured: the log area."""

    base: int
    granules: int


@dataclass(frozen=True, slots=True)
class RipasRun:
    """A range that RMM 1.x measures greedily, entry by entry."""

    base: int
    top: int
    entries: int


PlannedRun = ImageRun | UnmeasuredRun | RipasRun | RecCreate


def runs_of(plan: BootPlan, dialect: Dialect) -> tuple[PlannedRun, ...]:
    """Return the operations after REALM_CREATE, image granules and RAM ranges kept whole: small, comparable, countable."""
    image_of = {loaded.event: position for position, loaded in enumerate(plan.images)}
    s2sz = plan.create.params.s2sz
    runs: list[PlannedRun] = []
    for step in _ordered(plan, dialect.order):
        match step:
            case LoadedImage():
                runs.append(_image_run(step, image_of[step.event], dialect.rounding))
            case LogArea():
                runs.append(UnmeasuredRun(step.base, step.size // GRANULE_SIZE))
            case RecRecord():
                if step.rec.runnable:
                    runs.append(step.rec)
            case RipasRecord():
                if dialect.rmm.measures_ripas:
                    # A range logged before the data finds fresh tables; only what came before it can have split them.
                    populated = () if dialect.order is Order.RIPAS_LAST_WHOLE else tuple(runs)
                    runs.extend(_ripas_runs(step, populated, s2sz))
    return tuple(runs)


def _ordered(plan: BootPlan, order: Order) -> tuple[Step, ...]:
    if order is Order.LOG:
        return plan.steps
    log_area = () if plan.log_area is None else (plan.log_area,)
    return (*plan.images, *log_area, *plan.recs, *plan.ripas)


def _image_run(loaded: LoadedImage, position: int, rounding: Rounding) -> ImageRun:
    page = rounding.value
    first, last = loaded.base // GRANULE_SIZE, -(-loaded.top // GRANULE_SIZE)
    base, top = loaded.base // page * page, -(-loaded.top // page) * page
    before, after = first - base // GRANULE_SIZE, top // GRANULE_SIZE - last
    return ImageRun(base, loaded.base % GRANULE_SIZE, before, position, after, (top - base) // GRANULE_SIZE)


def _ripas_runs(record: RipasRecord, populated: Sequence[PlannedRun], s2sz: int) -> list[RipasRun]:
    """Return the parts of a RAM range that hold none of the data in ``populated``.

    Why a greedy split of each gap is what RMM and KVM do: a granule of data forces translation tables down to 4 KiB for
    its block of each level, so no entry larger than a granule is left in its 2 MiB, none larger than 2 MiB in its 1 GiB,
    and so on. A gap between two granules of data can hold an aligned block only if no data lies in that block; there
    the table above is still whole, and one entry covers it. KVM skips pages that are RAM already.
    """
    taken = sorted((run.base, run.base + run.granules * GRANULE_SIZE) for run in populated if isinstance(run, ImageRun | UnmeasuredRun))
    gaps, current, end = [], record.base, record.base + record.size
    for base, top in taken:
        if current < min(base, end):
            gaps.append((current, min(base, end)))
        current = max(current, top)
    if current < end:
        gaps.append((current, end))
    return [RipasRun(base, top, count_ripas_entries(base, top, s2sz)) for base, top in gaps]


def steps_of_all(runs: Sequence[PlannedRun]) -> int:
    """Return the number of chain steps: one for a granule, a RAM entry, a REC; and one for the realm itself."""
    return 1 + sum(steps_of(run) for run in runs)


def steps_of(run: PlannedRun) -> int:
    """Return the number of chain steps of one run."""
    match run:
        case ImageRun() | UnmeasuredRun():
            return run.granules
        case RipasRun():
            return run.entries
        case RecCreate():
            return 1


def populated_twice(runs: Sequence[PlannedRun]) -> int | None:
    """Return a granule that two runs populate, or None. The RMM refuses the second, so no realm has such a RIM (hazard T21)."""
    top = 0
    for run in sorted((run for run in runs if isinstance(run, ImageRun | UnmeasuredRun)), key=lambda run: run.base):
        if run.base < top:
            return run.base
        top = run.base + run.granules * GRANULE_SIZE
    return None


def run_names(runs: Sequence[PlannedRun], ids: Sequence[str]) -> tuple[bytes, ...]:
    """Name what was done before the first run and after each: a hash over all these operations.

    No RIPAS run is in ``runs`` where none is measured, so the RMM version need not be named; the granules of an image follow from its
    id, which is the hash of its bytes, and from ``lead``.
    """
    name = b""
    names = [name]
    for run in runs:
        what = ids[run.image] if isinstance(run, ImageRun) else ""
        name = hashlib.sha256(name + f"{type(run).__name__} {what} {_fields(run)}".encode()).digest()
        names.append(name)
    return tuple(names)


def state_names(params: RealmCreate, done: Sequence[bytes]) -> tuple[bytes, ...]:
    """Name states of the chain: what they depend on is the realm's parameters, and what was ``done`` by its ``run_names``."""
    realm = f"kbs_rim chain 2 {params.hash_algorithm.value} {_fields(params)} ".encode()
    return tuple(hashlib.sha256(realm + name).digest() for name in done)


def _fields(value: PlannedRun | RealmCreate) -> str:
    """Return the numbers of an operation; the position of an image in its plan is none of them."""
    match value:
        case ImageRun(base, lead, before, _, after, granules):
            return f"{base} {lead} {before} {after} {granules}"
        case UnmeasuredRun(base, granules):
            return f"{base} {granules}"
        case RipasRun(base, top, _):
            return f"{base} {top}"
        case RecCreate(flags, pc, gprs):
            return f"{flags} {pc} {gprs}"
        case RealmCreate(_, flags, s2sz, sve_vl, num_bps, num_wps, pmu_num_ctrs):
            return f"{int(flags)} {s2sz} {sve_vl} {num_bps} {num_wps} {pmu_num_ctrs}"
