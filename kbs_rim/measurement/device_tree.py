"""Device trees, and what a boot plan must know of one: RAM, initrd, boot arguments, log area, reserved ranges, CPUs.

The blob is read by ``device_tree_blob`` and written by ``device_tree_writer``. Facts are read as Linux reads them
(drivers/of/fdt.c: memory by ``device_type``, ``/chosen`` with or without a unit address); where another reader could come to
another answer, the tree is refused.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.device_tree_blob import DeviceTree, Node, parse_device_tree

__all__ = ["DeviceTree", "DeviceTreeFacts", "Node", "Range", "facts_of", "parse_device_tree"]

Range = tuple[int, int]
_LOG_COMPATIBLE = b"cc-event-log"
_DEFAULT_CELLS = (2, 1)
"""#address-cells and #size-cells of a node that does not say (Devicetree Specification 2.3.5)."""


@dataclass(frozen=True, slots=True)
class DeviceTreeFacts:
    """Facts of one tree; ranges are (base, size) in bytes but ``initrd``, which is (start, end) as the tree has it.

    ``reserved`` holds the memory reservation block and every static range of ``/reserved-memory``, the log area included.
    ``size`` is the number of bytes that are loaded, padding included; 0 if it was not given.
    """

    memory: tuple[Range, ...]
    initrd: Range | None
    bootargs: str | None
    log_area: Range | None
    reserved: tuple[Range, ...]
    cpus: int
    size: int = 0


def facts_of(tree: DeviceTree, size: int = 0, limits: Limits = DEFAULT_LIMITS) -> DeviceTreeFacts:
    """Collect the facts of a parsed tree; ``size`` is how many bytes of it are loaded.

    Raises ``MalformedEvidence`` (``tree.malformed``) where the tree says two things at once, has a value that does not have
    the shape of its property, or has more ranges of RAM or of reserved memory than ``limits.device_tree_ranges``.
    """
    root, most = tree.root, limits.device_tree_ranges
    chosen = _only(root, "chosen")
    reserved_memory = _only(root, "reserved-memory")
    if reserved_memory is not None and ("ranges" not in reserved_memory.properties or _cells(reserved_memory) != _cells(root)):
        raise _malformed("/reserved-memory has no ranges or other cells than the root: Linux would reserve nothing")
    reserved = tuple(tree.reservations) + tuple(_static_ranges(reserved_memory, most))
    return DeviceTreeFacts(
        memory=_memory(root, most),
        initrd=_initrd(chosen),
        bootargs=_bootargs(chosen),
        log_area=_log_area(reserved_memory, most),
        reserved=reserved,
        cpus=_cpu_count(_only(root, "cpus")),
        size=size,
    )


def _only(root: Node, base_name: str) -> Node | None:
    found = [node for node in root.children if node.base_name == base_name]
    if len(found) > 1:
        raise _malformed(f"the tree has several nodes that a reader may take for /{base_name}")
    return found[0] if found else None


def _memory(root: Node, most: int) -> tuple[Range, ...]:
    found: list[Range] = []
    for node in root.children:
        if node.base_name != "memory" and node.properties.get("device_type") != b"memory\0":
            continue
        if not _available(node):
            continue  # QEMU's secure RAM, for one: the non-secure world has no such memory.
        if "linux,usable-memory" in node.properties:
            raise _malformed(f"/{node.name} has both reg and linux,usable-memory: kernel and firmware would see different RAM")
        found.extend(_ranges(node.properties.get("reg", b""), _cells(root), f"/{node.name} reg", most - len(found)))
    return tuple(found)


def _initrd(chosen: Node | None) -> Range | None:
    properties = {} if chosen is None else chosen.properties
    start, end = properties.get("linux,initrd-start"), properties.get("linux,initrd-end")
    if start is None and end is None:
        return None
    if start is None or end is None or len(start) not in (4, 8) or len(end) not in (4, 8):
        raise _malformed("linux,initrd-start and linux,initrd-end are not two numbers")
    low, high = int.from_bytes(start, "big"), int.from_bytes(end, "big")
    if low > high:
        raise _malformed("the initrd ends before it starts")
    return None if low == high else (low, high)


def _bootargs(chosen: Node | None) -> str | None:
    value = None if chosen is None else chosen.properties.get("bootargs")
    if value is None:
        return None
    if value and (not value.endswith(b"\0") or b"\0" in value[:-1]):
        raise _malformed("bootargs is not one string")
    try:
        return value[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("bootargs is not UTF-8") from None


def _log_area(reserved_memory: Node | None, most: int) -> Range | None:
    if reserved_memory is None:
        return None
    areas = [
        node
        for node in reserved_memory.children
        if _available(node) and _LOG_COMPATIBLE in node.properties.get("compatible", b"").split(b"\0")
    ]
    if not areas:
        return None
    cells = _cells(reserved_memory)
    ranges = [item for node in areas for item in _ranges(node.properties.get("reg", b""), cells, f"{node.name} reg", most)]
    if len(ranges) != 1:
        raise _malformed("the tree does not name exactly one range as event log")
    return ranges[0]


def _static_ranges(reserved_memory: Node | None, most: int) -> Iterator[Range]:
    if reserved_memory is None:
        return
    cells, left = _cells(reserved_memory), most
    for node in filter(_available, reserved_memory.children):
        found = _ranges(node.properties.get("reg", b""), cells, f"{node.name} reg", left)
        left -= len(found)
        yield from found


def _available(node: Node) -> bool:
    """What Linux asks before it uses a node (of_fdt_device_is_available): no status, or one that begins with "ok"."""
    return node.properties.get("status", b"okay\0").startswith(b"ok")


def _cpu_count(cpus: Node | None) -> int:
    if cpus is None:
        return 0
    return sum(1 for node in cpus.children if node.base_name == "cpu" or node.properties.get("device_type") == b"cpu\0")


def _cells(node: Node) -> tuple[int, int]:
    """Return #address-cells and #size-cells of ``node``, which describe its children."""
    found = []
    for name, default in zip(("#address-cells", "#size-cells"), _DEFAULT_CELLS, strict=True):
        value = node.properties.get(name, struct.pack(">I", default))
        if len(value) != 4 or not 1 <= int.from_bytes(value, "big") <= 2:
            raise _malformed(f"{name} is not 1 or 2")
        found.append(int.from_bytes(value, "big"))
    return found[0], found[1]


def _ranges(value: bytes, cells: tuple[int, int], what: str, most: int) -> tuple[Range, ...]:
    base_bytes, size_bytes = cells[0] * 4, cells[1] * 4
    step = base_bytes + size_bytes
    if len(value) % step:
        raise _malformed(f"{what} is not a list of addresses and sizes")
    if len(value) // step > most:
        raise _malformed(f"{what} is one range of memory too many")
    found = []
    for position in range(0, len(value), step):
        base = int.from_bytes(value[position : position + base_bytes], "big")
        size = int.from_bytes(value[position + base_bytes : position + step], "big")
        if base + size > 1 << 64:
            raise _malformed(f"{what} has a range that wraps around")
        found.append((base, size))
    return tuple(found)


def _malformed(message: str) -> MalformedEvidence:
    return MalformedEvidence("tree.malformed", message)
