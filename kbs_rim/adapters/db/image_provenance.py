"""Where images come from, as often as somebody says it: the first word stands with the image, further ones have rows of their own."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from kbs_rim.adapters.db.models import ImageProvenanceRow
from kbs_rim.ledger.canonical import canonical_json
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import FurtherProvenance, ImageRecord


def add_provenance(session: Session, known: ImageRecord, provenance: Mapping[str, Any], change: ChangeRecord) -> bool:
    """Append what is said of a registered image, and return whether that is new. Saying nothing is never new."""
    if not provenance or dict(provenance) == dict(known.provenance):
        return False
    digest = sha256(canonical_json(dict(provenance))).digest()
    row = ImageProvenanceRow
    if session.scalar(select(row.number).where(row.image_id == known.id, row.digest == digest)) is not None:
        return False
    newest = session.scalar(select(func.max(row.number)).where(row.image_id == known.id))
    session.execute(
        insert(row).values(
            image_id=known.id,
            number=(newest or 0) + 1,
            digest=digest,
            document=dict(provenance),
            recorded_at=change.at,
            recorded_by=change.actor,
        )
    )
    return True


def further_provenance(session: Session, image_id: str) -> tuple[FurtherProvenance, ...]:
    """Return what was said of an image after its registration, in this order."""
    row = ImageProvenanceRow
    rows = session.scalars(select(row).where(row.image_id == image_id).order_by(row.number))
    return tuple(FurtherProvenance(item.document, item.recorded_at, item.recorded_by) for item in rows)
