"""${message}

Short, locked and backward compatible: the release before this one must run on the schema that this migration leaves behind,
because replicas are updated one after the other. To rename something takes three releases: add, move, drop.

Revision: ${up_revision}, follows ${down_revision | comma,n}.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Go forward."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """There is no way back: a record is not unwritten."""
    raise NotImplementedError("restore the backup that was made before the upgrade")
