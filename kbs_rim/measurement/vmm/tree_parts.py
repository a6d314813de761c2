"""Pieces that the generated device trees of all VMMs share, in the reference's order of nodes and properties.

Values are big-endian cells; unit addresses are hex, CPU numbers decimal, as the reference tool writes them though the Devicetree
Specification (2.2.1.1) wants hex: another name would be another RIM.
"""

from collections.abc import Iterable, Mapping

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm.profile import Region

SPI, PPI = 0, 1
EDGE, LEVEL_HIGH, LEVEL_LOW = 1, 4, 8
PCI_IO, PCI_MEMORY, PCI_MEMORY_64 = 0x01000000, 0x02000000, 0x03000000
MSI_RID_COUNT = 0x10000
_TIMER_PPIS = (13, 14, 11)
_PMU_PPI = 7
_CLOCK_HZ = 24_000_000


def split(value: int) -> tuple[int, int]:
    """Split 64 bits into two cells."""
    return value >> 32, value & 0xFFFFFFFF


def chosen(bootargs: str | None, initrd: Region | None) -> Node:
    """/chosen: boot arguments if set, the initrd if there is one."""
    properties: dict[str, bytes] = {} if bootargs is None else {"bootargs": text(bootargs)}
    if initrd is not None:
        properties |= {"linux,initrd-start": cells64(initrd.base), "linux,initrd-end": cells64(initrd.end)}
    return Node("chosen", properties)


def machine(head: Node, ram: Region, cpus: int, interrupt_parent: int, devices: Iterable[Node]) -> Node:
    """The root: ``head`` is /chosen, then memory, CPUs and PSCI, then ``devices``."""
    properties = {
        "compatible": text("linux,dummy-virt"),
        "model": text("linux,dummy-virt-realm"),
        "#address-cells": cells(2),
        "#size-cells": cells(2),
        "interrupt-parent": cells(interrupt_parent),
    }
    memory = Node(f"memory@{ram.base:x}", {"device_type": text("memory"), "reg": cells64(*ram)})
    psci = Node(
        "psci",
        {
            "cpu_on": cells(0xC4000003),
            "cpu_off": cells(0x84000002),
            "method": text("smc"),
            "compatible": text("arm,psci-1.0", "arm,psci-0.2", "arm,psci"),
        },
    )
    return Node("", properties, (head, memory, _cpus(cpus), psci, *devices))


def _cpus(count: int) -> Node:
    children = tuple(
        Node(
            f"cpu@{number}",
            {"reg": cells(number), "enable-method": text("psci"), "compatible": text("arm,armv8"), "device_type": text("cpu")},
        )
        for number in range(count)
    )
    return Node("cpus", {"#size-cells": cells(0), "#address-cells": cells(1)}, children)


def timer(trigger: int) -> Node:
    """The architected timer: three PPIs with one trigger."""
    interrupts = [cell for number in _TIMER_PPIS for cell in (PPI, number, trigger)]
    return Node(
        "timer",
        {"interrupts": cells(*interrupts), "always-on": EMPTY, "compatible": text("arm,armv8-timer", "arm,armv7-timer")},
    )


def pmu() -> Node:
    """The performance monitors."""
    return Node("pmu", {"interrupts": cells(PPI, _PMU_PPI, LEVEL_HIGH), "compatible": text("arm,armv8-pmuv3")})


def gic(regions: tuple[Region, ...], phandle: int, its: tuple[Region, int] | None) -> Node:
    """GICv3 with its distributor first in ``regions``, and the ITS as (region, phandle)."""
    children: tuple[Node, ...] = ()
    if its is not None:
        region, its_phandle = its
        properties = {
            "phandle": cells(its_phandle),
            "reg": cells64(*region),
            "#msi-cells": cells(1),
            "msi-controller": EMPTY,
            "compatible": text("arm,gic-v3-its"),
        }
        children = (Node(f"its@{region.base:x}", properties),)
    properties = {
        "phandle": cells(phandle),
        "reg": cells64(*(number for region in regions for number in region)),
        "#redistributor-regions": cells(len(regions) - 1),
        "compatible": text("arm,gic-v3"),
        "ranges": EMPTY,
        "#size-cells": cells(2),
        "#address-cells": cells(2),
        "interrupt-controller": EMPTY,
        "#interrupt-cells": cells(3),
    }
    return Node(f"intc@{regions[0].base:x}", properties, children)


def fixed_clock(phandle: int) -> Node:
    """The clock that the PrimeCell devices name."""
    properties = {
        "phandle": cells(phandle),
        "clock-output-names": text("clk24mhz"),
        "clock-frequency": cells(_CLOCK_HZ),
        "#clock-cells": cells(0),
        "compatible": text("fixed-clock"),
    }
    return Node("apb-pclk", properties)


def device(name: str, region: Region, properties: Mapping[str, bytes]) -> Node:
    """A device named after its address."""
    return Node(f"{name}@{region.base:x}", dict(properties))
