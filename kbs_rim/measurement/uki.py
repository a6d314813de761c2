"""Unified kernel images and their addons: which sections systemd-stub reads and measures, and in which order.

As the UKI specification says, for systemd-stub 257 and later; the places of ``.dtb``, ``.dtbauto``, ``.hwids`` and
``.efifw`` and the rules for profiles are those of systemd's own list of sections, which its authors promise never to reorder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement import image_document as fields
from kbs_rim.measurement.pe_image import PeSection, malformed_pe

LINUX, OSREL, CMDLINE, INITRD, UCODE, UNAME, PCRSIG, PCRPKEY, PROFILE = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".uname", ".pcrsig", ".pcrpkey", ".profile",
)  # fmt: skip
STUB_ORDER = (
    LINUX, OSREL, CMDLINE, INITRD, UCODE, ".splash", ".dtb", UNAME, ".sbat", PCRSIG, PCRPKEY, PROFILE, ".dtbauto", ".hwids", ".efifw",
)  # fmt: skip
"""Every section that the stub knows, in the order in which it measures them, whatever their order in the file."""
TEXT_SECTIONS = frozenset({OSREL, CMDLINE, UNAME, PROFILE})
_ADDON_SECTIONS = frozenset({CMDLINE, INITRD, UCODE, ".dtb", ".dtbauto"})
"""A PE file without a kernel is an addon if it has one of these; systemd-boot and the bare stub have others."""
_RANK = {name: rank for rank, name in enumerate(STUB_ORDER)}
_SECTION_MEMBERS = ("name", "profile", "size", "digests", "text")
_MEMBERS = ("form", "sections", "initrds")


class UkiForm(StrEnum):
    """What a PE file with such sections is."""

    UKI = "uki"
    ADDON = "addon"


class Measured(StrEnum):
    """Whether the stub measures a section."""

    ALWAYS = "always"
    IF_SELECTED = "if-selected"
    """The stub takes the first one that fits the machine, perhaps none."""
    NEVER = "never"
    """It holds signatures of the expected result."""


_MEASURED = {".dtbauto": Measured.IF_SELECTED, ".efifw": Measured.IF_SELECTED, PCRSIG: Measured.NEVER}


@dataclass(frozen=True, slots=True)
class UkiSection:
    """One section as it lies in memory: ``size`` bytes with these digests.

    ``profile`` is the number of the profile it belongs to, None for the sections that all profiles share. ``text`` is the content
    of a short text section up to its first NUL. Raises ``ValueError`` for a name that the stub does not know.
    """

    name: str
    profile: int | None
    size: int
    digests: Mapping[HashAlgorithm, bytes]
    text: str | None = None

    def __post_init__(self) -> None:
        if self.name not in _RANK:
            raise ValueError(f"systemd-stub knows no section {self.name}")
        if self.size < 1 or (self.profile is not None and self.profile < 0):
            raise ValueError("a section has at least one byte, and profiles are numbered from 0")
        if self.text is not None and self.name not in TEXT_SECTIONS:
            raise ValueError(f"{self.name} is not text")

    @property
    def measured(self) -> Measured:
        """Whether the stub measures it."""
        return _MEASURED.get(self.name, Measured.ALWAYS)

    def name_digest(self, algorithm: HashAlgorithm) -> bytes:
        """Digest of the first of the two events for a section: of its name with a NUL, in ASCII."""
        return algorithm.digest(self.name.encode("ascii") + b"\0")


@dataclass(frozen=True, slots=True)
class UkiFacts:
    """The sections of a UKI or addon that the stub uses, in the order of the file.

    ``initrds`` has, for each profile, the digests of the initrd that the stub hands to the kernel if it finds nothing else on
    the disk, None where it hands over none. It is empty for addons, and for stubs whose rules we do not know.
    """

    form: UkiForm
    sections: tuple[UkiSection, ...]
    initrds: tuple[Mapping[HashAlgorithm, bytes] | None, ...] = ()

    def __post_init__(self) -> None:
        if (self.form is UkiForm.UKI) != any(section.name == LINUX for section in self.sections):
            raise ValueError("a UKI has a kernel, and an addon has none")
        if self.initrds and (self.form is UkiForm.ADDON or len(self.initrds) != self.profiles):
            raise ValueError("there is one initrd for each profile of a UKI")

    @property
    def profiles(self) -> int:
        """How many ways of booting it has; at least 1."""
        return 1 + max((section.profile for section in self.sections if section.profile is not None), default=0)

    def effective(self, profile: int = 0) -> Mapping[str, UkiSection]:
        """Return the sections that count when ``profile`` is booted, without those that are selected by machine."""
        found: dict[str, UkiSection] = {}
        for layer in (None, profile):
            found.update({item.name: item for item in self.sections if item.profile == layer and item.measured is not Measured.IF_SELECTED})
        return found

    def measured(self, profile: int = 0) -> tuple[UkiSection, ...]:
        """Return what the stub measures when ``profile`` is booted, in its order; of those selected by machine at most one of a name."""
        candidates = [item for item in self.sections if item.measured is Measured.IF_SELECTED and item.profile in (profile, None)]
        always = [item for item in self.effective(profile).values() if item.measured is Measured.ALWAYS]
        return tuple(sorted((*always, *candidates), key=lambda item: (_RANK[item.name], item.profile is None)))

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "form": self.form.value,
            "sections": [
                {
                    "name": section.name,
                    "profile": section.profile,
                    "size": section.size,
                    "digests": fields.digests_to_document(section.digests),
                    "text": section.text,
                }
                for section in self.sections
            ],
            "initrds": [None if initrd is None else fields.digests_to_document(initrd) for initrd in self.initrds],
        }

    @classmethod
    def from_document(cls, value: Any, where: str, limits: Limits) -> "UkiFacts":
        """Read what ``to_document`` wrote. Raises ``InvalidDocument``, and ``ValueError`` for contradictions."""
        found = fields.members(value, _MEMBERS, where)
        forms = [form for form in UkiForm if form.value == found["form"]]
        if not forms:
            raise fields.invalid(f"{where}.form", f"must be one of {', '.join(UkiForm)}")
        sections = fields.limited_list(found["sections"], f"{where}.sections", limits.pe_sections)
        initrds = fields.limited_list(found["initrds"], f"{where}.initrds", limits.uki_profiles)
        return cls(
            forms[0],
            tuple(_section_from_document(item, f"{where}.sections", limits) for item in sections),
            tuple(None if item is None else fields.digests_from_document(item, f"{where}.initrds") for item in initrds),
        )


def _section_from_document(value: Any, where: str, limits: Limits) -> UkiSection:
    found = fields.members(value, _SECTION_MEMBERS, where)
    name, profile = found["name"], found["profile"]
    if not isinstance(name, str):
        raise fields.invalid(f"{where}.name", "must be text")
    if profile is not None:
        profile = fields.whole_number(profile, f"{where}.profile", low=0, high=limits.uki_profiles - 1)
    return UkiSection(
        name,
        profile,
        fields.whole_number(found["size"], f"{where}.size", low=1, high=limits.image_bytes + limits.pe_zero_fill_bytes),
        fields.digests_from_document(found["digests"], f"{where}.digests"),
        fields.text_or_none(found["text"], f"{where}.text", limits.uki_text_bytes),
    )


def stub_sections(sections: Sequence[PeSection], limits: Limits) -> Iterator[tuple[PeSection, int | None]]:
    """Yield the sections that the stub may use, each with its profile, in the order of the file.

    A ``.profile`` section begins a profile, which all sections behind it belong to. Within a profile the first section of a name
    counts, except where the stub selects by machine. Raises ``MalformedEvidence`` (``image.pe``) for more than the limits allow.
    """
    profile: int | None = None
    seen: set[tuple[int | None, str]] = set()
    zero_fill = 0
    for section in sections:
        if section.name == PROFILE:
            profile = 0 if profile is None else profile + 1
            if profile >= limits.uki_profiles:
                raise malformed_pe("the UKI has too many profiles", expected=f"at most {limits.uki_profiles}")
        selected = _MEASURED.get(section.name) is Measured.IF_SELECTED
        if section.name not in _RANK or not section.virtual_size or (not selected and (profile, section.name) in seen):
            continue
        seen.add((profile, section.name))
        zero_fill += section.zero_fill
        if zero_fill > limits.pe_zero_fill_bytes:
            raise malformed_pe(
                "the sections are too much larger in memory than in the file", expected=f"by at most {limits.pe_zero_fill_bytes} bytes"
            )
        yield section, profile


def form_of(names: set[str]) -> UkiForm | None:
    """Return what a PE file with sections of these names is; None for other programs."""
    if LINUX in names:
        return UkiForm.UKI
    return UkiForm.ADDON if names & _ADDON_SECTIONS else None


def text_of(content: bytes) -> str | None:
    """Return a text section up to its first NUL, as the stub reads it; None if it is not UTF-8."""
    try:
        return content.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError:
        return None


def kernel_command_line(*texts: str) -> str:
    """Return the command line that the stub makes of ``.cmdline`` and those of the addons, in this order.

    Each is stripped of blanks and control characters, and each of these inside becomes a blank.
    """
    cleaned = ("".join(" " if character <= " " or character == "\x7f" else character for character in text).strip(" ") for text in texts)
    return " ".join(text for text in cleaned if text)


def load_options(command_line: str) -> bytes:
    """Return a command line as UEFI hands it to a program, and as it is measured: UTF-16LE with a NUL."""
    return command_line.encode("utf-16-le", "surrogatepass") + b"\0\0"
