"""What is written down: appraisals, releases, administrative changes. Values only; storage is behind the ports.

Times are UTC and aware. A record's ``document`` is what an auditor gets and what its digest covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kbs_rim.ledger.canonical import digest_of


class VerdictKind(StrEnum):
    """How an appraisal ended. ``unavailable``: our fault or the verifier's; it says nothing about the realm."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalRecord:
    """One appraisal, complete. ``id`` is the ticket a guest is told.

    ``inputs`` maps a kind (``token``, ``log.vmm``, ``attestation-result``) to the SHA-256 (hex) of its bytes;
    ``findings`` are documents of ``Finding.to_document``; ``durations_us`` maps stages to microseconds.
    """

    id: str
    at: datetime
    verdict: VerdictKind
    secret: str
    workload: str | None
    workload_revision: int | None
    findings: tuple[Mapping[str, Any], ...]
    inputs: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    durations_us: Mapping[str, int] = field(default_factory=dict)
    config_digest: str = ""
    request_id: str = ""
    software: str = ""

    @property
    def finding_ids(self) -> tuple[str, ...]:
        """Ids of the findings, in order, each once."""
        return tuple(dict.fromkeys(str(finding["id"]) for finding in self.findings))

    def document(self) -> dict[str, Any]:
        """Return the JSON form, free of payloads and secrets."""
        return {
            "type": "appraisal",
            "id": self.id,
            "at": self.at.isoformat(),
            "verdict": self.verdict.value,
            "secret": self.secret,
            "workload": self.workload,
            "workload_revision": self.workload_revision,
            "findings": [dict(finding) for finding in self.findings],
            "inputs": dict(self.inputs),
            "facts": dict(self.facts),
            "durations_us": dict(self.durations_us),
            "config_digest": self.config_digest,
            "request_id": self.request_id,
            "software": self.software,
        }

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical document."""
        return digest_of(self.document())


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """One secret version that left, sealed to one guest key, after one appraisal. Holds no secret."""

    appraisal_id: str
    at: datetime
    secret: str
    version: int
    key_thumbprint: str
    sealing: str

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "type": "release",
            "appraisal": self.appraisal_id,
            "at": self.at.isoformat(),
            "secret": self.secret,
            "version": self.version,
            "key_thumbprint": self.key_thumbprint,
            "sealing": self.sealing,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord:
    """One administrative change: who did what to which object. ``detail`` holds no secret."""

    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "type": "change",
            "at": self.at.isoformat(),
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "detail": dict(self.detail),
        }
