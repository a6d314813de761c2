"""RIMs that the reference tool computed, found by definitions that leave open what hosts and sizes may be; random spaces."""

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.appraisal.definition_search import DefinitionSearch, SignedRealm
from kbs_rim.appraisal.definition_space import choices_of
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.replay_rules import allowed_dialects
from kbs_rim.appraisal.workload import Role, parse_workload, workload_document
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ReplayWork

VECTORS = Path(__file__).parent.parent / "vectors" / "vmm"
IMAGES = VECTORS / "images"
PACKS = {"qemu": "qemu-virt", "kvmtool": "kvmtool"}
MIB = 1 << 20

_spec = importlib.util.spec_from_file_location("vmm_lines", Path(__file__).parent.parent / "measurement" / "vmm_command_lines.py")
lines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lines)


def _load() -> tuple[list[dict], dict]:
    documents = [json.loads((VECTORS / name).read_text()) for name in ("vmm-cases-public.json", "vmm-extra-public.json")]
    return [case for document in documents for case in document["cases"]], documents[0]["host_configs"]


CASES, CONFIGS = _load()


def request_of(case: dict):
    """What the command line asks for; None if a definition cannot say it."""
    try:
        request = lines.request_of(case, CONFIGS, IMAGES)
    except lines.Unmapped:
        return None
    return None if request.boot == "none" or request.kernel_size == 0 else request


SUCCESSFUL = [case for case in CASES if case["vmm"] in PACKS and case["expected"]["exit"] == "success" and "rim_hex" in case["expected"]]
COVERED = [case for case in SUCCESSFUL if "reference_quirk" not in case and request_of(case) is not None]


def images_of(case: dict) -> dict[str, RegisteredImage]:
    files = lines.read_tool_options(case, CONFIGS, IMAGES).files
    found = {}
    for option, role in (("-k", "kernel"), ("-i", "initrd"), ("-f", "firmware")):
        if option in files:
            image = measure_image(files[option].read_bytes())
            found[role] = RegisteredImage(image.image_id, role, (Role(role),), ImageState.ACTIVE, image)
    return found


def workload_of(case: dict, images: dict[str, RegisteredImage]):
    """A workload whose definition knows the images, the command line and the devices, and neither the host nor the size of the VM."""
    request, vmm = request_of(case), case["vmm"]
    firmware = request.boot == "firmware"
    handed = vmm == "qemu" and firmware
    loaded = [role for role in images if not (handed and role != "firmware") and getattr(request, f"{role}_size") is not None]
    host = request.host
    definition = {
        "vmm": vmm,
        "without_log": True,
        "cpus": sorted({1, 3, request.cpus}),
        "ram": sorted({256 * MIB, request.ram_size}),
        "bootargs": [] if request.bootargs is None else [request.bootargs],
        "breakpoints": [host.num_bps],
        "watchpoints": [host.num_wps],
        "pmu_counters": list(dict.fromkeys(["off", host.pmu_num_ctrs])),
        "sve_vector_bits": list(dict.fromkeys(["off", 512, host.sve_vl or 128])),
        "measurement_log": "either",
        "its": "on" if request.its else "off",
        "ram_max": request.ram_max or 0,
        "hotplug_slots": request.hotplug_slots,
        "virtio_mmio": request.virtio_mmio,
        "lpa2": "on" if host.lpa2 else "off",
        "max_candidates": 4096,
    }
    for role in ("kernel", "initrd") if handed else ():
        if getattr(request, f"{role}_size") is not None:
            definition[f"fw_cfg_{role}"] = images[role].id
    return parse_workload({
        "name": "vector",
        "entry": {"role": request.boot},
        "images": [{"role": role, "images": [images[role].id]} for role in loaded],
        "memory": {"base": 0, "size": {"min": 0, "max": 1 << 48}},
        "device_tree": {"mode": "rules", "pack": PACKS[vmm]},
        "parameters": {"ipa_bits": {"min": 32, "max": 52}},
        "definition": definition,
    })  # fmt: skip


def search(workload, images: ImageSet, rim: bytes, algorithm: HashAlgorithm, limits: Limits = DEFAULT_LIMITS):
    realm = SignedRealm(rim=rim, algorithm=algorithm, platform=b"machine", vouched_for=True)
    found = DefinitionSearch(realm, images, ReplayWork(limits.replay_granules), limits, permits=None, at=0)
    return found.find(workload, 1, allowed_dialects(workload))


def test_most_command_lines_are_covered():
    assert len(COVERED) * 10 >= len(SUCCESSFUL) * 7, f"{len(COVERED)} of {len(SUCCESSFUL)}"
    assert {case["vmm"] for case in COVERED} == {"qemu", "kvmtool"}


@pytest.mark.parametrize("case", COVERED, ids=lambda case: case["id"])
def test_the_rim_of_a_command_line_is_found(case):
    images, request = images_of(case), request_of(case)
    workload = workload_of(case, images)
    outcome = search(workload, ImageSet(images.values()), bytes.fromhex(case["expected"]["rim_hex"]), request.host.hash_algorithm)
    assert outcome.boot is not None, outcome.findings
    vm = outcome.facts["vm"]
    assert (vm["cpus"], vm["ram"], vm["sve_bits"]) == (request.cpus, request.ram_size, request.host.sve_vl)
    assert vm["pmu_counters"] == (request.host.pmu_num_ctrs if request.pmu else None)
    assert vm["measurement_log"] == request.measurement_log


# --- spaces -----------------------------------------------------------------------------------------------------------------

IMAGE = f"sha256:{'ab' * 32}"
BASE = {
    "name": "web",
    "images": [{"role": "kernel", "images": [IMAGE]}],
    "memory": {"base": 0, "size": {"min": 0, "max": 1 << 48}},
    "device_tree": {"mode": "rules", "pack": "qemu-virt"},
    "parameters": {"ipa_bits": {"min": 32, "max": 52}},
}
LEAST = {"vmm": "qemu", "cpus": [1], "ram": [256 * MIB], "breakpoints": [2], "watchpoints": [2]}
SWITCH = st.sampled_from(["off", "on", "either"])
FEW = st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True)


@settings(max_examples=60, deadline=None)
@given(
    cpus=FEW,
    ram=FEW,
    sve=st.lists(st.sampled_from(["off", 128, 512]), min_size=1, max_size=3),
    pmu=st.lists(st.sampled_from(["off", 0, 6]), min_size=1, max_size=3),
    lpa2=SWITCH,
    log=SWITCH,
    bootargs=st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
)
def test_a_space_has_as_many_vms_as_was_computed_and_each_once(cpus, ram, sve, pmu, lpa2, log, bootargs):
    definition = {
        **LEAST,
        "cpus": cpus,
        "ram": [size * MIB for size in ram],
        "sve_vector_bits": sve,
        "pmu_counters": pmu,
        "lpa2": lpa2,
        "measurement_log": log,
        "bootargs": bootargs,
        "max_candidates": 4096,
    }
    workload = parse_workload({**BASE, "definition": definition})
    choices = choices_of(workload, workload.definition)
    assert len(choices) == len(set(choices)) == workload.definition.size(1, 0)
    first = choices[0]
    assert (first.cpus, first.ram, first.bootargs) == (cpus[0], ram[0] * MIB, (bootargs or [None])[0])
    assert choices == choices_of(parse_workload(workload_document(workload)), workload.definition), "stored and read again it is the same"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cpus": ["1-16"], "ram": ["0x10000000-0x2000000000/0x10000000"]}, "8192 VMs are more than max_candidates = 256"),
        ({"cpus": ["1-512"], "ram": ["1-0xffffffffffffffff"]}, "has more than 4096 numbers"),
        ({"max_candidates": 4097}, "max_candidates"),
        ({"cpus": ["16-1"]}, "ends before it begins"),
        ({"cpus": ["1-4/0"]}, "is no range"),
        ({"cpus": []}, "cpus"),
        ({"cpus": [513]}, "cpus"),
        ({"cpus": ["1-18446744073709551616"]}, "beyond 64 bits"),
        ({"sve_vector_bits": [100]}, "multiples of 128"),
        ({"pmu_counters": [32]}, "pmu_counters"),
        ({"breakpoints": [0]}, "breakpoints"),
        ({"ipa_bits": [60]}, "ipa_bits"),
        ({"profiles": ["kvmtool"]}, "profiles of qemu are"),
        ({"device_trees": ["registered"]}, "images has no device tree"),
        ({"device_trees": ["qemu-6.0"]}, "device_trees of qemu are"),
        ({"host_caches": [64]}, "six numbers"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_attack_a_definition_that_explodes_or_means_nothing_is_refused(changes, said):
    with pytest.raises(InvalidDocument) as refused:
        parse_workload({**BASE, "definition": {**LEAST, **changes}})
    assert said in refused.value.message


def test_generated_trees_need_rules_to_judge_them():
    document = {**BASE, "images": [*BASE["images"], {"role": "device-tree", "images": [IMAGE]}], "device_tree": {}}
    with pytest.raises(InvalidDocument, match=r'needs device_tree\.mode = "rules"'):
        parse_workload({**document, "definition": LEAST})
    assert parse_workload({**document, "definition": {**LEAST, "device_trees": ["registered"]}})


def test_what_the_workload_forbids_cannot_be_defined():
    for changes, said in (
        ({"device_tree": {**BASE["device_tree"], "cpus": {"min": 2, "max": 4}}}, "definition.cpus"),
        ({"memory": {"base": 0, "size": {"min": 0, "max": MIB}}}, "definition.ram"),
        ({"parameters": {"breakpoints": {"min": 4, "max": 4}}}, "definition.breakpoints"),
    ):
        with pytest.raises(InvalidDocument, match=said):
            parse_workload({**BASE, **changes, "definition": LEAST})
