"""Realms without a log: what a workload's definition gives, what a search costs, and what does not help an attacker."""

import time
from dataclasses import replace

import pytest
from stage import BOOTARGS, INITRD, KERNEL, KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, RULE_PACKS, Stage, Vm, error_ids

from kbs_rim.appraisal import definition_search
from kbs_rim.appraisal.appraise import Candidate, Case, Verdict, appraise
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.realm.vm_builder import VmDefinition, VmFiles, build_script
from kbs_rim.services.replay_cache import RimCache
from kbs_rim.services.search_permits import PERIOD_S, FailedSearches

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


def judge(stage: Stage, token: bytes | None = None, *, images=None, memo=None, permits=None, limits=DEFAULT_LIMITS, candidates=None, at=None, ear=None) -> Verdict:
    """Appraise a token that came alone."""
    token = token or token_of(stage)
    parsed = parse_cca_token(token)
    at = at or int(time.time())
    case = Case(
        token=parsed,
        plan=None,
        log_findings=(definition_search.Finding("log.missing", "no VMM log came with the token"),),
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
