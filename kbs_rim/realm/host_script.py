"""What a host does to build one VM, as data; performing it on the RMM model; and what an honest VMM logs about it.

The script is data so that a lie can change it before it is performed (``lies.py``), exactly as a hostile host would.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.guest_memory import GuestMemory
from kbs_rim.realm.kvm_host import BuildOrder, KvmHost
from kbs_rim.realm.log_emitter import BlobRecord, CreateRecord, LogRecord, RecRecord, RipasRecord, VmRecord
from kbs_rim.realm.rim_model import PAGE, RealmParams, RecParams, RmmGeneration
from kbs_rim.realm.rmm_model import RmmModel

KERNEL, INITRD, FIRMWARE, DEVICE_TREE, LOG = "KERNEL", "INITRD", "FIRMWARE", "DTB", "LOG"


@dataclass(frozen=True, slots=True)
class Load:
    """One image and where it goes. ``name`` is the description that the VMM logs.

    ``unmeasured_pages`` (page address to content) are populated without being measured, in place of the image's own.
    ``left_out`` are page addresses that the host does not populate for this image.
    """

    name: str
    base: int
    data: bytes | memoryview = field(repr=False)
    measured: bool = True
    unmeasured_pages: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    left_out: frozenset[int] = frozenset()

    @property
    def top(self) -> int:
        """First address behind the image."""
        return self.base + len(self.data)


@dataclass(frozen=True, slots=True)
class LogRange:
    """Memory that is populated unmeasured for the log. ``content`` is what the host puts there."""

    base: int
    size: int
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostScript:
    """One VM: realm parameters, RAM as (base, size), images, log area, vCPUs in order. ``hidden_pages`` are never logged."""

    params: RealmParams
    ram: tuple[int, int]
    loads: tuple[Load, ...]
    log_area: LogRange | None
    recs: tuple[RecParams, ...]
    hidden_pages: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    def load(self, name: str) -> Load:
        """Return the image called ``name``; raise ``SimulationFailed`` if this VM has none."""
        for load in self.loads:
            if load.name == name:
                return load
        raise SimulationFailed(f"this VM has no {name}")

    @property
    def entry_image(self) -> Load:
        """The image that the first vCPU starts in; raise ``SimulationFailed`` without kernel and firmware."""
        names = {load.name for load in self.loads}
        return self.load(FIRMWARE if FIRMWARE in names else KERNEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHabits:
    """How hosts differ: page size of the host in bytes, when RIPAS is set, and the older kvmtool's place of the log."""

    page_size: int = PAGE
    order: BuildOrder = BuildOrder.RIPAS_FIRST
    log_before_recs: bool = False


def perform(script: HostScript, generation: RmmGeneration, habits: HostHabits) -> RmmModel:
    """Build the realm and activate it; raise ``RmmRefused`` if the RMM would refuse a step."""
    rmm = RmmModel(generation, script.params)
    host, memory = KvmHost(rmm), GuestMemory()
    ripas_last = habits.order is BuildOrder.RIPAS_LAST
    if not ripas_last:
        host.init_ripas(*script.ram)
    loads = sorted(script.loads, key=lambda load: load.base)
    for load in loads:
        memory.write(load.base, load.data)
    for load in loads:
        _populate(host, memory, load, habits.page_size)
    for address, content in script.hidden_pages.items():
        memory.write(address, content)
        host.populate(memory, address, len(content))
    log_first = habits.log_before_recs or ripas_last
    if log_first:
        _populate_log(host, memory, script.log_area)
    for rec in script.recs:
        host.create_rec(rec)
    if not log_first:
        _populate_log(host, memory, script.log_area)
    if ripas_last:
        host.init_ripas(*script.ram, skip_data=True)
    rmm.activate()
    return rmm


def _populate(host: KvmHost, memory: GuestMemory, load: Load, page_size: int) -> None:
    skip = load.left_out | load.unmeasured_pages.keys()
    host.populate(memory, load.base, len(load.data), measured=load.measured, page_size=page_size, skip=skip)
    for address, content in load.unmeasured_pages.items():
        memory.write(address, content)
        host.populate(memory, address, PAGE, measured=False)


def _populate_log(host: KvmHost, memory: GuestMemory, area: LogRange | None) -> None:
    if area is not None:
        memory.write(area.base, area.content)
        host.populate(memory, area.base, area.size, measured=False)


def honest_log(script: HostScript, habits: HostHabits) -> tuple[LogRecord, ...]:
    """Return what an honest VMM logs about ``script``, in the order in which VMMs do.

    RIPAS is logged after REALM_CREATE even by a QEMU on a kernel that sets it last. An image that was populated unmeasured has a
    record without a digest. Only runnable vCPUs are logged.
    """
    area = None if script.log_area is None else (script.log_area.base, script.log_area.size)
    records: list[LogRecord] = [
        VmRecord(script.ram[1], len(script.recs), area),
        CreateRecord(script.params),
        RipasRecord(*script.ram),
    ]
    for load in sorted(script.loads, key=lambda load: load.base):
        digest = hashlib.new(script.params.hash.value, load.data).digest() if load.measured else None
        records.append(BlobRecord(load.name, load.base, len(load.data), digest))
    log: list[LogRecord] = [] if area is None else [BlobRecord(LOG, *area, None)]
    recs: list[LogRecord] = [RecRecord(rec) for rec in script.recs if rec.flags & 1]
    return tuple(records + (log + recs if habits.log_before_recs else recs + log))
