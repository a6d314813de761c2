"""The device tree that cloud-hypervisor makes. It takes none from outside."""

from collections.abc import Iterator, Mapping

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm import tree_parts as parts
from kbs_rim.measurement.vmm.memory_map import MemoryMap
from kbs_rim.measurement.vmm.profile import Region, VmRequest

_GIC, _ITS, _CLOCK = 1, 2, 3
"""phandles."""
_REDISTRIBUTOR_SIZE, _ITS_SIZE = 0x20000, 0x20000
_RTC_SPI, _UART_SPI = 8, 11
_MSI_RIDS = 0x100
"""Device ids of the one bus."""


def cloud_hypervisor_tree(request: VmRequest, memory: MemoryMap) -> Node:
    """Return the root of the tree. There is always an ITS, and always a PMU node, whatever the realm has."""
    head = parts.chosen(request.bootargs, memory.things.get("initrd"))
    return parts.machine(head, memory.ram, request.cpus, _GIC, _devices(request, memory.devices))


def _devices(request: VmRequest, devices: Mapping[str, Region]) -> Iterator[Node]:
    size = request.cpus * _REDISTRIBUTOR_SIZE
    redistributors = Region(devices["distributor"].base - size, size)
    its = Region(redistributors.base - _ITS_SIZE, _ITS_SIZE)
    yield parts.gic((devices["distributor"], redistributors), _GIC, (its, _ITS))
    yield parts.timer(parts.LEVEL_HIGH)
    yield parts.pmu()
    yield parts.fixed_clock(_CLOCK)
    yield parts.device("pl031", devices["rtc"], _primecell("arm,pl031", devices["rtc"], _RTC_SPI, parts.LEVEL_HIGH))
    if request.serial:
        yield parts.device("pl011", devices["uart"], _primecell("arm,pl011", devices["uart"], _UART_SPI, parts.EDGE))
    yield parts.device("pcie", devices["pci-config"], _pcie(devices))


def _primecell(compatible: str, region: Region, interrupt: int, trigger: int) -> dict[str, bytes]:
    return {
        "clock-names": text("apb_pclk"),
        "reg": cells64(*region),
        "clocks": cells(_CLOCK),
        "interrupts": cells(parts.SPI, interrupt, trigger),
        "compatible": text(compatible, "arm,primecell"),
    }


def _pcie(devices: Mapping[str, Region]) -> dict[str, bytes]:
    windows = (
        (parts.PCI_IO, 0, devices["pci-io"]),
        (parts.PCI_MEMORY, devices["pci-memory"].base, devices["pci-memory"]),
        (parts.PCI_MEMORY_64, devices["pci-high-memory"].base, devices["pci-high-memory"]),
    )
    ranges = [
        cell
        for space, bus_address, region in windows
        for cell in (space, *parts.split(bus_address), *parts.split(region.base), *parts.split(region.size))
    ]
    return {
        "ranges": cells(*ranges),
        "reg": cells64(*devices["pci-config"]),
        "msi-map": cells(0, _ITS, 0, _MSI_RIDS),
        "dma-coherent": EMPTY,
        "bus-range": cells(0, 0),
        "linux,pci-domain": cells(0),
        "#size-cells": cells(2),
        "#address-cells": cells(3),
        "device_type": text("pci"),
        "compatible": text("pci-host-ecam-generic"),
    }
