"""The image registry: what never changes about an image, and revisions of what does."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, and_, func, insert, or_, select
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.documents import read_measurements
from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.image_provenance import add_provenance, further_provenance
from kbs_rim.adapters.db.models import ImageDigestRow, ImageGranulesRow, ImageMeasuredDigestRow, ImageRevisionRow, ImageRow
from kbs_rim.adapters.db.registry_state import RegistryChange, change_registry, read_sequence
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, NotFound, StoreUnavailable
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.measurement.granules import Alignment
from kbs_rim.measurement.image import PART_MEMBERS, ImageMeasurements
from kbs_rim.measurement.measured_parts import MeasuredDigest
from kbs_rim.ports import ImageRecord, ImageState, MeasuredImage, Registration

_DIGESTS_AT_ONCE = 1000
"""Parameters of one statement: SQLite takes 32766, PostgreSQL 32767."""

_IMAGES_FOR_ONE_DIGEST = 16
_IMAGES_AT_MOST = 256
"""A hostile log may name digests of any number of images; reading each costs about as much as judging a good log."""


class Images:
    """Implements ``ports.ImageWriter``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_images(self, digests: Sequence[tuple[str, bytes]], *, with_granules: bool = True) -> list[ImageRecord]:
        """See ``ports.ImageReader``. Granules come for the algorithms asked about, and for no others."""
        wanted: dict[str, set[bytes]] = defaultdict(set)
        for algorithm, digest in digests:
            wanted[algorithm].add(digest)
        if not wanted:
            return []
        matches = or_(*(and_(ImageDigestRow.algorithm == name, ImageDigestRow.digest.in_(found)) for name, found in wanted.items()))
        found = select(ImageDigestRow.image_id).where(matches)

        def find(session: Session) -> list[ImageRecord]:
            records = _records(session, present_images().where(ImageRow.id.in_(found)).order_by(ImageRow.id))
            return _with_granules(session, records, wanted) if with_granules else records

        return await self._database.read(find)

    async def find_images_by_measurement(self, digests: Sequence[tuple[str, bytes]]) -> list[MeasuredImage]:
        """See ``ports.ImageReader``."""
        wanted = list(dict.fromkeys(digests))
        return await self._database.read(lambda session: _find_by_measurement(session, wanted))

    async def get_image(self, image_id: str) -> ImageRecord:
        """See ``ports.ImageReader``."""

        def get(session: Session) -> ImageRecord:
            image = _present(session, image_id)
            return replace(image, further_provenance=further_provenance(session, image.id))

        return await self._database.read(get)

    async def list_images(self, *, state: ImageState | None = None, after: str | None = None, limit: int = 100) -> list[ImageRecord]:
        """See ``ports.ImageReader``."""
        query = present_images().order_by(ImageRow.id).limit(limit)
        if state is not None:
            query = query.where(ImageRevisionRow.state == state.value)
        if after is not None:
            query = query.where(ImageRow.id > after)
        if not storable(after):
            return []
        return await self._database.read(lambda session: _records(session, query))

    async def registry_sequence(self) -> int:
        """See ``ports.ImageReader``."""
        return await self._database.read(read_sequence)

    async def add_image(self, image: ImageRecord, change: ChangeRecord) -> bool:
        """See ``ports.ImageWriter``."""
        [registration] = await self.add_images([(image, change)])
        return registration.created

    async def add_images(self, images: Sequence[tuple[ImageRecord, ChangeRecord]]) -> list[Registration]:
        """See ``ports.ImageWriter``."""

        def add(registry: RegistryChange) -> list[Registration]:
            registrations = [_register(registry, image, change) for image, change in images]
            done = zip(images, registrations, strict=True)
            changes = [change for (_, change), registration in done if registration.created or registration.added]
            if changes:
                registry.record(*changes)
            return registrations

        return await change_registry(self._database, add)

    async def set_image_state(self, image_id: str, state: ImageState, reason: str, change: ChangeRecord) -> ImageRecord:
        """See ``ports.ImageWriter``. A state that the image has already is not written again."""

        def move(registry: RegistryChange) -> ImageRecord:
            known = _present(registry.session, image_id)
            if known.state is state:
                return known
            if known.state is ImageState.REVOKED:
                raise Conflict("registry.image-revoked", "the image is revoked, and that is for ever", seen=image_id)
            moved = replace(known, state=state, state_at=change.at, state_by=change.actor, state_reason=reason)
            _append_revision(registry, moved, change)
            registry.record(change)
            return moved

        return await change_registry(self._database, move)


def _register(registry: RegistryChange, image: ImageRecord, change: ChangeRecord) -> Registration:
    known = _records(registry.session, present_images().where(ImageRow.id == image.id))
    if not known:
        _insert(registry.session, image)
        _append_revision(registry, image, change)
        return Registration(image_id=image.id, created=True)
    added: list[str] = []
    merged = _merge(registry.session, known[0], image)
    if merged is not None:
        added += [f"role {role}" for role in merged.roles if role not in known[0].roles]
        if merged.measurements != known[0].measurements:
            added.append("parts")
        _insert_measured_digests(registry.session, merged, already=known[0])
        _append_revision(registry, merged, change)
    if add_provenance(registry.session, known[0], image.provenance, change):
        added.append("provenance")
    return Registration(image_id=image.id, created=False, added=tuple(added))


def _merge(session: Session, known: ImageRecord, image: ImageRecord) -> ImageRecord | None:
    """Return the known image with what the new one adds, or None if that is nothing; raise ``Conflict``.

    A registration may add roles. It may add parts where none are known, because older clients did not look for them; parts
    that are known never change.
    """
    if known.state is ImageState.REVOKED:
        raise Conflict("registry.image-revoked", "the image is revoked, and that is for ever", seen=known.id)
    [complete] = _with_granules(session, [known], [algorithm.value for algorithm in HashAlgorithm])
    mine, yours = complete.measurements, image.measurements
    (my_parts, mine), (your_parts, yours) = _apart(mine), _apart(yours)
    if mine != yours or (my_parts and your_parts and my_parts != your_parts):
        raise Conflict("registry.image-differs", "the image is registered with other measurements", seen=known.id)
    roles = tuple(dict.fromkeys((*known.roles, *image.roles)))
    if roles == known.roles and (my_parts or not your_parts):
        return None
    return replace(known, roles=roles, measurements=replace(known.measurements, **(my_parts or your_parts)))


def present_images() -> Select[ImageRow, ImageRevisionRow]:
    """Images with their newest revision."""
    newest = (
        select(func.max(ImageRevisionRow.revision)).where(ImageRevisionRow.image_id == ImageRow.id).correlate(ImageRow).scalar_subquery()
    )
    return select(ImageRow, ImageRevisionRow).join(
        ImageRevisionRow, and_(ImageRevisionRow.image_id == ImageRow.id, ImageRevisionRow.revision == newest)
    )


def _present(session: Session, image_id: str) -> ImageRecord:
    known = _records(session, present_images().where(ImageRow.id == image_id)) if storable(image_id) else []
    if not known:
        raise NotFound("registry.image-unknown", "no image with this id is registered")
    return known[0]


def _records(session: Session, query: Select[ImageRow, ImageRevisionRow]) -> list[ImageRecord]:
    return [_record(image, revision) for image, revision in session.execute(query)]


def _record(image: ImageRow, revision: ImageRevisionRow) -> ImageRecord:
    return ImageRecord(
        id=image.id,
        name=image.name,
        roles=tuple(Role(role) for role in revision.roles),
        state=ImageState(revision.state),
        measurements=read_measurements(image.measurements, revision.parts),
        provenance=image.provenance,
        registered_at=image.registered_at,
        registered_by=image.registered_by,
        state_at=revision.state_at,
        state_by=revision.state_by,
        state_reason=revision.state_reason,
    )


def _apart(measured: ImageMeasurements) -> tuple[dict[str, Any], ImageMeasurements]:
    """Return the parts that are known, as fields by name, none if there are none; and the rest."""
    parts = {name: getattr(measured, name) for name in PART_MEMBERS}
    return parts if any(parts.values()) else {}, replace(measured, pe=None, volumes=())


def _find_by_measurement(session: Session, wanted: Sequence[tuple[str, bytes]]) -> list[MeasuredImage]:
    found: dict[str, list[MeasuredDigest]] = defaultdict(list)
    for at in range(0, len(wanted), _DIGESTS_AT_ONCE):
        for image_id, measured in _measured_digests(session, wanted[at : at + _DIGESTS_AT_ONCE]):
            found[image_id].append(measured)
    ids = sorted(found, key=lambda image_id: (-len(found[image_id]), image_id))[:_IMAGES_AT_MOST]
    records = {record.id: record for record in _records(session, present_images().where(ImageRow.id.in_(ids)))}
    return [MeasuredImage(image=records[image_id], digests=tuple(found[image_id])) for image_id in ids]


def _measured_digests(session: Session, digests: Sequence[tuple[str, bytes]]) -> list[tuple[str, MeasuredDigest]]:
    """Return image ids with the digests that they have in common with ``digests``."""
    row = ImageMeasuredDigestRow
    wanted: dict[str, list[bytes]] = defaultdict(list)
    for algorithm, digest in digests:
        wanted[algorithm].append(digest)
    matches = or_(*(and_(row.algorithm == name, row.digest.in_(found)) for name, found in wanted.items()))
    place = func.dense_rank().over(partition_by=(row.algorithm, row.digest), order_by=row.image_id)
    ranked = select(row.algorithm, row.digest, row.image_id, row.what, place.label("place")).where(matches).subquery()
    query = select(ranked).where(ranked.c.place <= _IMAGES_FOR_ONE_DIGEST).order_by(ranked.c.image_id, ranked.c.what, ranked.c.algorithm)
    rows = session.execute(query)
    return [(found.image_id, MeasuredDigest(found.what, HashAlgorithm(found.algorithm), found.digest)) for found in rows]


def _with_granules(session: Session, records: list[ImageRecord], algorithms: Iterable[str]) -> list[ImageRecord]:
    rows = session.scalars(
        select(ImageGranulesRow).where(
            ImageGranulesRow.image_id.in_([record.id for record in records]), ImageGranulesRow.algorithm.in_(list(algorithms))
        )
    )
    granules: dict[str, dict[tuple[HashAlgorithm, Alignment], bytes]] = defaultdict(dict)
    for row in rows:
        granules[row.image_id][HashAlgorithm(row.algorithm), Alignment(row.alignment)] = row.digests
    try:
        return [replace(record, measurements=replace(record.measurements, granules=granules[record.id])) for record in records]
    except ValueError as error:
        raise StoreUnavailable("the database holds damaged granule digests") from error


def _insert(session: Session, image: ImageRecord) -> None:
    measured = image.measurements
    session.execute(
        insert(ImageRow).values(
            id=image.id,
            name=image.name,
            measurements={name: value for name, value in measured.with_granules_of().to_document().items() if name not in PART_MEMBERS},
            provenance=dict(image.provenance),
            registered_at=image.registered_at,
            registered_by=image.registered_by,
        )
    )
    digests = [{"algorithm": key.value, "digest": digest, "image_id": image.id} for key, digest in measured.digests.items()]
    session.execute(insert(ImageDigestRow), digests)
    _insert_measured_digests(session, image)
    granules = [
        {"image_id": image.id, "algorithm": algorithm.value, "alignment": alignment.value, "digests": laid_end_to_end}
        for (algorithm, alignment), laid_end_to_end in measured.granules.items()
    ]
    if granules:
        session.execute(insert(ImageGranulesRow), granules)


def _insert_measured_digests(session: Session, image: ImageRecord, *, already: ImageRecord | None = None) -> None:
    """Store what a log may hold for the image, without what was stored for it ``already``."""
    known = set(already.measurements.measured_digests()) if already else set()
    rows = [
        {"algorithm": found.algorithm.value, "digest": found.digest, "image_id": image.id, "what": found.what}
        for found in image.measurements.measured_digests()
        if found not in known
    ]
    if rows:
        session.execute(insert(ImageMeasuredDigestRow), rows)


def _append_revision(registry: RegistryChange, image: ImageRecord, change: ChangeRecord) -> None:
    session = registry.session
    newest = session.scalar(select(func.max(ImageRevisionRow.revision)).where(ImageRevisionRow.image_id == image.id))
    document = image.measurements.with_granules_of().to_document()
    session.execute(
        insert(ImageRevisionRow).values(
            image_id=image.id,
            revision=(newest or 0) + 1,
            registry_sequence=registry.sequence,
            roles=[role.value for role in image.roles],
            state=image.state.value,
            state_at=image.state_at,
            state_by=image.state_by,
            state_reason=image.state_reason,
            recorded_at=change.at,
            recorded_by=change.actor,
            parts={name: document[name] for name in PART_MEMBERS},
        )
    )
