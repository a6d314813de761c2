"""Writes flattened device trees, byte for byte as the vm-fdt crate does.

Implements Devicetree Specification v0.4 chapter 5: header, empty reservation block, structure, strings; every property name once, in the
order of first use, no shared suffixes, no padding. Strict: what vm-fdt refuses is refused here, with ``ValueError``, because
whoever calls this made the tree.
"""

import re
import struct

from kbs_rim.measurement.device_tree_blob import BEGIN_NODE, END, END_NODE, HEADER, LAST_COMPATIBLE, MAGIC, PROP, RESERVATION, VERSION, Node

_MAX_DEPTH = 64
_NODE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9,._+-]{0,30}(@[A-Za-z0-9,._+-]+)?")
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9,._+?#-]{1,31}")


def text(*values: str) -> bytes:
    """Encode strings, each with its NUL."""
    if any("\0" in value for value in values):
        raise ValueError("a string of a device tree holds no NUL")
    return b"".join(value.encode("utf-8") + b"\0" for value in values)


def cells(*values: int) -> bytes:
    """Encode a list of u32."""
    try:
        return struct.pack(f">{len(values)}I", *values)
    except struct.error:
        raise ValueError("a cell of a device tree has 32 bits") from None


def cells64(*values: int) -> bytes:
    """Encode a list of u64."""
    try:
        return struct.pack(f">{len(values)}Q", *values)
    except struct.error:
        raise ValueError("a pair of cells of a device tree has 64 bits") from None


EMPTY = b""
"""The value of a property that only has to be there."""


def write_device_tree(root: Node, padded_to: int | None = None) -> bytes:
    """Return the blob. ``padded_to`` fills up with zero bytes behind totalsize, which stays exact (kvmtool).

    Raises ``ValueError`` for a name, phandle or depth that vm-fdt refuses, and if the blob does not fit ``padded_to``.
    """
    structure, strings = _Writer().write(root)
    struct_offset = HEADER.size + RESERVATION.size
    strings_offset = struct_offset + len(structure)
    total = strings_offset + len(strings)
    header = HEADER.pack(
        MAGIC, total, struct_offset, strings_offset, HEADER.size, VERSION, LAST_COMPATIBLE, 0, len(strings), len(structure)
    )  # fmt: skip
    blob = header + bytes(RESERVATION.size) + structure + strings
    if padded_to is None:
        return blob
    if len(blob) > padded_to:
        raise ValueError(f"the device tree has {len(blob)} bytes, more than {padded_to}")
    return blob.ljust(padded_to, b"\0")


class _Writer:
    def __init__(self) -> None:
        self._structure = bytearray()
        self._strings = bytearray()
        self._offsets: dict[str, int] = {}
        self._phandles: set[bytes] = set()

    def write(self, root: Node) -> tuple[bytes, bytes]:
        if root.name:
            raise ValueError("the root of a device tree has no name")
        self._begin(root)
        open_nodes = [iter(root.children)]
        while open_nodes:
            node = next(open_nodes[-1], None)
            if node is None:
                self._structure += cells(END_NODE)
                open_nodes.pop()
                continue
            if not _NODE_NAME.fullmatch(node.name):
                raise ValueError(f"a node may not be called {node.name!r}")
            if len(open_nodes) >= _MAX_DEPTH:
                raise ValueError(f"a device tree has at most {_MAX_DEPTH} levels")
            self._begin(node)
            open_nodes.append(iter(node.children))
        self._structure += cells(END)
        return bytes(self._structure), bytes(self._strings)

    def _begin(self, node: Node) -> None:
        names = [child.name for child in node.children]
        if len(set(names)) != len(names):
            raise ValueError(f"two children of node {node.name!r} have one name")
        self._structure += cells(BEGIN_NODE) + _padded(text(node.name))
        for name, value in node.properties.items():
            self._property(name, value)

    def _property(self, name: str, value: bytes) -> None:
        if not _PROPERTY_NAME.fullmatch(name):
            raise ValueError(f"a property may not be called {name!r}")
        if name == "phandle":
            if value in self._phandles:
                raise ValueError("two nodes have one phandle")
            self._phandles.add(value)
        self._structure += cells(PROP, len(value), self._offset_of(name)) + _padded(value)

    def _offset_of(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self._strings)
            self._strings += text(name)
        return self._offsets[name]


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
