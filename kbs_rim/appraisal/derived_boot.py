"""What a VMM does for one VM of a definition, with registered images: a boot plan, and the device tree if we made it.

Sizes, headers and digests come from the registry; the bytes of a tree that is made here are hashed here. Nothing is read from evidence.
"""

from dataclasses import dataclass, replace

from kbs_rim.appraisal.definition_rules import GENERATED, STOCK_TREES, Definition
from kbs_rim.appraisal.definition_space import VmChoice
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.supplied_tree import SuppliedTree, TreeSource, image_of_tree
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags
from kbs_rim.measurement.vmm.derived_plan import derive_plan
from kbs_rim.measurement.vmm.layout import plan_layout
from kbs_rim.measurement.vmm.memory_map import lay_out
from kbs_rim.measurement.vmm.profile import Boot, HostParameters, Region, VmLayout, VmRequest, refuse
from kbs_rim.measurement.vmm.shipped_profiles import SHIPPED
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches
from kbs_rim.measurement.vmm.stock_qemu_request import StockQemu, Topology
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

_ID_PREFIX = "sha256:"
_FEWEST = 2
"""Layouts want at least so many breakpoints; the number itself moves nothing."""
Images = dict[str, RegisteredImage]


@dataclass(frozen=True, slots=True)
class DerivedBoot:
    """A proposal. ``tree`` is the device tree that was made for it, None if a registered one is loaded; ``registered`` are ids."""

    plan: BootPlan
    tree: SuppliedTree | None
    registered: frozenset[str]


def digest_of_id(image_id: str) -> bytes:
    """Return the SHA-256 digest that an image's id is."""
    return bytes.fromhex(image_id.removeprefix(_ID_PREFIX))


class BootDeriver:
    """Derives the VMs of one definition. VMs with one layout share it, and the tree in it; limited by the number of candidates."""

    def __init__(self, definition: Definition, entry: Role, images: ImageSet, limits: Limits) -> None:
        """``entry`` is what the first vCPU starts; ``images`` holds what the workload names, as the registry has it."""
        self._definition, self._images, self._limits = definition, images, limits
        self._boot: Boot = "firmware" if entry is Role.FIRMWARE else "kernel"
        self._layouts: dict[tuple[str, VmRequest, str], tuple[VmLayout, SuppliedTree | None]] = {}

    def derive(self, choice: VmChoice, algorithm: HashAlgorithm) -> DerivedBoot:
        """Return the boot of one VM.

        Raises ``InvalidDocument`` (``document.vm``) for one that the VMM could not run, or for want of an image that may be used.
        """
        images = self._images_of(choice)
        profile = SHIPPED[choice.profile]
        request = self._request(choice, images)
        layout, tree = self._layout(profile, request, choice.tree, images)
        digests = {role: image.measurements.digests[algorithm] for role, image in images.items()}
        if tree is not None:
            digests[Role.DEVICE_TREE.value] = tree.image.measurements.digests[algorithm]
        plan = derive_plan(profile, request, layout, _params(layout.params, choice, algorithm), digests)
        loaded = {image.digest for image in plan.images}
        registered = frozenset(image.id for role, image in images.items() if digests[role] in loaded)
        return DerivedBoot(plan, tree, registered)

    def _images_of(self, choice: VmChoice) -> Images:
        named: dict[str, str] = {}
        if self._boot == "firmware":
            named.update(self._definition.handed_over)
        for role, image_id in (("kernel", choice.kernel), ("initrd", choice.initrd), ("firmware", choice.firmware)):
            if image_id is not None:
                named[role] = image_id
        if not self._made(choice.tree):
            named[Role.DEVICE_TREE.value] = choice.tree
        return {role: self._image(role, image_id) for role, image_id in named.items()}

    def _image(self, role: str, image_id: str) -> RegisteredImage:
        image = self._images.registered(HashAlgorithm.SHA256, digest_of_id(image_id))
        if image is None or image.state is ImageState.REVOKED:
            raise refuse(f"the {role} {image_id} is {'revoked' if image else 'not registered'}")
        return image

    def _request(self, choice: VmChoice, images: Images) -> VmRequest:
        """Everything that moves something: what only the realm parameters say is left at its default, so that layouts are shared."""
        given = self._definition
        sizes = {role: image.measurements.size for role, image in images.items()}
        kernel: ImageMeasurements | None = images["kernel"].measurements if "kernel" in images else None
        return VmRequest(
            cpus=choice.cpus,
            ram_size=choice.ram,
            boot=self._boot,
            host=HostParameters(),
            kernel_size=sizes.get("kernel"),
            kernel_header=kernel.kernel if kernel else None,
            initrd_size=sizes.get("initrd"),
            firmware_size=sizes.get("firmware"),
            bootargs=choice.bootargs,
            measurement_log=choice.measurement_log,
            its=choice.its,
            pmu=choice.pmu_counters is not None,
            ram_max=given.ram_max or None,
            hotplug_slots=given.hotplug_slots,
            firmware_base=None if given.firmware_address == "default" else given.firmware_address,
            virtio_mmio=given.virtio_mmio,
            serial=given.serial,
        )

    def _layout(self, profile: VmmProfile, request: VmRequest, tree: str, images: Images) -> tuple[VmLayout, SuppliedTree | None]:
        key = profile.name, request, tree
        if key not in self._layouts:
            self._layouts[key] = self._new_layout(profile, request, tree, images)
        return self._layouts[key]

    def _new_layout(self, profile: VmmProfile, request: VmRequest, tree: str, images: Images) -> tuple[VmLayout, SuppliedTree | None]:
        if not self._made(tree):
            listed = images[Role.DEVICE_TREE.value].measurements
            layout = plan_layout(profile, request, bytes(listed.size))
            facts = listed.device_tree
            described = facts is not None and facts.cpus == request.cpus and sum(size for _, size in facts.memory) == request.ram_size
            if len(layout.device_tree) != listed.size or not described:
                raise refuse("the registered device tree is that of another VM")
            return layout, None
        given = None if tree == GENERATED else self._stock_tree(profile, request, tree)
        layout = plan_layout(profile, request, given)
        parsed = parse_device_tree(layout.device_tree, self._limits)
        image = image_of_tree(layout.device_tree, parsed, self._limits, "the device tree made from the workload's definition")
        return layout, SuppliedTree(parsed, image, TreeSource.DEFINITION)

    def _stock_tree(self, profile: VmmProfile, request: VmRequest, name: str) -> bytes:
        memory = lay_out(profile, request)
        initrd = None if request.boot == "firmware" else memory.things.get("initrd")
        return stock_tree(name, self._definition, request, self._boot, initrd, memory.things.get("log"))

    @staticmethod
    def _made(tree: str) -> bool:
        return tree == GENERATED or tree in STOCK_TREES


def _params(params: RealmCreate, choice: VmChoice, algorithm: HashAlgorithm) -> RealmCreate:
    """Put in what the layout does not depend on."""
    flags = RealmFlags.LPA2 if choice.lpa2 else RealmFlags(0)
    flags |= RealmFlags.SVE if choice.sve_bits else RealmFlags(0)
    flags |= RealmFlags.PMU if choice.pmu_counters is not None else RealmFlags(0)
    flags |= RealmFlags.DA if choice.device_assignment else RealmFlags(0)
    flags |= RealmFlags.MEC_PRIVATE if choice.memory_private else RealmFlags(0)
    return replace(
        params,
        hash_algorithm=algorithm,
        flags=int(flags),
        s2sz=params.s2sz if choice.ipa_bits is None else choice.ipa_bits,
        sve_vl=choice.sve_bits // 128 - 1 if choice.sve_bits else 0,
        num_bps=choice.breakpoints - 1,
        num_wps=choice.watchpoints - 1,
        pmu_num_ctrs=choice.pmu_counters or 0,
    )


def stock_tree(name: str, definition: Definition, request: VmRequest, boot: Boot, initrd: Region | None, log_area: Region | None) -> bytes:
    """Return the tree that QEMU itself makes in a realm; raises ``InvalidDocument`` (``document.vm``)."""
    version = STOCK_TREES[name]
    caches = CpuCaches(*definition.host_caches) if definition.host_caches and version.cpu_caches else None
    if caches is None and version.cpu_caches:
        raise refuse(f"QEMU {version.name} describes the host's caches: definition.host_caches is missing")
    return stock_qemu_tree(
        StockQemu(
            version=version,
            cpu=version.cpus["host"],
            topology=Topology(request.cpus, cores=request.cpus),
            ram_size=request.ram_size,
            ram_max=request.ram_max,
            ram_slots=request.hotplug_slots,
            msi="its" if request.its else None,
            pmu=request.pmu,
            boot=boot,
            bootargs=request.bootargs,
            initrd=initrd,
            address_bits=definition.host_address_bits or None,
            caches=caches,
            realm=True,
            log_area=log_area,
        )
    )
