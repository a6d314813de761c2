"""The tables, once, for SQLite and PostgreSQL. ``migrations/`` makes them; a test holds both together.

What an administrator changes is never overwritten: states, revisions, versions and bindings are rows with a number, a time and
an author, and the highest number is the present. So the registry can be read as of any moment. Exceptions, on purpose: a
challenge is marked as redeemed, a principal as revoked, and the material of a revoked secret version is erased.

Text is compared byte by byte on both engines (``COLLATE "C"``): an index must not change its order with the system's locale.
"""

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kbs_rim.adapters.db.column_types import ByteText, JsonText, Number, UtcDateTime

SCHEMA_VERSION = "0004"
"""The migration that this code needs; a test holds it against ``migrations/``. Serving needs no alembic to know it."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Key = Annotated[str, mapped_column(primary_key=True)]
KeyNumber = Annotated[int, mapped_column(primary_key=True, autoincrement=False)]
RowNumber = Annotated[int, mapped_column(Identity(), primary_key=True)]
Document = Annotated[Any, mapped_column(JsonText)]


class Base(DeclarativeBase):
    """Every table of kbs_rim."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {str: ByteText, int: Number, bytes: LargeBinary, datetime: UtcDateTime}  # noqa: RUF012


class RegistryStateRow(Base):
    """One row: ``sequence`` grows with every change of what a release depends on, inside the transaction of that change."""

    __tablename__ = "registry_state"
    __table_args__ = (CheckConstraint("id = 1", name="single_row"),)
    id: Mapped[KeyNumber]
    sequence: Mapped[int]


class ChangeRow(Base):
    """Who changed what."""

    __tablename__ = "changes"
    __table_args__ = (Index(None, "subject", "number"),)
    number: Mapped[RowNumber]
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[Document]


# --- images -----------------------------------------------------------------------------------------------------------


class ImageRow(Base):
    """What never changes about an image. ``measurements`` lacks the granule digests, which have a table of their own, and the parts."""

    __tablename__ = "images"
    id: Mapped[Key]
    name: Mapped[str]
    measurements: Mapped[Document]
    provenance: Mapped[Document]
    registered_at: Mapped[datetime]
    registered_by: Mapped[str]


class ImageRevisionRow(Base):
    """What changes about an image, whole, as of ``recorded_at``.

    ``parts`` is what is known of PE files and firmware; it may be learned after the registration. NULL: not asked for yet.
    ``registry_sequence`` is the sequence of the registry that the revision came with; 0 in revisions from before it was kept.
    """

    __tablename__ = "image_revisions"
    __table_args__ = (CheckConstraint("state IN ('active', 'deprecated', 'revoked')", name="state"), Index(None, "registry_sequence"))
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    revision: Mapped[KeyNumber]
    roles: Mapped[Document]
    state: Mapped[str]
    state_at: Mapped[datetime]
    state_by: Mapped[str]
    state_reason: Mapped[str]
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str]
    parts: Mapped[Any] = mapped_column(JsonText, nullable=True)
    registry_sequence: Mapped[int] = mapped_column(server_default=text("0"))


class ImageProvenanceRow(Base):
    """Where an image comes from, as somebody said it after the registration; ``digest`` is the SHA-256 of the canonical document."""

    __tablename__ = "image_provenance"
    __table_args__ = (UniqueConstraint("image_id", "digest"),)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    number: Mapped[KeyNumber]
    digest: Mapped[bytes]
    document: Mapped[Document]
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str]


class ImageDigestRow(Base):
    """Digest of the loaded bytes, one row for each algorithm; a log's digest is looked up here."""

    __tablename__ = "image_digests"
    __table_args__ = (Index(None, "image_id"),)
    algorithm: Mapped[Key]
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)


class ImageMeasuredDigestRow(Base):
    """Every digest that a log of firmware or a boot loader may hold for an image, and ``what`` it is of."""

    __tablename__ = "image_measured_digests"
    __table_args__ = (Index(None, "image_id"),)
    algorithm: Mapped[Key]
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    what: Mapped[Key]


class ImageGranulesRow(Base):
    """Granule digests of one layout, laid end to end."""

    __tablename__ = "image_granules"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    algorithm: Mapped[Key]
    alignment: Mapped[Key]
    digests: Mapped[bytes]


# --- workloads --------------------------------------------------------------------------------------------------------


class WorkloadRow(Base):
    """The name of a workload, which its revisions and the bindings of secrets share."""

    __tablename__ = "workloads"
    name: Mapped[Key]


class WorkloadRevisionRow(Base):
    """One registration."""

    __tablename__ = "workload_revisions"
    name: Mapped[str] = mapped_column(ForeignKey("workloads.name"), primary_key=True)
    revision: Mapped[KeyNumber]
    document: Mapped[Document]
    registered_at: Mapped[datetime]
    registered_by: Mapped[str]


class WorkloadRetirementRow(Base):
    """A revision that counts no more; there is no way back but a new revision."""

    __tablename__ = "workload_retirements"
    __table_args__ = (ForeignKeyConstraint(["name", "revision"], ["workload_revisions.name", "workload_revisions.revision"]),)
    name: Mapped[Key]
    revision: Mapped[KeyNumber]
    retired_at: Mapped[datetime]
    retired_by: Mapped[str]


class WorkloadImageRow(Base):
    """An image that a revision names."""

    __tablename__ = "workload_images"
    __table_args__ = (ForeignKeyConstraint(["name", "revision"], ["workload_revisions.name", "workload_revisions.revision"]),)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    name: Mapped[Key]
    revision: Mapped[KeyNumber]
    role: Mapped[Key]


# --- secrets ----------------------------------------------------------------------------------------------------------


class SecretRow(Base):
    """A secret's names."""

    __tablename__ = "secrets"
    path: Mapped[Key]
    key_id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class SecretVersionRow(Base):
    """One version, without anything that could be opened."""

    __tablename__ = "secret_versions"
    path: Mapped[str] = mapped_column(ForeignKey("secrets.path"), primary_key=True)
    version: Mapped[KeyNumber]
    kek_id: Mapped[str]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class SecretMaterialRow(Base):
    """The ciphertext of one version, and its wrapped data key. Revoking the version erases the row."""

    __tablename__ = "secret_material"
    __table_args__ = (ForeignKeyConstraint(["path", "version"], ["secret_versions.path", "secret_versions.version"]),)
    path: Mapped[Key]
    version: Mapped[KeyNumber]
    wrapped_key: Mapped[bytes]
    nonce: Mapped[bytes]
    ciphertext: Mapped[bytes]


class SecretRevocationRow(Base):
    """A version that is unusable for ever."""

    __tablename__ = "secret_revocations"
    __table_args__ = (ForeignKeyConstraint(["path", "version"], ["secret_versions.path", "secret_versions.version"]),)
    path: Mapped[Key]
    version: Mapped[KeyNumber]
    revoked_at: Mapped[datetime]
    revoked_by: Mapped[str]


class SecretBindingRow(Base):
    """Who may have the secret, as of ``bound_at``: the workloads of the same revision below. None by default."""

    __tablename__ = "secret_bindings"
    path: Mapped[str] = mapped_column(ForeignKey("secrets.path"), primary_key=True)
    revision: Mapped[KeyNumber]
    bound_at: Mapped[datetime]
    bound_by: Mapped[str]


class SecretBindingWorkloadRow(Base):
    """One workload of a binding."""

    __tablename__ = "secret_binding_workloads"
    __table_args__ = (
        ForeignKeyConstraint(["path", "revision"], ["secret_bindings.path", "secret_bindings.revision"]),
        Index(None, "workload"),
    )
    path: Mapped[Key]
    revision: Mapped[KeyNumber]
    workload: Mapped[str] = mapped_column(ForeignKey("workloads.name"), primary_key=True)


# --- challenges -------------------------------------------------------------------------------------------------------


class ChallengeRow(Base):
    """An issued challenge. ``redeemed_at`` is set once, by the statement that hands it out."""

    __tablename__ = "challenges"
    __table_args__ = (Index(None, "expires_at"),)
    id: Mapped[Key]
    secret: Mapped[str]
    value: Mapped[bytes]
    salt: Mapped[bytes]
    jwk: Mapped[Document]
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    redeemed_at: Mapped[datetime | None]


# --- records ----------------------------------------------------------------------------------------------------------


class AppraisalRow(Base):
    """One appraisal. ``document`` is the canonical JSON that ``digest`` covers; the other columns repeat parts for queries."""

    __tablename__ = "appraisals"
    __table_args__ = (
        CheckConstraint("verdict IN ('allowed', 'refused', 'unavailable')", name="verdict"),
        Index(None, "at", "id"),
        Index(None, "verdict", "at", "id"),
        Index(None, "secret", "at", "id"),
        Index(None, "workload", "at", "id"),
        Index(None, "instance_id", "at", "id"),
    )
    id: Mapped[Key]
    at: Mapped[datetime]
    verdict: Mapped[str]
    secret: Mapped[str]
    workload: Mapped[str | None]
    instance_id: Mapped[str | None]
    document: Mapped[str] = mapped_column(Text)
    digest: Mapped[str]


class AppraisalFindingRow(Base):
    """A finding id of an appraisal. ``at`` is repeated, so that the newest ones are found without reading all."""

    __tablename__ = "appraisal_findings"
    finding: Mapped[Key]
    at: Mapped[datetime] = mapped_column(primary_key=True)
    appraisal_id: Mapped[str] = mapped_column(ForeignKey("appraisals.id"), primary_key=True)


class AppraisalImageRow(Base):
    """An image that the appraised realm had loaded."""

    __tablename__ = "appraisal_images"
    image_id: Mapped[Key]
    at: Mapped[datetime] = mapped_column(primary_key=True)
    appraisal_id: Mapped[str] = mapped_column(ForeignKey("appraisals.id"), primary_key=True)


class ReleaseRow(Base):
    """A secret version that left."""

    __tablename__ = "releases"
    __table_args__ = (Index(None, "appraisal_id"),)
    number: Mapped[RowNumber]
    appraisal_id: Mapped[str] = mapped_column(ForeignKey("appraisals.id"))
    at: Mapped[datetime]
    secret: Mapped[str]
    version: Mapped[int]
    key_thumbprint: Mapped[str]
    sealing: Mapped[str]
    registry_sequence: Mapped[int]


class PayloadRow(Base):
    """Bytes that were appraised, stored once under their SHA-256 (hex)."""

    __tablename__ = "payloads"
    sha256: Mapped[Key]
    stored_at: Mapped[datetime]
    content: Mapped[bytes]


# --- principals -------------------------------------------------------------------------------------------------------


class PrincipalRow(Base):
    """An administrator or auditor. ``token_sha256`` is all that is known of the token."""

    __tablename__ = "principals"
    __table_args__ = (CheckConstraint("role IN ('admin', 'auditor')", name="role"),)
    name: Mapped[Key]
    role: Mapped[str]
    token_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None]
