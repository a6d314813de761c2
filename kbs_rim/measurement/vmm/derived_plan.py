"""The boot plan of a VM that no log tells of: a layout and a profile's operations, as a log of that VM would list them.

Like a log's, the plan names images by digest only. Whether the VM was built so is for the RIM to say.
"""

from collections.abc import Iterable, Mapping

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.vmm_records import VmVersionLayout
from kbs_rim.measurement.boot_plan import (
    LOG_DESCRIPTION,
    BootPlan,
    CreateRecord,
    LoadedImage,
    LogArea,
    RecRecord,
    RipasRecord,
    Step,
    VmVersion,
)
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.memory_map import lay_out
from kbs_rim.measurement.vmm.operations import MeasuredImage, PlannedOperation, RipasRange, RunnableRec, plan_operations
from kbs_rim.measurement.vmm.profile import VmLayout, VmRequest
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

LOGGED_NAMES: Mapping[Vmm, str] = {"qemu": "QEMU", "kvmtool": "kvmtool", "cloud-hypervisor": "cloud-hypervisor"}
"""What VMMs call themselves in their logs."""
_DESCRIPTIONS = {"kernel": "KERNEL", "initrd": "INITRD", "firmware": "FIRMWARE", "device-tree": "DTB", "log": LOG_DESCRIPTION}


def derive_plan(profile: VmmProfile, request: VmRequest, layout: VmLayout, params: RealmCreate, digests: Mapping[str, bytes]) -> BootPlan:
    """Return the plan. ``digests`` has the digest of each thing that is loaded, in the algorithm of ``params``.

    Raises ``InvalidDocument`` (``document.vm``) for a VM whose pieces overlap, and ``KeyError`` for a digest that is missing.
    """
    operations = plan_operations(profile, lay_out(profile, request), layout)
    steps = tuple(_steps(operations, params.hash_algorithm, digests))
    vm = VmVersion(0, LOGGED_NAMES[profile.vmm], profile.version, request.ram_size, request.cpus, VmVersionLayout.PACKED)
    return BootPlan(params.hash_algorithm, vm, CreateRecord(1, params), steps)


def _steps(operations: Iterable[PlannedOperation], algorithm: HashAlgorithm, digests: Mapping[str, bytes]) -> Iterable[Step]:
    for event, operation in enumerate(operations, 2):
        match operation:
            case RipasRange():
                yield RipasRecord(event, operation.base, operation.top - operation.base)
            case MeasuredImage(thing, base, size):
                yield LoadedImage(event, _DESCRIPTIONS[thing], base, size, digests[thing], algorithm)
            case RunnableRec():
                yield RecRecord(event, operation.rec)
            case _:
                yield LogArea(event, operation.start, operation.end - operation.start)
