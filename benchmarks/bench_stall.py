"""How long the event loop is held up while heavy work is done beside it: the longest of many delays of a 1 ms timer. Prints only.

Guests, administrators and health checks are answered by one thread. Heavy work runs in others, but they share the interpreter's
lock, so the loop waits whenever one of them keeps it. In each storm eight guests ask for the worst work of its kind, again and again.

On a machine with other work the timer is late for other reasons, too. So no delay counts for more than the CPU time that this process used
meanwhile: a thread that keeps the lock uses it. The delay by the clock is printed beside it.

Usage: python benchmarks/bench_stall.py [SECONDS]
"""

import asyncio
import gc
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, encode_evidence_json, parse_evidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.strict_json import decode_object
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, RipasRecord
from kbs_rim.measurement.chain_kernel import NATIVE, NATIVE_STATE, PURE, KernelChoice, choose, in_use
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.granules import Alignment, granule_count, lead_of
from kbs_rim.measurement.image import ImageKind, ImageMeasurements
from kbs_rim.measurement.replay import ReplayWork, match_rim
from kbs_rim.measurement.rmm import RealmCreate, RmmVersion
from kbs_rim.services.heavy_work import HeavyWork
from kbs_rim.wiring import prepare_process

TICK_S = 0.001
ROUNDS = 3
GUESTS = 8
BASE = 0x80000000
REPLAYED_MIB = 512
DOCUMENT_MIB = 256


def image_of(size_mib: int, algorithms: tuple[HashAlgorithm, ...]) -> ImageMeasurements:
    """Return an image of which nothing but the sizes is real: what it costs to judge it does not depend on its bytes."""
    size = size_mib * MIB - 100
    digests = {algorithm: os.urandom(algorithm.digest_size) for algorithm in HashAlgorithm}
    granules = {
        (algorithm, alignment): os.urandom(granule_count(size, lead_of(alignment, size)) * algorithm.digest_size)
        for algorithm in algorithms
        for alignment in Alignment
    }
    return ImageMeasurements(ImageKind.BLOB, None, size, digests, size, digests, None, None, granules)


class _One:
    def __init__(self, image: ImageMeasurements) -> None:
        self.image = image

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> ImageMeasurements | None:
        """Return the one image there is."""
        return self.image


def replay_storm(pause: Callable[[], None]) -> Callable[[], object]:
    """A cold replay in every dialect, none of which matches."""
    algorithm = HashAlgorithm.SHA512
    image = image_of(REPLAYED_MIB, (algorithm,))
    load = LoadedImage(3, "INITRD", BASE, image.size, image.digests[algorithm], algorithm)
    create = CreateRecord(1, RealmCreate(algorithm, 0, 41))
    plan = BootPlan(algorithm, None, create, (RipasRecord(2, BASE, 2048 * MIB), load))
    dialects = [Dialect(rmm, rounding, order) for rmm in RmmVersion for rounding in Rounding for order in Order]
    return lambda: match_rim(plan, _One(image), bytes(64), dialects, work=ReplayWork(DEFAULT_LIMITS.replay_granules, pause=pause))


def envelope_storm() -> Callable[[], object]:
    """An envelope as large as a body may be."""
    logs = ((LogKind.VMM, os.urandom(DEFAULT_LIMITS.vmm_log_bytes)), (LogKind.CC, os.urandom(DEFAULT_LIMITS.log_bytes)))
    evidence = Evidence(b"\xd9\x01\x8f" + os.urandom(8192), logs, os.urandom(MIB // 3))
    body = encode_evidence_json(evidence)
    return lambda: parse_evidence(EVIDENCE_JSON_TYPE, body)


def log_storm() -> Callable[[], object]:
    """A log with as many events as one may have."""
    header = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2) + struct.pack("<IHHB", 1, HashAlgorithm.SHA256.tpm_id, 32, 0)
    first = struct.pack("<II20xI", 0, 3, len(header)) + header
    event = struct.pack("<IIIH", 1, 0x80000007, 1, HashAlgorithm.SHA256.tpm_id) + os.urandom(32) + struct.pack("<I", 64) + bytes(64)
    count = min(DEFAULT_LIMITS.log_events - 1, (DEFAULT_LIMITS.log_bytes - len(first)) // len(event))
    data = first + event * count
    return lambda: parse_tcg_log(data, LogKind.CC)


def document_storm() -> Callable[[], object]:
    """The registration of a large image: granule digests in all algorithms and both layouts, in base64."""
    image = image_of(DOCUMENT_MIB, tuple(HashAlgorithm))
    body = json.dumps({"measurements": image.to_document()}).encode()
    most = DEFAULT_LIMITS.admin_body_bytes

    def read() -> object:
        document = decode_object(body, max_bytes=most, max_depth=12, max_items=100_000)
        return ImageMeasurements.from_document(document["measurements"])

    return read


def tree_storm() -> Callable[[], object]:
    """A device tree with as many nodes as one may have."""
    strings, body = b"reg\0", struct.pack(">II", 1, 0)
    for number in range(DEFAULT_LIMITS.device_tree_nodes - 1):
        body += struct.pack(">I", 1) + f"n{number:07x}".encode() + bytes(4) + struct.pack(">IIIQ", 3, 8, 0, number) + struct.pack(">I", 2)
    body += struct.pack(">II", 2, 9)
    at = 40 + 16
    header = (0xD00DFEED, at + len(body) + len(strings), at, at + len(body), 40, 17, 16, 0, len(strings), len(body))
    blob = struct.pack(">10I", *header) + bytes(16) + body + strings
    return lambda: parse_device_tree(blob)


READING = {"envelope": envelope_storm, "log": log_storm, "device tree": tree_storm, "image document": document_storm}


async def lags_during(work: Sequence[tuple[Executor, Callable[[], object]]], seconds: float) -> tuple[list[tuple[float, float]], int]:
    """Return by how much each tick was late, for how much of it this process can be blamed, and how often the work was done meanwhile."""
    loop, end, done = asyncio.get_running_loop(), time.perf_counter() + seconds, 0

    async def keep_busy(executor: Executor, task: Callable[[], object]) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await loop.run_in_executor(executor, task)
            done += 1

    busy = [asyncio.create_task(keep_busy(executor, task)) for executor, task in work for _ in range(GUESTS)]
    lags = []
    while time.perf_counter() < end:
        before, cpu_before = time.perf_counter(), time.process_time()
        await asyncio.sleep(TICK_S)
        late = time.perf_counter() - before - TICK_S
        lags.append((late, min(late, time.process_time() - cpu_before)))
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    return lags, done


def measure(name: str, make: Callable[[], HeavyWork], storms: Sequence[tuple[str, Callable[[], object]]], seconds: float) -> None:
    """Run one storm ``ROUNDS`` times and print the middle one: other processes of the machine make the timer late, too."""
    rows = []
    for _ in range(ROUNDS):
        heavy = make()
        lanes = {"replay": heavy.replays.door(GUESTS)}
        work = [(lanes.get(kind) or heavy.reading.door(GUESTS), task) for kind, task in storms]
        gc.collect()
        lags, done = asyncio.run(lags_during(work, seconds / ROUNDS))
        heavy.stop()
        heavy.wait()
        ours = sorted(own for _, own in lags)
        rows.append((ours[-1] * 1e3, max(lags)[0] * 1e3, ours[len(ours) * 99 // 100] * 1e3, ours[len(ours) // 2] * 1e3, done))
    longest, wall, late, middle, done = sorted(rows)[ROUNDS // 2]
    print(f"  {name:<24} longest {longest:6.1f} ms   99% {late:6.1f}   median {middle:5.2f}   (by the clock {wall:6.1f})   {done} done")


def main() -> None:
    """Run every storm, the replays with each kernel."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 6
    cores = len(os.sched_getaffinity(0))
    prepared = {name: prepare() for name, prepare in READING.items()}
    reading = list(prepared.items())
    paused: list[HeavyWork] = []

    def lanes(threads: int) -> HeavyWork:
        paused[:] = [HeavyWork(threads, native=in_use() is not PURE)]
        return paused[0]

    replay = replay_storm(lambda: paused[0].replays.pause())  # noqa: PLW0108 - the lane is another one in each run
    prepare_process()
    print(f"lateness of a 1 ms timer, the middle of {ROUNDS} runs; 1 thread reads, switch interval {sys.getswitchinterval() * 1e3:g} ms")
    measure("nothing", lambda: lanes(1), [], seconds)
    for name, task in reading:
        measure(name, lambda: lanes(1), [(name, task)], seconds)
    for choice, threads in ((KernelChoice.NATIVE, cores), (KernelChoice.PURE, 1)):
        if choice is KernelChoice.NATIVE and NATIVE is None:
            print(f"  no native kernel: {NATIVE_STATE}")
            continue
        choose(choice)
        measure(f"{choice} replays ({threads})", lambda: lanes(threads), [("replay", replay)], seconds)  # noqa: B023
        measure(f"{choice} and all of it", lambda: lanes(threads), [("replay", replay), *reading], seconds)  # noqa: B023


if __name__ == "__main__":
    main()
