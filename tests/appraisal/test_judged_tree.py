"""Whole appraisals of workloads that judge device trees by rules: the honest ones pass, and a tree that says too much does not."""

import hashlib
import importlib.util
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from stage import KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, RULE_PACKS, Stage, Vm, error_ids

from kbs_rim.appraisal.appraise import Candidate
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.supplied_tree import TreeSource, read_supplied_tree
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.boot_plan import boot_plan_from_log
from kbs_rim.measurement.device_tree import Node, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree
from kbs_rim.measurement.image import measure_image
from kbs_rim.realm.host_script import HostScript, Load
from kbs_rim.realm.lies import LIES, Lie
from kbs_rim.realm.simulator import SimulatedRealm, TreeDelivery

_spec = importlib.util.spec_from_file_location("tree_forge", Path(__file__).with_name("tree_forge.py"))
forge = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(forge)

VMS = {"qemu-kernel": QEMU_KERNEL, "qemu-firmware": QEMU_FIRMWARE, "kvmtool-kernel": KVMTOOL_KERNEL}
ENVELOPE, LOG = TreeDelivery.ENVELOPE, TreeDelivery.LOG
every_vm = pytest.mark.parametrize("vm", VMS.values(), ids=VMS)
every_way = pytest.mark.parametrize("way", [ENVELOPE, LOG])


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(tree_rules={})


def tree_of(script: HostScript):
    return parse_device_tree(bytes(script.load("DTB").data))


def with_tree(script: HostScript, data: bytes) -> HostScript:
    return replace(script, loads=tuple(replace(load, data=data) if load.name == "DTB" else load for load in script.loads))


def with_forged(vm: Vm, path: str, **edit) -> HostScript:
    """What a host does that loads another tree than the VM's, and logs it truthfully."""
    script = vm.script
    size = len(script.load("DTB").data)
    data = write_device_tree(forge.changed(tree_of(script).root, path, **edit), padded_to=size if vm.vmm == "kvmtool" else None)
    return with_tree(script, data)


def judge(stage: Stage, script: HostScript, way: TreeDelivery = ENVELOPE, **more):
    return stage.judge(script=script, send_tree=way, **more)


@every_vm
@every_way
def test_an_honest_realm_passes_with_a_tree_that_nobody_registered(vm, way):
    verdict = Stage(vm=vm, tree_rules={}).judge(send_tree=way)
    assert verdict.allowed, verdict.findings
    tree = verdict.facts["device_tree"]
    assert tree["source"] == way.value
    assert tree["image"] == f"sha256:{hashlib.sha256(vm.script.load('DTB').data).hexdigest()}"
    assert tree["image"] in verdict.facts["images"]
    pack = RULE_PACKS[tree["rules"]["name"]]
    assert tree["rules"] == {"name": pack.name, "version": pack.version, "digest": pack.digest}
    assert (tree["cpus"], tree["bootargs"]) == (2, facts_of(tree_of(vm.script)).bootargs)


def test_another_size_of_vm_needs_no_other_registration():
    larger = replace(QEMU_KERNEL, memory=2 * QEMU_KERNEL.memory)
    stage = Stage(tree_rules={}, changes={"memory": {"base": 0x40000000, "size": {"min": 1, "max": 1 << 40}}})
    assert judge(stage, larger.script).allowed


@every_vm
def test_without_the_bytes_there_is_nothing_to_judge(vm):
    verdict = Stage(vm=vm, tree_rules={}).judge()
    assert {"rim.image-unknown", "tree.not-supplied"} <= error_ids(verdict)


def test_a_tree_that_is_listed_passes_without_its_bytes():
    listed = Stage(changes={"device_tree": {"mode": "rules", "pack": "qemu-virt"}})
    assert listed.judge().allowed
    assert listed.judge(send_tree=ENVELOPE).allowed


def test_zeros_behind_the_tree_may_be_left_out():
    kvmtool = Stage(vm=KVMTOOL_KERNEL, tree_rules={})
    evidence = SimulatedRealm(kvmtool.simulation(send_tree=ENVELOPE)).evidence(kvmtool.challenge)
    short = evidence.device_tree[: tree_of(KVMTOOL_KERNEL.script).total_size]
    assert len(short) < 4096 < len(evidence.device_tree)
    assert kvmtool.judge(replace(evidence, device_tree=short)).allowed
    longer = kvmtool.judge(replace(evidence, device_tree=evidence.device_tree + b"\0"))
    assert {"rim.image-unknown", "tree.not-measured"} <= error_ids(longer)


# Attacks --------------------------------------------------------------------------------------------------------------------


@every_vm
@every_way
def test_attack_forged_bootargs(vm, way):
    script = with_forged(vm, "/chosen", set={"bootargs": text(facts_of(tree_of(vm.script)).bootargs + " init=/bin/sh")})
    verdict = judge(Stage(vm=vm, tree_rules={}), script, way)
    assert error_ids(verdict) == {"tree.bootargs"}
    (finding,) = [finding for finding in verdict.findings if finding.id == "tree.bootargs"]
    assert (finding.where["node"], finding.where["property"]) == ("/chosen", "bootargs")
    assert "init=/bin/sh" in finding.seen


@pytest.mark.parametrize("vm", [QEMU_KERNEL, KVMTOOL_KERNEL])
def test_attack_initrd_range_pointing_at_unmeasured_memory(vm):
    area = vm.script.log_area
    edit = {"linux,initrd-start": cells64(area.base), "linux,initrd-end": cells64(area.base + area.size)}
    verdict = judge(Stage(vm=vm, tree_rules={}), with_forged(vm, "/chosen", set=edit))
    assert error_ids(verdict) == {"tree.initrd"}
    (finding,) = [finding for finding in verdict.findings if finding.id == "tree.initrd"]
    assert finding.where["node"] == "/chosen"
    assert finding.seen == f"{area.base:#x}-{area.base + area.size:#x}"


def test_attack_initrd_range_of_firmware_in_the_log_area():
    area = QEMU_FIRMWARE.script.log_area
    edit = {"linux,initrd-start": cells64(area.base), "linux,initrd-end": cells64(area.base + 4096)}
    verdict = judge(Stage(vm=QEMU_FIRMWARE, tree_rules={}), with_forged(QEMU_FIRMWARE, "/chosen", set=edit))
    assert error_ids(verdict) == {"tree.initrd"}


@every_vm
def test_attack_extra_memory_node(vm):
    more = Node("memory@1000000000", {"device_type": text("memory"), "reg": cells64(0x1000000000, 1 << 30)})
    verdict = judge(Stage(vm=vm, tree_rules={}), with_forged(vm, "/", add=[more]))
    assert "tree.memory" in error_ids(verdict)
    assert error_ids(verdict) <= {"tree.memory", "tree.node-count"}


@every_vm
def test_attack_extra_device(vm):
    verdict = judge(Stage(vm=vm, tree_rules={}), with_forged(vm, "/", add=[Node("hypervisor", {"compatible": text("xen,xen")})]))
    assert error_ids(verdict) == {"tree.unknown-node"}


def test_attack_host_chosen_seed(stage):
    script = with_forged(QEMU_KERNEL, "/chosen", set={"kaslr-seed": cells64(7)})
    assert error_ids(judge(stage, script)) == {"tree.seed"}
    assert judge(Stage(tree_rules={"allow_seeds": True}), script).allowed


def test_attack_more_cpus_than_allowed():
    assert error_ids(Stage(tree_rules={"cpus": {"min": 1, "max": 1}}).judge(send_tree=ENVELOPE)) == {"tree.cpus"}


def test_attack_event_log_that_no_log_names(stage):
    """The tree reserves a place for the log, the host leaves no log there: what is there is not known."""
    verdict = judge(stage, replace(QEMU_KERNEL.script, log_area=None))
    assert error_ids(verdict) == {"tree.log-area"}


def test_attack_log_area_that_the_tree_does_not_reserve(stage):
    verdict = judge(stage, with_forged(QEMU_KERNEL, "/", remove=["reserved-memory"]))
    assert {"boot.log-reserved", "tree.log-area"} == error_ids(verdict)


def test_attack_the_guest_sends_a_nicer_tree_than_was_loaded(stage):
    script = with_forged(QEMU_KERNEL, "/chosen", set={"bootargs": text("init=/bin/sh")})
    evidence = SimulatedRealm(stage.simulation(script=script)).evidence(stage.challenge)
    nicer = replace(evidence, device_tree=bytes(QEMU_KERNEL.script.load("DTB").data))
    assert {"rim.image-unknown", "tree.not-measured"} <= error_ids(stage.judge(nicer))


def test_attack_the_log_names_a_nicer_tree_than_was_loaded(stage):
    """The bytes, the digest in the log and the rules agree; the RIM does not."""
    honest = SimulatedRealm(stage.simulation(send_tree=ENVELOPE)).evidence(stage.challenge)
    script = with_forged(QEMU_KERNEL, "/chosen", set={"bootargs": text("init=/bin/sh")})
    forged = SimulatedRealm(stage.simulation(script=script)).evidence(stage.challenge)
    verdict = stage.judge(replace(honest, token=forged.token))
    assert error_ids(verdict) == {"rim.mismatch"}


def test_attack_tree_sent_under_the_digest_of_something_else(stage):
    """Hazard T2: a generated or sent tree is nobody's image but its own."""
    evil = Load("DTB", QEMU_KERNEL.script.load("DTB").base, b"\x7fELF" + b"code that nobody registered" * 300)
    script = replace(QEMU_KERNEL.script, loads=(*[load for load in QEMU_KERNEL.script.loads if load.name != "DTB"], evil))
    evidence = SimulatedRealm(stage.simulation(script=script)).evidence(stage.challenge)
    for sent in (bytes(QEMU_KERNEL.script.load("DTB").data), b"\0"):
        verdict = stage.judge(replace(evidence, device_tree=sent))
        assert {"rim.image-unknown", "tree.not-measured"} <= error_ids(verdict)
    verdict = stage.judge(replace(evidence, device_tree=bytes(evil.data)))
    assert {"rim.image-unknown", "tree.malformed"} <= error_ids(verdict)


def polyglot() -> bytes:
    """A device tree that also begins like an arm64 kernel: the Image magic stands in a gap of the tree."""
    tree = write_device_tree(tree_of(QEMU_KERNEL.script).root)
    header = list(struct.unpack(">10I", tree[:40]))
    shift = 24
    header[1] += shift
    for index in (2, 3, 4):
        header[index] += shift
    return struct.pack(">10I", *header) + bytes(16) + b"ARMd" + bytes(4) + tree[40:]


def test_attack_tree_that_is_a_kernel_as_well(stage):
    """Sent as a tree, loaded and started as the kernel: it has the role that we looked at and no other."""
    both = polyglot()
    assert parse_device_tree(both).root == tree_of(QEMU_KERNEL.script).root
    honest = QEMU_KERNEL.script
    loads = tuple(replace(load, data=both) if load.name in ("KERNEL", "DTB") else load for load in honest.loads)
    for script in (replace(honest, loads=loads), replace(honest, loads=tuple(load for load in loads if load.name != "DTB"))):
        evidence = SimulatedRealm(stage.simulation(script=script)).evidence(stage.challenge)
        verdict = stage.judge(replace(evidence, device_tree=both))
        assert "boot.role-missing" in error_ids(verdict)
        assert not verdict.allowed


def test_attack_supplied_tree_as_another_role(stage):
    """A second copy of the good tree, logged as the initrd."""
    honest = QEMU_KERNEL.script
    tree = bytes(honest.load("DTB").data)
    script = replace(honest, loads=tuple(replace(load, data=tree) if load.name == "INITRD" else load for load in honest.loads))
    assert {"boot.role-missing", "boot.role-repeated"} <= error_ids(judge(stage, script))


def test_attack_decoy_tree():
    """The listed tree lies somewhere, x0 names another one that keeps the rules."""
    stage = Stage(changes={"device_tree": {"mode": "rules", "pack": "qemu-virt", "bootargs": {"allowed": ["*"]}}})
    script = with_forged(QEMU_KERNEL, "/chosen", set={"bootargs": text("quiet")})
    decoy = Load("BLOB", 0x4E000000, QEMU_KERNEL.script.load("DTB").data)
    verdict = judge(stage, replace(script, loads=(*script.loads, decoy)))
    assert "boot.role-repeated" in error_ids(verdict)


def test_attack_revoked_tree_sent_as_bytes():
    """What the registry says of an image holds however its bytes arrive."""
    stage = Stage(tree_rules={}, states={"DTB": ImageState.REVOKED})
    assert "rim.image-revoked" in error_ids(stage.judge(send_tree=ENVELOPE))


def test_a_registered_tree_that_is_not_listed_is_judged_like_any_other():
    stage = Stage(tree_rules={}, states={"DTB": ImageState.ACTIVE})
    assert stage.judge(send_tree=ENVELOPE).allowed
    assert "tree.not-supplied" in error_ids(stage.judge())


def test_attack_two_trees(stage):
    realm = SimulatedRealm(stage.simulation(send_tree=LOG))
    evidence = realm.evidence(stage.challenge)
    same = bytes(realm.built.load("DTB").data)
    assert stage.judge(replace(evidence, device_tree=same)).allowed
    other = with_forged(QEMU_KERNEL, "/chosen", set={"bootargs": text("quiet")}).load("DTB").data
    assert "tree.ambiguous" in error_ids(stage.judge(replace(evidence, device_tree=bytes(other))))


def test_a_workload_without_rules_does_not_look_at_sent_trees():
    stage = Stage()
    script = with_forged(QEMU_KERNEL, "/chosen", set={"kaslr-seed": cells64(7)})
    verdict = judge(stage, script)
    assert "rim.image-unknown" in error_ids(verdict)
    assert not {id_ for id_ in error_ids(verdict) if id_ in ("tree.seed", "tree.not-supplied")}
    assert stage.judge(send_tree=ENVELOPE).allowed


def test_attack_workload_without_rules_beside_one_with(stage):
    """A tree that is known for one workload's sake is no tree for the other one."""
    strict = parse_workload(QEMU_KERNEL.workload_document("strict"))
    script = with_forged(QEMU_KERNEL, "/chosen", set={"bootargs": text("quiet")})
    candidates = (Candidate(strict, 1), Candidate(stage.workload, 1))
    verdict = judge(stage, script, candidates=candidates)
    assert not verdict.allowed
    alone = judge(stage, script, candidates=(Candidate(strict, 1),))
    assert "rim.image-unknown" in error_ids(alone)
    other = verdict.facts["other_workloads"] | {verdict.candidate.workload.name: sorted(error_ids(verdict))}
    assert {"boot.role-missing", "boot.role-unexpected", "tree.missing"} <= set(other["strict"])
    assert set(other["web"]) == {"tree.bootargs"}


def test_a_pack_that_the_broker_does_not_have():
    verdict = Stage(tree_rules={"pack": "bhyve"}).judge(send_tree=ENVELOPE)
    assert error_ids(verdict) == {"tree.rules-unknown"}


@pytest.mark.parametrize("lie", [lie for lie in Lie if not lie.value.startswith("duplicate-keys")])
@every_way
def test_no_lie_passes_by_the_way_of_rules(stage, lie, way):
    expected = {"tree.malformed"} if lie is Lie.FORGED_DEVICE_TREE else LIES[lie].findings
    verdict = stage.judge(send_tree=way, lie=lie)
    assert not verdict.allowed
    assert error_ids(verdict) & expected


# Reading ---------------------------------------------------------------------------------------------------------------------


def plan_of(realm):
    return boot_plan_from_log(parse_tcg_log(realm.log, LogKind.VMM))


def test_reading_a_tree_measures_it_as_the_registry_would(stage):
    realm = SimulatedRealm(stage.simulation(send_tree=LOG))
    data = bytes(realm.built.load("DTB").data)
    reading = read_supplied_tree(None, plan_of(realm), DEFAULT_LIMITS)
    assert reading.supplied.source is TreeSource.LOG
    assert reading.supplied.image.measurements == measure_image(data)


def test_a_tree_over_the_limit_is_not_hashed(stage):
    realm = SimulatedRealm(stage.simulation(send_tree=ENVELOPE))
    sent = realm.evidence(stage.challenge).device_tree
    reading = read_supplied_tree(sent, plan_of(realm), Limits(device_tree_bytes=1000))
    assert reading.supplied is None
    assert reading.findings[0].id == "tree.malformed"


def test_nobody_sent_a_tree(stage):
    reading = read_supplied_tree(None, plan_of(SimulatedRealm(stage.simulation())), DEFAULT_LIMITS)
    assert (reading.supplied, reading.findings) == (None, ())
