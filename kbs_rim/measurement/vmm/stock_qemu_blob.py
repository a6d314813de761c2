"""The blob that QEMU gets by editing a device tree in place, with the bytes that editing leaves behind.

QEMU starts with an empty tree in a buffer and has libfdt insert one node and one property after the other (fdt_add_subnode,
fdt_setprop). What can be seen of that in the result, and is therefore measured:

- a new node stands in front of its siblings, a new property in front of the others;
- an insertion moves everything behind it up and clears nothing: where a value is not a multiple of four bytes long, its padding
  is what stood there before;
- a property's name is looked up anywhere among the strings, so "method" is found at the end of "enable-method";
- the size in the header is that of the buffer, and the rest of the buffer is zero.
"""

import struct
from collections.abc import Iterator

from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import MIB
from kbs_rim.measurement.device_tree_blob import BEGIN_NODE, END, END_NODE, HEADER, LAST_COMPATIBLE, MAGIC, PROP, VERSION

TREE_SIZE = 1 * MIB
"""Bytes of the buffer, and so of every tree."""
_RESERVATIONS_OFFSET, _STRUCT_OFFSET = 48, 64
_U32 = struct.Struct(">I")
_PROP_TOKEN = struct.Struct(">3I")
_ROOT_NAME_SIZE = 8
"""The token and the empty name that the structure begins with."""


class EditedTree:
    """A tree under construction. Paths are absolute; ``set`` and ``add`` do what QEMU's functions of these names do."""

    def __init__(self) -> None:
        self._data = bytearray(TREE_SIZE)
        self._data[_STRUCT_OFFSET : _STRUCT_OFFSET + 16] = struct.pack(">4I", BEGIN_NODE, 0, END_NODE, END)
        self._struct_size = 16
        self._strings = b""
        self._paths = {""}

    def add(self, path: str) -> None:
        """Make the node ``path``, and its parents where they are missing; nothing if it is there."""
        missing = []
        while path not in self._paths:
            self._paths.add(path)
            path, _, name = path.rpartition("/")
            missing.append(name)
        if missing:
            position = self._node(path)
            while missing:
                position = self._insert_node(position, missing.pop())

    def set(self, path: str, name: str, value: bytes) -> None:
        """Give the node ``path`` a property that it does not have yet."""
        position = self._node(path)
        offset = self._name_offset(name)
        padded = -(-len(value) // 4) * 4
        self._make_room(position, _PROP_TOKEN.size + padded)
        _PROP_TOKEN.pack_into(self._data, position, PROP, len(value), offset)
        start = position + _PROP_TOKEN.size
        self._data[start : start + len(value)] = value

    def blob(self) -> bytes:
        """Return the whole buffer, ``TREE_SIZE`` bytes, with its header."""
        HEADER.pack_into(
            self._data, 0, MAGIC, TREE_SIZE, _STRUCT_OFFSET, _STRUCT_OFFSET + self._struct_size, _RESERVATIONS_OFFSET,
            VERSION, LAST_COMPATIBLE, 0, len(self._strings), self._struct_size,
        )  # fmt: skip
        return bytes(self._data)

    def _node(self, path: str) -> int:
        """Offset behind the name of the node ``path``."""
        position = _STRUCT_OFFSET + _ROOT_NAME_SIZE
        for part in filter(None, path.split("/")):
            found = self._child(position, part)
            if found is None:
                raise ValueError(f"there is no node {path}")
            position = found
        return position

    def _child(self, parent: int, name: str) -> int | None:
        wanted = name.encode()
        return next((behind for child_name, behind in self._children(parent) if child_name == wanted), None)

    def _children(self, position: int) -> Iterator[tuple[bytes, int]]:
        """Name of each child of the node whose content begins at ``position``, and where the child's content begins."""
        depth = 0
        while True:
            token = self._u32(position)
            if token == PROP:
                position += _PROP_TOKEN.size + -(-self._u32(position + 4) // 4) * 4
            elif token == BEGIN_NODE:
                end = self._data.index(0, position + 4)
                name, position = bytes(self._data[position + 4 : end]), end // 4 * 4 + 4
                if not depth:
                    yield name, position
                depth += 1
            elif not depth:
                return
            else:
                depth -= 1
                position += 4

    def _insert_node(self, parent: int, name: str) -> int:
        position = parent
        while self._u32(position) == PROP:
            position += _PROP_TOKEN.size + -(-self._u32(position + 4) // 4) * 4
        encoded = name.encode() + b"\0"
        token = _U32.pack(BEGIN_NODE) + encoded.ljust(-(-len(encoded) // 4) * 4, b"\0")
        self._make_room(position, len(token) + 4)
        self._data[position : position + len(token) + 4] = token + _U32.pack(END_NODE)
        return position + len(token)

    def _name_offset(self, name: str) -> int:
        encoded = name.encode() + b"\0"
        offset = self._strings.find(encoded)
        if offset < 0:
            offset, start = len(self._strings), self._end
            self._check_room(len(encoded))
            self._data[start : start + len(encoded)] = encoded
            self._strings += encoded
        return offset

    @property
    def _end(self) -> int:
        return _STRUCT_OFFSET + self._struct_size + len(self._strings)

    def _make_room(self, position: int, size: int) -> None:
        """Move what is at ``position`` and behind by ``size`` bytes; the bytes there stay as they were."""
        self._check_room(size)
        end = self._end
        self._data[position + size : end + size] = self._data[position:end]
        self._struct_size += size

    def _check_room(self, size: int) -> None:
        if self._end + size > TREE_SIZE:
            raise InvalidDocument("document.vm", f"the device tree needs more than the {TREE_SIZE} bytes that QEMU has for it")

    def _u32(self, position: int) -> int:
        value: int = _U32.unpack_from(self._data, position)[0]
        return value
