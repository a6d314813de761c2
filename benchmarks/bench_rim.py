"""A cold RIM: 100 MiB of images with known granule digests, as a ratio to the bare hash chain in the same run.

The floor is the shortest loop that Python can run over the same blocks: one hashlib call per 256-byte descriptor that
is already built. Our replay builds the descriptors as well. Prints; judges nothing.
"""

import hashlib
import time

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, MIB
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, RecRecord, RipasRecord
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from kbs_rim.measurement.replay import replay_rim
from kbs_rim.measurement.rmm import RealmCreate, RecCreate, RmmVersion

SIZE = 100 * MIB
ROUNDS = 5
BASE = 0x80000000


class _One:
    """An image lookup with one image."""

    def __init__(self, image: ImageMeasurements) -> None:
        self.image = image

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> ImageMeasurements | None:
        """Return the image if it is the one."""
        return self.image if self.image.digests[algorithm] == digest else None


def floor(algorithm: HashAlgorithm, count: int) -> float:
    """Seconds for ``count`` chained hashes of ready-made 256-byte blocks."""
    new = getattr(hashlib, algorithm.compact_name)
    tail = bytes(256 - algorithm.digest_size)
    state = bytes(algorithm.digest_size)
    start = time.perf_counter()
    for _ in range(count):
        state = new(state + tail).digest()
    return time.perf_counter() - start


def main() -> None:
    """Measure both, interleaved, and print the best of each."""
    image = measure_image(hashlib.sha256(b"seed").digest() * (SIZE // 32))
    granules = SIZE // GRANULE_SIZE
    print(f"cold RIM of {SIZE // MIB} MiB ({granules} granules), known granule digests, best of {ROUNDS}")
    for algorithm in HashAlgorithm:
        plan = BootPlan(
            algorithm,
            None,
            CreateRecord(2, RealmCreate(algorithm, 0, 41, num_bps=5, num_wps=3)),
            (
                RipasRecord(3, BASE, 512 * MIB),
                LoadedImage(4, "KERNEL", BASE, SIZE, image.digests[algorithm], algorithm),
                RecRecord(5, RecCreate(1, BASE, (BASE, 0, 0, 0, 0, 0, 0, 0))),
            ),
        )
        times, floors = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            replay_rim(plan, _One(image), Dialect(RmmVersion.V2_0))
            times.append(time.perf_counter() - start)
            floors.append(floor(algorithm, granules))
        ours, bare = min(times), min(floors)
        print(
            f"  {algorithm.value}: {ours * 1000:6.1f} ms = {ours / granules * 1e9:5.0f} ns/granule; "
            f"bare chain {bare * 1000:6.1f} ms = {bare / granules * 1e9:5.0f} ns; ratio {ours / bare:.2f}"
        )


if __name__ == "__main__":
    main()
