"""The registry of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.workload import Role
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.measured_parts import MeasuredDigest


@dataclass(frozen=True, slots=True)
class FurtherProvenance:
    """Where an image comes from, as an administrator said it after somebody had registered it."""

    provenance: Mapping[str, Any]
    added_at: datetime
    added_by: str


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
    further_provenance: tuple[FurtherProvenance, ...] = ()
    """What was said later; only ``get_image`` fills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What became of an image that was to be registered: ``created``, or known and ``added`` to.

    ``added`` names what was not known of it: ``role NAME``, ``parts`` (what firmware and boot loaders measure), ``provenance``.
    """

    image_id: str
    created: bool
    added: tuple[str, ...] = ()


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

    async def add_images(self, images: Sequence[tuple[ImageRecord, ChangeRecord]]) -> list[Registration]:
        """Register all of them or none, as one change of the registry; of known ones add roles and provenance.

        Raise ``Conflict`` if one id is revoked or has other measurements.
        """
        ...

    async def set_image_state(self, image_id: str, state: ImageState, reason: str, change: ChangeRecord) -> ImageRecord:
        """Move to ``state``; raise ``NotFound``, or ``Conflict`` when leaving ``revoked``. Visible to all replicas on return."""
        ...
