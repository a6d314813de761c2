"""Rule packs: honest trees of all kinds pass, and each forgery is refused by the finding that names it."""

import importlib.util
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.appraisal.address_range import Range
from kbs_rim.appraisal.bootargs import BootargsRules
from kbs_rim.appraisal.tree_rules import MOST_FINDINGS, Surroundings, TreeOptions, judge_tree
from kbs_rim.appraisal.workload import Bounds
from kbs_rim.measurement.device_tree import DeviceTree, Node, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_writer import cells, cells64, text, write_device_tree
from tests.rounds import rounds

_spec = importlib.util.spec_from_file_location("tree_forge", Path(__file__).with_name("tree_forge.py"))
forge = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(forge)
PACKS, forged, generated = forge.PACKS, forge.forged, forge.generated
MIB, GIB = 1 << 20, 1 << 30


def ids(findings):
    return {finding.id for finding in findings}


def around(layout):
    """What the log of this VM says."""
    initrd = tuple(Range.sized(place.base, place.size) for place in layout.placements if place.role == "initrd")
    log_area = () if layout.log_area is None else (Range.sized(*layout.log_area),)
    return Surroundings(memory=(Range.sized(*layout.ram),), initrd=initrd, log_area=log_area)


# Honest trees ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", forge.PUBLISHED, ids=lambda path: path.stem)
def test_a_published_tree_passes_its_pack(path):
    pack = PACKS[forge.PACK_OF[path.stem.rpartition("-")[2]]]
    assert judge_tree(forge.tree_at(path), pack) == ()


@pytest.mark.parametrize("path", forge.REAL_QEMU, ids=lambda path: path.stem)
def test_a_tree_that_qemu_made_passes(path):
    assert judge_tree(forge.tree_at(path), PACKS["qemu-virt"], TreeOptions(allow_seeds="seeds" in path.stem)) == ()


def test_all_thirteen_are_there():
    assert len(forge.REAL_QEMU) == 13
    assert len(forge.PUBLISHED) == 4


REQUESTS = [
    {},
    {"cpus": 1},
    {"cpus": 512},
    {"cpus": 124, "its": False},
    {"cpus": 17, "pmu": True},
    {"initrd_size": None},
    {"bootargs": None},
    {"bootargs": "", "measurement_log": False},
    {"ram_size": 64 * GIB},
    {"boot": "firmware", "firmware_size": MIB, "kernel_size": None, "kernel_header": None, "initrd_size": None},
    {"boot": "none", "kernel_size": None, "kernel_header": None, "initrd_size": None},
]
QEMU_ONLY = [
    {"ram_size": 300 * GIB},
    {"ram_size": GIB, "ram_max": 1 << 40},
    {"ram_max": 1 << 47, "hotplug_slots": 12, "ram_size": MIB * 512},
]
KVMTOOL_ONLY = [{"virtio_mmio": 64}, {"virtio_mmio": 5, "its": False}]


@pytest.mark.parametrize(
    ("vmm", "changes"),
    [
        *[("qemu", change) for change in (*REQUESTS, *QEMU_ONLY)],
        *[("kvmtool", change) for change in (*REQUESTS, *KVMTOOL_ONLY) if change.get("boot") != "firmware"],
        ("kvmtool", REQUESTS[-2] | {"firmware_base": 0x80000000 + 64 * MIB}),
    ],
    ids=str,
)
def test_what_the_generators_make_passes_with_everything_known(vmm, changes):
    layout = forge.layout(vmm, **changes)
    tree = parse_device_tree(layout.device_tree)
    bootargs = facts_of(tree).bootargs or ""
    options = TreeOptions(bootargs=BootargsRules(exact=(bootargs,)), cpus=Bounds(min=changes.get("cpus", 2), max=changes.get("cpus", 2)))
    assert judge_tree(tree, PACKS[forge.PACK_OF[vmm]], options, around(layout)) == ()


@settings(max_examples=rounds(20))
@given(
    st.sampled_from(["qemu", "kvmtool"]),
    st.integers(1, 512),
    st.integers(64, 4096),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.text(alphabet="abc= ", max_size=20),
)
def test_any_vm_passes_its_pack_and_no_other(vmm, cpus, ram, its, pmu, log, bootargs):
    more = {"boot": "none", "kernel_size": None, "kernel_header": None, "initrd_size": None}
    request = {"cpus": cpus, "ram_size": ram * 2 * MIB, "its": its, "pmu": pmu, "measurement_log": log, "bootargs": bootargs}
    tree = generated(vmm, **request | more)
    assert judge_tree(tree, PACKS[forge.PACK_OF[vmm]]) == ()
    for name, pack in PACKS.items():
        if name != forge.PACK_OF[vmm]:
            assert judge_tree(tree, pack)


# Forged trees ------------------------------------------------------------------------------------------------------------

LAYOUT = forge.layout()
TREE = parse_device_tree(LAYOUT.device_tree)
KVMTOOL_LAYOUT = forge.layout("kvmtool")
KVMTOOL = parse_device_tree(KVMTOOL_LAYOUT.device_tree)
REAL = forge.tree_at(next(path for path in forge.REAL_QEMU if path.stem == "qemu-11.1-maxmem-smmuv3-serial2"))
LOG = LAYOUT.log_area
LOG_NODE = f"/reserved-memory/event-log@{LOG.base:x}"
INITRD = next(place for place in LAYOUT.placements if place.role == "initrd")
RAM = LAYOUT.ram
GIC_REG = cells64(0x08000000, 0x10000, 0x080A0000, 0xF60000)


def memory(base, size, **more):
    return Node(f"memory@{base:x}", {"device_type": text("memory"), "reg": cells64(base, size), **more})


def region(name, base, size, **properties):
    return Node(f"{name}@{base:x}", {"reg": cells64(base, size), **properties})


FORGERIES = {
    # RAM
    "extra memory node": ("/", {"add": [memory(0x80000000, GIB)]}, {"tree.memory"}),
    "memory node over the last one": ("/", {"add": [memory(RAM.base + MIB, MIB)]}, {"tree.memory", "tree.overlap"}),
    "memory shrunk": (f"/memory@{RAM.base:x}", {"set": {"reg": cells64(RAM.base, RAM.size // 2)}}, {"tree.memory"}),
    "memory grown by another range": (
        f"/memory@{RAM.base:x}",
        {"set": {"reg": cells64(*RAM, 0x100000000, GIB)}},
        {"tree.memory"},
    ),
    "memory of 32-bit cells": (f"/memory@{RAM.base:x}", {"set": {"reg": cells(RAM.base, RAM.size)}}, {"tree.value", "tree.malformed"}),
    "memory switched off": (f"/memory@{RAM.base:x}", {"set": {"status": text("disabled")}}, {"tree.unknown-property", "tree.memory"}),
    "memory that may be unplugged": (f"/memory@{RAM.base:x}", {"set": {"hotpluggable": b""}}, {"tree.unknown-property"}),
    "memory on another NUMA node": (f"/memory@{RAM.base:x}", {"set": {"numa-node-id": cells(3)}}, {"tree.value"}),
    "memory under another name": (f"/memory@{RAM.base:x}", {"rename": "ram@40000000"}, {"tree.unknown-node", "tree.node-count"}),
    "memory called after another address": (f"/memory@{RAM.base:x}", {"rename": "memory@0"}, {"tree.value"}),
    "memory without device_type": (f"/memory@{RAM.base:x}", {"drop": ["device_type"]}, {"tree.missing-property"}),
    "memory by device_type alone": ("/", {"add": [Node("bank@0", memory(0, MIB).properties)]}, {"tree.unknown-node", "tree.memory"}),
    "usable memory beside reg": (f"/memory@{RAM.base:x}", {"set": {"linux,usable-memory": cells64(*RAM)}}, {"tree.malformed"}),
    "memory of no size": (f"/memory@{RAM.base:x}", {"set": {"reg": cells64(RAM.base, 0)}}, {"tree.value", "tree.memory"}),
    "memory beyond 64 bits": (f"/memory@{RAM.base:x}", {"set": {"reg": cells64(RAM.base, (1 << 64) - 1)}}, {"tree.malformed"}),
    # /chosen
    "two nodes called chosen": ("/", {"add": [Node("chosen@0", {"bootargs": text("init=/bin/sh")})]}, {"tree.unknown-node"}),
    "forged bootargs": ("/chosen", {"set": {"bootargs": text("console=ttyAMA0 init=/bin/sh")}}, {"tree.bootargs"}),
    "bootargs that hold two strings": ("/chosen", {"set": {"bootargs": text("console=ttyAMA0", "init=/bin/sh")}}, {"tree.malformed"}),
    "initrd elsewhere": (
        "/chosen",
        {"set": {"linux,initrd-start": cells64(LOG.base), "linux,initrd-end": cells64(LOG.end)}},
        {"tree.initrd"},
    ),
    "initrd with a tail": ("/chosen", {"set": {"linux,initrd-end": cells64(INITRD.base + INITRD.size + 4096)}}, {"tree.initrd"}),
    "initrd without an end": ("/chosen", {"drop": ["linux,initrd-end"]}, {"tree.malformed"}),
    "no initrd": ("/chosen", {"drop": ["linux,initrd-start", "linux,initrd-end"]}, {"tree.initrd"}),
    "firmware tables of the host": ("/chosen", {"set": {"linux,uefi-system-table": cells64(RAM.base)}}, {"tree.unknown-property"}),
    "a crash dump to rescue": ("/chosen", {"set": {"linux,elfcorehdr": cells64(LOG.base, 4096)}}, {"tree.unknown-property"}),
    "less usable memory": ("/chosen", {"set": {"linux,usable-memory-range": cells64(RAM.base, MIB)}}, {"tree.unknown-property"}),
    "state handed over by kexec": ("/chosen", {"set": {"linux,kho-fdt": cells64(LOG.base, 4096)}}, {"tree.unknown-property"}),
    "measurements handed over by kexec": (
        "/chosen",
        {"set": {"linux,ima-kexec-buffer": cells64(LOG.base, 4096)}},
        {"tree.unknown-property"},
    ),
    "layout seed": ("/chosen", {"set": {"kaslr-seed": cells64(1)}}, {"tree.seed"}),
    "entropy seed": ("/chosen", {"set": {"rng-seed": bytes(32)}}, {"tree.seed"}),
    "console on something else": ("/chosen", {"set": {"stdout-path": text("/fw-cfg@9020000")}}, {"tree.value"}),
    "console by alias": ("/chosen", {"set": {"stdout-path": text("serial0")}}, {"tree.value"}),
    "node below chosen": ("/chosen", {"add": [Node("module@0", {"reg": cells64(LOG.base, 4096)})]}, {"tree.unknown-node"}),
    # reserved memory
    "reserved memory over the kernel": (
        "/reserved-memory",
        {"add": [region("event-log", RAM.base, 0x10000, compatible=text("cc-event-log"))]},
        {"tree.malformed", "tree.node-count"},
    ),
    "event log moved over the kernel": (
        "/reserved-memory",
        {"remove": [LOG_NODE[17:]], "add": [region("event-log", RAM.base, 0x10000, compatible=text("cc-event-log"))]},
        {"tree.log-area"},
    ),
    "event log outside RAM": (
        "/reserved-memory",
        {"remove": [LOG_NODE[17:]], "add": [region("event-log", 0x90000000, 0x10000, compatible=text("cc-event-log"))]},
        {"tree.log-area"},
    ),
    "event log larger than a log": (LOG_NODE, {"set": {"reg": cells64(LOG.base, 0x20000)}}, {"tree.log-area"}),
    "no event log": ("/", {"remove": ["reserved-memory"]}, {"tree.log-area"}),
    "hole in memory": (LOG_NODE, {"set": {"no-map": b""}}, {"tree.unknown-property"}),
    "reserved memory that is used": (LOG_NODE, {"set": {"reusable": b""}}, {"tree.unknown-property"}),
    "pool for DMA": (
        "/reserved-memory",
        {"add": [region("dma", RAM.base + 64 * MIB, MIB, compatible=text("restricted-dma-pool"))]},
        {"tree.unknown-node"},
    ),
    "reserved memory without ranges": ("/reserved-memory", {"drop": ["ranges"]}, {"tree.missing-property", "tree.malformed"}),
    "reserved memory of other cells": (
        "/reserved-memory",
        {"set": {"#address-cells": cells(1), "#size-cells": cells(1)}},
        {"tree.value", "tree.malformed"},
    ),
    # devices
    "extra device": (
        "/",
        {"add": [region("mailbox", 0x0B000000, 0x1000, compatible=text("arm,mhu"))]},
        {"tree.unknown-node"},
    ),
    "hypervisor": ("/", {"add": [Node("hypervisor", {"compatible": text("xen,xen-4.19", "xen,xen")})]}, {"tree.unknown-node"}),
    "firmware node": (
        "/",
        {"add": [Node("firmware", {}, (Node("optee", {"compatible": text("linaro,optee-tz")}),))]},
        {"tree.unknown-node"},
    ),
    "device on the platform bus": ("/platform-bus@c000000", {"add": [Node("tpm_tis@0", {})]}, {"tree.unknown-node"}),
    "platform bus over RAM": ("/platform-bus@c000000", {"set": {"ranges": cells(0, 0, RAM.base, MIB)}}, {"tree.value"}),
    "virtio device in RAM": (
        "/",
        {"add": [region("virtio_mmio", RAM.base + MIB, 0x200, compatible=text("virtio,mmio"))]},
        {"tree.address", "tree.overlap", "tree.node-count", "tree.missing-property"},
    ),
    "virtio device with a larger window": ("/virtio_mmio@a003e00", {"set": {"reg": cells64(0xA003E00, 0x100000)}}, {"tree.address"}),
    "two virtio devices at one address": (
        "/virtio_mmio@a000200",
        {"set": {"reg": cells64(0xA000000, 0x200)}},
        {"tree.value", "tree.overlap"},
    ),
    "serial port elsewhere": ("/pl011@9000000", {"set": {"reg": cells64(RAM.base, 0x1000)}}, {"tree.address", "tree.overlap"}),
    "serial port of another make": ("/pl011@9000000", {"set": {"compatible": text("arm,sbsa-uart")}}, {"tree.value"}),
    "other interrupt": ("/pl031@9010000", {"set": {"interrupts": cells(1, 7, 4)}}, {"tree.value"}),
    "DMA to other memory": ("/pcie@10000000", {"set": {"dma-ranges": cells(0x02000000, 0, 0, 0, 0, 1, 0)}}, {"tree.unknown-property"}),
    "device with swiotlb of its own": ("/pcie@10000000", {"set": {"memory-region": cells(0x8000)}}, {"tree.unknown-property"}),
    "device that is not coherent": ("/pcie@10000000", {"drop": ["dma-coherent"]}, {"tree.missing-property"}),
    "device with a value for nothing": ("/pcie@10000000", {"set": {"dma-coherent": b"\0"}}, {"tree.value"}),
    "PCI configuration space in RAM": (
        "/pcie@10000000",
        {"set": {"reg": cells64(RAM.base, 0x10000000)}},
        {"tree.address", "tree.overlap"},
    ),
    "PCI endpoint in the tree": ("/pcie@10000000", {"add": [Node("dev@0", {})]}, {"tree.unknown-node"}),
    # interrupt controller
    "interrupt controller moved": (
        "/intc@8000000",
        {"set": {"reg": cells64(RAM.base, 0x10000, 0x080A0000, 0xF60000)}},
        {"tree.address", "tree.overlap"},
    ),
    "redistributors over RAM": (
        "/intc@8000000",
        {"set": {"reg": GIC_REG + cells64(RAM.base, 0x4000000)}},
        {"tree.address", "tree.overlap"},
    ),
    "redistributors without an end": ("/intc@8000000", {"set": {"reg": GIC_REG + cells64((1 << 64) - 1, 2)}}, {"tree.value"}),
    "interrupt controller of another make": ("/intc@8000000", {"set": {"compatible": text("arm,cortex-a15-gic")}}, {"tree.value"}),
    "ITS moved": ("/intc@8000000/its@8080000", {"set": {"reg": cells64(RAM.base, 0x20000)}}, {"tree.address", "tree.overlap"}),
    "second interrupt controller": ("/", {"add": [Node("intc@9000000", {})]}, {"tree.unknown-node"}),
    # phandles
    "one phandle twice": ("/apb-pclk", {"set": {"phandle": TREE.root.child("intc@8000000").properties["phandle"]}}, {"tree.phandle"}),
    "phandle of nothing": ("/", {"set": {"interrupt-parent": cells(0x7777)}}, {"tree.phandle"}),
    "phandle of another node": ("/", {"set": {"interrupt-parent": TREE.root.child("apb-pclk").properties["phandle"]}}, {"tree.phandle"}),
    "second spelling of phandle": ("/apb-pclk", {"set": {"linux,phandle": cells(9)}}, {"tree.unknown-property"}),
    "phandle zero": ("/intc@8000000", {"set": {"phandle": cells(0)}}, {"tree.phandle"}),
    "phandle of eight bytes": ("/intc@8000000", {"set": {"phandle": cells64(0x8003)}}, {"tree.phandle"}),
    # CPUs, PSCI
    "one CPU more": (
        "/cpus",
        {"add": [Node("cpu@2", TREE.root.child("cpus").child("cpu@1").properties | {"reg": cells(2)})]},
        {"tree.cpus"},
    ),
    "CPU missing": ("/cpus", {"remove": ["cpu@0"]}, {"tree.cpus"}),
    "two CPUs with one number": ("/cpus/cpu@1", {"set": {"reg": cells(0)}}, {"tree.cpus"}),
    "CPU with a number of 64 bits": ("/cpus/cpu@1", {"set": {"reg": cells64(1)}}, {"tree.cpus"}),
    "CPUs started through memory": (
        "/cpus/cpu@1",
        {"set": {"enable-method": text("spin-table"), "cpu-release-addr": cells64(LOG.base)}},
        {"tree.value", "tree.unknown-property"},
    ),
    "PSCI that calls something else": ("/psci", {"set": {"cpu_on": cells(0xC4000196)}}, {"tree.value"}),
    "PSCI by another way": ("/psci", {"set": {"method": text("rsi")}}, {"tree.value"}),
    "PSCI function that nobody knows": ("/psci", {"set": {"sys_poweroff": cells(1)}}, {"tree.unknown-property"}),
    "timer on other interrupts": ("/timer", {"set": {"interrupts": cells(1, 13, 4, 1, 14, 4, 0, 11, 4)}}, {"tree.value"}),
    "timer that stops": ("/timer", {"drop": ["always-on"]}, {"tree.missing-property"}),
    "timer with a frequency": ("/timer", {"set": {"clock-frequency": cells(1)}}, {"tree.unknown-property"}),
    # the rest
    "overlay": ("/", {"add": [Node("fragment@0", {}, (Node("__overlay__", {}),)), Node("__symbols__", {})]}, {"tree.unknown-node"}),
    "root of other cells": ("/", {"set": {"#address-cells": cells(1)}}, {"tree.value", "tree.malformed"}),
    "another board": ("/", {"set": {"compatible": text("arm,foundation-aarch64")}}, {"tree.value"}),
    "alias of another thing": ("/", {"add": [Node("aliases", {"serial0": text("/fw-cfg@9020000")})]}, {"tree.value"}),
    "alias with another name": ("/", {"add": [Node("aliases", {"ethernet0": text("/pl011@9000000")})]}, {"tree.unknown-property"}),
}
OPTIONS = TreeOptions(bootargs=BootargsRules(exact=("console=ttyAMA0",)), cpus=Bounds(min=2, max=2))


@pytest.mark.parametrize("name", FORGERIES)
def test_attack_forged_tree(name):
    path, edit, expected = FORGERIES[name]
    tree = forged(TREE, path, **edit)
    found = judge_tree(tree, PACKS["qemu-virt"], OPTIONS, around(LAYOUT))
    assert expected <= ids(found), found
    assert all(finding.where for finding in found if finding.id != "tree.malformed")
    if name not in ("one phandle twice", "overlay") and not (expected & {"tree.malformed"}):  # vm-fdt's writer refuses those
        written = parse_device_tree(write_device_tree(tree.root))
        assert judge_tree(written, PACKS["qemu-virt"], OPTIONS, around(LAYOUT)) == found


def test_the_tree_under_the_forgeries_is_good():
    assert judge_tree(TREE, PACKS["qemu-virt"], OPTIONS, around(LAYOUT)) == ()
    assert judge_tree(KVMTOOL, PACKS["kvmtool"], TreeOptions(), around(KVMTOOL_LAYOUT)) == ()


def test_a_finding_names_node_property_and_both_values():
    tree = forged(TREE, "/psci", set={"cpu_on": cells(0xC4000196)})
    (finding,) = judge_tree(tree, PACKS["qemu-virt"], where={"event": 7})
    assert finding.where == {"event": 7, "node": "/psci", "property": "cpu_on"}
    assert (finding.expected, finding.seen) == ("<0xc4000003>", "<0xc4000196>")
    assert finding.message == "/psci cpu_on: the value is not one that the rules allow"


PCI_WINDOWS = struct.Struct(">IQQQ")


@pytest.mark.parametrize(
    ("number", "window", "expected"),
    [
        (0, (0x01000000, 0, 0x3EFF0000, 0x20000), "tree.address"),
        (1, (0x02000000, 0x10000000, RAM.base, 0x2EFF0000), "tree.value"),
        (1, (0x02000000, RAM.base, RAM.base, 0x2EFF0000), "tree.address"),
        (1, (0x42000000, 0x10000000, 0x10000000, 0x2EFF0000), "tree.value"),
        (2, (0x03000000, 0x8000000000, 0x8000000000, 1 << 63), "tree.address"),
        (2, (0x03000000, 0x8000001000, 0x8000001000, 0x8000000000), "tree.address"),
        (2, (0x03000000, 0x8000000000, 0x8000000000, 0), "tree.address"),
        (2, (0x03000000, (1 << 64) - 1, (1 << 64) - 1, 2), "tree.address"),
    ],
)
def test_attack_pci_window(number, window, expected):
    value = TREE.root.child("pcie@10000000").properties["ranges"]
    windows = [value[at : at + 28] for at in range(0, len(value), 28)]
    windows[number] = PCI_WINDOWS.pack(*window)
    assert expected in ids(judge_tree(forged(TREE, "/pcie@10000000", set={"ranges": b"".join(windows)}), PACKS["qemu-virt"]))


def test_attack_pci_window_too_many():
    value = TREE.root.child("pcie@10000000").properties["ranges"]
    tree = forged(TREE, "/pcie@10000000", set={"ranges": value + PCI_WINDOWS.pack(0x02000000, RAM.base, RAM.base, MIB)})
    assert ids(judge_tree(tree, PACKS["qemu-virt"])) == {"tree.value"}


def test_attack_interrupt_map_to_a_device_that_is_no_interrupt_controller():
    value = bytearray(TREE.root.child("pcie@10000000").properties["interrupt-map"])
    value[16:20] = TREE.root.child("apb-pclk").properties["phandle"]
    assert ids(judge_tree(forged(TREE, "/pcie@10000000", set={"interrupt-map": bytes(value)}), PACKS["qemu-virt"])) == {"tree.phandle"}


def test_attack_interrupt_map_into_the_controllers_own_interrupts():
    value = bytearray(TREE.root.child("pcie@10000000").properties["interrupt-map"])
    value[32:36] = cells(31)
    assert ids(judge_tree(forged(TREE, "/pcie@10000000", set={"interrupt-map": bytes(value)}), PACKS["qemu-virt"])) == {"tree.value"}


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("/intc", {"set": {"reg": cells64(0x3FFF0000, 0x10000, 0x3FFD0000, 0x20000)}}, "tree.address"),
        ("/intc", {"set": {"reg": cells64(0x3FFF0000, 0x10000, 0x3FFB0000, 0x40000, RAM.base, 1)}}, "tree.value"),
        ("/intc/msic", {"set": {"reg": cells64(0x3FFC0000, 0x20000)}}, "tree.address"),
        ("/intc/msic", {"set": {"reg": cells64(0x3FFB0000, 0x20000)}}, "tree.overlap"),
        ("/U6_16550A@1001000", {"set": {"reg": cells64(0x1001008, 8)}}, "tree.address"),
        ("/psci", {"set": {"method": text("hvc")}}, "tree.value"),
        ("/", {"add": [Node("cfi-flash@2000000", {})]}, "tree.unknown-node"),
    ],
)
def test_attack_forged_kvmtool_tree(path, edit, expected):
    assert expected in ids(judge_tree(forged(KVMTOOL, path, **edit), PACKS["kvmtool"]))


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("/cpus/cpu-map/socket0/cluster0/core0", {"set": {"cpu": cells(0x8003)}}, "tree.phandle"),
        ("/cpus/cpu-map", {"add": [Node("socket00", {})]}, "tree.unknown-node"),
        ("/gpio-keys/poweroff", {"set": {"gpios": cells(0x8000, 3, 0)}}, "tree.phandle"),
        ("/gpio-keys/poweroff", {"set": {"linux,code": cells(0x1C)}}, "tree.value"),
        ("/gpio-keys", {"add": [Node("sysrq", {})]}, "tree.unknown-node"),
        ("/pcie@10000000", {"set": {"iommu-map": cells(0, 0x8004, 0, 0x10000)}}, "tree.phandle"),
        ("/flash@0", {"set": {"reg": cells64(0, 0x4000000, 0x40000000, 0x4000000)}}, "tree.overlap"),
        ("/smmuv3@9050000", {"set": {"reg": cells64(0x9040000, 0x20000)}}, "tree.overlap"),
    ],
)
def test_attack_forged_tree_of_a_real_qemu(path, edit, expected):
    assert judge_tree(REAL, PACKS["qemu-virt"]) == ()
    assert expected in ids(judge_tree(forged(REAL, path, **edit), PACKS["qemu-virt"]))


def test_attack_reservation_block():
    found = judge_tree(replace(TREE, reservations=((RAM.base, MIB),)), PACKS["qemu-virt"])
    assert ids(found) == {"tree.reserved"}


def test_attack_other_boot_cpu():
    assert ids(judge_tree(replace(TREE, boot_cpu=1), PACKS["qemu-virt"])) == {"tree.cpus"}


def test_seeds_pass_only_where_they_are_allowed_and_short():
    tree = forged(TREE, "/chosen", set={"kaslr-seed": cells64(1), "rng-seed": bytes(32)})
    assert judge_tree(tree, PACKS["qemu-virt"], TreeOptions(allow_seeds=True)) == ()
    long = forged(TREE, "/chosen", set={"rng-seed": bytes(65)})
    assert ids(judge_tree(long, PACKS["qemu-virt"], TreeOptions(allow_seeds=True))) == {"tree.value"}


def test_attack_thousands_of_faults_are_not_all_listed():
    tree = forged(TREE, "/", add=[Node(f"evil{number}", {}) for number in range(5000)])
    found = judge_tree(tree, PACKS["qemu-virt"])
    assert len(found) == MOST_FINDINGS + 1
    assert found[-1].id == "tree.more"


def test_attack_a_value_of_a_megabyte_is_shown_short():
    tree = forged(TREE, "/psci", set={"method": b"A" * MIB + b"\0", "x": b"\x1b[31m" * MIB})
    found = judge_tree(tree, PACKS["qemu-virt"])
    assert {"tree.value", "tree.unknown-property"} == ids(found)
    assert all(len(finding.seen) < 200 and finding.seen.isprintable() for finding in found)


# Whatever is changed in a good tree -------------------------------------------------------------------------------------------

NODES = []


def _collect(node, path):
    NODES.append((path, tuple(node.properties), tuple(child.name for child in node.children)))
    for child in node.children:
        _collect(child, f"{path.rstrip('/')}/{child.name}")


_collect(TREE.root, "/")
FREE = {("/virtio_mmio", "interrupts"), ("/pcie", "interrupt-map"), ("/timer", "interrupts")}
"""Values of which the pack allows several: which interrupt a virtio device has proves nothing."""


@given(st.data())
def test_no_bit_of_a_property_can_be_changed_unseen(data):
    path, names, _ = data.draw(st.sampled_from([node for node in NODES if node[1]]))
    name = data.draw(st.sampled_from(names))
    node = TREE.root
    for part in filter(None, path.split("/")):
        node = node.child(part)
    value = bytearray(node.properties[name] or b"\0")
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= 1 << data.draw(st.integers(0, 7))
    found = judge_tree(forged(TREE, path, set={name: bytes(value)}), PACKS["qemu-virt"], OPTIONS, around(LAYOUT))
    if (path.partition("@")[0], name) not in FREE:
        assert found, (path, name, value.hex())


@given(st.data())
def test_no_node_or_property_can_be_added_unseen(data):
    path, names, children = data.draw(st.sampled_from(NODES))
    name = data.draw(
        st.sampled_from(["status", "reg", "ranges", "phandle", "compatible", "dma-ranges", "#address-cells", "interrupts", "x"])
    )
    if name not in names:
        allowed = {"phandle"} if path.startswith("/cpus/cpu@") else set()
        found = judge_tree(forged(TREE, path, set={name: cells(0x9999)}), PACKS["qemu-virt"], OPTIONS, around(LAYOUT))
        assert found or name in allowed, (path, name)
    child = data.draw(st.sampled_from(["chosen", "memory", "x@0", "cpu@7", "virtio_mmio@a004000", "event-log@0", "aliases@0", "its"]))
    if child not in children:
        assert judge_tree(forged(TREE, path, add=[Node(child, {})]), PACKS["qemu-virt"], OPTIONS, around(LAYOUT)), (path, child)


@given(st.data())
def test_what_a_tree_must_have_cannot_be_left_out(data):
    path, names, _ = data.draw(st.sampled_from([node for node in NODES if node[1]]))
    name = data.draw(st.sampled_from(names))
    if name in ("msi-map", "enable-method", "bootargs", "linux,initrd-start", "linux,initrd-end"):
        return
    assert judge_tree(forged(TREE, path, drop=[name]), PACKS["qemu-virt"], OPTIONS, around(LAYOUT)), (path, name)


def test_an_empty_tree_is_no_tree():
    found = judge_tree(DeviceTree(Node("")), PACKS["qemu-virt"])
    assert {"tree.node-count", "tree.missing-property"} <= ids(found)
