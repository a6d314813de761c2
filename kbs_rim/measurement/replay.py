"""Recompute the RIM from a boot plan and trusted images, in every dialect that is allowed.

Implements ``specs/measurement-log.md`` 2 and 7, ``specs/image-sources.md`` 3.4 and DESIGN.md 5 step 5. Content comes from the
registered images only; the log merely names them. Work is counted before anything is hashed, so a hostile plan costs no
more than ``limits`` says.
"""

import hmac
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, Limits
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage, LogArea, RecRecord, RipasRecord, Step
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags, RecCreate, RimChain, RmmVersion, count_ripas_entries, ripas_entries

ZERO_GRANULE_DIGESTS: Mapping[HashAlgorithm, bytes] = {algorithm: algorithm.digest(bytes(GRANULE_SIZE)) for algorithm in HashAlgorithm}
"""Digest of a granule of zeros, which surrounds an image that a VMM rounded outwards to its host's pages."""


class TrustedImage(Protocol):
    """What a replay asks of an image; ``ImageMeasurements`` has it."""

    @property
    def image_id(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def digests(self) -> Mapping[HashAlgorithm, bytes]: ...
    def granules_at(self, base: int, algorithm: HashAlgorithm) -> bytes | None:
        """Return the digests of all granules that the image touches at ``base``, end to end; None if they are not known."""


class ImageLookup(Protocol):
    """Where trusted images come from. Keyed by algorithm *and* digest; never filled from anything a log claims."""

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> TrustedImage | None:
        """Return the image whose loaded bytes have this digest, if it may be used."""


@dataclass(frozen=True, slots=True)
class _ImageRun:
    """Measured granules of one image with the zero granules that the rounding adds around it."""

    base: int
    zeros_before: int
    image: int
    zeros_after: int
    granules: int


@dataclass(frozen=True, slots=True)
class _UnmeasuredRun:
    base: int
    granules: int


@dataclass(frozen=True, slots=True)
class _RipasRun:
    """A range that RMM 1.x measures greedily, entry by entry."""

    base: int
    top: int
    entries: int


_Run = _ImageRun | _UnmeasuredRun | _RipasRun | RecCreate


class RimMemo(Protocol):
    """Remembers RIMs between plans. A key holds all that a RIM depends on: operations, realm parameters, ids of the images."""

    def get(self, key: Hashable) -> bytes | None:
        """Return a RIM that ``match_rim`` computed earlier, or None."""
        ...

    def put(self, key: Hashable, rim: bytes, images: frozenset[str]) -> None:
        """Remember a RIM and the images it depends on."""
        ...


@dataclass(slots=True)
class ReplayWork:
    """What all replays of one plan with one set of images share: how much they may cost, and what was computed already.

    ``budget`` is in hash chain steps; what ``memo`` remembers costs none. Without this, every workload with dialects of its own
    would cost a budget of its own.
    """

    budget: int
    memo: RimMemo | None = None
    spent: int = 0
    known: dict[tuple[tuple[_Run, ...], RealmCreate], bytes] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Chain steps that may still be spent."""
        return self.budget - self.spent


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What ``match_rim`` found. ``params`` are the realm parameters under which ``matched`` gave the RIM.

    ``rims`` has the RIM of every dialect tried, in order, with the parameters as logged but for the one that matched;
    ``skipped`` says why others were not tried. ``granules`` is the number of hash chain steps that this call spent, the
    unit of ``limits.replay_granules``.
    """

    matched: Dialect | None
    rims: Mapping[Dialect, bytes]
    granules: int
    params: RealmCreate | None = None
    skipped: Mapping[Dialect, str] = field(default_factory=dict)


def image_problems(plan: BootPlan, images: ImageLookup) -> tuple[MalformedEvidence, ...]:
    """Return every reason why an image of ``plan`` cannot be replayed: unknown, of another size, or at an odd place."""
    problems = []
    for loaded in plan.images:
        try:
            _granules_of(loaded, images)
        except MalformedEvidence as problem:
            problems.append(problem)
    return tuple(problems)


def replay_rim(
    plan: BootPlan,
    images: ImageLookup,
    dialect: Dialect,
    limits: Limits = DEFAULT_LIMITS,
    *,
    params: RealmCreate | None = None,
) -> bytes:
    """Return the RIM of ``plan`` under one dialect. ``params`` replaces the logged realm parameters (see ``params_to_try``).

    Raises ``MalformedEvidence``: ``rim.overlap``, ``rim.image-unknown``, ``rim.image-size``, ``rim.image-alignment``, and
    ``rim.dialects`` if the replay would exceed ``limits`` or the rounding makes two ranges touch.
    """
    granules = _all_granules(plan, images)
    runs = _runs(plan, dialect)
    problem = _obstacle(runs, _cost(runs), limits.replay_granules, limits)
    if problem is not None:
        raise MalformedEvidence("rim.dialects", f"the replay in dialect {dialect} is not possible: {problem}")
    return _chain(dialect.rmm, params or plan.create.params, runs, granules)


def match_rim(
    plan: BootPlan,
    images: ImageLookup,
    rim: bytes,
    dialects: Sequence[Dialect],
    limits: Limits = DEFAULT_LIMITS,
    *,
    variants: Sequence[RealmCreate] | None = None,
    work: ReplayWork | None = None,
) -> ReplayResult:
    """Try ``dialects`` in order until one gives ``rim`` (as long as the realm's digest), compared in constant time.

    At most ``limits.replay_dialects`` are tried; a dialect that performs the same operations as an earlier one is not computed
    again. Each is tried with all ``variants`` of the realm parameters (default: ``params_to_try``), which have the logged hash
    algorithm and IPA width. ``work`` lets several calls for the same plan and images share what they computed and one budget; a call
    without it has ``limits.replay_granules`` for itself. Raises ``MalformedEvidence`` as ``replay_rim`` does, and ``rim.dialects`` if
    not a single dialect could be tried.
    """
    granules = _all_granules(plan, images)
    ids = _image_ids(plan, images)
    variants = params_to_try(plan.create.params) if variants is None else variants
    work = work or ReplayWork(limits.replay_granules)
    before = work.spent
    rims: dict[Dialect, bytes] = {}
    skipped: dict[Dialect, str] = {}
    for position, dialect in enumerate(dialects):
        if position >= limits.replay_dialects:
            skipped[dialect] = f"more than {limits.replay_dialects} dialects"
            continue
        runs = _runs(plan, dialect)
        cost = _cost(runs)
        _recall(work, runs, variants, ids)
        new = sum((runs, params) not in work.known for params in variants)
        problem = _obstacle(runs, cost * new, work.left, limits)
        if problem is not None:
            skipped[dialect] = problem
            continue
        for params in variants:
            computed = work.known.get((runs, params))
            if computed is None:
                work.spent += cost
                computed = work.known[runs, params] = _chain(dialect.rmm, params, runs, granules)
                if work.memo is not None:
                    work.memo.put((runs, params, ids), computed, frozenset(ids))
            if hmac.compare_digest(computed, rim):
                return ReplayResult(dialect, {**rims, dialect: computed}, work.spent - before, params, skipped)
            rims.setdefault(dialect, computed)
    if not rims:
        raise MalformedEvidence("rim.dialects", "no dialect of the replay is both allowed and possible", seen=_reasons(skipped))
    return ReplayResult(None, rims, work.spent - before, None, skipped)


def _recall(work: ReplayWork, runs: tuple[_Run, ...], variants: Sequence[RealmCreate], ids: tuple[str, ...]) -> None:
    """Take over what the memo remembers. No RIPAS run is in ``runs`` where none is measured, so the RMM version need not be named."""
    if work.memo is None:
        return
    for params in variants:
        if (runs, params) not in work.known and (remembered := work.memo.get((runs, params, ids))) is not None:
            work.known[runs, params] = remembered


def _image_ids(plan: BootPlan, images: ImageLookup) -> tuple[str, ...]:
    """Ids in the order of the plan, which is how ``_ImageRun.position`` counts."""
    found = (images.find(loaded.algorithm, loaded.digest) for loaded in plan.images)
    return tuple(image.image_id for image in found if image is not None)


def params_to_try(logged: RealmCreate) -> tuple[RealmCreate, ...]:
    """Return the realm parameters that a log may stand for: as logged, first, and at most one other.

    kvmtool writes its fixed ``pmu_num_ctrs`` of 6 also when the PMU flag is clear, where KVM passes 0 to the RMM; the RMM measures
    the field whatever the flag says. So with the flag clear and a counter logged, 0 is tried as well.
    """
    if logged.flags & RealmFlags.PMU or logged.pmu_num_ctrs == 0:
        return (logged,)
    return logged, replace(logged, pmu_num_ctrs=0)


def _reasons(skipped: Mapping[Dialect, str]) -> str:
    return "; ".join(f"{dialect}: {reason}" for dialect, reason in skipped.items()) or "no dialect"


def _all_granules(plan: BootPlan, images: ImageLookup) -> tuple[bytes, ...]:
    shared = _populated_twice(_runs(plan, Dialect(RmmVersion.V2_0)))
    if shared is not None:
        raise MalformedEvidence("rim.overlap", f"the log populates {shared:#x} twice, which no RMM does", seen=hex(shared))
    return tuple(_granules_of(loaded, images) for loaded in plan.images)


def _populated_twice(runs: Sequence[_Run]) -> int | None:
    """Return a granule that two runs populate, or None. The RMM refuses the second, so no realm has such a RIM (hazard T21)."""
    top = 0
    for run in sorted((run for run in runs if isinstance(run, _ImageRun | _UnmeasuredRun)), key=lambda run: run.base):
        if run.base < top:
            return run.base
        top = run.base + run.granules * GRANULE_SIZE
    return None


def _granules_of(loaded: LoadedImage, images: ImageLookup) -> bytes:
    """Return the granule digests of one image at its address. The log's claims about it must all hold (T2, T12, T13)."""
    what = f"event {loaded.event} ({loaded.description or 'no description'})"
    image = images.find(loaded.algorithm, loaded.digest)
    if image is None:
        seen = f"{loaded.algorithm.compact_name}:{loaded.digest.hex()}"
        raise MalformedEvidence("rim.image-unknown", f"{what} loads an image that is not at hand, {seen}", seen=seen)
    for algorithm, digest in loaded.other_digests:
        if image.digests[algorithm] != digest:
            seen = f"{algorithm.compact_name}:{digest.hex()}"
            raise MalformedEvidence("rim.image-unknown", f"{what} names two different images", expected=image.image_id, seen=seen)
    if image.size != loaded.size:
        message = f"{what} loads another number of bytes than the image has"
        raise MalformedEvidence("rim.image-size", message, expected=str(image.size), seen=str(loaded.size))
    granules = image.granules_at(loaded.base, loaded.algorithm)
    if granules is None:
        message = f"{what} lies at an offset in its page for which no granule digests are registered"
        raise MalformedEvidence("rim.image-alignment", message, seen=hex(loaded.base))
    return granules


def _runs(plan: BootPlan, dialect: Dialect) -> tuple[_Run, ...]:
    """Return the operations after REALM_CREATE, image granules and RAM ranges kept whole: small, comparable, countable."""
    image_of = {loaded.event: position for position, loaded in enumerate(plan.images)}
    s2sz = plan.create.params.s2sz
    runs: list[_Run] = []
    for step in _ordered(plan, dialect.order):
        match step:
            case LoadedImage():
                runs.append(_image_run(step, image_of[step.event], dialect.rounding))
            case LogArea():
                runs.append(_UnmeasuredRun(step.base, step.size // GRANULE_SIZE))
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


def _image_run(loaded: LoadedImage, position: int, rounding: Rounding) -> _ImageRun:
    page = rounding.value
    first, last = loaded.base // GRANULE_SIZE, -(-loaded.top // GRANULE_SIZE)
    base, top = loaded.base // page * page, -(-loaded.top // page) * page
    return _ImageRun(base, first - base // GRANULE_SIZE, position, top // GRANULE_SIZE - last, (top - base) // GRANULE_SIZE)


def _ripas_runs(record: RipasRecord, populated: Sequence[_Run], s2sz: int) -> list[_RipasRun]:
    """Return the parts of a RAM range that hold none of the data in ``populated``.

    Why a greedy split of each gap is what RMM and KVM do: a granule of data forces translation tables down to 4 KiB for
    its block of each level, so no entry larger than a granule is left in its 2 MiB, none larger than 2 MiB in its 1 GiB,
    and so on. A gap between two granules of data can hold an aligned block only if no data lies in that block; there
    the table above is still whole, and one entry covers it. KVM skips pages that are RAM already.
    """
    taken = sorted((run.base, run.base + run.granules * GRANULE_SIZE) for run in populated if isinstance(run, _ImageRun | _UnmeasuredRun))
    gaps, current, end = [], record.base, record.base + record.size
    for base, top in taken:
        if current < min(base, end):
            gaps.append((current, min(base, end)))
        current = max(current, top)
    if current < end:
        gaps.append((current, end))
    return [_RipasRun(base, top, count_ripas_entries(base, top, s2sz)) for base, top in gaps]


def _cost(runs: Sequence[_Run]) -> int:
    """Return the number of chain steps: one for a granule, a RAM entry, a REC; and one for the realm itself."""
    return 1 + sum(_steps_of(run) for run in runs)


def _steps_of(run: _Run) -> int:
    match run:
        case _ImageRun() | _UnmeasuredRun():
            return run.granules
        case _RipasRun():
            return run.entries
        case RecCreate():
            return 1


def _obstacle(runs: Sequence[_Run], cost: int, left: int, limits: Limits) -> str | None:
    """Return why these runs cannot be replayed at all, or only at a higher price than is ``left``; None if they can."""
    shared = _populated_twice(runs)
    if shared is not None:
        return f"{shared:#x} would be populated twice"
    entries = sum(run.entries for run in runs if isinstance(run, _RipasRun))
    if entries > limits.ripas_entries:
        return f"{entries} RAM entries, at most {limits.ripas_entries}"
    if cost > left:
        return f"{cost} chain steps, {left} left"
    return None


def _chain(rmm: RmmVersion, params: RealmCreate, runs: Sequence[_Run], granules: Sequence[bytes]) -> bytes:
    chain = RimChain(rmm, params)
    zero = ZERO_GRANULE_DIGESTS[params.hash_algorithm]
    for run in runs:
        match run:
            case _ImageRun():
                chain.data_run(run.base, zero * run.zeros_before)
                base = run.base + run.zeros_before * GRANULE_SIZE
                chain.data_run(base, granules[run.image])
                chain.data_run(base + len(granules[run.image]) // len(zero) * GRANULE_SIZE, zero * run.zeros_after)
            case _UnmeasuredRun():
                for number in range(run.granules):
                    chain.data(run.base + number * GRANULE_SIZE, None)
            case _RipasRun():
                for entry in ripas_entries(run.base, run.top, params.s2sz):
                    chain.ripas_entry(entry.base, entry.top)
            case RecCreate():
                chain.rec(run)
    return chain.value
