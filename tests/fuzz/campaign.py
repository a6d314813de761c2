"""Fuzz targets one after the other, each in a process of its own, and tell what became of them."""

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from tests.fuzz.board import Board, Tally
from tests.fuzz.engines import SLOWNESS, Probe, run_atheris, run_random
from tests.fuzz.examination import Target

_COVERAGE = re.compile(rb"cov: (\d+) ft: (\d+)")
_POLL_S = 0.05
_REGRESSIONS = Path(__file__).parent / "regressions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """How to fuzz. ``kept`` holds corpora from run to run, and inputs that broke something; ``hang_s`` is wall-clock time."""

    engine: str
    seconds: float
    seed: int
    kept: Path
    keep_corpus: bool = True
    hang_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """One target's row. ``coverage`` is (edges, features), None without coverage guidance; ``broken`` says what went wrong."""

    name: str
    engine: str
    tally: Tally
    coverage: tuple[int, int] | None
    slowest: bytes
    broken: str | None = None
    reproducer: Path | None = None


def fuzz(target: Target, campaign: Campaign) -> Result:
    """Fuzz one target for ``campaign.seconds`` of wall-clock time."""
    board = Board(target.max_bytes)
    inputs = [*target.seeds(), *regressions(target.name)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        scratch = Path(folder)
        corpus = (campaign.kept / "corpus" if campaign.keep_corpus else scratch / "corpus") / target.name
        corpus.mkdir(parents=True, exist_ok=True)
        if campaign.engine == "random":
            inputs += [path.read_bytes() for path in sorted(corpus.iterdir())]
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _be_the_child(target, campaign, board, inputs, corpus, scratch)
        ended = _wait(child, board, campaign)
        words = (scratch / "words.log").read_bytes()
    return _result(target, campaign, board, ended, words)


def regressions(name: str) -> Iterable[bytes]:
    """Inputs that once broke a target."""
    folder = _REGRESSIONS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _be_the_child(target: Target, campaign: Campaign, board: Board, inputs: list[bytes], corpus: Path, scratch: Path) -> NoReturn:
    """Whatever happens, the child ends here: it must never run on as a second parent."""
    try:
        log = os.open(scratch / "words.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        tempfile.tempdir = str(scratch)
        probe = Probe(target, board, campaign.seconds, SLOWNESS[campaign.engine])
        if campaign.engine == "atheris":
            run_atheris(target, probe, inputs, corpus, seed=campaign.seed, scratch=scratch)
        run_random(target, probe, inputs, corpus, seed=campaign.seed)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        board.report = f"the engine failed: {type(error).__name__}: {error}"
        sys.stderr.flush()
    finally:
        os._exit(2)


def _wait(child: int, board: Board, campaign: Campaign) -> str | None:
    """Wait for the child and say how it ended, None if well. A child that stays with one input for too long is ended."""
    inputs, since = -1, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if board.tally.inputs != inputs:
            inputs, since = board.tally.inputs, time.monotonic()
        if time.monotonic() - since > campaign.hang_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end after {campaign.hang_s:g} s"
        time.sleep(_POLL_S)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    return board.report or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")


def _result(target: Target, campaign: Campaign, board: Board, broken: str | None, words: bytes) -> Result:
    found = _COVERAGE.findall(words)
    coverage = (int(found[-1][0]), int(found[-1][1])) if found else None
    reproducer = None
    if broken is not None:
        folder = campaign.kept / "broken"
        folder.mkdir(parents=True, exist_ok=True)
        reproducer = folder / f"{target.name}-{sha256(board.current).hexdigest()[:12]}"
        reproducer.write_bytes(board.current)
        if not board.report.startswith("Traceback"):
            broken += "\n" + words[-2000:].decode("utf-8", "replace")
    return Result(target.name, campaign.engine, board.tally, coverage, board.slowest, broken, reproducer)


def row(result: Result) -> str:
    """One line of the summary."""
    tally = result.tally
    coverage = "-" if result.coverage is None else f"{result.coverage[0]}/{result.coverage[1]}"
    slowest = f"{tally.slowest_ms:.1f} ms, {len(result.slowest)} B"
    verdict = "ok" if result.broken is None else "BROKEN"
    share = 100 * tally.accepted / max(1, tally.inputs)
    return f"{result.name:20} {tally.inputs:9} {share:7.1f}% {tally.outcomes:8} {coverage:>13} {slowest:>20}  {verdict}"


HEADING = f"{'target':20} {'inputs':>9} {'accepted':>8} {'outcomes':>8} {'edges/features':>13} {'slowest':>20}  result"


def chosen(targets: Mapping[str, Target], names: Iterable[str]) -> list[Target]:
    """The named targets, or all of them; raise ``KeyError`` for an unknown name."""
    wanted = list(names)
    return [targets[name] for name in wanted] if wanted else list(targets.values())
