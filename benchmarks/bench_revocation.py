"""Revocations while several processes release: the race of ``tests/revocation_race.py``, as long as one likes, and what it costs.

Every round revokes an image, retires a workload, erases a version or unbinds a secret while every process releases it; what must hold is
checked as in the tests. Prints how long a revocation waited for its acknowledgement, and how many releases there were meanwhile.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from kbs_rim.adapters.db.migrate import upgrade


async def measure(url: str, workers: int, rounds: int) -> None:
    """Run the race and print it; raise ``AssertionError`` if a promise was broken."""
    from tests.revocation_race import Race  # found through the path that ``main`` sets

    await upgrade(url)
    race = Race(url, workers, rounds)
    start = time.monotonic()
    await race.run()
    seconds = time.monotonic() - start
    race.check()
    waits = sorted(item.waited_ns / 1e6 for item in race.rounds)
    released = sum(event["outcome"] == "released" for worker in race.workers for event in worker.events)
    print(f"{rounds} revocations in {seconds:.0f} s under {workers} processes, {released} releases meanwhile; every promise held")
    print(f"    acknowledged after {statistics.median(waits):.1f} ms median, {waits[-1]:.1f} ms at most")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database (a SQLite file)")
    parser.add_argument("--workers", type=int, default=3, help="processes that release (3)")
    parser.add_argument("--rounds", type=int, default=40, help="revocations (40)")
    options = parser.parse_args()
    repository = Path(__file__).parents[1]
    sys.path[:0] = [str(repository), str(repository / "tests")]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options.database or f"sqlite:///{folder}/race.db", options.workers, options.rounds))


if __name__ == "__main__":
    main()
