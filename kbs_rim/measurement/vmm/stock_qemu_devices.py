"""The devices of QEMU's own tree, each as QEMU makes it: properties in their order, phandles when they are asked for."""

from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm import stock_qemu_map as places
from kbs_rim.measurement.vmm.profile import Region
from kbs_rim.measurement.vmm.stock_qemu_construction import Construction
from kbs_rim.measurement.vmm.tree_parts import EDGE, LEVEL_HIGH, MSI_RID_COUNT, PCI_IO, PCI_MEMORY, PCI_MEMORY_64, PPI, SPI

_SECURE_ONLY = (("status", text("disabled")), ("secure-status", text("okay")))
"""What a node has that only the secure world may use."""
_MAINTENANCE_PPI, _PMU_PPI = 9, 7
_UART_SPIS, _RTC_SPI, _GPIO_SPI, _SECURE_GPIO_SPI = (1, 8), 2, 7, 0
_SMMU_FIRST_SPI, _PCI_FIRST_SPI, _VIRTIO_FIRST_SPI = 74, 3, 16
_PCI_PINS = 4
_PCI_BUS_CONFIG_SIZE = 0x100000
_KEY_POWER = 116
_PCIE = f"/pcie@{places.PCI_MEMORY.base:x}"
_INTC = f"/intc@{places.DISTRIBUTOR.base:x}"


def add_flash(build: Construction) -> None:
    """Two banks; with a secure world the first is its own."""
    first = Region(places.FLASH.base, places.FLASH.size // 2)
    second = Region(first.end, first.size)
    if build.machine.secure:
        build.node(f"/secflash@{first.base:x}", [*_flash(first), *_SECURE_ONLY])
        build.node(f"/flash@{second.base:x}", _flash(second))
    else:
        build.node(f"/flash@{first.base:x}", _flash(first, second))


def _flash(*banks: Region) -> list[tuple[str, bytes]]:
    return [("compatible", text("cfi-flash")), ("reg", _regions(*banks)), ("bank-width", cells(4))]


def _regions(*regions: Region) -> bytes:
    return b"".join(cells64(*region) for region in regions)


def add_gic(build: Construction) -> None:
    """The interrupt controller and the one for messages below it."""
    build.gic = build.phandle()
    build.tree.set("/", "interrupt-parent", cells(build.gic))
    head = [
        ("#interrupt-cells", cells(3)), ("interrupt-controller", EMPTY), ("#address-cells", cells(2)), ("#size-cells", cells(2)),
        ("ranges", EMPTY),
    ]  # fmt: skip
    build.node(_INTC, head + (_gic_v2(build) if build.machine.gic == 2 else _gic_v3(build)))
    if build.machine.virtualization:
        build.tree.set(_INTC, "interrupts", cells(PPI, _MAINTENANCE_PPI, LEVEL_HIGH))
    build.tree.set(_INTC, "phandle", cells(build.gic))
    if build.machine.msi == "its":
        _add_its(build)
    elif build.machine.msi == "v2m":
        _add_v2m(build)


def _gic_v2(build: Construction) -> list[tuple[str, bytes]]:
    regions = [places.DISTRIBUTOR, places.CPU_INTERFACE]
    if build.machine.virtualization:
        regions += [places.HYPERVISOR_INTERFACE, places.VIRTUAL_CPU_INTERFACE]
    return [("compatible", text("arm,cortex-a15-gic")), ("reg", _regions(*regions))]


def _gic_v3(build: Construction) -> list[tuple[str, bytes]]:
    machine = build.machine
    redistributors = [places.REDISTRIBUTORS]
    if machine.topology.possible > machine.redistributor_cpus and machine.high.redistributors is not None:
        redistributors.append(machine.high.redistributors)
    return [
        ("compatible", text("arm,gic-v3")),
        ("#redistributor-regions", cells(len(redistributors))),
        ("reg", _regions(places.DISTRIBUTOR, *redistributors)),
    ]


def _add_its(build: Construction) -> None:
    build.msi = build.phandle()
    properties = [
        ("compatible", text("arm,gic-v3-its")), ("msi-controller", EMPTY), ("#msi-cells", cells(1)), ("reg", cells64(*places.ITS)),
        ("phandle", cells(build.msi)),
    ]  # fmt: skip
    build.node(f"{_INTC}/its@{places.ITS.base:x}", properties)


def _add_v2m(build: Construction) -> None:
    build.msi = build.phandle()
    properties = [
        ("compatible", text("arm,gic-v2m-frame")), ("msi-controller", EMPTY), ("reg", cells64(*places.V2M)), ("phandle", cells(build.msi)),
    ]  # fmt: skip
    build.node(f"{_INTC}/v2m@{places.V2M.base:x}", properties)


def add_pmu(build: Construction) -> None:
    """The performance monitors."""
    if build.machine.pmu:
        build.node("/pmu", [("compatible", text("arm,armv8-pmuv3")), ("interrupts", build.private_interrupt(_PMU_PPI))])


def add_uarts(build: Construction) -> None:
    """One or two serial ports, and the secure world's RAM, which QEMU makes among them."""
    machine = build.machine
    second_first = machine.version.second_uart and machine.serials > 1 and not machine.secure
    if second_first:
        _add_uart(build, 1)
    _add_uart(build, 0)
    if machine.secure and machine.version.aliases:
        _add_uart(build, 1)
        _add_secure_ram(build)
    elif machine.secure:
        _add_secure_ram(build)
        _add_uart(build, 1)


def _add_uart(build: Construction, number: int) -> None:
    region = places.UARTS[number]
    path = f"/pl011@{region.base:x}"
    properties = [
        ("compatible", text("arm,pl011", "arm,primecell")), ("reg", cells64(*region)), ("interrupts", _interrupt(_UART_SPIS[number])),
        ("clocks", cells(build.clock, build.clock)), ("clock-names", text("uartclk", "apb_pclk")),
    ]  # fmt: skip
    build.node(path, properties)
    if number == 0:
        build.tree.set("/chosen", "stdout-path", text(path))
    if build.machine.version.aliases:
        build.tree.set("/aliases", f"serial{number}", text(path))
    if number == 1 and build.machine.secure:
        build.properties(path, _SECURE_ONLY)
        build.tree.set("/secure-chosen", "stdout-path", text(path))


def _interrupt(number: int) -> bytes:
    return cells(SPI, number, LEVEL_HIGH)


def _add_secure_ram(build: Construction) -> None:
    region = places.SECURE_RAM
    build.node(f"/secram@{region.base:x}", [("device_type", text("memory")), ("reg", cells64(*region)), *_SECURE_ONLY])


def add_rtc(build: Construction) -> None:
    """The real-time clock."""
    properties = [
        ("compatible", text("arm,pl031", "arm,primecell")), ("reg", cells64(*places.RTC)), ("interrupts", _interrupt(_RTC_SPI)),
        ("clocks", cells(build.clock)), ("clock-names", text("apb_pclk")),
    ]  # fmt: skip
    build.node(f"/pl031@{places.RTC.base:x}", properties)


def add_pcie(build: Construction) -> None:
    """The PCI host bridge, and the IOMMU in front of it."""
    config = build.machine.high.pci_config or places.PCI_CONFIG
    properties = [
        ("compatible", text("pci-host-ecam-generic")), ("device_type", text("pci")), ("#address-cells", cells(3)),
        ("#size-cells", cells(2)), ("linux,pci-domain", cells(0)), ("bus-range", cells(0, config.size // _PCI_BUS_CONFIG_SIZE - 1)),
        ("dma-coherent", EMPTY),
    ]  # fmt: skip
    if build.msi is not None:
        properties.append(("msi-map", cells(0, build.msi, 0, MSI_RID_COUNT)))
    properties += [
        ("reg", cells64(*config)), ("ranges", _pci_windows(build)), ("#interrupt-cells", cells(1)),
        ("interrupt-map", _pci_interrupts(build.gic)), ("interrupt-map-mask", cells(0x1800, 0, 0, 7)),
    ]  # fmt: skip
    build.node(_PCIE, properties)
    if build.machine.smmu:
        iommu = _add_smmu(build)
        if not build.machine.bypass_iommu:
            build.tree.set(_PCIE, "iommu-map", cells(0, iommu, 0, MSI_RID_COUNT))


def _pci_windows(build: Construction) -> bytes:
    windows = [(PCI_IO, 0, places.PCI_IO), (PCI_MEMORY, places.PCI_MEMORY.base, places.PCI_MEMORY)]
    high = build.machine.high.pci_memory
    if high is not None:
        windows.append((PCI_MEMORY_64, high.base, high))
    return b"".join(cells(space) + cells64(bus_address, *region) for space, bus_address, region in windows)


def _pci_interrupts(gic: int) -> bytes:
    return b"".join(
        cells(slot << 11, 0, 0, pin + 1, gic, 0, 0) + _interrupt(_PCI_FIRST_SPI + (pin + slot) % _PCI_PINS)
        for slot in range(_PCI_PINS)
        for pin in range(_PCI_PINS)
    )


def _add_smmu(build: Construction) -> int:
    phandle = build.phandle()
    names = ("eventq", "priq", "cmdq-sync", "gerror")
    interrupts = b"".join(cells(SPI, _SMMU_FIRST_SPI + number, EDGE) for number in range(len(names)))
    properties = [
        ("compatible", text("arm,smmu-v3")), ("reg", cells64(*places.SMMU)), ("interrupts", interrupts), ("interrupt-names", text(*names)),
        ("dma-coherent", EMPTY), ("#iommu-cells", cells(1)), ("phandle", cells(phandle)),
    ]  # fmt: skip
    build.node(f"/smmuv3@{places.SMMU.base:x}", properties)
    return phandle


def add_virtio_iommu(build: Construction) -> None:
    """A virtio-iommu on the PCI bus, which translates for everything but itself."""
    number = build.machine.virtio_iommu
    if number is None:
        return
    phandle = build.phandle()
    properties = [
        ("compatible", text("virtio,pci-iommu", "pci1af4,1057")), ("reg", cells(number << 8, 0, 0, 0, 0)), ("#iommu-cells", cells(1)),
        ("phandle", cells(phandle)),
    ]  # fmt: skip
    build.node(f"{_PCIE}/virtio_iommu@{number >> 3:x},{number & 7:x}", properties)
    if not build.machine.bypass_iommu:
        behind = number + 1
        build.tree.set(_PCIE, "iommu-map", cells(0, phandle, 0, number, behind, phandle, behind, MSI_RID_COUNT - behind))


def add_gpios(build: Construction) -> None:
    """The power button, unless ACPI has it, and the secure world's means to switch off and restart."""
    if not build.machine.event_device:
        phandle = _add_gpio(build, places.GPIO, _GPIO_SPI)
        build.node("/gpio-keys", [("compatible", text("gpio-keys"))])
        button = [("label", text("GPIO Key Poweroff")), ("linux,code", cells(_KEY_POWER)), ("gpios", cells(phandle, 3, 0))]
        build.node("/gpio-keys/poweroff", button)
    if build.machine.secure:
        phandle = _add_gpio(build, places.SECURE_GPIO, _SECURE_GPIO_SPI)
        build.properties(f"/pl061@{places.SECURE_GPIO.base:x}", _SECURE_ONLY)
        for line, name in enumerate(("gpio-poweroff", "gpio-restart")):
            build.node(f"/{name}", [("compatible", text(name)), ("gpios", cells(phandle, line, 0)), *_SECURE_ONLY])


def _add_gpio(build: Construction, region: Region, interrupt: int) -> int:
    phandle = build.phandle()
    properties = [
        ("reg", cells64(*region)), ("compatible", text("arm,pl061", "arm,primecell")), ("#gpio-cells", cells(2)),
        ("gpio-controller", EMPTY), ("interrupts", _interrupt(interrupt)), ("clocks", cells(build.clock)),
        ("clock-names", text("apb_pclk")), ("phandle", cells(phandle)),
    ]  # fmt: skip
    build.node(f"/pl061@{region.base:x}", properties)
    return phandle


def add_virtio(build: Construction) -> None:
    """The slots for virtio devices, empty or not."""
    for number in reversed(range(build.machine.transports)):
        region = Region(places.VIRTIO.base + number * places.VIRTIO.size, places.VIRTIO.size)
        properties = [
            ("compatible", text("virtio,mmio")), ("reg", cells64(*region)), ("interrupts", cells(SPI, _VIRTIO_FIRST_SPI + number, EDGE)),
            ("dma-coherent", EMPTY),
        ]  # fmt: skip
        build.node(f"/virtio_mmio@{region.base:x}", properties)


def add_fw_cfg(build: Construction) -> None:
    """The firmware configuration device."""
    properties = [("compatible", text("qemu,fw-cfg-mmio")), ("reg", cells64(*places.FW_CFG)), ("dma-coherent", EMPTY)]
    build.node(f"/fw-cfg@{places.FW_CFG.base:x}", properties)


def add_platform_bus(build: Construction) -> None:
    """The bus for devices of the command line; nothing is on it."""
    properties = [
        ("compatible", text("qemu,platform", "simple-bus")), ("#size-cells", cells(1)), ("#address-cells", cells(1)),
        ("ranges", cells(0, 0, *places.PLATFORM_BUS)), ("interrupt-parent", cells(build.gic)),
    ]  # fmt: skip
    build.node(f"/platform-bus@{places.PLATFORM_BUS.base:x}", properties)
