"""A tree of QEMU's under construction: the blob, the phandles given so far, and how interrupts are written."""

from collections.abc import Iterable

from kbs_rim.measurement.device_tree_writer import cells
from kbs_rim.measurement.vmm.stock_qemu_blob import EditedTree
from kbs_rim.measurement.vmm.stock_qemu_request import StockQemu
from kbs_rim.measurement.vmm.tree_parts import LEVEL_HIGH, PPI

Properties = Iterable[tuple[str, bytes]]
_CPU_MASK_SHIFT = 8
"""GICv2: bits of a private interrupt's flags that name the CPUs."""


class Construction:
    """What the makers of nodes share. The phandle of the clock is the first one."""

    def __init__(self, machine: StockQemu) -> None:
        self.machine = machine
        self.tree = EditedTree()
        self._next_phandle = machine.first_phandle
        self.clock = self.phandle()
        self.cpus: dict[int, int] = {}
        """Phandle of each CPU."""
        self.gic = 0
        self.msi: int | None = None

    def phandle(self) -> int:
        """Give out the next phandle."""
        self._next_phandle += 1
        return self._next_phandle - 1

    def node(self, path: str, properties: Properties) -> None:
        """Make a node and give it properties, in this order."""
        self.tree.add(path)
        self.properties(path, properties)

    def properties(self, path: str, properties: Properties) -> None:
        """Give a node that is there more properties."""
        for name, value in properties:
            self.tree.set(path, name, value)

    def private_interrupt(self, number: int) -> bytes:
        """Return the cells of a level-triggered interrupt that each CPU has for itself."""
        flags = LEVEL_HIGH
        if self.machine.gic == 2:
            flags |= (1 << self.machine.topology.cpus) - 1 << _CPU_MASK_SHIFT
        return cells(PPI, number, flags)
