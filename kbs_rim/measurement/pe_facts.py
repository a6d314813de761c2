"""What is known of a PE file once it has been read: its Authenticode digests, what it is, and the sections of a UKI.

The file is read once; see ``spans`` for what that costs in memory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement import image_document as fields
from kbs_rim.measurement.pe_image import PeHeaders, PeSection
from kbs_rim.measurement.spans import Piece, Span, SpanReader, held_bytes
from kbs_rim.measurement.stub_initrd import stub_initrd
from kbs_rim.measurement.uki import TEXT_SECTIONS, UkiFacts, UkiForm, UkiSection, form_of, stub_sections, text_of

_MEMBERS = ("machine", "certificates_size", "authenticode", "authenticode_padded", "loader", "uki")
_LOADER_SECTION = ".sdmagic"
_LOADER_BYTES = 256
_LOADER = re.compile(rb"#### LoaderInfo: ([!-~]+ [!-~]+) ####")
_LOADER_NAME = re.compile(r"[!-~]+ [!-~]+")
_STUB_VERSION = re.compile(r"systemd-stub (\d{1,6})\b")
_FIRST_KNOWN_STUB = 257
"""Older stubs put fewer files into the initrd."""
_Digests = Mapping[HashAlgorithm, bytes]
_Name = tuple[str, object]


@dataclass(frozen=True, slots=True)
class PeFacts:
    """A PE file that firmware would load. ``machine`` is the COFF code (0xAA64 for arm64), ``certificates_size`` in bytes.

    ``authenticode`` is what firmware measures of the file as it is. ``authenticode_padded`` is what it will measure once an
    unsigned file is signed, where that differs: signing tools pad to 8 bytes. ``loader`` is how a part of systemd calls itself.
    """

    machine: int
    certificates_size: int
    authenticode: _Digests
    authenticode_padded: _Digests | None = None
    loader: str | None = None
    uki: UkiFacts | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.machine < 1 << 16 or self.certificates_size < 0:
            raise ValueError("a machine has 16 bits, and a certificate table no negative size")
        if self.certificates_size and self.authenticode_padded is not None:
            raise ValueError("a signed file is padded already")
        if self.loader is not None and not _LOADER_NAME.fullmatch(self.loader):
            raise ValueError("a loader is a name and a version in printable ASCII")

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        padded = self.authenticode_padded
        return {
            "machine": fields.number_to_hex(self.machine),
            "certificates_size": self.certificates_size,
            "authenticode": fields.digests_to_document(self.authenticode),
            "authenticode_padded": None if padded is None else fields.digests_to_document(padded),
            "loader": self.loader,
            "uki": None if self.uki is None else self.uki.to_document(),
        }

    @classmethod
    def from_document(cls, value: Any, where: str, size: int, limits: Limits) -> "PeFacts":
        """Read what ``to_document`` wrote of a file of ``size`` bytes. Raises ``InvalidDocument``, ``ValueError`` for contradictions."""
        found = fields.members(value, _MEMBERS, where)
        padded = found["authenticode_padded"]
        return cls(
            machine=fields.number_from_hex(found["machine"], f"{where}.machine"),
            certificates_size=fields.whole_number(found["certificates_size"], f"{where}.certificates_size", low=0, high=size),
            authenticode=fields.digests_from_document(found["authenticode"], f"{where}.authenticode"),
            authenticode_padded=None if padded is None else fields.digests_from_document(padded, f"{where}.authenticode_padded"),
            loader=fields.text_or_none(found["loader"], f"{where}.loader", _LOADER_BYTES),
            uki=None if found["uki"] is None else UkiFacts.from_document(found["uki"], f"{where}.uki", limits),
        )


class PeReader:
    """Collects the facts of one PE file while it passes."""

    def __init__(self, headers: PeHeaders, limits: Limits) -> None:
        """Raises ``MalformedEvidence``: ``image.pe``, or ``image.too-large`` if too much had to be held in memory."""
        self._headers = headers
        self._reader: SpanReader[_Name] = SpanReader()
        self._may_hold = limits.pe_held_bytes
        self._ask_for(("authenticode", ""), headers.authenticode)
        if headers.authenticode_padded is not None:
            self._ask_for(("padded", ""), headers.authenticode_padded)
        self._ask_for_loader()
        self._form = form_of({section.name for section in headers.sections if section.virtual_size})
        self._sections = list(stub_sections(headers.sections, limits)) if self._form else []
        self._ask_for_sections(limits)
        self._initrds = self._assembled() if self._form is UkiForm.UKI else []
        for pieces in {pieces for pieces in self._initrds if pieces is not None}:
            self._ask_for(("initrd", pieces), pieces)

    def update(self, block: memoryview) -> None:
        """Take the next bytes of the file."""
        self._reader.update(block)

    def finish(self) -> PeFacts:
        """Return the facts, once the whole file was seen."""
        digests, contents = self._reader.finish()
        match = _LOADER.search(contents.get(("loader", ""), b""))
        loader = match[1].decode("ascii") if match else None
        return PeFacts(
            machine=self._headers.machine,
            certificates_size=self._headers.certificates_size,
            authenticode=digests["authenticode", ""],
            authenticode_padded=digests.get(("padded", "")),
            loader=loader,
            uki=self._uki(self._form, digests, contents, loader) if self._form else None,
        )

    def _uki(self, form: UkiForm, digests: Mapping[_Name, _Digests], contents: Mapping[_Name, bytes], loader: str | None) -> UkiFacts:
        sections = []
        for index, (section, profile) in enumerate(self._sections):
            content = contents.get(("text", index))
            text = None if content is None else text_of(content)
            sections.append(UkiSection(section.name, profile, section.virtual_size, digests["section", index], text))
        version = _STUB_VERSION.match(loader or "")
        known = version is not None and int(version[1]) >= _FIRST_KNOWN_STUB
        initrds = [None if pieces is None else digests["initrd", pieces] for pieces in self._initrds]
        return UkiFacts(form, tuple(sections), tuple(initrds) if known else ())

    def _ask_for_loader(self) -> None:
        for section in self._headers.sections:
            if section.name == _LOADER_SECTION:
                start = section.stored.start
                self._reader.add_content(("loader", ""), Span(start, min(section.stored.end, start + _LOADER_BYTES)))
                return

    def _ask_for_sections(self, limits: Limits) -> None:
        for index, (section, _) in enumerate(self._sections):
            self._ask_for(("section", index), _in_memory(section))
            if section.name in TEXT_SECTIONS and section.stored.size <= limits.uki_text_bytes:
                self._reader.add_content(("text", index), section.stored)

    def _assembled(self) -> list[tuple[Piece, ...] | None]:
        """Return the initrd of each profile."""
        shared: dict[str, tuple[Piece, ...]] = {}
        own: dict[int, dict[str, tuple[Piece, ...]]] = {0: {}}
        for section, profile in self._sections:
            layer = shared if profile is None else own.setdefault(profile, {})
            layer[section.name] = _in_memory(section)
        return [stub_initrd({**shared, **own.get(profile, {})}) for profile in range(1 + max(own))]

    def _ask_for(self, name: _Name, pieces: tuple[Piece, ...]) -> None:
        self._may_hold -= held_bytes(pieces)
        if self._may_hold < 0:
            raise MalformedEvidence(
                "image.too-large",
                "the parts of the PE file stand in another order than they are measured in, and are too large to be kept meanwhile",
                expected="at most limits.pe_held_bytes",
            )
        self._reader.add_digest(name, pieces)


def _in_memory(section: PeSection) -> tuple[Piece, ...]:
    """Return a section as the loader lays it out: the stub reads it there."""
    return (section.stored, bytes(section.zero_fill)) if section.zero_fill else (section.stored,)
