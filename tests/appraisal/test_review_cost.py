"""What a hostile log may cost an appraisal: hash chain steps, findings, granule digests that are fetched. Counted, not timed."""

import itertools
from dataclasses import replace

import pytest
from log_forge import SHA256, tcg_log
from measured_boot import extends_of, read, with_logs
from stage import KVMTOOL_KERNEL, QEMU_KERNEL, Stage, error_ids

from kbs_rim.appraisal import appraise as appraise_module
from kbs_rim.appraisal.appraise import Candidate, read_log, worth_replaying
from kbs_rim.appraisal.registered_image import ImageSet, ImageState
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement import replay
from kbs_rim.measurement.rim_runs import steps_of_all
from kbs_rim.realm.host_script import honest_log
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.log_emitter import BlobRecord, RecRecord
from kbs_rim.realm.rim_model import RecParams
from kbs_rim.realm.simulator import SimulatedRealm, write_log

ROUNDINGS, ORDERS, VERSIONS = (4096, 16384, 65536), ("log", "ripas-last", "ripas-last-whole"), ("1.0", "2.0")


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Steps of every hash chain that is computed."""
    spent: list[int] = []
    chain = replay._chain

    def counted(rmm, params, runs, granules, reached, pause):
        spent.append(steps_of_all(runs) - (reached is not None))
        return chain(rmm, params, runs, granules, reached, pause)

    monkeypatch.setattr(replay, "_chain", counted)
    return spent


def every_taste(document: dict) -> tuple[Candidate, ...]:
    """Workloads for one VM, each with another list of dialects in another order."""
    tastes = itertools.product(itertools.permutations(ROUNDINGS, 2), itertools.permutations(ORDERS, 2), itertools.permutations(VERSIONS))
    return tuple(
        Candidate(
            parse_workload({**document, "name": f"w{number}", "rmm": {"roundings": roundings, "orders": orders, "versions": versions}}), 1
        )
        for number, (roundings, orders, versions) in enumerate(tastes)
    )


def test_attack_many_workloads_do_not_multiply_the_replays(steps) -> None:
    """72 workloads, no two with the same list of dialects: before, each had a budget of its own."""
    stage = Stage()
    verdict = stage.judge(lie=Lie.EXTRA_DATA, candidates=every_taste(QEMU_KERNEL.workload_document("web")))
    assert "rim.mismatch" in error_ids(verdict)
    assert len(steps) == 3 * 3 + 3 * 2, "RMM 1.0 tells three orders apart, RMM 2.0 two, at each of three roundings"


def test_attack_all_workloads_together_have_one_budget(steps) -> None:
    candidates = every_taste(KVMTOOL_KERNEL.workload_document("web"))
    once = Stage(KVMTOOL_KERNEL)
    once.judge(lie=Lie.EXTRA_DATA)
    budget = 2 * max(steps)
    steps.clear()
    stage = Stage(KVMTOOL_KERNEL, identity=once.identity, limits=replace(DEFAULT_LIMITS, replay_granules=budget))
    verdict = stage.judge(lie=Lie.EXTRA_DATA, candidates=candidates)
    assert not verdict.allowed
    assert 0 < sum(steps) <= budget


def test_attack_token_that_nobody_vouches_for_gets_a_small_budget(steps) -> None:
    """No hardware is needed to sign a realm token with a key of one's own and send it with an expensive log."""

    def other_session(claims: dict) -> None:
        claims["eat_nonce"] = "A" * 86

    limits = replace(DEFAULT_LIMITS, unproven_granules=20)
    assert "rim.dialects" in error_ids(Stage(ear_change=other_session, limits=limits).judge())
    assert steps == []
    assert Stage(limits=limits).judge().allowed
    steps.clear()
    assert error_ids(Stage(ear_change=other_session).judge()) == {"verifier.nonce"}
    assert 0 < sum(steps) <= DEFAULT_LIMITS.unproven_granules


def test_attack_many_workloads_do_not_multiply_the_judgement_of_a_strangers_logs(monkeypatch) -> None:
    """A token that anybody can make has REMs to which any log replays; 64 workloads took half a minute to refuse its events one by one."""
    judged: list[str] = []
    judge = appraise_module.judge_runtime

    def counted(claims, workload, *rest, **more):
        judged.append(workload.name)
        return judge(claims, workload, *rest, **more)

    def other_session(claims: dict) -> None:
        claims["eat_nonce"] = "A" * 86

    monkeypatch.setattr(appraise_module, "judge_runtime", counted)
    events = tcg_log(SHA256, *[(3, 0xD, b"unknown", bytes([number])) for number in range(100)])
    rules = {"realm": {"rems": ["zero", "zero", "log", "zero"]}, "runtime": {"logs": [{"kind": "cc"}]}}
    for ear_change, most in ((other_session, 4), (None, 10)):
        stage = Stage(changes=rules, ear_change=ear_change, limits=replace(DEFAULT_LIMITS, runtime_events=400))
        candidates = tuple(Candidate(stage.workload, number) for number in range(10))
        extends = extends_of(read("cc", events))
        verdict = stage.judge(
            with_logs(SimulatedRealm(stage.simulation(extends=extends)).evidence(stage.challenge), [("cc", events)]), candidates=candidates
        )
        assert "rem.event-unknown" in error_ids(verdict) or ear_change
        assert not verdict.allowed
        assert len(judged) == most
        judged.clear()


def changed_log(stage: Stage, change) -> Evidence:
    simulation = stage.simulation()
    realm = SimulatedRealm(simulation)
    return Evidence(
        realm.token(stage.challenge),
        ((LogKind.VMM, write_log(change(honest_log(simulation.script, simulation.habits)), simulation, 65536)),),
    )


def test_attack_five_hundred_runnable_vcpus_leave_few_findings() -> None:
    """Each could leave six findings in the record of every request."""
    stage = Stage()
    area = stage.vm.script.log_area.base
    recs = tuple(RecRecord(RecParams(3, area, (area, 1, 0, 0, 0, 0, 0, 0))) for _ in range(500))
    verdict = stage.judge(changed_log(stage, lambda records: (*records, *recs)))
    assert {"boot.rec-count", "boot.rec-flags", "boot.entry-point", "boot.x0", "boot.gprs", "boot.log-area"} <= error_ids(verdict)
    assert len(verdict.findings) < 80
    several = stage.judge(
        changed_log(stage, lambda records: (*records, *recs)), candidates=(Candidate(stage.workload, 1), Candidate(stage.workload, 2))
    )
    assert len(several.facts["other_workloads"]["web"]) < 20


def test_granule_digests_are_needed_only_for_a_log_that_may_hold() -> None:
    """What the broker asks before it fetches megabytes of digests."""
    stage = Stage()

    def worth(change, images: ImageSet) -> bool:
        evidence = changed_log(stage, change)
        return worth_replaying(parse_cca_token(evidence.token), read_log(evidence, DEFAULT_LIMITS)[0], images)

    def sizes(records):
        return tuple(
            replace(item, size=item.size + 4096) if isinstance(item, BlobRecord) and item.description == "INITRD" else item
            for item in records
        )

    def strangers(records):
        return tuple(replace(item, digest=bytes(32)) if isinstance(item, BlobRecord) and item.digest else item for item in records)

    assert worth(lambda records: records, stage.images())
    assert not worth(sizes, stage.images())
    assert not worth(strangers, stage.images())
    assert not worth(lambda records: records, ImageSet(()))
    assert not worth(lambda records: records, Stage(states={"INITRD": ImageState.REVOKED}).images())
    assert not worth(lambda records: records[:1], stage.images())
