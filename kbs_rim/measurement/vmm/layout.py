"""From a request to everything that a VMM does with it: memory map, device tree, realm parameters, entry state."""

from collections.abc import Callable, Mapping

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import write_device_tree
from kbs_rim.measurement.vmm.cloud_hypervisor import cloud_hypervisor_tree
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.kvmtool import kvmtool_tree
from kbs_rim.measurement.vmm.memory_map import MemoryMap, ipa_bits_of, lay_out
from kbs_rim.measurement.vmm.profile import Placement, VmLayout, VmRequest, realm_create, refuse
from kbs_rim.measurement.vmm.qemu import qemu_tree
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.measurement.vmm.vmm_profile import TreeShape, VmmProfile

_TREES: Mapping[TreeShape, Callable[[VmRequest, MemoryMap], Node]] = {
    "qemu-virt": qemu_tree,
    "kvmtool": kvmtool_tree,
    "cloud-hypervisor": cloud_hypervisor_tree,
}


def plan_layout(vmm: Vmm | VmmProfile, request: VmRequest, device_tree: bytes | None = None) -> VmLayout:
    """Return what a VMM makes of ``request``: placement, device tree, realm parameters, entry state.

    ``vmm`` is a profile, or a VMM's name for its default one. ``device_tree`` replaces the generated tree; it is loaded as it is, padded
    to the profile's size. Raises ``InvalidDocument`` (``document.vm``) for a VM that the VMM could not run.
    """
    profile = DEFAULTS[vmm] if isinstance(vmm, str) else vmm
    memory = lay_out(profile, request)
    tree = generate_tree(profile, request, memory) if device_tree is None else load_tree(profile, device_tree)
    placements = tuple(
        Placement(thing, *memory.things[thing]) for thing in memory.flow.measured if thing in memory.things and thing != "device-tree"
    )
    return VmLayout(
        params=realm_create(request, ipa_bits_of(profile, memory, request.host.ipa_limit)),
        ram=memory.ram,
        placements=placements,
        device_tree_base=memory.things["device-tree"].base,
        device_tree=tree,
        log_area=memory.things.get("log"),
        pc=memory.landmarks[memory.flow.pc],
        x0=memory.landmarks[memory.flow.x0],
    )


def generate_tree(profile: VmmProfile, request: VmRequest, memory: MemoryMap) -> bytes:
    """Return the device tree for a VM, as it is loaded, byte for byte the same for the same request.

    Raises ``InvalidDocument`` (``document.vm``) if it does not fit the space that the VMM gives it.
    """
    root = _TREES[profile.tree](request, memory)
    try:
        return write_device_tree(root, padded_to=profile.tree_size)
    except ValueError as error:
        raise refuse(str(error)) from None


def load_tree(profile: VmmProfile, tree: bytes) -> bytes:
    """Return a given tree as the VMM loads it: kvmtool always loads 64 KiB, however short the file is."""
    if not tree:
        raise refuse("the device tree is empty")
    if profile.tree_size is None:
        return tree
    if len(tree) > profile.tree_size:
        raise refuse(f"{profile.name} takes a device tree of at most {profile.tree_size} bytes, this one has {len(tree)}")
    return tree.ljust(profile.tree_size, b"\0")
