"""Recompute the RIM from a boot plan and trusted images, in every dialect that is allowed.

In which order the RMM was asked is a dialect (``dialect``). Content comes from the
registered images only; the log merely names them. Work is counted before anything is hashed, so a hostile plan costs no
more than ``limits`` says.
"""

import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, Limits
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.rim_runs import (
    ImageRun,
    PlannedRun,
    RipasRun,
    UnmeasuredRun,
    populated_twice,
    run_names,
    runs_of,
    state_names,
    steps_of,
)
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags, RecCreate, RimChain, RmmVersion, ripas_runs

ZERO_GRANULE_DIGESTS: Mapping[HashAlgorithm, bytes] = {algorithm: algorithm.digest(bytes(GRANULE_SIZE)) for algorithm in HashAlgorithm}
"""Digest of a granule of zeros, which surrounds an image that a VMM rounded outwards to its host's pages."""
CHECKPOINT_STEPS = 256
"""A RIM on the way is remembered when this many chain steps lie between it and the one remembered before: 1 MiB of images."""


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


class RimMemo(Protocol):
    """Remembers RIMs between plans, finished ones and such on the way.

    A key is a hash over all that the RIM depends on: the realm parameters and every operation so far, images by their ids
    (see ``rim_runs.state_names``). So plans that begin alike share what they have in common, and nothing that a log merely claims is in it.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return a RIM that ``match_rim`` computed earlier, or None."""
        ...

    def furthest(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        """Return the last of ``keys`` that is known, as its position, and its RIM; None if none is."""
        ...

    def put(self, key: bytes, rim: bytes, images: frozenset[str]) -> None:
        """Remember a RIM and the images it depends on."""
        ...


@dataclass(slots=True)
class ReplayWork:
    """What the replays of one appraisal share: how much they may cost, and what was computed already.

    ``budget`` is in hash chain steps; what ``memo`` remembers costs none. Without this, every workload with dialects of its own
    would cost a budget of its own. ``pause`` is called every few thousand steps, and what it raises ends the replay.
    """

    budget: int
    memo: RimMemo | None = None
    spent: int = 0
    known: dict[bytes, bytes] = field(default_factory=dict)
    pause: Callable[[], None] | None = None
    _last: "_PlannedReplay | None" = field(default=None, init=False, repr=False)

    @property
    def left(self) -> int:
        """Chain steps that may still be spent."""
        return self.budget - self.spent

    def on(self, plan: BootPlan, images: ImageLookup) -> "_PlannedReplay":
        """Return what follows from this plan and these images alone; raise as ``match_rim``.

        Kept for the next call, until one comes with other objects: all workloads of an appraisal ask about the same log.
        """
        if self._last is None or self._last.plan is not plan or self._last.images is not images:
            self._last = _PlannedReplay.of(plan, images)
        return self._last


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
    replay = _PlannedReplay.of(plan, images)
    planned = replay.runs_in(dialect)
    problem = planned.obstacle(planned.steps[-1] + 1, limits.replay_granules, limits)
    if problem is not None:
        raise MalformedEvidence("rim.dialects", f"the replay in dialect {dialect} is not possible: {problem}")
    *_, rim = _chain(dialect.rmm, params or plan.create.params, planned.runs, replay.granules)
    return rim


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
    algorithm and IPA width. ``work`` lets several calls share what they computed and one budget; a call without it has
    ``limits.replay_granules`` for itself. Raises ``MalformedEvidence`` as ``replay_rim`` does, and ``rim.dialects`` if
    not a single dialect could be tried.
    """
    variants = params_to_try(plan.create.params) if variants is None else variants
    work = work or ReplayWork(limits.replay_granules)
    replay = work.on(plan, images)
    before = work.spent
    rims: dict[Dialect, bytes] = {}
    skipped: dict[Dialect, str] = {}
    for position, dialect in enumerate(dialects):
        if position >= limits.replay_dialects:
            skipped[dialect] = f"more than {limits.replay_dialects} dialects"
            continue
        planned = replay.runs_in(dialect)
        chains = [_PlannedChain.of(params, planned, work) for params in variants]
        problem = planned.obstacle(sum(chain.cost for chain in chains), work.left, limits)
        if problem is not None:
            skipped[dialect] = problem
            continue
        for chain in chains:
            computed = chain.finish(dialect.rmm, replay, work)
            if hmac.compare_digest(computed, rim):
                return ReplayResult(dialect, {**rims, dialect: computed}, work.spent - before, chain.params, skipped)
            rims.setdefault(dialect, computed)
    if not rims:
        raise MalformedEvidence("rim.dialects", "no dialect of the replay is both allowed and possible", seen=_reasons(skipped))
    return ReplayResult(None, rims, work.spent - before, None, skipped)


@dataclass(frozen=True, slots=True)
class _PlannedRuns:
    """The operations of a plan in one dialect, and what follows from them whatever the realm's parameters are.

    A RIM is worth remembering at ``marks``, which count runs: ``names`` says what was done until then, ``steps`` how many chain steps
    that took, without the realm's own. ``entries`` counts RAM entries; ``shared`` is a granule that would be populated twice.
    """

    runs: tuple[PlannedRun, ...]
    marks: tuple[int, ...]
    names: tuple[bytes, ...]
    steps: tuple[int, ...]
    entries: int
    shared: int | None

    @classmethod
    def of(cls, runs: tuple[PlannedRun, ...], ids: Sequence[str]) -> "_PlannedRuns":
        marks, names, steps = _checkpoints(runs), run_names(runs, ids), [0]
        for run in runs:
            steps.append(steps[-1] + steps_of(run))
        entries = sum(run.entries for run in runs if isinstance(run, RipasRun))
        return cls(runs, marks, tuple(names[mark] for mark in marks), tuple(steps[mark] for mark in marks), entries, populated_twice(runs))

    def obstacle(self, cost: int, left: int, limits: Limits) -> str | None:
        """Return why these runs cannot be replayed at all, or only at a higher price than is ``left``; None if they can."""
        if self.shared is not None:
            return f"{self.shared:#x} would be populated twice"
        if self.entries > limits.ripas_entries:
            return f"{self.entries} RAM entries, at most {limits.ripas_entries}"
        if cost > left:
            return f"{cost} chain steps, {left} left"
        return None


@dataclass(slots=True)
class _PlannedReplay:
    """A plan with its images. There are few dialects, so what is kept of each is a few times the plan."""

    plan: BootPlan
    images: ImageLookup
    granules: tuple[bytes, ...]
    ids: tuple[str, ...]
    _runs: dict[Dialect, _PlannedRuns] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: BootPlan, images: ImageLookup) -> "_PlannedReplay":
        """Raise ``MalformedEvidence`` if an image of the plan cannot be replayed."""
        return cls(plan, images, _all_granules(plan, images), _image_ids(plan, images))

    def runs_in(self, dialect: Dialect) -> _PlannedRuns:
        """Return the operations in one dialect; several dialects may have the same."""
        if (known := self._runs.get(dialect)) is not None:
            return known
        runs = runs_of(self.plan, dialect)
        same = next((planned for planned in self._runs.values() if planned.runs == runs), None)
        self._runs[dialect] = same or _PlannedRuns.of(runs, self.ids)
        return self._runs[dialect]


@dataclass(frozen=True, slots=True)
class _PlannedChain:
    """One chain to compute: from the furthest state that is known (``reached``, the RIM at mark number ``at``) to its end.

    ``names`` are those of the states at the marks.
    """

    params: RealmCreate
    planned: _PlannedRuns
    names: tuple[bytes, ...]
    at: int = -1
    reached: bytes | None = None

    @classmethod
    def of(cls, params: RealmCreate, planned: _PlannedRuns, work: ReplayWork) -> "_PlannedChain":
        """Look for the furthest state in this work first, and then in the memo."""
        names = state_names(params, planned.names)
        last = len(names) - 1
        at = next((place for place in range(last, -1, -1) if names[place] in work.known), -1)
        reached = work.known[names[at]] if at >= 0 else None
        if at < last and work.memo is not None:
            if (remembered := work.memo.get(names[last])) is not None:
                at, reached = last, remembered
            elif at + 1 < last and (found := work.memo.furthest(names[at + 1 : last])):
                at, reached = at + 1 + found[0], found[1]
        return cls(params, planned, names, at, reached)

    @property
    def cost(self) -> int:
        """Chain steps that are left to do."""
        whole = self.planned.steps[-1]
        return whole + 1 if self.reached is None else whole - self.planned.steps[self.at]

    def finish(self, rmm: RmmVersion, replay: _PlannedReplay, work: ReplayWork) -> bytes:
        """Return the RIM; what is computed on the way is remembered where that pays."""
        if self.reached is not None and self.at == len(self.names) - 1:
            work.known[self.names[-1]] = self.reached
            return self.reached
        work.spent += self.cost
        runs, done = self.planned.runs, 0 if self.reached is None else self.planned.marks[self.at]
        names, rim = dict(zip(self.planned.marks, self.names, strict=True)), b""
        states = _chain(rmm, self.params, runs[done:], replay.granules, self.reached, work.pause)
        for position, rim in enumerate(states, done):
            if position in names:
                work.known[names[position]] = rim
                if work.memo is not None:
                    images = frozenset(replay.ids[run.image] for run in runs[:position] if isinstance(run, ImageRun))
                    work.memo.put(names[position], rim, images)
        return rim


def _checkpoints(runs: Sequence[PlannedRun]) -> tuple[int, ...]:
    """Return after how many runs a RIM is worth remembering, ascending: at the end, and where much was done since the last one."""
    marks, steps = [], 0
    for done, run in enumerate(runs, 1):
        steps += steps_of(run)
        if steps >= CHECKPOINT_STEPS or done == len(runs):
            marks.append(done)
            steps = 0
    return tuple(marks) or (0,)


def _image_ids(plan: BootPlan, images: ImageLookup) -> tuple[str, ...]:
    """Ids in the order of the plan, which is how ``ImageRun.image`` counts."""
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
    shared = populated_twice(runs_of(plan, Dialect(RmmVersion.V2_0)))
    if shared is not None:
        raise MalformedEvidence("rim.overlap", f"the log populates {shared:#x} twice, which no RMM does", seen=hex(shared))
    return tuple(_granules_of(loaded, images) for loaded in plan.images)


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


def _chain(
    rmm: RmmVersion,
    params: RealmCreate,
    runs: Sequence[PlannedRun],
    granules: Sequence[bytes],
    reached: bytes | None = None,
    pause: Callable[[], None] | None = None,
) -> Iterator[bytes]:
    """Yield the RIM before the first of ``runs`` and after each; ``reached`` is the first if it is known."""
    chain = RimChain(rmm, params, reached=reached, pause=pause)
    zero = ZERO_GRANULE_DIGESTS[params.hash_algorithm]
    yield chain.value
    for run in runs:
        match run:
            case ImageRun():
                chain.data_run(run.base, zero * run.zeros_before)
                base = run.base + run.zeros_before * GRANULE_SIZE
                chain.data_run(base, granules[run.image])
                chain.data_run(base + len(granules[run.image]) // len(zero) * GRANULE_SIZE, zero * run.zeros_after)
            case UnmeasuredRun():
                chain.unmeasured_run(run.base, run.granules)
            case RipasRun():
                for base, size, count in ripas_runs(run.base, run.top, params.s2sz):
                    chain.ripas_run(base, size, count)
            case RecCreate():
                chain.rec(run)
        yield chain.value
