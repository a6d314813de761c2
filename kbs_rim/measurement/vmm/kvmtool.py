"""kvmtool: where it puts things, and the device tree made for it.

Implements ``specs/vmm-platforms.md`` 2.2 and 3.3, with 8.2 (IPA width), 8.3 (a PMU only where one is asked for) and 8.5 (the
entry point includes text_offset) done right. The tree is the one a patched kvmtool is given with ``--dtb``.
"""

from collections.abc import Iterator

from kbs_rim.limits import KIB, MIB
from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text, write_device_tree
from kbs_rim.measurement.vmm import tree_parts as parts
from kbs_rim.measurement.vmm.profile import LOG_AREA_SIZE, Placement, Region, VmLayout, VmRequest, realm_create, refuse, up

RAM_BASE = 0x80000000
RAM_STEP = 2 * MIB
LOAD_LIMIT = 0x90000000
"""Device tree, initrd and log lie below this address however much RAM there is."""
TREE_SIZE = 64 * KIB
TREE_ALIGNMENT = 2 * MIB
_INITRD_ALIGNMENT = 4

_UARTS = tuple(Region(0x01000000 + 0x1000 * number, 8) for number in range(4))
_UART_HZ = 1_843_200
_RTC = Region(0x01010000, 2)
_VIRTIO_BASE, _VIRTIO_SIZE, _VIRTIO_FIRST_SPI = 0x03000000, 0x200, 4
_DISTRIBUTOR = Region(0x3FFF0000, 0x10000)
_REDISTRIBUTOR_SIZE, _ITS_SIZE = 0x20000, 0x20000
_PCI_CONFIG = Region(0x40000000, 0x10000000)
_PCI_MEMORY = Region(0x50000000, 0x30000000)
_PCI_IO_SIZE = 0x10000
_PCI_SLOTS, _PCI_FIRST_SPI = 32, 64
_GIC, _ITS = 1, 2
"""phandles."""
_BOOTARGS = " console=hvc0 root=/dev/vda rw "


def plan(request: VmRequest) -> VmLayout:
    """Return what kvmtool does for ``request``; raises ``InvalidDocument`` (``document.vm``) if it cannot be."""
    if request.ram_size % RAM_STEP:
        raise refuse(f"kvmtool takes RAM in steps of {RAM_STEP} bytes")
    if request.ram_max is not None or request.hotplug_slots:
        raise refuse("kvmtool has no memory hotplug")
    ram = Region(RAM_BASE, request.ram_size)
    limit = min(ram.end, LOAD_LIMIT)
    log_area = None
    if request.measurement_log:
        limit -= LOG_AREA_SIZE
        log_area = Region(limit, LOG_AREA_SIZE)
    tree_base = up(limit - TREE_SIZE - TREE_ALIGNMENT, TREE_ALIGNMENT)
    placements = tuple(_placements(request, tree_base))
    starts = {place.role: place.base for place in placements}
    initrd = next((Region(place.base, place.size) for place in placements if place.role == "initrd"), None)
    return VmLayout(
        params=realm_create(request, max(32, (ram.end - 1).bit_length()) + 1),
        ram=ram,
        placements=placements,
        device_tree_base=tree_base,
        device_tree=write_device_tree(_tree(request, ram, initrd, log_area), padded_to=TREE_SIZE),
        log_area=log_area,
        pc=0 if request.boot == "none" else starts[request.boot],
        x0=tree_base,
    )


def _placements(request: VmRequest, tree_base: int) -> Iterator[Placement]:
    if request.kernel_size is not None and request.kernel_header is not None:
        yield Placement("kernel", RAM_BASE + request.kernel_header.text_offset, request.kernel_size)
    if request.firmware_size is not None:
        base = RAM_BASE if request.firmware_base is None else request.firmware_base
        if not RAM_BASE <= base <= RAM_BASE + request.ram_size - request.firmware_size:
            raise refuse("firmware does not fit into the RAM")
        yield Placement("firmware", base, request.firmware_size)
    if request.initrd_size is not None:
        base = up(tree_base - (request.initrd_size + _INITRD_ALIGNMENT), _INITRD_ALIGNMENT)
        yield Placement("initrd", base, request.initrd_size)


def _tree(request: VmRequest, ram: Region, initrd: Region | None, log_area: Region | None) -> Node:
    bootargs = _BOOTARGS + (f" {request.bootargs}" if request.bootargs else "")
    return parts.machine(parts.chosen(bootargs, initrd), ram, request.cpus, _GIC, _devices(request, log_area))


def _devices(request: VmRequest, log_area: Region | None) -> Iterator[Node]:
    yield _gic(request)
    if log_area is not None:
        event_log = parts.device("event-log", log_area, {"compatible": text("cc-event-log"), "reg": cells64(*log_area)})
        yield Node("reserved-memory", {"#address-cells": cells(2), "#size-cells": cells(2), "ranges": EMPTY}, (event_log,))
    yield parts.timer(parts.LEVEL_LOW)
    if request.pmu:
        yield parts.pmu()
    for number, region in enumerate(_UARTS):
        yield parts.device("U6_16550A", region, _uart(number, region))
    for number in range(request.virtio_mmio):
        region = Region(_VIRTIO_BASE + number * _VIRTIO_SIZE, _VIRTIO_SIZE)
        yield parts.device("virtio", region, _virtio(number, region))
    yield parts.device("rtc", _RTC, {"compatible": text("motorola,mc146818"), "reg": cells64(*_RTC)})
    yield parts.device("pci", _PCI_CONFIG, _pci(its=request.its))


def _gic(request: VmRequest) -> Node:
    size = request.cpus * _REDISTRIBUTOR_SIZE
    redistributors = Region(_DISTRIBUTOR.base - size, size)
    properties = {
        "compatible": text("arm,gic-v3"),
        "#interrupt-cells": cells(3),
        "interrupt-controller": EMPTY,
        "reg": cells64(*_DISTRIBUTOR, *redistributors),
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


def _pci(*, its: bool) -> dict[str, bytes]:
    interrupt_map = [
        cell for slot in range(_PCI_SLOTS) for cell in (slot << 11, 0, 0, 1, _GIC, 0, 0, parts.SPI, _PCI_FIRST_SPI + slot, parts.LEVEL_HIGH)
    ]
    io_window = (parts.PCI_IO, 0, 0, 0, 0, 0, _PCI_IO_SIZE)
    memory_window = (parts.PCI_MEMORY, 0, _PCI_MEMORY.base, *parts.split(_PCI_MEMORY.base), *parts.split(_PCI_MEMORY.size))
    properties = {
        "device_type": text("pci"),
        "#address-cells": cells(3),
        "#size-cells": cells(2),
        "dma-coherent": EMPTY,
        "bus-range": cells(0, 0),
        "compatible": text("pci-host-ecam-generic"),
        "reg": cells64(*_PCI_CONFIG),
        "ranges": cells(*io_window, *memory_window),
        "interrupt-map": cells(*interrupt_map),
        "interrupt-map-mask": cells(0xF800, 0, 0, 7),
        "#interrupt-cells": cells(1),
    }
    if its:
        properties["msi-map"] = cells(0, _ITS, 0, parts.MSI_RID_COUNT)
    return properties
