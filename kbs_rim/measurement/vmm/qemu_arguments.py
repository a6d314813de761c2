"""QEMU's command line for the virt machine, read as QEMU reads it: the last -machine key wins, lists of -smp and -m are merged."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm import qemu_options as options
from kbs_rim.measurement.vmm.argument_values import (
    Property,
    parse_hash,
    parse_number,
    parse_rpv_base64,
    parse_sve_switch,
    parse_switch,
    properties_of,
    split_properties,
)
from kbs_rim.measurement.vmm.definition import CpuTopology, Role, SveSwitch, VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.host_capabilities import BREAKPOINTS, PMU_COUNTERS, SVE_MAX, SVE_STEP, HostCapabilities
from kbs_rim.measurement.vmm.option_scanner import GivenOption, scan_words
from kbs_rim.measurement.vmm.qemu_sizes import SMP_KEYS, cpus_of, memory_of, merge_memory, merge_smp

_IMAGES: Mapping[str, Role] = {"kernel": "kernel", "initrd": "initrd", "bios": "firmware", "firmware": "firmware"}
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

    memory: dict[str, str] = field(default_factory=dict)
    smp: dict[str, str] = field(default_factory=dict)
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
    memory = memory_of(found.memory)
    return VmDefinition(
        vmm="qemu",
        topology=_topology(found.smp),
        ram_size=memory.size,
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
        ram_max=memory.largest,
        hotplug_slots=memory.slots,
        tree_given=found.dtb,
        ignored=tuple(found.ignored),
        tree_changes=tuple(found.tree_changes),
        remarks=tuple(found.remarks),
    )


def _memory(option: GivenOption, found: _Collected) -> None:
    merge_memory(option, found.memory)


def _smp(option: GivenOption, found: _Collected) -> None:
    merge_smp(option, found.smp)


def _topology(given: Mapping[str, str]) -> CpuTopology:
    cpus, shape = cpus_of(given)
    if cpus != shape.count:
        raise refuse_argument("-smp", "CPU hotplug is not modelled: make cpus and maxcpus equal")
    return shape


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
        elif key.removeprefix("smp.") in SMP_KEYS and key.startswith("smp."):
            found.smp[key.removeprefix("smp.")] = value
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
            switch = parse_sve_switch(where, item)
            if switch is not None:
                found.sve_switches.append(switch)
        elif item.key in options.CPU_IGNORED or options.CPU_SME.fullmatch(item.key):
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
    if name in options.LOADERS:
        raise refuse_argument(f"{option.written} {name}", "what it loads, or where it starts the CPU, is not modelled: leave it out")
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
