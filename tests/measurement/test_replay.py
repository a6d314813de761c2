"""Replaying boot plans: against published chains, and against a model of RMM and KVM that shares no code with the replay."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits
from kbs_rim.measurement import replay
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, LogArea, RecRecord, RipasRecord, Step, boot_plan_from_log
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ZERO_GRANULE_DIGESTS, ReplayWork, image_problems, match_rim, params_to_try, replay_rim
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags, RecCreate, RmmVersion
from kbs_rim.realm.guest_memory import GuestMemory
from kbs_rim.realm.kvm_host import KvmHost
from kbs_rim.realm.rim_model import RealmHash, RealmParams, RecParams, RmmGeneration
from kbs_rim.realm.rmm_model import RmmModel

SYNTHETIC = Path(__file__).parent.parent / "vectors" / "logs" / "synthetic"
EXPECTED = json.loads((SYNTHETIC / "expected.json").read_text())
PAGE, SLOT, MIB = 4096, 64 * 1024, 1 << 20
RAM = 0x80000000
V1, V2 = RmmVersion.V1_0, RmmVersion.V2_0
PLAIN = Dialect(V1)


@dataclass(frozen=True)
class Image:
    """A trusted image that may lie anywhere: granules are cut and hashed from its bytes when asked for."""

    data: bytes

    @property
    def image_id(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def digests(self) -> Mapping[HashAlgorithm, bytes]:
        return {algorithm: algorithm.digest(self.data) for algorithm in HashAlgorithm}

    def granules_at(self, base: int, algorithm: HashAlgorithm) -> bytes | None:
        padded = bytes(base % PAGE) + self.data
        padded += bytes(-len(padded) % PAGE)
        return b"".join(algorithm.digest(padded[at : at + PAGE]) for at in range(0, len(padded), PAGE))


class Images:
    def __init__(self, *images: Image) -> None:
        self.by_digest = {(algorithm, digest): image for image in images for algorithm, digest in image.digests.items()}

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> Image | None:
        return self.by_digest.get((algorithm, digest))


def loaded(image: Image, base: int, event: int, algorithm: HashAlgorithm = HashAlgorithm.SHA256, **change) -> LoadedImage:
    values = {"description": "KERNEL", "size": image.size, "digest": algorithm.digest(image.data), **change}
    return LoadedImage(event=event, base=base, algorithm=algorithm, **values)


def plan_of(*steps: Step, algorithm: HashAlgorithm = HashAlgorithm.SHA256, s2sz: int = 33, **params: int) -> BootPlan:
    create = RealmCreate(algorithm, **{"flags": 0, "s2sz": s2sz, "num_bps": 5, "num_wps": 5, **params})
    return BootPlan(algorithm, None, CreateRecord(0, create), steps)


def rec(event: int = 90, flags: int = 1, pc: int = RAM) -> RecRecord:
    return RecRecord(event, RecCreate(flags, pc, (0x8FE00000, 0, 0, 0, 0, 0, 0, 0)))


KERNEL = Image(random.Random(1).randbytes(3 * PAGE + 17))
INITRD = Image(random.Random(2).randbytes(2 * PAGE))
IMAGES = Images(KERNEL, INITRD)
STEPS = (RipasRecord(1, RAM, 4 * MIB), loaded(KERNEL, RAM, 2), loaded(INITRD, RAM + MIB, 3, description="INITRD"), rec())
PLAN = plan_of(*STEPS)


# Published chains


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize(("member", "rmm"), [("rmm1", V1), ("rmm2_no_ripas_measurement", V2)])
def test_synthetic_logs_give_their_rim_after_each_event(name, member, rmm):
    images = Images(*(Image(path.read_bytes()) for path in (SYNTHETIC / "images").iterdir()))
    plan = boot_plan_from_log(parse_tcg_log((SYNTHETIC / name).read_bytes(), LogKind.VMM))
    expected = EXPECTED[name][member]
    chain = [replay_rim(replace(plan, steps=()), images, Dialect(rmm)).hex()]
    for length, step in enumerate(plan.steps, 1):
        if rmm is V1 or not isinstance(step, RipasRecord):
            chain.append(replay_rim(replace(plan, steps=plan.steps[:length]), images, Dialect(rmm)).hex())
    assert chain == expected["after_each_event"]
    assert replay_rim(plan, images, Dialect(rmm)).hex() == expected["rim"]
    result = match_rim(plan, images, bytes.fromhex(expected["rim"]), [Dialect(V1), Dialect(V2)])
    assert result.matched == Dialect(rmm)
    assert result.params == plan.create.params


def test_measured_images_are_what_the_replay_asks_for():
    """The registry's measurements give the same RIM as hashing the bytes on the spot, for both alignments."""
    images = [measure_image(KERNEL.data), measure_image(INITRD.data)]

    class Registry:
        def find(self, algorithm, digest):
            return next((image for image in images if image.digests[algorithm] == digest), None)

    end = RAM + 2 * MIB - (INITRD.size + 4)
    plan = plan_of(STEPS[0], loaded(KERNEL, RAM, 2), loaded(INITRD, end, 3), rec())
    assert end % PAGE == PAGE - 4
    assert replay_rim(plan, Registry(), PLAIN) == replay_rim(plan, IMAGES, PLAIN)


def test_zero_granule_digests():
    assert {algorithm: hashlib.new(algorithm.compact_name, bytes(4096)).digest() for algorithm in HashAlgorithm} == ZERO_GRANULE_DIGESTS


# Against a model of RMM and KVM


def model_rim(plan: BootPlan, images: Images, dialect: Dialect) -> bytes:
    """Perform the plan on modelled translation tables, in the order of the dialect."""
    params = plan.create.params
    numbers = (params.flags, params.s2sz, params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs)
    rmm = RmmModel(RmmGeneration(dialect.rmm.value), RealmParams(RealmHash(plan.hash_algorithm.compact_name), *numbers))
    kvm, memory = KvmHost(rmm), GuestMemory()
    for image in plan.images:
        memory.write(image.base, images.find(image.algorithm, image.digest).data)
    last = dialect.order is Order.RIPAS_LAST
    rank = {LoadedImage: 0, LogArea: 1, RecRecord: 2, RipasRecord: 3}
    for step in sorted(plan.steps, key=lambda step: rank[type(step)]) if last else plan.steps:
        match step:
            case LoadedImage():
                kvm.populate(memory, step.base, step.size, page_size=dialect.rounding.value)
            case LogArea():
                kvm.populate(memory, step.base, step.size, measured=False)
            case RecRecord():
                kvm.create_rec(RecParams(step.rec.flags, step.rec.pc, step.rec.gprs))
            case RipasRecord():
                kvm.init_ripas(step.base, step.size, skip_data=True)
    return rmm.measurements.rim


@st.composite
def boot_plans(draw) -> tuple[BootPlan, Images]:
    """Images in slots of 64 KiB, so that no rounding makes two of them touch; RAM with ragged ends, in one or two ranges."""
    algorithm = draw(st.sampled_from(list(HashAlgorithm)))
    s2sz = draw(st.sampled_from([33, 34, 36, 40, 48]))
    first = RAM + draw(st.integers(0, 700)) * PAGE
    pages = draw(st.one_of(st.integers(1, 3000), st.integers(0, 2).map(lambda gib: (gib << 18) + 513)))
    ranges = [RipasRecord(1, first, pages * PAGE)]
    if draw(st.booleans()):
        ranges.append(RipasRecord(2, ranges[0].base + ranges[0].size + draw(st.integers(0, 600)) * PAGE, draw(st.integers(1, 1200)) * PAGE))
    if ranges[-1].base + ranges[-1].size > 1 << (s2sz - 1):
        s2sz = 36  # The protected half must hold the RAM, or the modelled RMM refuses it.
    places = draw(st.lists(st.integers(0, 90), unique=True, max_size=4))
    images, steps = [], []
    for event, place in enumerate(places[1:], 3):
        image = Image(random.Random(event).randbytes(draw(st.integers(1, 5 * PAGE))))
        offset = draw(st.sampled_from([0, 4, PAGE, 3 * PAGE + 0x123]))
        steps.append(loaded(image, RAM + place * SLOT + offset, event, algorithm))
        images.append(image)
    if places:
        steps.append(LogArea(20, RAM + places[0] * SLOT + draw(st.sampled_from([0, PAGE])), draw(st.integers(1, 15)) * PAGE))
    steps += [rec(30, flags) for flags in draw(st.lists(st.sampled_from([0, 1]), max_size=2))]
    steps = [*ranges, *draw(st.permutations(steps))] if draw(st.booleans()) else [*draw(st.permutations(steps)), *ranges]
    return plan_of(*steps, algorithm=algorithm, s2sz=s2sz), Images(*images)


@settings(max_examples=60, deadline=None)
@given(boot_plans(), st.sampled_from(list(Rounding)), st.sampled_from([Order.LOG, Order.RIPAS_LAST]), st.sampled_from(list(RmmVersion)))
def test_replay_equals_rmm_and_kvm(case, rounding, order, rmm):
    plan, images = case
    if plan.hash_algorithm is HashAlgorithm.SHA384:
        rmm = V2
    dialect = Dialect(rmm, rounding, order)
    assert replay_rim(plan, images, dialect) == model_rim(plan, images, dialect)


def test_ripas_last_leaves_out_what_holds_data():
    """KVM sets RIPAS at activation and skips pages that hold data, so their blocks are measured in 4 KiB entries."""
    steps = (loaded(KERNEL, RAM + 2 * MIB, 1), LogArea(2, RAM + 4 * MIB, SLOT), rec(), RipasRecord(9, RAM, 6 * MIB))
    as_logged = plan_of(*steps)
    dialect = Dialect(V1, order=Order.RIPAS_LAST)
    assert replay_rim(as_logged, IMAGES, dialect) == model_rim(as_logged, IMAGES, dialect)
    # 2 MiB whole, 508 pages around 4 of the kernel, 496 around 16 of the log: what KVM leaves for the RMM to measure.
    result = match_rim(as_logged, IMAGES, bytes(32), [dialect])
    assert result.granules == 1 + 4 + 16 + 1 + 1 + 508 + 496


def test_order_of_the_log_does_not_matter_for_ripas_last():
    reordered = plan_of(STEPS[3], STEPS[1], STEPS[0], STEPS[2])
    for order in (Order.RIPAS_LAST, Order.RIPAS_LAST_WHOLE):
        assert replay_rim(PLAN, IMAGES, Dialect(V1, order=order)) == replay_rim(reordered, IMAGES, Dialect(V1, order=order))
    assert replay_rim(PLAN, IMAGES, PLAIN) != replay_rim(reordered, IMAGES, PLAIN)


def test_ripas_last_whole_does_not_skip():
    dialect = Dialect(V1, order=Order.RIPAS_LAST_WHOLE)
    moved = plan_of(STEPS[1], STEPS[2], STEPS[3])
    result = match_rim(PLAN, IMAGES, bytes(32), [dialect])
    assert result.granules == 1 + 4 + 2 + 1 + 2
    assert result.rims[dialect] not in (replay_rim(PLAN, IMAGES, Dialect(V1, order=Order.RIPAS_LAST)), replay_rim(moved, IMAGES, dialect))


def test_every_dialect_of_a_plan_that_tells_them_apart_gives_another_rim():
    plan = plan_of(STEPS[0], loaded(KERNEL, RAM + PAGE, 2), rec(), LogArea(4, RAM + MIB, SLOT))
    v1 = {replay_rim(plan, IMAGES, Dialect(V1, rounding, order)) for rounding in Rounding for order in Order}
    v2 = {replay_rim(plan, IMAGES, Dialect(V2, rounding, order)) for rounding in Rounding for order in Order}
    assert len(v1) == 9
    assert len(v2) == 6  # RMM 2.0 does not measure RIPAS: the two ways to set it last are one.
    assert not v1 & v2


# Attacks and lies


def finding_of(plan: BootPlan, images: Images = IMAGES, dialect: Dialect = PLAIN, limits: Limits = Limits()) -> MalformedEvidence:  # noqa: B008
    with pytest.raises(MalformedEvidence) as caught:
        replay_rim(plan, images, dialect, limits)
    with pytest.raises(MalformedEvidence) as matched:
        match_rim(plan, images, bytes(32), [dialect], limits)
    assert matched.value.finding_id == caught.value.finding_id
    return caught.value


def test_image_that_nobody_registered():
    error = finding_of(plan_of(loaded(Image(b"evil"), RAM, 7)))
    assert error.finding_id == "rim.image-unknown"
    assert "event 7 (KERNEL)" in error.message
    assert hashlib.sha256(b"evil").hexdigest() in error.message


def test_digest_of_another_algorithm_names_nothing():
    """T13: a look-up by digest alone would find it."""
    plan = plan_of(loaded(KERNEL, RAM, 7, HashAlgorithm.SHA256, digest=HashAlgorithm.SHA512.digest(KERNEL.data)[:32]))
    assert finding_of(plan).finding_id == "rim.image-unknown"


def test_two_digests_must_name_one_image():
    other = ((HashAlgorithm.SHA512, HashAlgorithm.SHA512.digest(INITRD.data)),)
    assert finding_of(plan_of(loaded(KERNEL, RAM, 7, other_digests=other))).finding_id == "rim.image-unknown"
    same = ((HashAlgorithm.SHA512, HashAlgorithm.SHA512.digest(KERNEL.data)),)
    plain = replay_rim(plan_of(loaded(KERNEL, RAM, 7)), IMAGES, PLAIN)
    assert replay_rim(plan_of(loaded(KERNEL, RAM, 7, other_digests=same)), IMAGES, PLAIN) == plain


@pytest.mark.parametrize("change", [-1, 1, 4096, -KERNEL.size + 16])
def test_blob_size_that_lies(change):
    """T12: part of a trusted image is not that image."""
    error = finding_of(plan_of(loaded(KERNEL, RAM, 7, size=KERNEL.size + change)))
    assert (error.finding_id, error.expected) == ("rim.image-size", str(KERNEL.size))


def test_hostile_blob_size_log_is_refused():
    plan = boot_plan_from_log(parse_tcg_log((SYNTHETIC / "hostile" / "36-blobsize-lies.bin").read_bytes(), LogKind.VMM))
    images = Images(Image((SYNTHETIC / "images" / "kernel.bin").read_bytes()))
    assert finding_of(plan, images).finding_id == "rim.image-size"


def test_offset_without_registered_granules():
    class Registry:
        def find(self, algorithm, digest):
            return measure_image(KERNEL.data)

    plan = plan_of(loaded(KERNEL, RAM + 8, 7))
    assert finding_of(plan, Registry()).finding_id == "rim.image-alignment"


def test_all_problems_of_the_images_are_reported():
    plan = plan_of(loaded(KERNEL, RAM, 1, size=1), loaded(INITRD, RAM + MIB, 2), loaded(Image(b"x"), RAM + 2 * MIB, 3))
    assert [problem.finding_id for problem in image_problems(plan, IMAGES)] == ["rim.image-size", "rim.image-unknown"]


def test_non_runnable_rec_is_not_measured():
    """T11."""
    assert replay_rim(plan_of(rec(flags=0)), IMAGES, PLAIN) == replay_rim(plan_of(), IMAGES, PLAIN)
    assert replay_rim(plan_of(rec(flags=3)), IMAGES, PLAIN) != replay_rim(plan_of(rec(flags=1)), IMAGES, PLAIN)


def test_flags_reach_the_rim():
    """T10: LPA2 and unknown bits are hashed as given."""
    rims = {
        replay_rim(plan_of(flags=flags), IMAGES, PLAIN) for flags in (0, RealmFlags.LPA2, RealmFlags.DA, RealmFlags.MEC_PRIVATE, 1 << 63)
    }
    assert len(rims) == 5


@pytest.mark.parametrize("base", [RAM, RAM + 3 * PAGE, RAM - PAGE])
def test_a_granule_populated_twice_is_no_realm_at_all(base):
    """T21: the RMM refuses the second one, so a RIM of such a log would be a number that nothing has."""
    error = finding_of(plan_of(loaded(KERNEL, RAM, 1), loaded(KERNEL, base, 2, description="B")))
    assert (error.finding_id, error.seen) == ("rim.overlap", hex(max(base, RAM)))
    assert finding_of(plan_of(loaded(KERNEL, RAM, 1), LogArea(2, RAM + 3 * PAGE, PAGE))).finding_id == "rim.overlap"


def test_ranges_that_touch_only_after_rounding_rule_out_that_rounding():
    plan = plan_of(loaded(KERNEL, RAM, 1), loaded(INITRD, RAM + 4 * PAGE, 2))
    result = match_rim(plan, IMAGES, bytes(32), [Dialect(V1, Rounding.PAGE_64K), PLAIN])
    assert list(result.rims) == [PLAIN]
    assert "twice" in result.skipped[Dialect(V1, Rounding.PAGE_64K)]
    assert finding_of(plan, dialect=Dialect(V1, Rounding.PAGE_64K)).finding_id == "rim.dialects"


# The PMU quirk of kvmtool


def test_pmu_counters_without_the_flag_are_tried_as_logged_and_as_zero():
    plan = plan_of(*STEPS, pmu_num_ctrs=6)
    as_logged, as_kvm_does = (replay_rim(plan, IMAGES, PLAIN, params=params) for params in params_to_try(plan.create.params))
    assert as_logged == replay_rim(plan, IMAGES, PLAIN)
    assert as_kvm_does == replay_rim(PLAN, IMAGES, PLAIN)
    assert match_rim(plan, IMAGES, as_logged, [PLAIN]).params.pmu_num_ctrs == 6
    result = match_rim(plan, IMAGES, as_kvm_does, [PLAIN])
    assert (result.matched, result.params.pmu_num_ctrs) == (PLAIN, 0)
    assert result.rims == {PLAIN: as_kvm_does}
    assert match_rim(plan, IMAGES, bytes(32), [PLAIN]).rims == {PLAIN: as_logged}


@pytest.mark.parametrize(("flags", "counters", "variants"), [(0, 0, 1), (0, 6, 2), (RealmFlags.PMU, 6, 1), (RealmFlags.SVE, 1, 2)])
def test_at_most_two_variants_of_the_parameters(flags, counters, variants):
    tried = params_to_try(RealmCreate(HashAlgorithm.SHA256, flags, 40, pmu_num_ctrs=counters))
    assert len(tried) == variants
    assert tried[0].pmu_num_ctrs == counters


# match_rim


def test_first_matching_dialect_ends_the_search():
    wanted = Dialect(V1, Rounding.PAGE_16K)
    dialects = [PLAIN, wanted, Dialect(V2)]
    result = match_rim(PLAN, IMAGES, replay_rim(PLAN, IMAGES, wanted), dialects)
    assert result.matched == wanted
    assert list(result.rims) == dialects[:2]


def test_no_match_gives_every_rim_that_was_tried():
    dialects = [Dialect(rmm, rounding, order) for rmm in RmmVersion for rounding in Rounding for order in Order]
    result = match_rim(PLAN, IMAGES, bytes(32), dialects)
    assert (result.matched, result.params, dict(result.skipped)) == (None, None, {})
    assert result.rims == {dialect: replay_rim(PLAN, IMAGES, dialect) for dialect in dialects}


@pytest.mark.parametrize("rim", [b"", bytes(31), bytes(64)])
def test_a_rim_of_another_length_matches_nothing(rim):
    computed = replay_rim(PLAN, IMAGES, PLAIN)
    assert match_rim(PLAN, IMAGES, rim, [PLAIN]).matched is None
    assert match_rim(PLAN, IMAGES, computed + bytes(32), [PLAIN]).matched is None
    assert match_rim(PLAN, IMAGES, computed[:-1], [PLAIN]).matched is None


def test_same_operations_are_computed_once():
    plan = plan_of(loaded(KERNEL, RAM, 2), rec())
    once = match_rim(plan, IMAGES, bytes(32), [PLAIN]).granules
    result = match_rim(plan, IMAGES, bytes(32), [Dialect(rmm, order=order) for rmm in RmmVersion for order in Order])
    assert result.granules == once == 1 + 4 + 1
    assert len(result.rims) == 6
    assert len(set(result.rims.values())) == 1


def test_number_of_dialects_is_bounded():
    dialects = [Dialect(V1, rounding) for rounding in Rounding]
    result = match_rim(PLAN, IMAGES, bytes(32), dialects, Limits(replay_dialects=2))
    assert list(result.rims) == dialects[:2]
    assert list(result.skipped) == dialects[2:]


def test_work_of_all_dialects_together_is_bounded():
    cost = match_rim(PLAN, IMAGES, bytes(32), [PLAIN]).granules
    dialects = [PLAIN, Dialect(V1, Rounding.PAGE_64K), Dialect(V2)]
    result = match_rim(PLAN, IMAGES, bytes(32), dialects, Limits(replay_granules=2 * cost))
    assert list(result.rims) == [PLAIN, Dialect(V2)]
    assert result.granules <= 2 * cost
    assert "chain steps" in result.skipped[dialects[1]]


@pytest.mark.parametrize("limits", [Limits(replay_granules=3), Limits(ripas_entries=1)])
def test_replay_over_the_limits_is_refused_before_hashing(limits):
    assert finding_of(PLAN, limits=limits).finding_id == "rim.dialects"


def test_no_dialect_at_all_is_refused():
    with pytest.raises(MalformedEvidence) as caught:
        match_rim(PLAN, IMAGES, bytes(32), [])
    assert caught.value.finding_id == "rim.dialects"


def test_rounding_that_would_cost_too_much_is_skipped_not_hashed():
    """One byte at each of 16 places, rounded to 64 KiB: the cost counts the zero granules too."""
    tiny = Image(b"x")
    plan = plan_of(*(loaded(tiny, RAM + place * SLOT, place) for place in range(16)))
    assert match_rim(plan, Images(tiny), bytes(32), [Dialect(V2, Rounding.PAGE_64K)]).granules == 1 + 16 * 16


def test_calls_that_share_their_work_compute_nothing_twice_and_have_one_budget():
    """Workloads with other dialects ask again for the same realm; together they may not cost more than one."""
    every = [Dialect(rmm, order=order) for rmm in RmmVersion for order in Order]
    alone = match_rim(PLAN, IMAGES, bytes(32), every)
    work = ReplayWork(alone.granules)
    first = match_rim(PLAN, IMAGES, bytes(32), every[:2], work=work)
    second = match_rim(PLAN, IMAGES, bytes(32), every, work=work)
    assert {**first.rims, **second.rims} == alone.rims
    assert first.granules + second.granules == work.spent == alone.granules
    assert work.left == 0
    again = match_rim(PLAN, IMAGES, alone.rims[every[-1]], every[::-1], work=work)
    assert (again.matched, again.granules) == (every[-1], 0)
    assert (
        "0 left"
        in match_rim(PLAN, IMAGES, bytes(32), [*every, Dialect(V2, Rounding.PAGE_64K)], work=work).skipped[Dialect(V2, Rounding.PAGE_64K)]
    )


def test_work_is_shared_between_variants_of_the_parameters_too():
    plan = plan_of(*STEPS, pmu_num_ctrs=6)
    once = match_rim(PLAN, IMAGES, bytes(32), [PLAIN]).granules
    work = ReplayWork(2 * once)
    wanted = replay_rim(plan, IMAGES, PLAIN)
    assert match_rim(plan, IMAGES, wanted, [PLAIN], work=work).granules == once
    assert match_rim(plan, IMAGES, bytes(32), [PLAIN], work=work).granules == once
    assert match_rim(plan, IMAGES, wanted, [PLAIN], work=work).granules == 0


def test_what_follows_from_a_log_alone_is_worked_out_once_for_all_workloads(monkeypatch):
    """A log of 512 vCPUs costs more to lay out than to replay; workloads differ in what they allow, not in what was logged."""
    every = [Dialect(rmm, order=order) for rmm in RmmVersion for order in Order]
    laid_out, runs_of = [], replay.runs_of
    monkeypatch.setattr(replay, "runs_of", lambda plan, dialect: laid_out.append(dialect) or runs_of(plan, dialect))
    work = ReplayWork(1 << 20)
    first = match_rim(PLAN, IMAGES, bytes(32), every, work=work)
    once = len(laid_out)
    fewer = match_rim(PLAN, IMAGES, bytes(32), every[::-2], work=work)
    other = match_rim(PLAN, IMAGES, bytes(32), every, variants=(replace(PLAN.create.params, num_bps=9),), work=work)
    assert len(laid_out) == once == 1 + len(every)
    assert fewer.rims == {dialect: first.rims[dialect] for dialect in every[::-2]}
    assert other.rims == match_rim(plan_of(*STEPS, num_bps=9), IMAGES, bytes(32), every).rims


@pytest.mark.parametrize("again", [1, 2])
def test_work_on_one_plan_says_nothing_about_another_plan_or_other_images(again):
    """A search shares its work between the VMs that it tries."""
    other_plan, elsewhere = plan_of(*STEPS[:-1]), Images(*dict.fromkeys(IMAGES.by_digest.values()))
    cases = [(PLAN, IMAGES), (other_plan, IMAGES), (PLAN, elsewhere)] * again
    work = ReplayWork(1 << 20)
    for plan, images in cases:
        assert match_rim(plan, images, bytes(32), [PLAIN], work=work).rims == {PLAIN: replay_rim(plan, images, PLAIN)}
    with pytest.raises(MalformedEvidence, match="not at hand"):
        match_rim(PLAN, Images(), bytes(32), [PLAIN], work=work)
