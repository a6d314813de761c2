"""The VMM versions that are known: memory maps, placement rules and operations of the series that start realms.

QEMU: hw/arm/virt.c and boot.c of 9.1 with the realm patches. kvmtool: arm/fdt.c and arm/kvm.c of 3.18 with the realm patches; the tree
is the one that a patched kvmtool takes with --dtb. cloud-hypervisor: arch/src/aarch64/layout.rs; its realm branch is young, and its
PCI window above 4 GiB is a guess of everybody.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import KIB, MIB
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.profile import GIB, Region
from kbs_rim.measurement.vmm.vmm_profile import BootFlow, OperationRule, PlacementRule, VmmProfile

RIPAS_FIRST = (
    OperationRule(kind="ripas", start="ram.base", end="ram.end"),
    OperationRule(kind="data", things=("kernel", "initrd", "firmware", "device-tree")),
    OperationRule(kind="rec"),
    OperationRule(kind="unmeasured", things=("log",)),
)
"""All RAM at once, then every image by its address, one runnable vCPU, and the log behind it."""

_KVMTOOL_PLACES = (
    PlacementRule(thing="log", rule="below", of=("ram.low-end",)),
    PlacementRule(thing="device-tree", rule="below", of=("ram.low-end", "log.base"), slack=2 * MIB, align=2 * MIB),
    PlacementRule(thing="kernel", rule="at", of=("ram.base",), text_offset=True),
    PlacementRule(thing="firmware", rule="at", of=("firmware.wanted",)),
    PlacementRule(thing="initrd", rule="below", of=("device-tree.base",), slack=4, align=4),
)
_KVMTOOL_MEASURED = ("kernel", "initrd", "firmware", "device-tree")

KVMTOOL = VmmProfile(
    name="kvmtool",
    vmm="kvmtool",
    version="3.18 with realm support",
    source="Linux kvmtool, arm/ and its realm series",
    tree="kvmtool",
    hash_algorithm=HashAlgorithm.SHA256,
    ram_base=0x80000000,
    ram_step=2 * MIB,
    ram_low_end=0x90000000,
    tree_size=64 * KIB,
    features=frozenset({"movable-firmware", "virtio-mmio", "lone-initrd", "log"}),
    regions=MappingProxyType({
        "uart": Region(0x01000000, 8),
        "rtc": Region(0x01010000, 2),
        "virtio": Region(0x03000000, 0x200),
        "distributor": Region(0x3FFF0000, 0x10000),
        "pci-config": Region(0x40000000, 0x10000000),
        "pci-memory": Region(0x50000000, 0x30000000),
    }),
    flows=MappingProxyType({
        "kernel": BootFlow(places=_KVMTOOL_PLACES, measured=_KVMTOOL_MEASURED, pc="kernel.base", x0="device-tree.base"),
        "firmware": BootFlow(places=_KVMTOOL_PLACES, measured=_KVMTOOL_MEASURED, pc="firmware.base", x0="device-tree.base"),
        "none": BootFlow(places=_KVMTOOL_PLACES, measured=_KVMTOOL_MEASURED, pc="zero", x0="device-tree.base"),
    }),
    operations=RIPAS_FIRST,
)  # fmt: skip

_QEMU_IMAGES = (
    PlacementRule(thing="kernel", rule="at", of=("ram.base",), text_offset=True),
    PlacementRule(thing="initrd", rule="above", of=("ram.middle", "kernel.memory-end"), align=4 * KIB),
)
_QEMU_TREE_FIRST = (PlacementRule(thing="device-tree", rule="at", of=("ram.base",)),)
_QEMU_LOG = (PlacementRule(thing="log", rule="at", of=("device-tree.base",), offset=1 * MIB),)
"""The log follows the space that QEMU reserves for a tree, however long the tree is."""

QEMU = VmmProfile(
    name="qemu-virt",
    vmm="qemu",
    version="9.1 with realm support",
    source="QEMU, hw/arm/virt.c and hw/arm/boot.c and its realm series",
    tree="qemu-virt",
    hash_algorithm=HashAlgorithm.SHA512,
    ram_base=0x40000000,
    ram_middle=128 * MIB,
    firmware_room=Region(0, 0x08000000),
    features=frozenset({"hotplug", "log"}),
    regions=MappingProxyType({
        "distributor": Region(0x08000000, 0x10000),
        "its": Region(0x08080000, 0x20000),
        "redistributors": Region(0x080A0000, 0xF60000),
        "uart": Region(0x09000000, 0x1000),
        "rtc": Region(0x09010000, 0x1000),
        "fw-cfg": Region(0x09020000, 0x18),
        "virtio": Region(0x0A000000, 0x200),
        "platform-bus": Region(0x0C000000, 0x02000000),
        "pci-memory": Region(0x10000000, 0x2EFF0000),
        "pci-io": Region(0x3EFF0000, 0x10000),
    }),
    high_base=256 * GIB,
    high_regions=(("high-redistributors", 64 * MIB), ("high-pci-config", 256 * MIB), ("high-pci-memory", 512 * GIB)),
    flows=MappingProxyType({
        "kernel": BootFlow(
            places=(*_QEMU_IMAGES, PlacementRule(thing="device-tree", rule="above", of=("initrd.end",), align=2 * MIB), *_QEMU_LOG),
            measured=("kernel", "initrd", "device-tree"),
            pc="kernel.base",
            x0="device-tree.base",
        ),
        # The kernel and the initrd go through fw_cfg; the firmware measures them, and the tree names the initrd all the same.
        "firmware": BootFlow(
            places=(PlacementRule(thing="firmware", rule="at", of=("zero",)), *_QEMU_IMAGES, *_QEMU_TREE_FIRST, *_QEMU_LOG),
            measured=("firmware", "device-tree"),
            extended=("kernel", "initrd"),
            pc="firmware.base",
            x0="zero",
        ),
        "none": BootFlow(places=(*_QEMU_TREE_FIRST, *_QEMU_LOG), measured=("device-tree",), pc="ram.base", x0="ram.base"),
    }),
    operations=RIPAS_FIRST,
)  # fmt: skip

_CLOUD_HYPERVISOR_FLOW = BootFlow(
    places=(
        PlacementRule(thing="device-tree", rule="at", of=("ram.base",)),
        PlacementRule(thing="kernel", rule="at", of=("ram.base",), offset=4 * MIB, text_offset=True),
        PlacementRule(thing="initrd", rule="below", of=("ram.end",), slack=4 * KIB - 1, align=4 * KIB),
    ),
    measured=("kernel", "initrd", "device-tree"),
    pc="kernel.base",
    x0="device-tree.base",
)

CLOUD_HYPERVISOR = VmmProfile(
    name="cloud-hypervisor",
    vmm="cloud-hypervisor",
    version="realm branch",
    source="cloud-hypervisor, arch/src/aarch64 and its realm branch",
    tree="cloud-hypervisor",
    hash_algorithm=HashAlgorithm.SHA512,
    ram_base=0x40000000,
    ipa_bits=48,
    features=frozenset({"lone-initrd"}),
    regions=MappingProxyType({
        "distributor": Region(0x08FF0000, 0x10000),
        "uart": Region(0x09000000, 0x1000),
        "rtc": Region(0x09010000, 0x1000),
        "pci-io": Region(0x09050000, 0x10000),
        "pci-memory": Region(0x10000000, 0x20000000),
        "pci-config": Region(0x30000000, 0x100000),
        "pci-high-memory": Region(0x200000000, 0x3FFF00000000 - 0x200000000),
    }),
    flows=MappingProxyType({"kernel": _CLOUD_HYPERVISOR_FLOW, "none": _CLOUD_HYPERVISOR_FLOW}),
    operations=RIPAS_FIRST,
)  # fmt: skip

SHIPPED: Mapping[str, VmmProfile] = MappingProxyType({profile.name: profile for profile in (QEMU, KVMTOOL, CLOUD_HYPERVISOR)})
"""By name; a profile file may extend one of them."""
DEFAULTS: Mapping[Vmm, VmmProfile] = MappingProxyType({profile.vmm: profile for profile in SHIPPED.values()})
"""What a VMM is taken for unless told otherwise."""
