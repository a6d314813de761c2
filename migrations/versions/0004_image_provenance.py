"""Where an image comes from may be said more than once: each word after the first has a row.

Revision: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(name: str, *constraints: sa.ForeignKey, primary_key: bool = False) -> sa.Column[str]:
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, *constraints, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Go forward."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "image_provenance",
        _text("image_id", sa.ForeignKey("images.id"), primary_key=True),
        sa.Column("number", number, primary_key=True, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        _text("recorded_by"),
        sa.UniqueConstraint("image_id", "digest"),
    )
