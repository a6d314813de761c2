"""A device tree that a measurement log names but does not hold, made anew from what the log says and what its owner knows.

The result is a proposal: whoever uses it holds it against the digest in the log, and the RIM decides. Nothing of the log is believed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kbs_rim.measurement.rmm import RealmCreate, RealmFlags
from kbs_rim.measurement.vmm.definition import CpuTopology
from kbs_rim.measurement.vmm.layout import generate_tree, load_tree
from kbs_rim.measurement.vmm.memory_map import MemoryMap, device_regions
from kbs_rim.measurement.vmm.profile import HostParameters, Region, VmRequest, refuse
from kbs_rim.measurement.vmm.shipped_profiles import KVMTOOL, QEMU
from kbs_rim.measurement.vmm.tree_template import patch_tree
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

LOGGED_NAMES: Mapping[str, VmmProfile] = MappingProxyType({"QEMU": QEMU, "kvmtool": KVMTOOL})
"""How VMMs call themselves in their VM VERSION record, and what they are taken for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedVm:
    """What a log says of a VM: addresses and sizes in bytes, the realm parameters as logged."""

    ram_size: int
    cpus: int
    params: RealmCreate
    initrd: Region | None = None
    log_area: Region | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloggedOptions:
    """What no log says and the tree depends on. ``bootargs`` is the user's part of the command line, None for none."""

    bootargs: str | None = None
    its: bool = True
    ram_max: int | None = None
    hotplug_slots: int = 0
    virtio_mmio: int = 0
    topology: CpuTopology | None = None


NO_OPTIONS = UnloggedOptions()


def profile_of_log(vmm_name: str) -> VmmProfile:
    """Return the profile for a VMM's own name; raise ``InvalidDocument`` (``document.vm``) for one that is not known."""
    profile = LOGGED_NAMES.get(vmm_name)
    if profile is None:
        raise refuse(f"device trees of {vmm_name[:40]} are not known; known are those of {', '.join(LOGGED_NAMES)}")
    return profile


def regenerate_tree(profile: VmmProfile, vm: LoggedVm, options: UnloggedOptions = NO_OPTIONS, template: bytes | None = None) -> bytes:
    """Return the tree as the VMM loads it: from ``template``, which is patched, or from scratch. The PMU follows the realm parameters.

    Raises ``InvalidDocument`` (``document.vm``) for a VM that cannot be, and for a template that cannot serve, and
    ``MalformedEvidence`` (``tree.malformed``) if it is no tree.
    """
    request = VmRequest(
        cpus=vm.cpus,
        topology=options.topology,
        ram_size=vm.ram_size,
        boot="none",
        host=HostParameters(),
        bootargs=options.bootargs,
        measurement_log=vm.log_area is not None,
        its=options.its,
        pmu=bool(vm.params.flags & RealmFlags.PMU),
        ram_max=options.ram_max,
        hotplug_slots=options.hotplug_slots,
        virtio_mmio=options.virtio_mmio,
    )
    memory = _memory_of_log(profile, request, vm)
    if template is None:
        return generate_tree(profile, request, memory)
    return load_tree(profile, patch_tree(profile, request, memory, template))


def _memory_of_log(profile: VmmProfile, request: VmRequest, vm: LoggedVm) -> MemoryMap:
    """Build a map from logged addresses, where ``memory_map.lay_out`` would compute them."""
    ram = Region(profile.ram_base, vm.ram_size)
    things = {name: region for name, region in (("initrd", vm.initrd), ("log", vm.log_area)) if region is not None}
    return MemoryMap(ram, things, device_regions(profile, request, ram), {}, profile.flows["kernel"])
