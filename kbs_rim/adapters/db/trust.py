"""What an appraisal judges by, in one snapshot and as few statements as possible: it is read for every release."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Text, and_, bindparam, func, or_, select, type_coerce
from sqlalchemy.orm import aliased

from kbs_rim.adapters.db.documents import measurements_of, workload_of
from kbs_rim.adapters.db.engine import Database, storable
from kbs_rim.adapters.db.models import (
    ImageDigestRow,
    ImageRevisionRow,
    ImageRow,
    RegistryStateRow,
    SecretBindingRow,
    SecretBindingWorkloadRow,
    SecretRow,
    WorkloadRetirementRow,
    WorkloadRevisionRow,
)
from kbs_rim.adapters.db.registry_state import known_sequence
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role
from kbs_rim.ports import TrustView, WorkloadRecord

_bound, _other_revision = SecretBindingWorkloadRow, aliased(WorkloadRevisionRow)
_newest_binding = select(func.max(SecretBindingRow.revision)).where(SecretBindingRow.path == SecretRow.path).scalar_subquery()
_newest_workload = select(func.max(_other_revision.revision)).where(_other_revision.name == _bound.workload).scalar_subquery()
_newest_image = select(func.max(ImageRevisionRow.revision)).where(ImageRevisionRow.image_id == ImageRow.id).correlate(ImageRow)

_SECRET_AND_WORKLOADS = (
    select(
        RegistryStateRow.sequence,
        SecretRow.path,
        WorkloadRevisionRow.name,
        WorkloadRevisionRow.revision,
        type_coerce(WorkloadRevisionRow.document, Text).label("document"),
        WorkloadRevisionRow.registered_at,
        WorkloadRevisionRow.registered_by,
        WorkloadRetirementRow.retired_at,
    )
    .select_from(RegistryStateRow)
    .outerjoin(SecretRow, or_(SecretRow.path == bindparam("secret"), SecretRow.key_id == bindparam("secret")))
    .outerjoin(_bound, and_(_bound.path == SecretRow.path, _bound.revision == _newest_binding))
    .outerjoin(WorkloadRevisionRow, and_(WorkloadRevisionRow.name == _bound.workload, WorkloadRevisionRow.revision == _newest_workload))
    .outerjoin(
        WorkloadRetirementRow,
        and_(WorkloadRetirementRow.name == WorkloadRevisionRow.name, WorkloadRetirementRow.revision == WorkloadRevisionRow.revision),
    )
    .order_by(_bound.workload)
)
"""One row for each workload that may have the secret, or one without a workload: the sequence comes in any case."""

_IMAGES = (
    select(
        ImageRow.id,
        ImageRow.name,
        ImageRevisionRow.roles,
        ImageRevisionRow.state,
        type_coerce(ImageRow.measurements, Text).label("measurements"),
        type_coerce(ImageRevisionRow.parts, Text).label("parts"),
    )
    .join(ImageRevisionRow, and_(ImageRevisionRow.image_id == ImageRow.id, ImageRevisionRow.revision == _newest_image.scalar_subquery()))
    .where(
        ImageRow.id.in_(
            select(ImageDigestRow.image_id).where(
                ImageDigestRow.algorithm == bindparam("algorithm"), ImageDigestRow.digest.in_(bindparam("digests", expanding=True))
            )
        )
    )
)

_REVOKED = select(ImageRevisionRow.image_id).where(
    ImageRevisionRow.registry_sequence > bindparam("since"), ImageRevisionRow.state == ImageState.REVOKED.value
)


class Trust:
    """Implements ``ports.TrustReader``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def view(self, secret: str, digests: Sequence[tuple[str, bytes]], *, since: int | None) -> TrustView:
        """See ``ports.TrustReader``."""
        wanted: dict[str, set[bytes]] = defaultdict(set)
        for algorithm, digest in digests:
            wanted[algorithm].add(digest)
        name = secret if storable(secret) else ""  # the empty name is nobody's
        return await self._database.read_rows(lambda connection: _view(connection, name, wanted, since))


def _view(connection: Connection, secret: str, wanted: dict[str, set[bytes]], since: int | None) -> TrustView:
    bound = connection.execute(_SECRET_AND_WORKLOADS, {"secret": secret}).all()
    sequence = known_sequence(bound[0].sequence if bound else None)
    images: dict[str, RegisteredImage] = {}
    for algorithm, digests in wanted.items():
        for row in connection.execute(_IMAGES, {"algorithm": algorithm, "digests": list(digests)}):
            images[row.id] = _image(row)
    revoked: frozenset[str] = frozenset()
    if since is not None and since != sequence:
        revoked = frozenset(connection.execute(_REVOKED, {"since": since}).scalars())
    return TrustView(
        sequence=sequence,
        secret=bound[0].path,
        workloads=tuple(_workload(row) for row in bound if row.name is not None),
        images=tuple(images[image_id] for image_id in sorted(images)),
        revoked=revoked,
    )


def _image(row: Row[*tuple[Any, ...]]) -> RegisteredImage:
    return RegisteredImage(
        id=row.id,
        name=row.name,
        roles=tuple(Role(role) for role in row.roles),
        state=ImageState(row.state),
        measurements=measurements_of(row.measurements, row.parts),
    )


def _workload(row: Row[*tuple[Any, ...]]) -> WorkloadRecord:
    return WorkloadRecord(
        workload=workload_of(row.document, name=row.name, revision=row.revision),
        revision=row.revision,
        active=row.retired_at is None,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
    )
