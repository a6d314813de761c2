"""CPUs and memory of a libvirt domain as QEMU's ``-cpu``, ``-smp``, ``-m`` and ``-numa`` (libvirt docs/formatdomain, CPU and memory)."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from kbs_rim.evidence.printable import printable
from kbs_rim.limits import DEFAULT_LIMITS, KIB, MIB
from kbs_rim.measurement.vmm.libvirt_xml import XmlElement, refuse_definition

_UNITS = {
    "b": 1, "bytes": 1, "KB": 10**3, "k": KIB, "KiB": KIB, "MB": 10**6, "M": MIB, "MiB": MIB, "GB": 10**9, "G": KIB * MIB, "GiB": KIB * MIB,
    "TB": 10**12, "T": MIB * MIB, "TiB": MIB * MIB, "PB": 10**15, "P": KIB * MIB * MIB, "PiB": KIB * MIB * MIB,
}  # fmt: skip
_NUMBER = re.compile(r"[0-9]{1,18}")
_CPU_RANGES = re.compile(r"[0-9]{1,4}(?:-[0-9]{1,4})?(?:,[0-9]{1,4}(?:-[0-9]{1,4})?)*")
_MODES = {"host-passthrough": "host", "maximum": "max"}
_POLICIES = {"force": "on", "require": "on", "disable": "off", "forbid": "off"}
_VECTOR = re.compile(r"sve[0-9]+")
_LEVELS = ("sockets", "dies", "clusters", "cores", "threads")
_NODES = 128


class NumaBackend(NamedTuple):
    """One NUMA node: the id of its memory backend, bytes, and the value of ``-numa``."""

    name: str
    size: int
    option: str


def memory_of(domain: XmlElement) -> tuple[int | None, str, tuple[NumaBackend, ...]]:
    """Return the RAM in bytes if it is one piece (else None), the value of ``-m``, and the NUMA nodes.

    Raises ``InvalidDocument`` (``document.vm-definition``), as all functions here.
    """
    cells = domain.first("cpu", "numa")
    nodes = () if cells is None else tuple(_node(cell, number) for number, cell in enumerate(cells.all("cell")))
    if len(nodes) > _NODES:
        raise refuse_definition("<numa>", f"has more than {_NODES} cells")
    memory = domain.first("memory")
    if memory is None and not nodes:
        raise refuse_definition("<memory>", "is missing")
    total = sum(node.size for node in nodes) if nodes or memory is None else _size(memory, memory.text)
    option = f"size={total // KIB}k"
    largest = domain.first("maxMemory")
    if largest is not None:
        option += f",slots={_count(largest, 'slots', '0', 0, 256)},maxmem={_size(largest, largest.text) // KIB}k"
    return (None if nodes else total), option, nodes


def smp_argument(domain: XmlElement) -> str:
    """Return the value of ``-smp``. Without a topology every CPU is a socket of its own."""
    element = domain.first("vcpu")
    most = 1 if element is None else _number("<vcpu>", element.text.strip() or "1", 1, DEFAULT_LIMITS.cpus)
    now = most if element is None else _count(element, "current", str(most), 1, most)
    topology = domain.first("cpu", "topology")
    counts = {"sockets": most, "cores": 1, "threads": 1}
    if topology is not None:
        counts = {level: _count(topology, level, "1", 1, DEFAULT_LIMITS.cpus) for level in _LEVELS}
        product = 1
        for count in counts.values():
            product *= count
        if product != most:
            raise refuse_definition("<topology>", f"makes {product} CPUs, <vcpu> says {most}")
    plugged = [] if now == most else [f"maxcpus={most}"]
    return ",".join([str(now), *plugged, *(f"{level}={count}" for level, count in counts.items())])


def cpu_arguments(domain: XmlElement) -> Iterator[str]:
    """Yield ``-cpu`` and its value, or nothing where libvirt leaves it to QEMU."""
    cpu, pmu = domain.first("cpu"), domain.first("features", "pmu")
    model = "" if cpu is None else _model(cpu)
    if not model:
        if pmu is not None:
            raise refuse_definition("<pmu>", "needs a <cpu>: what libvirt writes without one is not known")
        return
    parts = [model, *(_features(cpu) if cpu is not None else ())]
    if pmu is not None:
        state = pmu.attributes.get("state", "on")
        if state not in ("on", "off"):
            raise refuse_definition("<pmu>", "state is on or off")
        parts.append(f"pmu={state}")
    yield from ("-cpu", ",".join(parts))


def _model(cpu: XmlElement) -> str:
    mode = cpu.attributes.get("mode", "custom")
    if mode == "host-model":
        raise refuse_definition("<cpu>", "mode host-model is not for this architecture, says libvirt: write host-passthrough")
    if mode not in ("custom", *_MODES):
        raise refuse_definition("<cpu>", f"mode {printable(mode, 20)} is not known")
    model = _MODES.get(mode) or cpu.text_at("model").strip()
    if "," in model or "=" in model:
        raise refuse_definition("<model>", "is no name of a CPU")
    return model


def _features(cpu: XmlElement) -> Iterator[str]:
    """A vector length alone switches SVE on, which libvirt writes behind it."""
    wanted: dict[str, str] = {}
    for feature in cpu.all("feature"):
        name, policy = feature.attributes.get("name", ""), feature.attributes.get("policy", "require")
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name) or policy not in (*_POLICIES, "optional"):
            raise refuse_definition("<feature>", "needs a name, and one of the policies force, require, optional, disable, forbid")
        if policy in _POLICIES:
            wanted[name] = _POLICIES[policy]
    if "sve" not in wanted and any(_VECTOR.fullmatch(name) and switch == "on" for name, switch in wanted.items()):
        wanted["sve"] = "on"
    return (f"{name}={switch}" for name, switch in wanted.items())


def _node(cell: XmlElement, position: int) -> NumaBackend:
    number = _count(cell, "id", str(position), 0, _NODES - 1)
    size = _size(cell, cell.attributes.get("memory", ""))
    name = f"ram-node{number}"
    parts = [f"node,nodeid={number}"]
    if cpus := cell.attributes.get("cpus", ""):
        if not _CPU_RANGES.fullmatch(cpus):
            raise refuse_definition("<cell cpus>", f"{printable(cpus, 40)} is no list of ranges such as 0-1,4")
        parts += [f"cpus={part}" for part in cpus.split(",")]
    return NumaBackend(name, size, ",".join([*parts, f"memdev={name}"]))


def _size(element: XmlElement, text: str) -> int:
    """Read a size in bytes; libvirt counts KiB without a unit, and rounds up to KiB, then to MiB."""
    unit = _UNITS.get(element.attributes.get("unit", "KiB"))
    if unit is None or not _NUMBER.fullmatch(text.strip()):
        raise refuse_definition(f"<{element.name}>", "is a number with a unit such as KiB, MiB or GiB")
    size = -(-int(text) * unit // MIB) * MIB
    if not 0 < size < 1 << 52:
        raise refuse_definition(f"<{element.name}>", "is nothing, or more than any realm can have")
    return size


def _count(element: XmlElement, attribute: str, default: str, low: int, high: int) -> int:
    return _number(f"<{element.name} {attribute}>", element.attributes.get(attribute, default), low, high)


def _number(where: str, text: str, low: int, high: int) -> int:
    value = int(text) if _NUMBER.fullmatch(text) else -1
    if not low <= value <= high:
        raise refuse_definition(where, f"{printable(text, 40)} is not a whole number from {low} to {high}")
    return value
