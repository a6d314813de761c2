"""Registered images by everything that may be measured of them: the file, its Authenticode digest, sections of a UKI, volumes.

Like ``ImageSet`` it is immutable, never filled from a log, and holds images whatever their state: who judges looks at that.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.evidence.hash_algorithm import HashAlgorithm

WHOLE = frozenset({"file", "loaded", "authenticode", "authenticode-padded"})
"""Digests of a whole image. Sections, volumes and initrds may be parts of many, so one revoked image does not taint them for others."""


@dataclass(frozen=True, slots=True)
class KnownDigest:
    """A digest is that of ``what`` of ``image``; see ``measured_parts.MeasuredDigest`` for what there is."""

    image: RegisteredImage
    what: str

    @property
    def kind(self) -> str:
        """``what`` without the name of a section."""
        return self.what.partition(" ")[0]


class MeasuredImages:
    """The images one appraisal may find in REMs, keyed by (algorithm, digest of a part)."""

    def __init__(self, images: Iterable[RegisteredImage] = ()) -> None:
        """Index every digest of ``images``."""
        self.images = tuple(images)
        found: dict[tuple[HashAlgorithm, bytes], list[KnownDigest]] = defaultdict(list)
        for image in self.images:
            for measured in image.measurements.measured_digests():
                found[measured.algorithm, measured.digest].append(KnownDigest(image, measured.what))
        self._by_digest = {key: tuple(known) for key, known in found.items()}

    def known(self, algorithm: HashAlgorithm, digest: bytes) -> tuple[KnownDigest, ...]:
        """Return everything that the digest is known to be of; empty if nothing."""
        return self._by_digest.get((algorithm, digest), ())


NO_IMAGES = MeasuredImages()
