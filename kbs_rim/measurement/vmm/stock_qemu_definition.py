"""From what a command line says to the machine whose tree QEMU makes: defaults of QEMU, the version's limits, the host's facts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kbs_rim.limits import GRANULE_SIZE, MIB
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.vmm.argument_values import parse_number, parse_size, parse_switch
from kbs_rim.measurement.vmm.definition import refuse_argument
from kbs_rim.measurement.vmm.profile import LOG_AREA_SIZE, Region, refuse, up
from kbs_rim.measurement.vmm.qemu_sizes import QemuMemory, cpus_of, memory_of
from kbs_rim.measurement.vmm.stock_qemu_arguments import StockArguments
from kbs_rim.measurement.vmm.stock_qemu_blob import TREE_SIZE
from kbs_rim.measurement.vmm.stock_qemu_map import HIGH_PCI_MEMORY_SIZE, RAM_BASE, HighMemory
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches, CpuModel, QemuVersion
from kbs_rim.measurement.vmm.stock_qemu_request import MAX_TRANSPORTS, Boot, Msi, NumaNode, Seeds, StockQemu, Topology

_INITRD_OFFSET_MAX = 128 * MIB
_TREE_ALIGNMENT = 2 * MIB
_BOOT_CODE_SIZE = 4096
"""QEMU's own first instructions lie at the start of the RAM; a kernel that wants to be there goes 2 MiB further."""
_COMPACT_SINCE = (7, 2)
_GIC2_CPUS = 8
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the host decides with KVM; None is what is not known. ``address_bits`` are those of guest addresses."""

    pmu: bool | None = None
    address_bits: int | None = None
    caches: CpuCaches | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """The kernel's header and the initrd's size in bytes, where the tree depends on them."""

    kernel: Arm64Header | None = None
    initrd_size: int | None = None


@dataclass(frozen=True, slots=True)
class _Switches:
    """The -machine properties; options that the version does not have are refused."""

    values: Mapping[str, str]
    version: QemuVersion
    layout: frozenset[str] = field(default=frozenset({"highmem-ecam", "highmem-mmio", "highmem-redists", "compact-highmem"}))

    def __post_init__(self) -> None:
        missing: set[str] = set() if self.version.layout_options else set(self.layout)
        missing |= set() if self.version.mmio_size else {"highmem-mmio-size"}
        missing |= set() if self.version.msi_option else {"msi", "virtio-mmio-transports"}
        for name in sorted(missing & set(self.values)):
            raise refuse_argument(f"-machine {name}", f"QEMU {self.version.name} has no such property")

    def switch(self, name: str, default: bool) -> bool:
        value = parse_switch(f"-machine {name}", self.values[name]) if name in self.values else None
        return default if value is None else value


def needs_boot_files(arguments: StockArguments) -> bool:
    """Return whether the tree has addresses that follow from the kernel and the initrd."""
    return not arguments.firmware and (arguments.initrd is not None or (arguments.measurement_log and arguments.kernel is not None))


def stock_machine(arguments: StockArguments, version: QemuVersion, files: BootFiles, host: HostFacts, seeds: Seeds | None) -> StockQemu:
    """Return the machine. ``seeds`` are needed unless the command line has dtb-randomness=off, and only then; a realm's tree has
    none by itself.

    Raises ``InvalidDocument`` (``document.vm`` or ``document.vm-arguments``) that names the option.
    """
    switches = _Switches(arguments.machine, version)
    cpu = _cpu_model(arguments, version)
    topology = _topology(arguments.smp)
    ram_size, ram_max, slots = _memory(arguments.memory)
    gic = _gic(arguments, switches, topology)
    boot: Boot = "firmware" if arguments.firmware else "kernel" if arguments.kernel is not None else "none"
    initrd, log_area = _placements(arguments, files, ram_size)
    iommu = arguments.machine.get("iommu", "none")
    if iommu not in ("none", "smmuv3"):
        raise refuse_argument("-machine iommu", f"{iommu[:20]} is neither none nor smmuv3")
    for name in ("virtualization", "secure"):
        if arguments.kvm and switches.switch(name, False):
            raise refuse_argument(f"-machine {name}", "is not known with KVM")
    return StockQemu(
        version=version,
        machine_type=arguments.machine_type,
        cpu=cpu,
        topology=topology,
        ram_size=ram_size,
        ram_max=ram_max,
        ram_slots=slots,
        numa=_numa(arguments, topology),
        gic=gic,
        msi=_msi(switches, gic),
        pmu=_pmu(arguments, host),
        virtualization=switches.switch("virtualization", False),
        secure=switches.switch("secure", False),
        smmu=iommu == "smmuv3",
        virtio_iommu=arguments.virtio_iommu,
        bypass_iommu=switches.switch("default-bus-bypass-iommu", False),
        boot=boot,
        acpi=arguments.acpi,
        bootargs=arguments.bootargs,
        initrd=initrd,
        serials=2 if arguments.second_serial else 1,
        transports=_transports(switches),
        high_memory=_high_memory(switches, arguments.machine_type),
        address_bits=host.address_bits if cpu.address_bits is None else None,
        caches=host.caches if cpu.caches is None else None,
        seeds=_seeds(switches, seeds, realm=arguments.realm),
        first_phandle=_phandle(arguments.machine),
        realm=arguments.realm,
        log_area=log_area,
    )


def _cpu_model(arguments: StockArguments, version: QemuVersion) -> CpuModel:
    if arguments.kvm:
        if arguments.cpu not in ("host", "max"):
            raise refuse_argument("-cpu", "with KVM only host and max are known: write -cpu host")
        return version.cpus["host"]
    if arguments.cpu is None:
        raise refuse_argument("-cpu", "is missing: QEMU's own choice is a 32-bit CPU, whose tree is not known")
    if arguments.cpu == "host" or arguments.cpu not in version.cpus:
        known = ", ".join(sorted(set(version.cpus) - {"host"}))
        raise refuse_argument("-cpu", f"{arguments.cpu[:40]} is not known for QEMU {version.name} without KVM; known are {known}")
    return version.cpus[arguments.cpu]


def _pmu(arguments: StockArguments, host: HostFacts) -> bool:
    pmu = host.pmu if arguments.pmu is None and arguments.kvm else arguments.pmu
    if pmu is None and arguments.kvm:
        raise refuse_argument(
            "-cpu", "with KVM the host decides whether there is a PMU: write pmu=on or pmu=off, or give --host-pmu or --no-host-pmu"
        )
    return pmu is not False


def _topology(given: Mapping[str, str]) -> Topology:
    cpus, shape = cpus_of(given)
    return Topology(cpus, shape.sockets, shape.clusters, shape.cores, shape.threads)


def _memory(given: Mapping[str, str]) -> QemuMemory:
    memory = memory_of(given)
    if memory.slots and (memory.largest is None or memory.largest <= memory.size):
        raise refuse_argument("-m slots", "QEMU wants maxmem beside it, and more than the RAM")
    return memory


def _gic(arguments: StockArguments, switches: _Switches, topology: Topology) -> Literal[2, 3, 4]:
    text = arguments.machine.get("gic-version")
    if text in ("2", "3", "4"):
        return {"2": 2, "3": 3, "4": 4}[text]  # type: ignore[return-value]
    if arguments.realm and text in (None, "host", "max"):
        return 3
    if arguments.kvm:
        raise refuse_argument("-machine gic-version", "with KVM the host decides: write 2, 3 or 4")
    if text == "max":
        return 4 if switches.switch("virtualization", False) else 3
    if text is None:
        if topology.possible <= _GIC2_CPUS:
            return 2
        if switches.version.version >= (8, 0):
            return 3
    raise refuse_argument("-machine gic-version", "write 2, 3 or 4")


def _msi(switches: _Switches, gic: int) -> Msi | None:
    text = switches.values.get("msi", "auto")
    if text not in ("auto", "its", "gicv2m", "off"):
        raise refuse_argument("-machine msi", f"{text[:20]} is not one of auto, its, gicv2m, off")
    if text != "auto":
        return {"its": "its", "gicv2m": "v2m", "off": None}[text]
    if gic == 2:
        if switches.version.msi_option and switches.switch("its", False):
            raise refuse_argument("-machine its", "QEMU refuses an ITS with GICv2: write gic-version=3")
        return "v2m"
    return "its" if switches.switch("its", True) else None


def _high_memory(switches: _Switches, machine_type: tuple[int, int] | None) -> HighMemory:
    compact = machine_type is None or machine_type >= _COMPACT_SINCE
    size = switches.values.get("highmem-mmio-size")
    return HighMemory(
        highmem=switches.switch("highmem", True),
        redistributors=switches.switch("highmem-redists", True),
        pci_config=switches.switch("highmem-ecam", True),
        pci_memory=switches.switch("highmem-mmio", True),
        pci_memory_size=HIGH_PCI_MEMORY_SIZE if size is None else parse_size("-machine highmem-mmio-size", size, unit=1),
        compact=switches.switch("compact-highmem", compact),
    )


def _transports(switches: _Switches) -> int:
    text = switches.values.get("virtio-mmio-transports")
    return MAX_TRANSPORTS if text is None else parse_number("-machine virtio-mmio-transports", text, 0, MAX_TRANSPORTS)


def _phandle(machine: Mapping[str, str]) -> int:
    text = machine.get("phandle-start")
    return 0x8000 if text is None else parse_number("-machine phandle-start", text, 1, 0xFFFF_0000, hexadecimal=True)


def _seeds(switches: _Switches, seeds: Seeds | None, *, realm: bool) -> Seeds | None:
    """The series for realms draws none unless told to; who knows the seeds of one all the same may give them."""
    unless_told = seeds is not None if realm else True
    random = switches.switch("dtb-randomness", switches.switch("dtb-kaslr-seed", unless_told))
    if random and seeds is None:
        raise refuse_argument("-machine dtb-randomness", "must be off, or the seeds of that very boot be given (--kaslr-seed, --rng-seed)")
    if seeds is not None and not random:
        raise refuse_argument("-machine dtb-randomness", "is off: there are no seeds")
    return seeds


def _numa(arguments: StockArguments, topology: Topology) -> tuple[NumaNode, ...]:
    nodes: dict[int, NumaNode] = {}
    given = any("cpus" in node for node in arguments.numa)
    for position, node in enumerate(arguments.numa):
        number = parse_number("-numa nodeid", node["nodeid"][-1], 0, 127) if "nodeid" in node else position
        backend = node.get("memdev", ("",))[-1]
        if number in nodes or (backend and not arguments.backends.get(backend)):
            raise refuse_argument("-numa", f"node {number} is there twice, or its memdev has no size")
        nodes[number] = NumaNode(arguments.backends.get(backend, 0), _node_cpus(node, number, len(arguments.numa), topology, given))
    if sorted(nodes) != list(range(len(nodes))):
        raise refuse_argument("-numa nodeid", "the nodes are not numbered from 0 without gaps")
    return tuple(nodes[number] for number in range(len(nodes)))


def _node_cpus(node: Mapping[str, tuple[str, ...]], number: int, count: int, topology: Topology, given: bool) -> frozenset[int]:
    if not given:
        per_socket = topology.possible // topology.sockets
        return frozenset(cpu for cpu in range(topology.cpus) if cpu // per_socket % count == number)
    found: set[int] = set()
    for text in node.get("cpus", ()):
        match = _CPU_RANGE.fullmatch(text)
        if match is None:
            raise refuse_argument("-numa cpus", f"{text[:40]} is neither a number nor a range")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpu for cpu in found if cpu < topology.cpus)


def _placements(arguments: StockArguments, files: BootFiles, ram_size: int) -> tuple[Region | None, Region | None]:
    """Where the initrd and the measurement log are; the log follows the space for the tree, and that the initrd."""
    tree, initrd = RAM_BASE, None
    if needs_boot_files(arguments):
        if files.kernel is None or (arguments.initrd is not None and files.initrd_size is None):
            raise refuse_argument("-kernel", "the tree depends on the size of the kernel and the initrd; both must be there")
        base = _initrd_base(files.kernel, ram_size, realm=arguments.realm)
        end = base + (files.initrd_size or 0)
        if end > RAM_BASE + ram_size:
            raise refuse("-initrd: it does not fit into the RAM")
        initrd = None if arguments.initrd is None else Region(base, end - base)
        tree = up(end, _TREE_ALIGNMENT)
    return initrd, Region(tree + TREE_SIZE, LOG_AREA_SIZE) if arguments.measurement_log else None


def _initrd_base(kernel: Arm64Header, ram_size: int, *, realm: bool) -> int:
    """A realm starts in its kernel, without the boot code, so the kernel lies where it asks to."""
    if not kernel.image_size:
        raise refuse_argument("-kernel", "a kernel from before Linux 3.17, which does not say its size, is not known")
    offset = kernel.text_offset + (_TREE_ALIGNMENT if kernel.text_offset < _BOOT_CODE_SIZE and not realm else 0)
    kernel_end = RAM_BASE + offset + kernel.image_size
    return up(max(RAM_BASE + min(ram_size // 2, _INITRD_OFFSET_MAX), kernel_end), GRANULE_SIZE)
