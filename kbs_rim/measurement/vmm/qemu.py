"""The device tree made for QEMU's virt machine; QEMU loads it unchanged with ``-dtb``. What QEMU makes itself is ``stock_qemu``."""

from collections.abc import Iterator, Mapping

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm import tree_parts as parts
from kbs_rim.measurement.vmm.memory_map import MemoryMap
from kbs_rim.measurement.vmm.profile import Region, VmRequest

_REDISTRIBUTOR_CPUS = 123
"""How many redistributors the lower region has."""
_VIRTIO_COUNT, _VIRTIO_FIRST_SPI = 32, 16
_PCI_FIRST_SPI, _PCI_PINS = 3, 4
_UART_SPI, _RTC_SPI = 1, 2
CLOCK = 0x8000
"""First phandle; the CPUs take the next ones, then come GIC and ITS."""


def gic_phandle_of(request: VmRequest) -> int:
    """Return the GIC's phandle; the ITS has the next one."""
    return CLOCK + request.cpus + 1


def qemu_tree(request: VmRequest, memory: MemoryMap) -> Node:
    """Return the root of the tree."""
    gic_phandle = gic_phandle_of(request)
    head = parts.chosen(request.bootargs, memory.things.get("initrd"))
    return parts.machine(head, memory.ram, request.cpus, gic_phandle, _devices(request, memory, gic_phandle))


def reserved_memory(log_area: Region) -> Node:
    """Return the node that keeps the guest away from the measurement log."""
    event_log = parts.device("event-log", log_area, {"reg": cells64(*log_area), "compatible": text("cc-event-log")})
    return Node("reserved-memory", {"ranges": EMPTY, "#size-cells": cells(2), "#address-cells": cells(2)}, (event_log,))


def gic_regions(request: VmRequest, devices: Mapping[str, Region]) -> tuple[Region, ...]:
    """Return distributor and redistributors; many CPUs need a second region of these."""
    more = (devices["high-redistributors"],) if request.cpus > _REDISTRIBUTOR_CPUS else ()
    return devices["distributor"], devices["redistributors"], *more


def _devices(request: VmRequest, memory: MemoryMap, gic_phandle: int) -> Iterator[Node]:
    devices = memory.devices
    its_phandle = gic_phandle + 1 if request.its else None
    yield parts.device("platform-bus", devices["platform-bus"], _platform_bus(devices["platform-bus"], gic_phandle))
    if "log" in memory.things:
        yield reserved_memory(memory.things["log"])
    fw_cfg = devices["fw-cfg"]
    yield parts.device("fw-cfg", fw_cfg, {"dma-coherent": EMPTY, "reg": cells64(*fw_cfg), "compatible": text("qemu,fw-cfg-mmio")})
    for number in range(_VIRTIO_COUNT):
        region = Region(devices["virtio"].base + number * devices["virtio"].size, devices["virtio"].size)
        yield parts.device("virtio_mmio", region, _virtio(number, region))
    yield parts.device("pcie", devices["pci-memory"], _pcie(devices, gic_phandle, its_phandle))
    yield parts.device("pl031", devices["rtc"], _primecell("arm,pl031", devices["rtc"], _RTC_SPI, ("apb_pclk",)))
    yield parts.device("pl011", devices["uart"], _primecell("arm,pl011", devices["uart"], _UART_SPI, ("uartclk", "apb_pclk")))
    if request.pmu:
        yield parts.pmu()
    yield parts.gic(gic_regions(request, devices), gic_phandle, None if its_phandle is None else (devices["its"], its_phandle))
    yield parts.timer(parts.LEVEL_HIGH)
    yield parts.fixed_clock(CLOCK)


def _platform_bus(bus: Region, gic_phandle: int) -> dict[str, bytes]:
    return {
        "interrupt-parent": cells(gic_phandle),
        "ranges": cells(0, 0, *bus),
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
        "clocks": cells(*(CLOCK for _ in clock_names)),
        "interrupts": cells(parts.SPI, interrupt, parts.LEVEL_HIGH),
        "compatible": text(compatible, "arm,primecell"),
    }


def interrupt_map(gic_phandle: int) -> bytes:
    """Return the PCI host's interrupt-map: four slots, four pins, four interrupts in turn."""
    return cells(*(
        cell
        for slot in range(_PCI_PINS)
        for pin in range(_PCI_PINS)
        for cell in (
            slot << 11, 0, 0, pin + 1, gic_phandle, 0, 0, parts.SPI, _PCI_FIRST_SPI + (pin + slot) % _PCI_PINS, parts.LEVEL_HIGH,
        )
    ))  # fmt: skip


def pci_ranges(devices: Mapping[str, Region]) -> bytes:
    """Return the PCI host's windows: I/O ports, memory, memory above the RAM."""
    windows = (
        (parts.PCI_IO, 0, devices["pci-io"]),
        (parts.PCI_MEMORY, devices["pci-memory"].base, devices["pci-memory"]),
        (parts.PCI_MEMORY_64, devices["high-pci-memory"].base, devices["high-pci-memory"]),
    )
    return cells(*(
        cell
        for space, bus_address, region in windows
        for cell in (space, *parts.split(bus_address), *parts.split(region.base), *parts.split(region.size))
    ))  # fmt: skip


def _pcie(devices: Mapping[str, Region], gic_phandle: int, its_phandle: int | None) -> dict[str, bytes]:
    properties = {
        "interrupt-map": interrupt_map(gic_phandle),
        "interrupt-map-mask": cells(0x1800, 0, 0, 7),
        "#interrupt-cells": cells(1),
        "ranges": pci_ranges(devices),
        "reg": cells64(*devices["high-pci-config"]),
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
