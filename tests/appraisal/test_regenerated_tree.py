"""Logs that name a device tree which nobody sent: it is made anew, and counts only if it is that very tree."""

from dataclasses import replace

import pytest
from stage import KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, Stage, Vm, error_ids

from kbs_rim.appraisal import regenerated_tree
from kbs_rim.appraisal.appraise import Candidate, read_log, read_tree
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.image import measure_image
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.realm.vm_builder import build_script

TABLE = {"without_log": False, "cpus": [1], "ram": [512 * MIB], "bootargs": ["console=ttyAMA0"], "breakpoints": [2], "watchpoints": [2]}


def staged(vm: Vm = QEMU_KERNEL, **changes) -> Stage:
    """Neither the number of CPUs nor the size that the log tells need be in the definition: the rules say what may be."""
    memory = {"base": vm.script.ram[0], "size": {"min": 0, "max": 1 << 40}}
    return Stage(vm=vm, tree_rules={}, changes={"memory": memory, "definition": {"vmm": vm.vmm, **TABLE, **changes}})


@pytest.mark.parametrize("vm", [QEMU_KERNEL, KVMTOOL_KERNEL, QEMU_FIRMWARE], ids=["qemu", "kvmtool", "firmware"])
def test_the_tree_that_the_log_names_is_made_anew(vm):
    verdict = staged(vm).judge()
    assert verdict.allowed, verdict.findings
    assert "tree.regenerated" in {finding.id for finding in verdict.findings}
    assert verdict.facts["device_tree"]["source"] == "definition"


@pytest.mark.parametrize("choices", [{"its": "either"}, {"bootargs": ["quiet", "console=ttyAMA0"]}])
def test_what_no_log_says_is_tried(choices):
    assert staged(**choices).judge().allowed


def test_another_size_needs_no_other_definition():
    stage = staged()
    script = build_script(replace(QEMU_KERNEL.definition, cpus=7, memory=1024 * MIB), QEMU_KERNEL.files)
    assert stage.judge(script=script).allowed


def test_attack_a_tree_that_is_not_the_one_made_anew_is_not_believed():
    stage = staged()
    verdict = stage.judge(lie=Lie.FORGED_DEVICE_TREE)
    assert not verdict.allowed
    assert "tree.regenerated" not in {finding.id for finding in verdict.findings}
    assert "rim.image-unknown" in error_ids(verdict)


def test_a_tree_of_another_command_line_is_told_apart():
    stage = staged(bootargs=["quiet"])
    verdict = stage.judge()
    finding = next(finding for finding in verdict.findings if finding.id == "tree.not-regenerated")
    assert "none of 1 device trees" in finding.message
    tree = next(load.data for load in stage.vm.script.loads if load.name == "DTB")
    assert measure_image(bytes(tree)).image_id.removeprefix("sha256:") in finding.seen
    assert finding.expected != finding.seen


def test_attack_a_revoked_tree_does_not_come_back_as_a_made_one():
    stage = staged()
    stage.states["DTB"] = ImageState.REVOKED
    assert "rim.image-revoked" in error_ids(stage.judge())


def reading(stage: Stage, evidence, limits=DEFAULT_LIMITS, registered=()):
    plan, _ = read_log(evidence, limits)
    return read_tree(evidence, plan, (Candidate(stage.workload, 1),), limits, registered)


def registered_tree(stage: Stage, state: ImageState) -> RegisteredImage:
    image = measure_image(bytes(next(load.data for load in stage.vm.script.loads if load.name == "DTB")))
    return RegisteredImage(image.image_id, "tree", (Role.DEVICE_TREE,), state, image)


def test_nothing_is_made_for_a_tree_that_is_revoked(monkeypatch):
    monkeypatch.setattr(regenerated_tree, "regenerate_tree", lambda *_: pytest.fail("a tree was made"))
    stage = staged()
    known = registered_tree(stage, ImageState.REVOKED)
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    assert reading(stage, evidence, registered=[known]) == regenerated_tree.NO_TREE


@pytest.mark.parametrize("state", [ImageState.ACTIVE, ImageState.DEPRECATED])
def test_a_tree_that_somebody_registered_is_made_and_judged_all_the_same(state):
    """Otherwise whoever registers the tree of a VM, for another workload, shuts that VM out of a workload that judges trees by rules."""
    stage = staged()
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    result = reading(stage, evidence, registered=[registered_tree(stage, state)])
    assert result.supplied is not None
    assert [finding.id for finding in result.findings] == ["tree.regenerated"]


def test_a_registered_tree_that_the_definition_does_not_give_is_no_finding():
    stage = staged(bootargs=["another"])
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    assert [finding.id for finding in reading(stage, evidence).findings] == ["tree.not-regenerated"]
    assert reading(stage, evidence, registered=[registered_tree(stage, ImageState.ACTIVE)]) == regenerated_tree.NO_TREE


def test_attack_a_log_causes_no_more_trees_than_the_limit(monkeypatch):
    made = []
    original = regenerated_tree.regenerate_tree
    monkeypatch.setattr(regenerated_tree, "regenerate_tree", lambda *given: made.append(given) or original(*given))
    stage = staged(bootargs=[f"quiet {number}" for number in range(32)], its="either")
    evidence = SimulatedRealm(stage.simulation()).evidence(stage.challenge)
    result = reading(stage, evidence, limits=replace(DEFAULT_LIMITS, tree_guesses=3))
    assert len(made) == 3
    assert [finding.id for finding in result.findings] == ["tree.not-regenerated"]


def test_attack_a_log_that_names_many_cpus_causes_few_trees(monkeypatch):
    """The size of a tree follows from a number in the log, whose sender need not have proven anything yet."""
    made = []
    monkeypatch.setattr(regenerated_tree, "regenerate_tree", lambda _, vm, __: made.append(vm.cpus) or b"")
    definition = staged(bootargs=[f"quiet {number}" for number in range(32)]).workload.definition
    stage = staged()
    plan, _ = read_log(SimulatedRealm(stage.simulation()).evidence(stage.challenge), DEFAULT_LIMITS)
    for cpus, trees in ((1, 16), (128, 16), (512, 4), (1 << 20, 1)):
        made.clear()
        named = replace(plan, vm=replace(plan.vm, num_cpus=cpus))
        regenerated_tree.read_regenerated_tree(named, [definition], ImageSet(()), DEFAULT_LIMITS)
        assert made == [cpus] * trees


def test_attack_numbers_of_a_hostile_log_make_no_tree():
    stage = staged()
    plan, _ = read_log(SimulatedRealm(stage.simulation()).evidence(stage.challenge), DEFAULT_LIMITS)
    definition = stage.workload.definition
    hostile = (
        replace(plan, vm=replace(plan.vm, num_cpus=0)),
        replace(plan, vm=replace(plan.vm, num_cpus=(1 << 32) - 1)),
        replace(plan, vm=replace(plan.vm, ram_size=(1 << 64) - 1)),
        replace(plan, steps=tuple(replace(step, base=(1 << 64) - 8192) if hasattr(step, "description") else step for step in plan.steps)),
        replace(plan, steps=tuple(replace(step, size=1 << 40) if hasattr(step, "description") else step for step in plan.steps)),
        replace(plan, vm=replace(plan.vm, name="")),
        replace(plan, vm=None),
    )
    stock = replace_trees(definition)
    for one in hostile:
        for known in (definition, stock):
            found = regenerated_tree.read_regenerated_tree(one, [known], stage.images(), DEFAULT_LIMITS)
            assert found.supplied is None
            assert {finding.id for finding in found.findings} <= {"tree.not-regenerated"}


def replace_trees(definition):
    return definition.model_copy(update={"device_trees": ("qemu-7.2", "qemu-10.0", "qemu-11.1")})
