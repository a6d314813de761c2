"""The registry of workloads."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kbs_rim.appraisal.workload import Workload
from kbs_rim.ledger.records import ChangeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRecord:
    """One revision of a workload. A new registration under the same name is a new revision; the highest one counts."""

    workload: Workload
    revision: int
    active: bool
    registered_at: datetime
    registered_by: str


class WorkloadReader(Protocol):
    """Reads workloads."""

    async def get_workload(self, name: str, revision: int | None = None) -> WorkloadRecord:
        """Return the newest (or one) revision; raise ``NotFound``."""
        ...

    async def list_workloads(self, *, after: str | None = None, limit: int = 100) -> list[WorkloadRecord]:
        """Return newest revisions ordered by name."""
        ...

    async def workloads_naming(self, image_id: str) -> list[WorkloadRecord]:
        """Return the newest active revisions that name the image."""
        ...


class WorkloadWriter(WorkloadReader, Protocol):
    """Changes workloads."""

    async def add_workload(self, workload: Workload, change: ChangeRecord) -> WorkloadRecord:
        """Register a new revision (or return the newest one if it is identical and active).

        Raise ``Conflict`` if it names an image that is not registered, is revoked, or lacks the role.
        """
        ...

    async def retire_workload(self, name: str, change: ChangeRecord) -> WorkloadRecord:
        """Make the newest revision inactive; raise ``NotFound``."""
        ...
