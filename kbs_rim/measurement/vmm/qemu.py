"""QEMU's virt machine for realms: where it puts things, and the device tree made for it.

Implements ``specs/vmm-platforms.md`` 2.3 and 3.4, with 8.5 (the entry point includes text_offset) done right. The tree is meant
to be given with ``-dtb``, which QEMU then loads unchanged; what QEMU generates itself is another, 1 MiB tree.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kbs_rim.limits import GRANULE_SIZE, MIB
from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text, write_device_tree
from kbs_rim.measurement.vmm import tree_parts as parts
from kbs_rim.measurement.vmm.profile import GIB, LOG_AREA_SIZE, Placement, Region, VmLayout, VmRequest, realm_create, refuse, up

RAM_BASE = 0x40000000
FIRMWARE = Region(0, 0x08000000)
TREE_ALIGNMENT = 2 * MIB
TREE_AREA_SIZE = 1 * MIB
"""The log area follows the space that QEMU reserves for a tree, however long the tree is."""
_INITRD_OFFSET_MAX = 128 * MIB

_DISTRIBUTOR = Region(0x08000000, 0x10000)
_ITS_REGION = Region(0x08080000, 0x20000)
_REDISTRIBUTORS = Region(0x080A0000, 0xF60000)
_REDISTRIBUTOR_CPUS = 123
_UART = Region(0x09000000, 0x1000)
_RTC = Region(0x09010000, 0x1000)
_FW_CFG = Region(0x09020000, 0x18)
_VIRTIO_BASE, _VIRTIO_SIZE, _VIRTIO_COUNT, _VIRTIO_FIRST_SPI = 0x0A000000, 0x200, 32, 16
_PLATFORM_BUS = Region(0x0C000000, 0x02000000)
_PCI_MEMORY = Region(0x10000000, 0x2EFF0000)
_PCI_IO = Region(0x3EFF0000, 0x10000)
_PCI_FIRST_SPI, _PCI_PINS = 3, 4
_UART_SPI, _RTC_SPI = 1, 2
_HIGH_BASE_MIN = 256 * GIB
_HIGH_REDISTRIBUTORS_SIZE, _PCI_CONFIG_SIZE, _PCI_HIGH_MEMORY_SIZE = 64 * MIB, 256 * MIB, 512 * GIB
_CLOCK = 0x8000
"""First phandle; the CPUs take the next ones, then come GIC and ITS."""


@dataclass(frozen=True, slots=True)
class _HighRegions:
    """What lies above the RAM, each region aligned to its size."""

    redistributors: Region
    pci_config: Region
    pci_memory: Region

    @classmethod
    def of(cls, request: VmRequest) -> "_HighRegions":
        hotplug = (request.ram_max or request.ram_size) - request.ram_size + request.hotplug_slots * GIB
        top = max(up(RAM_BASE + request.ram_size, GIB) + up(hotplug, GIB), _HIGH_BASE_MIN)
        regions = []
        for size in (_HIGH_REDISTRIBUTORS_SIZE, _PCI_CONFIG_SIZE, _PCI_HIGH_MEMORY_SIZE):
            regions.append(Region(up(top, size), size))
            top = regions[-1].end
        return cls(*regions)


def plan(request: VmRequest) -> VmLayout:
    """Return what QEMU does for ``request``; raises ``InvalidDocument`` (``document.vm``) if it cannot be.

    With firmware the kernel and initrd go through fw_cfg and are not in the RIM, so they are not among the placements.
    """
    _check(request)
    ram = Region(RAM_BASE, request.ram_size)
    high = _HighRegions.of(request)
    kernel_base, initrd_base = _kernel_and_initrd(request)
    initrd = None if request.initrd_size is None else Region(initrd_base, request.initrd_size)
    placements: tuple[Placement, ...] = ()
    tree_base, pc, x0 = RAM_BASE, RAM_BASE, RAM_BASE
    if request.boot == "firmware" and request.firmware_size is not None:
        placements = (Placement("firmware", FIRMWARE.base, request.firmware_size),)
        pc, x0 = FIRMWARE.base, 0
    elif request.boot == "kernel" and request.kernel_size is not None:
        tree_base = x0 = up(initrd_base + (request.initrd_size or 0), TREE_ALIGNMENT)
        pc = kernel_base
        placements = (Placement("kernel", kernel_base, request.kernel_size),)
        placements += () if initrd is None else (Placement("initrd", *initrd),)
    log_area = Region(tree_base + TREE_AREA_SIZE, LOG_AREA_SIZE) if request.measurement_log else None
    return VmLayout(
        params=realm_create(request, (high.pci_memory.end - 1).bit_length() + 1),
        ram=ram,
        placements=placements,
        device_tree_base=tree_base,
        device_tree=write_device_tree(_tree(request, ram, high, initrd, log_area)),
        log_area=log_area,
        pc=pc,
        x0=x0,
    )


def _check(request: VmRequest) -> None:
    if request.firmware_base is not None or request.virtio_mmio:
        raise refuse("firmware_base and virtio_mmio are kvmtool's; QEMU's virt machine fixes both")
    if request.initrd_size is not None and request.kernel_size is None:
        raise refuse("QEMU loads an initrd only with a kernel")
    if request.firmware_size is not None and request.firmware_size > FIRMWARE.size:
        raise refuse(f"firmware has at most {FIRMWARE.size} bytes")


def _kernel_and_initrd(request: VmRequest) -> tuple[int, int]:
    """Addresses of both; the second is where an initrd would be, if there is none."""
    header = request.kernel_header
    kernel_base = RAM_BASE + (header.text_offset if header else 0)
    kernel_end = kernel_base + (header.image_size if header else 0)
    return kernel_base, up(max(RAM_BASE + min(request.ram_size // 2, _INITRD_OFFSET_MAX), kernel_end), GRANULE_SIZE)


def _tree(request: VmRequest, ram: Region, high: _HighRegions, initrd: Region | None, log_area: Region | None) -> Node:
    gic_phandle = _CLOCK + request.cpus + 1
    devices = _devices(request, high, log_area, gic_phandle)
    return parts.machine(parts.chosen(request.bootargs, initrd), ram, request.cpus, gic_phandle, devices)


def _devices(request: VmRequest, high: _HighRegions, log_area: Region | None, gic_phandle: int) -> Iterator[Node]:
    its_phandle = gic_phandle + 1 if request.its else None
    yield parts.device("platform-bus", _PLATFORM_BUS, _platform_bus(gic_phandle))
    if log_area is not None:
        event_log = parts.device("event-log", log_area, {"reg": cells64(*log_area), "compatible": text("cc-event-log")})
        yield Node("reserved-memory", {"ranges": EMPTY, "#size-cells": cells(2), "#address-cells": cells(2)}, (event_log,))
    yield parts.device("fw-cfg", _FW_CFG, {"dma-coherent": EMPTY, "reg": cells64(*_FW_CFG), "compatible": text("qemu,fw-cfg-mmio")})
    for number in range(_VIRTIO_COUNT):
        region = Region(_VIRTIO_BASE + number * _VIRTIO_SIZE, _VIRTIO_SIZE)
        yield parts.device("virtio_mmio", region, _virtio(number, region))
    yield parts.device("pcie", _PCI_MEMORY, _pcie(high, gic_phandle, its_phandle))
    yield parts.device("pl031", _RTC, _primecell("arm,pl031", _RTC, _RTC_SPI, ("apb_pclk",)))
    yield parts.device("pl011", _UART, _primecell("arm,pl011", _UART, _UART_SPI, ("uartclk", "apb_pclk")))
    if request.pmu:
        yield parts.pmu()
    more = (high.redistributors,) if request.cpus > _REDISTRIBUTOR_CPUS else ()
    regions = (_DISTRIBUTOR, _REDISTRIBUTORS, *more)
    yield parts.gic(regions, gic_phandle, None if its_phandle is None else (_ITS_REGION, its_phandle))
    yield parts.timer(parts.LEVEL_HIGH)
    yield parts.fixed_clock(_CLOCK)


def _platform_bus(gic_phandle: int) -> dict[str, bytes]:
    return {
        "interrupt-parent": cells(gic_phandle),
        "ranges": cells(0, 0, *_PLATFORM_BUS),
        "#address-cells": cells(1),
        "#size-cells": cells(1),
        "compatible": text("qemu,platform", "simple-bus"),
    }


def _virtio(number: int, region: Region) -> dict[str, bytes]:
    return {
        "dma-coherent": EMPTY,
        "interrupts": cells(parts.SPI, _VIRTIO_FIRST_SPI + number, parts.EDGE),
        "reg": cells64(*region),
        "compatible": text("virtio,mmio"),
    }


def _primecell(compatible: str, region: Region, interrupt: int, clock_names: tuple[str, ...]) -> dict[str, bytes]:
    return {
        "clock-names": text(*clock_names),
        "reg": cells64(*region),
        "clocks": cells(*(_CLOCK for _ in clock_names)),
        "interrupts": cells(parts.SPI, interrupt, parts.LEVEL_HIGH),
        "compatible": text(compatible, "arm,primecell"),
    }


def _pcie(high: _HighRegions, gic_phandle: int, its_phandle: int | None) -> dict[str, bytes]:
    interrupt_map = [
        cell
        for slot in range(_PCI_PINS)
        for pin in range(_PCI_PINS)
        for cell in (
            slot << 11, 0, 0, pin + 1, gic_phandle, 0, 0, parts.SPI, _PCI_FIRST_SPI + (pin + slot) % _PCI_PINS, parts.LEVEL_HIGH,
        )
    ]  # fmt: skip
    windows = (
        (parts.PCI_IO, 0, _PCI_IO),
        (parts.PCI_MEMORY, _PCI_MEMORY.base, _PCI_MEMORY),
        (parts.PCI_MEMORY_64, high.pci_memory.base, high.pci_memory),
    )
    ranges = [
        cell
        for space, bus_address, region in windows
        for cell in (space, *parts.split(bus_address), *parts.split(region.base), *parts.split(region.size))
    ]
    properties = {
        "interrupt-map": cells(*interrupt_map),
        "interrupt-map-mask": cells(0x1800, 0, 0, 7),
        "#interrupt-cells": cells(1),
        "ranges": cells(*ranges),
        "reg": cells64(*high.pci_config),
    }
    if its_phandle is not None:
        properties["msi-map"] = cells(0, its_phandle, 0, parts.MSI_RID_COUNT)
    return properties | {
        "dma-coherent": EMPTY,
        "bus-range": cells(0, 0xFF),
        "linux,pci-domain": cells(0),
        "#size-cells": cells(2),
        "#address-cells": cells(3),
        "device_type": text("pci"),
        "compatible": text("pci-host-ecam-generic"),
    }
