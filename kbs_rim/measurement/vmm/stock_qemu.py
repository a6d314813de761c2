"""The device tree that QEMU's virt machine makes itself, when no ``-dtb`` is given: every byte of it.

Nodes and properties are made in the order in which QEMU makes them, because the order decides where they stand and what is left
in the padding (``stock_qemu_blob``). A pure function of the request.
"""

from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text
from kbs_rim.measurement.vmm import stock_qemu_devices as devices
from kbs_rim.measurement.vmm.stock_qemu_construction import Construction
from kbs_rim.measurement.vmm.stock_qemu_cpus import add_cpus
from kbs_rim.measurement.vmm.stock_qemu_map import RAM_BASE
from kbs_rim.measurement.vmm.stock_qemu_request import StockQemu, numa_regions

_CLOCK_HZ = 24_000_000
_TIMER_PPIS = (13, 14, 11, 10)
_VIRTUAL_EL2_TIMER_PPI = 12


def stock_qemu_tree(machine: StockQemu) -> bytes:
    """Return the tree as QEMU loads it: 1 MiB with the header, old bytes in the padding and zeros behind.

    Raises ``InvalidDocument`` (``document.vm``) if it does not fit.
    """
    build = Construction(machine)
    _root(build)
    _timer(build)
    add_cpus(build)
    devices.add_flash(build)
    devices.add_gic(build)
    devices.add_pmu(build)
    devices.add_uarts(build)
    devices.add_rtc(build)
    devices.add_pcie(build)
    devices.add_gpios(build)
    devices.add_virtio(build)
    devices.add_fw_cfg(build)
    devices.add_virtio_iommu(build)
    devices.add_platform_bus(build)
    _memory(build)
    _boot(build)
    _psci(build)
    _event_log(build)
    return build.tree.blob()


def _root(build: Construction) -> None:
    machine, version = build.machine, build.machine.version
    root = [
        ("compatible", text("linux,dummy-virt")), ("#address-cells", cells(2)), ("#size-cells", cells(2)),
        ("model", text("linux,dummy-virt")),
    ]  # fmt: skip
    if version.root_dma_coherent:
        root.append(("dma-coherent", EMPTY))
    build.properties("/", root)
    build.tree.add("/chosen")
    if machine.seeds is not None:
        build.properties("/chosen", [("kaslr-seed", machine.seeds.kaslr), ("rng-seed", machine.seeds.rng)])
    if machine.secure:
        build.tree.add("/secure-chosen")
    if version.aliases:
        build.tree.add("/aliases")
    clock = [
        ("compatible", text("fixed-clock")), ("#clock-cells", cells(0)), ("clock-frequency", cells(_CLOCK_HZ)),
        ("clock-output-names", text("clk24mhz")), ("phandle", cells(build.clock)),
    ]  # fmt: skip
    build.node("/apb-pclk", clock)


def _timer(build: Construction) -> None:
    numbers = (*_TIMER_PPIS, _VIRTUAL_EL2_TIMER_PPI) if build.machine.virtual_el2_timer else _TIMER_PPIS
    interrupts = b"".join(build.private_interrupt(number) for number in numbers)
    compatible = text("arm,armv8-timer", "arm,armv7-timer")
    build.node("/timer", [("compatible", compatible), ("always-on", EMPTY), ("interrupts", interrupts)])


def _memory(build: Construction) -> None:
    nodes = build.machine.numa_nodes
    regions = numa_regions(nodes, RAM_BASE) if nodes else ()
    if not regions:
        build.node(f"/memory@{RAM_BASE:x}", [("device_type", text("memory")), ("reg", cells64(RAM_BASE, build.machine.ram_size))])
    for number, region in enumerate(regions):
        if region.size:
            properties = [("device_type", text("memory")), ("reg", cells64(*region)), ("numa-node-id", cells(number))]
            build.node(f"/memory@{region.base:x}", properties)


def _boot(build: Construction) -> None:
    machine = build.machine
    if machine.bootargs:
        build.tree.set("/chosen", "bootargs", text(machine.bootargs))
    if machine.initrd is not None:
        encode = cells64 if machine.version.wide_initrd else cells
        addresses = [("linux,initrd-start", encode(machine.initrd.base)), ("linux,initrd-end", encode(machine.initrd.end))]
        build.properties("/chosen", addresses)


def _psci(build: Construction) -> None:
    """Power control: nobody offers it to what starts in the secure world."""
    machine = build.machine
    if machine.secure and machine.boot != "kernel":
        return
    method = "smc" if machine.virtualization or machine.realm else "hvc"
    properties = [
        ("compatible", text("arm,psci-1.0", "arm,psci-0.2", "arm,psci")), ("method", text(method)), ("cpu_suspend", cells(0xC4000001)),
        ("cpu_off", cells(0x84000002)), ("cpu_on", cells(0xC4000003)), ("migrate", cells(0xC4000005)),
    ]  # fmt: skip
    build.node("/psci", properties)


def _event_log(build: Construction) -> None:
    area = build.machine.log_area
    if area is not None:
        build.node("/reserved-memory", [("#address-cells", cells(2)), ("#size-cells", cells(2)), ("ranges", EMPTY)])
        build.node(f"/reserved-memory/event-log@{area.base:x}", [("compatible", text("cc-event-log")), ("reg", cells64(*area))])
