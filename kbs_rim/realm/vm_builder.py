"""From image files and a VMM's name to what the host does: the bridge between ``measurement.vmm`` and the simulator.

Layout, device tree and realm parameters come from the VMM profiles that calculators use too; measuring does not. RMM 2.0 has
one more measured parameter, the memory encryption policy, which is set here.
"""

import zlib
from dataclasses import dataclass, field, replace

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.image import Arm64Header, read_arm64_header
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm import Boot, HostParameters, VmLayout, Vmm, VmRequest, plan_layout
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.host_script import DEVICE_TREE, FIRMWARE, INITRD, KERNEL, HostScript, Load, LogRange
from kbs_rim.realm.log_emitter import LogStyle, VmVersionLayout
from kbs_rim.realm.rim_model import RealmHash, RealmParams, RecParams

_FLAG_MEC_PRIVATE = 1 << 7
_GZIP_MAGIC, _GZIP_WINDOW = b"\x1f\x8b", 31
_KVMTOOL_TREE_SIZE = 64 * 1024
_RPV_SIZE = 64
_DESCRIPTION = {"kernel": KERNEL, "initrd": INITRD, "firmware": FIRMWARE, "device-tree": DEVICE_TREE}
_HASHES = {
    HashAlgorithm.SHA256: RealmHash.SHA256,
    HashAlgorithm.SHA384: RealmHash.SHA384,
    HashAlgorithm.SHA512: RealmHash.SHA512,
}
LOG_STYLES = {
    "qemu": LogStyle("QEMU", "9.1.91"),
    "qemu-documented": LogStyle("QEMU", "9.1.91", VmVersionLayout.DOCUMENTED),
    "kvmtool": LogStyle("kvmtool", "3.18.0"),
    "kvmtool-old": LogStyle("kvmtool", "3.18.0", nul_descriptions=True),
}
"""Names of log styles; those of a VMM's own name are what it writes today."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFiles:
    """Contents of the image files. ``device_tree`` replaces the generated one."""

    kernel: bytes | None = field(default=None, repr=False)
    initrd: bytes | None = field(default=None, repr=False)
    firmware: bytes | None = field(default=None, repr=False)
    device_tree: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefinition:
    """A VM as its owner orders it. ``memory`` is in bytes, ``rpv`` has up to 64; counts in ``host`` are real counts."""

    vmm: Vmm
    boot: Boot
    cpus: int = 1
    memory: int
    append: str | None = None
    host: HostParameters = field(default_factory=HostParameters)
    pmu: bool = False
    its: bool = True
    measurement_log: bool = True
    rpv: bytes = b""
    memory_private: bool = False


def build_script(vm: VmDefinition, files: VmFiles) -> HostScript:
    """Return what the host does to build this VM.

    Raises ``SimulationFailed`` for files that this VM cannot use, ``InvalidDocument`` (``document.vm``) for a VM that cannot be.
    """
    kernel = _unpacked(files.kernel) if files.kernel is not None else None
    header = read_arm64_header(kernel) if kernel is not None else None
    if kernel is not None and header is None:
        raise SimulationFailed("the kernel is not an arm64 Linux Image")
    if vm.boot == "firmware" and (kernel is not None or files.initrd is not None):
        raise SimulationFailed("a firmware boot loads no kernel and no initrd into the RIM: leave them out")
    if len(vm.rpv) > _RPV_SIZE:
        raise SimulationFailed("the RPV has at most 64 bytes")
    layout = plan_layout(vm.vmm, _request(vm, files, kernel, header))
    return _script(vm, files, kernel, layout)


def _request(vm: VmDefinition, files: VmFiles, kernel: bytes | None, header: Arm64Header | None) -> VmRequest:
    return VmRequest(
        cpus=vm.cpus,
        ram_size=vm.memory,
        boot=vm.boot,
        host=vm.host,
        kernel_size=None if kernel is None else len(kernel),
        kernel_header=header,
        initrd_size=None if files.initrd is None else len(files.initrd),
        firmware_size=None if files.firmware is None else len(files.firmware),
        bootargs=vm.append,
        measurement_log=vm.measurement_log,
        its=vm.its,
        pmu=vm.pmu,
    )


def _script(vm: VmDefinition, files: VmFiles, kernel: bytes | None, layout: VmLayout) -> HostScript:
    contents = {"kernel": kernel, "initrd": files.initrd, "firmware": files.firmware}
    loads = []
    for place in layout.placements:
        content = contents[place.role]
        if content is None:
            raise SimulationFailed(f"there is no {place.role} to load")
        loads.append(Load(_DESCRIPTION[place.role], place.base, content))
    tree = layout.device_tree if files.device_tree is None else _given_tree(vm.vmm, files.device_tree)
    loads.append(Load(DEVICE_TREE, layout.device_tree_base, tree))
    first = RecParams(1, layout.pc, (layout.x0, 0, 0, 0, 0, 0, 0, 0))
    others = (RecParams(0, 0, (0,) * 8),) * (vm.cpus - 1)
    return HostScript(
        params=_params(vm, layout.params),
        ram=(layout.ram.base, layout.ram.size),
        loads=tuple(loads),
        log_area=None if layout.log_area is None else LogRange(*layout.log_area),
        recs=(first, *others),
    )


def _params(vm: VmDefinition, planned: RealmCreate) -> RealmParams:
    params = RealmParams(
        _HASHES[planned.hash_algorithm],
        planned.flags,
        planned.s2sz,
        planned.sve_vl,
        planned.num_bps,
        planned.num_wps,
        planned.pmu_num_ctrs,
        vm.rpv.ljust(_RPV_SIZE, b"\0"),
    )
    return replace(params, flags=params.flags | _FLAG_MEC_PRIVATE) if vm.memory_private else params


def _given_tree(vmm: Vmm, tree: bytes) -> bytes:
    """kvmtool loads 64 KiB whatever the file's length."""
    if vmm != "kvmtool":
        return tree
    if len(tree) > _KVMTOOL_TREE_SIZE:
        raise SimulationFailed("kvmtool takes a device tree of at most 64 KiB")
    return tree.ljust(_KVMTOOL_TREE_SIZE, b"\0")


def _unpacked(kernel: bytes) -> bytes:
    """Return what the VMM loads: the first member of a gzip'd kernel, unpacked, or the file itself."""
    if not kernel.startswith(_GZIP_MAGIC):
        return kernel
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = unpacker.decompress(kernel, DEFAULT_LIMITS.gunzip_bytes)
    except zlib.error:
        raise SimulationFailed("the gzip'd kernel is damaged") from None
    if not unpacker.eof:
        raise SimulationFailed("the gzip'd kernel is cut off or too large")
    return unpacked
