"""What runtime logs hold for an image: an index of its digests, and what is known of PE files and firmware.

Revision: 0002
Revises: 0001

Of the images that are there the digests of the file are put into the index; the rest is known once they are registered again.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAMES = {"sha256": "sha-256", "sha384": "sha-384", "sha512": "sha-512"}
_BATCH = 500


def _text(name: str, *constraints: sa.ForeignKey) -> sa.Column[str]:
    return sa.Column(name, sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), *constraints, primary_key=True, nullable=False)


def upgrade() -> None:
    """Go forward."""
    op.add_column("image_revisions", sa.Column("parts", sa.Text(), nullable=True))
    measured = op.create_table(
        "image_measured_digests",
        _text("algorithm"),
        sa.Column("digest", sa.LargeBinary(), primary_key=True, nullable=False),
        _text("image_id", sa.ForeignKey("images.id")),
        _text("what"),
    )
    op.create_index(op.f("ix_image_measured_digests_image_id"), "image_measured_digests", ["image_id"])
    _fill(measured)


def _fill(measured: sa.Table) -> None:
    images = sa.table("images", sa.column("id", sa.Text()), sa.column("measurements", sa.Text()))
    connection = op.get_bind()
    last = ""
    while True:
        batch = connection.execute(sa.select(images).where(images.c.id > last).order_by(images.c.id).limit(_BATCH)).all()
        if not batch:
            return
        rows = []
        for image_id, text in batch:
            document = json.loads(text)
            kinds = [("file", "file_digests")] + ([("loaded", "digests")] if document["compression"] else [])
            rows += [
                {"algorithm": _NAMES[name], "digest": bytes.fromhex(digest), "image_id": image_id, "what": what}
                for what, member in kinds
                for name, digest in document[member].items()
            ]
        op.bulk_insert(measured, rows)
        last = batch[-1][0]
