"""The device tree reader and writer: published trees, dtc, each other, and hostile blobs."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.device_tree import DeviceTree, Node, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_writer import EMPTY, cells, cells64, text, write_device_tree

VECTORS = Path(__file__).parent.parent / "vectors"
PUBLIC = sorted((VECTORS / "vmm" / "dtb-public").glob("*.dtb"))
QEMU = sorted((VECTORS / "images" / "qemu-dtb").glob("*.dtb"))
QEMU_TREE_SIZE = 1 << 20


def published_tree(path: Path) -> bytes:
    """QEMU's trees are stored without the zero bytes up to their totalsize of 1 MiB."""
    data = path.read_bytes()
    return data.ljust(QEMU_TREE_SIZE, b"\0") if path in QEMU else data


# A reader of dtc's output, independent of the code under test -----------------------------------------------------------

_LINE = re.compile(r"(?P<begin>[^\s{]+) \{|(?P<end>\};)|(?P<name>[^\s=;]+)(?: = (?P<value>.*))?;")


def read_dts(source: str) -> Node:
    """Read the plain source that ``dtc -O dts`` writes."""
    stack: list[Node] = []
    for line in source.splitlines():
        line = line.strip()
        if not line or line.startswith(("/dts-v1/", "/memreserve/")):
            continue
        found = _LINE.fullmatch(line)
        assert found, line
        if found["begin"]:
            stack.append(Node("" if found["begin"] == "/" else found["begin"], {}))
        elif found["end"]:
            node = stack.pop()
            if not stack:
                return node
            parent = stack.pop()
            stack.append(Node(parent.name, parent.properties, (*parent.children, node)))
        else:
            stack[-1].properties[found["name"]] = dts_value(found["value"] or "")
    raise AssertionError("no root")


def dts_value(value: str) -> bytes:
    """Encode ``<0x1 0x2>``, ``"a", "b"`` and ``[00 01]``."""
    out = b""
    for item in re.findall(r'<[^>]*>|"(?:\\.|[^"\\])*"|\[[^\]]*\]', value):
        if item[0] == "<":
            out += b"".join(struct.pack(">I", int(cell, 16)) for cell in item[1:-1].split())
        elif item[0] == "[":
            out += bytes.fromhex(item[1:-1])
        else:
            out += re.sub(r"\\0", "\0", item[1:-1]).encode() + b"\0"
    return out


def same(left: Node, right: Node) -> bool:
    """Compare trees with the order of their properties, which dtc keeps."""
    return left == right and [list(node.properties) for node in left.walk()] == [list(node.properties) for node in right.walk()]


@pytest.mark.parametrize("path", [*PUBLIC, *QEMU], ids=lambda path: path.stem)
def test_a_published_tree_reads_as_dtc_read_it(path):
    tree = parse_device_tree(published_tree(path))
    assert same(tree.root, read_dts(path.with_suffix(".dts").read_text()))


def test_the_published_qemu_trees_are_the_whole_dumps():
    manifest = json.loads((VECTORS / "images" / "qemu-dtb" / "manifest.json").read_text())
    for entry in manifest["files"]:
        tree = parse_device_tree(published_tree(VECTORS / "images" / "qemu-dtb" / entry["file"]))
        assert tree.total_size == entry["totalsize_field"] == QEMU_TREE_SIZE


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_a_tree_of_vm_fdt_is_written_back_byte_for_byte(path):
    data = path.read_bytes()
    padded_to = len(data) if path.stem.endswith("kvmtool") else None
    assert write_device_tree(parse_device_tree(data).root, padded_to) == data


# Trees out of thin air ---------------------------------------------------------------------------------------------------

_NODE_NAMES = st.from_regex(r"[a-zA-Z][a-z0-9,._+-]{0,12}(@[a-f0-9]{1,8})?", fullmatch=True)
_PROPERTIES = st.dictionaries(
    st.from_regex(r"[a-zA-Z0-9,._+?#-]{1,31}", fullmatch=True).filter(lambda name: name != "phandle"), st.binary(max_size=20), max_size=4
)


def _parents(children: st.SearchStrategy) -> st.SearchStrategy:
    unique = st.lists(children, max_size=4, unique_by=lambda node: node.name).map(tuple)
    return st.builds(Node, _NODE_NAMES, _PROPERTIES, unique)


_TREES = st.recursive(st.builds(Node, _NODE_NAMES, _PROPERTIES), _parents, max_leaves=12).map(
    lambda node: Node("", node.properties, node.children)
)


@given(_TREES)
def test_what_is_written_is_read(root):
    blob = write_device_tree(root)
    tree = parse_device_tree(blob)
    assert same(tree.root, root)
    assert tree.total_size == len(blob)
    assert write_device_tree(tree.root) == blob
    padded = write_device_tree(root, 1 << 16)
    assert padded == blob.ljust(1 << 16, b"\0")
    assert parse_device_tree(padded) == tree


def read_or_refuse(blob: bytes) -> str:
    """Return how it ended; any other exception fails the test."""
    try:
        facts_of(parse_device_tree(blob))
    except MalformedEvidence as error:
        return error.finding_id
    return "read"


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_tree_or_refused(data):
    assert read_or_refuse(data) in ("read", "tree.malformed")


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_tree_is_a_tree_or_refused(data):
    blob = bytearray((VECTORS / "vmm" / "dtb-public" / "X080-cloud-hv.dtb").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(blob) - 1), min_size=1, max_size=3)):
        blob[position] = data.draw(st.integers(0, 255))
    assert read_or_refuse(bytes(blob)) in ("read", "tree.malformed")


@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
@settings(max_examples=25, deadline=None)
@given(_TREES)
def test_dtc_reads_what_is_written(root):
    run = subprocess.run(["dtc", "-q", "-I", "dtb", "-O", "dtb"], input=write_device_tree(root), capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert same(parse_device_tree(run.stdout).root, root)


# Hostile blobs -----------------------------------------------------------------------------------------------------------


class Blob:
    """Builds a blob token by token, without any rule."""

    def __init__(self) -> None:
        self.structure = b""
        self.strings = b""
        self.reservations = bytes(16)
        self.header: dict[str, int] = {}
        self.tail = b""

    def begin(self, name: str = "") -> "Blob":
        raw = name.encode("latin-1") + b"\0"
        self.structure += struct.pack(">I", 1) + raw + bytes(-len(raw) % 4)
        return self

    def end(self) -> "Blob":
        return self.token(2)

    def prop(self, name: str, value: bytes = b"") -> "Blob":
        self.structure += struct.pack(">III", 3, len(value), len(self.strings)) + value + bytes(-len(value) % 4)
        self.strings += name.encode("latin-1") + b"\0"
        return self

    def token(self, value: int) -> "Blob":
        self.structure += struct.pack(">I", value)
        return self

    def build(self) -> bytes:
        struct_offset = 40 + len(self.reservations)
        strings_offset = struct_offset + len(self.structure)
        fields = {
            "magic": 0xD00DFEED, "totalsize": strings_offset + len(self.strings), "struct": struct_offset, "strings": strings_offset,
            "rsvmap": 40, "version": 17, "last": 16, "boot": 0, "size_strings": len(self.strings), "size_struct": len(self.structure),
        }  # fmt: skip
        fields |= self.header
        return struct.pack(">10I", *fields.values()) + self.reservations + self.structure + self.strings + self.tail


def refused(blob: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(MalformedEvidence) as error:
        parse_device_tree(blob, limits or Limits())
    assert error.value.finding_id == "tree.malformed"
    return str(error.value)


def empty() -> Blob:
    return Blob().begin().end().token(9)


def changed(**header: int) -> bytes:
    blob = empty()
    blob.header = header
    return blob.build()


def test_the_blob_builder_makes_good_trees():
    tree = parse_device_tree(Blob().begin().prop("a", b"x").begin("b@1").token(4).end().end().token(9).build())
    assert tree.root == Node("", {"a": b"x"}, (Node("b@1", {}),))


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"magic": 0xD00DFEEE}, "not a device tree"),
        ({"version": 16}, "version"),
        ({"last": 18}, "version"),
        ({"last": 1}, "version"),
        ({"totalsize": 39}, "totalsize"),
        ({"totalsize": 1 << 31}, "totalsize"),
        ({"struct": 57}, "misaligned"),
        ({"size_struct": 17}, "misaligned"),
        ({"rsvmap": 44}, "misaligned"),
        ({"rsvmap": 0}, "overlap"),
        ({"rsvmap": 56}, "overlap"),
        ({"strings": 56, "size_strings": 16}, "overlap"),
        ({"struct": 0xFFFFFFFC}, "overlap"),
        ({"size_struct": 0xFFFFFFFC}, "overlap"),
        ({"size_strings": 0xFFFFFFFF}, "overlap"),
        ({"size_struct": 0}, "truncated"),
    ],
)
def test_a_hostile_header_is_refused(header, word):
    assert word in refused(changed(**header))


def test_the_same_header_unchanged_is_accepted():
    assert parse_device_tree(changed()).root == Node("")


@pytest.mark.parametrize(
    ("blob", "word"),
    [
        (Blob().begin().prop("a").prop("a").end().token(9), "two properties called a"),
        (Blob().begin().begin("x").end().begin("x").end().end().token(9), "children of one node are called x"),
        (Blob().begin().begin("x").end().prop("late").end().token(9), "behind a child"),
        (Blob().prop("a").begin().end().token(9), "outside of a node"),
        (Blob().begin().end().begin().end().token(9), "exactly one root"),
        (Blob().begin("root").end().token(9), "exactly one root"),
        (Blob().begin().begin("").end().end().token(9), "node name"),
        (Blob().begin().begin("a/b").end().end().token(9), "node name"),
        (Blob().begin().begin("a@1@2").end().end().token(9), "node name"),
        (Blob().begin().begin("\xe4").end().end().token(9), "not ASCII"),
        (Blob().begin().begin("n" * 256).end().end().token(9), "too long"),
        (Blob().begin().prop("a b").end().token(9), "property name"),
        (Blob().begin().prop("").end().token(9), "property name"),
        (Blob().begin().prop("p" * 256).end().token(9), "too long"),
        (Blob().begin().token(5).end().token(9), "unknown token"),
        (Blob().begin().token(9).end(), "inside a node"),
        (Blob().token(9), "inside a node"),
        (Blob().end().token(9), "never began"),
        (Blob().begin().end().token(9).token(4), "follows the end"),
        (Blob().begin().end(), "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "blob",
)
def test_a_hostile_structure_is_refused(blob, word):
    assert word in refused(blob.build())


def test_a_property_longer_than_the_structure_is_refused():
    blob = Blob().begin()
    blob.structure += struct.pack(">III", 3, 0xFFFFFFFF, 0)
    blob.strings = b"a\0"
    assert "truncated" in refused(blob.end().token(9).build())


@pytest.mark.parametrize("offset", [2, 0xFFFFFFFF])
def test_a_property_name_outside_of_the_strings_is_refused(offset):
    blob = Blob().begin()
    blob.structure += struct.pack(">III", 3, 0, offset)
    blob.strings = b"a\0"
    blob.tail = b"\0" * 100
    assert "outside of the strings" in refused(blob.end().token(9).build())


def test_a_string_without_end_is_refused():
    blob = Blob().begin().prop("name").end().token(9)
    blob.strings = blob.strings[:-1]
    blob.tail = b"\0"
    assert "does not end" in refused(blob.build())


def test_bytes_behind_the_tree_are_refused_unless_zero():
    blob = empty()
    blob.tail = bytes(100)
    assert parse_device_tree(blob.build()).root == Node("")
    blob.tail = bytes(99) + b"\1"
    assert "no reader sees" in refused(blob.build())


def test_memory_reservations_are_read():
    blob = empty()
    blob.reservations = struct.pack(">QQQQ", 0x1000, 0x2000, 0, 0)
    tree = parse_device_tree(blob.build())
    assert tree.reservations == ((0x1000, 0x2000),)
    assert facts_of(tree).reserved == ((0x1000, 0x2000),)


@pytest.mark.parametrize(
    ("entries", "word"),
    [((0x1000, 0x2000, 1, 0), "empty"), (((1 << 64) - 1, 2, 0, 0), "wraps"), ((0x1000, 0x2000), "no end"), ((0, 1), "no end")],
)
def test_hostile_memory_reservations_are_refused(entries, word):
    blob = empty()
    blob.reservations = struct.pack(f">{len(entries)}Q", *entries)
    assert word in refused(blob.build())


def test_attack_more_ranges_of_memory_than_a_machine_has():
    """Each appraisal would sort them, for each workload."""
    most = DEFAULT_LIMITS.device_tree_ranges
    blob = empty()
    blob.reservations = struct.pack(f">{2 * most + 4}Q", *(1, 1) * (most + 1), 0, 0)
    assert "too many ranges" in refused(blob.build())
    ranges = lambda count, base=0: struct.pack(f">{2 * count}Q", *(number for at in range(count) for number in (base + at * 8192, 4096)))  # noqa: E731
    cells = {"#address-cells": struct.pack(">I", 2), "#size-cells": struct.pack(">I", 2)}

    def facts(first: int, second: int, kind: str):
        inner = (Node(f"{kind}@0", {"reg": ranges(first)}), Node(f"{kind}@1", {"reg": ranges(second, 1 << 40)}))
        children = inner if kind == "memory" else (Node("reserved-memory", {**cells, "ranges": b""}, inner),)
        return facts_of(DeviceTree(Node("", cells, children)))

    assert len(facts(most - 3, 3, "memory").memory) == most
    assert len(facts(most - 3, 3, "hole").reserved) == most
    for kind in ("memory", "hole"):
        with pytest.raises(MalformedEvidence, match="too many") as caught:
            facts(most - 3, 4, kind)
        assert caught.value.finding_id == "tree.malformed"


def test_a_deep_tree_is_bounded_and_never_recursed():
    deep = Blob().begin()
    for _ in range(50_000):
        deep.begin("n")
    assert "too deeply" in refused(deep.build())
    shallow = Blob().begin()
    for _ in range(15):
        shallow.begin("n")
    for _ in range(16):
        shallow.end()
    assert parse_device_tree(shallow.token(9).build())


def test_a_wide_tree_is_bounded():
    wide = Blob().begin()
    for number in range(10):
        wide.begin(f"n{number}").end()
    blob = wide.end().token(9).build()
    assert len(parse_device_tree(blob, Limits(device_tree_nodes=11)).root.children) == 10
    assert "too many nodes" in refused(blob, Limits(device_tree_nodes=10))


def test_a_large_tree_is_refused_before_it_is_read():
    assert "larger than the limit" in refused(bytes(101), Limits(device_tree_bytes=100))
    assert "inside its header" in refused(b"\xd0\x0d\xfe\xed")


# Facts -------------------------------------------------------------------------------------------------------------------


def tree_of(*children: Node, **properties: bytes) -> DeviceTree:
    root = {"#address-cells": cells(2), "#size-cells": cells(2)} | properties
    return DeviceTree(Node("", root, children))


def memory(*reg: int, **more: bytes) -> Node:
    return Node("memory@0", {"device_type": text("memory"), "reg": cells64(*reg)} | more)


def test_facts_of_a_kvmtool_tree():
    tree = parse_device_tree((VECTORS / "vmm" / "dtb-public" / "X016-kvmtool.dtb").read_bytes())
    facts = facts_of(tree, 65536)
    assert facts.memory == ((0x80000000, 128 << 20),)
    assert facts.initrd is None
    assert facts.bootargs == " console=hvc0 root=/dev/vda rw  console=ttyS0"
    assert facts.log_area == (0x87FF0000, 0x10000)
    assert facts.reserved == (facts.log_area,)
    assert (facts.cpus, facts.size) == (16, 65536)


def test_facts_of_a_cloud_hypervisor_tree():
    facts = facts_of(parse_device_tree((VECTORS / "vmm" / "dtb-public" / "X080-cloud-hv.dtb").read_bytes()))
    assert facts.initrd == (0x4FFFF000, 0x4FFFF00E)
    assert facts.log_area is None


def test_facts_of_an_empty_tree():
    facts = facts_of(DeviceTree(Node("")))
    assert (facts.memory, facts.initrd, facts.bootargs, facts.log_area, facts.reserved, facts.cpus) == ((), None, None, None, (), 0)


def test_every_memory_node_counts_whatever_its_name():
    """Linux takes any child of the root with this device_type as RAM."""
    hidden = Node("innocent", {"device_type": text("memory"), "reg": cells64(0x9000, 0x1000)})
    assert facts_of(tree_of(memory(0x1000, 0x2000, 0x5000, 1), hidden)).memory == ((0x1000, 0x2000), (0x5000, 1), (0x9000, 0x1000))


def test_an_initrd_of_32_bit_cells_and_an_empty_one():
    def chosen(start: bytes, end: bytes) -> DeviceTree:
        return tree_of(Node("chosen", {"linux,initrd-start": start, "linux,initrd-end": end}))

    assert facts_of(chosen(cells(0x1000), cells(0x2000))).initrd == (0x1000, 0x2000)
    assert facts_of(chosen(cells64(0), cells64(0))).initrd is None


@pytest.mark.parametrize(
    "tree",
    [
        tree_of(Node("chosen"), Node("chosen@0")),
        tree_of(Node("cpus"), Node("cpus@0")),
        tree_of(Node("reserved-memory"), Node("reserved-memory@1")),
        tree_of(Node("chosen", {"linux,initrd-start": cells64(1)})),
        tree_of(Node("chosen", {"linux,initrd-start": cells64(2), "linux,initrd-end": cells64(1)})),
        tree_of(Node("chosen", {"linux,initrd-start": b"\1", "linux,initrd-end": cells64(1)})),
        tree_of(Node("chosen", {"bootargs": b"no end"})),
        tree_of(Node("chosen", {"bootargs": b"one\0two\0"})),
        tree_of(Node("chosen", {"bootargs": b"\xff\0"})),
        tree_of(memory(0, 1, **{"linux,usable-memory": cells64(0, 2)})),
        tree_of(Node("memory", {"device_type": text("memory"), "reg": cells(1, 2, 3)})),
        tree_of(memory((1 << 64) - 1, 2)),
        tree_of(memory(0, 1), **{"#size-cells": cells(3)}),
        tree_of(memory(0, 1), **{"#size-cells": b"\2"}),
        tree_of(Node("reserved-memory", {}, (Node("log", {"compatible": text("cc-event-log")}),))),
    ],
    ids=range(15),
)
def test_a_tree_that_two_readers_may_read_differently_is_refused(tree):
    with pytest.raises(MalformedEvidence) as error:
        facts_of(tree)
    assert error.value.finding_id == "tree.malformed"


RESERVED = {"#address-cells": cells(2), "#size-cells": cells(2), "ranges": b""}


def log_node(base: int, **more: bytes) -> Node:
    return Node(f"event-log@{base:x}", {"compatible": text("cc-event-log"), "reg": cells64(base, 0x1000)} | more)


def test_two_log_areas_are_refused():
    assert facts_of(tree_of(Node("reserved-memory", RESERVED, (log_node(0x1000),)))).log_area == (0x1000, 0x1000)
    with pytest.raises(MalformedEvidence, match="event log"):
        facts_of(tree_of(Node("reserved-memory", RESERVED, (log_node(0x1000), log_node(0x3000)))))


@pytest.mark.parametrize("change", [{"#size-cells": cells(1)}, {"#address-cells": cells(1)}, {"ranges": None}])
def test_attack_reservation_that_linux_ignores(change):
    """Linux takes /reserved-memory only with the root's cells and with ranges; else the log area would be free memory."""
    properties = {name: value for name, value in (RESERVED | change).items() if value is not None}
    with pytest.raises(MalformedEvidence, match="Linux would reserve nothing"):
        facts_of(tree_of(Node("reserved-memory", properties, (log_node(0x1000),))))


@pytest.mark.parametrize(("status", "used"), [(b"okay\0", True), (b"ok\0", True), (b"disabled\0", False), (b"okay", True), (b"", False)])
def test_nodes_that_linux_passes_over(status, used):
    tree = tree_of(memory(0, 1), Node("reserved-memory", RESERVED, (log_node(0x1000, status=status),)))
    assert facts_of(tree).log_area == ((0x1000, 0x1000) if used else None)
    assert facts_of(tree).reserved == (((0x1000, 0x1000),) if used else ())
    assert facts_of(tree_of(memory(0, 1, status=status))).memory == (((0, 1),) if used else ())


# The writer's own rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "word"),
    [
        (Node("root"), "no name"),
        (Node("", {}, (Node("1st"),)), "called '1st'"),
        (Node("", {}, (Node("n" * 32),)), "called"),
        (Node("", {}, (Node("a b"),)), "called"),
        (Node("", {"a b": EMPTY}), "called"),
        (Node("", {"p" * 32: EMPTY}), "called"),
        (Node("", {}, (Node("a"), Node("a"))), "one name"),
        (Node("", {}, (Node("a", {"phandle": cells(1)}), Node("b", {"phandle": cells(1)}))), "phandle"),
    ],
)
def test_the_writer_refuses_what_vm_fdt_refuses(root, word):
    with pytest.raises(ValueError, match=word):
        write_device_tree(root)


def test_the_writer_refuses_too_many_levels_and_too_many_bytes():
    node = Node("n")
    for _ in range(62):
        node = Node("n", {}, (node,))
    assert write_device_tree(Node("", {}, (node,)))
    with pytest.raises(ValueError, match="levels"):
        write_device_tree(Node("", {}, (Node("n", {}, (node,)),)))
    with pytest.raises(ValueError, match="more than"):
        write_device_tree(Node("", {"big": bytes(100)}), 100)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="NUL"):
        text("a\0b")
    with pytest.raises(ValueError, match="32 bits"):
        cells(1 << 32)
    with pytest.raises(ValueError, match="64 bits"):
        cells64(-1)
