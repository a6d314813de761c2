"""Realms without a log: what a workload's definition gives, what a search costs, and what does not help an attacker."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import INITRD, KERNEL, KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, RULE_PACKS, Stage, Vm, error_ids

from kbs_rim.appraisal import definition_search
from kbs_rim.appraisal.appraise import Candidate, Case, Verdict, appraise
from kbs_rim.appraisal.definition_space import choices_of
from kbs_rim.appraisal.derived_boot import BootDeriver, stock_tree
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm import HostParameters, Region, VmRequest
from kbs_rim.realm.kvm_host import BuildOrder
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import HostHabits, SimulatedRealm
from kbs_rim.realm.vm_builder import VmFiles, build_script
from kbs_rim.services.replay_cache import RimCache
from kbs_rim.services.search_permits import PERIOD_S, FailedSearches
from tests.rounds import rounds

GENERATIONS = {"1.0": RmmGeneration.V1, "2.0": RmmGeneration.V2}
OPEN = {"cpus": [1, 2, 4, 8], "ram": ["0x8000000-0x20000000/0x8000000"], "measurement_log": "either"}


def defined(vm: Vm, **changes) -> dict:
    """Changes of a workload that let ``vm`` come without a log."""
    table = {
        "vmm": vm.vmm,
        "without_log": True,
        "cpus": [2],
        "ram": [vm.memory],
        "bootargs": ["console=ttyAMA0"],
        "breakpoints": [2],
        "watchpoints": [2],
        "measurement_log": "on",
    }
    return {
        "definition": {**table, **changes},
        "memory": {"base": vm.script.ram[0], "size": {"min": 0, "max": 1 << 40}},
        "parameters": {"sve": True, "pmu": True, "lpa2": True, "ipa_bits": {"min": 32, "max": 52}},
    }


def staged(vm: Vm = QEMU_KERNEL, *, tree_rules: dict | None = None, **changes) -> Stage:
    return Stage(vm=vm, tree_rules=tree_rules or {}, changes=defined(vm, **changes))


def token_of(stage: Stage, script=None, **simulated) -> bytes:
    simulation = stage.simulation(**simulated)
    return SimulatedRealm(replace(simulation, script=script) if script else simulation).evidence(stage.challenge).token


def judge(
    stage: Stage,
    token: bytes | None = None,
    *,
    images=None,
    memo=None,
    permits=None,
    limits=DEFAULT_LIMITS,
    candidates=None,
    at=None,
    ear=None,
) -> Verdict:
    """Appraise a token that came alone."""
    token = token or token_of(stage)
    parsed = parse_cca_token(token)
    at = at or int(time.time())
    case = Case(
        token=parsed,
        plan=None,
        log_findings=(Finding("log.missing", "no VMM log came with the token"),),
        challenge=stage.challenge,
        issued_at=at,
        at=at,
        attestation_result=ear or stage.attestation_result(reassemble(parsed), at),
        ear_policy=stage.policy(),
        images=images or stage.images(),
        candidates=(Candidate(stage.workload, 1),) if candidates is None else candidates,
        rule_packs=RULE_PACKS,
        limits=limits,
        memo=memo,
        permits=permits,
    )
    return appraise(case)


@pytest.mark.parametrize("vm", [QEMU_KERNEL, KVMTOOL_KERNEL, QEMU_FIRMWARE], ids=["qemu", "kvmtool", "firmware"])
@pytest.mark.parametrize("choices", [{}, OPEN], ids=["exact", "open"])
def test_a_realm_without_a_log_gets_what_a_realm_with_one_gets(vm, choices):
    stage = staged(vm, **choices)
    verdict = judge(stage)
    assert error_ids(verdict) == set(), verdict.findings
    assert verdict.allowed
    [note] = [finding for finding in verdict.findings if finding.id == "rim.derived"]
    assert "2 vCPUs, 256 MiB" in note.message
    facts = verdict.facts["definition"]
    assert facts["vm"]["cpus"] == 2
    assert (facts["vms"], facts["remembered"]) == (32 if choices else 1, False)
    assert verdict.facts["device_tree"]["source"] == "definition"
    logged = stage.judge()
    assert logged.allowed
    assert logged.facts["images"] == verdict.facts["images"]


def finding_of(verdict: Verdict, id_: str):
    return next(finding for finding in verdict.findings if finding.id == id_)


def realm_of(stage: Stage, vm: Vm = QEMU_KERNEL, files: VmFiles | None = None, **changes) -> bytes:
    """The token of a realm whose VM differs from ``vm`` in ``changes``."""
    return token_of(stage, build_script(replace(vm.definition, **changes), files or vm.files))


# --- what may vary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "changes"),
    [
        ({"cpus": ["1-16"]}, {"cpus": 11}),
        ({"ram": [256 * MIB, 1024 * MIB]}, {"memory": 1024 * MIB}),
        ({"measurement_log": "either"}, {"measurement_log": False}),
        ({"its": "either"}, {"its": False}),
        ({"bootargs": ["quiet", "console=ttyAMA0"]}, {}),
        ({"sve_vector_bits": ["off", 512, 2048]}, {"host": {"sve_vl": 2048}}),
        ({"pmu_counters": ["off", 0, 6]}, {"pmu": True, "host": {"pmu_num_ctrs": 6}}),
        ({"breakpoints": ["2-16"], "watchpoints": [2, 4]}, {"host": {"num_bps": 16, "num_wps": 4}}),
        ({"lpa2": "either"}, {"host": {"lpa2": True}}),
    ],
    ids=lambda value: next(iter(value), "as it is") if isinstance(value, dict) else None,
)
def test_what_the_definition_leaves_open_is_found(choices, changes):
    stage = staged(**choices)
    if "host" in changes:
        changes = {**changes, "host": replace(QEMU_KERNEL.definition.host, **changes["host"])}
    verdict = judge(stage, realm_of(stage, **changes))
    assert verdict.allowed, verdict.findings


@pytest.mark.parametrize("rmm", ["1.0", "2.0"])
@pytest.mark.parametrize("order", ["log", "ripas-last"])
def test_kernels_that_make_ram_last_and_both_measurement_rules(rmm, order):
    stage = staged(**OPEN)
    verdict = judge(stage, token_of(stage, generation=GENERATIONS[rmm], habits=HostHabits(order=BuildOrder(order))))
    assert verdict.allowed, verdict.findings
    assert verdict.facts["dialect"].startswith(f"rmm-{rmm}/4k/")


def test_the_first_value_of_every_list_comes_first_and_what_differs_little_next():
    stage = staged(cpus=[2, 1, 4], ram=[256 * MIB, 512 * MIB])
    assert judge(stage).facts["definition"] | {"vm": None} == {"vms": 6, "tried": 1, "remembered": False, "number": 1, "vm": None}
    assert judge(stage, realm_of(stage, cpus=1)).facts["definition"]["number"] == 2
    assert judge(stage, realm_of(stage, cpus=4, memory=512 * MIB)).facts["definition"]["tried"] == 6


def test_an_initrd_that_is_not_required_may_be_missing():
    stage = staged()
    stage.changes["images"] = [
        {**rule, "required": rule["role"] != "initrd"}
        for rule in stage.vm.workload_document("web")["images"]
        if rule["role"] != "device-tree"
    ]
    assert judge(stage).allowed
    assert judge(stage, realm_of(stage, files=VmFiles(kernel=KERNEL))).allowed
    strict = staged()
    assert error_ids(judge(strict, realm_of(strict, files=VmFiles(kernel=KERNEL)))) == {"rim.no-candidate", "boot.not-judged"}


# --- device trees --------------------------------------------------------------------------------------------------------


def registered_trees(**changes) -> Stage:
    stage = Stage(changes=defined(QEMU_KERNEL, device_trees=["registered"], **changes))
    stage.tree_rules = None
    return stage


def test_a_registered_tree_decides_which_vm_it_is():
    verdict = judge(registered_trees(**OPEN))
    assert verdict.allowed, verdict.findings
    assert verdict.facts["definition"]["vm"]["ram"] == 256 * MIB
    assert "device_tree" not in verdict.facts


def test_trees_that_qemu_makes_itself():
    script = QEMU_KERNEL.script
    initrd = next(load for load in script.loads if load.name == "INITRD")
    stage = staged(device_trees=["generated", "qemu-7.2", "qemu-10.0"], host_address_bits=48)
    request = VmRequest(cpus=2, ram_size=256 * MIB, boot="none", host=HostParameters(), bootargs="console=ttyAMA0")
    definition = stage.workload.definition
    log = Region(script.log_area.base, script.log_area.size)
    tree = stock_tree("qemu-10.0", definition, request, "kernel", Region(initrd.base, len(initrd.data)), log)
    assert len(tree) == MIB
    loads = tuple(replace(load, data=tree) if load.name == "DTB" else load for load in script.loads)
    verdict = judge(stage, token_of(stage, replace(script, loads=loads)))
    assert verdict.facts["definition"]["vm"]["tree"] == "qemu-10.0"
    assert not {id_ for id_ in error_ids(verdict) if id_.startswith(("rim.", "boot."))}, verdict.findings


def test_a_command_line_that_the_rules_forbid_stays_forbidden():
    """The definition proposes; the rules of the workload decide."""
    stage = staged(tree_rules={"bootargs": {"exact": ["quiet"]}})
    assert error_ids(judge(stage)) == {"tree.bootargs"}


def test_rules_of_the_workload_judge_what_was_derived():
    stage = staged(sve_vector_bits=["off", 2048])
    token = realm_of(stage, host=replace(QEMU_KERNEL.definition.host, sve_vl=2048))
    assert judge(stage, token).allowed
    stage.changes["parameters"]["sve"] = False
    assert error_ids(judge(stage, token)) == {"boot.flags"}


# --- attacks ----------------------------------------------------------------------------------------------------------------


def test_attack_the_log_is_dropped_where_the_workload_wants_one():
    stage = staged(without_log=False)
    assert stage.judge().allowed
    assert error_ids(judge(stage)) == {"log.missing", "rim.not-judged", "boot.not-judged"}
    plain = Stage()
    assert error_ids(judge(plain)) == {"log.missing", "rim.not-judged", "boot.not-judged"}


@pytest.mark.parametrize(
    "lie",
    [
        "tampered-kernel",
        "pc-off-entry",
        "x0-in-log-area",
        "unmeasured-kernel-page",
        "second-runnable-rec",
        "overlapping-images",
        "extra-data",
    ],
)
def test_attack_the_host_drops_the_log_to_avoid_the_rules_of_booting(lie):
    """With its log, a clever host is refused by rules; without, its realm is none that the definition describes."""
    stage = staged(**OPEN)
    verdict = judge(stage, token_of(stage, lie=Lie(lie)))
    assert not verdict.allowed
    assert {"rim.no-candidate", "boot.not-judged"} <= error_ids(verdict)


def test_attack_a_log_that_cannot_be_read_is_not_a_missing_log():
    stage = staged()
    honest = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    broken = replace(honest, logs=tuple((kind, data[:200]) for kind, data in honest.logs))
    verdict = stage.judge(broken)
    assert not verdict.allowed
    assert "rim.derived" not in {finding.id for finding in verdict.findings}


def test_attack_a_forged_token_causes_no_search(monkeypatch):
    stage = staged(**OPEN)
    monkeypatch.setattr(definition_search.BootDeriver, "derive", lambda *_: pytest.fail("a VM was derived"))
    verdict = judge(stage, ear="e30.e30.e30")
    assert "rim.not-searched" in error_ids(verdict)


def test_attack_a_revoked_image_is_not_loaded_by_leaving_out_the_log():
    stage = staged(**OPEN)
    stage.states["KERNEL"] = ImageState.REVOKED
    assert error_ids(judge(stage)) == {"rim.image-revoked", "rim.no-candidate", "boot.not-judged"}


def test_a_deprecated_image_is_a_warning():
    stage = staged()
    stage.states["KERNEL"] = ImageState.DEPRECATED
    verdict = judge(stage)
    assert verdict.allowed
    assert "boot.image-deprecated" in {finding.id for finding in verdict.findings}


def test_attack_an_explosion_of_the_search_ends_with_the_budget():
    stage = staged(**OPEN)
    foreign = realm_of(stage, cpus=3)
    verdict = judge(stage, foreign, limits=replace(DEFAULT_LIMITS, replay_granules=1000))
    finding = finding_of(verdict, "rim.no-candidate")
    assert "used up" in finding.message
    assert verdict.facts["definition"]["tried"] < 32


def test_a_search_that_fails_says_what_was_tried():
    stage = staged(cpus=[1, 4], ram=[2 * MIB, 256 * MIB])
    finding = finding_of(judge(stage), "rim.no-candidate")
    assert finding.message == "none of the 4 VMs of the definition has the signed RIM"
    assert finding.expected.startswith("one of 2 RIMs computed for profile ")
    assert "; VMs that cannot be: " in finding.expected


def test_a_search_that_fails_says_which_host_it_was_for():
    """The realm has LPA2, which the definition has off: only the list of what was tried tells."""
    stage = staged(cpus=["1-8"], sve_vector_bits=["off", 256])
    foreign = realm_of(stage, host=HostParameters(lpa2=True))
    expected = finding_of(judge(stage, foreign), "rim.no-candidate").expected
    for part in ("lpa2 off", "cpus 8 values from 1 to 8", "sve_bits off or 256", "pmu_counters off", "breakpoints 2", "its on", "MiB"):
        assert part in expected
    assert finding_of(judge(staged(cpus=[1])), "rim.no-candidate").expected.startswith("the one RIM computed for ")


def test_what_a_search_tried_stays_short():
    stage = staged(bootargs=[f"console=ttyAMA0 {number} {'x' * 900}" for number in range(8)])
    summary = choices_of(stage.workload, stage.workload.definition).summary
    assert len(summary) < 700
    assert "or 7 others" in summary


# --- what is remembered ---------------------------------------------------------------------------------------------------


def memo_of(cache: RimCache):
    return cache.as_of(1)


def test_the_next_boot_costs_one_vm_and_the_one_after_no_replay(monkeypatch):
    stage, cache, derived = staged(**OPEN), RimCache(DEFAULT_LIMITS), []
    derive = definition_search.BootDeriver.derive
    monkeypatch.setattr(definition_search.BootDeriver, "derive", lambda self, *given: derived.append(given) or derive(self, *given))
    token = realm_of(stage, cpus=8)
    first = judge(stage, token, memo=memo_of(cache))
    assert first.allowed
    assert len(derived) == first.facts["definition"]["tried"] > 5
    assert len(cache) == 1, "the RIMs of the others are not kept"
    derived.clear()
    for _ in range(2):
        again = judge(stage, token, memo=memo_of(cache))
        assert again.allowed
        assert again.facts["definition"] == {**first.facts["definition"], "tried": 1, "remembered": True}
    assert len(derived) == 2
    assert cache.counts.hits >= 3


def test_attack_a_remembered_vm_is_forgotten_with_its_image():
    stage, cache = staged(**OPEN), RimCache(DEFAULT_LIMITS)
    assert judge(stage, memo=memo_of(cache)).allowed
    cache.drop_images(stage.workload.image_ids, sequence=2)
    assert len(cache) == 0
    stage.states["INITRD"] = ImageState.REVOKED
    verdict = judge(stage, memo=memo_of(cache))
    assert error_ids(verdict) == {"rim.image-revoked", "rim.no-candidate", "boot.not-judged"}
    assert len(cache) == 0, "what depends on a revoked image is not remembered as unknown either"


@pytest.mark.parametrize("planted", [b"\1" + bytes(3) + b"\5", b"\1\xff\xff\xff\xff", b"\1", b"", b"\2\0\0\0\0"])
def test_attack_a_poisoned_memory_cannot_make_a_vm_match(planted):
    """Even who could write to the cache would only change which VM is measured first."""
    stage = staged(cpus=[1, 2, 4], measurement_log="either")  # the fifth VM exists, and it is another one
    foreign = realm_of(stage, files=VmFiles(kernel=KERNEL + b"!", initrd=INITRD))

    class Poisoned:
        def get(self, key):
            return planted

        def furthest(self, keys):
            return None

        def put(self, key, rim, images):
            pass

    class OnlyTheName(Poisoned):
        asked = 0

        def get(self, key):
            self.asked += 1
            return planted if self.asked == 1 else None

    assert not judge(stage, foreign, memo=OnlyTheName()).allowed
    assert judge(stage, memo=OnlyTheName()).allowed


def test_a_rim_that_nothing_gives_is_searched_for_once(monkeypatch):
    stage, cache, permits = staged(**OPEN), RimCache(DEFAULT_LIMITS), FailedSearches(1)
    foreign = realm_of(stage, cpus=3)
    first = judge(stage, foreign, memo=memo_of(cache), permits=permits)
    monkeypatch.setattr(definition_search.BootDeriver, "derive", lambda *_: pytest.fail("a VM was derived"))
    again = judge(stage, foreign, memo=memo_of(cache), permits=permits)
    assert error_ids(first) == error_ids(again) == {"rim.no-candidate", "boot.not-judged"}
    assert again.facts["definition"] == {"vms": 32, "tried": 32, "remembered": True}


def test_attack_a_flood_of_unknown_rims_from_one_machine():
    stage, permits = staged(cpus=[1, 2]), FailedSearches(2)
    now = int(time.time())
    foreign = [realm_of(stage, cpus=cpus) for cpus in (3, 4, 5)]
    ids = [error_ids(judge(stage, token, permits=permits, at=now)) for token in foreign]
    assert ids == [{"rim.no-candidate", "boot.not-judged"}] * 2 + [{"rim.not-searched", "boot.not-judged"}]
    other = staged(cpus=[1, 2])
    assert judge(other, permits=permits, at=now).allowed, "another machine's realms are not affected"


def test_searches_that_find_their_vm_cost_no_permit():
    stage, permits = staged(cpus=[1, 2]), FailedSearches(1)
    assert all(judge(stage, permits=permits).allowed for _ in range(3))


def test_a_permit_comes_back_with_time():
    permits = FailedSearches(1)
    assert permits.take(b"a", 1000)
    assert not permits.take(b"a", 1000 + PERIOD_S - 1)
    assert permits.take(b"a", 1000 + PERIOD_S)
    assert permits.take(b"a", 10), "a clock that was set back does not close the door"


def test_several_workloads_share_one_permit_and_the_best_is_told():
    stage, permits = staged(cpus=[4, 8]), FailedSearches(1)
    other = parse_workload({**stage.workload.model_dump(mode="json"), "name": "other", "definition": defined(QEMU_KERNEL)["definition"]})
    verdict = judge(stage, permits=permits, candidates=(Candidate(stage.workload, 1), Candidate(other, 1)))
    assert verdict.allowed
    assert verdict.candidate.workload.name == "other"
    assert verdict.facts["other_workloads"] == {"web": ["rim.no-candidate", "boot.not-judged"]}


# --- any VM ---------------------------------------------------------------------------------------------------------------

WIDE = staged(
    cpus=["1-2"],
    ram=[256 * MIB, 512 * MIB],
    sve_vector_bits=["off", 512],
    pmu_counters=["off", 6],
    its="either",
    measurement_log="either",
    bootargs=["console=ttyAMA0", "quiet"],
    max_candidates=1024,
)
WIDE.tree_rules = {"bootargs": {"exact": ["console=ttyAMA0", "quiet"]}}


@settings(max_examples=rounds(6))
@given(
    cpus=st.integers(1, 3),
    memory=st.sampled_from([256 * MIB, 512 * MIB, 768 * MIB]),
    sve=st.sampled_from([0, 512]),
    pmu=st.booleans(),
    its=st.booleans(),
    log=st.booleans(),
    append=st.sampled_from(["console=ttyAMA0", "quiet", "root=/dev/vda"]),
    generation=st.sampled_from(list(RmmGeneration)),
    order=st.sampled_from(list(BuildOrder)),
)
def test_a_vm_passes_if_the_definition_describes_it_and_only_then(cpus, memory, sve, pmu, its, log, append, generation, order):
    host = replace(QEMU_KERNEL.definition.host, sve_vl=sve, pmu_num_ctrs=6 if pmu else 0)
    definition = replace(QEMU_KERNEL.definition, cpus=cpus, memory=memory, host=host, pmu=pmu, its=its, measurement_log=log, append=append)
    script = build_script(definition, QEMU_KERNEL.files)
    token = token_of(WIDE, script, generation=generation, habits=HostHabits(order=order))
    verdict = judge(WIDE, token)
    described = cpus <= 2 and memory <= 512 * MIB and append != "root=/dev/vda"
    assert verdict.allowed == described, verdict.findings
    if described:
        vm = verdict.facts["definition"]["vm"]
        assert (vm["cpus"], vm["ram"], vm["sve_bits"], vm["bootargs"]) == (cpus, memory, sve, append)
        assert (vm["pmu_counters"], vm["its"], vm["measurement_log"]) == (6 if pmu else None, its, log)


def test_a_host_that_sets_no_breakpoints_passes_zero():
    """One breakpoint is the zero of a parameter page that nobody filled."""
    stage = staged(breakpoints=[1], watchpoints=[1])
    stage.changes["parameters"] |= {"breakpoints": {"min": 1, "max": 64}, "watchpoints": {"min": 1, "max": 64}}
    definition = stage.workload.definition
    [choice] = choices_of(stage.workload, definition)
    boot = BootDeriver(definition, Role.KERNEL, stage.images(), DEFAULT_LIMITS).derive(choice, HashAlgorithm.SHA512)
    params = boot.plan.create.params
    assert (params.num_bps, params.num_wps, params.hash_algorithm) == (0, 0, HashAlgorithm.SHA512)
