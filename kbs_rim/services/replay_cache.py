"""What appraisals need not do twice: RIMs that were computed here, and granule digests that were fetched here.

In process memory, bounded, least recently used first out. Nothing is keyed or filled by what a log merely claims: a RIM is keyed by
the exact operations, the realm parameters and the ids of the images (hashes of their bytes), and only what the replay computed goes
in. Neither cache decides anything: every appraisal reads the images' states from the database first, so a RIM of a revoked image is
never looked up; it is dropped all the same, and exactly those that depended on that image.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import ImageMeasurements


@dataclass(slots=True)
class CacheCounts:
    """How a cache is doing since the process started."""

    hits: int = 0
    misses: int = 0
    dropped: int = 0


class RimCache:
    """Implements ``measurement.replay.RimMemo``: operations to RIM, with the images that each RIM depends on."""

    def __init__(self, limits: Limits) -> None:
        """Hold at most ``limits.rim_cache_entries`` RIMs."""
        self._most = limits.rim_cache_entries
        self._rims: OrderedDict[Hashable, tuple[bytes, frozenset[str]]] = OrderedDict()
        self._lock = threading.Lock()  # replays run in several threads
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._rims)

    def get(self, key: Hashable) -> bytes | None:
        """Return the RIM that was computed for ``key``, or None."""
        with self._lock:
            found = self._rims.get(key)
            if found is None:
                self.counts.misses += 1
                return None
            self._rims.move_to_end(key)
            self.counts.hits += 1
            return found[0]

    def put(self, key: Hashable, rim: bytes, images: frozenset[str]) -> None:
        """Remember a computed RIM and the ids of the images it depends on."""
        with self._lock:
            self._rims[key] = (rim, images)
            self._rims.move_to_end(key)
            while len(self._rims) > self._most:
                self._rims.popitem(last=False)

    def drop_images(self, images: Iterable[str]) -> int:
        """Forget exactly the RIMs that depend on one of ``images``; return how many."""
        gone = frozenset(images)
        with self._lock:
            stale = [key for key, (_, depends) in self._rims.items() if depends & gone]
            for key in stale:
                del self._rims[key]
            self.counts.dropped += len(stale)
            return len(stale)


class GranuleCache:
    """Measurements with the granule digests of one algorithm, shared by all appraisals of a process.

    The measurements of a registered image never change, so an entry is right for ever. Used on the event loop only.
    """

    def __init__(self, limits: Limits) -> None:
        """Hold at most ``limits.granule_cache_bytes`` of digests."""
        self._most = limits.granule_cache_bytes
        self._held = 0
        self._images: OrderedDict[tuple[str, HashAlgorithm], ImageMeasurements] = OrderedDict()
        self.counts = CacheCounts()

    @property
    def held_bytes(self) -> int:
        """Size of the digests that are held."""
        return self._held

    def get(self, image_id: str, algorithm: HashAlgorithm) -> ImageMeasurements | None:
        """Return the image with the granule digests of ``algorithm``, or None."""
        found = self._images.get((image_id, algorithm))
        if found is None:
            self.counts.misses += 1
            return None
        self._images.move_to_end((image_id, algorithm))
        self.counts.hits += 1
        return found

    def put(self, image: ImageMeasurements, algorithm: HashAlgorithm) -> None:
        """Remember an image; one whose digests alone exceed the bound is not kept."""
        key, kept = (image.image_id, algorithm), image.with_granules_of(algorithm)
        if _size_of(kept) > self._most or key in self._images:
            return
        self._images[key] = kept
        self._held += _size_of(kept)
        while self._held > self._most:
            _, evicted = self._images.popitem(last=False)
            self._held -= _size_of(evicted)
            self.counts.dropped += 1


def _size_of(image: ImageMeasurements) -> int:
    return sum(len(digests) for digests in image.granules.values())
