"""Two readers of QEMU's command line, for what is measured and for the tree that QEMU makes itself, mean the same by it."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.vmm.definition import VmDefinition
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
from kbs_rim.measurement.vmm.layout import plan_layout
from kbs_rim.measurement.vmm.profile import refuse
from kbs_rim.measurement.vmm.qemu_arguments import parse_qemu_arguments
from kbs_rim.measurement.vmm.request import ImageSize, boot_of, effective_host, request_of
from kbs_rim.measurement.vmm.shipped_profiles import QEMU
from kbs_rim.measurement.vmm.stock_qemu_arguments import StockArguments, read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches, qemu_version
from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice, read_stock_realm, stock_realm_tree
from kbs_rim.measurement.vmm.stock_qemu_request import StockQemu
from tests.measurement.qemu_words import draw
from tests.rounds import rounds

MIB = 1 << 20
HOST = HostCapabilities(ipa_bits=52, num_bps=6, num_wps=6, pmu_num_ctrs=6, sve_vl=512, pmu=True)
HEADER = Arm64Header(text_offset=0, image_size=20 * MIB, flags=10)
IMAGES = {"kernel": ImageSize(3 * MIB, HEADER), "initrd": ImageSize(5000), "firmware": ImageSize(2 * MIB)}
CACHES = CpuCaches(64, 65536, 256, 64, 65536, 256)
LIBVIRT = json.loads((Path(__file__).parent.parent / "vectors" / "images" / "libvirt-argv.json").read_text())["cases"]

ONLY_WITHOUT_THE_TREE = re.compile(
    r"-append: QEMU wants|-initrd: (?:QEMU wants|it does not fit)|-object size|-device \S+: (?:what it adds|write where|on the root)|"
    r"-global|-(?:machine |M )?dtb:|-incoming|-loadvm|-accel|"
    r"-cpu (?:aarch64|lpa2)|-cpu: (?:with KVM|is missing)|-numa|-m: from|-m slots: QEMU wants"
)
"""What only the reader for the tree refuses: QEMU itself would, the tree is another one, or what it adds to the tree is not known."""
ONLY_FOR_THE_TREE = re.compile(
    r"-object rme-guest bogus|-pflash|-drive: firmware|-(?:machine|M) pflash0|-smp: CPU hotplug|-(?:machine|M) gic-version|"
    r"-(?:machine|M) (?:compact-)?highmem|-(?:machine|M) (?:secure|its)|-device loader: what it loads"
)
"""What only the reader for the measurement refuses: no realm is like that, or where such a one would lie is not known."""


def read_both(words: list[str]) -> tuple[VmDefinition | str, tuple[StockArguments, StockQemu] | str]:
    measured: VmDefinition | str
    try:
        measured = parse_qemu_arguments(words)
    except InvalidDocument as error:
        measured = str(error)
    try:
        read = read_stock_arguments(words)
        asked = replace(read, realm=True, kvm=True, pmu=True, cpu=read.cpu or "host")
        files = BootFiles(kernel=HEADER, initrd_size=5000)
        return measured, (read, stock_machine(asked, qemu_version("11.1"), files, HostFacts(address_bits=51, caches=CACHES), None))
    except InvalidDocument as error:
        return measured, str(error)


def facts(vm: VmDefinition) -> dict:
    topology = vm.topology
    return {
        "ram": vm.ram_size,
        "most": vm.ram_max or vm.ram_size,
        "slots": vm.hotplug_slots,
        "cpus": topology.count,
        "topology": (topology.sockets, topology.clusters, topology.cores, topology.threads),
        "gic": 3,
        "pmu": vm.pmu,
        "model": vm.cpu_model,
        "boot": boot_of(vm),
        "images": vm.images,
        "append": vm.bootargs,
        "log": vm.measurement_log,
        "realm": not any(remark.startswith("no -object") for remark in vm.remarks),
    }


def stock_facts(read: StockArguments, machine: StockQemu) -> dict:
    topology = machine.topology
    given = {"kernel": read.kernel is not None, "initrd": read.initrd is not None, "firmware": read.firmware}
    return {
        "ram": machine.ram_size,
        "most": machine.largest_ram,
        "slots": machine.ram_slots,
        "cpus": topology.cpus,
        "topology": (topology.sockets, topology.clusters, topology.cores, topology.threads),
        "gic": machine.gic,
        "pmu": read.pmu,
        "model": read.cpu,
        "boot": machine.boot,
        "images": {role for role, there in given.items() if there},
        "append": read.bootargs,
        "log": read.measurement_log,
        "realm": read.realm,
    }


def agree(words: list[str]) -> bool:
    """Whether both read it; fails if they read it differently, or one refuses for a reason that is not known to be right."""
    measured, made = read_both(words)
    if isinstance(measured, str):
        assert isinstance(made, str) or ONLY_FOR_THE_TREE.match(measured), (words, measured)
        return False
    if isinstance(made, str):
        assert ONLY_WITHOUT_THE_TREE.match(made), (words, made)
        return False
    assert facts(measured) == stock_facts(*made), words
    if not any(change.startswith(("-M msi", "-machine msi")) for change in measured.tree_changes):
        assert measured.its is (made[1].msi == "its"), words
    return True


@given(st.integers(0, 1 << 64))
@settings(max_examples=rounds(100))
def test_what_both_accept_is_the_same_vm(seed):
    agree(draw(random.Random(seed)))


def test_both_accept_enough_of_what_is_drawn():
    assert sum(agree(draw(random.Random(seed))) for seed in range(1000)) > 200


@pytest.mark.parametrize("case", [case for case in LIBVIRT if case["argv"]], ids=lambda case: case["name"])
def test_what_libvirt_writes_is_the_same_vm(case):
    """libvirt's domains are no realms: they name the CPU of an emulator, and the GIC's version where it is another one."""
    words = [re.sub(r"^(?:cortex-a\d+|neoverse-\w+)", "host", word).replace("gic-version=2", "gic-version=3") for word in case["argv"]]
    agree(words)


LINES = (
    "-M virt,gic-version=3 -object rme-guest,id=r -cpu host -smp 2 -m 1G -kernel K -initrd I -append quiet -enable-kvm",
    "-M virt -object rme-guest,id=r,measurement-log=on -cpu host,num-breakpoints=4 -m 512M -kernel K -append quiet -accel kvm",
    "-M virt,its=off,acpi=off -object rme-guest,id=r,measurement-log=on -cpu host,pmu=off -smp 8,sockets=2 -bios F -kernel K -initrd I",
    "-M virt -object tmm-guest,id=r -cpu max -smp 130 -m 3G,maxmem=8G,slots=2",
    "-M virt -cpu host,sve=off -m 300M -kernel K -initrd I -serial null -serial stdio -M phandle-start=0x100",
    "-M virt,iommu=smmuv3 -object rme-guest,id=r -cpu host -m 1G -numa node -kernel K",
)


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
@pytest.mark.parametrize("line", LINES)
def test_the_tree_says_where_things_are(version, line):
    """The last line has a node for NUMA without memory of its own: QEMU would refuse it, and so do we."""
    words = line.split()
    read, definition = read_stock_realm(words, parse_qemu_arguments(words))
    host = effective_host(definition, HOST, QEMU)
    request = request_of(definition, host, {role: IMAGES[role] for role in definition.images})
    choice = StockChoice(version=qemu_version(version), caches=CACHES)
    if "-numa" in words:
        with pytest.raises(InvalidDocument, match="-numa"):
            stock_realm_tree(read, QEMU, request, host, choice)
        return
    tree = stock_realm_tree(read, QEMU, request, host, choice)
    layout = plan_layout(QEMU, request, tree)
    found = facts_of(parse_device_tree(tree), len(tree))
    root = parse_device_tree(tree).root
    assert (len(tree), found.cpus, sum(size for _, size in found.memory)) == (MIB, request.cpus, request.ram_size)
    initrd = next(((place.base, place.base + place.size) for place in layout.placements if place.role == "initrd"), None)
    assert (found.initrd, found.log_area) == (initrd, None if layout.log_area is None else tuple(layout.log_area))
    assert (found.bootargs or None) == request.bootargs
    assert root.child("psci").properties["method"] == b"smc\0"
    assert (root.child("pmu") is not None) is request.pmu
    assert not {"kaslr-seed", "rng-seed"} & set(root.child("chosen").properties)


def test_a_kernel_of_a_realm_lies_where_it_asks_to():
    """Other VMs have QEMU's boot code there, and the kernel 2 MiB further: enough to move the initrd of a large one."""
    words = ["-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "512M", "-kernel", "K", "-initrd", "I"]
    files = BootFiles(kernel=replace(HEADER, image_size=140 * MIB), initrd_size=5000)
    plain, realm = (
        stock_machine(replace(read_stock_arguments(words), realm=realm), qemu_version("10.0"), files, HostFacts(), None).initrd
        for realm in (False, True)
    )
    assert (plain.base, realm.base) == (0x40000000 + 142 * MIB, 0x40000000 + 140 * MIB)


def test_attack_a_profile_that_places_things_elsewhere_than_the_tree_says():
    words = LINES[0].split()
    read, definition = read_stock_realm(words, parse_qemu_arguments(words))
    host = effective_host(definition, HOST, QEMU)
    request = request_of(definition, host, {role: IMAGES[role] for role in definition.images})
    choice = StockChoice(version=qemu_version("10.0"))
    with pytest.raises(InvalidDocument, match="the initrd is not the same") as refused:
        stock_realm_tree(read, replace(QEMU, ram_middle=64 * MIB), request, host, choice)
    assert refused.value.finding_id == refuse("").finding_id == "document.vm"


def test_a_given_tree_and_one_of_qemus_own_exclude_each_other():
    words = ["-dtb", "t"]
    with pytest.raises(InvalidDocument, match="-dtb: QEMU loads the tree"):
        read_stock_realm(words, parse_qemu_arguments(words))
