"""Patches a device tree that a real VMM dumped: its bytes stay, but for what depends on the VM's options.

Nodes and properties are replaced or dropped, never added where the template lacks them; so a template should come from a VM with every
optional part (log, PMU, ITS, initrd). The strings block stays as it is, shared suffixes included, and new names follow it.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.errors import InvalidDocument
from kbs_rim.measurement.device_tree_blob import (
    BEGIN_NODE,
    END,
    END_NODE,
    HEADER,
    NOP,
    PROP,
    RESERVATION,
    DeviceTree,
    Node,
    parse_device_tree,
)  # fmt: skip
from kbs_rim.measurement.device_tree_writer import cells, cells64, text
from kbs_rim.measurement.vmm import kvmtool, qemu
from kbs_rim.measurement.vmm.definition import CpuTopology
from kbs_rim.measurement.vmm.memory_map import MemoryMap, lay_out
from kbs_rim.measurement.vmm.profile import VmRequest
from kbs_rim.measurement.vmm.tree_parts import MSI_RID_COUNT
from kbs_rim.measurement.vmm.vmm_profile import TreeShape, VmmProfile

_HEADER_FIELDS = 10
_TOTAL, _STRUCT, _STRINGS, _RESERVATIONS, _STRINGS_SIZE, _STRUCT_SIZE = 1, 2, 3, 4, 8, 9


@dataclass(frozen=True, slots=True)
class _Template:
    """The parts of a template that survive the patching."""

    fields: tuple[int, ...]
    gap: bytes
    reservations: bytes
    strings: bytes
    offsets: Mapping[str, int]
    tree: DeviceTree
    padded: bool


class Patch:
    """What becomes of each node and property; a VMM's patches override these."""

    def __init__(self, request: VmRequest, memory: MemoryMap) -> None:
        self.request, self.memory = request, memory

    def node(self, node: Node) -> Node | None:
        """Return the node to write with everything below it, None to drop it; the node itself is patched further."""
        return node

    def value(self, node: Node, name: str, value: bytes) -> bytes | None:
        """Return the property's value, None to drop the property."""
        if node.base_name == "memory" and name == "reg":
            return cells64(*self.memory.ram)
        if node.name == "chosen" and name == "bootargs":
            return None if self.request.bootargs is None else text(self.request.bootargs)
        if node.name == "chosen" and name in ("linux,initrd-start", "linux,initrd-end"):
            initrd = self.memory.things.get("initrd")
            return None if initrd is None else cells64(initrd.base if name.endswith("start") else initrd.end)
        return value


class QemuPatch(Patch):
    """QEMU: CPUs with their map, log, PMU, ITS, GIC, PCI host, GPIO, and the phandles that the number of CPUs moves."""

    def __init__(self, request: VmRequest, memory: MemoryMap) -> None:
        super().__init__(request, memory)
        self.gic = qemu.gic_phandle_of(request)
        self.its = self.gic + 1
        self.gpio = self.its + 1 if request.its else self.its

    def node(self, node: Node) -> Node | None:
        if node.name == "cpus":
            return _qemu_cpus(self.request)
        if node.name == "reserved-memory":
            log = self.memory.things.get("log")
            return None if log is None else qemu.reserved_memory(log)
        if (node.name == "pmu" and not self.request.pmu) or (node.name == "its@8080000" and not self.request.its):
            return None
        return node

    def value(self, node: Node, name: str, value: bytes) -> bytes | None:
        if name == "interrupt-parent":
            return cells(self.gic)
        devices = self.memory.devices
        regions = qemu.gic_regions(self.request, devices)
        changed: dict[tuple[str, str], bytes | None] = {
            ("its@8080000", "phandle"): cells(self.its),
            ("intc@8000000", "reg"): cells64(*(number for region in regions for number in region)),
            ("intc@8000000", "phandle"): cells(self.gic),
            ("intc@8000000", "#redistributor-regions"): cells(len(regions) - 1),
            ("pcie@10000000", "interrupt-map"): qemu.interrupt_map(self.gic),
            ("pcie@10000000", "ranges"): qemu.pci_ranges(devices),
            ("pcie@10000000", "reg"): cells64(*devices["high-pci-config"]),
            ("pcie@10000000", "msi-map"): cells(0, self.its, 0, MSI_RID_COUNT) if self.request.its else None,
            ("pl061@9030000", "phandle"): cells(self.gpio),
            ("poweroff", "gpios"): cells(self.gpio, 3, 0),
        }
        if (node.name, name) in changed:
            return changed[node.name, name]
        return super().value(node, name, value)


class KvmtoolPatch(Patch):
    """kvmtool: CPUs, GIC and ITS, log, PMU. Without an initrd its properties go, so that no guest looks for one at address 0."""

    def node(self, node: Node) -> Node | None:
        if node.name == "cpus":
            return _kvmtool_cpus(self.request.cpus)
        if node.name == "intc":
            return kvmtool.interrupt_controller(self.request, self.memory)
        if node.name == "reserved-memory":
            log = self.memory.things.get("log")
            return None if log is None else kvmtool.reserved_memory(log)
        return None if node.name == "pmu" and not self.request.pmu else node

    def value(self, node: Node, name: str, value: bytes) -> bytes | None:
        if node.name == "chosen" and name == "bootargs":
            return text(kvmtool.bootargs_of(self.request))
        if name == "msi-map" and not self.request.its:
            return None
        return super().value(node, name, value)


_PATCHES: Mapping[TreeShape, Callable[[VmRequest, MemoryMap], Patch]] = {"qemu-virt": QemuPatch, "kvmtool": KvmtoolPatch}


def patch_template(profile: VmmProfile, request: VmRequest, template: bytes) -> bytes:
    """Return ``template`` changed to what ``request`` needs, not yet padded as the VMM loads it. Errors as for ``patch_tree``."""
    return patch_tree(profile, request, lay_out(profile, request), template)


def patch_tree(profile: VmmProfile, request: VmRequest, memory: MemoryMap, template: bytes) -> bytes:
    """Return ``template`` changed to what a VM needs that lies in memory as ``memory`` says.

    Raises ``InvalidDocument``: ``document.vm`` for a VMM that takes no tree, or a template that no VMM of this kind dumps;
    ``MalformedEvidence`` (``tree.malformed``) if it is no device tree.
    """
    if profile.tree not in _PATCHES:
        raise InvalidDocument("document.vm", f"{profile.name} takes no device tree, so there is no template to patch")
    return _write(_read(template), _PATCHES[profile.tree](request, memory))


def _read(data: bytes) -> _Template:
    tree = parse_device_tree(data)
    fields = HEADER.unpack_from(data)
    begin, end = fields[_RESERVATIONS], fields[_RESERVATIONS] + RESERVATION.size * (len(tree.reservations) + 1)
    struct_end = fields[_STRUCT] + fields[_STRUCT_SIZE]
    if fields[_STRUCT] != end or fields[_STRINGS] != struct_end:
        raise _unusable("its blocks do not follow each other: reservations, structure, strings")
    strings = data[fields[_STRINGS] : fields[_STRINGS] + fields[_STRINGS_SIZE]]
    return _Template(
        fields,
        data[HEADER.size : begin],
        data[begin:end],
        strings,
        dict(_name_offsets(data[fields[_STRUCT] : struct_end], strings)),
        tree,
        fields[_TOTAL] > fields[_STRINGS] + fields[_STRINGS_SIZE],
    )


def _name_offsets(structure: bytes, strings: bytes) -> Iterator[tuple[str, int]]:
    """Yield where each property name stands in the strings. The structure has been read once, so it is sound."""
    position, seen = 0, set()
    while True:
        token = int.from_bytes(structure[position : position + 4], "big")
        position += 4
        if token == END:
            return
        if token == NOP:
            raise _unusable("it has NOP tokens")
        if token == BEGIN_NODE:
            position += structure.index(b"\0", position) - position + 4 & ~3
        elif token == PROP:
            length, offset = struct.unpack_from(">II", structure, position)
            position += 8 + (length + 3 & ~3)
            name = strings[offset : strings.index(b"\0", offset)].decode("ascii")
            if name not in seen:
                seen.add(name)
                yield name, offset


def _write(template: _Template, patch: Patch) -> bytes:
    strings = bytearray(template.strings)
    offsets = dict(template.offsets)
    structure = bytearray()
    for piece in _pieces(template.tree.root, patch):
        if isinstance(piece, bytes):
            structure += piece
            continue
        name, value = piece
        if name not in offsets:
            offsets[name] = len(strings)
            strings += text(name)
        structure += cells(PROP, len(value), offsets[name]) + value + bytes(-len(value) % 4)
    structure += cells(END)
    fields = list(template.fields)
    fields[_STRUCT_SIZE], fields[_STRINGS_SIZE] = len(structure), len(strings)
    fields[_STRINGS] = fields[_STRUCT] + len(structure)
    end = fields[_STRINGS] + len(strings)
    if not template.padded:
        fields[_TOTAL] = end
    elif end > fields[_TOTAL]:
        raise _unusable(f"the patched tree needs {end} bytes, and it has room for {fields[_TOTAL]}")
    blob = HEADER.pack(*fields[:_HEADER_FIELDS]) + template.gap + template.reservations + bytes(structure) + bytes(strings)
    return blob.ljust(fields[_TOTAL], b"\0")


def _pieces(root: Node, patch: Patch) -> Iterator[bytes | tuple[str, bytes]]:
    """Yield the structure: nodes as bytes, properties as name and value. ``rebuilt`` subtrees are written as they are."""
    pending: list[tuple[Node, bool] | None] = [(root, False)]
    while pending:
        entry = pending.pop()
        if entry is None:
            yield cells(END_NODE)
            continue
        original, rebuilt = entry
        node = original if rebuilt else patch.node(original)
        if node is None:
            continue
        rebuilt = rebuilt or node is not original
        name = text(node.name)
        yield cells(BEGIN_NODE) + name + bytes(-len(name) % 4)
        for key, value in node.properties.items():
            written = value if rebuilt else patch.value(node, key, value)
            if written is not None:
                yield key, written
        pending.append(None)
        pending.extend((child, rebuilt) for child in reversed(node.children))


def _qemu_cpus(request: VmRequest) -> Node:
    """Rebuild /cpus: the map of the topology, then the CPUs; phandles count down from the one below the GIC's."""
    topology = request.topology or CpuTopology(cores=request.cpus)
    phandles = iter(range(qemu.CLOCK + request.cpus, qemu.CLOCK, -1))
    children = tuple(_cpu_map(topology, phandles))
    cpus = tuple(
        Node(
            f"cpu@{number}",
            {
                "phandle": cells(qemu.CLOCK + request.cpus - number),
                "reg": cells(number),
                "enable-method": text("psci"),
                "compatible": text("arm,arm-v8"),
                "device_type": text("cpu"),
            },
        )
        for number in range(request.cpus)
    )
    return Node("cpus", {"#size-cells": cells(0), "#address-cells": cells(1)}, (Node("cpu-map", {}, children), *cpus))


def _cpu_map(topology: CpuTopology, phandles: Iterator[int]) -> Iterator[Node]:
    for socket in range(topology.sockets):
        clusters = tuple(
            Node(f"cluster{cluster}", {}, tuple(_core(core, topology.threads, phandles) for core in range(topology.cores)))
            for cluster in range(topology.clusters)
        )
        yield Node(f"socket{socket}", {}, clusters)


def _core(number: int, threads: int, phandles: Iterator[int]) -> Node:
    if threads == 1:
        return Node(f"core{number}", {"cpu": cells(next(phandles))})
    return Node(f"core{number}", {}, tuple(Node(f"thread{thread}", {"cpu": cells(next(phandles))}) for thread in range(threads)))


def _kvmtool_cpus(count: int) -> Node:
    cpus = tuple(
        Node(
            f"cpu@{number}",
            {"device_type": text("cpu"), "compatible": text("arm,arm-v8"), "enable-method": text("psci"), "reg": cells(number)},
        )
        for number in range(count)
    )
    return Node("cpus", {"#address-cells": cells(1), "#size-cells": cells(0)}, cpus)


def _unusable(problem: str) -> InvalidDocument:
    return InvalidDocument("document.vm", f"the device tree cannot serve as a template: {problem}")
