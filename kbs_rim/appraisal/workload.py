"""The workload: an administrator's description of a realm that may have a secret.

Default is deny: what a workload does not mention is refused. Unknown keys are errors. Addresses and sizes may be written
as integers or as hexadecimal text (``"0x40000000"``).
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from kbs_rim.appraisal.bootargs import BootargsRules
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.printable import printable
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.dialect import Order, Rounding
from kbs_rim.measurement.rmm import RmmVersion

_SHOWN_PROBLEMS = 20
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def _integer(value: Any) -> Any:
    if isinstance(value, str) and value.lower().startswith("0x"):
        return int(value, 16)
    return value


def _hash_algorithm(value: Any) -> Any:
    return HashAlgorithm.from_name(value) if isinstance(value, str) else value


U64 = Annotated[int, BeforeValidator(_integer), Field(ge=0, lt=1 << 64)]
Hash = Annotated[HashAlgorithm, BeforeValidator(_hash_algorithm)]
ImageId = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", to_lower=True)]


class Role(StrEnum):
    """What an image is to the realm that loads it."""

    KERNEL = "kernel"
    INITRD = "initrd"
    FIRMWARE = "firmware"
    DEVICE_TREE = "device-tree"


class _Rules(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_enum_values=False)


class Bounds(_Rules):
    """An inclusive range."""

    min: U64
    max: U64

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self

    @property
    def exact(self) -> bool:
        """True if only one value is allowed."""
        return self.min == self.max

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.min <= value <= self.max


class ImageRule(_Rules):
    """Which images may play a role, and where they may lie (any place in RAM if ``addresses`` is empty)."""

    role: Role
    images: Annotated[tuple[ImageId, ...], Field(min_length=1)]
    required: bool = True
    addresses: tuple[Bounds, ...] = ()


class EntryRules(_Rules):
    """How the first vCPU starts: at the start of which image, and with what in x0.

    ``device-tree``: the address of the measured tree (arm64 Linux boot protocol, kvmtool firmware). ``zero``: QEMU firmware.
    """

    role: Literal[Role.KERNEL, Role.FIRMWARE] = Role.KERNEL
    x0: Literal["device-tree", "zero"] = "device-tree"


class DeviceTreeRules(_Rules):
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


class RmmRules(_Rules):
    """Which replays are acceptable: RMM versions, hash algorithms, page roundings and operation orders."""

    versions: Annotated[tuple[RmmVersion, ...], Field(min_length=1)] = (RmmVersion.V1_0, RmmVersion.V2_0)
    hash_algorithms: Annotated[tuple[Hash, ...], Field(min_length=1)] = tuple(HashAlgorithm)
    roundings: Annotated[tuple[Rounding, ...], Field(min_length=1)] = (Rounding.PAGE_4K,)
    orders: Annotated[tuple[Order, ...], Field(min_length=1)] = (Order.LOG, Order.RIPAS_LAST)


class ParameterRules(_Rules):
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


class MemoryRules(_Rules):
    """RAM as one range: where it starts and how large it may be, in bytes."""

    base: U64
    size: Bounds

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if self.base % GRANULE_SIZE:
            raise ValueError("base is not a multiple of 4096")
        return self


class RealmRules(_Rules):
    """Values of the realm token that the RIM does not cover.

    ``rpv``: ``"zero"``, ``"any"`` (then it decides nothing) or hex of up to 64 bytes, zero padded. ``rems``: for each of
    REM0-3 ``"zero"`` or a list of allowed values in hex. ``memory_encryption``: ``"private"`` demands claim 44243 to say so.
    """

    rpv: Literal["zero", "any"] | Hex = "zero"
    rems: tuple[Literal["zero"] | tuple[Hex, ...], ...] = ("zero", "zero", "zero", "zero")
    memory_encryption: Literal["any", "private"] = "any"
    legacy_profile: bool = False

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if len(self.rems) != 4:
            raise ValueError("rems has one entry for each of REM0 to REM3")
        if any(rule != "zero" and not rule for rule in self.rems):
            raise ValueError('an empty list of REM values would allow nothing; write "zero" or a value')
        if self.rpv not in ("zero", "any") and len(self.rpv) > 128:
            raise ValueError("rpv is at most 64 bytes")
        return self


class Lifecycle(StrEnum):
    """Platform security life cycle states (CCA token claim 2395)."""

    UNKNOWN = "unknown"
    ASSEMBLY = "assembly-and-test"
    PROVISIONING = "provisioning"
    SECURED = "secured"
    NON_PLATFORM_DEBUG = "non-platform-debug"
    RECOVERABLE_DEBUG = "recoverable-debug"
    DECOMMISSIONED = "decommissioned"


class PlatformRules(_Rules):
    """Which platforms may run the realm. Empty lists of ids allow every id that the verifier affirms."""

    lifecycle: Annotated[tuple[Lifecycle, ...], Field(min_length=1)] = (Lifecycle.SECURED,)
    implementation_ids: tuple[Hex, ...] = ()
    instance_ids: tuple[Hex, ...] = ()


class Workload(_Rules):
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
    platform: PlatformRules = PlatformRules()

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

    def rule_for(self, role: Role) -> ImageRule | None:
        """Return the rule for ``role``, or None if the workload does not know it."""
        return next((rule for rule in self.images if rule.role is role), None)

    def roles_of(self, image_id: str) -> tuple[Role, ...]:
        """Return the roles that the image may play here."""
        return tuple(rule.role for rule in self.images if image_id in rule.images)

    @property
    def image_ids(self) -> frozenset[str]:
        """Every image this workload names."""
        return frozenset(image for rule in self.images for image in rule.images)


def parse_workload(document: Any) -> Workload:
    """Validate an administrator's document; raise ``InvalidDocument`` naming the wrong keys, the first 20 of them."""
    try:
        return Workload.model_validate(document)
    except ValidationError as error:
        items = error.errors(include_url=False, include_context=False, include_input=False)
        problems = [f"{_place(item['loc'])}: {printable(item['msg'])}" for item in items[:_SHOWN_PROBLEMS]]
        if len(items) > len(problems):
            problems.append(f"and {len(items) - len(problems)} more")
        raise InvalidDocument("document.workload", f"the workload is not valid: {'; '.join(problems)}") from None


def _place(parts: tuple[int | str, ...]) -> str:
    return printable(".".join(map(str, parts))) or "workload"


def workload_document(workload: Workload) -> dict[str, Any]:
    """Return the JSON form, with every default written out, that is stored and hashed."""
    return workload.model_dump(mode="json")
