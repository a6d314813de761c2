"""QEMU's command line, read for the device tree that QEMU makes itself: what is asked for, before a version or a host is known.

Each option either changes the tree in a way that ``stock_qemu`` knows, or is known to change nothing, or is refused by its name.
``stock_qemu_definition`` makes a machine of the result.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kbs_rim.measurement.vmm import qemu_options
from kbs_rim.measurement.vmm.argument_values import Property, parse_size, parse_sve_switch, parse_switch, properties_of, split_properties
from kbs_rim.measurement.vmm.definition import refuse_argument
from kbs_rim.measurement.vmm.option_scanner import GivenOption, scan_words
from kbs_rim.measurement.vmm.qemu_sizes import SMP_KEYS, merge_memory, merge_smp

_REFUSED: Mapping[str, str] = {
    "readconfig": qemu_options.REFUSED["readconfig"],
    "set": qemu_options.REFUSED["set"],
    "dtb": "QEMU loads the tree in this file and makes none",
    "incoming": "the tree is the one of the VM that is migrated",
    "loadvm": "the tree is the one in the snapshot",
}
_MACHINE_VALUES = frozenset({
    "gic-version", "its", "msi", "virtualization", "secure", "highmem", "highmem-ecam", "highmem-mmio", "highmem-redists",
    "highmem-mmio-size", "compact-highmem", "iommu", "default-bus-bypass-iommu", "acpi", "dtb-randomness", "dtb-kaslr-seed",
    "phandle-start", "virtio-mmio-transports", "accel", "kernel", "initrd", "append", "firmware", "pflash0",
})  # fmt: skip
_MACHINE_IGNORED = frozenset({
    "confidential-guest-support", "usb", "dump-guest-core", "mem-merge", "memory-backend", "graphics", "kernel_irqchip", "kernel-irqchip",
    "suppress-vmdesc", "x-oem-id", "x-oem-table-id", "ras", "mte", "boot", "aux-ram-share", "dumpdtb", "hmat", "pflash1",
    "dt-compatible", "kvm-type",
})  # fmt: skip
_MACHINE_OFF = ("nvdimm", "cxl")
_CPU_FEATURES = (qemu_options.CPU_IGNORED | set(qemu_options.CPU_LIMITS)) - {"aarch64", "lpa2"}
_MACHINE_TYPE = re.compile(r"virt(?:-([0-9]{1,3})\.([0-9]{1,3}))?")
_DEVICES_IN_TREE = re.compile(
    r"arm-smmuv3(?:-accel)?|virtio-iommu-(?:device|pci-.*)|nvdimm|pc-dimm|tpm-tis-device|guest-loader|"
    r"vfio-(?:platform|amd-xgbe|calxeda-xgmac)|[a-z0-9-]*(?:sysbus|cpu)[a-z0-9-]*"
)
_DEVICES_WITHOUT_EFFECT = re.compile(rf"{qemu_options.DEVICES_WITHOUT_EFFECT.pattern}|pxb-pcie|ramfb|loader|virtio-(?:mem|pmem)-pci")
_VIRTIO_IOMMU, _ROOT_BUS = "virtio-iommu-pci", "pcie.0"
_LAST_SLOT = 0x1F
_PCI_ADDRESS = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,2})(?:\.([0-7]))?")
_GLOBALS_IN_TREE = re.compile(r".*(?:cpu|machine|arm|virt-).*")
_BACKENDS = re.compile(r"memory-backend-(?:ram|file|memfd)")
_NUMA_KEYS = ("nodeid", "cpus", "memdev")


@dataclass(frozen=True, slots=True, kw_only=True)
class StockArguments:
    """The options that matter, as written. ``machine``, ``smp`` and ``memory`` are merged, the last value of a key counts.

    ``machine_type`` is None for plain ``virt``; ``cpu`` is the model; ``numa`` has the keys of each node; ``backends`` maps ids of
    memory backends to bytes. ``kernel`` and ``initrd`` are file names. ``ignored`` names the options that change nothing,
    ``remarks`` say what the user should know.
    """

    machine: Mapping[str, str]
    machine_type: tuple[int, int] | None
    cpu: str | None
    pmu: bool | None
    smp: Mapping[str, str]
    memory: Mapping[str, str]
    numa: tuple[Mapping[str, tuple[str, ...]], ...]
    backends: Mapping[str, int]
    kernel: str | None
    initrd: str | None
    bootargs: str | None
    firmware: bool
    acpi: bool
    second_serial: bool
    virtio_iommu: int | None
    """Slot (times 8) and function of the device on the root bus."""
    kvm: bool
    realm: bool
    measurement_log: bool
    ignored: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Collected:
    machine: dict[str, str] = field(default_factory=dict)
    machine_type: tuple[int, int] | None = None
    cpu: str | None = None
    pmu: bool | None = None
    smp: dict[str, str] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    numa: list[Mapping[str, tuple[str, ...]]] = field(default_factory=list)
    backends: dict[str, int] = field(default_factory=dict)
    flash_drives: int = 0
    firmware: bool = False
    no_acpi: bool = False
    serials: list[str] = field(default_factory=list)
    virtio_iommu: int | None = None
    accelerators: list[str] = field(default_factory=list)
    realm: bool = False
    measurement_log: bool = False
    ignored: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_stock_arguments(arguments: Sequence[str]) -> StockArguments:
    """Read the arguments of ``qemu-system-aarch64``.

    Raises ``InvalidDocument`` (``document.vm-arguments``) that names the option: unknown, malformed, or changing the tree in a
    way that is not known.
    """
    found = _Collected()
    for option in scan_words(arguments, qemu_options.TABLE):
        if option.name in _REFUSED:
            raise refuse_argument(option.written, _REFUSED[option.name])
        if option.name in _READERS:
            _READERS[option.name](option, found)
        else:
            found.ignored.append(option.written)
    machine = found.machine
    accelerators = found.accelerators or machine.get("accel", "tcg").split(":")[:1]
    if accelerators[0] not in ("tcg", "kvm"):
        raise refuse_argument("-accel", f"{accelerators[0][:20]} is neither tcg nor kvm")
    kernel, initrd, bootargs = (machine.get(name) for name in ("kernel", "initrd", "append"))
    if kernel is None and (initrd is not None or bootargs):
        raise refuse_argument("-initrd" if initrd is not None else "-append", "QEMU wants -kernel beside it")
    return StockArguments(
        machine=machine,
        machine_type=found.machine_type,
        cpu=found.cpu,
        pmu=found.pmu,
        smp=found.smp,
        memory=found.memory,
        numa=tuple(found.numa),
        backends=found.backends,
        kernel=kernel,
        initrd=initrd,
        bootargs=bootargs,
        firmware=found.firmware or "firmware" in machine or "pflash0" in machine,
        acpi=not found.no_acpi and parse_switch("-machine acpi", machine.get("acpi", "auto")) is not False,
        second_serial=len(found.serials) > 1 and found.serials[1] != "none",
        virtio_iommu=found.virtio_iommu,
        kvm=accelerators[0] == "kvm",
        realm=found.realm,
        measurement_log=found.measurement_log,
        ignored=tuple(dict.fromkeys(found.ignored)),
        remarks=tuple(found.remarks),
    )


def _machine(option: GivenOption, found: _Collected) -> None:
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        where = f"{option.written} {key[:40]}".rstrip()
        if key == "type" or not key:
            match = _MACHINE_TYPE.fullmatch(value)
            if match is None or (not key and position):
                raise refuse_argument(where, f"{value[:40]} is not known; the machine is virt, and switches are written NAME=on")
            found.machine_type = (int(match[1]), int(match[2])) if match[1] else None
        elif key in _MACHINE_VALUES:
            found.machine[key] = value
        elif key.startswith("smp.") and key.removeprefix("smp.") in SMP_KEYS:
            found.smp[key.removeprefix("smp.")] = value
        elif key in _MACHINE_IGNORED or (key in _MACHINE_OFF and parse_switch(where, value) is False):
            found.ignored.append(where)
        elif key == "dtb":
            raise refuse_argument(where, _REFUSED["dtb"])
        else:
            raise refuse_argument(where, "what it changes in the device tree is not known")


def _smp(option: GivenOption, found: _Collected) -> None:
    merge_smp(option, found.smp)


def _memory(option: GivenOption, found: _Collected) -> None:
    merge_memory(option, found.memory)


def _cpu(option: GivenOption, found: _Collected) -> None:
    found.cpu, found.pmu = None, None
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        where = f"{option.written} {key or value}"[:60]
        if not key and not position:
            found.cpu = value
        elif key == "pmu":
            found.pmu = parse_switch(where, value)
        elif key.startswith("sve"):
            parse_sve_switch(where, Property(key, value))
            found.ignored.append(f"{option.written} {key}")
        elif key not in _CPU_FEATURES and not qemu_options.CPU_SME.fullmatch(key):
            raise refuse_argument(where, "what it changes in the device tree is not known")
        else:
            found.ignored.append(where)


def _numa(option: GivenOption, found: _Collected) -> None:
    kind, *items = split_properties(option.value, escaped=True)
    if kind.key not in ("", "type") or kind.value != "node":
        raise refuse_argument(option.written, f"{kind.value[:20]} is not known here; only node is")
    node: dict[str, tuple[str, ...]] = {}
    for key, value in items:
        if key not in _NUMA_KEYS:
            raise refuse_argument(option.written, f"{(key or value)[:40]} is not one of {', '.join(_NUMA_KEYS)}")
        node[key] = (*node.get(key, ()), value)
    found.numa.append(node)


def _object(option: GivenOption, found: _Collected) -> None:
    kind, *items = properties_of(option.written, option.value, "qom-type")
    if kind.value in (qemu_options.GUEST_TYPE, qemu_options.VIRTCCA_TYPE):
        found.realm = True
        for value in (value for key, value in items if key == "measurement-log"):
            switch = parse_switch(f"{option.written} measurement-log", value)
            found.measurement_log = found.measurement_log if switch is None else switch
    elif kind.value in qemu_options.OTHER_GUESTS:
        raise refuse_argument(option.written, f"{kind.value} is not Arm CCA")
    elif _BACKENDS.fullmatch(kind.value):
        members = dict(items)
        size = members.get("size", "")
        found.backends[members.get("id", "")] = parse_size(f"{option.written} size", size, unit=1) if size else 0
    else:
        found.ignored.append(f"{option.written} {kind.value[:40]}")


def _device(option: GivenOption, found: _Collected) -> None:
    driver, *items = properties_of(option.written, option.value, "driver")
    name = driver.value[:40]
    if name == _VIRTIO_IOMMU:
        found.virtio_iommu = _pci_address(f"{option.written} {name}", dict(items))
        return
    if _DEVICES_IN_TREE.fullmatch(name) or name == "guest-loader":
        raise refuse_argument(f"{option.written} {name}", "what it adds to the device tree is not known")
    found.ignored.append(f"{option.written} {name}")
    if not _DEVICES_WITHOUT_EFFECT.fullmatch(name):
        found.remarks.append(f"{option.written} {name}: not known here; taken for a device that is not in the device tree")


def _pci_address(where: str, members: Mapping[str, str]) -> int:
    """Return slot and function, which QEMU reads as hexadecimal; where it would choose a free slot, it has to be told."""
    match = _PCI_ADDRESS.fullmatch(members.get("addr", ""))
    if match is None or not 1 <= int(match[1], 16) <= _LAST_SLOT or members.get("bus", _ROOT_BUS) != _ROOT_BUS:
        raise refuse_argument(where, f"write where it is, such as bus={_ROOT_BUS},addr=5: that is in the tree")
    return int(match[1], 16) << 3 | int(match[2] or "0")


def _global(option: GivenOption, found: _Collected) -> None:
    if _GLOBALS_IN_TREE.fullmatch(option.value.partition("=")[0]):
        raise refuse_argument(f"{option.written} {option.value[:40]}", "write the property into the option itself")
    found.ignored.append(option.written)


def _drive(option: GivenOption, found: _Collected) -> None:
    members = {key: value for key, value in split_properties(option.value, escaped=True) if key}
    if members.get("if") != "pflash":
        found.ignored.append(option.written)
        return
    unit = members.get("unit", members.get("index"))
    found.firmware = found.firmware or (unit == "0" if unit is not None else found.flash_drives == 0)
    found.flash_drives += unit is None


def _pflash(_option: GivenOption, found: _Collected) -> None:
    found.firmware = True


def _file(option: GivenOption, found: _Collected) -> None:
    """Another way to write the machine's property of that name; the last one counts."""
    found.machine[option.name] = option.value


def _accelerator(option: GivenOption, found: _Collected) -> None:
    found.accelerators.append("kvm" if option.name == "enable-kvm" else option.value.partition(",")[0].removeprefix("accel="))


def _serial(option: GivenOption, found: _Collected) -> None:
    found.serials.append(option.value)


def _no_acpi(_option: GivenOption, found: _Collected) -> None:
    found.no_acpi = True


_READERS: Mapping[str, Callable[[GivenOption, _Collected], None]] = {
    "M": _machine,
    "machine": _machine,
    "smp": _smp,
    "m": _memory,
    "cpu": _cpu,
    "numa": _numa,
    "object": _object,
    "device": _device,
    "global": _global,
    "drive": _drive,
    "pflash": _pflash,
    "bios": _pflash,
    "kernel": _file,
    "initrd": _file,
    "append": _file,
    "accel": _accelerator,
    "enable-kvm": _accelerator,
    "serial": _serial,
    "no-acpi": _no_acpi,
}
