"""A drafted workload at a running broker: the realm of the definition gets its secret over HTTP, others do not."""

import shlex
from dataclasses import replace

import pytest
from stage import INITRD, KERNEL

from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.realm.simulator import TreeDelivery
from kbs_rim.realm.vm_builder import build_script
from kbs_rim.workload_sources.draft import draft_workload
from kbs_rim.workload_sources.subject import DraftSubject, HostChoice
from tests.broker_stage import SECRETS, VMS, Site, expect

NAME = "qemu-kernel"
LINE = (
    "-M virt,gic-version=3 -object rme-guest,id=rme0,measurement-log=on -cpu host -enable-kvm -smp 2 -m 256M "
    "-kernel k -initrd i -append console=ttyAMA0"
)
HOST = HostChoice("small", HostCapabilities(ipa_bits=48, num_bps=2, num_wps=2, pmu_num_ctrs=0, sve_vl=0, pmu=False))


async def register(site: Site, **changes) -> None:
    """Make the next revision of the workload from a command line; the images are registered already."""
    definition = parse_arguments("qemu", shlex.split(LINE))
    images = {"kernel": measure_image(KERNEL), "initrd": measure_image(INITRD)}
    subject = DraftSubject(name=NAME, definition=definition, profile=DEFAULTS["qemu"], images=images, hosts=(HOST,), **changes)
    await expect(site, 201, "POST", "/admin/v1/workloads", dict(draft_workload(subject).document))


@pytest.mark.parametrize("mode", ["rules", "registered"])
async def test_the_realm_of_the_definition_gets_its_secret(site: Site, mode: str) -> None:
    await register(site, tree_mode=mode)
    way = TreeDelivery.ENVELOPE if mode == "rules" else TreeDelivery.NONE
    assert await site.fetch(NAME, send_tree=way) == SECRETS[NAME]


async def test_attack_forged_bootargs(site: Site) -> None:
    await register(site)
    vm = VMS[NAME]
    script = build_script(replace(vm.definition, append="console=ttyAMA0 init=/bin/sh"), vm.files)
    answer = await site.attempt(NAME, script=script, send_tree=TreeDelivery.ENVELOPE)
    await site.assert_refused(answer, "tree.bootargs", code="device-tree-refused")


async def test_attack_a_vm_with_more_memory(site: Site) -> None:
    await register(site)
    vm = VMS[NAME]
    script = build_script(replace(vm.definition, memory=2 * vm.memory), vm.files)
    answer = await site.attempt(NAME, script=script, send_tree=TreeDelivery.ENVELOPE)
    await site.assert_refused(answer, "boot.ram", code="boot-plan-refused")
