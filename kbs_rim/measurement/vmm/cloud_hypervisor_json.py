"""cloud-hypervisor's ``VmConfig`` (the body of ``PUT /api/v1/vm.create``, or what ``ch-remote info`` shows) as its command line.

Field names are those of vmm/src/vm_config.rs. The JSON counts memory in bytes and has other defaults than the command line for the
consoles; everything else says the same in both forms, so one parser judges both (``cloud_hypervisor_arguments``).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.printable import printable
from kbs_rim.limits import MIB

LARGEST_DOCUMENT = 1 * MIB
_MOST_ITEMS = 50_000
_SILENT = {
    "rate_limit_groups": "", "disks": "--disk", "net": "--net", "rng": "--rng", "balloon": "--balloon", "fs": "--fs", "pmem": "--pmem",
    "console": "--console", "debug_console": "--debug-console", "devices": "--device", "user_devices": "--user-device", "vdpa": "--vdpa",
    "vsock": "--vsock", "preserved_fds": "", "landlock_rules": "--landlock-rules",
}  # fmt: skip
"""Members that change no measurement, with the option that says the same."""
_SILENT_SWITCHES = {"pvpanic": "--pvpanic", "watchdog": "--watchdog", "landlock_enable": "--landlock"}
_TREE = {"numa": "--numa", "pci_segments": "--pci-segment", "tpm": "--tpm"}
_CPU_SILENT = ("max_phys_bits", "features", "affinity", "kvm_hyperv", "nested", "core_scheduling")
_MEMORY_SILENT = ("mergeable", "shared", "hugepages", "hugepage_size", "prefault", "thp", "reserve")
_PLATFORM_SILENT = ("serial_number", "uuid", "oem_strings", "arm_rme", "iommu_address_width", "tdx", "sev_snp")
_OTHER_GUESTS = ("tdx", "sev_snp")
_TOPOLOGY = ("threads_per_core", "cores_per_die", "dies_per_package", "packages")
_SERIAL_MODES = ("Off", "Null", "Pty", "Tty", "File", "Socket")


def cloud_hypervisor_arguments(data: bytes) -> tuple[str, ...]:
    """Return the arguments of ``cloud-hypervisor`` that define the VM of a JSON document; member null is the same as none.

    The document is a VmConfig, or has one as its member ``config``. Raises ``InvalidDocument`` (``document.vm-definition``): no JSON
    with one reading, a member that is not known or has another type, a VM that is no realm.
    """
    document = _decoded(data)
    inner = document.get("config")
    config = inner if isinstance(inner, dict) and "cpus" not in document else document
    members = {key: value for key, value in config.items() if value is not None and value != []}
    return tuple(word for key, value in members.items() for word in _words(key, value))


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        document: Any = strict_json.decode(
            data, what="the VM's configuration", max_bytes=LARGEST_DOCUMENT, max_items=_MOST_ITEMS, allow_floats=True
        )
    except MalformedEvidence as error:
        raise InvalidDocument("document.vm-definition", str(error)) from None
    if not isinstance(document, dict):
        raise _refuse("JSON", "is no object")
    return document


def _words(key: str, value: Any) -> Iterator[str]:
    if key in _READERS:
        yield from _READERS[key](value)
    elif key in _SILENT:
        if option := _SILENT[key]:
            yield from (option, "...")
    elif key in _SILENT_SWITCHES:
        if _switch(key, value):
            yield _SILENT_SWITCHES[key]
    elif key in _TREE:
        yield from (_TREE[key], "...")
    else:
        raise _refuse(key, "is not a member that is known here")


def _cpus(value: Any) -> Iterator[str]:
    members = _members("cpus", value, ("boot_vcpus", "max_vcpus", "topology", *_CPU_SILENT))
    boot = _number("cpus.boot_vcpus", members.get("boot_vcpus", 1))
    parts = [f"boot={boot}", f"max={_number('cpus.max_vcpus', members.get('max_vcpus', boot))}"]
    if "topology" in members:
        shape = _members("cpus.topology", members["topology"], _TOPOLOGY)
        parts.append("topology=" + ":".join(str(_number(f"cpus.topology.{name}", shape.get(name, 1))) for name in _TOPOLOGY))
    parts += [f"{name}=..." for name in _CPU_SILENT if name in members and name not in ("nested", "core_scheduling")]
    yield from ("--cpus", ",".join(parts))


def _memory(value: Any) -> Iterator[str]:
    tree = ("hotplug_method", "hotplug_size", "hotplugged_size")
    members = _members("memory", value, ("size", "zones", *tree, *_MEMORY_SILENT))
    parts = [f"size={_number('memory.size', members['size'])}"] if "size" in members else []
    plugs = _number("memory.hotplug_size", members.get("hotplug_size", 0)) or _number(
        "memory.hotplugged_size", members.get("hotplugged_size", 0)
    )
    parts += ["hotplug_size=..."] if plugs else []
    parts += [f"{name}=..." for name in _MEMORY_SILENT if name in members]
    if parts:
        yield from ("--memory", ",".join(parts))
    if members.get("zones"):
        yield from ("--memory-zone", "...")


def _payload(value: Any) -> Iterator[str]:
    members = _members("payload", value, ("kernel", "initramfs", "cmdline", "firmware", "igvm", "host_data"))
    if "igvm" in members:
        raise _refuse("payload.igvm", "the file says what is measured: read it with kbs-rim workload from igvm")
    for name in ("kernel", "initramfs", "cmdline", "firmware"):
        if name in members:
            yield from (f"--{name}", _text(f"payload.{name}", members[name]))


def _older_file(name: str) -> Callable[[Any], Iterator[str]]:
    """Older versions have ``kernel`` and ``initramfs`` beside ``cpus``, each with a ``path``."""

    def words(value: Any) -> Iterator[str]:
        yield from (f"--{name}", _text(f"{name}.path", _members(name, value, ("path",)).get("path")))

    return words


def _older_cmdline(value: Any) -> Iterator[str]:
    yield from ("--cmdline", _text("cmdline.args", _members("cmdline", value, ("args",)).get("args")))


def _serial(value: Any) -> Iterator[str]:
    members = _members("serial", value, ("mode", "file", "socket", "iommu"))
    mode = _text("serial.mode", members.get("mode", "Null"))
    if mode not in _SERIAL_MODES:
        raise _refuse("serial.mode", f"is one of {', '.join(_SERIAL_MODES)}")
    yield from ("--serial", mode.lower())


def _platform(value: Any) -> Iterator[str]:
    known = ("num_pci_segments", "iommu_segments", "measurement_algo", "personalization_value", *_PLATFORM_SILENT)
    members = _members("platform", value, known)
    for name in _OTHER_GUESTS:
        if members.get(name, False) is not False:
            raise _refuse(f"platform.{name}", "is another kind of confidential guest")
    parts = [f"{name}=..." for name in _PLATFORM_SILENT if name in members and name not in _OTHER_GUESTS]
    if _number("platform.num_pci_segments", members.get("num_pci_segments", 1)) != 1:
        parts.append("num_pci_segments=...")
    parts += ["iommu_segments=..."] if members.get("iommu_segments") else []
    for name in ("measurement_algo", "personalization_value"):
        if name in members:
            text = _text(f"platform.{name}", members[name])
            if any(character in text for character in ',"[]'):
                raise _refuse(f"platform.{name}", "has characters that its option cannot have")
            parts.append(f"{name}={text}")
    if parts:
        yield from ("--platform", ",".join(parts))


def _iommu(value: Any) -> Iterator[str]:
    if _switch("iommu", value):
        raise _refuse("iommu", "changes the device tree in a way that is not modelled: leave it out")
    yield from ()


def _refused(problem: str) -> Callable[[Any], Iterator[str]]:
    def words(value: Any) -> Iterator[str]:
        if value not in (False, {}):
            raise _refuse("member", problem)
        yield from ()

    return words


_READERS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "cpus": _cpus,
    "memory": _memory,
    "payload": _payload,
    "kernel": _older_file("kernel"),
    "initramfs": _older_file("initramfs"),
    "cmdline": _older_cmdline,
    "serial": _serial,
    "platform": _platform,
    "iommu": _iommu,
    "gdb": _refused("gdb: no realm is debugged"),
    "tdx": _refused("tdx: another kind of confidential guest"),
    "sgx_epc": _refused("sgx_epc: not on this architecture"),
    "pvmemcontrol": _refused("pvmemcontrol: what it adds to the device tree is not known"),
    "ivshmem": _refused("ivshmem: what it adds to the device tree is not known"),
}


def _members(where: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(where, "is no object")
    for key in value:
        if key not in known:
            raise _refuse(f"{where}.{printable(key, 40)}", "is not a member that is known here")
    return {key: item for key, item in value.items() if item is not None}


def _number(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refuse(where, "is no whole number")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _refuse(where, "is no text")
    return value


def _switch(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(where, "is neither true nor false")
    return value


def _refuse(where: str, problem: str) -> InvalidDocument:
    return InvalidDocument("document.vm-definition", f"{printable(where, 60)}: {problem}")
