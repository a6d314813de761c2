"""cloud-hypervisor's command line, with the platform options of the branch that starts realms."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm.argument_values import parse_hash, parse_number, parse_rpv_base64, parse_size, split_bracketed
from kbs_rim.measurement.vmm.definition import CpuTopology, Role, VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.option_scanner import GivenOption, OptionTable, scan_getopt

DEFAULT_RAM = 512 * MIB
_IMAGES: dict[str, Role] = {"kernel": "kernel", "initramfs": "initrd"}
_VALUED = frozenset({"cpus", "memory", "platform", "kernel", "initramfs", "cmdline", "serial"})
_IGNORED_VALUED = frozenset({
    "rate-limit-group", "disk", "net", "rng", "balloon", "fs", "pmem", "console", "device", "user-device", "vdpa", "vsock", "log-file",
    "api-socket", "event-monitor", "restore", "seccomp", "dtb", "debug-console", "landlock-rules", "gdb",
})  # fmt: skip
_IGNORED_FLAGS = frozenset({"pvpanic", "watchdog", "verbose", "landlock"})
_TREE_VALUED = {
    "memory-zone": "several memory zones change the device tree",
    "numa": "NUMA nodes change the device tree",
    "pci-segment": "more PCI segments change the device tree",
    "tpm": "a TPM changes the device tree",
}
_REFUSED_VALUED = {"firmware": "where cloud-hypervisor loads firmware into a realm is not known; start the kernel itself"}
_CPUS_IGNORED = frozenset({"affinity", "kvm_hyperv", "max_phys_bits", "features"})
_MEMORY_IGNORED = frozenset({"mergeable", "shared", "hugepages", "hugepage_size", "prefault", "thp", "reserve"})
_MEMORY_TREE = frozenset({"hotplug_method", "hotplug_size", "hotplugged_size"})
_PLATFORM_IGNORED = frozenset({"arm_rme", "serial_number", "uuid", "oem_strings", "iommu_address_width"})
_PLATFORM_TREE = frozenset({"num_pci_segments", "iommu_segments"})
TABLE = OptionTable(
    valued=_VALUED | _IGNORED_VALUED | set(_TREE_VALUED) | set(_REFUSED_VALUED),
    flags=_IGNORED_FLAGS,
    short={"v": "verbose"},
    programs=re.compile(r"(?:.*/)?cloud-hypervisor(?:-static)?"),
)


class _Reader:
    """Collects what the lists say beside their main keys."""

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self.tree_changes: list[str] = []

    def items(self, option: GivenOption | None, ignored: frozenset[str], tree: frozenset[str], known: frozenset[str]) -> Mapping[str, str]:
        """Return the items of a list that are in ``known``; note those of ``ignored`` and ``tree``, refuse the rest."""
        found: dict[str, str] = {}
        for key, value in split_bracketed(option.value) if option is not None else ():
            written = "" if option is None else option.written
            if not key:
                raise refuse_argument(written, f"{value[:40]!r} has no =; write {min(known)}=..., for example")
            if key in known:
                found[key] = value
            elif key in ignored:
                self.ignored.append(f"{written} {key}")
            elif key in tree:
                self.tree_changes.append(f"{written} {key}: it changes the device tree")
            else:
                raise refuse_argument(written, f"{key[:40]} is not one of its keys that is known here")
        return found


def parse_cloud_hypervisor_arguments(arguments: Sequence[str]) -> VmDefinition:
    """Return the VM that these arguments of ``cloud-hypervisor`` define.

    Raises ``InvalidDocument`` (``document.vm-arguments``) that names the option: unknown, malformed or not modelled.
    """
    last: dict[str, GivenOption] = {}
    reader = _Reader()
    for option in scan_getopt(arguments, TABLE):
        if option.name in _REFUSED_VALUED:
            raise refuse_argument(option.written, _REFUSED_VALUED[option.name])
        if option.name in _TREE_VALUED:
            reader.tree_changes.append(f"{option.written}: {_TREE_VALUED[option.name]}")
        elif option.name in _VALUED:
            last[option.name] = option
        else:
            reader.ignored.append(option.written)
    cpus, ram_size, platform = _cpus(last, reader), _ram(last, reader), _platform(last, reader)
    return VmDefinition(
        vmm="cloud-hypervisor",
        topology=CpuTopology(cores=cpus),
        ram_size=ram_size,
        images=frozenset(role for name, role in _IMAGES.items() if name in last),
        bootargs=last["cmdline"].value if "cmdline" in last else None,
        serial="serial" not in last or last["serial"].value != "off",
        ignored=tuple(reader.ignored),
        tree_changes=tuple(reader.tree_changes),
        **platform,
    )


def _cpus(last: Mapping[str, GivenOption], reader: _Reader) -> int:
    items = reader.items(last.get("cpus"), _CPUS_IGNORED, frozenset({"topology"}), frozenset({"boot", "max"}))
    count = parse_number("--cpus boot", items.get("boot", "1"), 1, DEFAULT_LIMITS.cpus)
    if parse_number("--cpus max", items.get("max", str(count)), 1, DEFAULT_LIMITS.cpus) != count:
        raise refuse_argument("--cpus max", "CPU hotplug is not modelled: make boot and max equal")
    return count


def _ram(last: Mapping[str, GivenOption], reader: _Reader) -> int:
    items = reader.items(last.get("memory"), _MEMORY_IGNORED, _MEMORY_TREE, frozenset({"size"}))
    if "size" not in items:
        return DEFAULT_RAM
    size = parse_size("--memory size", items["size"], unit=1, suffixes="KMGTP")
    if size < MIB:
        raise refuse_argument("--memory size", f"{items['size'][:40]} is too little; without a suffix cloud-hypervisor counts bytes")
    return size


def _platform(last: Mapping[str, GivenOption], reader: _Reader) -> dict[str, Any]:
    known = frozenset({"measurement_algo", "personalization_value"})
    items = reader.items(last.get("platform"), _PLATFORM_IGNORED, _PLATFORM_TREE, known)
    found: dict[str, Any] = {}
    if "measurement_algo" in items:
        found["hash_algorithm"] = parse_hash("--platform measurement_algo", items["measurement_algo"])
    if "personalization_value" in items:
        found["rpv"] = parse_rpv_base64("--platform personalization_value", items["personalization_value"])
    return found
