"""How fast an administrator's machine hashes images for registration, beside sha256sum and bare hashlib in the same run. Prints only.

Usage: python benchmarks/bench_image_hash.py [MIB]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_granules import ROUNDS, bare_image

from kbs_rim.appraisal.workload import Role
from kbs_rim.image_sources.finder import ImageFinder, Selection, SourceFile
from kbs_rim.image_sources.shared_work import SharedWork
from kbs_rim.limits import MIB
from kbs_rim.measurement.image import Work, in_turn

CHUNK_BYTES = 256 * 1024


def best_of_in_turn(works: Sequence[Callable[[], object]]) -> list[float]:
    """Return the shortest of some runs of each in seconds; taken in turn, so that a busy minute hits all alike."""
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def find(path: Path, do: Callable[[Sequence[Work]], None]) -> None:
    """What ``kbs-rim image add`` does with a file: recognise, and hash in one pass."""
    finder = ImageFinder(Selection(("*",), (Role.FIRMWARE,)), do=do)
    with path.open("rb", buffering=0) as file:
        finder.take(SourceFile(path.name, path.stat().st_size, "", None, lambda: iter(lambda: file.read(CHUNK_BYTES), b"")))


def main() -> None:
    """Print MB/s of each way, and what it costs in passes of sha256sum."""
    size = (int(sys.argv[1]) if len(sys.argv) > 1 else 64) * MIB - 100
    with tempfile.TemporaryDirectory() as folder, SharedWork() as threads:
        path = Path(folder) / "image"
        path.write_bytes(os.urandom(size))
        data = path.read_bytes()
        names = ("sha256sum", "bare hashlib, one thread", "kbs-rim, one thread", "kbs-rim, threads")
        times = best_of_in_turn(
            (
                lambda: subprocess.run(["sha256sum", str(path)], check=True, capture_output=True),
                lambda: bare_image(data),
                lambda: find(path, in_turn),
                lambda: find(path, threads),
            )
        )
    print(f"file of {size / 1e6:.0f} MB; 3 algorithms x (whole file + 2 layouts of granules); {os.cpu_count()} CPUs")
    for name, seconds in zip(names, times, strict=True):
        print(f"  {name:<26}{size / 1e6 / seconds:8.1f} MB/s   {seconds / times[0]:6.1f} x sha256sum   {seconds / times[1]:5.2f} x bare")


if __name__ == "__main__":
    main()
