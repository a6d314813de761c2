"""Caches: bounded, dependency-exact, and never an answer that the replay would not give."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import INITRD, KERNEL, Stage, error_ids

from kbs_rim.appraisal.appraise import Candidate, Case, appraise, read_log
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement import replay
from kbs_rim.measurement.image import measure_image
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.services.replay_cache import GranuleCache, RimCache

AT = 1_790_000_000


@pytest.fixture
def chains(monkeypatch):
    """Count the chains that are really computed."""
    counted = []
    original = replay._chain

    def counting(*arguments):
        counted.append(arguments[0])
        return original(*arguments)

    monkeypatch.setattr(replay, "_chain", counting)
    return counted


def case_of(stage, memo, **simulated):
    evidence = SimulatedRealm(stage.simulation(**simulated)).evidence(stage.challenge)
    token = parse_cca_token(evidence.token)
    plan, findings = read_log(evidence, DEFAULT_LIMITS)
    return Case(
        token=token, plan=plan, log_findings=findings, challenge=stage.challenge, issued_at=AT, at=AT,
        attestation_result=stage.attestation_result(reassemble(token), AT), ear_policy=stage.policy(), images=stage.images(),
        candidates=(Candidate(stage.workload, 1),), limits=DEFAULT_LIMITS, memo=memo,
    )  # fmt: skip


def test_a_warm_appraisal_computes_nothing(chains):
    stage, memo = Stage(), RimCache(DEFAULT_LIMITS).as_of(1)
    cold = appraise(case_of(stage, memo))
    assert cold.allowed
    computed = len(chains)
    assert computed >= 1
    warm = appraise(case_of(stage, memo))
    assert warm.allowed
    assert len(chains) == computed
    assert (warm.facts["dialect"], warm.facts["rim"]) == (cold.facts["dialect"], cold.facts["rim"])


@pytest.mark.parametrize("lie", [Lie.TAMPERED_KERNEL, Lie.EXTRA_DATA, Lie.PC_OFF_ENTRY, Lie.SECOND_RUNNABLE_REC, Lie.DEBUG_PLATFORM])
def test_attack_a_warm_cache_helps_no_liar(lie):
    stage, memo = Stage(), RimCache(DEFAULT_LIMITS).as_of(1)
    assert appraise(case_of(stage, memo)).allowed
    cold = error_ids(appraise(case_of(stage, None, lie=lie)))
    for _ in range(2):
        assert error_ids(appraise(case_of(stage, memo, lie=lie))) == cold


def test_another_kernel_of_the_same_layout_has_an_entry_of_its_own(chains):
    stage, memo = Stage(), RimCache(DEFAULT_LIMITS).as_of(1)
    appraise(case_of(stage, memo))
    before = len(chains)
    other = replace(stage.vm, files=replace(stage.vm.files, kernel=KERNEL[:-1] + b"\0"))
    assert appraise(case_of(Stage(other), memo)).allowed
    assert len(chains) > before


def fill(cache, sequence=1):
    for key, rim, images in (("a", b"1", {"kernel", "initrd"}), ("b", b"2", {"kernel"}), ("c", b"3", {"other"})):
        cache.put(key, rim, frozenset(images), sequence=sequence)


def test_revocation_drops_exactly_what_depended_on_the_image():
    cache = RimCache(DEFAULT_LIMITS)
    fill(cache)
    assert cache.drop_images(["initrd"], sequence=2) == 1
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, b"2", b"3")
    assert cache.drop_images(["kernel", "unknown"], sequence=3) == 1
    assert (cache.counts.dropped, len(cache)) == (2, 1)


def test_attack_an_appraisal_from_before_a_revocation_puts_nothing_back():
    cache = RimCache(DEFAULT_LIMITS)
    before = cache.as_of(1)
    fill(cache)
    cache.drop_images(["kernel"], sequence=2)
    before.put("a", b"1", frozenset({"kernel", "initrd"}))
    before.put("c", b"3", frozenset({"other"}))
    assert (cache.get("a"), cache.get("c")) == (None, b"3"), "what does not depend on the image is not held up"
    assert cache.counts.refused == 1


def test_revoked_ids_are_bounded_and_old_appraisals_pay_for_it(monkeypatch):
    monkeypatch.setattr("kbs_rim.services.replay_cache._REVOCATIONS_REMEMBERED", 2)
    cache = RimCache(DEFAULT_LIMITS)
    for sequence, image in ((2, "one"), (3, "two"), (4, "three")):
        cache.drop_images([image], sequence=sequence)
    assert [cache.knows_revoked(image) for image in ("one", "two", "three")] == [False, True, True]
    cache.as_of(1).put("from before", b"1", frozenset({"one"}))
    cache.as_of(4).put("revoked", b"1", frozenset({"two"}))
    cache.as_of(4).put("good", b"1", frozenset({"four"}))
    assert [cache.get(key) for key in ("from before", "revoked", "good")] == [None, None, b"1"]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_the_cache_is_bounded_and_forgets_the_least_recent(steps):
    memo, model = RimCache(Limits(rim_cache_entries=4)), {}
    for key, is_put in steps:
        if is_put:
            model.pop(key, None)
            model[key] = bytes([key])
            memo.put(key, bytes([key]), frozenset({str(key)}), sequence=1)
            while len(model) > 4:
                del model[next(iter(model))]
        else:
            assert memo.get(key) == model.get(key)
            if key in model:
                model[key] = model.pop(key)
        assert len(memo) == len(model)


def test_granules_are_held_within_their_bound():
    kernel, initrd = measure_image(KERNEL), measure_image(INITRD)
    size = sum(len(digests) for key, digests in kernel.granules.items() if key[0] is HashAlgorithm.SHA256)
    cache = GranuleCache(Limits(granule_cache_bytes=size))
    cache.put(kernel, HashAlgorithm.SHA256)
    found = cache.get(kernel.image_id, HashAlgorithm.SHA256)
    assert found.granules_at(0x40000000, HashAlgorithm.SHA256) == kernel.granules_at(0x40000000, HashAlgorithm.SHA256)
    assert cache.get(kernel.image_id, HashAlgorithm.SHA512) is None
    assert cache.held_bytes == size
    cache.put(initrd, HashAlgorithm.SHA256)
    assert cache.get(kernel.image_id, HashAlgorithm.SHA256) is None
    assert 0 < cache.held_bytes <= size
    cache.put(kernel, HashAlgorithm.SHA512)
    assert cache.get(kernel.image_id, HashAlgorithm.SHA512) is None


def test_granules_of_a_revoked_image_are_dropped():
    kernel, initrd = measure_image(KERNEL), measure_image(INITRD)
    cache = GranuleCache(DEFAULT_LIMITS)
    for algorithm in (HashAlgorithm.SHA256, HashAlgorithm.SHA512):
        cache.put(kernel, algorithm)
    cache.put(initrd, HashAlgorithm.SHA256)
    assert len(cache) == 3
    assert cache.drop_images([kernel.image_id, "unknown"]) == 2
    assert cache.get(kernel.image_id, HashAlgorithm.SHA256) is None
    assert cache.held_bytes == sum(len(digests) for digests in cache.get(initrd.image_id, HashAlgorithm.SHA256).granules.values())
    assert cache.clear() == 1
    assert (cache.held_bytes, cache.counts.dropped) == (0, 3)
