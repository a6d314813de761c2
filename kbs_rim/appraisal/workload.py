"""The workload: an administrator's description of a realm that may have a secret.

Default is deny: what a workload does not mention is refused. Unknown keys are errors. Addresses and sizes may be written
as integers or as hexadecimal text (``"0x40000000"``).
"""

from enum import StrEnum
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from kbs_rim.appraisal.bootargs import BootargsRules
from kbs_rim.appraisal.definition_rules import REGISTERED, Definition, within
from kbs_rim.appraisal.document_problems import document_problems
from kbs_rim.appraisal.rule_values import LOADED_ROLES, U64, Hash, Hex, ImageId, Rules
from kbs_rim.appraisal.rule_values import Bounds as Bounds  # noqa: PLC0414 - re-exported: part of a workload
from kbs_rim.appraisal.rule_values import Role as Role  # noqa: PLC0414 - re-exported: part of a workload
from kbs_rim.appraisal.runtime_workload import RuntimeRules
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.dialect import Order, Rounding
from kbs_rim.measurement.rmm import RmmVersion

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class ImageRule(Rules):
    """Which images the VMM may load in a role, and where they may lie (any place in RAM if ``addresses`` is empty)."""

    role: Role
    images: Annotated[tuple[ImageId, ...], Field(min_length=1)]
    required: bool = True
    addresses: tuple[Bounds, ...] = ()


class EntryRules(Rules):
    """How the first vCPU starts: at the start of which image, and with what in x0.

    ``device-tree``: the address of the measured tree (arm64 Linux boot protocol, kvmtool firmware). ``zero``: QEMU firmware.
    """

    role: Literal[Role.KERNEL, Role.FIRMWARE] = Role.KERNEL
    x0: Literal["device-tree", "zero"] = "device-tree"


class DeviceTreeRules(Rules):
    """Which device trees are good. ``registered``: those that ``images`` lists, byte for byte.

    ``rules``: also any other whose bytes come with the evidence, if the rule pack ``pack``, ``bootargs`` and ``cpus`` allow all that
    it says. ``allow_seeds``: even a seed that the host chose for the kernel's random numbers and layout.
    """

    mode: Literal["registered", "rules"] = "registered"
    pack: Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9.-]{0,63})?$")] = ""
    bootargs: BootargsRules = BootargsRules()
    cpus: Bounds = Bounds(min=1, max=512)
    allow_seeds: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mode == "rules" and not self.pack:
            raise ValueError('mode "rules" needs the name of a rule pack, such as "qemu-virt"')
        if self.mode == "registered" and self != DeviceTreeRules.model_construct():
            raise ValueError('pack, bootargs, cpus and allow_seeds need mode = "rules"')
        return self

    @property
    def judges(self) -> bool:
        """True if trees are judged by rules."""
        return self.mode == "rules"


class RmmRules(Rules):
    """Which replays are acceptable: RMM versions, hash algorithms, page roundings and operation orders."""

    versions: Annotated[tuple[RmmVersion, ...], Field(min_length=1)] = (RmmVersion.V1_0, RmmVersion.V2_0)
    hash_algorithms: Annotated[tuple[Hash, ...], Field(min_length=1)] = tuple(HashAlgorithm)
    roundings: Annotated[tuple[Rounding, ...], Field(min_length=1)] = (Rounding.PAGE_4K,)
    orders: Annotated[tuple[Order, ...], Field(min_length=1)] = (Order.LOG, Order.RIPAS_LAST)


class ParameterRules(Rules):
    """Bounds of the realm parameters, in real counts (not RMI encodings). A feature not allowed here must be off."""

    ipa_bits: Bounds = Bounds(min=32, max=48)
    breakpoints: Bounds = Bounds(min=2, max=64)
    watchpoints: Bounds = Bounds(min=2, max=64)
    sve: bool = False
    sve_vector_bits: Bounds = Bounds(min=128, max=2048)
    pmu: bool = False
    pmu_counters: Bounds = Bounds(min=0, max=31)
    lpa2: bool = False
    device_assignment: bool = False


class MemoryRules(Rules):
    """RAM as one range: where it starts and how large it may be, in bytes."""

    base: U64
    size: Bounds

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.base % GRANULE_SIZE:
            raise ValueError("base is not a multiple of 4096")
        return self


class RealmRules(Rules):
    """Values of the realm token that the RIM does not cover.

    ``rpv``: ``"zero"``, ``"any"`` (then it decides nothing) or hex of up to 64 bytes, zero padded. ``rems``: for each of
    REM0-3 ``"zero"``, a list of allowed values in hex, or ``"log"``: then the logs and rules of the table ``runtime`` explain it, and
    nothing else does. ``memory_encryption``: ``"private"`` demands claim 44243 to say so.
    """

    rpv: Literal["zero", "any"] | Hex = "zero"
    rems: tuple[Literal["zero", "log"] | tuple[Hex, ...], ...] = ("zero", "zero", "zero", "zero")
    memory_encryption: Literal["any", "private"] = "any"
    legacy_profile: bool = False

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if len(self.rems) != 4:
            raise ValueError("rems has one entry for each of REM0 to REM3")
        if any(not rule for rule in self.rems):
            raise ValueError('an empty list of REM values would allow nothing; write "zero" or a value')
        if self.rpv not in ("zero", "any") and len(self.rpv) > 128:
            raise ValueError("rpv is at most 64 bytes")
        return self

    @property
    def logged(self) -> tuple[int, ...]:
        """Numbers of the REMs that logs explain."""
        return tuple(number for number, rule in enumerate(self.rems) if rule == "log")


class Lifecycle(StrEnum):
    """Platform security life cycle states (CCA token claim 2395)."""

    UNKNOWN = "unknown"
    ASSEMBLY = "assembly-and-test"
    PROVISIONING = "provisioning"
    SECURED = "secured"
    NON_PLATFORM_DEBUG = "non-platform-debug"
    RECOVERABLE_DEBUG = "recoverable-debug"
    DECOMMISSIONED = "decommissioned"


class PlatformRules(Rules):
    """Which platforms may run the realm. Empty lists of ids allow every id that the verifier affirms."""

    lifecycle: Annotated[tuple[Lifecycle, ...], Field(min_length=1)] = (Lifecycle.SECURED,)
    implementation_ids: tuple[Hex, ...] = ()
    instance_ids: tuple[Hex, ...] = ()


class Workload(Rules):
    """One acceptable realm. ``vmm`` empty: any VMM (the name in the log is not measured and decides little)."""

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    description: Annotated[str, StringConstraints(max_length=1000)] = ""
    vmm: tuple[str, ...] = ()
    entry: EntryRules = EntryRules()
    images: Annotated[tuple[ImageRule, ...], Field(min_length=1, max_length=8)]
    memory: MemoryRules
    device_tree: DeviceTreeRules = DeviceTreeRules()
    rmm: RmmRules = RmmRules()
    parameters: ParameterRules = ParameterRules()
    realm: RealmRules = RealmRules()
    definition: Definition | None = None
    runtime: RuntimeRules | None = None
    platform: PlatformRules = PlatformRules()

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.runtime is None and self.realm.logged:
            raise ValueError('realm.rems says "log": the table runtime must say which logs and events are good')
        if self.runtime is not None and not self.realm.logged:
            raise ValueError('the table runtime judges nothing unless realm.rems says "log" for a register')
        if loose := {rule.role for rule in self.images} - set(LOADED_ROLES):
            raise ValueError(f"no VMM loads the role {', '.join(sorted(loose))}: it belongs to runtime.images")
        return self

    @model_validator(mode="after")
    def _roles(self) -> Self:
        roles = [rule.role for rule in self.images]
        if len(set(roles)) != len(roles):
            raise ValueError("a role stands twice in images")
        needed = {self.entry.role} if self.device_tree.judges else {self.entry.role, Role.DEVICE_TREE}
        present = {rule.role for rule in self.images if rule.required}
        if missing := needed - present:
            raise ValueError(f"images must require the role {', '.join(sorted(missing))}")
        return self

    @model_validator(mode="after")
    def _defined(self) -> Self:
        definition, listed = self.definition, self.rule_for(Role.DEVICE_TREE)
        if definition is None:
            return self
        if definition.device_trees != (REGISTERED,) and not self.device_tree.judges:
            raise ValueError('definition.device_trees: a tree that is not registered needs device_tree.mode = "rules"')
        if REGISTERED in definition.device_trees and listed is None:
            raise ValueError("definition.device_trees: images has no device tree")
        for key, numbers, allowed, bounds in (
            ("cpus", definition.cpus, "device_tree.cpus", self.device_tree.cpus),
            ("ram", definition.ram, "memory.size", self.memory.size),
            ("breakpoints", definition.breakpoints, "parameters.breakpoints", self.parameters.breakpoints),
            ("watchpoints", definition.watchpoints, "parameters.watchpoints", self.parameters.watchpoints),
            ("ipa_bits", definition.ipa_bits, "parameters.ipa_bits", self.parameters.ipa_bits),
        ):
            if not within(numbers, bounds.min, bounds.max):
                raise ValueError(f"definition.{key}: {allowed} does not allow them all, only {bounds.min} to {bounds.max}")
        size = definition.size(self._image_choices, len(listed.images) if listed else 0)
        if size > definition.max_candidates:
            raise ValueError(f"definition: {size} VMs are more than max_candidates = {definition.max_candidates}; let fewer things vary")
        return self

    @property
    def _image_choices(self) -> int:
        """In how many ways one image of each loaded role, the device tree apart, may be chosen."""
        return prod(len(rule.images) + (not rule.required) for rule in self.images if rule.role is not Role.DEVICE_TREE)

    def rule_for(self, role: Role) -> ImageRule | None:
        """Return the rule for ``role``, or None if the workload does not know it."""
        return next((rule for rule in self.images if rule.role is role), None)

    def roles_of(self, image_id: str) -> tuple[Role, ...]:
        """Return the roles in which a VMM may load the image here."""
        return tuple(rule.role for rule in self.images if image_id in rule.images)

    @property
    def image_ids(self) -> frozenset[str]:
        """Every image this workload names."""
        return frozenset(image for _, image in self.named_images)

    @property
    def defined_images(self) -> frozenset[str]:
        """Every image that a VM of the definition may load or hand to its firmware."""
        handed = (image for _, image in (self.definition.handed_over if self.definition else ()))
        return frozenset((*handed, *(image for rule in self.images for image in rule.images)))

    @property
    def named_images(self) -> tuple[tuple[Role, str], ...]:
        """Every role with every image that this workload names for it, each pair once."""
        loaded = [(rule.role, image) for rule in self.images for image in rule.images]
        measured = [(rule.role, image) for rule in (self.runtime.images if self.runtime else ()) for image in rule.images]
        handed = [(Role(role), image) for role, image in (self.definition.handed_over if self.definition else ())]
        return tuple(dict.fromkeys(loaded + measured + handed))


def parse_workload(document: Any) -> Workload:
    """Validate an administrator's document; raise ``InvalidDocument`` naming the wrong keys, the first 20 of them."""
    try:
        return Workload.model_validate(document)
    except ValidationError as error:
        problems = document_problems(error, document, Workload, whole="workload")
        raise InvalidDocument("document.workload", f"the workload is not valid: {problems}") from None


def workload_document(workload: Workload) -> dict[str, Any]:
    """Return the JSON form, with every default written out, that is stored and hashed."""
    return workload.model_dump(mode="json")
