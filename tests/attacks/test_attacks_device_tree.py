"""Attacks on trees that nobody registered, over HTTP: what one client sends is nobody else's trust, and no tree says what it likes."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from stage import KVMTOOL_KERNEL, QEMU_KERNEL, judging_trees, kernel_file

from kbs_rim.evidence.envelope import (
    CMW_CBOR_TYPE,
    CMW_JSON_TYPE,
    encode_evidence_cmw_cbor,
    encode_evidence_cmw_json,
    encode_evidence_multipart,
)
from kbs_rim.measurement.device_tree import Node, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree
from kbs_rim.realm.host_script import HostHabits, HostScript, Load
from kbs_rim.realm.simulator import TreeDelivery
from kbs_rim.realm.vm_builder import build_script
from tests.broker_stage import SECRETS, VMS, Site, expect

_spec = importlib.util.spec_from_file_location("tree_forge", Path(__file__).parent.parent / "appraisal" / "tree_forge.py")
forge = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(forge)

ENVELOPE, LOG = TreeDelivery.ENVELOPE, TreeDelivery.LOG
NAMES = ["qemu-kernel", "kvmtool-kernel"]
every_vm = pytest.mark.parametrize("vm", NAMES)
BOUNDARY = "kbs-rim-test-boundary-3d1f"


async def judge_trees(site: Site, name: str, **rules) -> None:
    """From now on this workload judges trees by rules."""
    document = judging_trees(VMS[name], VMS[name].workload_document(name), **rules)
    await expect(site, 201, "POST", "/admin/v1/workloads", document)


def other_vm(name: str) -> HostScript:
    """The same images in a VM with one CPU more: its tree is registered nowhere."""
    vm = VMS[name]
    return build_script(replace(vm.definition, cpus=3), vm.files)


def forged(name: str, path: str, **edit) -> HostScript:
    """The VM with another tree, logged truthfully."""
    script = other_vm(name)
    data = bytes(script.load("DTB").data)
    padded = len(data) if VMS[name] is KVMTOOL_KERNEL else None
    tree = write_device_tree(forge.changed(parse_device_tree(data).root, path, **edit), padded_to=padded)
    return with_load(script, "DTB", tree)


def with_load(script: HostScript, name: str, data: bytes) -> HostScript:
    return replace(script, loads=tuple(replace(load, data=data) if load.name == name else load for load in script.loads))


async def images(site: Site) -> dict[str, str]:
    """Everything that is registered: id and name."""
    return {image["id"]: image["name"] for image in (await site.get("/admin/v1/images", params={"limit": 500}))["images"]}


@every_vm
@pytest.mark.parametrize("way", [ENVELOPE, LOG])
async def test_a_realm_with_a_tree_of_its_own_gets_its_secret(site: Site, vm: str, way: TreeDelivery) -> None:
    await judge_trees(site, vm)
    before = await images(site)
    assert await site.fetch(vm, script=other_vm(vm), send_tree=way) == SECRETS[vm]
    [listed] = await site.appraisals(verdict="allowed")
    record = (await site.record(listed["id"]))["appraisal"]
    tree = bytes(other_vm(vm).load("DTB").data)
    assert record["facts"]["device_tree"]["image"] == f"sha256:{hashlib.sha256(tree).hexdigest()}"
    assert ("device-tree" in record["inputs"]) == (way is ENVELOPE)
    if way is ENVELOPE:
        assert record["inputs"]["device-tree"] == hashlib.sha256(tree).hexdigest()
    assert await images(site) == before


async def test_every_envelope_carries_it(site: Site) -> None:
    await judge_trees(site, "qemu-kernel")
    realm = site.realm("qemu-kernel", script=other_vm("qemu-kernel"), send_tree=ENVELOPE)
    forms = [
        (CMW_CBOR_TYPE, encode_evidence_cmw_cbor),
        (CMW_JSON_TYPE, encode_evidence_cmw_json),
        (f"multipart/mixed; boundary={BOUNDARY}", lambda evidence: encode_evidence_multipart(evidence, BOUNDARY)),
    ]
    for media_type, encode in forms:
        offer = await site.offer(site.exchange("qemu-kernel"))
        assert (await site.send(offer, encode(realm.evidence(offer.challenge)), media_type)).status == 200


@every_vm
async def test_attack_forged_bootargs(site: Site, vm: str) -> None:
    await judge_trees(site, vm)
    honest = facts_of(parse_device_tree(bytes(VMS[vm].script.load("DTB").data))).bootargs
    script = forged(vm, "/chosen", set={"bootargs": text(f"{honest} init=/bin/sh")})
    record = await site.assert_refused(
        await site.attempt(vm, script=script, send_tree=ENVELOPE), "tree.bootargs", code="device-tree-refused"
    )
    assert {finding["id"] for finding in record["findings"] if finding["severity"] == "error"} == {"tree.bootargs"}


@every_vm
async def test_attack_initrd_range_pointing_at_unmeasured_memory(site: Site, vm: str) -> None:
    await judge_trees(site, vm)
    area = other_vm(vm).log_area
    script = forged(vm, "/chosen", set={"linux,initrd-start": cells64(area.base), "linux,initrd-end": cells64(area.base + 4096)})
    record = await site.assert_refused(await site.attempt(vm, script=script, send_tree=LOG), "tree.initrd", code="device-tree-refused")
    [finding] = [finding for finding in record["findings"] if finding["id"] == "tree.initrd"]
    assert finding["where"]["node"] == "/chosen"


@every_vm
async def test_attack_extra_memory_node(site: Site, vm: str) -> None:
    await judge_trees(site, vm)
    script = forged(vm, "/", add=[Node("memory@1000000000", {"device_type": text("memory"), "reg": cells64(0x1000000000, 1 << 30)})])
    await site.assert_refused(await site.attempt(vm, script=script, send_tree=ENVELOPE), "tree.memory", code="device-tree-refused")


@every_vm
async def test_attack_a_tree_without_rules_for_it(site: Site, vm: str) -> None:
    """The workload wants registered trees: that a tree comes along changes nothing."""
    await site.assert_refused(await site.attempt(vm, script=other_vm(vm), send_tree=ENVELOPE), "rim.image-unknown")


# --- digest poisoning between two clients ------------------------------------------------------------------------------


async def test_attack_digest_poisoning_between_two_clients(site: Site) -> None:
    """One client's tree, good or claimed to be something else, makes nothing known to the next client (hazards T2 and T3)."""
    await judge_trees(site, "qemu-kernel")
    before = await images(site)
    evil = kernel_file(b"a kernel of the attacker's")
    honest = other_vm("qemu-kernel")
    tree = bytes(honest.load("DTB").data)

    # The first client, an honest one: its tree becomes known for its own appraisal.
    assert await site.fetch("qemu-kernel", script=honest, send_tree=ENVELOPE) == SECRETS["qemu-kernel"]

    # The second one claims that its tree has the digest of the attacker's kernel.
    for way in (ENVELOPE, LOG):
        claimed = with_load(honest, "DTB", evil)
        offer = await site.offer(site.exchange("qemu-kernel"))
        evidence = site.realm("qemu-kernel", script=claimed, send_tree=way).evidence(offer.challenge)
        if way is ENVELOPE:
            evidence = replace(evidence, device_tree=tree)
        answer = await site.submit(offer, evidence)
        assert answer.status == 403
        record = (await site.record(answer.document["ticket"]))["appraisal"]
        assert {"rim.image-unknown"} <= {finding["id"] for finding in record["findings"]}

    # The third one starts the attacker's kernel, and the fourth uses the first one's tree as an initrd, with rules and without.
    for name, script in (
        ("qemu-kernel", with_load(honest, "KERNEL", evil)),
        ("qemu-kernel", with_load(honest, "INITRD", tree)),
        ("kvmtool-kernel", with_load(KVMTOOL_KERNEL.script, "KERNEL", evil)),
        ("kvmtool-kernel", with_load(KVMTOOL_KERNEL.script, "INITRD", tree)),
    ):
        answer = await site.attempt(name, script=script)
        assert answer.status == 403
        record = (await site.record(answer.document["ticket"]))["appraisal"]
        assert "rim.image-unknown" in {finding["id"] for finding in record["findings"]}
    assert await images(site) == before


async def test_attack_revoked_tree_comes_back_as_bytes(site: Site) -> None:
    await judge_trees(site, "qemu-kernel")
    registered = f"sha256:{hashlib.sha256(QEMU_KERNEL.script.load('DTB').data).hexdigest()}"
    change = {"state": "revoked", "reason": "it names the wrong console"}
    await expect(site, 200, "POST", f"/admin/v1/images/{registered}/state", change)
    for way in (ENVELOPE, LOG):
        await site.assert_refused(await site.attempt("qemu-kernel", send_tree=way), "rim.image-revoked")


async def test_attack_extra_image_beside_the_tree(site: Site) -> None:
    """A second copy of the supplied tree, to be found by firmware or kernel elsewhere."""
    await judge_trees(site, "qemu-kernel")
    script = other_vm("qemu-kernel")
    again = Load("BLOB", 0x4E000000, script.load("DTB").data)
    answer = await site.attempt("qemu-kernel", script=replace(script, loads=(*script.loads, again)), send_tree=ENVELOPE)
    await site.assert_refused(answer, "boot.role-repeated")


@pytest.mark.parametrize("way", [ENVELOPE, LOG])
async def test_a_mismatch_is_explained_with_the_tree_that_was_sent(site: Site, way: TreeDelivery) -> None:
    """The host rounds to pages that the workload does not allow; without the tree nobody could tell."""
    await judge_trees(site, "qemu-kernel")
    habits = HostHabits(page_size=65536)
    answer = await site.attempt("qemu-kernel", script=other_vm("qemu-kernel"), habits=habits, send_tree=way)
    await site.assert_refused(answer, "rim.mismatch")
    explained = await site.get(f"/audit/v1/appraisals/{answer.document['ticket']}/explanation", who="auditor")
    [reason] = [reason for reason in explained["reasons"] if reason["finding"]["id"] == "rim.mismatch"]
    assert "rmm-1.0/64k" in reason["hints"][0]


async def test_a_workload_with_an_unknown_pack_is_refused_where_it_is_registered(site: Site) -> None:
    document = judging_trees(QEMU_KERNEL, QEMU_KERNEL.workload_document("qemu-kernel"), pack="bhyve")
    answer = await site.ask("POST", "/admin/v1/workloads", document)
    assert answer.status == 409, answer
    assert "bhyve" in answer.document["detail"]
