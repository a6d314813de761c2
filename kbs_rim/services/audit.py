"""What auditors may ask: appraisals, releases, payloads and changes of trust. Cannot write anything."""

import hashlib

from kbs_rim.errors import OurFault
from kbs_rim.ledger.records import AppraisalRecord, ChangeRecord, ReleaseRecord
from kbs_rim.ports import AppraisalFilter, RecordReader


class Auditor:
    """Reads the record."""

    def __init__(self, records: RecordReader) -> None:
        """Take the reading role only."""
        self._records = records

    async def list_appraisals(self, condition: AppraisalFilter) -> list[AppraisalRecord]:
        """Return matching appraisals, newest first."""
        return await self._records.list_appraisals(condition)

    async def get_appraisal(self, ticket: str) -> tuple[AppraisalRecord, list[ReleaseRecord]]:
        """Raise ``NotFound``."""
        return await self._records.get_appraisal(ticket)

    async def get_payload(self, sha256: str) -> bytes:
        """Return an input by its digest, checked; raise ``NotFound``, or ``OurFault`` if the database changed it."""
        data = await self._records.get_payload(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise OurFault("a stored payload does not have the digest it is named by: the database was changed")
        return data

    async def list_changes(self, *, subject: str | None, cursor: int | None, limit: int) -> list[tuple[int, ChangeRecord]]:
        """Return administrative changes, newest first, each with its number."""
        return await self._records.list_changes(subject=subject, cursor=cursor, limit=limit)
