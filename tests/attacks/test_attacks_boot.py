"""Attacks on what the host builds, over HTTP: the guest learns a code and a ticket, the record holds the reason, nothing leaves."""

from dataclasses import replace

import pytest
from stage import QEMU_KERNEL, ROLES, Vm, VmFiles, kernel_file

from kbs_rim.realm.lies import LIES, Lie
from tests.broker_stage import SECRETS, VMS, Site, expect, register_image

WITH_INITRD = [name for name, vm in VMS.items() if vm.files.initrd]
every_vm = pytest.mark.parametrize("vm", VMS)
every_vm_with_initrd = pytest.mark.parametrize("vm", WITH_INITRD)


async def lie(site: Site, lie: Lie, vm: str, *, code: str | None = None, findings: frozenset[str] | set[str] | None = None) -> dict:
    """One realm whose host tells ``lie``, with the answer and the record checked."""
    record = await site.assert_refused(await site.attempt(vm, lie=lie), *(findings or LIES[lie].findings), code=code)
    assert record["secret"] == vm
    return record


@every_vm
async def test_attack_tampered_kernel(site: Site, vm: str) -> None:
    record = await lie(site, Lie.TAMPERED_KERNEL, vm, code="measurement-refused", findings={"rim.mismatch"})
    [mismatch] = [finding for finding in record["findings"] if finding["id"] == "rim.mismatch"]
    assert mismatch["seen"] == record["facts"]["rim"]
    assert mismatch["expected"].startswith("rmm-1.0/4k/log: ")


@every_vm
async def test_attack_unregistered_image(site: Site, vm: str) -> None:
    await lie(site, Lie.UNREGISTERED_IMAGE, vm, code="measurement-refused", findings={"rim.image-unknown"})


@every_vm
async def test_attack_forged_device_tree(site: Site, vm: str) -> None:
    await lie(site, Lie.FORGED_DEVICE_TREE, vm, findings={"rim.image-unknown"})


@every_vm
async def test_attack_revoked_image(site: Site, vm: str) -> None:
    image = next(image for image in (await site.get(f"/admin/v1/workloads/{vm}"))["workload"]["images"] if image["role"] != "device-tree")
    path = f"/admin/v1/images/{image['images'][0]}/state"
    touched = (await expect(site, 200, "POST", path, {"state": "revoked", "reason": "a hole was found"})).document["touches"]
    assert vm in touched["workloads"]
    assert f"vault/disk/{vm}" in touched["secrets"]
    await site.assert_refused(await site.attempt(vm), "rim.image-revoked", code="measurement-refused")


@every_vm
async def test_attack_pc_off_the_entry_point(site: Site, vm: str) -> None:
    record = await lie(site, Lie.PC_OFF_ENTRY, vm, code="boot-plan-refused", findings={"boot.entry-point"})
    assert "rim.mismatch" not in {finding["id"] for finding in record["findings"]}, "the RIM matches: only the boot plan tells"


@every_vm
async def test_attack_x0_in_the_log_area(site: Site, vm: str) -> None:
    record = await lie(site, Lie.X0_IN_LOG_AREA, vm, code="boot-plan-refused", findings={"boot.log-area"})
    assert {"boot.x0", "boot.log-area"} <= {finding["id"] for finding in record["findings"]}


@every_vm
async def test_attack_unmeasured_kernel(site: Site, vm: str) -> None:
    await lie(site, Lie.UNMEASURED_KERNEL, vm, code="log-refused")


@every_vm
async def test_attack_unmeasured_kernel_page(site: Site, vm: str) -> None:
    await lie(site, Lie.UNMEASURED_KERNEL_PAGE, vm, code="measurement-refused", findings={"rim.mismatch"})


@every_vm_with_initrd
async def test_attack_unmeasured_initrd(site: Site, vm: str) -> None:
    await lie(site, Lie.UNMEASURED_INITRD, vm, code="log-refused", findings={"plan.unmeasured"})


@every_vm_with_initrd
async def test_attack_unmeasured_initrd_page(site: Site, vm: str) -> None:
    record = await lie(site, Lie.UNMEASURED_INITRD_PAGE, vm, code="boot-plan-refused")
    assert {"boot.role-missing", "boot.log-reserved", "tree.initrd"} <= {finding["id"] for finding in record["findings"]}


@every_vm
async def test_attack_image_logged_as_the_log(site: Site, vm: str) -> None:
    await lie(site, Lie.IMAGE_LOGGED_AS_LOG, vm)


@every_vm
async def test_attack_second_runnable_rec(site: Site, vm: str) -> None:
    await lie(site, Lie.SECOND_RUNNABLE_REC, vm, code="boot-plan-refused", findings={"boot.rec-count"})


@every_vm
async def test_attack_overlapping_images(site: Site, vm: str) -> None:
    record = await lie(site, Lie.OVERLAPPING_IMAGES, vm)
    assert "boot.overlap" in {finding["id"] for finding in record["findings"]}


@every_vm
async def test_attack_extra_image(site: Site, vm: str) -> None:
    await lie(site, Lie.EXTRA_IMAGE, vm, code="boot-plan-refused", findings={"boot.role-repeated"})


@every_vm
async def test_attack_measured_page_that_is_not_logged(site: Site, vm: str) -> None:
    await lie(site, Lie.EXTRA_DATA, vm, code="measurement-refused", findings={"rim.mismatch"})


@every_vm
async def test_attack_log_without_realm_create(site: Site, vm: str) -> None:
    await lie(site, Lie.LOG_WITHOUT_CREATE, vm, code="log-refused", findings={"plan.realm-create"})


@every_vm
async def test_attack_rem_moved(site: Site, vm: str) -> None:
    await lie(site, Lie.REM_MOVED, vm, code="measurement-refused", findings={"rem.mismatch"})


async def test_attack_trusted_images_of_two_workloads_mixed(site: Site) -> None:
    """Tenant B's kernel is trusted, and so is tenant A's initrd: together they are nobody's workload."""
    theirs = Vm("qemu", "kernel", VmFiles(kernel=kernel_file(b"tenant B"), initrd=b"B's initrd " * 999))
    for load in theirs.script.loads:
        await register_image(site, bytes(load.data), ROLES[load.name].value)
    await expect(site, 201, "POST", "/admin/v1/workloads", theirs.workload_document("tenant-b"))
    mixed = Vm("qemu", "kernel", VmFiles(kernel=theirs.files.kernel, initrd=QEMU_KERNEL.files.initrd))
    for load in mixed.script.loads:  # even with a device tree for this pair registered
        await register_image(site, bytes(load.data), ROLES[load.name].value)
    realm = replace(site.trust.stage, vm=mixed).simulation()
    offer = await site.offer()
    answer = await site.submit(offer, type(site.realm())(realm).evidence(offer.challenge))
    record = await site.assert_refused(answer, "boot.role-unexpected", code="boot-plan-refused")
    found = {finding["id"] for finding in record["findings"]}
    assert {"boot.role-unexpected", "boot.role-missing"} <= found
    assert "rim.mismatch" not in found
    assert record["facts"]["dialect"]


async def test_attack_secret_of_another_workload(site: Site) -> None:
    """A realm in good order asks for a secret that is bound to another."""
    offer = await site.offer(site.exchange("kvmtool-kernel"))
    answer = await site.submit(offer, site.realm("qemu-kernel").evidence(offer.challenge))
    await site.assert_refused(answer, "boot.vmm", "boot.role-unexpected", "rim.mismatch", "boot.ram")


async def test_attack_realm_of_a_retired_workload(site: Site) -> None:
    await expect(site, 200, "POST", "/admin/v1/workloads/qemu-kernel/retire")
    await site.assert_refused(await site.attempt(), "policy.no-workload", "policy.workload-inactive", code="not-authorized")


async def test_attack_secret_bound_to_nobody(site: Site) -> None:
    await expect(site, 200, "PUT", "/admin/v1/secrets/vault/disk/qemu-kernel/workloads", {"workloads": []})
    await site.assert_refused(await site.attempt(), "policy.no-workload", code="not-authorized")
    await expect(site, 200, "PUT", "/admin/v1/secrets/vault/disk/qemu-kernel/workloads", {"workloads": ["qemu-kernel"]})
    assert await site.fetch() == SECRETS["qemu-kernel"]
