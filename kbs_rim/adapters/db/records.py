"""The record: appraisals, their payloads, releases and administrative changes. Appended to, never changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, insert, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import (
    AppraisalFindingRow,
    AppraisalImageRow,
    AppraisalRow,
    ChangeRow,
    PayloadRow,
    RegistryStateRow,
    ReleaseRow,
)
from kbs_rim.adapters.db.registry_state import hold_registry, known_sequence
from kbs_rim.errors import Conflict, NotFound, StoreUnavailable
from kbs_rim.ledger.canonical import canonical_json
from kbs_rim.ledger.records import AppraisalRecord, ChangeRecord, ReleaseRecord, VerdictKind
from kbs_rim.ports import AppraisalFilter

_Moments = InstrumentedAttribute[datetime]
_Texts = InstrumentedAttribute[str]
_QUERY_COLUMN_CHARACTERS = 200
"""Longest text in an indexed column: a guest chooses the name of the secret it asks for, and index entries are bounded."""

_APPRAISAL, _FINDINGS, _IMAGES = insert(AppraisalRow), insert(AppraisalFindingRow), insert(AppraisalImageRow)
_RELEASE = insert(ReleaseRow).inline()
_SEQUENCE_AND_VERDICT = select(RegistryStateRow.sequence, AppraisalRow.verdict).outerjoin_from(
    RegistryStateRow, AppraisalRow, AppraisalRow.id == bindparam("appraisal")
)


class Records:
    """Implements ``ports.RecordWriter``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        engine = sqlite if database.is_sqlite else postgresql
        self._store_once = engine.insert(PayloadRow).on_conflict_do_nothing()

    async def append_appraisal(self, record: AppraisalRecord, payloads: Mapping[str, bytes]) -> None:
        """See ``ports.RecordWriter``. Raise ``ValueError`` if a payload is not the one that ``inputs`` names."""
        contents: dict[str, bytes] = {}
        for kind, data in payloads.items():
            digest = hashlib.sha256(data).hexdigest()
            if record.inputs.get(kind) != digest:
                raise ValueError(f"the payload {kind} is not the one that the record names")
            contents[digest] = data
        findings = [{"finding": finding, "at": record.at, "appraisal_id": record.id} for finding in record.finding_ids]
        images = [{"image_id": image, "at": record.at, "appraisal_id": record.id} for image in _images_of(record)]
        columns = _appraisal_columns(record)
        # In one order on every replica, or two that share payloads could wait for each other.
        kept = [{"sha256": digest, "stored_at": record.at, "content": contents[digest]} for digest in sorted(contents)]

        def append(connection: Connection) -> None:
            for statement, rows in ((self._store_once, kept), (_APPRAISAL, [columns]), (_FINDINGS, findings), (_IMAGES, images)):
                if rows:
                    connection.execute(statement, rows)

        await self._database.write_rows(append)

    async def append_release(self, release: ReleaseRecord, *, registry_sequence: int) -> None:
        """See ``ports.RecordWriter``. Raise ``Conflict`` also if no appraisal on record allows the release."""
        row = {
            "appraisal_id": release.appraisal_id,
            "at": release.at,
            "secret": release.secret,
            "version": release.version,
            "key_thumbprint": release.key_thumbprint,
            "sealing": release.sealing,
            "registry_sequence": registry_sequence,
        }

        def append(connection: Connection) -> None:
            hold_registry(connection)
            found = connection.execute(_SEQUENCE_AND_VERDICT, {"appraisal": release.appraisal_id}).one_or_none()
            present = known_sequence(found.sequence if found else None)
            if present != registry_sequence:
                raise Conflict(
                    "registry.moved", "the registry changed since the appraisal", expected=str(registry_sequence), seen=str(present)
                )
            if found is None or found.verdict != VerdictKind.ALLOWED.value:
                raise Conflict("store.conflict", "no appraisal on record allows this release", seen=release.appraisal_id)
            connection.execute(_RELEASE, row)

        await self._database.write_rows(append)


class RecordQueries:
    """Implements ``ports.RecordReader``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_appraisals(self, condition: AppraisalFilter) -> list[AppraisalRecord]:
        """See ``ports.RecordReader``. ``after`` is inclusive, ``before`` exclusive; raise ``NotFound`` for an unknown cursor."""

        def rows(session: Session) -> Sequence[AppraisalRow]:
            query, at, identity = _filtered(condition)
            query = query.order_by(at.desc(), identity.desc()).limit(condition.limit)
            if condition.cursor is not None:
                last = _appraisal_row(session, condition.cursor)
                query = query.where(tuple_(at, identity) < tuple_(last.at, last.id))
            return session.scalars(query).all()

        return [_appraisal(row) for row in await self._database.read(rows)]

    async def get_appraisal(self, appraisal_id: str) -> tuple[AppraisalRecord, list[ReleaseRecord]]:
        """See ``ports.RecordReader``."""
        releases = select(ReleaseRow).where(ReleaseRow.appraisal_id == appraisal_id).order_by(ReleaseRow.number)

        def rows(session: Session) -> tuple[AppraisalRow, Sequence[ReleaseRow]]:
            return _appraisal_row(session, appraisal_id), session.scalars(releases).all()

        appraisal, released = await self._database.read(rows)
        return _appraisal(appraisal), [_release(row) for row in released]

    async def get_payload(self, sha256: str) -> bytes:
        """See ``ports.RecordReader``."""
        query = select(PayloadRow.content).where(PayloadRow.sha256 == sha256)
        content: bytes | None = await self._database.read(lambda session: session.scalar(query)) if storable(sha256) else None
        if content is None:
            raise NotFound("record.payload-unknown", "no payload with this digest is stored")
        return content

    async def count_releases(self, *, image: str) -> int:
        """See ``ports.RecordReader``."""
        same = ReleaseRow.appraisal_id == AppraisalImageRow.appraisal_id
        query = select(func.count()).select_from(ReleaseRow).join(AppraisalImageRow, same).where(AppraisalImageRow.image_id == image)
        counted: int | None = await self._database.read(lambda session: session.scalar(query)) if storable(image) else None
        return counted or 0

    async def list_changes(
        self, *, subject: str | None = None, cursor: int | None = None, limit: int = 50
    ) -> list[tuple[int, ChangeRecord]]:
        """See ``ports.RecordReader``."""
        query = select(ChangeRow).order_by(ChangeRow.number.desc()).limit(limit)
        if subject is not None:
            query = query.where(ChangeRow.subject == subject)
        if cursor is not None:
            query = query.where(ChangeRow.number < cursor)
        if not storable(subject):
            return []
        rows = await self._database.read(lambda session: session.scalars(query).all())
        return [(row.number, _change(row)) for row in rows]


def _column(text: str | None) -> str | None:
    """The form of a text in a column that is only for queries: whatever a guest sent, it can be stored and indexed."""
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")[:_QUERY_COLUMN_CHARACTERS]


def _images_of(record: AppraisalRecord) -> list[str]:
    images = record.facts.get("images") or ()
    return list(dict.fromkeys(column for image in images if (column := _column(str(image)))))


def _appraisal_columns(record: AppraisalRecord) -> dict[str, Any]:
    instance_id = record.facts.get("instance_id")
    document = canonical_json(record.document())
    return {
        "id": record.id,
        "at": record.at,
        "verdict": record.verdict.value,
        "secret": _column(record.secret),
        "workload": _column(record.workload),
        "instance_id": None if instance_id is None else _column(str(instance_id).lower()),
        "document": document.decode("utf-8"),
        "digest": hashlib.sha256(document).hexdigest(),
    }


def _filtered(condition: AppraisalFilter) -> tuple[Select[AppraisalRow], _Moments, _Texts]:
    """Return the query, and the columns of time and id to order it by: those of the table whose index selects."""
    query, at, identity = select(AppraisalRow), AppraisalRow.at, AppraisalRow.id
    if condition.image is not None:
        query = query.join(AppraisalImageRow, AppraisalImageRow.appraisal_id == AppraisalRow.id)
        query = query.where(AppraisalImageRow.image_id == _column(condition.image))
        at, identity = AppraisalImageRow.at, AppraisalImageRow.appraisal_id
    if condition.finding is not None:
        query = query.join(AppraisalFindingRow, AppraisalFindingRow.appraisal_id == AppraisalRow.id)
        query = query.where(AppraisalFindingRow.finding == _column(condition.finding))
        at, identity = AppraisalFindingRow.at, AppraisalFindingRow.appraisal_id
    if condition.verdict is not None:
        query = query.where(AppraisalRow.verdict == condition.verdict.value)
    if condition.secret is not None:
        query = query.where(AppraisalRow.secret == _column(condition.secret))
    if condition.workload is not None:
        query = query.where(AppraisalRow.workload == _column(condition.workload))
    if condition.instance_id is not None:
        query = query.where(AppraisalRow.instance_id == _column(condition.instance_id.lower()))
    if condition.after is not None:
        query = query.where(at >= condition.after)
    if condition.before is not None:
        query = query.where(at < condition.before)
    return query, at, identity


def _appraisal_row(session: Session, appraisal_id: str) -> AppraisalRow:
    row: AppraisalRow | None = (
        session.scalar(select(AppraisalRow).where(AppraisalRow.id == appraisal_id)) if storable(appraisal_id) else None
    )
    if row is None:
        raise NotFound("record.unknown", "no appraisal has this ticket number")
    return row


def _appraisal(row: AppraisalRow) -> AppraisalRecord:
    """Read the document back. ``digest()`` of the result is the stored one, or the row was tampered with."""
    try:
        document = json.loads(row.document)
        return AppraisalRecord(
            id=document["id"],
            at=datetime.fromisoformat(document["at"]),
            verdict=VerdictKind(document["verdict"]),
            secret=document["secret"],
            workload=document["workload"],
            workload_revision=document["workload_revision"],
            findings=tuple(document["findings"]),
            inputs=document["inputs"],
            facts=document["facts"],
            durations_us=document["durations_us"],
            config_digest=document["config_digest"],
            request_id=document["request_id"],
            software=document["software"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreUnavailable(f"the database holds a damaged appraisal ({row.id})") from error


def _release(row: ReleaseRow) -> ReleaseRecord:
    return ReleaseRecord(
        appraisal_id=row.appraisal_id,
        at=row.at,
        secret=row.secret,
        version=row.version,
        key_thumbprint=row.key_thumbprint,
        sealing=row.sealing,
    )


def _change(row: ChangeRow) -> ChangeRecord:
    return ChangeRecord(at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail)
