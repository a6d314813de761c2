"""Differences between trees: none exactly for equal bytes, the same both ways, and each kind by name."""

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import MIB
from kbs_rim.measurement.device_tree import Node
from kbs_rim.measurement.device_tree_diff import Change, Subject, TreeDifference, diff_trees, summary
from kbs_rim.measurement.device_tree_layout import read_tree_file
from kbs_rim.measurement.device_tree_writer import cells, text, write_device_tree

NAMES = ("a", "b", "cpu@0", "soc")
PROPERTIES = ("reg", "model", "phandle", "clocks", "interrupt-parent")


def blob(*children: Node, **properties: bytes) -> bytes:
    return write_device_tree(Node("", properties, children))


def differences(before: bytes, after: bytes) -> tuple[TreeDifference, ...]:
    return diff_trees(read_tree_file(before), read_tree_file(after))


def brief(before: bytes, after: bytes) -> list[tuple[Change, Subject, str, str]]:
    return [(one.change, one.subject, one.path, one.name) for one in differences(before, after)]


def with_reservations(data: bytes, *ranges: tuple[int, int]) -> bytes:
    """The same tree with memory reservations, behind everything else."""
    start = -(-len(data) // 8) * 8
    block = b"".join(struct.pack(">QQ", *item) for item in (*ranges, (0, 0)))
    head = bytearray(data.ljust(start, b"\0"))
    head[4:8], head[16:20] = (start + len(block)).to_bytes(4, "big"), start.to_bytes(4, "big")
    return bytes(head) + block


def trees() -> st.SearchStrategy[bytes]:
    values = st.sampled_from([b"", b"x\0", cells(1), cells(2, 1), b"abc"])
    leaves = st.builds(
        lambda properties, names: Node("", properties, tuple(Node(name, {"reg": cells(1)}) for name in names)),
        st.dictionaries(st.sampled_from(PROPERTIES).filter(lambda name: name != "phandle"), values, max_size=3),
        st.lists(st.sampled_from(NAMES), unique=True, max_size=3),
    )
    return st.builds(
        lambda root, inner, at: write_device_tree(
            Node("", root.properties, (*root.children, Node("last", inner.properties | {"phandle": cells(at)}, inner.children)))
        ),
        leaves,
        leaves,
        st.integers(1, 3),
    )


@given(trees(), trees())
@settings(deadline=None)
def test_the_difference_says_the_same_both_ways_and_nothing_of_equal_trees(before, after):
    assert differences(before, before) == ()
    there, back = differences(before, after), differences(after, before)
    assert bool(there) == (before != after)
    swapped = {Change.ADDED: Change.REMOVED, Change.REMOVED: Change.ADDED, Change.CHANGED: Change.CHANGED}
    mirrored = [
        (swapped[one.change], one.subject, one.path, one.name, one.after, one.before, one.after_bytes, one.before_bytes, one.renumbered)
        for one in back
    ]
    plain = [
        (one.change, one.subject, one.path, one.name, one.before, one.after, one.before_bytes, one.after_bytes, one.renumbered)
        for one in there
    ]
    assert sorted(mirrored, key=repr) == sorted(plain, key=repr)


@given(trees(), st.data())
@settings(deadline=None)
def test_no_byte_that_changes_goes_unreported(tree, data):
    padded = tree[:4] + (len(tree) + 16).to_bytes(4, "big") + tree[8:] + bytes(16)
    changed = bytearray(padded)
    changed[data.draw(st.integers(0, len(padded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = differences(padded, bytes(changed))
    except MalformedEvidence:
        return
    assert found


def test_nodes_and_properties():
    before = blob(Node("a", {"reg": cells(1), "old": text("x")}), Node("gone", {"reg": cells(3)}, (Node("below"),)))
    after = blob(Node("a", {"reg": cells(2), "new": b""}), Node("came"))
    assert (
        brief(before, after)[1:]
        == [
            (Change.REMOVED, Subject.PROPERTY, "/a", "old"),
            (Change.ADDED, Subject.PROPERTY, "/a", "new"),
            (Change.CHANGED, Subject.PROPERTY, "/a", "reg"),
            (Change.REMOVED, Subject.NODE, "/gone", ""),
            (Change.REMOVED, Subject.PROPERTY, "/gone", "reg"),
            (Change.REMOVED, Subject.NODE, "/gone/below", ""),
            (Change.ADDED, Subject.NODE, "/came", ""),
        ]
        or brief(before, after)[0][1] is Subject.HEADER
    )
    changed = next(one for one in differences(before, after) if one.name == "reg" and one.change is Change.CHANGED)
    assert (changed.before, changed.after, changed.after_bytes) == ("<0x1>", "<0x2>", cells(2))


def test_a_property_that_names_the_same_node_by_another_number_is_told_apart():
    def tree(gic: int, clock: int, wanted: int) -> bytes:
        return blob(
            Node("gic", {"phandle": cells(gic), "#interrupt-cells": cells(3), "#address-cells": cells(2)}),
            Node("clock", {"phandle": cells(clock), "#clock-cells": cells(1)}),
            Node("uart", {"clocks": cells(clock, 7, clock, 8), "interrupt-parent": cells(wanted)}),
            Node(
                "pcie",
                {
                    "#address-cells": cells(3),
                    "#interrupt-cells": cells(1),
                    "msi-map": cells(0, gic, 0, 0x10000),
                    "interrupt-map": cells(0, 0, 0, 1, gic, 0, 0, 0, 3, 4, 0x800, 0, 0, 1, gic, 0, 0, 0, 4, 4),
                },
            ),
        )

    found = {(one.path, one.name): one for one in differences(tree(2, 1, 2), tree(9, 8, 8))}
    renumbered = {place for place, one in found.items() if one.renumbered}
    assert renumbered == {
        ("/gic", "phandle"), ("/clock", "phandle"), ("/uart", "clocks"), ("/pcie", "msi-map"), ("/pcie", "interrupt-map"),
    }  # fmt: skip
    assert found["/uart", "clocks"].after == "<&/clock=0x8 0x7 &/clock=0x8 0x8>"
    assert found["/uart", "interrupt-parent"].before == "<&/gic=0x2>"
    assert found["/uart", "interrupt-parent"].after == "<&/clock=0x8>"
    assert summary(list(found.values())) == {"renumbered": 5, "property": 1}
    assert "0x800 0x0 0x0 0x1 &/gic=0x9" in found["/pcie", "interrupt-map"].after


def test_order_header_strings_and_size():
    before = blob(Node("a"), Node("b"), x=b"1", y=b"2")
    after = blob(Node("b"), Node("a"), y=b"2", x=b"1")
    subjects = {(subject, name) for _, subject, _, name in brief(before, after)}
    assert {(Subject.STRINGS, "strings block"), (Subject.ORDER, "properties"), (Subject.ORDER, "child nodes")} <= subjects
    larger = before[:4] + (len(before) + 8).to_bytes(4, "big") + before[8:] + bytes(8)
    assert {name for _, _, _, name in brief(before, larger)} == {"file size", "totalsize"}
    booted = before[:28] + (1).to_bytes(4, "big") + before[32:]
    assert brief(before, booted) == [(Change.CHANGED, Subject.HEADER, "", "boot_cpuid_phys")]


def test_reservations():
    tree = blob()
    one, two = (0x1000, 0x2000), (0x9000, 0x1000)
    assert brief(with_reservations(tree, one), with_reservations(tree, one, two)) == [
        (Change.CHANGED, Subject.HEADER, "", "file size"),
        (Change.CHANGED, Subject.HEADER, "", "totalsize"),
        (Change.ADDED, Subject.RESERVATION, "", ""),
    ]
    found = differences(with_reservations(tree, one, two), with_reservations(tree, two, one))
    assert [(item.subject, item.name) for item in found] == [(Subject.ORDER, "memory reservations")]
    assert found[0].before == "0x1000 0x2000, 0x9000 0x1000"


def test_old_bytes_in_the_padding_are_seen():
    tree = blob(Node("a"), model=b"xyz\0v\0")
    stale = tree.replace(b"xyz\0v\0\0\0", b"xyz\0v\0\x12\x34")
    (only,) = differences(tree, stale)
    assert (only.subject, only.path, only.name, only.before, only.after) == (Subject.PADDING, "/", "model", "00 00", "12 34")


def test_attack_bytes_between_the_blocks_are_seen():
    tree = blob(x=b"1")
    padded = tree[:4] + (len(tree) + 16).to_bytes(4, "big") + tree[8:] + bytes(16)
    hidden = padded[:-5] + b"\xff" + padded[-4:]
    (only,) = differences(padded, hidden)
    assert (only.subject, only.name) == (Subject.BYTES, f"offset {len(padded) - 5}")
    assert only.after == "ff 00 00 00 00"


def test_attack_trees_full_of_references_take_time_in_proportion():
    """Loops and lists that grow with the square of the input would take minutes."""
    count = MIB // 4
    looped = blob(Node("a", {"phandle": cells(1), "#clock-cells": cells(0), "clocks": cells(*([1] * count))}))
    other = blob(Node("a", {"phandle": cells(2), "#clock-cells": cells(0), "clocks": cells(*([2] * count))}))
    many = blob(*(Node(f"n{number}", {f"p{number}": b""}) for number in range(8000)))
    others = blob(*(Node(f"n{number}", {f"p{number}": b"\0"}) for number in reversed(range(8000))))
    begun = time.process_time()
    assert all(one.renumbered for one in differences(looped, other))
    assert len(differences(many, others)) > 8000
    assert time.process_time() - begun < 20


def test_attack_a_tree_that_is_none_is_refused():
    with pytest.raises(MalformedEvidence) as caught:
        read_tree_file(b"\xd0\x0d\xfe\xed" + bytes(36))
    assert caught.value.finding_id == "tree.malformed"
