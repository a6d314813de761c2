"""How fast images are hashed and RIM chains extended, as ratios to bare hashlib loops in the same run. Prints only.

Usage: python benchmarks/bench_granules.py [MIB]
"""

import hashlib
import os
import struct
import sys
import time
from collections.abc import Callable

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, MIB
from kbs_rim.measurement.chain_kernel import NATIVE, KernelChoice, choose
from kbs_rim.measurement.granules import Alignment, lead_of
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rmm import RealmCreate, RimChain, RmmVersion

ROUNDS = 3
CHAIN_GRANULES = 25_600
"""100 MiB of images."""


def best_of(work: Callable[[], object]) -> float:
    """Return the shortest of some runs in seconds: the others were disturbed."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def bare_image(data: bytes) -> None:
    """The hashing that cannot be avoided: three whole digests, and each granule in three algorithms and two layouts."""
    view = memoryview(data)
    for name in ("sha256", "sha384", "sha512"):
        new = getattr(hashlib, name)
        new(data).digest()
        for lead in (0, lead_of(Alignment.END, len(data))):
            offset = -lead % GRANULE_SIZE
            digests = [new(view[at : at + GRANULE_SIZE]).digest() for at in range(offset, len(data), GRANULE_SIZE)]
            b"".join(digests)


def bare_chain(algorithm: HashAlgorithm, digests: bytes) -> None:
    """One hash of 256 bytes for each granule, nothing else but what makes the bytes differ."""
    new, size, join = getattr(hashlib, algorithm.compact_name), algorithm.digest_size, b"".join
    pack, rim, pad = struct.Struct("<Q").pack, bytes(size), bytes(64 - size)
    head, mid, tail = bytes(16), bytes(8), pad + bytes(96)
    for start in range(0, len(digests), size):
        rim = new(join((head, rim, pad, pack(start), mid, digests[start : start + size], tail))).digest()


def chain(algorithm: HashAlgorithm, digests: bytes) -> None:
    """The same with RimChain."""
    RimChain(RmmVersion.V2_0, RealmCreate(algorithm, flags=0, s2sz=40)).data_run(0x80000000, digests)


def main() -> None:
    """Print both comparisons."""
    size = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 64 * MIB
    data = os.urandom(size - 100)
    ours, bare = best_of(lambda: measure_image(data)), best_of(lambda: bare_image(data))
    print(f"image of {size // MIB} MiB, 3 algorithms x 2 alignments + 3 file digests")
    print(f"  measure_image {size / MIB / ours:8.1f} MiB/s")
    print(f"  bare hashlib  {size / MIB / bare:8.1f} MiB/s   ratio {ours / bare:.2f}")
    for algorithm in HashAlgorithm:
        digests = os.urandom(CHAIN_GRANULES * algorithm.digest_size)
        bare = best_of(lambda: bare_chain(algorithm, digests))  # noqa: B023
        print(f"RIM chain, {CHAIN_GRANULES} granules, {algorithm.value}")
        print(f"  bare hashlib  {bare / CHAIN_GRANULES * 1e9:8.0f} ns per granule")
        for choice in [KernelChoice.PURE] + [KernelChoice.NATIVE] * (NATIVE is not None):
            choose(choice)
            ours = best_of(lambda: chain(algorithm, digests))  # noqa: B023
            print(f"  {choice:<12}  {ours / CHAIN_GRANULES * 1e9:8.0f} ns per granule   ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main()
