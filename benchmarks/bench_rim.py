"""A cold RIM: 100 MiB of images with known granule digests, as a ratio to the bare hash chain in the same run; and warm ones.

The floor is the shortest loop that Python can run over the same blocks: one hashlib call per 256-byte descriptor that
is already built. Our replay builds the descriptors as well. Warm: the same plan again, and one that differs in its last image only,
which goes on from where the two part. Prints; judges nothing.
"""

import hashlib
import time

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, MIB
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, RecRecord, RipasRecord
from kbs_rim.measurement.chain_kernel import NATIVE, NATIVE_STATE, KernelChoice, choose
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from kbs_rim.measurement.replay import ReplayWork, match_rim, replay_rim
from kbs_rim.measurement.rmm import RealmCreate, RecCreate, RmmVersion
from kbs_rim.services.replay_cache import RimCache

SIZE = 100 * MIB
ROUNDS = 9
BASE = 0x80000000
TOP = BASE + 256 * MIB


class _Some:
    """An image lookup with some images."""

    def __init__(self, *images: ImageMeasurements) -> None:
        self.images = images

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> ImageMeasurements | None:
        """Return the image if it is one of them."""
        return next((image for image in self.images if image.digests[algorithm] == digest), None)


def floor(algorithm: HashAlgorithm, count: int) -> float:
    """Seconds for ``count`` chained hashes of ready-made 256-byte blocks."""
    new = getattr(hashlib, algorithm.compact_name)
    tail = bytes(256 - algorithm.digest_size)
    state = bytes(algorithm.digest_size)
    start = time.perf_counter()
    for _ in range(count):
        state = new(state + tail).digest()
    return time.perf_counter() - start


def plan_of(image: ImageMeasurements, algorithm: HashAlgorithm, *last: LoadedImage) -> BootPlan:
    """Return a plan that loads ``image`` and then ``last``."""
    create = CreateRecord(2, RealmCreate(algorithm, 0, 41, num_bps=5, num_wps=3))
    load = LoadedImage(4, "KERNEL", BASE, SIZE, image.digests[algorithm], algorithm)
    rec = RecRecord(9, RecCreate(1, BASE, (BASE, 0, 0, 0, 0, 0, 0, 0)))
    return BootPlan(algorithm, None, create, (RipasRecord(3, BASE, 512 * MIB), load, *last, rec))


def warm(image: ImageMeasurements, small: ImageMeasurements) -> None:
    """Print what a replay costs that has seen the same plan, or the beginning of it."""
    algorithm, dialect = HashAlgorithm.SHA256, [Dialect(RmmVersion.V2_0)]
    images = _Some(image, small)

    def release(last: LoadedImage, cache: RimCache) -> float:
        start = time.perf_counter()
        work = ReplayWork(DEFAULT_LIMITS.replay_granules, cache.as_of(1))
        match_rim(plan_of(image, algorithm, last), images, bytes(32), dialect, work=work)
        return time.perf_counter() - start

    cold, again, prefix = [], [], []
    for _ in range(ROUNDS):
        cache = RimCache(DEFAULT_LIMITS)
        here, there = (LoadedImage(5, "INITRD", base, small.size, small.digests[algorithm], algorithm) for base in (TOP, TOP + MIB))
        cold.append(release(here, cache))
        again.append(release(here, cache))
        prefix.append(release(there, cache))
    print(
        f"  warm, {algorithm.value}: cold {min(cold) * 1e3:.2f} ms; same plan {min(again) * 1e3:.3f} ms; same but for the last MiB "
        f"{min(prefix) * 1e3:.2f} ms"
    )


def main() -> None:
    """Measure everything and print the best of each."""
    image = measure_image(hashlib.sha256(b"seed").digest() * (SIZE // 32))
    granules = SIZE // GRANULE_SIZE
    print(f"cold RIM of {SIZE // MIB} MiB ({granules} granules), known granule digests, best of {ROUNDS}")
    kernels = [KernelChoice.PURE] + [KernelChoice.NATIVE] * (NATIVE is not None)
    if NATIVE is None:
        print(f"  no native kernel: {NATIVE_STATE}")
    for algorithm in HashAlgorithm:
        plan = plan_of(image, algorithm)
        times: dict[str, list[float]] = {"floor": [], **{choice: [] for choice in kernels}}
        for _ in range(ROUNDS):  # side by side, for the machine is not equally fast all the time
            times["floor"].append(floor(algorithm, granules))
            for choice in kernels:
                choose(choice)
                start = time.perf_counter()
                replay_rim(plan, _Some(image), Dialect(RmmVersion.V2_0))
                times[choice].append(time.perf_counter() - start)
        bare = min(times["floor"])
        print(f"  {algorithm.value}: bare chain {bare / granules * 1e9:5.0f} ns/granule")
        for choice in kernels:
            ours, code = min(times[choice]), choose(choice).implementations[algorithm.value]
            print(f"    {choice:<6} ({code}) {ours * 1e3:6.1f} ms = {ours / granules * 1e9:5.0f} ns/granule; ratio {ours / bare:.2f}")
    small = measure_image(hashlib.sha256(b"small").digest() * (MIB // 32))
    for choice in kernels:
        choose(choice)
        print(f"  {choice}", end="")
        warm(image, small)


if __name__ == "__main__":
    main()
