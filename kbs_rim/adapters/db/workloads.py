"""Workloads: one row for each revision, the highest one counts."""

from collections.abc import Collection

from sqlalchemy import Select, and_, func, insert, select
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.documents import read_workload
from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.images import present_images
from kbs_rim.adapters.db.models import ImageRow, WorkloadImageRow, WorkloadRetirementRow, WorkloadRevisionRow, WorkloadRow
from kbs_rim.adapters.db.registry_state import RegistryChange, change_registry
from kbs_rim.appraisal.workload import Role, Workload, workload_document
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import ImageState, WorkloadRecord

_Revisions = Select[WorkloadRevisionRow, WorkloadRetirementRow | None]


class Workloads:
    """Implements ``ports.WorkloadWriter``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_workload(self, name: str, revision: int | None = None) -> WorkloadRecord:
        """See ``ports.WorkloadReader``."""
        query = _newest() if revision is None else _revisions().where(WorkloadRevisionRow.revision == revision)
        return await self._database.read(lambda session: _one(session, query, name))

    async def list_workloads(self, *, after: str | None = None, limit: int = 100) -> list[WorkloadRecord]:
        """See ``ports.WorkloadReader``."""
        query = _newest().order_by(WorkloadRevisionRow.name).limit(limit)
        if after is not None:
            query = query.where(WorkloadRevisionRow.name > after)
        if not storable(after):
            return []
        return await self._database.read(lambda session: _records(session, query))

    async def workloads_naming(self, image_id: str) -> list[WorkloadRecord]:
        """See ``ports.WorkloadReader``."""
        if not storable(image_id):
            return []
        names = select(WorkloadImageRow.name).where(
            WorkloadImageRow.image_id == image_id,
            WorkloadImageRow.name == WorkloadRevisionRow.name,
            WorkloadImageRow.revision == WorkloadRevisionRow.revision,
        )
        query = _newest().where(names.exists(), WorkloadRetirementRow.revision.is_(None)).order_by(WorkloadRevisionRow.name)
        return await self._database.read(lambda session: _records(session, query))

    async def add_workload(self, workload: Workload, change: ChangeRecord) -> WorkloadRecord:
        """See ``ports.WorkloadWriter``."""

        def add(registry: RegistryChange) -> WorkloadRecord:
            session = registry.session
            known = _records(session, _newest().where(WorkloadRevisionRow.name == workload.name))
            _check_images(session, workload)
            if known and known[0].active and known[0].workload == workload:
                return known[0]
            if not known:
                session.execute(insert(WorkloadRow).values(name=workload.name))
            record = WorkloadRecord(
                workload=workload,
                revision=known[0].revision + 1 if known else 1,
                active=True,
                registered_at=change.at,
                registered_by=change.actor,
            )
            _insert(session, record)
            registry.record(change)
            return record

        return await change_registry(self._database, add)

    async def retire_workload(self, name: str, change: ChangeRecord) -> WorkloadRecord:
        """See ``ports.WorkloadWriter``. A workload that is retired already is returned as it is."""

        def retire(registry: RegistryChange) -> WorkloadRecord:
            known = _one(registry.session, _newest(), name)
            if not known.active:
                return known
            retirement = insert(WorkloadRetirementRow).values(
                name=name, revision=known.revision, retired_at=change.at, retired_by=change.actor
            )
            registry.session.execute(retirement)
            registry.record(change)
            return WorkloadRecord(
                workload=known.workload,
                revision=known.revision,
                active=False,
                registered_at=known.registered_at,
                registered_by=known.registered_by,
            )

        return await change_registry(self._database, retire)


def missing_workloads(session: Session, names: Collection[str]) -> list[str]:
    """Return those of ``names`` that were never registered."""
    if not storable(*names):
        return [name for name in names if not storable(name)]
    known = set(session.scalars(select(WorkloadRow.name).where(WorkloadRow.name.in_(list(names)))))
    return [name for name in names if name not in known]


def _revisions() -> _Revisions:
    return select(WorkloadRevisionRow, WorkloadRetirementRow).outerjoin(
        WorkloadRetirementRow,
        and_(
            WorkloadRetirementRow.name == WorkloadRevisionRow.name,
            WorkloadRetirementRow.revision == WorkloadRevisionRow.revision,
        ),
    )


def _newest() -> _Revisions:
    newest = select(func.max(WorkloadRevisionRow.revision)).group_by(WorkloadRevisionRow.name)
    newest_by_name = newest.add_columns(WorkloadRevisionRow.name).subquery()
    return _revisions().join(
        newest_by_name,
        and_(newest_by_name.c.name == WorkloadRevisionRow.name, newest_by_name.c[0] == WorkloadRevisionRow.revision),
    )


def _one(session: Session, query: _Revisions, name: str) -> WorkloadRecord:
    known = _records(session, query.where(WorkloadRevisionRow.name == name)) if storable(name) else []
    if not known:
        raise NotFound("registry.workload-unknown", "no workload of this name, or no such revision of it, is registered")
    return known[0]


def _records(session: Session, query: _Revisions) -> list[WorkloadRecord]:
    return [
        WorkloadRecord(
            workload=read_workload(row.document, name=row.name, revision=row.revision),
            revision=row.revision,
            active=retirement is None,
            registered_at=row.registered_at,
            registered_by=row.registered_by,
        )
        for row, retirement in session.execute(query)
    ]


def _check_images(session: Session, workload: Workload) -> None:
    """Raise ``Conflict`` unless every image may play the role that it is named for."""
    query = present_images().where(ImageRow.id.in_(workload.image_ids))
    known = {image.id: (ImageState(revision.state), revision.roles) for image, revision in session.execute(query)}
    for role, image_id in workload.named_images:
        if problem := _problem(known.get(image_id), role):
            raise Conflict("registry.workload-image", f"{workload.name} names {image_id} as {role}, which {problem}", seen=image_id)


def _problem(known: tuple[ImageState, list[str]] | None, role: Role) -> str | None:
    if known is None:
        return "is not registered"
    state, roles = known
    if state is ImageState.REVOKED:
        return "is revoked"
    return None if role.value in roles else f"is registered for {', '.join(roles) or 'no role'} only"


def _insert(session: Session, record: WorkloadRecord) -> None:
    workload, revision = record.workload, record.revision
    session.execute(
        insert(WorkloadRevisionRow).values(
            name=workload.name,
            revision=revision,
            document=workload_document(workload),
            registered_at=record.registered_at,
            registered_by=record.registered_by,
        )
    )
    named = [
        {"name": workload.name, "revision": revision, "image_id": image_id, "role": role.value} for role, image_id in workload.named_images
    ]
    session.execute(insert(WorkloadImageRow), named)
