"""Flattened device trees: a reader for trees that a hostile host may have made.

Implements the Devicetree Specification v0.4, chapter 5 (flattened format), more strictly than a kernel must: whatever two
readers could read differently (a name used twice, a property behind a child node, bytes that nobody reads) is refused, so
that the guest's kernel sees the tree that was judged. Trusts nothing; the writer is ``device_tree_writer``.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits

MAGIC = 0xD00DFEED
MAGIC_BYTES = MAGIC.to_bytes(4, "big")
HEADER = struct.Struct(">10I")
"""magic, totalsize, off_dt_struct, off_dt_strings, off_mem_rsvmap, version, last compatible, boot cpu, size strings, size struct."""
RESERVATION = struct.Struct(">QQ")
VERSION, LAST_COMPATIBLE = 17, 16
BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9
_U32 = struct.Struct(">I")
_PROP_HEAD = struct.Struct(">II")
_NAME_BYTES = 255
"""Longest name in bytes. The specification says 31, real trees have a few longer ones; unbounded would be quadratic work."""
_NODE_NAME = re.compile(r"[A-Za-z0-9,._+-]+(@[A-Za-z0-9,._+-]+)?")
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9,._+?#-]+")


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its name with unit address, its properties and children in the order of the blob."""

    name: str
    properties: Mapping[str, bytes] = field(default_factory=dict)
    children: tuple["Node", ...] = ()

    @property
    def base_name(self) -> str:
        """The name without unit address."""
        return self.name.partition("@")[0]

    def child(self, name: str) -> "Node | None":
        """Return the child with exactly this name."""
        return next((node for node in self.children if node.name == name), None)

    def walk(self) -> Iterator["Node"]:
        """Yield this node and everything below it, parents first."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(node.children))


@dataclass(frozen=True, slots=True)
class DeviceTree:
    """A parsed tree. ``total_size`` is the header's totalsize in bytes, without padding that a VMM added behind it."""

    root: Node
    reservations: tuple[tuple[int, int], ...] = ()
    boot_cpu: int = 0
    total_size: int = 0


def parse_device_tree(data: bytes, limits: Limits = DEFAULT_LIMITS) -> DeviceTree:
    """Read a flattened device tree of version 17. Bytes behind totalsize (kvmtool's padding to 64 KiB) must be zero.

    Raises ``MalformedEvidence`` with finding ``tree.malformed`` for anything else. Work and memory are linear in
    ``len(data)``, which ``limits.device_tree_bytes`` bounds; no input makes it recurse.
    """
    if len(data) > limits.device_tree_bytes:
        raise _malformed("the device tree is larger than the limit", 0, f"at most {limits.device_tree_bytes} bytes", str(len(data)))
    if len(data) < HEADER.size:
        raise _malformed("the device tree ends inside its header", len(data), f"{HEADER.size} bytes", str(len(data)))
    header = _Header(*HEADER.unpack_from(data))
    header.check(len(data))
    if data.count(0, header.total_size) != len(data) - header.total_size:
        raise _malformed("bytes that no reader sees follow the device tree", header.total_size, "zero bytes")
    reservations = _read_reservations(data, header, limits.device_tree_ranges)
    root = _StructureReader(data, header, limits).read()
    return DeviceTree(root, reservations, header.boot_cpu, header.total_size)


@dataclass(frozen=True, slots=True)
class _Header:
    magic: int
    total_size: int
    struct_offset: int
    strings_offset: int
    reservations_offset: int
    version: int
    last_compatible: int
    boot_cpu: int
    strings_size: int
    struct_size: int

    @property
    def struct_end(self) -> int:
        return self.struct_offset + self.struct_size

    @property
    def strings_end(self) -> int:
        return self.strings_offset + self.strings_size

    def check(self, available: int) -> None:
        """Refuse a header whose blocks are misaligned, overlap or leave the blob."""
        if self.magic != MAGIC:
            raise _malformed("this is not a device tree", 0, f"{MAGIC:#x}", f"{self.magic:#x}")
        if self.version != VERSION or not LAST_COMPATIBLE <= self.last_compatible <= VERSION:
            raise _malformed(
                "the device tree has another version", 20, f"{VERSION}, {LAST_COMPATIBLE}", f"{self.version}, {self.last_compatible}"
            )
        if not HEADER.size <= self.total_size <= available:
            raise _malformed("totalsize is not within the data", 4, f"{HEADER.size}..{available}", str(self.total_size))
        if self.struct_offset % 4 or self.struct_size % 4 or self.reservations_offset % 8:
            raise _malformed("a block of the device tree is misaligned", 8)
        blocks = [
            (self.reservations_offset, self.reservations_offset + RESERVATION.size),
            (self.struct_offset, self.struct_end),
            (self.strings_offset, self.strings_end),
        ]
        position = HEADER.size
        for start, end in sorted(blocks):
            if start < position or end > self.total_size:
                raise _malformed("the blocks of the device tree overlap or leave it", 8)
            position = end

    def reservations_limit(self) -> int:
        """Offset where the reservation block must have ended: the next block, or the end."""
        others = [start for start in (self.struct_offset, self.strings_offset) if start > self.reservations_offset]
        return min([*others, self.total_size])


def _read_reservations(data: bytes, header: _Header, most: int) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    position, limit = header.reservations_offset, header.reservations_limit()
    while position + RESERVATION.size <= limit:
        base, size = RESERVATION.unpack_from(data, position)
        if base == size == 0:
            return tuple(found)
        if size == 0 or base + size > 1 << 64:
            # Linux ends its list at size 0, other readers at (0, 0).
            raise _malformed("a memory reservation is empty or wraps around", position)
        if len(found) == most:
            raise _malformed("the device tree reserves too many ranges of memory", position, f"at most {most}")
        found.append((base, size))
        position += RESERVATION.size
    raise _malformed("the memory reservations have no end", position)


@dataclass(slots=True)
class _OpenNode:
    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def close(self) -> Node:
        return Node(self.name, self.properties, tuple(self.children.values()))


class _StructureReader:
    """Walks the structure block with an explicit stack."""

    def __init__(self, data: bytes, header: _Header, limits: Limits) -> None:
        self._data = data
        self._header = header
        self._limits = limits
        self._position = header.struct_offset
        self._end = header.struct_end
        self._names: dict[int, str] = {}
        self._stack: list[_OpenNode] = []
        self._nodes = 0
        self._root: Node | None = None

    def read(self) -> Node:
        while (token := self._u32()) != END:
            if token == BEGIN_NODE:
                self._begin_node()
            elif token == END_NODE:
                self._end_node()
            elif token == PROP:
                self._property()
            elif token != NOP:
                raise _malformed("the structure block has an unknown token", self._position - 4, seen=f"{token:#x}")
        if self._root is None or self._stack:
            raise _malformed("the structure block ends inside a node", self._position)
        if self._position != self._end:
            raise _malformed("something follows the end of the structure block", self._position)
        return self._root

    def _u32(self) -> int:
        if self._position + 4 > self._end:
            raise _malformed("the structure block is truncated", self._position)
        value: int = _U32.unpack_from(self._data, self._position)[0]
        self._position += 4
        return value

    def _advance(self, size: int) -> int:
        """Step over ``size`` bytes and their padding to four; return where they began."""
        start = self._position
        if start + size > self._end:
            raise _malformed("the structure block is truncated", start)
        self._position = start + (size + 3 & ~3)
        return start

    def _begin_node(self) -> None:
        name = self._name_at(self._position, self._end)
        start = self._advance(len(name) + 1)
        if not self._stack:
            if self._root is not None or name:
                raise _malformed("the device tree does not have exactly one root without a name", start)
        elif not _NODE_NAME.fullmatch(name):
            raise _malformed("a node name is empty or has characters that are not allowed", start)
        elif name in self._stack[-1].children:
            raise _malformed(f"two children of one node are called {name}", start)
        self._nodes += 1
        if self._nodes > self._limits.device_tree_nodes:
            raise _malformed("the device tree has too many nodes", start, f"at most {self._limits.device_tree_nodes}")
        if len(self._stack) >= self._limits.device_tree_depth:
            raise _malformed("the device tree is nested too deeply", start, f"at most {self._limits.device_tree_depth} levels")
        self._stack.append(_OpenNode(name))

    def _end_node(self) -> None:
        if not self._stack:
            raise _malformed("a node ends that never began", self._position - 4)
        node = self._stack.pop().close()
        if not self._stack:
            self._root = node
            return
        self._stack[-1].children[node.name] = node

    def _property(self) -> None:
        start = self._position
        if not self._stack or self._stack[-1].children:
            # libfdt stops looking for properties at the first child, the kernel's unflattening does not.
            raise _malformed("a property stands outside of a node or behind a child node", start)
        length, name_offset = _PROP_HEAD.unpack_from(self._data, self._advance(_PROP_HEAD.size))
        name = self._property_name(name_offset)
        begin = self._advance(length)
        properties = self._stack[-1].properties
        if name in properties:
            raise _malformed(f"a node has two properties called {name}", start)
        properties[name] = self._data[begin : begin + length]

    def _property_name(self, offset: int) -> str:
        name = self._names.get(offset)
        if name is None:
            start = self._header.strings_offset + offset
            if start >= self._header.strings_end:
                raise _malformed("a property name lies outside of the strings block", self._position)
            name = self._name_at(start, self._header.strings_end)
            if not _PROPERTY_NAME.fullmatch(name):
                raise _malformed("a property name is empty or has characters that are not allowed", start)
            self._names[offset] = name
        return name

    def _name_at(self, start: int, end: int) -> str:
        stop = self._data.find(b"\0", start, min(end, start + _NAME_BYTES + 1))
        if stop < 0:
            raise _malformed("a name is too long or does not end within its block", start)
        try:
            return self._data[start:stop].decode("ascii")
        except UnicodeDecodeError:
            raise _malformed("a name is not ASCII", start) from None


def _malformed(message: str, offset: int | None = None, expected: str | None = None, seen: str | None = None) -> MalformedEvidence:
    return MalformedEvidence("tree.malformed", message, offset=offset, expected=expected, seen=seen)
