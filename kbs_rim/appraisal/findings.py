"""Findings: why an appraisal ended as it did.

A finding has a stable id from ``kbs_rim.appraisal.finding_catalogue``; ids are append-only and never reused, because
audits years later search for them. A verdict carries all of its findings, not just the first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.errors import TheirFault


class Severity(Enum):
    """An error refuses; a warning and a note are recorded only."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason. ``expected`` and ``seen`` are for administrators and auditors; a guest never gets them.

    ``where`` locates it: keys such as ``event``, ``image``, ``address``, ``claim``, ``workload``.
    """

    id: str
    message: str
    severity: Severity = Severity.ERROR
    expected: str | None = None
    seen: str | None = None
    where: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id not in CATALOGUE:
            raise ValueError(f"finding id {self.id!r} is not in the catalogue")

    @property
    def step(self) -> int:
        """The step of the appraisal (docs/architecture.md) that this finding belongs to; 0 is before all steps."""
        return CATALOGUE[self.id].step

    @classmethod
    def from_error(cls, error: TheirFault, **where: str | int) -> "Finding":
        """Turn what a parser raised into a finding."""
        offset = getattr(error, "offset", None)
        place = {**where, "offset": offset} if offset is not None else where
        return cls(error.finding_id, error.message, expected=error.expected, seen=error.seen, where=place)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form that is stored, served to auditors and hashed into the record."""
        document: dict[str, Any] = {"id": self.id, "severity": self.severity.value, "step": self.step, "message": self.message}
        if self.expected is not None:
            document["expected"] = self.expected
        if self.seen is not None:
            document["seen"] = self.seen
        if self.where:
            document["where"] = dict(self.where)
        return document


def errors_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings that refuse."""
    return tuple(finding for finding in findings if finding.severity is Severity.ERROR)
