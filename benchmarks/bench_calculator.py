"""The calculator on files: a kernel and a large initrd, against the bare hashing of the same bytes in the same run.

The floor is what any calculator must do at least: read the files in pieces and hash each granule with hashlib. Ours adds the arguments, the
layout, the device tree and the chain. The peak memory is that of the whole process. Prints; judges nothing.
"""

import contextlib
import hashlib
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kbs_rim import cli
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, MIB

KERNEL_BYTES, INITRD_BYTES = 40 * MIB, 472 * MIB
ROUNDS = 3
_PIECE = 1 << 20


def write_images(folder: Path) -> tuple[Path, Path]:
    """Write a kernel with an arm64 header and an initrd; return their paths."""
    kernel, initrd = folder / "Image", folder / "initrd"
    header = bytearray(64)
    header[16:24] = (KERNEL_BYTES + 2 * MIB).to_bytes(8, "little")
    header[56:60] = b"ARMd"
    block = hashlib.shake_128(b"block").digest(_PIECE)
    kernel.write_bytes(bytes(header) + (block * (KERNEL_BYTES // _PIECE))[64:])
    with initrd.open("wb") as stream:
        for _ in range(INITRD_BYTES // _PIECE):
            stream.write(block)
    return kernel, initrd


def floor(paths: tuple[Path, ...], algorithm: HashAlgorithm) -> None:
    """Read and hash every granule, and keep the digests."""
    new = algorithm.constructor
    for path in paths:
        digests = bytearray()
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                view = memoryview(piece)
                digests += b"".join([new(view[at : at + GRANULE_SIZE]).digest() for at in range(0, len(piece), GRANULE_SIZE)])


def ours(paths: tuple[Path, ...], algorithm: HashAlgorithm) -> None:
    """Run the command in this process."""
    kernel, initrd = paths
    arguments = ["measure", "qemu", "-q", "-c", "fvp", "-k", str(kernel), "-i", str(initrd), "--rmm", "2.0", "--"]
    arguments += ["-M", "virt", "-object", f"rme-guest,measurement-algorithm={algorithm.compact_name}", "-smp", "4", "-m", "4G"]
    arguments += ["-kernel", "k", "-initrd", "i", "-append", "console=ttyAMA0"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        cli.main(arguments)


def timed(work: Callable[[tuple[Path, ...], HashAlgorithm], None], paths: tuple[Path, ...], algorithm: HashAlgorithm) -> float:
    """Seconds of CPU that one run takes, reading included: other programs on the machine disturb it less than the wall clock."""
    start = time.process_time()
    work(paths, algorithm)
    return time.process_time() - start


def main() -> None:
    """Measure both, interleaved, and print the best of each."""
    total = KERNEL_BYTES + INITRD_BYTES
    print(f"calculator on {total // MIB} MiB in two files, CPU seconds, best of {ROUNDS}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder))
        os.sync()
        for algorithm in HashAlgorithm:
            floors, times = [], []
            for _ in range(ROUNDS):
                floors.append(timed(floor, paths, algorithm))
                times.append(timed(ours, paths, algorithm))
            bare, full = min(floors), min(times)
            print(
                f"  {algorithm.value}: {full:6.2f} s = {total / full / MIB:6.0f} MiB/s; bare hashing {bare:6.2f} s = "
                f"{total / bare / MIB:6.0f} MiB/s; ratio {full / bare:.2f}"
            )
    print(f"  peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
