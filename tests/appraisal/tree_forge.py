"""Device trees to judge: shipped packs, generated and real trees, and a way to change one thing in a tree."""

from pathlib import Path

from kbs_rim.appraisal.tree_rules import RulePack
from kbs_rim.measurement.device_tree import DeviceTree, Node, parse_device_tree
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.vmm import HostParameters, VmLayout, VmRequest, plan_layout
from kbs_rim.rule_packs import load_rule_packs

VECTORS = Path(__file__).parent.parent / "vectors"
MIB = 1 << 20
PACKS: dict[str, RulePack] = dict(load_rule_packs())
PACK_OF = {"qemu": "qemu-virt", "kvmtool": "kvmtool", "hv": "cloud-hypervisor"}
REAL_QEMU = sorted((VECTORS / "images" / "qemu-dtb").glob("*.dtb"))
PUBLISHED = sorted((VECTORS / "vmm" / "dtb-public").glob("*.dtb"))


def tree_at(path: Path) -> DeviceTree:
    """Read a tree of the vectors; QEMU's are stored without the zeros up to their totalsize."""
    data = path.read_bytes()
    return parse_device_tree(data.ljust(MIB, b"\0") if path in REAL_QEMU else data)


def layout(vmm: str = "qemu", **changes) -> VmLayout:
    """A VM with kernel, initrd and log."""
    request = {
        "cpus": 2,
        "ram_size": 512 * MIB,
        "boot": "kernel",
        "kernel_size": 40 * MIB,
        "kernel_header": Arm64Header(0, 48 * MIB, 0xA),
        "initrd_size": MIB + 5,
        "bootargs": "console=ttyAMA0",
        "measurement_log": True,
        "host": HostParameters(),
    }
    return plan_layout(vmm, VmRequest(**request | changes))


def generated(vmm: str = "qemu", **changes) -> DeviceTree:
    """The tree of that VM."""
    return parse_device_tree(layout(vmm, **changes).device_tree)


def changed(node: Node, path: str, **edit) -> Node:
    """Return the tree below ``node`` with one node edited.

    ``set`` maps property names to values, ``drop`` lists properties, ``add`` lists children, ``remove`` names them, ``rename`` is a
    new name.
    """
    parts = [part for part in path.split("/") if part]
    if not parts:
        properties = {name: value for name, value in node.properties.items() if name not in edit.get("drop", ())}
        children = tuple(child for child in node.children if child.name not in edit.get("remove", ()))
        return Node(edit.get("rename", node.name), {**properties, **edit.get("set", {})}, (*children, *edit.get("add", ())))
    assert node.child(parts[0]) is not None, f"{path} is not in the tree"
    children = tuple(changed(child, "/".join(parts[1:]), **edit) if child.name == parts[0] else child for child in node.children)
    return Node(node.name, node.properties, children)


def forged(tree: DeviceTree, path: str, **edit) -> DeviceTree:
    """``changed`` on a whole tree."""
    return DeviceTree(changed(tree.root, path, **edit), tree.reservations, tree.boot_cpu, tree.total_size)
