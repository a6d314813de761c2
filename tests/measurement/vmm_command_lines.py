"""Maps the reference tool's command lines, as the vectors have them, to requests. For tests only.

The map follows the reference where it differs from a real VMM (a PMU whenever the host has one), so that its RIMs can be
compared; ``Unmapped`` says what a request cannot express.
"""

from dataclasses import dataclass, field
from pathlib import Path

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.vmm import HostParameters, VmRequest

MIB = 1 << 20
_SUFFIX = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_TRUE, _FALSE = ("on", "yes", "true", "y"), ("off", "no", "false", "n")
_QEMU_FLAGS = ("-enable-kvm", "-nographic", "-nodefaults")
_QEMU_VALUES = ("-dtb", "-drive", "-fsdev", "-chardev", "-netdev", "-mon", "-device")


class Unmapped(Exception):
    """This command line asks for something that a request does not express."""


@dataclass
class Command:
    """What the tool's options give: host values and image files."""

    host: dict[str, int | bool]
    files: dict[str, Path] = field(default_factory=dict)


def size_of(text: str) -> int:
    return int(text[:-1]) * _SUFFIX[text[-1]] if text[-1] in _SUFFIX else int(text) * MIB


def read_tool_options(case: dict, configs: dict, images: Path) -> Command:
    """Merge the host files ("restrict"), then the options, which overwrite."""
    host: dict[str, int | bool] = {}
    for name in case.get("configs") or ():
        for key, value in configs[name].items():
            host[key] = min(host.get(key, value), value)
    command = Command(host)
    arguments = list(case["tool_args"])
    while arguments:
        option, value = arguments.pop(0), arguments.pop(0)
        if option in ("-k", "-i", "-f"):
            command.files[option] = images / Path(value).name
        elif option == "--pmu":
            host["pmu"] = value == "true"
        elif option in ("--num-wps", "--num-bps", "--ipa-bits", "--pmu-num-ctrs"):
            host[option[2:].replace("-", "_")] = int(value)
        elif option != "--output-dtb":
            raise Unmapped(option)
    return command


def request_of(case: dict, configs: dict, images: Path) -> VmRequest:
    """Return the request for a case of the vectors."""
    command = read_tool_options(case, configs, images)
    if case["vmm"] == "kvmtool":
        return _kvmtool(command, case["vmm_args"])
    if case["vmm"] == "qemu":
        return _qemu(command, case["vmm_args"])
    raise Unmapped(f"vmm {case['vmm']}")


def _host(host: dict, algorithm: HashAlgorithm) -> HostParameters:
    return HostParameters(
        hash_algorithm=algorithm,
        ipa_limit=host.get("ipa_bits", 52),
        num_bps=host["num_bps"],
        num_wps=host["num_wps"],
        pmu_num_ctrs=host.get("pmu_num_ctrs", 0),
        sve_vl=host.get("sve_vl", 0),
        lpa2=host.get("lpa2", False),
    )


def _images(files: dict[str, Path], used: set[str]) -> dict:
    found: dict = {}
    for option, role in (("-k", "kernel"), ("-i", "initrd"), ("-f", "firmware")):
        if role not in used:
            continue
        measured = measure_image(files[option].read_bytes())
        found[f"{role}_size"] = measured.size
        if role == "kernel":
            found["kernel_header"] = measured.kernel
    return found


def _boot(used: set[str]) -> str:
    return "firmware" if "firmware" in used else "kernel" if "kernel" in used else "none"


def _kvmtool(command: Command, arguments: list[str]) -> VmRequest:
    host, used, given = command.host, set(), {}
    algorithm, disks, networks, mmio = HashAlgorithm.SHA256, 0, 1, False
    arguments = list(arguments)
    while arguments:
        option = arguments.pop(0)
        if option in ("--realm", "--pmu"):
            continue
        if option == "--measurement-log":
            given["measurement_log"] = True
        elif option == "--disable-sve":
            host["sve_vl"] = 0
        elif option in ("--rng", "--balloon"):
            disks += 1
        else:
            value = arguments.pop(0)
            if option == "-c":
                given["cpus"] = int(value)
            elif option == "-m":
                given["ram_size"] = size_of(value)
            elif option in ("-k", "-i", "-f"):
                used.add({"-k": "kernel", "-i": "initrd", "-f": "firmware"}[option])
            elif option == "-p":
                given["bootargs"] = value
            elif option == "--measurement-algo":
                algorithm = HashAlgorithm.from_name(value)
            elif option == "--pmu-counters":
                host["pmu_num_ctrs"] = min(host["pmu_num_ctrs"], int(value))
            elif option == "--sve-max-vl":
                host["sve_vl"] = min(host["sve_vl"], int(value))
            elif option == "--irqchip":
                given["its"] = value == "gicv3-its"
            elif option == "--virtio-transport":
                mmio = value == "mmio"
            elif option == "-n":
                networks = 0 if value == "mode=none" else networks + 1
            elif option in ("-d", "--9p", "--vsock", "--console"):
                disks += 1
            elif option != "--realm-pv":
                raise Unmapped(option)
    return VmRequest(
        boot=_boot(used),
        host=_host(host, algorithm),
        pmu=host.get("pmu", False),
        virtio_mmio=disks + networks if mmio else 0,
        **_images(command.files, used),
        **given,
    )


def _cpu_count(items: list[str]) -> int:
    topology = dict(item.split("=") if "=" in item else ("cpus", item) for item in items)
    shape = {name: int(topology.get(name, 1)) for name in ("sockets", "clusters", "cores", "threads")}
    total = int(topology.get("maxcpus", topology.get("cpus", 0)))
    if total:
        for name in ("cores", "sockets", "threads"):
            if name not in topology:
                others = 1
                for other, count in shape.items():
                    others *= count if other != name else 1
                shape[name] = total // others
    return shape["sockets"] * shape["clusters"] * shape["cores"] * shape["threads"]


def _cpu_options(host: dict, items: list[str]) -> None:
    for item in items:
        key, _, value = item.partition("=")
        if key in ("num-breakpoints", "num-watchpoints", "num-pmu-counters"):
            name = {"num-breakpoints": "num_bps", "num-watchpoints": "num_wps", "num-pmu-counters": "pmu_num_ctrs"}[key]
            host[name] = min(host[name], int(value))
        elif key == "pmu":
            host["pmu"] = False if value in _FALSE else host.get("pmu", True)
        elif key == "sve":
            host["sve_vl"] = 0
        elif key.startswith("sve") and value in _FALSE:
            host["sve_vl"] = min(host["sve_vl"], int(key[3:]) // 2)
        elif item != "host":
            raise Unmapped(item)


def _qemu(command: Command, arguments: list[str]) -> VmRequest:
    host, used, given, cpus = command.host, set(), {"ram_size": 128 * MIB}, []
    algorithm = HashAlgorithm.SHA512
    arguments = list(arguments)
    while arguments:
        option = arguments.pop(0)
        if option in _QEMU_FLAGS:
            continue
        value = arguments.pop(0)
        items = value.split(",")
        if option == "-m":
            for item in items:
                key, _, number = item.rpartition("=")
                name = {"": "ram_size", "size": "ram_size", "maxmem": "ram_max", "slots": "hotplug_slots"}[key]
                given[name] = int(number) if key == "slots" else size_of(number)
        elif option == "-smp":
            cpus += items
        elif option == "-cpu":
            _cpu_options(host, items)
        elif option == "-M":
            given |= {"its": False} if "its=off" in items else {}
            if "gic-version=2" in items:
                raise Unmapped("gic-version=2")
        elif option == "-object":
            for item in items[1:]:
                key, _, text = item.partition("=")
                algorithm = HashAlgorithm.from_name(text) if key == "measurement-algorithm" else algorithm
                given |= {"measurement_log": text == "on"} if key == "measurement-log" else {}
        elif option in ("-kernel", "-initrd", "-bios"):
            used.add({"-kernel": "kernel", "-initrd": "initrd", "-bios": "firmware"}[option])
        elif option == "-append":
            given["bootargs"] = value
        elif option not in _QEMU_VALUES:
            raise Unmapped(option)
    return VmRequest(
        boot=_boot(used),
        host=_host(host, algorithm),
        cpus=_cpu_count(cpus),
        pmu=host.get("pmu", False),
        **_images(command.files, used),
        **given,
    )
