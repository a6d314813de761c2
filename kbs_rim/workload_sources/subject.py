"""What a workload is drafted from: a VM with its images, the hosts that may run it, the RMMs and page sizes to expect."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.measurement.vmm.calculation import MeasurementPlan, RealmExtras, calculate, plan_measurement
from kbs_rim.measurement.vmm.definition import VmDefinition
from kbs_rim.measurement.vmm.host_capabilities import BREAKPOINTS, HostCapabilities
from kbs_rim.measurement.vmm.profile import VmRequest
from kbs_rim.measurement.vmm.request import EffectiveHost, ImageSize, effective_host, request_of
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

TreeMode = Literal["registered", "rules"]
_ANY_HOST = HostCapabilities(num_bps=BREAKPOINTS[0], num_wps=BREAKPOINTS[0], pmu_num_ctrs=0)
"""Stands in where no host is named: it decides no placement, and no RIM is computed for it."""


def refuse_draft(problem: str) -> InvalidDocument:
    """Make the error for a definition that no workload can follow from."""
    return InvalidDocument("document.workload-draft", problem)


@dataclass(frozen=True, slots=True)
class HostChoice:
    """A kind of host that may run the VM, by the name that the administrator knows."""

    name: str
    capabilities: HostCapabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSubject:
    """A VM with its images by role. ``tree`` is the device tree that the VMM loads, None if the profile's own is meant.

    ``stock_tree`` names the tree's maker for a workload's definition (``qemu-10.0``), "" if it is none of QEMU's own;
    ``stock_address_bits`` are the guest's in that tree, 0 if not known. ``hosts`` empty: nobody said where it runs.
    """

    name: str
    definition: VmDefinition
    profile: VmmProfile
    images: Mapping[str, ImageMeasurements] = field(repr=False)
    description: str = ""
    hosts: tuple[HostChoice, ...] = ()
    tree: bytes | None = field(default=None, repr=False)
    stock_tree: str = ""
    stock_address_bits: int = 0
    tree_mode: TreeMode = "rules"
    versions: tuple[RmmVersion, ...] = (RmmVersion.V1_0, RmmVersion.V2_0)
    page_sizes: tuple[int, ...] = (GRANULE_SIZE,)
    exact_addresses: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a host makes of the VM, with one version of the RMM and one page size. ``rim`` is None where no host was named."""

    host: str
    effective: EffectiveHost
    rmm: RmmVersion
    page_size: int
    plan: MeasurementPlan
    rim: bytes | None

    @property
    def tree(self) -> bytes:
        """The device tree as it is loaded."""
        return self.plan.layout.device_tree


def outcomes_of(subject: DraftSubject) -> tuple[Outcome, ...]:
    """Return every combination, hosts first; one without a RIM if there is no host.

    Raises ``InvalidDocument``: ``document.vm`` for a VM that cannot be, ``document.host`` for a host that lacks something,
    ``document.vm-arguments``, and ``document.workload-draft`` for an image that lies where no granule digests fit.
    """
    found = []
    for choice, effective, request in requests_of(subject):
        for rmm in subject.versions:
            for page_size in subject.page_sizes:
                plan = plan_measurement(subject.profile, request, rmm, subject.tree, RealmExtras(host_page_size=page_size))
                rim = _rim(plan, rmm, subject) if choice.name else None
                found.append(Outcome(choice.name, effective, rmm, page_size, plan, rim))
    return tuple(found)


def requests_of(subject: DraftSubject) -> Iterator[tuple[HostChoice, EffectiveHost, VmRequest]]:
    """Yield what each host gives the VM, or a host of no name where none was named. Raises as ``outcomes_of`` does."""
    sizes = {role: ImageSize(image.size, image.kernel) for role, image in subject.images.items()}
    for choice in subject.hosts or (HostChoice("", _ANY_HOST),):
        effective = effective_host(subject.definition, choice.capabilities, subject.profile)
        lacking = [name for name in ("num_bps", "num_wps") if getattr(effective.capabilities, name) is None]
        if lacking:
            silent = f"{choice.name} is a part of a host and does not say {' and '.join(lacking)}"
            raise InvalidDocument("document.host", f"{silent}: join it with hardware, as in fvp+{choice.name}")
        yield choice, effective, request_of(subject.definition, effective, sizes)


def _rim(plan: MeasurementPlan, rmm: RmmVersion, subject: DraftSubject) -> bytes:
    granules: dict[str, bytes] = {}
    for image in plan.images:
        found = subject.images[image.thing].granules_at(image.base, plan.algorithm)
        if found is None:
            raise refuse_draft(f"the {image.thing} would lie at {image.base:#x}, which is neither page aligned nor at the end of a page")
        granules[image.thing] = found
    digests = {thing: subject.images[thing].digests[plan.algorithm] for thing in plan.extended}
    return calculate(plan, rmm, granules, digests).rim
