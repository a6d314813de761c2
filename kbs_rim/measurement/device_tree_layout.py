"""What a device tree's blob has beside its nodes: header, order of the strings, padding. Two trees that say the same may differ here,
and then they are measured differently.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.device_tree_blob import BEGIN_NODE, END_NODE, HEADER, NOP, PROP, DeviceTree, parse_device_tree

_HEADER_FIELDS = (
    "magic", "totalsize", "off_dt_struct", "off_dt_strings", "off_mem_rsvmap", "version", "last_comp_version", "boot_cpuid_phys",
    "size_dt_strings", "size_dt_struct",
)  # fmt: skip
Place = tuple[str, str]
"""Path of a node and name of a property; the name is empty for the node's own name."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One blob: its bytes, the tree, the header by the names of the Devicetree Specification 5.2, and what nobody reads.

    ``strings`` are the names in the strings block in their order. ``padding`` has the bytes that fill a name or a value up to four;
    ``nops`` counts the tokens that say nothing.
    """

    data: bytes
    tree: DeviceTree
    header: Mapping[str, int]
    strings: tuple[str, ...]
    padding: Mapping[Place, bytes]
    nops: int


def read_tree_file(data: bytes, limits: Limits = DEFAULT_LIMITS) -> TreeFile:
    """Read a blob. Raises ``MalformedEvidence`` (``tree.malformed``) as ``parse_device_tree`` does."""
    tree = parse_device_tree(data, limits)
    header = dict(zip(_HEADER_FIELDS, HEADER.unpack_from(data), strict=True))
    padding: dict[Place, bytes] = {}
    nops = 0
    for place, filler in _fillers(data, header):
        if place is None:
            nops += 1
        elif filler:
            padding[place] = filler
    start = header["off_dt_strings"]
    names = data[start : start + header["size_dt_strings"]].split(b"\0")
    strings = tuple(name.decode("ascii", "backslashreplace") for name in names if name)
    return TreeFile(data, tree, header, strings, padding, nops)


def _fillers(data: bytes, header: Mapping[str, int]) -> Iterator[tuple[Place | None, bytes]]:
    """Walk a structure block that the parser has accepted; yield each padding with its place, and None for each NOP."""
    position, end = header["off_dt_struct"], header["off_dt_struct"] + header["size_dt_struct"]
    strings = header["off_dt_strings"]
    path: list[str] = []
    while position < end:
        token = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if token == BEGIN_NODE:
            stop = data.index(0, position)
            path.append(data[position:stop].decode("ascii"))
            stop, position = stop + 1, stop // 4 * 4 + 4
            yield (_joined(path), ""), data[stop:position]
        elif token == PROP:
            length, offset = (int.from_bytes(data[at : at + 4], "big") for at in (position, position + 4))
            name = data[strings + offset : data.index(0, strings + offset)].decode("ascii")
            stop = position + 8 + length
            position = -(-stop // 4) * 4
            yield (_joined(path), name), data[stop:position]
        elif token == END_NODE:
            path.pop()
        elif token == NOP:
            yield None, b""


def _joined(path: list[str]) -> str:
    return "/".join(path) or "/"
