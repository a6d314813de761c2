"""The record of appraisals, releases and administrative changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kbs_rim.ledger.records import AppraisalRecord, ChangeRecord, ReleaseRecord, VerdictKind


class RecordWriter(Protocol):
    """Writes the record. No record, no release."""

    async def append_appraisal(self, record: AppraisalRecord, payloads: Mapping[str, bytes]) -> None:
        """Commit the appraisal with its payloads (kind -> bytes; content-addressed by SHA-256, stored once)."""
        ...

    async def append_release(self, release: ReleaseRecord, *, registry_sequence: int) -> None:
        """Commit the release.

        Raise ``Conflict`` if the registry moved on from ``registry_sequence`` since the appraisal read it: then a
        revocation may have been acknowledged in between, and nothing may be released.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalFilter:
    """Every given condition must hold. ``before`` and ``after`` are times; ``cursor`` is the id of the last one seen."""

    verdict: VerdictKind | None = None
    secret: str | None = None
    workload: str | None = None
    finding: str | None = None
    image: str | None = None
    instance_id: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    cursor: str | None = None
    limit: int = 50


class RecordReader(Protocol):
    """Reads the record; cannot write it."""

    async def list_appraisals(self, condition: AppraisalFilter) -> list[AppraisalRecord]:
        """Return matching appraisals, newest first."""
        ...

    async def get_appraisal(self, appraisal_id: str) -> tuple[AppraisalRecord, list[ReleaseRecord]]:
        """Return one appraisal and what was released after it; raise ``NotFound``."""
        ...

    async def get_payload(self, sha256: str) -> bytes:
        """Return a stored payload; raise ``NotFound`` if it is unknown or was pruned."""
        ...

    async def count_releases(self, *, image: str) -> int:
        """Return how many releases followed an appraisal of a realm that had loaded the image."""
        ...

    async def list_changes(
        self, *, subject: str | None = None, cursor: int | None = None, limit: int = 50
    ) -> list[tuple[int, ChangeRecord]]:
        """Return administrative changes, newest first, each with its number."""
        ...
