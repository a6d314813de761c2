"""The ``runtime`` table of a workload: what may have been measured into the REMs that logs explain.

Default is deny: an event is refused unless a key of this table lets it in. Keys speak of what was hashed, never of event types, which
nobody measured. Patterns are those of boot arguments: up to three ``*``, which stand for anything but blanks and quotes.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kbs_rim.appraisal.bootargs import BootargsRules
from kbs_rim.appraisal.rule_values import Hex, ImageId, Role, Rules
from kbs_rim.evidence.event_log import LogFormat

_MOST_STARS = 3
_COUNT = 256
_DIGESTS = 1024
_OPEN_FILES = 64
"""Patterns that every entry of IMA is matched with."""
_SIZES = (64, 96, 128)
"""Hex digits of a SHA-256, SHA-384 or SHA-512 digest."""
_SHA256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", to_lower=True)]
_Line = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[ -~]*$")]
_Contents = Literal["any", "refuse"] | Annotated[tuple[_SHA256, ...], Field(min_length=1, max_length=_COUNT)]
"""Any well-formed value, none at all, or those with one of these SHA-256 digests."""
ACTIONS = (
    "Calling EFI Application from Boot Option",
    "Returning from EFI Application from Boot Option",
    "Exit Boot Services Invocation",
    "Exit Boot Services Returned with Success",
)
"""What every UEFI firmware measures on the way to an operating system."""


def _few_stars(*patterns: str) -> None:
    for pattern in patterns:
        if pattern.count("*") > _MOST_STARS:
            raise ValueError(f"a pattern has at most {_MOST_STARS} stars")


class PcrMapping(StrEnum):
    """What becomes of a log that counts PCRs.

    ``refuse``: it is not judged. ``uefi``: PCRs went to measurement registers as UEFI 2.11 section 38 says, and none to the RIM.
    ``uefi-rim-to-rem0``: the same, but what would belong to PCR 0 went to REM0, as EDK2 does for Arm CCA.
    """

    REFUSE = "refuse"
    UEFI = "uefi"
    UEFI_RIM_TO_REM0 = "uefi-rim-to-rem0"


class LogRule(Rules):
    """One log that explains REMs. Only a log that counts measurement registers needs no ``pcr_mapping``."""

    kind: LogFormat
    required: bool = True
    pcr_mapping: PcrMapping = PcrMapping.REFUSE

    @model_validator(mode="after")
    def _not_the_rim(self) -> Self:
        if self.kind is LogFormat.VMM:
            raise ValueError("the VMM's log explains the RIM; it is always judged, and says nothing of REMs")
        return self


class RuntimeImageRule(Rules):
    """Images that firmware, boot loader or kernel may have measured in a role.

    ``required``: one of them must appear, or ``"each"`` of them, as in a chain of boot loaders that start one another.
    """

    role: Role
    images: Annotated[tuple[ImageId, ...], Field(min_length=1, max_length=_COUNT)]
    required: bool | Literal["each"] = True


class CommandLineRules(BootargsRules):
    """The kernel's command line, by the keys of boot arguments.

    ``measured_by``: whose event must be there. ``kernel``: that of Linux's EFI stub, of its own load options. ``boot-loader``: that of
    GRUB, for kernels that measure none.
    """

    measured_by: Literal["kernel", "boot-loader"] = "kernel"


class SecureBootRules(Rules):
    """UEFI Secure Boot. ``state`` other than ``any``: the variable SecureBoot must have been measured, with that value.

    ``pk``, ``kek``, ``db``, ``dbx``: SHA-256 digests of what these variables may hold, that of nothing included; ``"any"`` holds
    nobody to anything. ``authorities``: SHA-256 digests of what may have vouched for an image or may else be measured as a variable
    (a certificate, or the contents of SbatLevel, MokListRT and the like).
    """

    state: Literal["on", "off", "any"] = "any"
    pk: _Contents = "any"
    kek: _Contents = "any"
    db: _Contents = "any"
    dbx: _Contents = "any"
    authorities: _Contents = "refuse"


class AaelRule(Rules):
    """Events of the attestation agent of Confidential Containers that may stand in REM3: patterns of the three words of a line."""

    domain: _Line
    operation: _Line
    content: _Line = ""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _few_stars(self.domain, self.operation, self.content)
        return self


class ImaFile(Rules):
    """Files that IMA may have measured: a pattern of the path, and digests of the contents; none of them: any contents."""

    path: _Line
    digests: Annotated[tuple[Hex, ...], Field(max_length=_DIGESTS)] = ()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _few_stars(self.path)
        return self


class ImaRules(Rules):
    """What Linux's IMA may have measured into REM2. ``mode = "any"``: every well-formed entry; the list then proves nothing by itself."""

    mode: Literal["files", "any"] = "files"
    files: Annotated[tuple[ImaFile, ...], Field(max_length=_DIGESTS)] = ()
    boot_aggregate: bool = True
    violations: bool = False

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.mode == "any" and self.files:
            raise ValueError('mode "any" lets every file in: leave out files')
        if sum(not file.digests for file in self.files) > _OPEN_FILES:
            raise ValueError(f"at most {_OPEN_FILES} entries of files go without digests")
        return self


class CelRule(Rules):
    """Records of a canonical event log whose inside nobody here reads, by content type and SHA-256 of the content."""

    rem: Annotated[int, Field(ge=0, le=3)]
    type: Annotated[int, Field(ge=9, le=255)]
    contents: Annotated[tuple[_SHA256, ...], Field(min_length=1, max_length=_COUNT)]


class DigestRule(Rules):
    """One digest that may stand in one register, in the realm's algorithm, whatever it is of. ``type`` and ``comment`` are for people."""

    rem: Annotated[int, Field(ge=0, le=3)]
    digest: Hex
    type: Annotated[str, StringConstraints(max_length=64, pattern=r"^[ -~]*$")] = ""
    comment: Annotated[str, StringConstraints(max_length=200)] = ""
    required: bool = False

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if len(self.digest) not in _SIZES:
            raise ValueError("a digest has 32, 48 or 64 bytes")
        return self


class UnknownRules(Rules):
    """What an unknown event does to the appraisal, for each register. ``warn`` gives up what that register protects."""

    rem0: Literal["refuse", "warn"] = "refuse"
    rem1: Literal["refuse", "warn"] = "refuse"
    rem2: Literal["refuse", "warn"] = "refuse"
    rem3: Literal["refuse", "warn"] = "refuse"

    def tolerated(self, rem: int) -> bool:
        """True if an unknown event of REM ``rem`` is only a warning."""
        return (self.rem0, self.rem1, self.rem2, self.rem3)[rem] == "warn"


class RuntimeRules(Rules):
    """Which logs explain REMs, in the order in which they extended them, and which events may stand in those."""

    logs: Annotated[tuple[LogRule, ...], Field(min_length=1, max_length=len(LogFormat))]
    images: Annotated[tuple[RuntimeImageRule, ...], Field(max_length=len(Role))] = ()
    command_line: CommandLineRules | None = None
    grub_commands: Annotated[tuple[_Line, ...], Field(max_length=_COUNT)] = ()
    secure_boot: SecureBootRules = SecureBootRules()
    firmware_versions: Annotated[tuple[_Line, ...], Field(max_length=_COUNT)] = ()
    boot_variables: _Contents = "refuse"
    partition_tables: _Contents = "refuse"
    actions: Annotated[tuple[_Line, ...], Field(max_length=_COUNT)] = ACTIONS
    separators: Annotated[tuple[Annotated[int, Field(ge=0, le=3)], ...], Field(max_length=4)] = ()
    aael: Annotated[tuple[AaelRule, ...], Field(max_length=_COUNT)] = ()
    ima: ImaRules | None = None
    cel: Annotated[tuple[CelRule, ...], Field(max_length=_COUNT)] = ()
    digests: Annotated[tuple[DigestRule, ...], Field(max_length=_DIGESTS)] = ()
    unknown: UnknownRules = UnknownRules()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        kinds = [rule.kind for rule in self.logs]
        if len(set(kinds)) != len(kinds):
            raise ValueError("a kind stands twice in runtime.logs")
        roles = [rule.role for rule in self.images]
        if len(set(roles)) != len(roles):
            raise ValueError("a role stands twice in runtime.images")
        _few_stars(*self.grub_commands, *self.firmware_versions, *self.actions)
        kernel_measures = self.command_line is not None and self.command_line.measured_by == "kernel"
        if any("*" in command for command in self.grub_commands) and not kernel_measures:
            raise ValueError(
                'grub_commands with stars need command_line.measured_by = "kernel": what stands for a star may be a command line that '
                "no kernel measured"
            )
        return self

    @property
    def image_ids(self) -> frozenset[str]:
        """Every image these rules name."""
        return frozenset(image for rule in self.images for image in rule.images)

    def roles_of(self, image_id: str) -> tuple[Role, ...]:
        """Return the roles in which the image may have been measured."""
        return tuple(rule.role for rule in self.images if image_id in rule.images)
