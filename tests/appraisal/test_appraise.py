"""Whole appraisals of simulated realms: honest ones pass in every dialect, and every lie leaves its finding."""

import pytest
from stage import KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, Stage, Vm, VmFiles, error_ids, kernel_file

from kbs_rim.appraisal.appraise import Candidate
from kbs_rim.appraisal.findings import Severity
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.host_script import HostHabits
from kbs_rim.realm.kvm_host import BuildOrder
from kbs_rim.realm.lies import LIES, Lie
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import SimulatedRealm, TokenStyle
from kbs_rim.realm.token_factory import OuterForm, TokenProfile

VMS = {"qemu-kernel": QEMU_KERNEL, "qemu-firmware": QEMU_FIRMWARE, "kvmtool-kernel": KVMTOOL_KERNEL}
REFUSED_BY_THE_PARSER = {Lie.DUPLICATE_KEYS_FORGED_FIRST, Lie.DUPLICATE_KEYS_FORGED_LAST, Lie.DUPLICATE_KEYS_TEXT}


@pytest.mark.parametrize("vm", VMS.values(), ids=VMS)
@pytest.mark.parametrize("generation", list(RmmGeneration))
def test_an_honest_realm_is_allowed(vm, generation):
    verdict = Stage(vm).judge(generation=generation)
    assert error_ids(verdict) == set()
    assert verdict.allowed
    assert verdict.facts["dialect"].startswith("rmm-")
    assert verdict.findings[-1].id == "policy.accepted"


@pytest.mark.parametrize("form", list(OuterForm))
@pytest.mark.parametrize("profile", [profile for profile in TokenProfile if profile.realm])
def test_every_form_and_profile_of_a_token_is_allowed(form, profile):
    assert Stage().judge(tokens=TokenStyle(form=form, profile=profile)).allowed


def test_legacy_profile_only_where_the_workload_allows_it():
    legacy = next(profile for profile in TokenProfile if profile.realm is None)
    assert error_ids(Stage().judge(tokens=TokenStyle(profile=legacy))) == {"token.profile-legacy"}
    assert Stage(changes={"realm": {"legacy_profile": True}}).judge(tokens=TokenStyle(profile=legacy)).allowed


@pytest.mark.parametrize("page", [4096, 16384, 65536])
@pytest.mark.parametrize("order", list(BuildOrder))
def test_dialects_are_allowed_only_where_the_workload_allows_them(page, order):
    habits = HostHabits(page_size=page, order=order)
    wide = {"rmm": {"roundings": [4096, 16384, 65536], "orders": ["log", "ripas-last", "ripas-last-whole"]}}
    assert Stage(changes=wide).judge(habits=habits).allowed
    narrow = {"rmm": {"roundings": [4096], "orders": ["log"]}}
    verdict = Stage(changes=narrow).judge(habits=habits)
    honest = page == 4096 and order is BuildOrder.RIPAS_FIRST
    assert verdict.allowed is honest
    assert honest or error_ids(verdict) == {"rim.mismatch"}


@pytest.mark.parametrize("vm", VMS.values(), ids=VMS)
@pytest.mark.parametrize("lie", [lie for lie in Lie if lie not in REFUSED_BY_THE_PARSER])
def test_attack(lie, vm):
    if vm is QEMU_FIRMWARE and lie in (Lie.UNMEASURED_INITRD, Lie.UNMEASURED_INITRD_PAGE):
        pytest.skip("this VM has no initrd")
    verdict = Stage(vm).judge(lie=lie)
    assert not verdict.allowed
    assert error_ids(verdict) & LIES[lie].findings


@pytest.mark.parametrize("lie", sorted(REFUSED_BY_THE_PARSER))
def test_attack_duplicate_cbor_keys_that_two_readers_read_differently(lie):
    with pytest.raises(MalformedEvidence) as caught:
        Stage().judge(lie=lie)
    assert caught.value.finding_id in LIES[lie].findings


def test_attack_revoked_image():
    assert error_ids(Stage(states={"KERNEL": ImageState.REVOKED}).judge()) == {"rim.image-revoked", "rim.not-judged"}


def test_a_deprecated_image_is_allowed_with_a_warning():
    verdict = Stage(states={"KERNEL": ImageState.DEPRECATED}).judge()
    assert verdict.allowed
    assert [finding.id for finding in verdict.findings if finding.severity is Severity.WARNING] == ["boot.image-deprecated"]


def test_attack_trusted_images_of_two_workloads_mixed():
    ours = Stage()
    other = Vm("qemu", "kernel", VmFiles(kernel=kernel_file(b"another tenant's"), initrd=QEMU_KERNEL.files.initrd))
    mixed = Stage(other, identity=ours.identity, signing_key=ours.signing_key)
    verdict = mixed.judge(candidates=(Candidate(ours.workload, 1),))
    assert not verdict.allowed
    assert {"boot.role-unexpected", "boot.role-missing"} <= error_ids(verdict)
    assert "rim.mismatch" not in error_ids(verdict)


def test_no_log_is_a_refusal():
    stage = Stage()
    token = SimulatedRealm(stage.simulation()).token(stage.challenge)
    assert error_ids(stage.judge(Evidence(token, ()))) == {"log.missing", "rim.not-judged", "boot.not-judged"}


def test_a_log_of_another_kind_is_not_the_vmm_log():
    stage = Stage()
    realm = SimulatedRealm(stage.simulation())
    verdict = stage.judge(Evidence(realm.token(stage.challenge), ((LogKind.CC, realm.log),)))
    assert "log.missing" in error_ids(verdict)


def test_no_workload_is_a_refusal():
    assert error_ids(Stage().judge(candidates=())) == {"policy.no-workload"}


def test_of_several_workloads_one_that_passes_is_enough():
    stage = Stage()
    stranger = parse_workload({**KVMTOOL_KERNEL.workload_document("other")})
    verdict = stage.judge(candidates=(Candidate(stranger, 4), Candidate(stage.workload, 7)))
    assert verdict.allowed
    assert (verdict.candidate.workload.name, verdict.candidate.revision) == ("web", 7)
    assert verdict.facts["other_workloads"]["other"]


def test_of_several_workloads_the_closest_explains_the_refusal():
    stage = Stage(changes={"realm": {"rpv": "01"}})
    stranger = parse_workload({**KVMTOOL_KERNEL.workload_document("other")})
    verdict = stage.judge(candidates=(Candidate(stranger, 4), Candidate(stage.workload, 7)))
    assert error_ids(verdict) == {"rpv.mismatch"}
    assert verdict.candidate.workload.name == "web"


def _other_session(claims):
    claims["eat_nonce"] = "A" * 86


def test_attack_ear_of_another_session():
    assert error_ids(Stage(ear_change=_other_session).judge()) == {"verifier.nonce"}


def test_attack_ear_signed_by_a_foreign_key():
    stage = Stage()
    foreign = Stage(identity=stage.identity)
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    ear = foreign.attestation_result(evidence.token, 1_800_000_000)
    assert error_ids(stage.judge(evidence, ear=ear)) == {"verifier.signature"}


def test_attack_platform_that_the_verifier_does_not_know():
    stage = Stage()
    evidence = SimulatedRealm(stage.simulation(identity=PlatformIdentity.generate())).evidence(stage.challenge)
    assert {"verifier.submods"} <= error_ids(stage.judge(evidence))


@pytest.mark.parametrize("ear", ["", "a.b.c", "e30.e30.", "x" * 300_000])
def test_attack_ear_that_is_garbage(ear):
    verdict = Stage().judge(ear=ear or "..")
    assert not verdict.allowed
    assert any(id_.startswith("verifier.") for id_ in error_ids(verdict))


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"platform": {"implementation_ids": ["00" * 32]}}, "platform.implementation"),
        ({"platform": {"instance_ids": ["01" + "00" * 32]}}, "platform.instance"),
        ({"realm": {"rpv": "ff"}}, "rpv.mismatch"),
        ({"realm": {"rems": [["11" * 32], "zero", "zero", "zero"]}}, "rem.mismatch"),
        ({"realm": {"memory_encryption": "private"}}, "mec.policy"),
        ({"rmm": {"versions": ["2.0"]}}, "rim.mismatch"),
        ({"vmm": ["kvmtool"]}, "boot.vmm"),
    ],
)
def test_a_workload_that_asks_for_something_else_refuses(changes, finding):
    assert error_ids(Stage(changes=changes).judge()) == {finding}


def test_the_verdict_is_the_same_every_time():
    stage = Stage()
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    ear = stage.attestation_result(evidence.token, 1_790_000_000)
    first, second = stage.judge(evidence, ear=ear), stage.judge(evidence, ear=ear)
    assert (first.allowed, first.facts) == (second.allowed, second.facts)
    assert [finding.id for finding in first.findings] == [finding.id for finding in second.findings]
