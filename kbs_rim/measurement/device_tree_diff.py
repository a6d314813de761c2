"""What differs between two device trees, node by node, and in the bytes that no reader sees.

Nodes are compared by their paths. Whatever the trees are, no difference is reported exactly if the bytes are the same: what nothing
else explains is reported as such. Phandles are followed, so that a property that names the same node by another number can be told
from one that names another node.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_layout import TreeFile
from kbs_rim.measurement.device_tree_references import References, node_paths
from kbs_rim.measurement.device_tree_text import value_text

_LAYOUT_FIELDS = ("totalsize", "off_mem_rsvmap", "off_dt_struct", "last_comp_version", "boot_cpuid_phys")
"""Header fields that do not follow from the contents."""


class Change(StrEnum):
    """What became of something."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Subject(StrEnum):
    """What a difference is about."""

    NODE = "node"
    PROPERTY = "property"
    ORDER = "order"
    RESERVATION = "reservation"
    HEADER = "header"
    STRINGS = "strings"
    PADDING = "padding"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class TreeDifference:
    """One difference. ``path`` and ``name`` say where, as far as that means something; ``before`` and ``after`` are plain ASCII.

    ``before_bytes`` and ``after_bytes`` are the values of properties and padding. ``renumbered``: the property names the same nodes
    as before, by other phandles, or is itself such a phandle.
    """

    change: Change
    subject: Subject
    path: str = ""
    name: str = ""
    before: str | None = None
    after: str | None = None
    before_bytes: bytes | None = None
    after_bytes: bytes | None = None
    renumbered: bool = False


def diff_trees(before: TreeFile, after: TreeFile) -> tuple[TreeDifference, ...]:
    """Return what differs, in the order of the trees; empty exactly if both are the same bytes. Work is linear in the input."""
    found = [*_header(before, after), *_reservations(before, after), *_Nodes(before, after).differences()]
    found.extend(_padding(before, after))
    if not found and before.data != after.data:
        found.append(_unexplained(before, after))
    return tuple(found)


def _header(before: TreeFile, after: TreeFile) -> Iterator[TreeDifference]:
    sizes = (len(before.data), len(after.data))
    if sizes[0] != sizes[1]:
        yield TreeDifference(Change.CHANGED, Subject.HEADER, name="file size", before=str(sizes[0]), after=str(sizes[1]))
    for name in _LAYOUT_FIELDS:
        old, new = before.header[name], after.header[name]
        if old != new:
            yield TreeDifference(Change.CHANGED, Subject.HEADER, name=name, before=str(old), after=str(new))
    if before.strings != after.strings:
        yield _strings(before.strings, after.strings)
    if before.nops != after.nops:
        yield TreeDifference(Change.CHANGED, Subject.HEADER, name="NOP tokens", before=str(before.nops), after=str(after.nops))


def _strings(old: Sequence[str], new: Sequence[str]) -> TreeDifference:
    """The block of names as a whole: what is only in one of the blocks, or that the order differs."""
    texts = []
    for names, others in ((old, frozenset(new)), (new, frozenset(old))):
        alone = [name for name in names if name not in others]
        texts.append(", ".join(alone) if alone else f"{len(names)} names in another order")
    return TreeDifference(Change.CHANGED, Subject.STRINGS, name="strings block", before=texts[0], after=texts[1])


def _reservations(before: TreeFile, after: TreeFile) -> Iterator[TreeDifference]:
    old, new = ([f"{base:#x} {size:#x}" for base, size in file.tree.reservations] for file in (before, after))
    counts = Counter(new)
    counts.subtract(old)
    for text in dict.fromkeys(old):
        if counts[text] < 0:
            yield TreeDifference(Change.REMOVED, Subject.RESERVATION, before=text)
    for text in dict.fromkeys(new):
        if counts[text] > 0:
            yield TreeDifference(Change.ADDED, Subject.RESERVATION, after=text)
    if old != new and not any(counts.values()):
        yield TreeDifference(Change.CHANGED, Subject.ORDER, name="memory reservations", before=", ".join(old), after=", ".join(new))


class _Nodes:
    """Compares the nodes of two trees."""

    def __init__(self, before: TreeFile, after: TreeFile) -> None:
        self._old, self._new = dict(node_paths(before.tree.root)), dict(node_paths(after.tree.root))
        self._old_references, self._new_references = References.of(before.tree), References.of(after.tree)

    def differences(self) -> Iterator[TreeDifference]:
        for path, node in self._old.items():
            if path in self._new:
                yield from self._common(path, node, self._new[path])
            else:
                yield TreeDifference(Change.REMOVED, Subject.NODE, path)
                yield from self._alone(Change.REMOVED, path, node)
        for path, node in self._new.items():
            if path not in self._old:
                yield TreeDifference(Change.ADDED, Subject.NODE, path)
                yield from self._alone(Change.ADDED, path, node)

    def _alone(self, change: Change, path: str, node: Node, names: Sequence[str] | None = None) -> Iterator[TreeDifference]:
        references = self._old_references if change is Change.REMOVED else self._new_references
        for name in node.properties if names is None else names:
            value = node.properties[name]
            text = _shown(node, name, references)
            if change is Change.REMOVED:
                yield TreeDifference(change, Subject.PROPERTY, path, name, before=text, before_bytes=value)
            else:
                yield TreeDifference(change, Subject.PROPERTY, path, name, after=text, after_bytes=value)

    def _common(self, path: str, old: Node, new: Node) -> Iterator[TreeDifference]:
        yield from self._alone(Change.REMOVED, path, old, [name for name in old.properties if name not in new.properties])
        yield from self._alone(Change.ADDED, path, new, [name for name in new.properties if name not in old.properties])
        for name, value in old.properties.items():
            other = new.properties.get(name)
            if other is not None and other != value:
                yield self._changed(path, name, old, new)
        yield from _order(path, "properties", list(old.properties), list(new.properties))
        yield from _order(path, "child nodes", [child.name for child in old.children], [child.name for child in new.children])

    def _changed(self, path: str, name: str, old: Node, new: Node) -> TreeDifference:
        before, after = old.properties[name], new.properties[name]
        renumbered = name in ("phandle", "linux,phandle") or (
            _shown(old, name, self._old_references, numbers=False) == _shown(new, name, self._new_references, numbers=False)
        )
        return TreeDifference(
            Change.CHANGED,
            Subject.PROPERTY,
            path,
            name,
            before=_shown(old, name, self._old_references),
            after=_shown(new, name, self._new_references),
            before_bytes=before,
            after_bytes=after,
            renumbered=renumbered,
        )


def _order(path: str, what: str, old: list[str], new: list[str]) -> Iterator[TreeDifference]:
    """Report another order of what both have."""
    in_new, in_old = frozenset(new), frozenset(old)
    before, after = [name for name in old if name in in_new], [name for name in new if name in in_old]
    if before != after:
        yield TreeDifference(Change.CHANGED, Subject.ORDER, path, what, before=" ".join(before), after=" ".join(after))


def _shown(node: Node, name: str, references: References, *, numbers: bool = True) -> str:
    """Return a value as source; cells that name a node are ``&path``, followed by ``=number`` if wanted."""
    value = node.properties[name]
    named = references.named(node, name) if value else {}
    if not named:
        return value_text(value) if value else ""
    cells = []
    for at in range(len(value) // 4):
        number = f"{int.from_bytes(value[4 * at : 4 * at + 4], 'big'):#x}"
        cells.append((f"&{named[at]}={number}" if numbers else f"&{named[at]}") if at in named else number)
    return f"<{' '.join(cells)}>"


def _padding(before: TreeFile, after: TreeFile) -> Iterator[TreeDifference]:
    """Padding of what both trees have, with the same length."""
    for place, old in before.padding.items():
        new = after.padding.get(place)
        if new is not None and new != old and len(new) == len(old):
            path, name = place
            yield TreeDifference(
                Change.CHANGED, Subject.PADDING, path, name, before=old.hex(" "), after=new.hex(" "), before_bytes=old, after_bytes=new
            )


def _unexplained(before: TreeFile, after: TreeFile) -> TreeDifference:
    offset = _first_difference(before.data, after.data)
    old, new = (data[offset : offset + 8] for data in (before.data, after.data))
    return TreeDifference(
        Change.CHANGED, Subject.BYTES, name=f"offset {offset}", before=old.hex(" "), after=new.hex(" "), before_bytes=old, after_bytes=new
    )


def _first_difference(old: bytes, new: bytes) -> int:
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high) // 2
        if old[low : middle + 1] == new[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


def summary(differences: Sequence[TreeDifference]) -> Mapping[str, int]:
    """Count the differences by what they are about; renumbered phandles apart."""
    counts: dict[str, int] = {}
    for difference in differences:
        key = "renumbered" if difference.renumbered else difference.subject.value
        counts[key] = counts.get(key, 0) + 1
    return counts
