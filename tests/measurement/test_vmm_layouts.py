"""VMM layouts against every command line of the reference tool that a request can express: device tree and RIM."""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.granules import granule_digests
from kbs_rim.measurement.image import Arm64Header, measure_image
from kbs_rim.measurement.rmm import RecCreate, RimChain, RmmVersion, ripas_entries
from kbs_rim.measurement.vmm import HostParameters, VmLayout, VmRequest, plan_layout

VECTORS = Path(__file__).parent.parent / "vectors" / "vmm"
IMAGES = VECTORS / "images"
PAGE = 4096
MIB, GIB = 1 << 20, 1 << 30

_spec = importlib.util.spec_from_file_location("vmm_command_lines", Path(__file__).with_name("vmm_command_lines.py"))
lines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lines)


def _load() -> tuple[list[dict], dict]:
    documents = [json.loads((VECTORS / name).read_text()) for name in ("vmm-cases-public.json", "vmm-extra-public.json")]
    return [case for document in documents for case in document["cases"]], documents[0]["host_configs"]


CASES, CONFIGS = _load()
OURS = [case for case in CASES if case["vmm"] in ("qemu", "kvmtool") and case["expected"]["exit"] == "success"]


def mapped(case: dict) -> VmRequest | None:
    try:
        return lines.request_of(case, CONFIGS, IMAGES)
    except lines.Unmapped:
        return None


COVERED = [case for case in OURS if "reference_quirk" not in case and mapped(case) is not None]


def rim_of(layout: VmLayout, files: dict[str, bytes]) -> tuple[bytes, list[str]]:
    """Perform the operations of section 2.1 on an RMM 1.0; return the RIM and the operations as the vectors spell them."""
    algorithm, log = layout.params.hash_algorithm, []
    chain = RimChain(RmmVersion.V1_0, layout.params)
    for entry in ripas_entries(layout.ram.base, layout.ram.end, layout.params.s2sz):
        chain.ripas_entry(entry.base, entry.top)
    log.append(f"init_ripas {layout.ram.base:#x} {layout.ram.end:#x}")
    for place in layout.loads:
        data = layout.device_tree if place.role == "device-tree" else files[place.role]
        lead = place.base % PAGE
        digests = granule_digests(data, algorithm, lead)
        chain.data_run(place.base - lead, digests)
        top = place.base - lead + len(digests) // algorithm.digest_size * PAGE
        log.append(f"data_measured {place.base - lead:#x} {top:#x}")
    chain.rec(RecCreate(1, layout.pc, (layout.x0, 0, 0, 0, 0, 0, 0, 0)))
    log.append("rec_create")
    if layout.log_area is not None:
        for ipa in range(layout.log_area.base, layout.log_area.end, PAGE):
            chain.data(ipa, None)
        log.append(f"data_unmeasured {layout.log_area.base:#x} {layout.log_area.end:#x}")
    return chain.value, log


def files_of(case: dict) -> dict[str, bytes]:
    import gzip

    found = {}
    options = lines.read_tool_options(case, CONFIGS, IMAGES).files
    for option, role in (("-k", "kernel"), ("-i", "initrd"), ("-f", "firmware")):
        if option in options:
            data = options[option].read_bytes()
            found[role] = gzip.decompress(data) if role == "kernel" and options[option].suffix == ".gz" else data
    return found


def test_most_command_lines_are_covered():
    total = len(OURS)
    covered = f"{len(COVERED)} of {total} successful QEMU and kvmtool cases are compared"
    print(covered)  # noqa: T201 - the number is the point
    assert len(COVERED) * 10 >= total * 8, covered
    assert {case["vmm"] for case in COVERED} == {"qemu", "kvmtool"}


@pytest.mark.parametrize("case", COVERED, ids=lambda case: case["id"])
def test_a_command_line_gives_the_references_tree_and_rim(case):
    layout = plan_layout(case["vmm"], mapped(case))
    expected = case["expected"]
    rim, operations = rim_of(layout, files_of(case))
    if "dtb_sha256" in expected:
        assert len(layout.device_tree) == expected["dtb_size"]
        assert hashlib.sha256(layout.device_tree).hexdigest() == expected["dtb_sha256"]
    if "rim_operations" in expected:
        assert operations == expected["rim_operations"]
    if "rim_hex" in expected:
        assert rim.hex() == expected["rim_hex"]


@pytest.mark.parametrize("case", COVERED, ids=lambda case: case["id"])
def test_the_tree_says_what_the_layout_does(case):
    """The generated tree, read by the hardened reader, agrees with the layout that it describes."""
    request = mapped(case)
    layout = plan_layout(case["vmm"], request)
    facts = facts_of(parse_device_tree(layout.device_tree), len(layout.device_tree))
    assert facts.memory == (tuple(layout.ram),)
    assert facts.cpus == request.cpus
    assert facts.log_area == (None if layout.log_area is None else tuple(layout.log_area))
    initrd = next((place for place in layout.placements if place.role == "initrd"), None)
    if initrd is not None:
        assert facts.initrd == (initrd.base, initrd.base + initrd.size)
    elif request.boot != "firmware":
        assert facts.initrd is None


@pytest.mark.parametrize("case", [case for case in OURS if "reference_quirk" in case], ids=lambda case: case["id"])
def test_a_bug_of_the_reference_is_not_repeated(case):
    layout = plan_layout(case["vmm"], mapped(case))
    rim, _ = rim_of(layout, files_of(case))
    if "IPA bits" in case["reference_quirk"]:
        assert layout.params.s2sz == case["expected"]["measured_params"]["ipa_bits"] + 1
        assert rim.hex() != case["expected"]["rim_hex"]
        wrong = dataclasses.replace(layout, params=dataclasses.replace(layout.params, s2sz=layout.params.s2sz - 1))
        assert rim_of(wrong, files_of(case))[0].hex() == case["expected"]["rim_hex"]
    else:
        assert "two network devices" in case["reference_quirk"]
        right = dataclasses.replace(mapped(case), virtio_mmio=1)
        assert rim_of(plan_layout("kvmtool", right), {})[0].hex() != case["expected"]["rim_hex"]
        assert rim.hex() == case["expected"]["rim_hex"]


# Rules of their own ------------------------------------------------------------------------------------------------------

HOST = HostParameters()
KERNEL = Arm64Header(text_offset=0, image_size=48 * MIB, flags=0xA)


def request(**changes) -> VmRequest:
    return VmRequest(
        **{"cpus": 1, "ram_size": 512 * MIB, "boot": "kernel", "kernel_size": 40 * MIB, "kernel_header": KERNEL, "host": HOST} | changes
    )


def test_the_published_trees_of_section_3():
    kvmtool = plan_layout("kvmtool", request(boot="none", kernel_size=None, kernel_header=None))
    assert hashlib.sha256(kvmtool.device_tree).hexdigest() == "ab6b78f0244b8a346ed9eb8e8b7560c59cd8f93a4a9f0a1cfbb7fcd1ed3a9c13"
    qemu = plan_layout("qemu", request(boot="none", kernel_size=None, kernel_header=None, ram_size=128 * MIB))
    assert len(qemu.device_tree) == 6740
    assert hashlib.sha256(qemu.device_tree).hexdigest() == "1ec14ed1af3f3cfb61789e49d019dd83653e30ac068945aa54afd884cbd25491"


@pytest.mark.parametrize(
    ("ram", "more", "bits", "high", "config", "memory"),
    [
        (255 * GIB, {}, 41, 0x4000000000, 0x4010000000, 0x8000000000),
        (MIB, {"ram_max": 1 << 40}, 42, 0x10080000000, 0x10090000000, 0x18000000000),
        (MIB, {"ram_max": 1 << 48, "hotplug_slots": 12}, 50, 0x1000380000000, 0x1000390000000, 0x1008000000000),
    ],
)
def test_qemu_high_regions(ram, more, bits, high, config, memory):
    plain = request(ram_size=ram, boot="none", kernel_size=None, kernel_header=None, cpus=124, **more)
    if ram == MIB:
        plain = dataclasses.replace(plain, boot="firmware", firmware_size=MIB)
    layout = plan_layout("qemu", plain)
    tree = parse_device_tree(layout.device_tree).root
    pcie, gic = tree.child("pcie@10000000"), tree.child("intc@8000000")
    assert layout.params.s2sz == bits
    assert pcie.properties["reg"] == config.to_bytes(8, "big") + (1 << 28).to_bytes(8, "big")
    assert memory.to_bytes(8, "big") in pcie.properties["ranges"]
    assert gic.properties["reg"].endswith(high.to_bytes(8, "big") + (1 << 26).to_bytes(8, "big"))


@pytest.mark.parametrize(("ram", "bits"), [(2 * MIB * 32, 33), (2 * GIB, 33), (2 * GIB + 2 * MIB, 34), (6 * GIB, 34), (8 * GIB, 35)])
def test_kvmtool_has_ipa_bits_for_all_of_its_ram(ram, bits):
    """Section 8.2: RAM must lie in the protected half [0, 2**(bits-1))."""
    layout = plan_layout("kvmtool", request(ram_size=ram, boot="none", kernel_size=None, kernel_header=None))
    assert layout.params.s2sz == bits
    assert layout.ram.end <= 1 << (bits - 1)


@pytest.mark.parametrize("size", [0x5022C00, 10001, 1, 4092, 4096])
@pytest.mark.parametrize("log", [False, True])
def test_kvmtool_puts_the_initrd_as_the_registry_expects(size, log):
    layout = plan_layout("kvmtool", request(initrd_size=size, measurement_log=log, ram_size=GIB))
    initrd = next(place for place in layout.placements if place.role == "initrd")
    assert layout.device_tree_base == 0x8FE00000
    assert initrd.base == (0x8FE00000 - (size + 4) + 3) // 4 * 4
    measured = measure_image(b"x" * 5000)
    lead = (0x8FE00000 - 5004) % PAGE
    assert measured.granules_at(0x8FE00000 - 5004, HashAlgorithm.SHA256) == granule_digests(b"x" * 5000, HashAlgorithm.SHA256, lead)


@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
def test_the_entry_point_is_the_kernel_with_its_text_offset(vmm):
    layout = plan_layout(vmm, request(kernel_header=Arm64Header(0x80000, 48 * MIB, 0)))
    kernel = next(place for place in layout.placements if place.role == "kernel")
    assert layout.pc == kernel.base == layout.ram.base + 0x80000
    assert layout.x0 == layout.device_tree_base


def test_qemu_firmware_boot():
    layout = plan_layout("qemu", request(boot="firmware", firmware_size=2 * MIB, measurement_log=True))
    assert layout.placements == (("firmware", 0, 2 * MIB),)
    assert (layout.pc, layout.x0, layout.device_tree_base) == (0, 0, 0x40000000)
    assert layout.log_area == (0x40100000, 0x10000)


def test_a_kvmtool_pmu_is_there_only_if_asked_for():
    host = HostParameters(pmu_num_ctrs=6)
    without, with_pmu = plan_layout("kvmtool", request(host=host)), plan_layout("kvmtool", request(host=host, pmu=True))
    assert (without.params.flags, without.params.pmu_num_ctrs) == (0, 0)
    assert (with_pmu.params.flags, with_pmu.params.pmu_num_ctrs) == (4, 6)
    assert parse_device_tree(without.device_tree).root.child("pmu") is None
    assert parse_device_tree(with_pmu.device_tree).root.child("pmu") is not None


@pytest.mark.parametrize(
    ("vmm", "changes", "word"),
    [
        ("qemu", {"cpus": 0}, "cpus"),
        ("qemu", {"cpus": 513}, "cpus"),
        ("qemu", {"ram_size": 1 << 60}, "ram_size"),
        ("qemu", {"ram_max": MIB}, "ram_max"),
        ("qemu", {"bootargs": "a\0b"}, "NUL"),
        ("qemu", {"kernel_header": None}, "Image header"),
        ("qemu", {"kernel_size": None, "kernel_header": None}, "kernel boot needs a kernel"),
        ("qemu", {"boot": "firmware"}, "firmware boot needs a firmware"),
        ("qemu", {"boot": "firmware", "firmware_size": 129 * MIB}, "firmware has at most"),
        ("qemu", {"boot": "none", "kernel_size": None, "kernel_header": None, "initrd_size": 1}, "only with a kernel"),
        ("qemu", {"virtio_mmio": 1}, "kvmtool"),
        ("qemu", {"host": HostParameters(ipa_limit=40)}, "needs 41 IPA bits"),
        ("qemu", {"initrd_size": 400 * MIB}, "does not fit into the RAM"),
        ("qemu", {"ram_size": 64 * MIB, "kernel_header": Arm64Header(0, 0, 0), "initrd_size": 1}, "overlap"),
        ("kvmtool", {"ram_size": 512 * MIB + PAGE}, "steps"),
        ("kvmtool", {"ram_max": GIB}, "hotplug"),
        ("kvmtool", {"initrd_size": 230 * MIB}, "overlap"),
        ("kvmtool", {"boot": "none", "kernel_size": None, "kernel_header": None, "initrd_size": 300 * MIB}, "does not fit into the RAM"),
        ("kvmtool", {"boot": "firmware", "firmware_size": MIB}, "overlap"),
        ("kvmtool", {"boot": "firmware", "firmware_size": MIB, "firmware_base": 0}, "does not fit into the RAM"),
        ("qemu", {"bootargs": "x" * 2048}, "bootargs"),
    ],
)  # fmt: skip
def test_a_vm_that_cannot_be_is_refused(vmm, changes, word):
    with pytest.raises(InvalidDocument, match=word) as refused:
        plan_layout(vmm, request(**changes))
    assert refused.value.finding_id == "document.vm"


@pytest.mark.parametrize(
    "change", [{"num_bps": 1}, {"num_wps": 65}, {"sve_vl": 100}, {"sve_vl": 4096}, {"pmu_num_ctrs": 32}, {"ipa_limit": 31}]
)
def test_a_host_that_cannot_be_is_refused(change):
    with pytest.raises(InvalidDocument):
        HostParameters(**change)


def test_the_largest_kvmtool_tree_fits_its_area():
    """kvmtool gives the tree 64 KiB; within the limits of a request it never needs more."""
    largest = request(cpus=512, virtio_mmio=64, bootargs="x" * 2047, measurement_log=True, pmu=True, initrd_size=MIB)
    tree = parse_device_tree(plan_layout("kvmtool", largest).device_tree)
    assert 50_000 < tree.total_size <= 65536
