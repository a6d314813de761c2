"""Device trees made anew from what a log says are those that the VMM loaded."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm import HostParameters, Region, VmLayout, VmRequest, plan_layout
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.regeneration import LoggedVm, UnloggedOptions, profile_of_log, regenerate_tree
from kbs_rim.measurement.vmm.shipped_profiles import KVMTOOL, QEMU
from kbs_rim.measurement.vmm.tree_template import patch_template

VECTORS = Path(__file__).parent.parent / "vectors" / "vmm"
CASES = [
    case
    for case in json.loads((VECTORS / "vmm-extra-public.json").read_text())["cases"]
    if case["vmm"] in ("qemu", "kvmtool") and "reference_quirk" not in case and not {"-bios", "-i", "-initrd"} & set(case["vmm_args"])
]
"""Without an initrd: the reference lists its pages, not where it begins in them."""
MIB = 1 << 20
PMU = 4


def logged(layout: VmLayout, cpus: int) -> LoggedVm:
    """What a VMM logs of a layout."""
    initrd = next((Region(place.base, place.size) for place in layout.placements if place.role == "initrd"), None)
    return LoggedVm(ram_size=layout.ram.size, cpus=cpus, params=layout.params, initrd=initrd, log_area=layout.log_area)


@given(
    st.sampled_from([QEMU, KVMTOOL]), st.integers(1, 130), st.integers(64, 8192), st.none() | st.integers(1, MIB), st.booleans(),
    st.booleans(), st.booleans(), st.none() | st.sampled_from(["", "quiet"]),
)  # fmt: skip
def test_the_log_is_enough(profile, cpus, ram, initrd, log, pmu, its, bootargs):
    wanted = VmRequest(
        cpus=cpus, ram_size=2 * ram * MIB, boot="kernel", kernel_size=4096, kernel_header=Arm64Header(0, 8 * MIB, 0), initrd_size=initrd,
        measurement_log=log, pmu=pmu, its=its, bootargs=bootargs, host=HostParameters(pmu_num_ctrs=4),
    )  # fmt: skip
    layout = plan_layout(profile, wanted)
    options = UnloggedOptions(bootargs=bootargs, its=its)
    assert regenerate_tree(profile, logged(layout, cpus), options) == layout.device_tree


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_references_trees_from_what_their_logs_would_say(case):
    """RAM, parameters and the log area come from the operations that the reference lists, the rest from its command line."""
    definition = parse_arguments(case["vmm"], case["vmm_args"])
    expected = case["expected"]
    spans = {step.split()[0]: [int(text, 16) for text in step.split()[1:]] for step in expected["rim_operations"]}
    base, top = spans["init_ripas"]
    area = spans.get("data_unmeasured")
    vm = LoggedVm(
        ram_size=top - base,
        cpus=definition.topology.count,
        params=RealmCreate(HashAlgorithm.SHA256, PMU if expected["measured_params"]["pmu"] else 0, 33),
        log_area=None if area is None else Region(area[0], area[1] - area[0]),
    )
    options = UnloggedOptions(
        bootargs=definition.bootargs, its=definition.its, ram_max=definition.ram_max, hotplug_slots=definition.hotplug_slots,
        virtio_mmio=definition.virtio_mmio,
    )  # fmt: skip
    profile = profile_of_log({"qemu": "QEMU"}.get(case["vmm"], case["vmm"]))
    assert hashlib.sha256(regenerate_tree(profile, vm, options)).hexdigest() == expected["dtb_sha256"]


def test_a_template_is_patched_with_logged_addresses():
    wanted = VmRequest(cpus=3, ram_size=512 * MIB, boot="kernel", kernel_size=1, kernel_header=Arm64Header(0, 1, 0), host=HostParameters())
    template = (VECTORS / "dtb-public" / "X016-kvmtool.dtb").read_bytes()
    layout = plan_layout(KVMTOOL, wanted)
    made = regenerate_tree(KVMTOOL, logged(layout, 3), template=template)
    assert made == patch_template(KVMTOOL, wanted, template).ljust(65536, b"\0")
    with pytest.raises(MalformedEvidence):
        regenerate_tree(KVMTOOL, logged(layout, 3), template=b"none")


def test_a_vmm_that_is_not_known():
    with pytest.raises(InvalidDocument, match="QEMU, kvmtool"):
        profile_of_log("bhyve")
