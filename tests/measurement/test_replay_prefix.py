"""Plans that begin alike share the chain up to where they part; and nothing else is ever shared."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, MIB, Limits
from kbs_rim.measurement import replay
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, LogArea, RecRecord, RipasRecord
from kbs_rim.measurement.chain_kernel import KernelChoice, choose
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.granules import Alignment, lead_of
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ReplayWork, match_rim, replay_rim
from kbs_rim.measurement.rmm import RealmCreate, RecCreate, RmmVersion
from kbs_rim.services.replay_cache import RimCache
from tests.rounds import rounds

RAM = 0x80000000
DIALECTS = [Dialect(rmm, rounding, order) for rmm, rounding, order in itertools.product(RmmVersion, list(Rounding)[:2], Order)]
FIRMWARE, KERNEL, OTHER_KERNEL, INITRD = (
    measure_image(random.Random(seed).randbytes(size)) for seed, size in enumerate((6 * GRANULE_SIZE, 5000, 5000, 9000))
)
NO_RIM = bytes(32)


class Registered:
    """Images by digest."""

    def find(self, algorithm, digest):
        return next((image for image in (FIRMWARE, KERNEL, OTHER_KERNEL, INITRD) if image.digests[algorithm] == digest), None)


def load(event, image, base, algorithm=HashAlgorithm.SHA256):
    return LoadedImage(event, "image", base, image.size, image.digests[algorithm], algorithm)


def plan_of(*steps, algorithm=HashAlgorithm.SHA256, **params):
    create = RealmCreate(algorithm, **{"flags": 0, "s2sz": 40, "num_bps": 5, **params})
    return BootPlan(algorithm, None, CreateRecord(1, create), steps)


def firmware_first(kernel, *, base=RAM + 16 * MIB, pc=RAM, **params):
    rec = RecRecord(9, RecCreate(1, pc, (0,) * 8))
    return plan_of(
        RipasRecord(2, RAM, 64 * MIB), load(3, FIRMWARE, RAM), load(4, kernel, base), LogArea(5, RAM + 32 * MIB, 65536), rec, **params
    )


@pytest.fixture(autouse=True)
def a_checkpoint_after_every_operation(monkeypatch):
    monkeypatch.setattr(replay, "CHECKPOINT_STEPS", 1)


def rims_of(plan, memo=None, dialects=DIALECTS):
    work = ReplayWork(1 << 22, memo)
    return dict(match_rim(plan, Registered(), NO_RIM, dialects, variants=(plan.create.params,), work=work).rims), work.spent


def cache():
    return RimCache(Limits())


PLANS = [
    firmware_first(KERNEL),
    firmware_first(OTHER_KERNEL),
    firmware_first(KERNEL, base=RAM + 17 * MIB),
    firmware_first(KERNEL, base=RAM + 16 * MIB + lead_of(Alignment.END, KERNEL.size)),
    firmware_first(KERNEL, pc=RAM + 4),
    firmware_first(KERNEL, flags=2),
    firmware_first(KERNEL, sve_vl=1),
    firmware_first(KERNEL, pmu_num_ctrs=1),
    firmware_first(KERNEL, s2sz=41),
    firmware_first(KERNEL, num_bps=4),
    firmware_first(KERNEL, num_wps=1),
    firmware_first(INITRD),
    replace(firmware_first(KERNEL), steps=firmware_first(KERNEL).steps[:3]),
    plan_of(),
]


@pytest.mark.parametrize("kernel", [KernelChoice.PURE, KernelChoice.AUTO])
@settings(max_examples=rounds(20))
@given(st.lists(st.sampled_from(PLANS), min_size=1, max_size=6))
def test_a_warm_memo_gives_the_rims_of_a_cold_one(kernel, plans):
    choose(kernel)
    try:
        memo = cache().as_of(1)
        for plan in plans:
            expected = {dialect: replay_rim(plan, Registered(), dialect) for dialect in DIALECTS}
            assert rims_of(plan, memo)[0] == rims_of(plan)[0] == expected
    finally:
        choose(KernelChoice.AUTO)


def test_every_plan_here_has_a_rim_of_its_own():
    """Else the test above could not see one that took another's."""
    rims = [replay_rim(plan, Registered(), DIALECTS[0]) for plan in PLANS]
    assert len(set(rims)) == len(PLANS)


def test_a_plan_that_begins_like_another_pays_for_what_differs():
    memo = cache()
    _, whole = rims_of(firmware_first(KERNEL), memo.as_of(1), [Dialect(RmmVersion.V2_0)])
    _, rest = rims_of(firmware_first(KERNEL, pc=RAM + 4), memo.as_of(1), [Dialect(RmmVersion.V2_0)])
    _, none = rims_of(firmware_first(KERNEL), memo.as_of(1), [Dialect(RmmVersion.V2_0)])
    assert (whole, rest, none) == (1 + 6 + 2 + 16 + 1, 1, 0)
    assert memo.prefixes.hits == 1


def test_dialects_of_one_plan_share_what_they_have_in_common():
    """In the log's order a realm of RMM 2.0 does what one does whose RAM is measured last, until that RAM comes."""
    plan = firmware_first(KERNEL)
    work = ReplayWork(1 << 22)
    plain, last = Dialect(RmmVersion.V2_0), Dialect(RmmVersion.V1_0, order=Order.RIPAS_LAST_WHOLE)
    match_rim(plan, Registered(), NO_RIM, [plain], work=work)
    alone = work.spent
    match_rim(plan, Registered(), NO_RIM, [last], work=work)
    assert work.spent - alone == 32


def test_attack_an_offset_in_the_page_that_the_realm_did_not_have():
    """An image at another offset has other granules, though it covers as many at the same addresses."""
    honest = firmware_first(KERNEL, base=RAM + 16 * MIB)
    lie = firmware_first(KERNEL, base=RAM + 16 * MIB + lead_of(Alignment.END, KERNEL.size))
    signed = replay_rim(honest, Registered(), DIALECTS[0])
    memo = cache()
    for plan, matches in ((honest, True), (lie, False), (honest, True)):
        result = match_rim(plan, Registered(), signed, DIALECTS[:1], work=ReplayWork(1 << 22, memo.as_of(1)))
        assert (result.matched is not None) == matches


def test_attack_a_remembered_beginning_does_not_outlive_its_image():
    memo, dialects = cache(), [Dialect(RmmVersion.V2_0)]
    _, whole = rims_of(firmware_first(KERNEL), memo.as_of(1), dialects)
    rims_of(firmware_first(OTHER_KERNEL), memo.as_of(1), dialects)
    assert len(memo) == 4 + 3
    assert memo.drop_images([KERNEL.image_id], sequence=2) == 3
    assert rims_of(firmware_first(OTHER_KERNEL), memo.as_of(2), dialects)[1] == 0
    assert memo.drop_images([FIRMWARE.image_id], sequence=3) == 4
    assert rims_of(firmware_first(OTHER_KERNEL), memo.as_of(3), dialects)[1] == whole


def test_what_is_remembered_depends_on_the_images_so_far_and_on_no_later_ones():
    put = {}

    class Recorder:
        def get(self, key):
            return None

        def furthest(self, keys):
            return None

        def put(self, key, rim, images):
            put[rim] = images

    plan = firmware_first(KERNEL)
    match_rim(plan, Registered(), NO_RIM, [Dialect(RmmVersion.V2_0)], work=ReplayWork(1 << 22, Recorder()))
    assert sorted(map(len, put.values())) == [1, 2, 2, 2]
    assert put[replay_rim(plan, Registered(), Dialect(RmmVersion.V2_0))] == {FIRMWARE.image_id, KERNEL.image_id}


def test_a_key_is_small_however_many_operations_a_log_has():
    keys = []

    class Recorder:
        def get(self, key):
            keys.append(key)

        def furthest(self, keys):
            return None

        def put(self, key, rim, images):
            keys.append(key)

    recs = (RecRecord(10 + number, RecCreate(1, number, (number,) * 8)) for number in range(500))
    match_rim(plan_of(*recs), Registered(), NO_RIM, DIALECTS, work=ReplayWork(1 << 22, Recorder()))
    assert {len(key) for key in keys} == {32}


def test_a_replay_can_be_stopped(monkeypatch):
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    image = measure_image(bytes(16 * MIB))

    class Big:
        def find(self, algorithm, digest):
            return image

    with pytest.raises(Stopped):
        match_rim(plan_of(load(3, image, RAM)), Big(), NO_RIM, DIALECTS, work=ReplayWork(1 << 22, pause=stop))
