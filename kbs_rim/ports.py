"""The Protocols between services and the world, on one page, with the values that cross them.

Each role has its own storage type: a service that may only read records cannot even name the call that writes them
(boulder's ``sa``/``saro``). Promises stand here, transport stands in the adapters. Every method may raise
``StoreUnavailable``; other errors are named. All times are aware UTC. All methods that write are one transaction each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from kbs_rim.appraisal.registered_image import ImageState as ImageState  # noqa: PLC0414 - re-exported: it belongs to the ports as well
from kbs_rim.appraisal.workload import Role, Workload
from kbs_rim.ledger.records import AppraisalRecord, ChangeRecord, ReleaseRecord, VerdictKind
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.measured_parts import MeasuredDigest


class Clock(Protocol):
    """The one source of time of a process."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """A registered image. ``id`` is ``sha256:<hex>`` of the bytes that a VMM loads; ``roles`` what it may be used as."""

    id: str
    name: str
    roles: tuple[Role, ...]
    state: ImageState
    measurements: ImageMeasurements
    provenance: Mapping[str, Any] = field(default_factory=dict)
    registered_at: datetime
    registered_by: str
    state_at: datetime
    state_by: str
    state_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredImage:
    """A registered image, without its granule digests, and those of the digests asked for that are digests of it."""

    image: ImageRecord
    digests: tuple[MeasuredDigest, ...]


class ImageReader(Protocol):
    """Reads the image registry."""

    async def find_images(self, digests: Sequence[tuple[str, bytes]], *, with_granules: bool = True) -> list[ImageRecord]:
        """Return the images, whatever their state, that have one of the (IANA hash name, digest) pairs as loaded digest."""
        ...

    async def find_images_by_measurement(self, digests: Sequence[tuple[str, bytes]]) -> list[MeasuredImage]:
        """Return the images, whatever their state, of which one of the (IANA hash name, digest) pairs is the digest of some part.

        Parts are what ``ImageMeasurements.measured_digests`` names: the file, its Authenticode digest, a section of a UKI and so
        on. The images with most such digests come first. Of images that share a digest only 16 are looked at for it, since a
        section may be in thousands of UKIs, and 256 images are returned at most: a good log has fewer than 10.
        """
        ...

    async def get_image(self, image_id: str) -> ImageRecord:
        """Return one image without its granule digests; raise ``NotFound``."""
        ...

    async def list_images(self, *, state: ImageState | None = None, after: str | None = None, limit: int = 100) -> list[ImageRecord]:
        """Return images ordered by id, without granule digests, after the id ``after``."""
        ...

    async def registry_sequence(self) -> int:
        """Return a number that grows with every change of images, workloads, secrets or bindings."""
        ...


class ImageWriter(ImageReader, Protocol):
    """Changes the image registry. Rows are versioned by time, never overwritten."""

    async def add_image(self, image: ImageRecord, change: ChangeRecord) -> bool:
        """Register; return False if the very same measurements are registered already (roles are merged).

        Raise ``Conflict`` if the id is revoked or has other measurements.
        """
        ...

    async def set_image_state(self, image_id: str, state: ImageState, reason: str, change: ChangeRecord) -> ImageRecord:
        """Move to ``state``; raise ``NotFound``, or ``Conflict`` when leaving ``revoked``. Visible to all replicas on return."""
        ...


# --- workloads --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRecord:
    """One revision of a workload. A new registration under the same name is a new revision; the highest one counts."""

    workload: Workload
    revision: int
    active: bool
    registered_at: datetime
    registered_by: str


class WorkloadReader(Protocol):
    """Reads workloads."""

    async def get_workload(self, name: str, revision: int | None = None) -> WorkloadRecord:
        """Return the newest (or one) revision; raise ``NotFound``."""
        ...

    async def list_workloads(self, *, after: str | None = None, limit: int = 100) -> list[WorkloadRecord]:
        """Return newest revisions ordered by name."""
        ...

    async def workloads_naming(self, image_id: str) -> list[WorkloadRecord]:
        """Return the newest active revisions that name the image."""
        ...


class WorkloadWriter(WorkloadReader, Protocol):
    """Changes workloads."""

    async def add_workload(self, workload: Workload, change: ChangeRecord) -> WorkloadRecord:
        """Register a new revision (or return the newest one if it is identical and active).

        Raise ``Conflict`` if it names an image that is not registered, is revoked, or lacks the role.
        """
        ...

    async def retire_workload(self, name: str, change: ChangeRecord) -> WorkloadRecord:
        """Make the newest revision inactive; raise ``NotFound``."""
        ...


# --- secrets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInfo:
    """What may be known about a secret: everything but its value. ``path`` is ``repository/type/tag``."""

    path: str
    key_id: str
    workloads: tuple[str, ...]
    versions: tuple["SecretVersionInfo", ...]
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretVersionInfo:
    """One stored version."""

    version: int
    active: bool
    created_at: datetime
    created_by: str
    kek_id: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SealedVersion:
    """A secret version at rest: AES-256-GCM under a data key, the data key wrapped by a key-encryption key."""

    version: int
    kek_id: str
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes


class SecretReader(Protocol):
    """Reads what is known about secrets; cannot name a ciphertext."""

    async def get_secret(self, name: str) -> SecretInfo:
        """Find by path or by key id; raise ``NotFound``."""
        ...

    async def list_secrets(self, *, after: str | None = None, limit: int = 100) -> list[SecretInfo]:
        """Return secrets ordered by path."""
        ...

    async def secrets_bound_to(self, workloads: Sequence[str]) -> list[SecretInfo]:
        """Return every secret that at least one of the workloads may have, ordered by path."""
        ...


class SecretWriter(SecretReader, Protocol):
    """Stores secrets and who may have them."""

    async def create_secret(self, path: str, key_id: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """Create without a version; raise ``Conflict`` if path or key id is taken, ``NotFound`` for an unknown workload."""
        ...

    async def add_version(self, path: str, sealed: SealedVersion, change: ChangeRecord) -> SecretInfo:
        """Store ``sealed.version``, which must be the next one; raise ``Conflict`` if another writer was first."""
        ...

    async def revoke_version(self, path: str, version: int, change: ChangeRecord) -> SecretInfo:
        """Make a version unusable for ever and erase its ciphertext; raise ``NotFound``."""
        ...

    async def bind_secret(self, path: str, workloads: Sequence[str], change: ChangeRecord) -> SecretInfo:
        """Replace the set of workloads that may have the secret; raise ``NotFound``."""
        ...


class SecretOpener(Protocol):
    """The one role that can name a ciphertext. Only the release path holds it."""

    async def newest_version(self, path: str) -> SealedVersion:
        """Return the newest active version; raise ``NotFound``."""
        ...


class KeyEncryptionKey(Protocol):
    """Wraps data keys. Raises ``KeyUnavailable``."""

    @property
    def id(self) -> str:
        """Names the key, so that rotation can be followed."""
        ...

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Wrap a 32-byte data key; ``context`` (secret path and version) is authenticated."""
        ...

    async def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        """Unwrap; fails if ``context`` or the key differ."""
        ...


# --- challenges -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """An issued challenge. ``value`` (64 bytes) commits to ``jwk`` through ``salt``; ``jwk`` is the public JWK with its ``alg``."""

    id: str
    secret: str
    value: bytes
    salt: bytes
    jwk: Mapping[str, str]
    issued_at: datetime
    expires_at: datetime


class ChallengeOutcome(StrEnum):
    """Why a redemption gave no challenge."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REDEEMED = "redeemed"


class ChallengeStore(Protocol):
    """Issues and redeems challenges; any replica may do either."""

    async def issue(self, challenge: Challenge) -> None:
        """Store it."""
        ...

    async def redeem(self, challenge_id: str, at: datetime) -> Challenge | ChallengeOutcome:
        """Take the challenge out of circulation in one atomic statement: of any number of callers one gets it, once."""
        ...

    async def purge(self, before: datetime) -> int:
        """Forget challenges that expired before ``before``; return how many."""
        ...


# --- records ----------------------------------------------------------------------------------------------------------


class RecordWriter(Protocol):
    """Writes the record. No record, no release."""

    async def append_appraisal(self, record: AppraisalRecord, payloads: Mapping[str, bytes]) -> None:
        """Commit the appraisal with its payloads (kind -> bytes; content-addressed by SHA-256, stored once)."""
        ...

    async def append_release(self, release: ReleaseRecord, *, registry_sequence: int) -> None:
        """Commit the release.

        Raise ``Conflict`` if the registry moved on from ``registry_sequence`` since the appraisal read it: then a
        revocation may have been acknowledged in between, and nothing may be released.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalFilter:
    """Every given condition must hold. ``before`` and ``after`` are times; ``cursor`` is the id of the last one seen."""

    verdict: VerdictKind | None = None
    secret: str | None = None
    workload: str | None = None
    finding: str | None = None
    image: str | None = None
    instance_id: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    cursor: str | None = None
    limit: int = 50


class RecordReader(Protocol):
    """Reads the record; cannot write it."""

    async def list_appraisals(self, condition: AppraisalFilter) -> list[AppraisalRecord]:
        """Return matching appraisals, newest first."""
        ...

    async def get_appraisal(self, appraisal_id: str) -> tuple[AppraisalRecord, list[ReleaseRecord]]:
        """Return one appraisal and what was released after it; raise ``NotFound``."""
        ...

    async def get_payload(self, sha256: str) -> bytes:
        """Return a stored payload; raise ``NotFound`` if it is unknown or was pruned."""
        ...

    async def count_releases(self, *, image: str) -> int:
        """Return how many releases followed an appraisal of a realm that had loaded the image."""
        ...

    async def list_changes(
        self, *, subject: str | None = None, cursor: int | None = None, limit: int = 50
    ) -> list[tuple[int, ChangeRecord]]:
        """Return administrative changes, newest first, each with its number."""
        ...


# --- principals -------------------------------------------------------------------------------------------------------


class PrincipalRole(StrEnum):
    """An auditor reads everything but secrets and changes nothing; an admin changes trust and cannot read a secret's value."""

    ADMIN = "admin"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody with a bearer token. The token itself is never stored, only its SHA-256."""

    name: str
    role: PrincipalRole
    created_at: datetime
    expires_at: datetime | None = None
    revoked: bool = False


class PrincipalStore(Protocol):
    """Administrators and auditors."""

    async def add_principal(self, principal: Principal, token_sha256: bytes, change: ChangeRecord) -> None:
        """Raise ``Conflict`` if the name is taken."""
        ...

    async def find_principal(self, token_sha256: bytes, at: datetime) -> Principal | None:
        """Return the owner of a live token, or None."""
        ...

    async def list_principals(self) -> list[Principal]:
        """Return all, ordered by name."""
        ...

    async def revoke_principal(self, name: str, change: ChangeRecord) -> Principal:
        """Raise ``NotFound``."""
        ...


class Health(Protocol):
    """Answers whether the database can be used."""

    async def check_store(self) -> None:
        """Raise ``StoreUnavailable`` if the database does not answer or is at another schema version."""
        ...


# --- external verifier ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierAnswer:
    """What an external verifier said, unjudged: the attestation result as compact JWS and what is needed to judge it.

    ``discovery_keys`` are the public JWKs that the verifier publishes about itself; they are trusted only by explicit choice.
    """

    attestation_result: str
    discovery_keys: tuple[Mapping[str, Any], ...]
    verifier: str
    duration_us: int


class PlatformVerifier(Protocol):
    """Appraises the platform half of a CCA token."""

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        """Send the token for a session with this 64-byte nonce; raise ``VerifierUnavailable`` if no usable answer came in time."""
        ...

    async def check(self) -> None:
        """Raise ``VerifierUnavailable`` if the verifier is not ready."""
        ...

    async def close(self) -> None:
        """Release connections and background work."""
        ...
