"""kvmtool's command line (``lkvm run``), with the options of the series that starts realms."""

import re
from collections.abc import Sequence
from typing import Any

from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm.argument_values import pad_rpv, parse_hash, parse_number, parse_size, split_properties
from kbs_rim.measurement.vmm.definition import CpuTopology, Role, VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.host_capabilities import PMU_COUNTERS, SVE_MAX, SVE_STEP, HostCapabilities
from kbs_rim.measurement.vmm.option_scanner import GivenOption, OptionTable, scan_getopt

_RAM_STEP = 2 * MIB
_ADDRESS_MAX = (1 << 48) - 1
_IMAGES: dict[str, Role] = {"kernel": "kernel", "initrd": "initrd", "firmware": "firmware"}
_VALUED = frozenset({
    "cpus", "mem", "disk", "9p", "console", "vsock", "virtio-transport", "kernel", "initrd", "params", "firmware", "firmware-address",
    "network", "measurement-algo", "realm-pv", "sve-max-vl", "pmu-counters", "irqchip",
})  # fmt: skip
_FLAGS = frozenset({"balloon", "rng", "pmu", "disable-sve", "realm", "measurement-log"})
_IGNORED_VALUED = frozenset({
    "name", "dev", "tty", "hugetlbfs", "loglevel", "vfio-pci", "debug-iodelay", "vcpu-affinity", "dtb", "shmem", "sandbox",
})  # fmt: skip
_IGNORED_FLAGS = frozenset({
    "nodefaults", "no-dhcp", "debug", "debug-single-step", "debug-ioport", "debug-mmio", "debug-nohostfs", "no-pvtime", "disable-mte",
    "force-pci", "restricted_mem", "vnc", "gtk", "sdl",
})  # fmt: skip
_TREE_VALUED = {"kaslr-seed": "it goes into the device tree"}
_REFUSED_VALUED = {"flash": "flash is not modelled; start the firmware with -f"}
_REFUSED_FLAGS = {
    "aarch32": "a realm is AArch64",
    "nested": "a realm has no nested virtualization",
    "protected": "this is pKVM's, not Arm CCA's; write --realm",
}
TABLE = OptionTable(
    valued=_VALUED | _IGNORED_VALUED | set(_TREE_VALUED) | set(_REFUSED_VALUED),
    flags=_FLAGS | _IGNORED_FLAGS | set(_REFUSED_FLAGS),
    short={
        "c": "cpus", "m": "mem", "d": "disk", "k": "kernel", "i": "initrd", "p": "params", "f": "firmware", "F": "flash", "n": "network",
    },
    programs=re.compile(r"(?:.*/)?(?:lkvm(?:-static)?|kvmtool|vm)|run"),
)  # fmt: skip
_DEVICE_FLAGS = ("balloon", "rng")
_DEVICE_VALUED = ("disk", "9p")


def parse_kvmtool_arguments(arguments: Sequence[str]) -> VmDefinition:
    """Return the VM that these arguments of ``lkvm run`` define.

    Raises ``InvalidDocument`` (``document.vm-arguments``) that names the option: unknown, malformed, missing or not modelled.
    """
    last: dict[str, GivenOption] = {}
    ignored: list[str] = []
    tree_changes: list[str] = []
    devices, networks = 0, []
    for option in scan_getopt(arguments, TABLE):
        refusal = _REFUSED_VALUED.get(option.name) or _REFUSED_FLAGS.get(option.name)
        if refusal:
            raise refuse_argument(option.written, refusal)
        if option.name in _IGNORED_VALUED or option.name in _IGNORED_FLAGS:
            ignored.append(option.written)
        elif option.name in _TREE_VALUED:
            tree_changes.append(f"{option.written}: {_TREE_VALUED[option.name]}")
        elif option.name in _DEVICE_VALUED:
            devices += 1
        elif option.name == "network":
            networks.append(option)
        else:
            last[option.name] = option
    devices += sum(name in last for name in (*_DEVICE_FLAGS, "vsock"))
    devices += "console" in last and last["console"].value == "virtio"
    mmio = _choice(last.get("virtio-transport"), {"pci": False, "mmio": True}, default=False)
    devices += _network_devices(networks, mmio=mmio)
    return VmDefinition(
        vmm="kvmtool",
        topology=CpuTopology(cores=_cpus(last)),
        ram_size=_ram(last),
        images=frozenset(role for name, role in _IMAGES.items() if name in last),
        bootargs=last["params"].value if "params" in last else None,
        limits=_limits(last),
        pmu="pmu" in last,
        its=_choice(last.get("irqchip"), {"gicv3": False, "gicv3-its": True}, default=True),
        measurement_log="measurement-log" in last,
        virtio_mmio=devices if mmio else 0,
        tree_given="--dtb" in ignored,
        ignored=tuple(name for name in ignored if name != "--dtb"),
        tree_changes=tuple(tree_changes),
        remarks=() if "realm" in last else ("no --realm: kvmtool would start a VM that is no realm",),
        **_texts(last),
    )


def _texts(last: dict[str, GivenOption]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if option := last.get("measurement-algo"):
        found["hash_algorithm"] = parse_hash(option.written, option.value)
    if option := last.get("realm-pv"):
        found["rpv"] = pad_rpv(option.written, option.value.encode())
    if option := last.get("firmware-address"):
        found["firmware_base"] = parse_number(option.written, option.value, 0, _ADDRESS_MAX, hexadecimal=True)
    return found


def _cpus(last: dict[str, GivenOption]) -> int:
    if "cpus" not in last:
        raise refuse_argument("-c", "is missing: kvmtool would take as many CPUs as its host has")
    return parse_number(last["cpus"].written, last["cpus"].value, 1, DEFAULT_LIMITS.cpus)


def _ram(last: dict[str, GivenOption]) -> int:
    if "mem" not in last:
        raise refuse_argument("-m", "is missing: kvmtool would take a part of its host's memory")
    option = last["mem"]
    if "@" in option.value:
        raise refuse_argument(option.written, "another base address of the RAM is not modelled: write the size alone")
    size = parse_size(option.written, option.value)
    if size % _RAM_STEP:
        raise refuse_argument(option.written, f"{option.value} is not a multiple of 2M")
    return size


def _limits(last: dict[str, GivenOption]) -> HostCapabilities:
    limits: dict[str, Any] = {}
    if option := last.get("pmu-counters"):
        limits["pmu_num_ctrs"] = parse_number(option.written, option.value, *PMU_COUNTERS)
    if "disable-sve" in last:
        limits["sve_vl"] = 0
    elif option := last.get("sve-max-vl"):
        limits["sve_vl"] = parse_number(option.written, option.value, 0, SVE_MAX)
        if limits["sve_vl"] % SVE_STEP:
            raise refuse_argument(option.written, f"{option.value} is not a multiple of {SVE_STEP} bits")
    return HostCapabilities(**limits)


def _choice(option: GivenOption | None, choices: dict[str, bool], *, default: bool) -> bool:
    if option is None:
        return default
    if option.value not in choices:
        raise refuse_argument(option.written, f"{option.value[:40]!r} is not modelled; choose {' or '.join(choices)}")
    return choices[option.value]


def _network_devices(networks: list[GivenOption], *, mmio: bool) -> int:
    """kvmtool makes one device by itself unless -n is given; each -n makes one, but for ``mode=none``."""
    count = 0 if networks else 1
    for option in networks:
        items = {item.key: item.value for item in split_properties(option.value, escaped=False)}
        if "" in items:
            raise refuse_argument(option.written, f"{items[''][:40]!r} has no =; write mode=user, for example")
        transport = items.get("trans")
        if transport is not None and transport != ("mmio" if mmio else "pci"):
            raise refuse_argument(option.written, f"trans={transport[:20]} is not the transport of --virtio-transport; make them equal")
        count += items.get("mode") != "none"
    return count
