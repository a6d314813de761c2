"""What a VMM is asked for, and what it makes of it: where everything lies, what the vCPU starts with, the realm parameters.

A request that the real VMM could not run is refused with ``InvalidDocument`` (``document.vm``), never silently changed.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, KIB, MIB
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import MAX_IPA_BITS, MIN_IPA_BITS, RealmCreate, RealmFlags
from kbs_rim.measurement.vmm.definition import CpuTopology

GIB = 1024 * MIB
LOG_AREA_SIZE = 64 * KIB
"""Both VMMs reserve this much for the measurement log."""
_MAX_RAM = 1 << 48
_BOOTARGS_MAX = 2048
"""COMMAND_LINE_SIZE of Linux on arm64: what is longer is cut without a word."""
_SVE_STEP, _SVE_MAX = 128, 2048

Boot = Literal["kernel", "firmware", "none"]
"""What the first vCPU starts with; ``none`` is a VM without an image, which tests use."""


class Region(NamedTuple):
    """A range of guest addresses, in bytes."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.base + self.size


class Placement(NamedTuple):
    """An image in guest memory: ``role`` is kernel, initrd, firmware or device-tree; ``size`` is the file's, in bytes."""

    role: str
    base: int
    size: int


def up(value: int, step: int) -> int:
    """Round up to a multiple of ``step``."""
    return -(-value // step) * step


def down(value: int, step: int) -> int:
    """Round down to a multiple of ``step``."""
    return value // step * step


def refuse(problem: str) -> InvalidDocument:
    """Make the error for a VM that cannot be."""
    return InvalidDocument("document.vm", problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostParameters:
    """What the host and the options give the realm. Counts are real counts; ``sve_vl`` is in bits, 0 without SVE.

    ``ipa_limit`` is the host's largest IPA width in bits. LPA2 is set only where the host says so, never deduced.
    ``pmu_num_ctrs`` counts only if the request asks for a PMU.
    """

    hash_algorithm: HashAlgorithm = HashAlgorithm.SHA256
    ipa_limit: int = MAX_IPA_BITS
    num_bps: int = 2
    num_wps: int = 2
    pmu_num_ctrs: int = 0
    sve_vl: int = 0
    lpa2: bool = False

    def __post_init__(self) -> None:
        _within("ipa_limit", self.ipa_limit, MIN_IPA_BITS, MAX_IPA_BITS)
        _within("num_bps", self.num_bps, 2, 64)
        _within("num_wps", self.num_wps, 2, 64)
        _within("pmu_num_ctrs", self.pmu_num_ctrs, 0, 31)
        _within("sve_vl", self.sve_vl, 0, _SVE_MAX)
        if self.sve_vl % _SVE_STEP:
            raise refuse(f"sve_vl must be a multiple of {_SVE_STEP} bits, not {self.sve_vl}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRequest:
    """One VM, as its command line asks for it; sizes in bytes, None for what is not there.

    ``bootargs`` is the string given by the user, before the VMM adds its own. ``ram_max`` and ``hotplug_slots`` are QEMU's
    ``maxmem`` and ``slots``; ``firmware_base`` and ``virtio_mmio`` (number of devices with that transport) are kvmtool's, ``serial`` (a
    serial console is there) is cloud-hypervisor's. ``topology`` counts only where a template is patched.
    """

    cpus: int
    ram_size: int
    boot: Boot
    host: HostParameters
    kernel_size: int | None = None
    kernel_header: Arm64Header | None = None
    initrd_size: int | None = None
    firmware_size: int | None = None
    bootargs: str | None = None
    measurement_log: bool = False
    its: bool = True
    pmu: bool = False
    ram_max: int | None = None
    hotplug_slots: int = 0
    firmware_base: int | None = None
    virtio_mmio: int = 0
    serial: bool = True
    topology: CpuTopology | None = None

    def __post_init__(self) -> None:
        _within("cpus", self.cpus, 1, DEFAULT_LIMITS.cpus)
        if self.topology is not None and self.topology.count != self.cpus:
            raise refuse(f"a topology of {self.topology.count} CPUs for a VM with {self.cpus}")
        _within("ram_size", self.ram_size, MIB, _MAX_RAM)
        for name in ("kernel_size", "initrd_size", "firmware_size"):
            size = getattr(self, name)
            if size is not None:
                _within(name, size, 1, DEFAULT_LIMITS.image_bytes)
        if (self.kernel_size is None) != (self.kernel_header is None):
            raise refuse("a kernel has a size and an arm64 Image header")
        wanted = {"kernel": self.kernel_size, "firmware": self.firmware_size, "none": 0}[self.boot]
        if wanted is None:
            raise refuse(f"{self.boot} boot needs a {self.boot}")
        if self.bootargs is not None and ("\0" in self.bootargs or len(self.bootargs.encode("utf-8")) >= _BOOTARGS_MAX):
            raise refuse(f"bootargs must be shorter than {_BOOTARGS_MAX} bytes and hold no NUL")
        if self.ram_max is not None:
            _within("ram_max", self.ram_max, self.ram_size, _MAX_RAM)
        _within("hotplug_slots", self.hotplug_slots, 0, 256)
        _within("virtio_mmio", self.virtio_mmio, 0, 64)


@dataclass(frozen=True, slots=True)
class VmLayout:
    """What the VMM does for a request.

    ``placements`` are the images it loads; the generated ``device_tree`` (as loaded, padding included) lies at
    ``device_tree_base``. ``pc`` and ``x0`` are those of the one runnable REC, its other registers are zero.
    Raises ``InvalidDocument`` (``document.vm``) if two of these share a granule, or one but the firmware leaves the RAM.
    """

    params: RealmCreate
    ram: Region
    placements: tuple[Placement, ...]
    device_tree_base: int
    device_tree: bytes
    log_area: Region | None
    pc: int
    x0: int

    def __post_init__(self) -> None:
        used = [(place.role, down(place.base, GRANULE_SIZE), up(place.base + place.size, GRANULE_SIZE)) for place in self.loads]
        if self.log_area is not None:
            used.append(("log", self.log_area.base, self.log_area.end))
        used.sort(key=lambda item: item[1])
        for (name, _, end), (next_name, base, _) in pairwise(used):
            if base < end:
                raise refuse(f"{name} and {next_name} overlap: {_remedy(name, next_name)}")
        for name, base, end in used:
            if name != "firmware" and not self.ram.base <= base < end <= self.ram.end:
                raise refuse(f"{name} does not fit into the RAM")

    @property
    def loads(self) -> tuple[Placement, ...]:
        """Everything that is measured as data, in the order of the operations: ascending addresses, device tree included."""
        tree = Placement("device-tree", self.device_tree_base, len(self.device_tree))
        return tuple(sorted((*self.placements, tree), key=lambda place: place.base))


def _remedy(*names: str) -> str:
    if set(names) == {"kernel", "firmware"}:
        return "start one of them, or move the firmware (kvmtool: --firmware-address)"
    return "give the VM more RAM, or smaller images"


def realm_create(request: VmRequest, ipa_bits: int) -> RealmCreate:
    """Return the parameters that the RMM measures, for a VM that needs ``ipa_bits``."""
    host = request.host
    if ipa_bits > host.ipa_limit:
        raise refuse(f"the VM needs {ipa_bits} IPA bits, the host has {host.ipa_limit}")
    flags = RealmFlags.LPA2 if host.lpa2 else RealmFlags(0)
    flags |= RealmFlags.SVE if host.sve_vl else RealmFlags(0)
    flags |= RealmFlags.PMU if request.pmu else RealmFlags(0)
    return RealmCreate(
        hash_algorithm=host.hash_algorithm,
        flags=int(flags),
        s2sz=ipa_bits,
        sve_vl=host.sve_vl // _SVE_STEP - 1 if host.sve_vl else 0,
        num_bps=host.num_bps - 1,
        num_wps=host.num_wps - 1,
        pmu_num_ctrs=host.pmu_num_ctrs if request.pmu else 0,
    )


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise refuse(f"{name} must be from {low} to {high}, not {value}")
