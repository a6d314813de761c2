"""Which cells of a device tree's properties are phandles, and which nodes they name.

Implements the Devicetree Specification v0.4 (2.3.3, 2.4, and the standard bindings for clocks, GPIOs, IOMMUs and MSI maps) as far as
the trees of VMMs need it. For showing only: a tree that says nonsense is shown as the cells that it has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kbs_rim.measurement.device_tree_blob import DeviceTree, Node

_SINGLE = frozenset({"interrupt-parent", "next-level-cache", "cpu", "msi-parent"})
_SPECIFIERS: Mapping[str, str] = {
    "clocks": "#clock-cells",
    "gpios": "#gpio-cells",
    "iommus": "#iommu-cells",
    "interrupts-extended": "#interrupt-cells",
}
"""Lists of a phandle with as many further cells as the named property of its node says."""
_MAPS = frozenset({"msi-map", "iommu-map"})
_MAP_ROW, _MAP_PHANDLE = 4, 1


def node_paths(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield every node with its path, parents first; the root's path is ``/``."""
    pending = [("/", root)]
    while pending:
        path, node = pending.pop()
        yield path, node
        pending.extend((f"{path.rstrip('/')}/{child.name}", child) for child in reversed(node.children))


@dataclass(frozen=True, slots=True)
class References:
    """The phandles of one tree: number to path and node; a number that two nodes have names the first."""

    targets: Mapping[int, tuple[str, Node]]

    @classmethod
    def of(cls, tree: DeviceTree) -> "References":
        targets: dict[int, tuple[str, Node]] = {}
        for path, node in node_paths(tree.root):
            value = node.properties.get("phandle", node.properties.get("linux,phandle", b""))
            if len(value) == 4:
                targets.setdefault(int.from_bytes(value, "big"), (path, node))
        return cls(targets)

    def named(self, node: Node, name: str) -> Mapping[int, str]:
        """Return, for each cell of a property that names a node, its position and the node's path."""
        value = node.properties[name]
        if len(value) % 4:
            return {}
        cells = [int.from_bytes(value[at : at + 4], "big") for at in range(0, len(value), 4)]
        positions = self._positions(node, name, cells)
        return {at: self.targets[cells[at]][0] for at in positions if at < len(cells) and cells[at] in self.targets}

    def _positions(self, node: Node, name: str, cells: Sequence[int]) -> Iterator[int]:
        specifier = _SPECIFIERS.get("gpios" if name.endswith("-gpios") else name)
        if name in _SINGLE:
            yield 0
        elif name in _MAPS:
            yield from range(_MAP_PHANDLE, len(cells), _MAP_ROW)
        elif specifier is not None:
            at = 0
            while at < len(cells):
                yield at
                at += 1 + self._cells_of(cells[at], specifier)
        elif name == "interrupt-map":
            yield from self._interrupt_map(node, cells)

    def _interrupt_map(self, node: Node, cells: Sequence[int]) -> Iterator[int]:
        at = _number(node, "#address-cells") + _number(node, "#interrupt-cells")
        own = at
        while at < len(cells):
            yield at
            at += 1 + self._cells_of(cells[at], "#address-cells") + self._cells_of(cells[at], "#interrupt-cells") + own

    def _cells_of(self, phandle: int, name: str) -> int:
        target = self.targets.get(phandle)
        return 0 if target is None else _number(target[1], name)


def _number(node: Node, name: str) -> int:
    value = node.properties.get(name, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else 0
