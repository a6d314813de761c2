"""A trusted image as the appraisal sees it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import ImageMeasurements


class ImageState(StrEnum):
    """``active`` matches, ``deprecated`` matches with a warning, ``revoked`` never matches, and never again."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class RegisteredImage:
    """An image of the registry at the moment of the appraisal. ``id`` is ``sha256:<hex>`` of the loaded bytes."""

    id: str
    name: str
    roles: tuple[Role, ...]
    state: ImageState
    measurements: ImageMeasurements


class ImageSet:
    """The images one appraisal may look up: immutable, keyed by (algorithm, digest), never filled from a log.

    ``supplied`` is an image that came with the evidence, under the digests that we computed from its bytes. It lives as long as this
    set; where it is registered as well, the registry decides what it is.
    """

    def __init__(self, images: Iterable[RegisteredImage], supplied: RegisteredImage | None = None) -> None:
        """Index ``images`` by every digest of their loaded bytes."""
        self._by_digest = {(algorithm, digest): image for image in images for algorithm, digest in image.measurements.digests.items()}
        self._supplied = supplied

    def with_supplied(self, supplied: RegisteredImage | None) -> "ImageSet":
        """Return a set in which ``supplied`` is known as well; this one stays as it is."""
        return ImageSet(self._by_digest.values(), supplied)

    def registered(self, algorithm: HashAlgorithm, digest: bytes) -> RegisteredImage | None:
        """Return the image of the registry, whatever its state."""
        return self._by_digest.get((algorithm, digest))

    def known(self, algorithm: HashAlgorithm, digest: bytes) -> RegisteredImage | None:
        """Return the image of the registry, whatever its state, or else the supplied one. For explaining the RIM and nothing else."""
        image = self.registered(algorithm, digest)
        supplied = self._supplied
        if image is None and supplied is not None and supplied.measurements.digests[algorithm] == digest:
            return supplied
        return image

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> ImageMeasurements | None:
        """Return the measurements of an image that may match the RIM: a revoked one is not found."""
        image = self.known(algorithm, digest)
        return None if image is None or image.state is ImageState.REVOKED else image.measurements
