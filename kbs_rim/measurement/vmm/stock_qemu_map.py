"""Where QEMU's virt machine puts things, as far as its own device tree says it.

Below the RAM everything is fixed. Above it lie three regions, each aligned to its size, which the options ``highmem*`` and the
CPU's address bits can take away.
"""

from dataclasses import dataclass

from kbs_rim.limits import MIB
from kbs_rim.measurement.vmm.profile import GIB, Region, refuse, up

RAM_BASE = 0x40000000
FLASH = Region(0, 0x08000000)
DISTRIBUTOR = Region(0x08000000, 0x10000)
CPU_INTERFACE = Region(0x08010000, 0x10000)
V2M = Region(0x08020000, 0x1000)
HYPERVISOR_INTERFACE = Region(0x08030000, 0x10000)
VIRTUAL_CPU_INTERFACE = Region(0x08040000, 0x10000)
ITS = Region(0x08080000, 0x20000)
REDISTRIBUTORS = Region(0x080A0000, 0xF60000)
UARTS = (Region(0x09000000, 0x1000), Region(0x09040000, 0x1000))
RTC = Region(0x09010000, 0x1000)
FW_CFG = Region(0x09020000, 0x18)
GPIO = Region(0x09030000, 0x1000)
SMMU = Region(0x09050000, 0x20000)
SECURE_GPIO = Region(0x090B0000, 0x1000)
VIRTIO = Region(0x0A000000, 0x200)
"""The first of the slots, which follow one another."""
PLATFORM_BUS = Region(0x0C000000, 0x02000000)
SECURE_RAM = Region(0x0E000000, 0x01000000)
PCI_MEMORY = Region(0x10000000, 0x2EFF0000)
PCI_IO = Region(0x3EFF0000, 0x10000)
PCI_CONFIG = Region(0x3F000000, 0x01000000)
HIGH_BASE_MIN = 256 * GIB
HIGH_REDISTRIBUTORS_SIZE, HIGH_PCI_CONFIG_SIZE, HIGH_PCI_MEMORY_SIZE = 64 * MIB, 256 * MIB, 512 * GIB
_LOW_ADDRESS_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HighMemory:
    """The options of the layout above the RAM; ``highmem=off`` leaves nothing there."""

    highmem: bool = True
    redistributors: bool = True
    pci_config: bool = True
    pci_memory: bool = True
    pci_memory_size: int = HIGH_PCI_MEMORY_SIZE
    compact: bool = True
    """A region that is switched off takes no space (machine types since virt-7.2)."""


@dataclass(frozen=True, slots=True)
class HighRegions:
    """What lies above the RAM; None for what does not."""

    redistributors: Region | None
    pci_config: Region | None
    pci_memory: Region | None


def high_regions(options: HighMemory, ram_size: int, ram_max: int, slots: int, address_bits: int) -> HighRegions:
    """Place the regions; sizes in bytes. Raises ``InvalidDocument`` (``document.vm``) if RAM is beyond the CPU's addresses."""
    bits = address_bits if options.highmem else _LOW_ADDRESS_BITS
    hotplug = ram_max - ram_size + slots * GIB if ram_max > ram_size else 0
    top = up(RAM_BASE + ram_size, GIB) + up(hotplug, GIB)
    if (up(RAM_BASE + ram_size, GIB) + hotplug if hotplug else RAM_BASE + ram_size) > 1 << bits:
        raise refuse(f"-m: the RAM does not fit into {bits} bits of addresses")
    top = max(top, HIGH_BASE_MIN)
    found: list[Region | None] = []
    for wanted, size in (
        (options.redistributors, HIGH_REDISTRIBUTORS_SIZE),
        (options.pci_config, HIGH_PCI_CONFIG_SIZE),
        (options.pci_memory, options.pci_memory_size),
    ):
        region = Region(up(top, size), size)
        fits = wanted and options.highmem and region.end <= 1 << bits
        found.append(region if fits else None)
        if fits or not options.compact:
            top = region.end
    return HighRegions(*found)
