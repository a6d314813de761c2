"""What QEMU's virt machine is asked for, as far as the device tree that it makes itself depends on it.

``stock_qemu_arguments`` reads it from a command line, ``stock_qemu`` makes the tree. What the tree depends on and a request does
not have, such as seeds, is never made up.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm.profile import GIB, Region, refuse
from kbs_rim.measurement.vmm.stock_qemu_map import HIGH_PCI_MEMORY_SIZE, REDISTRIBUTORS, HighMemory, HighRegions, high_regions
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches, CpuModel, QemuVersion, Version

MAX_TRANSPORTS = 32
_VIRTUAL_EL2_TIMER_SINCE = (9, 0)
_REDISTRIBUTOR_SIZES = {3: 0x20000, 4: 0x40000}
_MAX_RAM = 1 << 48
_GIC2_CPUS = 8
_KASLR_SEED, _RNG_SEED = 8, 32
_BOOTARGS_MAX = 16 * 1024
_MAX_PHANDLE = 0xFFFF_0000
_EVERY_HOST_BITS, _ANY_HOST_BITS = 40, 52
"""Address bits that each host has, and that one may have."""
Boot = Literal["kernel", "firmware", "none"]
Msi = Literal["its", "v2m"]


@dataclass(frozen=True, slots=True)
class Topology:
    """CPUs that are there from the start, and how cpu-map groups them. The product may be larger than ``cpus`` (maxcpus)."""

    cpus: int
    sockets: int = 1
    clusters: int = 1
    cores: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= DEFAULT_LIMITS.cpus:
            raise refuse(f"-smp: from 1 to {DEFAULT_LIMITS.cpus} CPUs, not {self.cpus}")
        if min(self.sockets, self.clusters, self.cores, self.threads) < 1 or not self.cpus <= self.possible <= DEFAULT_LIMITS.cpus:
            raise refuse("-smp: the topology does not hold the CPUs, or more than there can be")

    @property
    def possible(self) -> int:
        """How many CPUs there can ever be."""
        return self.sockets * self.clusters * self.cores * self.threads


@dataclass(frozen=True, slots=True)
class Seeds:
    """The random bytes of /chosen."""

    kaslr: bytes
    rng: bytes

    def __post_init__(self) -> None:
        if len(self.kaslr) != _KASLR_SEED or len(self.rng) != _RNG_SEED:
            raise refuse(f"the seeds have {_KASLR_SEED} and {_RNG_SEED} bytes")


@dataclass(frozen=True, slots=True)
class NumaNode:
    """One NUMA node: its RAM in bytes and the numbers of its CPUs."""

    size: int
    cpus: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StockQemu:
    """One machine, as QEMU sees it when it writes the tree; sizes in bytes, None for what is not there.

    ``boot`` is what the first CPU starts with; with ``firmware`` a kernel may be given too, its initrd is then not in the tree.
    ``msi`` is the controller, if any. ``serials`` counts serial ports; the first is always there. ``seeds`` is None with
    ``dtb-randomness=off``. ``realm`` and ``log_area`` are those of the series of patches that adds realms to QEMU.

    Raises ``InvalidDocument`` (``document.vm``), naming the option, for what QEMU would refuse or this generator does not know.
    """

    version: QemuVersion
    machine_type: Version | None = None
    """None is the newest one of the version."""
    cpu: CpuModel
    topology: Topology
    ram_size: int
    ram_max: int | None = None
    ram_slots: int = 0
    numa: tuple[NumaNode, ...] = ()
    gic: Literal[2, 3, 4] = 3
    msi: Msi | None = "its"
    pmu: bool = True
    virtualization: bool = False
    secure: bool = False
    smmu: bool = False
    virtio_iommu: int | None = None
    """Slot (times 8) and function of a virtio-iommu on the root bus."""
    bypass_iommu: bool = False
    boot: Boot = "none"
    acpi: bool = True
    bootargs: str | None = None
    initrd: Region | None = None
    serials: int = 1
    transports: int = MAX_TRANSPORTS
    high_memory: HighMemory = field(default_factory=HighMemory)
    address_bits: int | None = None
    caches: CpuCaches | None = None
    seeds: Seeds | None = None
    first_phandle: int = 0x8000
    realm: bool = False
    log_area: Region | None = None

    def __post_init__(self) -> None:
        if self.machine_type is not None and self.machine_type not in self.version.machines:
            raise refuse(f"-machine: QEMU {self.version.name} has no such type of the virt machine, or its trees are not known")
        self._check_memory()
        self._check_interrupts()
        if self.caches is None and self.cpu.caches is None and self.version.cpu_caches:
            raise refuse(f"-cpu {self.cpu.name}: QEMU {self.version.name} describes the host's caches in the tree; give --host-caches")
        if self.virtio_iommu is not None and (self.smmu or not 8 <= self.virtio_iommu <= 0xFF):
            raise refuse("-device virtio-iommu-pci: on the root bus, from slot 1 on, and not beside an SMMU")
        if self.secure and self.seeds is not None:
            raise refuse("-machine secure=on: give dtb-randomness=off, the secure world has seeds of its own")
        if self.bootargs is not None and ("\0" in self.bootargs or len(self.bootargs.encode("utf-8")) > _BOOTARGS_MAX):
            raise refuse(f"-append: at most {_BOOTARGS_MAX} bytes and no NUL")
        if not 0 <= self.transports <= MAX_TRANSPORTS:
            raise refuse(f"-machine virtio-mmio-transports: at most {MAX_TRANSPORTS}")
        if not 1 <= self.first_phandle <= _MAX_PHANDLE:
            raise refuse(f"-machine phandle-start: from 1 to {_MAX_PHANDLE:#x}")
        if self.initrd is not None and (self.boot != "kernel" or self.initrd.end > 1 << 64):
            raise refuse("-initrd: in the tree only with -kernel and without firmware")

    def _check_memory(self) -> None:
        if not MIB <= self.ram_size <= _MAX_RAM:
            raise refuse(f"-m: from {MIB} to {_MAX_RAM} bytes, not {self.ram_size}")
        if not self.ram_size <= self.largest_ram <= _MAX_RAM or not 0 <= self.ram_slots <= 256:
            raise refuse("-m: maxmem is less than the RAM or too much, or there are more than 256 slots")
        size = self.high_memory.pci_memory_size
        if size < HIGH_PCI_MEMORY_SIZE or size & (size - 1) or size > _MAX_RAM:
            raise refuse(f"-machine highmem-mmio-size: a power of two, from {HIGH_PCI_MEMORY_SIZE // GIB} GiB")
        if self.numa:
            assigned = sorted(cpu for node in self.numa for cpu in node.cpus)
            if assigned != list(range(self.topology.cpus)) or sum(node.size for node in self.numa) != self.ram_size:
                raise refuse("-numa: the nodes do not hold each CPU once, or not all of the RAM")

    def _check_interrupts(self) -> None:
        if self.gic == 2 and (self.topology.possible > _GIC2_CPUS or self.msi == "its"):
            raise refuse(f"-machine gic-version=2: at most {_GIC2_CPUS} CPUs, and no ITS")
        if self.gic == 4 and not self.virtualization:
            raise refuse("-machine gic-version=4: only with virtualization=on")
        high = self.high
        if self.gic != 2 and self.topology.possible > self.redistributor_cpus and high.redistributors is None:
            raise refuse(f"-smp: {self.topology.possible} CPUs need a second region of redistributors, which highmem has switched off")

    @property
    def virtual_el2_timer(self) -> bool:
        """The timer has a fifth interrupt."""
        known = self.machine_type is None or self.machine_type >= _VIRTUAL_EL2_TIMER_SINCE
        return self.virtualization and self.cpu.vhe and known and self.version.virtual_el2_timer

    @property
    def largest_ram(self) -> int:
        """RAM with everything that can be plugged in later."""
        return self.ram_size if self.ram_max is None else self.ram_max

    @property
    def high(self) -> HighRegions:
        """What lies above the RAM."""
        bits = self.address_bits or self.cpu.address_bits
        if bits is None:
            bits = _EVERY_HOST_BITS
            wanted = high_regions(self.high_memory, self.ram_size, self.largest_ram, self.ram_slots, _ANY_HOST_BITS)
            if wanted != high_regions(self.high_memory, self.ram_size, self.largest_ram, self.ram_slots, bits):
                raise refuse(f"-cpu {self.cpu.name}: the layout depends on the host's address bits; give --host-address-bits")
        return high_regions(self.high_memory, self.ram_size, self.largest_ram, self.ram_slots, bits)

    @property
    def redistributor_cpus(self) -> int:
        """CPUs whose redistributors fit into the first region."""
        return REDISTRIBUTORS.size // _REDISTRIBUTOR_SIZES[self.gic]

    @property
    def numa_nodes(self) -> tuple[NumaNode, ...]:
        """The nodes that the tree describes: QEMU makes one over everything if memory can be plugged in."""
        if self.numa or (self.largest_ram == self.ram_size and not self.ram_slots):
            return self.numa
        return (NumaNode(self.ram_size, frozenset(range(self.topology.cpus))),)

    @property
    def event_device(self) -> bool:
        """Power-off is signalled by ACPI, so no GPIO is in the tree."""
        return self.boot == "firmware" and self.acpi


def cpu_numa_node(nodes: tuple[NumaNode, ...], cpu: int) -> int | None:
    """Return the number of the node that has ``cpu``."""
    return next((number for number, node in enumerate(nodes) if cpu in node.cpus), None)


def numa_regions(nodes: tuple[NumaNode, ...], base: int) -> tuple[Region, ...]:
    """Return the RAM of each node; the nodes follow one another."""
    sizes = [0, *(node.size for node in nodes)]
    ends = [base + sum(sizes[: count + 1]) for count in range(len(sizes))]
    return tuple(Region(start, end - start) for start, end in pairwise(ends))
