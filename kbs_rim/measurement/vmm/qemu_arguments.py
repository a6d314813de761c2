"""QEMU's command line for the virt machine, read as QEMU reads it: the last -machine key wins, lists of -smp and -m are merged."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm import qemu_options as options
from kbs_rim.measurement.vmm.argument_values import (
    Property,
    parse_hash,
    parse_number,
    parse_rpv_base64,
    parse_size,
    parse_switch,
    properties_of,
    split_properties,
)
from kbs_rim.measurement.vmm.definition import CpuTopology, Role, SveSwitch, VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.host_capabilities import BREAKPOINTS, PMU_COUNTERS, SVE_MAX, SVE_STEP, HostCapabilities
from kbs_rim.measurement.vmm.option_scanner import GivenOption, scan_words

DEFAULT_RAM = 128 * MIB
_RAM_STEP = 8192
"""QEMU rounds the RAM up to a multiple of this."""
_IMAGES: Mapping[str, Role] = {"kernel": "kernel", "initrd": "initrd", "bios": "firmware", "firmware": "firmware"}
_TOPOLOGY = ("sockets", "clusters", "cores", "threads")
_UNIFORM = ("dies", "modules", "books", "drawers")
"""Levels of -smp that Arm machines do not have."""
_LIMITS = {
    "num-breakpoints": ("num_bps", BREAKPOINTS),
    "num-watchpoints": ("num_wps", BREAKPOINTS),
    "num-pmu-counters": ("pmu_num_ctrs", PMU_COUNTERS),
}
_HEX_RPV = re.compile(r"[0-9A-Fa-f]{128}")
_VECTOR_LENGTH = "sve-vector-length"
"""Where the first realm series had it; there the other limits were properties of the guest object, too."""


@dataclass(slots=True)
class _Collected:
    """What was read so far."""

    ram_size: int = DEFAULT_RAM
    ram_max: int | None = None
    slots: int = 0
    smp: dict[str, int] = field(default_factory=dict)
    images: set[Role] = field(default_factory=set)
    limits: HostCapabilities = field(default_factory=HostCapabilities)
    cpu_limits: HostCapabilities = field(default_factory=HostCapabilities)
    sve_switches: list[SveSwitch] = field(default_factory=list)
    machine: str | None = None
    cpu_model: str | None = None
    bootargs: str | None = None
    hash_algorithm: HashAlgorithm | None = None
    rpv: bytes | None = None
    pmu: bool | None = None
    its: bool = True
    measurement_log: bool = False
    realm: bool = False
    dtb: bool = False
    ignored: list[str] = field(default_factory=list)
    tree_changes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def parse_qemu_arguments(arguments: Sequence[str]) -> VmDefinition:
    """Return the VM that these arguments of ``qemu-system-aarch64`` define.

    Raises ``InvalidDocument`` (``document.vm-arguments``) that names the option: unknown, malformed, or not modelled.
    """
    found = _Collected()
    for option in scan_words(arguments, options.TABLE):
        if option.name in options.REFUSED:
            raise refuse_argument(option.written, options.REFUSED[option.name])
        if option.name in options.TREE_VALUES:
            found.tree_changes.append(f"{option.written}: {options.TREE_VALUES[option.name]}")
        elif option.name in _READERS:
            _READERS[option.name](option, found)
        else:
            found.ignored.append(option.written)
    return _definition(found)


def _definition(found: _Collected) -> VmDefinition:
    if "initrd" in found.images and "kernel" not in found.images:
        found.images.remove("initrd")
        found.remarks.append("-initrd without -kernel is not loaded")
    if found.bootargs is not None and "kernel" not in found.images:
        found.remarks.append("QEMU wants -kernel beside -append; the device tree has the command line all the same")
    if not found.realm:
        found.remarks.append("no -object rme-guest: QEMU would start a VM that is no realm")
    ram_max = found.ram_max
    if ram_max is not None and ram_max < found.ram_size:
        raise refuse_argument("-m", "maxmem is below size")
    return VmDefinition(
        vmm="qemu",
        topology=_topology(found.smp),
        ram_size=found.ram_size,
        images=frozenset(found.images),
        machine=found.machine,
        cpu_model=found.cpu_model,
        bootargs=found.bootargs,
        hash_algorithm=found.hash_algorithm,
        rpv=found.rpv,
        limits=found.limits.restricted_by(found.cpu_limits),
        sve_switches=tuple(found.sve_switches),
        pmu=found.pmu,
        its=found.its,
        measurement_log=found.measurement_log,
        ram_max=ram_max,
        hotplug_slots=found.slots,
        tree_given=found.dtb,
        ignored=tuple(found.ignored),
        tree_changes=tuple(found.tree_changes),
        remarks=tuple(found.remarks),
    )


def _memory(option: GivenOption, found: _Collected) -> None:
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        if key == "size" or (not key and not position):
            size = parse_size(option.written, value, suffixes="BKMGTP")
            found.ram_size = -(-size // _RAM_STEP) * _RAM_STEP
        elif key == "maxmem":
            found.ram_max = parse_size(f"{option.written} maxmem", value)
        elif key == "slots":
            found.slots = parse_number(f"{option.written} slots", value, 0, 256)
        else:
            raise refuse_argument(option.written, f"{(key or value)[:40]} is not one of size, slots, maxmem")


def _smp(option: GivenOption, found: _Collected) -> None:
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        name = "cpus" if not key and not position else key or value
        where = f"{option.written} {key}".rstrip()
        if name in _UNIFORM:
            if parse_number(where, value, 1, DEFAULT_LIMITS.cpus) != 1:
                raise refuse_argument(where, "the virt machine has one at most")
        elif key in ("", "cpus", "maxcpus", *_TOPOLOGY) and (key or not position):
            found.smp[name] = parse_number(where, value, 1, DEFAULT_LIMITS.cpus)
        else:
            raise refuse_argument(option.written, f"{name[:40]} is not one of cpus, maxcpus, {', '.join(_TOPOLOGY)}")


def _topology(given: Mapping[str, int]) -> CpuTopology:
    """Fill in what -smp leaves open: cores first, then sockets, then threads (QEMU since 6.2)."""
    total = given.get("maxcpus", given.get("cpus", 0))
    if given.get("cpus", total) != total:
        raise refuse_argument("-smp", "CPU hotplug is not modelled: make cpus and maxcpus equal")
    shape = {name: given.get(name, 1) for name in _TOPOLOGY}
    for name in ("cores", "sockets", "threads"):
        if total and name not in given:
            others = 1
            for other, count in shape.items():
                others *= count if other != name else 1
            shape[name] = max(1, total // others)
    topology = CpuTopology(**shape)
    if total and topology.count != total:
        product = " x ".join(f"{count} {name}" for name, count in shape.items())
        raise refuse_argument("-smp", f"{product} do not make {total} CPUs")
    return topology


def _machine(option: GivenOption, found: _Collected) -> None:
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        where = f"{option.written} {key}".rstrip()
        if key == "type" or not key:
            if (not key and position) or not options.MACHINE.fullmatch(value):
                raise refuse_argument(where, f"{value[:40]} is not modelled; the machine is virt, and switches are written NAME=on")
            found.machine = value
        elif key == "gic-version":
            if value not in ("3", "host", "max"):
                raise refuse_argument(where, f"a realm has GICv3: write 3, host or max instead of {value[:20]}")
        elif key == "its":
            found.its = parse_switch(where, value) is not False
        elif key in options.MACHINE_FIXED:
            wanted = options.MACHINE_FIXED[key]
            if parse_switch(where, value) not in (wanted, None):
                raise refuse_argument(where, f"is not modelled but as {'on' if wanted else 'off'}")
        elif key in options.MACHINE_FLASH:
            raise refuse_argument(where, options.REFUSED["pflash"])
        elif key in options.MACHINE_TREE:
            found.tree_changes.append(f"{where}: it changes the device tree")
        elif key in ("kernel", "initrd", "firmware"):
            found.images.add(_IMAGES[key])
        elif key == "append":
            found.bootargs = value
        elif key in options.MACHINE_IGNORED:
            _note_machine(key, where, found)
        else:
            raise refuse_argument(option.written, f"{key[:40]} is not a property of the virt machine that is known here")


def _note_machine(key: str, where: str, found: _Collected) -> None:
    if key == "dtb":
        found.dtb = True
    elif key != "confidential-guest-support":
        found.ignored.append(where)


def _object(option: GivenOption, found: _Collected) -> None:
    kind, *items = properties_of(option.written, option.value, "qom-type")
    name = kind.value if kind.key in ("", "qom-type") else ""
    if name in options.OTHER_GUESTS:
        raise refuse_argument(option.written, f"{name} is not Arm CCA; a realm is an {options.GUEST_TYPE}")
    if name not in (options.GUEST_TYPE, options.VIRTCCA_TYPE):
        found.ignored.append(f"{option.written} {name[:40]}".rstrip())
        return
    found.realm = True
    if name == options.VIRTCCA_TYPE:
        found.remarks.append(f"{option.written} {name}: virtCCA runs no RMM; whether its monitor measures alike is not known")
    for key, value in items:
        where = f"{option.written} {name} {key}".rstrip()
        if key in ("measurement-algorithm", "measurement-algo"):
            found.hash_algorithm = parse_hash(where, value)
        elif key == "personalization-value":
            # 64 bytes in hexadecimal, as the series had it until 2024, cannot be base64: that would be 96 bytes.
            found.rpv = bytes.fromhex(value) if _HEX_RPV.fullmatch(value) else parse_rpv_base64(where, value)
        elif key == "measurement-log":
            switch = parse_switch(where, value)
            found.measurement_log = found.measurement_log if switch is None else switch
        elif key == _VECTOR_LENGTH:
            _limit(found, sve_vl=_vector_length(where, value))
        elif key in _LIMITS:
            _limit(found, **_limit_of(where, key, value))
        elif key != "id":
            raise refuse_argument(where, f"{(key or value)[:40]} is not a property of {name}")


def _cpu(option: GivenOption, found: _Collected) -> None:
    """QEMU forgets what an earlier -cpu said."""
    found.cpu_model, found.pmu, found.cpu_limits = None, None, HostCapabilities()
    found.sve_switches.clear()
    for position, item in enumerate(split_properties(option.value, escaped=True)):
        where = f"{option.written} {item.key}".rstrip()
        if not item.key and not position:
            found.cpu_model = item.value
        elif item.key in _LIMITS:
            limit = HostCapabilities(**_limit_of(where, item.key, item.value))
            found.cpu_limits = found.cpu_limits.restricted_by(limit)
        elif item.key == "pmu":
            found.pmu = parse_switch(where, item.value)
        elif item.key.startswith("sve"):
            _sve(where, item, found)
        elif item.key in options.CPU_IGNORED:
            found.ignored.append(where)
        else:
            raise refuse_argument(option.written, f"{(item.key or item.value)[:40]} is not a property of the host's CPU that is known here")


def _limit_of(where: str, key: str, value: str) -> dict[str, Any]:
    name, (low, high) = _LIMITS[key]
    return {name: parse_number(where, value, low, high)}


def _limit(found: _Collected, **limit: Any) -> None:
    found.limits = found.limits.restricted_by(HostCapabilities(**limit))


def _vector_length(where: str, value: str) -> int:
    bits = parse_number(where, value, 0, SVE_MAX)
    if bits % SVE_STEP:
        raise refuse_argument(where, f"{bits} is not a multiple of {SVE_STEP} bits")
    return bits


def _sve(where: str, item: Property, found: _Collected) -> None:
    bits = 0
    if item.key != "sve":
        bits = parse_number(where, item.key.removeprefix("sve"), 128, SVE_MAX)
    switch = parse_switch(where, item.value)
    if switch is not None:
        found.sve_switches.append(SveSwitch(bits, switch))


def _append(option: GivenOption, found: _Collected) -> None:
    found.bootargs = option.value


def _image(option: GivenOption, found: _Collected) -> None:
    found.images.add(_IMAGES[option.name])


def _dtb(_option: GivenOption, found: _Collected) -> None:
    found.dtb = True


def _drive(option: GivenOption, found: _Collected) -> None:
    if Property("if", "pflash") in split_properties(option.value, escaped=True):
        raise refuse_argument(option.written, options.REFUSED["pflash"])
    found.ignored.append(option.written)


def _device(option: GivenOption, found: _Collected) -> None:
    first = properties_of(option.written, option.value, "driver")[0]
    name = first.value if first.key in ("", "driver") else ""
    if options.DEVICES_IN_TREE.fullmatch(name):
        found.tree_changes.append(f"{option.written} {name}: it changes the device tree")
    else:
        found.ignored.append(f"{option.written} {name[:40]}".rstrip())
        if not options.DEVICES_WITHOUT_EFFECT.fullmatch(name):
            found.remarks.append(f"{option.written} {name[:40]}: not known here; taken for a device that is not in the device tree")


_READERS: Mapping[str, Callable[[GivenOption, _Collected], None]] = {
    "m": _memory,
    "smp": _smp,
    "M": _machine,
    "machine": _machine,
    "object": _object,
    "cpu": _cpu,
    "append": _append,
    "kernel": _image,
    "initrd": _image,
    "bios": _image,
    "dtb": _dtb,
    "drive": _drive,
    "device": _device,
}
