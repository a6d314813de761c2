"""Profiles as data: documents, the flow of an older series, and that a rule does what it says."""

import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.calculator_files import load_vmm_profile, shipped_profiles
from kbs_rim.errors import ConfigurationError, InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.granules import granule_digests
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import RecCreate, RimChain, RmmVersion, ripas_entries
from kbs_rim.measurement.vmm import HostParameters, VmRequest, plan_layout
from kbs_rim.measurement.vmm.calculation import calculate, plan_measurement
from kbs_rim.measurement.vmm.memory_map import lay_out
from kbs_rim.measurement.vmm.profile_document import parse_profile
from kbs_rim.measurement.vmm.shipped_profiles import CLOUD_HYPERVISOR, DEFAULTS, KVMTOOL, QEMU, SHIPPED
from kbs_rim.measurement.vmm.vmm_profile import BootFlow, OperationRule, PlacementRule

CONFIG = Path(__file__).parents[2] / "config" / "vmm_profiles"
MIB = 1 << 20
PAGE = 4096
BARE = {"extends": "kvmtool", "name": "mine", "version": "1", "source": "test"}


def request(**changes) -> VmRequest:
    given = {
        "cpus": 2, "ram_size": 512 * MIB, "boot": "kernel", "kernel_size": 5 * PAGE + 1,
        "kernel_header": Arm64Header(0, 16 * MIB + PAGE, 0),
        "host": HostParameters(),
    }  # fmt: skip
    return VmRequest(**given | changes)


def test_each_vmm_has_one_default():
    assert set(DEFAULTS) == {"qemu", "kvmtool", "cloud-hypervisor"}
    assert set(shipped_profiles()) == {*SHIPPED, "kvmtool-eac5", "kvmtool-kvm12", "qemu-virt-kvm12"}
    assert load_vmm_profile("qemu-virt") is QEMU


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_files_are_profiles_of_their_name(file):
    profile = parse_profile(tomllib.loads(file.read_text()))
    assert profile.name == file.stem
    assert load_vmm_profile(file.stem) == load_vmm_profile(str(file)) == profile


def test_the_flow_of_the_eac5_series():
    """Kernel, RAM for the rest of the kernel, initrd, device tree, vCPU: the same chain, written by hand."""
    profile = load_vmm_profile("kvmtool-eac5")
    wanted, kernel, initrd = request(initrd_size=100), b"K" * (5 * PAGE + 1), b"I" * 100
    plan = plan_measurement(profile, wanted, RmmVersion.V1_0)
    starts = {image.thing: image for image in plan.images}
    granules = {
        name: granule_digests(data, HashAlgorithm.SHA256, starts[name].lead) for name, data in (("kernel", kernel), ("initrd", initrd))
    }
    chain = RimChain(RmmVersion.V1_0, plan.layout.params)
    chain.data_run(0x80000000, granules["kernel"])
    for entry in ripas_entries(0x80000000 + 6 * PAGE, 0x81001000, plan.layout.params.s2sz):
        chain.ripas_entry(entry.base, entry.top)
    chain.data_run(starts["initrd"].base - starts["initrd"].lead, granules["initrd"])
    chain.data_run(0x8FE00000, granule_digests(plan.layout.device_tree, HashAlgorithm.SHA256))
    chain.rec(RecCreate(1, 0x80000000, (0x8FE00000, 0, 0, 0, 0, 0, 0, 0)))
    assert calculate(plan, RmmVersion.V1_0, granules).rim == chain.value


def test_a_kernel_without_a_tail_needs_no_ram():
    plan = plan_measurement(load_vmm_profile("kvmtool-eac5"), request(kernel_header=Arm64Header(0, PAGE, 0)), RmmVersion.V1_0)
    assert [str(step).split()[0] for step in plan.operations] == ["data_measured", "data_measured", "rec_create"]


def test_a_tail_that_leaves_the_ram_is_refused():
    with pytest.raises(InvalidDocument, match="leaves the RAM"):
        plan_measurement(load_vmm_profile("kvmtool-eac5"), request(kernel_header=Arm64Header(0, 600 * MIB, 0)), RmmVersion.V1_0)


def test_a_document_changes_what_it_names():
    profile = parse_profile({
        **BARE, "hash": "sha512", "ram_base": 0x40000000, "tree_size": 131072, "features": ["log"], "regions": {"uart": [0x2000000, 16]},
        "ipa_bits": 48,
        "flows": {"kernel": {
            "pc": "kernel.base", "x0": "zero", "measured": ["kernel", "device-tree"],
            "places": [
                {"thing": "kernel", "rule": "at", "of": ["ram.base"], "offset": 0x200000, "text_offset": True},
                {"thing": "device-tree", "rule": "below", "of": ["ram.end"], "slack": 1, "align": 4096},
            ]}},
    })  # fmt: skip
    wanted = request(kernel_header=Arm64Header(0x80000, MIB, 0))
    layout = plan_layout(profile, wanted)
    assert layout.placements[0].base == layout.pc == 0x40280000
    assert (layout.x0, layout.params.s2sz, len(layout.device_tree)) == (0, 48, 131072)
    assert layout.device_tree_base == 0x60000000 - 131072
    assert profile.hash_algorithm is HashAlgorithm.SHA512
    assert b"U6_16550A@2000000\0" in layout.device_tree
    assert profile.regions["rtc"] == KVMTOOL.regions["rtc"]
    with pytest.raises(InvalidDocument, match="virtio-mmio"):
        plan_layout(profile, replace(wanted, virtio_mmio=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extends": "bhyve"}, "extends: must be one of"),
        ({"extends": 3}, "extends"),
        ({"name": ""}, "name"),
        ({"flux": 1}, "flux: is not a key"),
        ({"ram_base": -1}, "ram_base"),
        ({"ram_base": True}, "ram_base"),
        ({"hash": "md5"}, "hash"),
        ({"features": ["flux"]}, "features are"),
        ({"regions": {"flux": [0, 1]}}, "regions.flux"),
        ({"regions": {"uart": [0]}}, "regions.uart"),
        ({"operations": []}, "lack rec"),
        ({"operations": [{"do": "flux"}]}, r"operations\[0\]: an operation is one of"),
        ({"operations": [{"do": "data", "of": ["flux"]}]}, r"operations\[0\]"),
        ({"operations": [{"do": "ripas", "start": "flux"}]}, "flux is not a landmark"),
        ({"operations": [{"of": []}]}, r"operations\[0\].do: is missing"),
        ({"operations": [{"do": "rec"}] * 101}, "at most 100"),
        ({"flows": {"flux": {}}}, "flows.flux"),
        ({"flows": {"kernel": {"pc": "zero"}}}, "flows.kernel.x0: is missing"),
        ({"flows": {"kernel": {"pc": "flux", "x0": "zero", "measured": [], "places": []}}}, "flux is not a landmark"),
        ({"flows": {"kernel": {"pc": "zero", "x0": "zero", "measured": ["x"], "places": []}}}, "can be measured"),
        ({"flows": {"none": {"pc": "zero", "x0": "zero", "measured": [], "places": [{"thing": "log", "rule": "on", "of": ["zero"]}]}}},
         "at, above, below"),
        ({"flows": {"none": {"pc": "zero", "x0": "zero", "measured": [], "places": [{"thing": "log", "rule": "at", "of": []}]}}},
         "needs a landmark"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(changes, words):
    with pytest.raises(InvalidDocument, match=words) as refused:
        parse_profile({**BARE, **changes})
    assert refused.value.finding_id == "document.vmm-profile"


def test_a_name_that_is_nothing(tmp_path):
    with pytest.raises(ConfigurationError, match="kvmtool-eac5"):
        load_vmm_profile("qemu-virt-99")
    with pytest.raises(InvalidDocument, match="version: is missing"):
        parse_profile({"extends": "qemu-virt", "name": "x"})


def test_a_place_that_depends_on_a_later_one_is_refused():
    flow = BootFlow(places=(PlacementRule(thing="kernel", rule="at", of=("initrd.end",)),), measured=("kernel",), pc="zero", x0="zero")
    with pytest.raises(InvalidDocument, match="none of them exists yet"):
        lay_out(replace(QEMU, flows={"kernel": flow}), request())


def test_rules_that_mean_nothing_are_refused():
    for wrong in (
        lambda: PlacementRule(thing="disk", rule="at", of=("zero",)),
        lambda: PlacementRule(thing="kernel", rule="at", of=("nowhere",)),
        lambda: PlacementRule(thing="kernel", rule="at", of=("zero",), align=0),
        lambda: OperationRule(kind="data", things=("disk",)),
        lambda: replace(QEMU, flows={}),
    ):
        with pytest.raises(ValueError, match=r"one of|landmark|flow|alignment"):
            wrong()


@given(
    st.sampled_from([QEMU, KVMTOOL, CLOUD_HYPERVISOR]), st.integers(1, 64), st.integers(64, 4096), st.integers(1, 20 * MIB),
    st.none() | st.integers(1, 20 * MIB), st.booleans(), st.sampled_from([0, 0x80000, 0x1000]),
)  # fmt: skip
def test_nothing_overlaps_and_all_is_in_the_ram(profile, cpus, ram, kernel, initrd, log, offset):
    wanted = request(
        cpus=cpus, ram_size=2 * ram * MIB, kernel_size=kernel, kernel_header=Arm64Header(offset, max(kernel, 24 * MIB), 0),
        initrd_size=initrd, measurement_log=log and "log" in profile.features,
    )  # fmt: skip
    layout = plan_layout(profile, wanted)
    spans = sorted((place.base, place.base + place.size) for place in layout.loads)
    spans += [] if layout.log_area is None else [(layout.log_area.base, layout.log_area.end)]
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert layout.ram.base <= spans[0][0] <= spans[-1][1] <= layout.ram.end
    assert layout.pc == layout.placements[0].base
    assert layout.params.s2sz == 48 if profile is CLOUD_HYPERVISOR else layout.ram.end <= 1 << layout.params.s2sz - 1


def test_a_cloud_hypervisor_realm_gets_what_the_host_has_of_48_bits():
    narrow = HostParameters(ipa_limit=40)
    assert plan_layout("cloud-hypervisor", request(host=narrow)).params.s2sz == 40
    assert plan_layout("cloud-hypervisor", request()).params.s2sz == 48


@pytest.mark.parametrize(
    "changes", [{"measurement_log": True}, {"boot": "firmware", "firmware_size": 1}, {"ram_max": 1 << 40}, {"virtio_mmio": 1}]
)
def test_what_cloud_hypervisor_cannot_do_is_refused(changes):
    with pytest.raises(InvalidDocument):
        plan_layout("cloud-hypervisor", request(**changes))


def test_granules_that_do_not_fit_are_refused():
    plan = plan_measurement(QEMU, request(), RmmVersion.V1_0)
    with pytest.raises(InvalidDocument, match="5 granule digests for 6 granules"):
        calculate(plan, RmmVersion.V1_0, {"kernel": bytes(5 * 32)})
    firmware = plan_measurement(QEMU, request(boot="firmware", firmware_size=10), RmmVersion.V1_0)
    with pytest.raises(InvalidDocument, match="digest of the kernel is missing"):
        calculate(firmware, RmmVersion.V1_0, {"firmware": bytes(32)})
