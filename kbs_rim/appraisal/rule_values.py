"""Values that the tables of a workload share: roles, numbers, hashes, ids of images, ranges.

Addresses and sizes may be written as integers or as hexadecimal text (``"0x40000000"``).
"""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from kbs_rim.evidence.hash_algorithm import HashAlgorithm


def _integer(value: Any) -> Any:
    if isinstance(value, str) and value.lower().startswith("0x"):
        return int(value, 16)
    return value


def _hash_algorithm(value: Any) -> Any:
    return HashAlgorithm.from_name(value) if isinstance(value, str) else value


RANGE_PATTERN = (
    r"^(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})-(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})(?:/(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}))?$"
)
"""Numbers as text: FIRST-LAST, or FIRST-LAST/STEP."""
U64 = Annotated[int, BeforeValidator(_integer), Field(ge=0, lt=1 << 64)]
Hash = Annotated[HashAlgorithm, BeforeValidator(_hash_algorithm)]
ImageId = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", to_lower=True)]


class Role(StrEnum):
    """What an image is to the realm that loads it.

    The VMM loads the first four. Firmware and what it starts load the others, and measure them into REMs: ``boot-loader`` is any
    EFI program in front of the kernel (shim, GRUB, systemd-boot), ``boot-file`` any file that a boot loader obeys (a configuration,
    a module), ``acpi`` a blob of ACPI tables that the VMM hands to the firmware.
    """

    KERNEL = "kernel"
    INITRD = "initrd"
    FIRMWARE = "firmware"
    DEVICE_TREE = "device-tree"
    BOOT_LOADER = "boot-loader"
    UKI = "uki"
    UKI_ADDON = "uki-addon"
    BOOT_FILE = "boot-file"
    ACPI = "acpi"


LOADED_ROLES = (Role.KERNEL, Role.INITRD, Role.FIRMWARE, Role.DEVICE_TREE)
"""Roles of what the VMM loads and the RIM measures."""


class Rules(BaseModel):
    """A table of a workload: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, use_enum_values=False)


class Bounds(Rules):
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

    @property
    def shown(self) -> str:
        """The range in words: ``16``, or ``2 to 16``."""
        return str(self.min) if self.exact else f"{self.min} to {self.max}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.min <= value <= self.max
