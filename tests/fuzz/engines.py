"""Two engines that feed a target: libFuzzer's coverage guidance through atheris, and plain random mutation without it.

Both run in a process of their own (``campaign`` forks it) and hand every input to the same ``Probe``.
"""

import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tests.fuzz.board import Board, Tally
from tests.fuzz.examination import Target, examine
from tests.fuzz.mutation import Mutator

INSTRUMENTED = ("kbs_rim", "tests", "tomllib", "joserfc")
"""What gets coverage counters under atheris: our code, what decodes fuzz inputs, and the pure Python readers behind ours."""
SLOWNESS = {"atheris": 8.0, "random": 1.0}
"""How much more CPU time instrumented code may take."""
_TWICE_IN = 8
_KNOWN_MAX = 4000


class Probe:
    """Examines inputs until the time is up; ends the process with exit code 0 then, and with 1 at the first broken promise."""

    def __init__(self, target: Target, board: Board, seconds: float, slowness: float) -> None:
        """``seconds`` is wall-clock time from now on."""
        self._target, self._board, self._slowness = target, board, slowness
        self._deadline = time.monotonic() + seconds
        self._inputs = self._accepted = 0
        self._slowest_ms = 0.0
        self._labels: set[str] = set()

    def __call__(self, data: bytes) -> bool:
        """Examine one input and say whether its outcome was a new one."""
        if time.monotonic() >= self._deadline:
            os._exit(0)
        self._board.current = data
        try:
            # Which inputs run twice follows from the input alone, so that a finding can be repeated.
            examined = examine(self._target, data, slowness=self._slowness, twice=zlib.crc32(data) % _TWICE_IN == 0)
        except BaseException:  # noqa: BLE001 - anything that leaves a target is a finding, exits and panics included
            self._board.report = traceback.format_exc()
            self._note(data, 0.0)
            os._exit(1)
        known = len(self._labels)
        self._labels.add(examined.label)
        self._accepted += examined.accepted
        self._note(data, examined.cpu_ms)
        return len(self._labels) > known

    def _note(self, data: bytes, cpu_ms: float) -> None:
        self._inputs += 1
        if cpu_ms > self._slowest_ms:
            self._slowest_ms, self._board.slowest = cpu_ms, data
        self._board.tally = Tally(self._inputs, self._accepted, len(self._labels), self._slowest_ms)


def run_random(target: Target, probe: Probe, inputs: Sequence[bytes], corpus: Path, *, seed: int) -> NoReturn:
    """Feed every known input, then mutations of them. An input with an outcome that was never seen is kept and mutated too."""
    pool = [data[: target.max_bytes] for data in inputs]
    mutator = Mutator(seed, target.words, target.max_bytes)
    for data in _forever(pool, mutator):
        if probe(data) and len(pool) < _KNOWN_MAX:
            pool.append(data)
            (corpus / f"outcome-{zlib.crc32(data):08x}").write_bytes(data)
    raise AssertionError("the probe ends the process")


def _forever(pool: Sequence[bytes], mutator: Mutator) -> Iterator[bytes]:
    yield b""
    yield from tuple(pool)
    while True:
        yield mutator.mutate(pool or (b"",))


def run_atheris(target: Target, probe: Probe, inputs: Sequence[bytes], corpus: Path, *, seed: int, scratch: Path) -> NoReturn:
    """Hand over to libFuzzer, whose words go to file descriptor 2. New inputs that reach new code are kept in ``corpus``."""
    import atheris

    seeds = scratch / f"seeds-{target.name}"
    seeds.mkdir()
    for number, data in enumerate(inputs):
        (seeds / f"{number:04}").write_bytes(data[: target.max_bytes])
    options = [f"-seed={seed}", f"-max_len={target.max_bytes}", "-len_control=0", "-timeout=3600", "-rss_limit_mb=4096"]
    if target.words:
        words = scratch / f"words-{target.name}"
        words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
        options.append(f"-dict={words}")

    def one_input(data: bytes) -> None:
        probe(data)

    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={scratch}/", str(corpus), str(seeds)], one_input)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def atheris_reason() -> str | None:
    """Why atheris cannot be used here, or None if it can."""
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def instrumented(load: Callable[[], dict[str, Target]]) -> dict[str, Target]:
    """Load targets, and through them the package, with coverage counters; must come before any other import of the package."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED), enable_loader_override=False):
        return load()
