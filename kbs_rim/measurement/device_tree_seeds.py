"""Seeds in device trees: random numbers that whoever wrote the tree chose for the kernel (Devicetree bindings, ``/chosen``)."""

from kbs_rim.measurement.device_tree_blob import DeviceTree

SEEDS = ("kaslr-seed", "rng-seed")
"""For the layout of the kernel's memory, and for its random numbers."""


def seeds_in(tree: DeviceTree) -> tuple[str, ...]:
    """Return the seeds that a tree holds, as property names. In a registered tree they are the same at each boot, and known."""
    chosen = [node for node in tree.root.children if node.base_name == "chosen"]
    return tuple(name for name in SEEDS if any(node.properties.get(name) for node in chosen))
