"""With which sequence of the registry an image changed, so that a replica learns what changed since it last looked.

Revision: 0003
Revises: 0002

Revisions from before get 0: no replica that asks has looked before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go forward."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("image_revisions", sa.Column("registry_sequence", number, nullable=False, server_default=sa.text("0")))
    op.create_index(op.f("ix_image_revisions_registry_sequence"), "image_revisions", ["registry_sequence"])
