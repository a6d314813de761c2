"""The first schema: registry, secrets, challenges, record, principals.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, *constraints: sa.ForeignKey, primary_key: bool = False, nullable: bool = False) -> sa.Column[str]:
    """Text that is compared byte by byte on both engines."""
    kind = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    return sa.Column(name, kind, *constraints, primary_key=primary_key, nullable=nullable)


def _number(name: str, *, primary_key: bool = False) -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, primary_key=primary_key, nullable=False, autoincrement=False)


def _row_number() -> sa.Column[int]:
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True)


def _moment(name: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), primary_key=primary_key, nullable=nullable)


def _bytes(name: str, *, primary_key: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), primary_key=primary_key, nullable=False)


def _document(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def upgrade() -> None:
    """Go forward."""
    _registry_state()
    _images()
    _workloads()
    _secrets()
    _challenges_and_principals()
    _records()


def _registry_state() -> None:
    state = op.create_table(
        "registry_state",
        _number("id", primary_key=True),
        _number("sequence"),
        sa.CheckConstraint("id = 1", name="single_row"),
    )
    op.bulk_insert(state, [{"id": 1, "sequence": 0}])
    op.create_table(
        "changes",
        _row_number(),
        _moment("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _document("detail"),
    )
    _index("changes", "subject", "number")


def _images() -> None:
    op.create_table(
        "images",
        _text("id", primary_key=True),
        _text("name"),
        _document("measurements"),
        _document("provenance"),
        _moment("registered_at"),
        _text("registered_by"),
    )
    op.create_table(
        "image_revisions",
        _text("image_id", sa.ForeignKey("images.id"), primary_key=True),
        _number("revision", primary_key=True),
        _document("roles"),
        _text("state"),
        _moment("state_at"),
        _text("state_by"),
        _text("state_reason"),
        _moment("recorded_at"),
        _text("recorded_by"),
        sa.CheckConstraint("state IN ('active', 'deprecated', 'revoked')", name="state"),
    )
    op.create_table(
        "image_digests",
        _text("algorithm", primary_key=True),
        _bytes("digest", primary_key=True),
        _text("image_id", sa.ForeignKey("images.id"), primary_key=True),
    )
    _index("image_digests", "image_id")
    op.create_table(
        "image_granules",
        _text("image_id", sa.ForeignKey("images.id"), primary_key=True),
        _text("algorithm", primary_key=True),
        _text("alignment", primary_key=True),
        _bytes("digests"),
    )


def _workloads() -> None:
    op.create_table("workloads", _text("name", primary_key=True))
    op.create_table(
        "workload_revisions",
        _text("name", sa.ForeignKey("workloads.name"), primary_key=True),
        _number("revision", primary_key=True),
        _document("document"),
        _moment("registered_at"),
        _text("registered_by"),
    )
    op.create_table(
        "workload_retirements",
        _text("name", primary_key=True),
        _number("revision", primary_key=True),
        _moment("retired_at"),
        _text("retired_by"),
        sa.ForeignKeyConstraint(["name", "revision"], ["workload_revisions.name", "workload_revisions.revision"]),
    )
    op.create_table(
        "workload_images",
        _text("image_id", sa.ForeignKey("images.id"), primary_key=True),
        _text("name", primary_key=True),
        _number("revision", primary_key=True),
        _text("role", primary_key=True),
        sa.ForeignKeyConstraint(["name", "revision"], ["workload_revisions.name", "workload_revisions.revision"]),
    )


def _secrets() -> None:
    op.create_table(
        "secrets",
        _text("path", primary_key=True),
        _text("key_id"),
        _moment("created_at"),
        _text("created_by"),
        sa.UniqueConstraint("key_id"),
    )
    op.create_table(
        "secret_versions",
        _text("path", sa.ForeignKey("secrets.path"), primary_key=True),
        _number("version", primary_key=True),
        _text("kek_id"),
        _moment("created_at"),
        _text("created_by"),
    )
    op.create_table(
        "secret_material",
        _text("path", primary_key=True),
        _number("version", primary_key=True),
        _bytes("wrapped_key"),
        _bytes("nonce"),
        _bytes("ciphertext"),
        sa.ForeignKeyConstraint(["path", "version"], ["secret_versions.path", "secret_versions.version"]),
    )
    op.create_table(
        "secret_revocations",
        _text("path", primary_key=True),
        _number("version", primary_key=True),
        _moment("revoked_at"),
        _text("revoked_by"),
        sa.ForeignKeyConstraint(["path", "version"], ["secret_versions.path", "secret_versions.version"]),
    )
    _secret_bindings()


def _secret_bindings() -> None:
    op.create_table(
        "secret_bindings",
        _text("path", sa.ForeignKey("secrets.path"), primary_key=True),
        _number("revision", primary_key=True),
        _moment("bound_at"),
        _text("bound_by"),
    )
    op.create_table(
        "secret_binding_workloads",
        _text("path", primary_key=True),
        _number("revision", primary_key=True),
        _text("workload", sa.ForeignKey("workloads.name"), primary_key=True),
        sa.ForeignKeyConstraint(["path", "revision"], ["secret_bindings.path", "secret_bindings.revision"]),
    )
    _index("secret_binding_workloads", "workload")


def _challenges_and_principals() -> None:
    op.create_table(
        "challenges",
        _text("id", primary_key=True),
        _text("secret"),
        _bytes("value"),
        _bytes("salt"),
        _document("jwk"),
        _moment("issued_at"),
        _moment("expires_at"),
        _moment("redeemed_at", nullable=True),
    )
    _index("challenges", "expires_at")
    op.create_table(
        "principals",
        _text("name", primary_key=True),
        _text("role"),
        _bytes("token_sha256"),
        _moment("created_at"),
        _moment("expires_at", nullable=True),
        _moment("revoked_at", nullable=True),
        _text("revoked_by", nullable=True),
        sa.UniqueConstraint("token_sha256"),
        sa.CheckConstraint("role IN ('admin', 'auditor')", name="role"),
    )


def _records() -> None:
    op.create_table(
        "appraisals",
        _text("id", primary_key=True),
        _moment("at"),
        _text("verdict"),
        _text("secret"),
        _text("workload", nullable=True),
        _text("instance_id", nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        _text("digest"),
        sa.CheckConstraint("verdict IN ('allowed', 'refused', 'unavailable')", name="verdict"),
    )
    _index("appraisals", "at", "id")
    for column in ("verdict", "secret", "workload", "instance_id"):
        _index("appraisals", column, "at", "id")
    for table, column in (("appraisal_findings", "finding"), ("appraisal_images", "image_id")):
        appraisal = _text("appraisal_id", sa.ForeignKey("appraisals.id"), primary_key=True)
        op.create_table(table, _text(column, primary_key=True), _moment("at", primary_key=True), appraisal)
    op.create_table(
        "releases",
        _row_number(),
        _text("appraisal_id", sa.ForeignKey("appraisals.id")),
        _moment("at"),
        _text("secret"),
        _number("version"),
        _text("key_thumbprint"),
        _text("sealing"),
        _number("registry_sequence"),
    )
    _index("releases", "appraisal_id")
    op.create_table("payloads", _text("sha256", primary_key=True), _moment("stored_at"), _bytes("content"))


def downgrade() -> None:
    """There is no way back: a record is not unwritten."""
    raise NotImplementedError("restore the backup that was made before the upgrade")
