"""Joins what a command line defines with what a host offers and what the image files are: a request that a layout can be planned for."""

from collections.abc import Mapping
from dataclasses import dataclass

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import MAX_IPA_BITS
from kbs_rim.measurement.vmm.definition import VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.host_capabilities import SVE_STEP, HostCapabilities
from kbs_rim.measurement.vmm.profile import Boot, HostParameters, VmRequest
from kbs_rim.measurement.vmm.qemu_options import CPU_MODELS
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What a layout must know of an image: its size as loaded, in bytes, and a kernel's header."""

    size: int
    header: Arm64Header | None = None


@dataclass(frozen=True, slots=True)
class EffectiveHost:
    """What a realm gets: the host's capabilities after the VMM's limits. ``remarks`` say where the VMM asked for more than there is."""

    capabilities: HostCapabilities
    hash_algorithm: HashAlgorithm
    pmu: bool
    remarks: tuple[str, ...]


def effective_host(definition: VmDefinition, host: HostCapabilities, profile: VmmProfile) -> EffectiveHost:
    """Return what the realm gets of ``host``. The hash is the command line's, else the host's, else the profile's."""
    limits = definition.limits
    remarks = [
        f"{name}: the VM asks for {wanted}, the host has {has}; the RIM is for {has}"
        for name in ("num_bps", "num_wps", "pmu_num_ctrs")
        if (wanted := getattr(limits, name)) is not None and (has := getattr(host, name)) is not None and wanted > has
    ]
    capabilities = host.restricted_by(limits)
    if "sve-on-request" in profile.features and limits.sve_vl is None:
        capabilities = capabilities.restricted_by(HostCapabilities(sve_vl=0))
    sve_vl = _switched_sve(capabilities.sve_vl, definition)
    if sve_vl is not None:
        capabilities = capabilities.restricted_by(HostCapabilities(sve_vl=sve_vl))
    asked = limits.pmu_num_ctrs is not None if "pmu-by-counters" in profile.features else definition.pmu
    pmu = _pmu(asked, host)
    if asked and not pmu:
        remarks.append("the VM asks for a PMU, the host has none; the RIM is for a realm without one")
    algorithm = definition.hash_algorithm or host.hash_algorithm or profile.hash_algorithm
    return EffectiveHost(capabilities, algorithm, pmu, tuple(remarks))


def request_of(definition: VmDefinition, host: EffectiveHost, images: Mapping[str, ImageSize]) -> VmRequest:
    """Return the request for a VM whose images are known, by role.

    Raises ``InvalidDocument``: ``document.host`` if the host's breakpoints, watchpoints or counters are not known,
    ``document.vm-arguments`` for a CPU that no realm has, ``document.vm`` for a VM that cannot be.
    """
    if definition.cpu_model is not None and definition.cpu_model not in CPU_MODELS:
        raise refuse_argument("-cpu", f"{definition.cpu_model[:40]}: a realm has the host's CPU; write host")
    kernel, initrd, firmware = (images.get(role) for role in ("kernel", "initrd", "firmware"))
    return VmRequest(
        cpus=definition.topology.count,
        topology=definition.topology,
        ram_size=definition.ram_size,
        boot=boot_of(definition),
        host=_parameters(host),
        kernel_size=None if kernel is None else kernel.size,
        kernel_header=None if kernel is None else kernel.header,
        initrd_size=None if initrd is None else initrd.size,
        firmware_size=None if firmware is None else firmware.size,
        bootargs=definition.bootargs,
        measurement_log=definition.measurement_log,
        its=definition.its,
        pmu=host.pmu,
        ram_max=definition.ram_max,
        hotplug_slots=definition.hotplug_slots,
        firmware_base=definition.firmware_base,
        virtio_mmio=definition.virtio_mmio,
        serial=definition.serial,
    )


def boot_of(definition: VmDefinition) -> Boot:
    """Return what the first vCPU starts: firmware if there is any, else the kernel."""
    if "firmware" in definition.images:
        return "firmware"
    return "kernel" if "kernel" in definition.images else "none"


def _parameters(host: EffectiveHost) -> HostParameters:
    known = host.capabilities
    return HostParameters(
        hash_algorithm=host.hash_algorithm,
        ipa_limit=MAX_IPA_BITS if known.ipa_bits is None else known.ipa_bits,
        num_bps=_known("num_bps", known.num_bps),
        num_wps=_known("num_wps", known.num_wps),
        pmu_num_ctrs=_known("pmu_num_ctrs", known.pmu_num_ctrs) if host.pmu else 0,
        sve_vl=known.sve_vl or 0,
        lpa2=bool(known.lpa2),
    )


def _known(name: str, value: int | None) -> int:
    if value is None:
        option = f"--{name.replace('_', '-')}"
        raise InvalidDocument("document.host", f"{name} is not known: name the host with -c (fvp, qemu-max-8.2, a file), or give {option}")
    return value


def _pmu(asked: bool | None, host: HostCapabilities) -> bool:
    """QEMU and cloud-hypervisor give a realm the PMU that the host has; asking for one means that there is one, if nobody says no."""
    if asked is None:
        return bool(host.pmu)
    return asked and host.pmu is not False


def _switched_sve(sve_vl: int | None, definition: VmDefinition) -> int | None:
    """Apply QEMU's sve and sveN switches, in order. Switching a length off leaves the next smaller one."""
    for switch in definition.sve_switches:
        current = sve_vl or 0
        if not switch.bits:
            sve_vl = sve_vl if switch.on else 0
        elif not switch.on and current >= switch.bits:
            sve_vl = switch.bits // 2
            if sve_vl % SVE_STEP:
                raise refuse_argument("-cpu", f"sve{switch.bits}=off leaves no vector length; write sve=off")
        elif switch.on and current < switch.bits:
            sve_vl = switch.bits
    return sve_vl
