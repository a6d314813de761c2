"""Explanations: the nearest registered image, the granules that differ, and the dialect that would have matched."""

import pytest
from stage import INITRD, KERNEL, QEMU_KERNEL, ROLES, Stage, Vm, VmFiles

from kbs_rim.appraisal.appraise import read_log
from kbs_rim.appraisal.explain import differing_granules, every_dialect, explain, nearest_images
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import match_rim
from kbs_rim.realm.host_script import HostHabits
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.simulator import SimulatedRealm


def registered(stage):
    found = []
    for load in stage.vm.script.loads:
        image = measure_image(bytes(load.data))
        found.append(RegisteredImage(image.image_id, load.name, (ROLES[load.name],), ImageState.ACTIVE, image))
    return found


def explained(stage, **simulated):
    evidence = SimulatedRealm(stage.simulation(**simulated)).evidence(stage.challenge)
    verdict = stage.judge(evidence)
    plan, _ = read_log(evidence, DEFAULT_LIMITS)
    signed = bytes.fromhex(verdict.facts["rim"])
    unknown = any(finding.id == "rim.image-unknown" for finding in verdict.findings)
    wide = None if unknown else match_rim(plan, stage.images(), signed, every_dialect())
    documents = [finding.to_document() for finding in verdict.findings]
    return plan, explain(documents, plan=plan, registered=registered(stage), wide_replay=wide)


def test_an_unknown_image_is_put_beside_the_registered_one_of_its_role():
    stage = Stage()
    _, reasons = explained(stage, lie=Lie.UNREGISTERED_IMAGE)
    reason = next(reason for reason in reasons if reason.finding["id"] == "rim.image-unknown")
    assert [(near.image.name, near.size_difference) for near in reason.nearest] == [("KERNEL", 0)]
    assert any("same size and other content" in hint for hint in reason.hints)
    assert reason.to_document()["nearest"][0]["id"] == measure_image(KERNEL).image_id


def test_a_host_with_another_page_size_is_recognised():
    _, reasons = explained(Stage(), habits=HostHabits(page_size=65536))
    (reason,) = reasons
    assert reason.finding["id"] == "rim.mismatch"
    assert "rmm-1.0/64k/log" in reason.hints[0]


def test_a_tampered_kernel_matches_nothing():
    _, reasons = explained(Stage(), lie=Lie.TAMPERED_KERNEL)
    (reason,) = reasons
    assert "none of the" in reason.hints[0]


def test_granules_that_differ_are_named_with_their_addresses():
    stage = Stage()
    changed = bytearray(KERNEL)
    changed[4096 * 3 + 5] ^= 1
    changed[-1] ^= 1
    other = Stage(
        Vm("qemu", "kernel", VmFiles(kernel=bytes(changed), initrd=INITRD)), identity=stage.identity, signing_key=stage.signing_key
    )
    evidence = SimulatedRealm(other.simulation()).evidence(stage.challenge)
    plan, _ = read_log(evidence, DEFAULT_LIMITS)
    loaded = plan.images[0]
    difference = differing_granules(measure_image(bytes(changed)), measure_image(KERNEL), loaded)
    last = (len(KERNEL) - 1) // 4096
    assert difference.first == ((3, loaded.base + 3 * 4096), (last, loaded.base + last * 4096))
    assert (difference.count, difference.compared) == (2, last + 1)
    assert [near.image.name for near in nearest_images(loaded, registered(stage))] == ["KERNEL"]


def test_a_longer_image_differs_in_what_the_other_lacks():
    stage = Stage()
    plan, _ = read_log(SimulatedRealm(stage.simulation()).evidence(stage.challenge), DEFAULT_LIMITS)
    longer = measure_image(KERNEL + bytes(4096) + b"more")
    difference = differing_granules(longer, measure_image(KERNEL), plan.images[0])
    assert difference.count >= 1
    assert difference.compared == -(-len(KERNEL + bytes(4096) + b"more") // 4096)


def test_without_the_log_the_catalogue_still_speaks():
    findings = [{"id": "rim.mismatch", "severity": "error", "message": "m", "step": 5}, {"id": "policy.accepted", "severity": "note"}]
    (reason,) = explain(findings, plan=None, registered=(), wide_replay=None)
    assert reason.title
    assert reason.remedy
    assert "could not be repeated" in reason.hints[0]


@pytest.mark.parametrize("vm", [QEMU_KERNEL])
def test_a_good_realm_needs_no_explanation(vm):
    assert explained(Stage(vm))[1] == ()


def test_an_unknown_event_comes_with_the_rule_that_would_let_it_in():
    where = {"rem": 1, "event": 5, "digest": "ab" * 32, "type": "EV_EFI_BOOT_SERVICES_APPLICATION"}
    finding = {"id": "rem.event-unknown", "severity": "error", "message": "m", "step": 8, "where": where}
    (reason,) = explain([finding], plan=None, registered=(), wide_replay=None)
    assert f'runtime.digests: rem = 1, digest = "{"ab" * 32}"' in reason.hints[1]
    (reason,) = explain([{**finding, "id": "rem.replay"}], plan=None, registered=(), wide_replay=None)
    assert "log diff" in reason.hints[0]
    (reason,) = explain([{**finding, "id": "rem.secure-boot"}], plan=None, registered=(), wide_replay=None)
    assert reason.hints == ()
