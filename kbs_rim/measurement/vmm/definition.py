"""A VM as its command line defines it: typed, without any file, before a host or an image is known.

``arguments.parse_arguments`` makes it, ``request.request_of`` joins it with a host and with images.
"""

from dataclasses import dataclass, field
from typing import Literal

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities

Vmm = Literal["qemu", "kvmtool", "cloud-hypervisor"]
VMMS: tuple[Vmm, ...] = ("qemu", "kvmtool", "cloud-hypervisor")
Role = Literal["kernel", "initrd", "firmware"]
RPV_SIZE = 64


def refuse_argument(option: str, problem: str) -> InvalidDocument:
    """Make the error for an argument; ``option`` is how the user wrote it, ``problem`` says what to do."""
    return InvalidDocument("document.vm-arguments", f"{option}: {problem}")


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """How many sockets, clusters in each, cores in each, threads in each; all at least 1."""

    sockets: int = 1
    clusters: int = 1
    cores: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.sockets, self.clusters, self.cores, self.threads) < 1:
            raise ValueError("a topology has at least one of everything")

    @property
    def count(self) -> int:
        """Number of logical CPUs."""
        return self.sockets * self.clusters * self.cores * self.threads


@dataclass(frozen=True, slots=True)
class SveSwitch:
    """``sveN=on|off`` of a CPU model; ``bits`` 0 is SVE as a whole."""

    bits: int
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefinition:
    """What a command line says. Sizes in bytes; None is what it does not say.

    ``images`` are the kinds of images that it loads, whatever their files are called there. ``limits`` are the VMM's own upper
    limits on what the host offers, ``sve_switches`` and ``pmu`` its switches (``pmu`` None: as the VMM does by itself). ``rpv`` is
    the personalization value, padded to 64 bytes. ``tree_given`` says whether the VMM is told to load a device tree instead of making
    one, None if it cannot be told. ``ignored`` names the options that cannot change a measurement,
    ``tree_changes`` those that change the device tree in a way that is not modelled, ``remarks`` say what the user should know.
    """

    vmm: Vmm
    topology: CpuTopology
    ram_size: int
    images: frozenset[Role] = frozenset()
    machine: str | None = None
    cpu_model: str | None = None
    bootargs: str | None = None
    hash_algorithm: HashAlgorithm | None = None
    rpv: bytes | None = None
    limits: HostCapabilities = field(default_factory=HostCapabilities)
    sve_switches: tuple[SveSwitch, ...] = ()
    pmu: bool | None = None
    its: bool = True
    measurement_log: bool = False
    ram_max: int | None = None
    hotplug_slots: int = 0
    firmware_base: int | None = None
    virtio_mmio: int = 0
    serial: bool = True
    tree_given: bool | None = None
    ignored: tuple[str, ...] = ()
    tree_changes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.topology.count <= DEFAULT_LIMITS.cpus:
            raise refuse_argument("CPUs", f"there are from 1 to {DEFAULT_LIMITS.cpus} of them, not {self.topology.count}")
        if self.rpv is not None and len(self.rpv) != RPV_SIZE:
            raise ValueError(f"a personalization value has {RPV_SIZE} bytes")
