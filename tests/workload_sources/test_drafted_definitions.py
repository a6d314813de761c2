"""The table ``definition`` of a drafted workload: a broker that gets no log finds every realm that the draft expects, and says which."""

import shlex

import pytest

from kbs_rim.appraisal.definition_search import DefinitionSearch, SignedRealm
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.replay_rules import allowed_dialects
from kbs_rim.appraisal.workload import Role
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ReplayWork
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.workload_sources.draft import draft_workload
from kbs_rim.workload_sources.subject import DraftSubject, HostChoice
from tests.stage import FIRMWARE, INITRD, KERNEL

IMAGES = {"kernel": measure_image(KERNEL), "initrd": measure_image(INITRD), "firmware": measure_image(FIRMWARE)}
HOSTS = (
    HostChoice("small", HostCapabilities(ipa_bits=48, num_bps=2, num_wps=2, pmu_num_ctrs=0, sve_vl=0, pmu=False)),
    HostChoice("large", HostCapabilities(ipa_bits=48, num_bps=6, num_wps=4, pmu_num_ctrs=8, sve_vl=256, pmu=True)),
)
MACHINE = (
    "-M virt,gic-version=3,confidential-guest-support=rme0 -object rme-guest,id=rme0,measurement-algorithm=sha256 -cpu host -enable-kvm"
)
LINES = {
    "qemu": ("qemu", f"{MACHINE} -smp 2 -m 256M -kernel k -initrd i -append console=ttyAMA0"),
    "qemu firmware": ("qemu", f"{MACHINE} -smp 3 -m 512M,slots=2,maxmem=2G -bios f -kernel k -initrd i -append quiet"),
    "kvmtool": ("kvmtool", "run --realm -c 2 -m 256M -k k -i i -p console=ttyAMA0 --measurement-algo sha256"),
    "cloud-hypervisor": ("cloud-hypervisor", "--cpus boot=4 --memory size=1G --kernel k --initramfs i --cmdline quiet"),
}


def drafted(name: str, **changes):
    vmm, line = LINES[name]
    definition = parse_arguments(vmm, shlex.split(line.replace("", "")))
    images = {role: IMAGES[role] for role in definition.images}
    subject = DraftSubject(name="web", definition=definition, profile=DEFAULTS[vmm], images=images, hosts=HOSTS, **changes)
    return draft_workload(subject)


@pytest.mark.parametrize("tree_mode", ["rules", "registered"])
@pytest.mark.parametrize("name", LINES)
def test_every_expected_rim_is_found_without_a_log(name, tree_mode):
    draft = drafted(name, tree_mode=tree_mode)
    measured = [*((role, image) for role, image in IMAGES.items()), *(("device-tree", tree) for tree in draft.trees)]
    registered = ImageSet(RegisteredImage(image.image_id, role, (Role(role),), ImageState.ACTIVE, image) for role, image in measured)
    assert draft.workload.definition.without_log
    for outcome in draft.outcomes:
        realm = SignedRealm(rim=outcome.rim, algorithm=outcome.plan.algorithm, platform=b"machine", vouched_for=True)
        search = DefinitionSearch(realm, registered, ReplayWork(DEFAULT_LIMITS.replay_granules), DEFAULT_LIMITS, permits=None, at=0)
        found = search.find(draft.workload, 1, allowed_dialects(draft.workload))
        assert found.boot is not None, (outcome.host, found.findings)
        assert found.facts["vm"]["breakpoints"] == outcome.plan.layout.params.num_bps + 1
