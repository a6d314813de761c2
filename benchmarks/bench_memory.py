"""Memory of one worker: idle, after challenges, and with thousands of large images registered. Prints only.

``--images N`` fills the database with N images of ``--size-mib`` MiB: real rows, a blob of granule digests for each layout, SHA-256. The
worker is measured with an empty and with the full registry, and so is a process that looks up every single image with its granule
digests, as N different realms would have it do. 10,000 images of 64 MiB need 11 GB of disk.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kbs_rim.adapters.db import open_store
from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.granules import Alignment, granule_count, lead_of
from kbs_rim.measurement.image import PART_MEMBERS, ImageMeasurements, measure_image
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.services.trust_lookup import TrustLookup

COMMAND = [sys.executable, "-m", "kbs_rim.cli"]
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
ALGORITHM = HashAlgorithm.SHA256
AT_ONCE = 50


def resident_mib(pid: int | str) -> float:
    """Return the resident set of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def configure(folder: Path) -> Path:
    """Write keys and a configuration for a broker with free ports."""
    generate_key_file(folder / "kek")
    (folder / "ear.jwk").write_text(json.dumps(SigningKey.generate().public_jwk()))
    config = folder / "kbs_rim.toml"
    config.write_text(
        f'[http.guest]\nlisten = "127.0.0.1:0"\n[http.internal]\nlisten = "127.0.0.1:0"\n'
        f'[database]\nurl = "sqlite:///{folder}/kbs_rim.db"\n[secrets]\nkek_file = "{folder}/kek"\n'
        f'[verifier]\npinned_keys_files = ["{folder}/ear.jwk"]\n[service]\nlog_level = "warning"\n'
    )
    return config


@contextmanager
def serving(config: Path) -> Iterator[tuple[int, str, float]]:
    """Run a worker; yield its process id, the address for guests, and how many seconds it took to be there."""
    start = time.perf_counter()
    worker = subprocess.Popen([*COMMAND, "serve", "-c", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        if worker.stderr is None:
            raise RuntimeError("no standard error")
        line = next(line for line in worker.stderr if line.startswith("guests: "))
        yield worker.pid, line.split()[1], time.perf_counter() - start
    finally:
        worker.terminate()
        worker.wait(30)


def measure_worker(config: Path, title: str) -> None:
    """Start a broker, look at it, use it a little, look again."""
    with serving(config) as (pid, address, seconds):
        time.sleep(0.5)
        print(f"{title}: ready after {seconds:.1f} s, {resident_mib(pid):.1f} MiB resident", end="")
        body = json.dumps({"pubkey": JWK}).encode()
        for _ in range(200):
            request = urllib.request.Request(f"http://{address}/keys/v1/key/k", body, {"Content-Type": "application/json"})
            urllib.request.urlopen(request).read()
        print(f", after 200 challenges {resident_mib(pid):.1f} MiB", flush=True)


def image_of(number: int, size: int) -> ImageMeasurements:
    """Return measurements of an image of ``size`` bytes, as registration makes them but for the contents of the digests."""
    digests = {algorithm: algorithm.digest(number.to_bytes(8, "big")) for algorithm in HashAlgorithm}
    blobs = random.Random(number)
    granules = {
        (ALGORITHM, alignment): blobs.randbytes(granule_count(size, lead_of(alignment, size)) * ALGORITHM.digest_size)
        for alignment in Alignment
    }
    plain = measure_image(b"an image")
    return replace(plain, size=size, file_size=size, digests=digests, file_digests=digests, granules=granules)


def fill(database: Path, count: int, size: int) -> None:
    """Write ``count`` images in bulk. A power failure here costs a benchmark, so nothing is synchronised."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    for first in range(0, count, AT_ONCE):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(first, min(count, first + AT_ONCE)):
            image = image_of(number, size)
            members = image.with_granules_of().to_document()
            document = json.dumps({name: value for name, value in members.items() if name not in PART_MEMBERS})
            connection.execute("INSERT INTO images VALUES (?, 'bench', ?, '{}', ?, 'bench')", (image.image_id, document, at))
            connection.execute(
                "INSERT INTO image_revisions (image_id, revision, roles, state, state_at, state_by, state_reason, recorded_at, recorded_by)"
                " VALUES (?, 1, '[\"initrd\"]', 'active', ?, 'bench', '', ?, 'bench')",
                (image.image_id, at, at),
            )
            for algorithm, digest in image.digests.items():
                connection.execute("INSERT INTO image_digests VALUES (?, ?, ?)", (algorithm.value, digest, image.image_id))
            for (algorithm, alignment), blob in image.granules.items():
                connection.execute(
                    "INSERT INTO image_granules VALUES (?, ?, ?, ?)", (image.image_id, algorithm.value, alignment.value, blob)
                )
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def look_up_all(url: str, count: int) -> None:
    """Look up every image with its granule digests the way appraisals do, and print what that leaves in memory."""
    store = open_store(url)
    lookup = TrustLookup(store.trust, store.images, DEFAULT_LIMITS)
    before, highest, start = resident_mib("self"), 0.0, time.perf_counter()
    for number in range(count):
        digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
        view = await store.trust.view("", [(ALGORITHM.value, digest)], since=None)
        images: list[RegisteredImage] = await lookup._with_granules(view.images, ALGORITHM)
        if not images or not images[0].measurements.granules:
            raise RuntimeError("an image is missing")
        del images
        if number % AT_ONCE == 0:
            highest = max(highest, resident_mib("self"))
    each_ms = (time.perf_counter() - start) / count * 1000
    held = lookup.granules
    print(
        f"every image looked up once ({each_ms:.1f} ms each): from {before:.1f} to at most {max(highest, resident_mib('self')):.1f} MiB "
        f"resident; the cache holds {len(held)} images in {held.held_bytes / MIB:.0f} MiB and let go of {held.counts.evicted}"
    )
    await store.close()


def main() -> None:
    """Measure a worker on an empty registry, and on a full one if that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="how many images to register (200; 0 leaves that out)")
    parser.add_argument("--size-mib", type=int, default=64, help="their size (64)")
    parser.add_argument("--folder", type=Path, help="where the database goes: it needs 1.1 MiB for each 64 MiB of images")
    parser.add_argument("--look-up", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look_up:
        asyncio.run(look_up_all(options.look_up, options.images))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        config, database = configure(Path(name)), Path(name) / "kbs_rim.db"
        subprocess.run([*COMMAND, "db", "upgrade", "-c", str(config)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        measure_worker(config, "no images")
        if not options.images:
            return
        start = time.perf_counter()
        fill(database, options.images, options.size_mib * MIB)
        gib = database.stat().st_size / 1024**3
        print(
            f"{options.images} images of {options.size_mib} MiB: {gib:.2f} GiB of database, written in {time.perf_counter() - start:.0f} s"
        )
        os.sync()
        with serving(config):  # gigabytes of writes pushed the programs out of the page cache
            pass
        measure_worker(config, f"{options.images} images")
        command = [sys.executable, __file__, "--look-up", f"sqlite:///{database}", "--images", str(options.images)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
