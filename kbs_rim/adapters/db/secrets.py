"""Secrets at rest. ``Secrets`` knows everything but the material; ``SecretMaterial`` is the one reader of that table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import (
    SecretBindingRow,
    SecretBindingWorkloadRow,
    SecretMaterialRow,
    SecretRevocationRow,
    SecretRow,
    SecretVersionRow,
)
from kbs_rim.adapters.db.registry_state import RegistryChange, change_registry
from kbs_rim.adapters.db.workloads import missing_workloads
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import SealedVersion, SecretInfo, SecretVersionInfo

_NEWEST_MATERIAL = (
    select(*SecretMaterialRow.__table__.c, SecretVersionRow.kek_id)
    .join(
        SecretVersionRow,
        and_(SecretVersionRow.path == SecretMaterialRow.path, SecretVersionRow.version == SecretMaterialRow.version),
    )
    .where(SecretMaterialRow.path == bindparam("wanted"))
    .order_by(SecretMaterialRow.version.desc())
    .limit(1)
)


class Secrets:
    """Implements ``ports.SecretWriter``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_secret(self, name: str) -> SecretInfo:
        """See ``ports.SecretReader``."""
        condition = or_(SecretRow.path == name, SecretRow.key_id == name)
        return await self._database.read(lambda session: _one(session, name, condition))

    async def list_secrets(self, *, after: str | None = None, limit: int = 100) -> list[SecretInfo]:
        """See ``ports.SecretReader``."""
        query = select(SecretRow).order_by(SecretRow.path).limit(limit)
        if after is not None:
            query = query.where(SecretRow.path > after)
        if not storable(after):
            return []
        return await self._database.read(lambda session: _infos(session, query))

    async def secrets_bound_to(self, workloads: Sequence[str]) -> list[SecretInfo]:
        """See ``ports.SecretReader``."""
        if not workloads or not storable(*workloads):
            return []
        bound = _present_bindings().where(SecretBindingWorkloadRow.workload.in_(workloads)).subquery()
        query = select(SecretRow).where(SecretRow.path.in_(select(bound.c.path))).order_by(SecretRow.path)
        return await self._database.read(lambda session: _infos(session, query))

    async def create_secret(self, path: str, key_id: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``."""

        def create(registry: RegistryChange) -> SecretInfo:
            session = registry.session
            names = (path, key_id)
            taken = select(SecretRow.path).where(or_(SecretRow.path.in_(names), SecretRow.key_id.in_(names)))
            if session.execute(taken).first() is not None:
                raise Conflict("registry.secret-exists", "the path or the key id belongs to another secret", seen=path)
            row = insert(SecretRow).values(path=path, key_id=key_id, created_at=change.at, created_by=change.actor)
            session.execute(row)
            _bind(session, path, workloads, change)
            registry.record(change)
            return _by_path(session, path)

        return await change_registry(self._database, create)

    async def add_version(self, path: str, sealed: SealedVersion, change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``."""

        def add(registry: RegistryChange) -> SecretInfo:
            session = registry.session
            known = _by_path(session, path)
            following = max((version.version for version in known.versions), default=0) + 1
            if sealed.version != following:
                raise Conflict(
                    "registry.secret-version", "another version was stored first", expected=str(following), seen=str(sealed.version)
                )
            session.execute(
                insert(SecretVersionRow).values(
                    path=path, version=sealed.version, kek_id=sealed.kek_id, created_at=change.at, created_by=change.actor
                )
            )
            material = {"wrapped_key": sealed.wrapped_key, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext}
            session.execute(insert(SecretMaterialRow).values(path=path, version=sealed.version, **material))
            registry.record(change)
            return _by_path(session, path)

        return await change_registry(self._database, add)

    async def revoke_version(self, path: str, version: int, change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``. A version that is revoked already is left as it is."""

        def revoke(registry: RegistryChange) -> SecretInfo:
            session = registry.session
            known = _by_path(session, path)
            found = next((item for item in known.versions if item.version == version), None)
            if found is None:
                raise NotFound("registry.version-unknown", "the secret has no such version", seen=str(version))
            if not found.active:
                return known
            revocation = insert(SecretRevocationRow).values(path=path, version=version, revoked_at=change.at, revoked_by=change.actor)
            session.execute(revocation)
            session.execute(delete(SecretMaterialRow).where(SecretMaterialRow.path == path, SecretMaterialRow.version == version))
            registry.record(change)
            return _by_path(session, path)

        return await change_registry(self._database, revoke)

    async def bind_secret(self, path: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``. ``NotFound`` also for a workload that was never registered."""

        def bind(registry: RegistryChange) -> SecretInfo:
            known = _by_path(registry.session, path)
            if set(known.workloads) == set(workloads):
                return known
            _bind(registry.session, path, workloads, change)
            registry.record(change)
            return _by_path(registry.session, path)

        return await change_registry(self._database, bind)


class SecretMaterial:
    """Implements ``ports.SecretOpener``. Only the release path holds one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest_version(self, path: str) -> SealedVersion:
        """See ``ports.SecretOpener``."""
        if not storable(path):
            raise _unknown()
        found = await self._database.read_rows(lambda connection: connection.execute(_NEWEST_MATERIAL, {"wanted": path}).first())
        if found is None:
            raise NotFound("policy.secret-revoked", "the secret has no active version")
        return SealedVersion(
            version=found.version,
            kek_id=found.kek_id,
            wrapped_key=found.wrapped_key,
            nonce=found.nonce,
            ciphertext=found.ciphertext,
        )


def _unknown() -> NotFound:
    return NotFound("request.secret-unknown", "no secret of this name is registered")


def _by_path(session: Session, path: str) -> SecretInfo:
    return _one(session, path, SecretRow.path == path)


def _one(session: Session, name: str, condition: ColumnElement[bool]) -> SecretInfo:
    known = _infos(session, select(SecretRow).where(condition)) if storable(name) else []
    if not known:
        raise _unknown()
    return known[0]


def _infos(session: Session, query: Select[SecretRow]) -> list[SecretInfo]:
    rows = list(session.scalars(query))
    paths = [row.path for row in rows]
    versions = _versions(session, paths)
    workloads = _workloads(session, paths)
    return [
        SecretInfo(
            path=row.path,
            key_id=row.key_id,
            workloads=tuple(workloads[row.path]),
            versions=tuple(versions[row.path]),
            created_at=row.created_at,
            created_by=row.created_by,
        )
        for row in rows
    ]


def _versions(session: Session, paths: Sequence[str]) -> dict[str, list[SecretVersionInfo]]:
    same = and_(SecretRevocationRow.path == SecretVersionRow.path, SecretRevocationRow.version == SecretVersionRow.version)
    query: Select[SecretVersionRow, datetime | None] = (
        select(SecretVersionRow, SecretRevocationRow.revoked_at)
        .outerjoin(SecretRevocationRow, same)
        .where(SecretVersionRow.path.in_(paths))
        .order_by(SecretVersionRow.path, SecretVersionRow.version)
    )
    found: dict[str, list[SecretVersionInfo]] = defaultdict(list)
    for row, revoked_at in session.execute(query):
        found[row.path].append(
            SecretVersionInfo(
                version=row.version,
                active=revoked_at is None,
                created_at=row.created_at,
                created_by=row.created_by,
                kek_id=row.kek_id,
            )
        )
    return found


def _workloads(session: Session, paths: Sequence[str]) -> dict[str, list[str]]:
    query = _present_bindings().where(SecretBindingWorkloadRow.path.in_(paths)).order_by(SecretBindingWorkloadRow.workload)
    found: dict[str, list[str]] = defaultdict(list)
    for path, workload in session.execute(query):
        found[path].append(workload)
    return found


def _present_bindings() -> Select[str, str]:
    """Path and workload of every binding of the newest revision."""
    newest = (
        select(func.max(SecretBindingRow.revision))
        .where(SecretBindingRow.path == SecretBindingWorkloadRow.path)
        .correlate(SecretBindingWorkloadRow)
        .scalar_subquery()
    )
    return select(SecretBindingWorkloadRow.path, SecretBindingWorkloadRow.workload).where(SecretBindingWorkloadRow.revision == newest)


def _bind(session: Session, path: str, workloads: Iterable[str], change: ChangeRecord) -> None:
    names = list(dict.fromkeys(workloads))
    if missing := missing_workloads(session, names):
        raise NotFound("registry.workload-unknown", f"no workload is named {', '.join(missing)}"[:300])
    newest = session.scalar(select(func.max(SecretBindingRow.revision)).where(SecretBindingRow.path == path))
    revision = (newest or 0) + 1
    session.execute(insert(SecretBindingRow).values(path=path, revision=revision, bound_at=change.at, bound_by=change.actor))
    if names:
        rows = [{"path": path, "revision": revision, "workload": name} for name in names]
        session.execute(insert(SecretBindingWorkloadRow), rows)
