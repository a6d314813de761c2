"""Whole realms that a clever host could build from the owner's own images, and honest ones that must not be caught by the same rules.

Each attack was allowed once. The host performs it on the modelled RMM and logs truthfully, so that the RIM always matches.
"""

import gzip
from dataclasses import replace

import pytest
from stage import FIRMWARE, INITRD, KERNEL, KVMTOOL_KERNEL, QEMU_FIRMWARE, QEMU_KERNEL, Stage, Vm, VmFiles, error_ids

from kbs_rim.appraisal.findings import Severity
from kbs_rim.appraisal.replay_rules import parameters_to_try
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.measurement.device_tree import Node, parse_device_tree
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm import HostParameters
from kbs_rim.realm.host_script import HostHabits, HostScript, honest_log
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import SimulatedRealm, write_log
from kbs_rim.realm.vm_builder import LOG_STYLES, VmDefinition

MIB = 1 << 20
PAGE = 4096
RAM = 0x40000000


def image(text_offset: int = 0, image_size: int = 0x20000, size: int = 40_000) -> bytes:
    """The stage's kernel with another header."""
    return KERNEL[:8] + text_offset.to_bytes(8, "little") + image_size.to_bytes(8, "little") + KERNEL[24:size]


def moved(script: HostScript, **bases: int) -> HostScript:
    """Load images elsewhere, and start where the first of them that runs has gone."""
    loads = tuple(replace(load, base=bases.get(load.name, load.base)) for load in script.loads)
    entry = next((load.base for load in loads if load.name in ("KERNEL", "FIRMWARE") and load.name in bases), script.recs[0].pc)
    return replace(script, loads=loads, recs=(replace(script.recs[0], pc=entry), *script.recs[1:]))


def assert_refused_by_the_boot_plan_alone(stage: Stage, script: HostScript, *findings: str) -> None:
    for generation in RmmGeneration:
        verdict = stage.judge(script=script, generation=generation)
        assert error_ids(verdict) == set(findings)
        assert not verdict.allowed


# Attacks: places


def test_attack_log_area_in_the_kernels_bss() -> None:
    """A kernel with text_offset fits between kvmtool's tree and log so that memory it takes for its own is the host's."""
    stage = Stage(Vm("kvmtool", "kernel", VmFiles(kernel=image(0x80000, 0x180000), initrd=INITRD), 512 * MIB))
    area = stage.vm.script.log_area
    base = stage.vm.script.load("DTB").base + 0x80000
    assert base + 40_000 < area.base < base + 0x180000 - PAGE
    assert_refused_by_the_boot_plan_alone(stage, moved(stage.vm.script, KERNEL=base), "boot.kernel-header")


def test_attack_firmware_off_its_page() -> None:
    """Code addresses its data by page and offset: a few bytes aside, every address that it computes is another one."""
    stage = Stage(Vm("kvmtool", "firmware", VmFiles(firmware=FIRMWARE)))
    assert stage.judge().allowed
    base = stage.vm.script.ram[0] + MIB - (len(FIRMWARE) + 4 & ~3)
    assert base % PAGE
    assert_refused_by_the_boot_plan_alone(stage, moved(stage.vm.script, FIRMWARE=base), "boot.alignment")


def test_attack_device_tree_where_the_firmware_does_not_look() -> None:
    """QEMU's firmware gets no x0: it takes what lies at the start of RAM for its tree."""
    stage = Stage(QEMU_FIRMWARE)
    assert_refused_by_the_boot_plan_alone(stage, moved(stage.vm.script, DTB=RAM + 4 * MIB), "boot.address")


def test_a_window_may_say_where_firmware_looks_for_its_tree() -> None:
    rules = QEMU_FIRMWARE.workload_document("web")["images"]
    rules = [
        {**rule, "addresses": [{"min": RAM + 4 * MIB, "max": RAM + 4 * MIB}]} if rule["role"] == "device-tree" else rule for rule in rules
    ]
    stage = Stage(QEMU_FIRMWARE, changes={"images": rules})
    assert stage.judge(script=moved(stage.vm.script, DTB=RAM + 4 * MIB)).allowed
    assert error_ids(stage.judge()) == {"boot.address"}


@pytest.mark.parametrize("base", [0, RAM + 256 * MIB - PAGE, RAM + 256 * MIB])
def test_attack_firmware_across_the_end_of_ram(base: int) -> None:
    """A window lets firmware lie outside RAM, not half outside: the other half would be nothing, or a device."""
    rules = [{**rule, "addresses": [{"min": 0, "max": 1 << 40}]} for rule in QEMU_FIRMWARE.workload_document("web")["images"]]
    stage = Stage(QEMU_FIRMWARE, changes={"images": rules})
    script = moved(stage.vm.script, FIRMWARE=base)
    if base in (0, RAM + 256 * MIB):
        assert stage.judge(script=script).allowed
    else:
        assert_refused_by_the_boot_plan_alone(stage, script, "boot.outside-ram")


@pytest.mark.parametrize("name", ["KERNEL", "INITRD", "DTB"])
def test_attack_window_of_an_address_does_not_excuse_leaving_ram(name: str) -> None:
    """Linux drops an initrd that it cannot reach and boots on without it."""
    rules = [{**rule, "addresses": [{"min": 0, "max": 1 << 40}]} for rule in QEMU_KERNEL.workload_document("web")["images"]]
    stage = Stage(QEMU_KERNEL, changes={"images": rules})
    assert stage.judge().allowed
    script = moved(stage.vm.script, **{name: RAM + 512 * MIB})
    if name == "DTB":
        script = replace(script, recs=(replace(script.recs[0], gprs=(RAM + 512 * MIB, *[0] * 7)), *script.recs[1:]))
    assert "boot.outside-ram" in error_ids(stage.judge(script=script))


def test_attack_initrd_that_a_tree_names_is_the_log_area() -> None:
    """Firmware ignores the range, but hands the tree to a kernel that does not."""
    honest = QEMU_FIRMWARE.script
    area = honest.log_area
    tree = write_device_tree(_with_initrd(bytes(honest.load("DTB").data), area.base + PAGE, area.base + 2 * PAGE))
    stage = Stage(Vm("qemu", "firmware", VmFiles(firmware=FIRMWARE, device_tree=tree)))
    assert error_ids(stage.judge()) == {"tree.initrd"}
    elsewhere = write_device_tree(_with_initrd(bytes(honest.load("DTB").data), RAM + 64 * MIB, RAM + 65 * MIB))
    verdict = Stage(Vm("qemu", "firmware", VmFiles(firmware=FIRMWARE, device_tree=elsewhere))).judge()
    assert verdict.allowed
    assert "tree.initrd" in {finding.id for finding in verdict.findings if finding.severity is Severity.WARNING}


def _with_initrd(tree: bytes, start: int, end: int) -> Node:
    root = parse_device_tree(tree).root
    chosen = root.child("chosen") or Node("chosen")
    named = replace(chosen, properties={**chosen.properties, "linux,initrd-start": cells64(start), "linux,initrd-end": cells64(end)})
    return replace(root, children=(named, *(child for child in root.children if child.name != "chosen")))


# What a firmware boot does not prove


def test_firmware_that_measured_nothing_leaves_a_warning() -> None:
    """The RIM covers the firmware alone. With REMs of zeros nobody knows what it started; the record must not look complete."""
    verdict = Stage(QEMU_FIRMWARE).judge()
    assert verdict.allowed
    assert [finding.id for finding in verdict.findings if finding.severity is Severity.WARNING] == ["rem.nothing-measured"]


def test_firmware_that_measures_leaves_none() -> None:
    value = HashAlgorithm.SHA256.digest(bytes(32) + b"version".ljust(32, b"\0")).hex()
    stage = Stage(QEMU_FIRMWARE, changes={"realm": {"rems": [[value], "zero", "zero", "zero"]}})
    verdict = stage.judge(extends=((1, b"version".ljust(32, b"\0")),))
    assert verdict.allowed
    assert not [finding for finding in verdict.findings if finding.severity is Severity.WARNING]


def test_a_kernel_boot_has_no_such_gap() -> None:
    assert not [finding for finding in Stage().judge().findings if finding.severity is Severity.WARNING]


# Honest realms


class Ordered(Vm):
    """A VM with options that the stage's own do not have."""

    def __init__(self, vmm: str, boot: str, files: VmFiles, memory: int = 256 * MIB, **order: object) -> None:
        super().__init__(vmm, boot, files, memory)
        object.__setattr__(self, "order", order)

    @property
    def definition(self) -> VmDefinition:
        return replace(super().definition, **self.order)


FILES = VmFiles(kernel=KERNEL, initrd=INITRD)
HONEST = {
    "kernel with text_offset": (lambda vmm: Vm(vmm, "kernel", VmFiles(kernel=image(0x80000), initrd=INITRD)), {}, {}),
    "kernel that does not say how much memory it needs": (
        lambda vmm: Vm(vmm, "kernel", VmFiles(kernel=image(0x80000, 0), initrd=INITRD)), {}, {},
    ),
    "kernel without initrd": (lambda vmm: Vm(vmm, "kernel", VmFiles(kernel=KERNEL)), {}, {}),
    "gzip'd kernel": (lambda vmm: Vm(vmm, "kernel", VmFiles(kernel=gzip.compress(KERNEL), initrd=INITRD)), {}, {}),
    "firmware": (lambda vmm: Vm(vmm, "firmware", VmFiles(firmware=FIRMWARE)), {}, {}),
    "LPA2 host": (lambda vmm: Ordered(vmm, "kernel", FILES, host=HostParameters(lpa2=True)), {"parameters": {"lpa2": True}}, {}),
    "SHA-384": (
        lambda vmm: Ordered(vmm, "kernel", FILES, host=HostParameters(hash_algorithm=HashAlgorithm.SHA384)), {},
        {"generation": RmmGeneration.V2},
    ),
    "SVE and PMU": (
        lambda vmm: Ordered(vmm, "kernel", FILES, pmu=True, host=HostParameters(pmu_num_ctrs=6, sve_vl=512)),
        {"parameters": {"sve": True, "pmu": True}}, {},
    ),
    "64 CPUs that wait": (lambda vmm: Ordered(vmm, "kernel", FILES, cpus=64), {}, {}),
    "private memory key": (lambda vmm: Ordered(vmm, "kernel", FILES, memory_private=True), {}, {"generation": RmmGeneration.V2}),
    "16 GiB": (lambda vmm: Vm(vmm, "kernel", FILES, 16 << 30), {}, {}),
    "64 MiB": (lambda vmm: Vm(vmm, "kernel", FILES, 64 * MIB), {}, {}),
    "log before vCPUs": (lambda vmm: Vm(vmm, "kernel", FILES), {}, {"habits": HostHabits(log_before_recs=True)}),
    "older kvmtool's descriptions": (lambda vmm: Vm(vmm, "kernel", FILES), {}, {"log_style": LOG_STYLES["kvmtool-old"]}),
}  # fmt: skip


@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
@pytest.mark.parametrize("case", HONEST)
def test_an_honest_realm_is_allowed(vmm: str, case: str) -> None:
    make, changes, simulated = HONEST[case]
    verdict = Stage(make(vmm), changes={"vmm": [], **changes}).judge(**simulated)
    assert error_ids(verdict) == set()
    assert verdict.allowed


@pytest.mark.parametrize("boot", ["kernel", "firmware"])
@pytest.mark.parametrize("page", [16384, 65536])
@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
def test_hosts_with_larger_pages_are_allowed(vmm: str, page: int, boot: str) -> None:
    vm = Vm(vmm, boot, FILES if boot == "kernel" else VmFiles(firmware=FIRMWARE))
    stage = Stage(vm, changes={"rmm": {"roundings": [page]}})
    for generation in RmmGeneration:
        assert stage.judge(habits=HostHabits(page_size=page), generation=generation).allowed


@pytest.mark.parametrize("size", [1, 4, 4091, 4092, 4093, 4096, 4097])
def test_kvmtools_initrd_of_any_size_is_allowed(size: int) -> None:
    assert Stage(Vm("kvmtool", "kernel", VmFiles(kernel=KERNEL, initrd=b"i" * size))).judge().allowed


def test_memory_of_several_numa_nodes_is_one_range() -> None:
    """QEMU writes one memory node for each NUMA node, the last one first."""
    root = parse_device_tree(bytes(QEMU_KERNEL.script.load("DTB").data)).root
    base, size = QEMU_KERNEL.script.ram
    halves = [
        Node(f"memory@{start:x}", {"device_type": text("memory"), "reg": cells64(start, size // 2)}) for start in (base + size // 2, base)
    ]
    others = tuple(child for child in root.children if child.base_name != "memory")
    tree = write_device_tree(replace(root, children=(*halves, *others)))
    vm = Vm("qemu", "kernel", replace(QEMU_KERNEL.files, device_tree=tree))
    assert Stage(vm).judge().allowed
    gap = write_device_tree(replace(root, children=(halves[1], *others)))
    assert error_ids(Stage(Vm("qemu", "kernel", replace(QEMU_KERNEL.files, device_tree=gap))).judge()) == {"tree.memory"}


def test_qemus_tree_of_a_mebibyte_is_allowed() -> None:
    tree = bytes(QEMU_KERNEL.script.load("DTB").data)
    padded = tree[:4] + (1 << 20).to_bytes(4, "big") + tree[8:].ljust((1 << 20) - 8, b"\0")
    assert Stage(Vm("qemu", "kernel", replace(QEMU_KERNEL.files, device_tree=padded))).judge().allowed


# Logs that do not say what the host's kernel did


def evidence_with(stage: Stage, script: HostScript, **logged: int) -> Evidence:
    """What ``script`` gives, with other realm parameters in its log."""
    simulation = stage.simulation(script=script)
    told = replace(script, params=replace(script.params, **logged))
    log = write_log(honest_log(told, simulation.habits), simulation, 65536)
    return Evidence(SimulatedRealm(simulation).token(stage.challenge), ((LogKind.VMM, log),))


def with_params(script: HostScript, **params: int) -> HostScript:
    return replace(script, params=replace(script.params, **params))


def test_lpa2_that_the_kernel_set_and_no_vmm_logs() -> None:
    script = with_params(QEMU_KERNEL.script, flags=1)
    stage = Stage(changes={"parameters": {"lpa2": True}})
    assert stage.judge(evidence_with(stage, script, flags=0)).allowed
    assert stage.judge(evidence_with(stage, script)).allowed
    assert stage.judge().allowed, "allowed is not demanded"
    strict = Stage()
    assert error_ids(strict.judge(evidence_with(strict, script, flags=0))) == {"rim.mismatch"}
    assert error_ids(strict.judge(evidence_with(strict, script))) == {"boot.flags"}


def test_breakpoints_of_the_host_where_kvmtool_logs_fixed_numbers() -> None:
    script = with_params(KVMTOOL_KERNEL.script, num_bps=15, num_wps=7)
    exact = {"breakpoints": {"min": 16, "max": 16}, "watchpoints": {"min": 8, "max": 8}}
    stage = Stage(KVMTOOL_KERNEL, changes={"parameters": exact})
    verdict = stage.judge(evidence_with(stage, script, num_bps=5, num_wps=3))
    assert verdict.allowed
    loose = Stage(KVMTOOL_KERNEL)
    assert error_ids(loose.judge(evidence_with(loose, script, num_bps=5, num_wps=3))) == {"rim.mismatch"}


def test_attack_parameters_that_match_are_judged_not_those_that_the_log_says() -> None:
    """The log says what the workload wants, the realm has something else: no variant that is tried may excuse that."""
    exact = {"breakpoints": {"min": 16, "max": 16}}
    stage = Stage(changes={"parameters": exact})
    assert error_ids(stage.judge(evidence_with(stage, with_params(QEMU_KERNEL.script, num_bps=5), num_bps=15))) == {"rim.mismatch"}
    assert error_ids(stage.judge(evidence_with(stage, with_params(QEMU_KERNEL.script, num_bps=5)))) == {"boot.parameters"}
    assert stage.judge(evidence_with(stage, with_params(QEMU_KERNEL.script, num_bps=15), num_bps=5)).allowed


@pytest.mark.parametrize("count", [0, 1, 65, 300, 1 << 63])
def test_exact_number_that_no_rmm_has_is_never_tried(count: int) -> None:
    stage = Stage(changes={"parameters": {"breakpoints": {"min": count, "max": count}, "lpa2": True}})
    assert error_ids(stage.judge()) == {"boot.parameters"}
    tried = parameters_to_try(RealmCreate(HashAlgorithm.SHA256, 0, 40, pmu_num_ctrs=6), stage.workload.parameters)
    assert len(tried) == 4
    assert {params.num_bps for params in tried} == {0}


def test_at_most_eight_parameters_are_tried_as_logged_first() -> None:
    rules = Stage(changes={"parameters": {"breakpoints": {"min": 9, "max": 9}, "lpa2": True}}).workload.parameters
    logged = RealmCreate(HashAlgorithm.SHA256, 0, 40, num_bps=5, num_wps=3, pmu_num_ctrs=6)
    tried = parameters_to_try(logged, rules)
    assert tried[0] == logged
    assert len(set(tried)) == len(tried) == 8
    assert {(params.s2sz, params.hash_algorithm, params.sve_vl) for params in tried} == {(40, HashAlgorithm.SHA256, 0)}
    assert parameters_to_try(replace(logged, pmu_num_ctrs=0), Stage().workload.parameters) == (replace(logged, pmu_num_ctrs=0),)
