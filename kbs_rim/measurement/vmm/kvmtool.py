"""The device tree made for kvmtool; it is given with ``--dtb`` to a patched one."""

from collections.abc import Iterator

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm import tree_parts as parts
from kbs_rim.measurement.vmm.memory_map import MemoryMap
from kbs_rim.measurement.vmm.profile import Region, VmRequest

_UARTS, _UART_STRIDE, _UART_HZ = 4, 0x1000, 1_843_200
_VIRTIO_FIRST_SPI = 4
_REDISTRIBUTOR_SIZE, _ITS_SIZE = 0x20000, 0x20000
_PCI_IO_SIZE = 0x10000
_PCI_SLOTS, _PCI_FIRST_SPI = 32, 64
_GIC, _ITS = 1, 2
"""phandles."""
_BOOTARGS = " console=hvc0 root=/dev/vda rw "


def bootargs_of(request: VmRequest) -> str:
    """Return the command line that kvmtool makes: its own arguments, then the user's."""
    return _BOOTARGS + (f" {request.bootargs}" if request.bootargs else "")


def kvmtool_tree(request: VmRequest, memory: MemoryMap) -> Node:
    """Return the root of the tree."""
    head = parts.chosen(bootargs_of(request), memory.things.get("initrd"))
    return parts.machine(head, memory.ram, request.cpus, _GIC, _devices(request, memory))


def _devices(request: VmRequest, memory: MemoryMap) -> Iterator[Node]:
    devices = memory.devices
    yield interrupt_controller(request, memory)
    if "log" in memory.things:
        yield reserved_memory(memory.things["log"])
    yield parts.timer(parts.LEVEL_LOW)
    if request.pmu:
        yield parts.pmu()
    for number in range(_UARTS):
        region = Region(devices["uart"].base + number * _UART_STRIDE, devices["uart"].size)
        yield parts.device("U6_16550A", region, _uart(number, region))
    for number in range(request.virtio_mmio):
        region = Region(devices["virtio"].base + number * devices["virtio"].size, devices["virtio"].size)
        yield parts.device("virtio", region, _virtio(number, region))
    yield parts.device("rtc", devices["rtc"], {"compatible": text("motorola,mc146818"), "reg": cells64(*devices["rtc"])})
    yield parts.device("pci", devices["pci-config"], _pci(devices["pci-config"], devices["pci-memory"], its=request.its))


def reserved_memory(log_area: Region) -> Node:
    """Return the node that keeps the guest away from the measurement log."""
    event_log = parts.device("event-log", log_area, {"compatible": text("cc-event-log"), "reg": cells64(*log_area)})
    return Node("reserved-memory", {"#address-cells": cells(2), "#size-cells": cells(2), "ranges": EMPTY}, (event_log,))


def interrupt_controller(request: VmRequest, memory: MemoryMap) -> Node:
    """Return the GIC: redistributors below the distributor, the ITS below them."""
    distributor = memory.devices["distributor"]
    size = request.cpus * _REDISTRIBUTOR_SIZE
    redistributors = Region(distributor.base - size, size)
    properties = {
        "compatible": text("arm,gic-v3"),
        "#interrupt-cells": cells(3),
        "interrupt-controller": EMPTY,
        "reg": cells64(*distributor, *redistributors),
        "phandle": cells(_GIC),
        "#address-cells": cells(2),
        "#size-cells": cells(2),
        "ranges": EMPTY,
    }
    its = {
        "compatible": text("arm,gic-v3-its"),
        "msi-controller": EMPTY,
        "phandle": cells(_ITS),
        "reg": cells64(redistributors.base - _ITS_SIZE, _ITS_SIZE),
    }
    return Node("intc", properties, (Node("msic", its),) if request.its else ())


def _uart(number: int, region: Region) -> dict[str, bytes]:
    return {
        "compatible": text("ns16550a"),
        "reg": cells64(*region),
        "interrupts": cells(parts.SPI, number, parts.LEVEL_HIGH),
        "clock-frequency": cells(_UART_HZ),
    }


def _virtio(number: int, region: Region) -> dict[str, bytes]:
    return {
        "compatible": text("virtio,mmio"),
        "reg": cells64(*region),
        "dma-coherent": EMPTY,
        "interrupts": cells(parts.SPI, _VIRTIO_FIRST_SPI + number, parts.EDGE),
    }


def _pci(config: Region, memory: Region, *, its: bool) -> dict[str, bytes]:
    interrupt_map = [
        cell for slot in range(_PCI_SLOTS) for cell in (slot << 11, 0, 0, 1, _GIC, 0, 0, parts.SPI, _PCI_FIRST_SPI + slot, parts.LEVEL_HIGH)
    ]
    io_window = (parts.PCI_IO, 0, 0, 0, 0, 0, _PCI_IO_SIZE)
    memory_window = (parts.PCI_MEMORY, 0, memory.base, *parts.split(memory.base), *parts.split(memory.size))
    properties = {
        "device_type": text("pci"),
        "#address-cells": cells(3),
        "#size-cells": cells(2),
        "dma-coherent": EMPTY,
        "bus-range": cells(0, 0),
        "compatible": text("pci-host-ecam-generic"),
        "reg": cells64(*config),
        "ranges": cells(*io_window, *memory_window),
        "interrupt-map": cells(*interrupt_map),
        "interrupt-map-mask": cells(0xF800, 0, 0, 7),
        "#interrupt-cells": cells(1),
    }
    if its:
        properties["msi-map"] = cells(0, _ITS, 0, parts.MSI_RID_COUNT)
    return properties
