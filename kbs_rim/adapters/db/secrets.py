"""Secrets at rest. ``Secrets`` knows everything but the material; ``SecretMaterial`` is the one reader of that table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import (
    SecretBindingRow,
    SecretBindingWorkloadRow,
    SecretMaterialRow,
    SecretRevocationRow,
    SecretRow,
    SecretVersionRow,
)
from kbs_rim.adapters.db.registry_state import changing_registry
from kbs_rim.adapters.db.workloads import missing_workloads
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import SealedVersion, SecretInfo, SecretVersionInfo


class Secrets:
    """Implements ``ports.SecretWriter``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_secret(self, name: str) -> SecretInfo:
        """See ``ports.SecretReader``."""
        async with self._database.reading() as session:
            return await _one(session, name, or_(SecretRow.path == name, SecretRow.key_id == name))

    async def list_secrets(self, *, after: str | None = None, limit: int = 100) -> list[SecretInfo]:
        """See ``ports.SecretReader``."""
        query = select(SecretRow).order_by(SecretRow.path).limit(limit)
        if after is not None:
            query = query.where(SecretRow.path > after)
        if not storable(after):
            return []
        async with self._database.reading() as session:
            return await _infos(session, query)

    async def secrets_bound_to(self, workloads: Sequence[str]) -> list[SecretInfo]:
        """See ``ports.SecretReader``."""
        if not workloads or not storable(*workloads):
            return []
        bound = _present_bindings().where(SecretBindingWorkloadRow.workload.in_(workloads)).subquery()
        query = select(SecretRow).where(SecretRow.path.in_(select(bound.c.path))).order_by(SecretRow.path)
        async with self._database.reading() as session:
            return await _infos(session, query)

    async def create_secret(self, path: str, key_id: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``."""
        async with changing_registry(self._database) as registry:
            session = registry.session
            names = (path, key_id)
            taken = select(SecretRow.path).where(or_(SecretRow.path.in_(names), SecretRow.key_id.in_(names)))
            if (await session.execute(taken)).first() is not None:
                raise Conflict("registry.secret-exists", "the path or the key id belongs to another secret", seen=path)
            row = insert(SecretRow).values(path=path, key_id=key_id, created_at=change.at, created_by=change.actor)
            await session.execute(row)
            await _bind(session, path, workloads, change)
            await registry.record(change)
            return await _by_path(session, path)

    async def add_version(self, path: str, sealed: SealedVersion, change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``."""
        async with changing_registry(self._database) as registry:
            session = registry.session
            known = await _by_path(session, path)
            following = max((version.version for version in known.versions), default=0) + 1
            if sealed.version != following:
                raise Conflict(
                    "registry.secret-version", "another version was stored first", expected=str(following), seen=str(sealed.version)
                )
            await session.execute(
                insert(SecretVersionRow).values(
                    path=path, version=sealed.version, kek_id=sealed.kek_id, created_at=change.at, created_by=change.actor
                )
            )
            material = {"wrapped_key": sealed.wrapped_key, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext}
            await session.execute(insert(SecretMaterialRow).values(path=path, version=sealed.version, **material))
            await registry.record(change)
            return await _by_path(session, path)

    async def revoke_version(self, path: str, version: int, change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``. A version that is revoked already is left as it is."""
        async with changing_registry(self._database) as registry:
            session = registry.session
            known = await _by_path(session, path)
            found = next((item for item in known.versions if item.version == version), None)
            if found is None:
                raise NotFound("registry.version-unknown", "the secret has no such version", seen=str(version))
            if not found.active:
                return known
            revocation = insert(SecretRevocationRow).values(path=path, version=version, revoked_at=change.at, revoked_by=change.actor)
            await session.execute(revocation)
            await session.execute(delete(SecretMaterialRow).where(SecretMaterialRow.path == path, SecretMaterialRow.version == version))
            await registry.record(change)
            return await _by_path(session, path)

    async def bind_secret(self, path: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """See ``ports.SecretWriter``. ``NotFound`` also for a workload that was never registered."""
        async with changing_registry(self._database) as registry:
            known = await _by_path(registry.session, path)
            if set(known.workloads) == set(workloads):
                return known
            await _bind(registry.session, path, workloads, change)
            await registry.record(change)
            return await _by_path(registry.session, path)


class SecretMaterial:
    """Implements ``ports.SecretOpener``. Only the release path holds one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest_version(self, path: str) -> SealedVersion:
        """See ``ports.SecretOpener``."""
        query = (
            select(SecretMaterialRow, SecretVersionRow.kek_id)
            .join(
                SecretVersionRow,
                and_(SecretVersionRow.path == SecretMaterialRow.path, SecretVersionRow.version == SecretMaterialRow.version),
            )
            .where(SecretMaterialRow.path == path)
            .order_by(SecretMaterialRow.version.desc())
            .limit(1)
        )
        if not storable(path):
            raise _unknown()
        async with self._database.reading() as session:
            found = (await session.execute(query)).first()
        if found is None:
            raise NotFound("policy.secret-revoked", "the secret has no active version")
        material, kek_id = found
        return SealedVersion(
            version=material.version,
            kek_id=kek_id,
            wrapped_key=material.wrapped_key,
            nonce=material.nonce,
            ciphertext=material.ciphertext,
        )


def _unknown() -> NotFound:
    return NotFound("request.secret-unknown", "no secret of this name is registered")


async def _by_path(session: AsyncSession, path: str) -> SecretInfo:
    return await _one(session, path, SecretRow.path == path)


async def _one(session: AsyncSession, name: str, condition: ColumnElement[bool]) -> SecretInfo:
    known = await _infos(session, select(SecretRow).where(condition)) if storable(name) else []
    if not known:
        raise _unknown()
    return known[0]


async def _infos(session: AsyncSession, query: Select[SecretRow]) -> list[SecretInfo]:
    rows = list(await session.scalars(query))
    paths = [row.path for row in rows]
    versions = await _versions(session, paths)
    workloads = await _workloads(session, paths)
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


async def _versions(session: AsyncSession, paths: Sequence[str]) -> dict[str, list[SecretVersionInfo]]:
    same = and_(SecretRevocationRow.path == SecretVersionRow.path, SecretRevocationRow.version == SecretVersionRow.version)
    query: Select[SecretVersionRow, datetime | None] = (
        select(SecretVersionRow, SecretRevocationRow.revoked_at)
        .outerjoin(SecretRevocationRow, same)
        .where(SecretVersionRow.path.in_(paths))
        .order_by(SecretVersionRow.path, SecretVersionRow.version)
    )
    found: dict[str, list[SecretVersionInfo]] = defaultdict(list)
    for row, revoked_at in await session.execute(query):
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


async def _workloads(session: AsyncSession, paths: Sequence[str]) -> dict[str, list[str]]:
    query = _present_bindings().where(SecretBindingWorkloadRow.path.in_(paths)).order_by(SecretBindingWorkloadRow.workload)
    found: dict[str, list[str]] = defaultdict(list)
    for path, workload in await session.execute(query):
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


async def _bind(session: AsyncSession, path: str, workloads: Iterable[str], change: ChangeRecord) -> None:
    names = list(dict.fromkeys(workloads))
    if missing := await missing_workloads(session, names):
        raise NotFound("registry.workload-unknown", f"no workload is named {', '.join(missing)}"[:300])
    newest = await session.scalar(select(func.max(SecretBindingRow.revision)).where(SecretBindingRow.path == path))
    revision = (newest or 0) + 1
    await session.execute(insert(SecretBindingRow).values(path=path, revision=revision, bound_at=change.at, bound_by=change.actor))
    if names:
        rows = [{"path": path, "revision": revision, "workload": name} for name in names]
        await session.execute(insert(SecretBindingWorkloadRow), rows)
