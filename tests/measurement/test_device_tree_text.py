"""Device trees as text: dtc reads it back to the same tree, and nothing unprintable leaves."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.measurement.device_tree import DeviceTree, Node, parse_device_tree
from kbs_rim.measurement.device_tree_text import tree_source, value_preview, value_text
from kbs_rim.measurement.device_tree_writer import write_device_tree

VECTORS = Path(__file__).parent.parent / "vectors"
TREES = [*sorted((VECTORS / "vmm" / "dtb-public").glob("*.dtb")), *sorted((VECTORS / "images" / "qemu-dtb").glob("*.dtb"))]


def compiled(source: str) -> DeviceTree:
    built = subprocess.run(["dtc", "-q", "-I", "dts", "-O", "dtb"], input=source.encode(), capture_output=True, check=True).stdout
    return parse_device_tree(built)


@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
@pytest.mark.parametrize("path", TREES, ids=lambda path: path.stem)
def test_dtc_reads_the_source_back(path):
    data = path.read_bytes()
    tree = parse_device_tree(data.ljust(1 << 20, b"\0") if "qemu-dtb" in path.parts else data)
    again = compiled("\n".join(tree_source(tree)))
    assert again.root == tree.root
    assert again.reservations == tree.reservations


@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
def test_dtc_reads_odd_values_back():
    properties = {"a": b'q"\\ x\0', "b": b"\x1b[31m\0", "c": b"\0\0\0\0", "d": b"abc", "e": b"a\0\0", "f": b"x\0y\0"}
    tree = DeviceTree(Node("", properties, (Node("n@1"),)), ((0x1000, 0x2000),))
    again = compiled("\n".join(tree_source(tree)))
    assert again.root == tree.root
    assert again.reservations == tree.reservations


def test_values():
    assert value_text(b"arm,psci-1.0\0arm,psci\0") == '"arm,psci-1.0", "arm,psci"'
    assert value_text(b"\0\0\0\1\0\0\x12\x34") == "<0x1 0x1234>"
    assert value_text(b"\1\2\3") == "[01 02 03]"
    assert value_preview(b"") == "empty"
    assert value_preview(b"A" * 1000 + b"\0").endswith("... (1001 bytes)")


@given(st.binary(max_size=3000))
def test_every_value_is_printable_ascii_and_previews_are_short(value):
    assert value_text(value).isascii()
    assert value_text(value).isprintable()
    assert len(value_preview(value)) < 130


def test_a_deep_tree_is_written_without_recursion():
    node = Node("n")
    for _ in range(5000):
        node = Node("n", {}, (node,))
    assert sum(1 for _ in tree_source(DeviceTree(Node("", {}, (node,))))) == 2 * 5002 + 2


def test_reading_what_was_written_gives_the_same_source():
    tree = parse_device_tree(TREES[0].read_bytes())
    assert list(tree_source(parse_device_tree(write_device_tree(tree.root)))) == list(tree_source(tree))
