"""What appraisals need not do twice: RIMs that were computed here, and granule digests that were fetched here.

In process memory, bounded, least recently used first out. Nothing is keyed or filled by what a log merely claims: a RIM is keyed by
the exact operations, the realm parameters and the ids of the images (hashes of their bytes), and only what the replay computed goes
in. Neither cache decides anything: every appraisal reads the images' states from the database first, so a RIM of a revoked image is
never looked up. It is dropped all the same, before the first appraisal of this process that knows of the revocation looks anything up,
and exactly those that depended on that image; nor does an appraisal that began before put one back.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import ImageMeasurements

_REVOCATIONS_REMEMBERED = 4096


CACHE_COUNTS = {
    "hits": "Found",
    "misses": "Not found",
    "evicted": "Left for want of room",
    "dropped": "Left because an image was revoked",
    "refused": "Not taken because an image was revoked meanwhile",
}
"""What is counted of a cache, and what that means."""


@dataclass(slots=True)
class CacheCounts:
    """How a cache is doing since the process started; ``CACHE_COUNTS`` says what each number means."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    dropped: int = 0
    refused: int = 0


class RimCache:
    """Operations to RIM, with the images that each RIM depends on. Safe to use from several threads."""

    def __init__(self, limits: Limits) -> None:
        """Hold at most ``limits.rim_cache_entries`` RIMs."""
        self._most = limits.rim_cache_entries
        self._rims: OrderedDict[Hashable, tuple[bytes, frozenset[str]]] = OrderedDict()
        self._revoked: OrderedDict[str, int] = OrderedDict()
        self._oldest_view = 0
        self._lock = threading.Lock()  # replays run in several threads
        self.counts = CacheCounts()
        self.prefixes = CacheCounts()

    def __len__(self) -> int:
        return len(self._rims)

    def as_of(self, sequence: int) -> "RimView":
        """Return the cache as an appraisal may use it that read the registry at ``sequence``."""
        return RimView(self, sequence)

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

    def furthest(self, keys: Sequence[Hashable]) -> tuple[int, bytes] | None:
        """Return the last of ``keys`` that is known, as its position, and its RIM; None if none is. ``prefixes`` counts these."""
        with self._lock:
            for position in range(len(keys) - 1, -1, -1):
                if (found := self._rims.get(keys[position])) is not None:
                    self._rims.move_to_end(keys[position])
                    self.prefixes.hits += 1
                    return position, found[0]
            self.prefixes.misses += 1
            return None

    def put(self, key: Hashable, rim: bytes, images: frozenset[str], *, sequence: int) -> None:
        """Remember a computed RIM and the ids of the images it depends on, unless one was revoked after ``sequence`` was read."""
        with self._lock:
            if sequence < self._oldest_view or not images.isdisjoint(self._revoked):
                self.counts.refused += 1
                return
            self._rims[key] = (rim, images)
            self._rims.move_to_end(key)
            while len(self._rims) > self._most:
                self._rims.popitem(last=False)
                self.counts.evicted += 1

    def drop_images(self, images: Iterable[str], *, sequence: int) -> int:
        """Forget exactly the RIMs that depend on one of ``images``, known to be revoked at ``sequence``; return how many.

        Revoked is for ever, so the ids are remembered: an appraisal that is still under way must not put such a RIM back. When
        there are too many ids, the oldest go, and with them the right of appraisals from before to put anything.
        """
        gone = frozenset(images)
        if not gone:
            return 0
        with self._lock:
            for image in gone:
                self._revoked.setdefault(image, sequence)
            while len(self._revoked) > _REVOCATIONS_REMEMBERED:
                self._oldest_view = max(self._oldest_view, self._revoked.popitem(last=False)[1])
            return self._drop(lambda depends: not depends.isdisjoint(gone))

    def knows_revoked(self, image: str) -> bool:
        """Tell whether ``image`` is among those that were dropped."""
        return image in self._revoked

    def clear(self) -> int:
        """Forget every RIM, and what was revoked; return how many RIMs."""
        with self._lock:
            self._revoked.clear()
            self._oldest_view = 0
            return self._drop(lambda _: True)

    def _drop(self, stale: Callable[[frozenset[str]], bool]) -> int:
        keys = [key for key, (_, depends) in self._rims.items() if stale(depends)]
        for key in keys:
            del self._rims[key]
        self.counts.dropped += len(keys)
        return len(keys)


@dataclass(frozen=True, slots=True)
class RimView:
    """Implements ``measurement.replay.RimMemo`` for one appraisal: what it computes counts as of the registry that it read."""

    cache: RimCache
    sequence: int

    def get(self, key: Hashable) -> bytes | None:
        """Return the RIM that was computed for ``key``, or None."""
        return self.cache.get(key)

    def furthest(self, keys: Sequence[Hashable]) -> tuple[int, bytes] | None:
        """Return the last of ``keys`` that is known, as its position, and its RIM; None if none is."""
        return self.cache.furthest(keys)

    def put(self, key: Hashable, rim: bytes, images: frozenset[str]) -> None:
        """Remember a computed RIM, unless an image of it was revoked meanwhile."""
        self.cache.put(key, rim, images, sequence=self.sequence)


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

    def __len__(self) -> int:
        return len(self._images)

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
            self.counts.evicted += 1

    def drop_images(self, images: Iterable[str]) -> int:
        """Forget what is known of ``images``: no realm that loads a revoked one is replayed. Return how many entries."""
        keys = [(image, algorithm) for image in images for algorithm in HashAlgorithm if (image, algorithm) in self._images]
        return self._drop(keys)

    def clear(self) -> int:
        """Forget everything; return how many entries."""
        return self._drop(list(self._images))

    def _drop(self, keys: Iterable[tuple[str, HashAlgorithm]]) -> int:
        dropped = [_size_of(self._images.pop(key)) for key in keys]
        self._held -= sum(dropped)
        self.counts.dropped += len(dropped)
        return len(dropped)


def _size_of(image: ImageMeasurements) -> int:
    return sum(len(digests) for digests in image.granules.values())
