"""The harness finds planted bugs, says which input did it, and can repeat it. A fuzzer that finds nothing proves nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import planted
from tests.fuzz.board import Board, Tally
from tests.fuzz.engines import atheris_reason
from tests.fuzz.examination import BrokenInvariant, TooSlow, examine, require_presentable
from tests.fuzz.mutation import Mutator

ROOT = Path(__file__).parents[2]
PLANTED = ("--catalogue", "tests.fuzz.planted")


def run(*arguments: str, code: str = "import runpy; runpy.run_module('tests.fuzz.run', run_name='__main__')", **environ: str):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **environ})


def rows(output: str) -> dict[str, str]:
    return {line.split()[0]: line.split()[-1] for line in output.splitlines() if line.endswith((" ok", " BROKEN"))}


class TestPlantedBugs:
    def test_each_is_found_and_nothing_else(self, tmp_path: Path) -> None:
        names = [name for name in planted.TARGETS if name != "deep"]
        ended = run(*PLANTED, *names, "--seconds", "0.4", "--engine", "random", "--hang", "3", "--kept", str(tmp_path))
        assert ended.returncode == 1, ended.stderr
        assert rows(ended.stdout) == {name: "ok" if name == "honest" else "BROKEN" for name in names}
        assert "engine: random mutation" in ended.stdout
        assert "1 targets held, 9 broken" in ended.stdout
        for words in (
            "KeyError",
            "a planted promise",
            "TooSlow",
            "same outcome twice",
            "no.such-id",
            "no end after 3 s",
            "signal 11",
            "SystemExit",
        ):
            assert words in ended.stderr, words
        kept = {path.name.rpartition("-")[0]: path.read_bytes() for path in (tmp_path / "broken").iterdir()}
        assert kept.keys() == set(names) - {"honest"}
        assert b"\xff" in kept["breaks_off"]
        assert all(len(kept[name]) > 20 for name in ("slow", "endless", "dies", "exits"))

    def test_a_finding_can_be_repeated_from_its_file(self, tmp_path: Path) -> None:
        file = tmp_path / "input"
        file.write_bytes(b"zzz")
        ended = run(*PLANTED, "leaks", "--replay", str(file))
        assert ended.returncode == 1
        assert "KeyError: b'z'" in ended.stderr
        file.write_bytes(b"a")
        assert run(*PLANTED, "leaks", "--replay", str(file)).stdout.startswith("accepted")

    @pytest.mark.skipif(atheris_reason() is not None, reason=f"no coverage-guided engine here: {atheris_reason()}")
    def test_coverage_guidance_finds_what_chance_does_not(self, tmp_path: Path) -> None:
        ended = run(*PLANTED, "deep", "--seconds", "30", "--engine", "atheris", "--kept", str(tmp_path), "--fresh")
        assert "engine: atheris" in ended.stdout
        assert rows(ended.stdout) == {"deep": "BROKEN"}, ended.stdout
        (kept,) = (tmp_path / "broken").iterdir()
        assert kept.read_bytes().startswith(b"KBS!")


class TestCommand:
    def test_without_atheris_the_other_engine_runs_and_says_so(self, tmp_path: Path) -> None:
        hidden = "import sys, runpy; sys.modules['atheris'] = None; runpy.run_module('tests.fuzz.run', run_name='__main__')"
        arguments = ("base64url", "--seconds", "0.3", "--kept", str(tmp_path))
        ended = run(*arguments, code=hidden)
        assert ended.returncode == 0, ended.stderr
        assert re.search(r"engine: random mutation, no coverage guidance \(.*atheris", ended.stdout)
        assert rows(ended.stdout) == {"base64url": "ok"}
        assert run(*arguments, "--engine", "atheris", code=hidden).returncode == 2

    @pytest.mark.skipif(atheris_reason() is not None, reason="atheris is not installed here")
    def test_with_atheris_coverage_is_counted(self, tmp_path: Path) -> None:
        ended = run(*PLANTED, "honest", "--seconds", "1", "--kept", str(tmp_path))
        assert ended.returncode == 0, ended.stderr
        assert re.search(r"^honest .* \d+/\d+ .* ok$", ended.stdout, re.MULTILINE)
        assert any((tmp_path / "corpus" / "honest").iterdir())

    def test_unknown_targets_are_a_usage_error(self) -> None:
        ended = run("nonsense", "--engine", "random")
        assert ended.returncode == 64
        assert "nonsense" in ended.stderr


class TestExamination:
    @pytest.mark.parametrize(
        ("name", "data", "error"),
        [
            ("leaks", b"z", KeyError),
            ("breaks_off", b"\xff", BrokenInvariant),
            ("slow", bytes(21), TooSlow),
            ("forgetful", b"", BrokenInvariant),
            ("unknown_id", b"", BrokenInvariant),
            ("wordy", b"", BrokenInvariant),
        ],
    )
    def test_a_broken_promise_is_an_error(self, name: str, data: bytes, error: type[Exception]) -> None:
        with pytest.raises(error):
            examine(planted.TARGETS[name], data)

    def test_an_accepted_input_and_a_refused_one(self) -> None:
        accepted, refused = (examine(planted.TARGETS["honest"], data) for data in (b"yes", b"no"))
        assert (accepted.accepted, accepted.label) == (True, "accepted")
        assert (refused.accepted, refused.label) == (False, "cbor.malformed")

    @pytest.mark.parametrize("text", ["\x1b[2J", "\n", "\ud800", "\u202e", "x" * 10_000])
    def test_text_that_cannot_be_shown_breaks_a_promise(self, text: str) -> None:
        with pytest.raises(BrokenInvariant):
            require_presentable(text)


class TestParts:
    def test_mutations_follow_from_the_seed(self) -> None:
        def some(seed: int) -> list[bytes]:
            mutator = Mutator(seed, (b"word",), 100)
            return [mutator.mutate((b"one 1", b"two 22", b"")) for _ in range(300)]

        assert some(1) == some(1) != some(2)
        assert max(map(len, some(1))) <= 100
        assert len(set(some(1))) > 150
        assert any(b"word" in data for data in some(1))

    def test_the_board_survives_whoever_writes_on_it(self) -> None:
        board = Board(8)
        child = os.posix_spawnp(sys.executable, [sys.executable, "-c", ""], os.environ)
        os.waitpid(child, 0)
        board.current, board.slowest, board.report = b"0123456789", b"slow", "x" * 100_000 + "end"
        board.tally = Tally(3, 2, 1, 0.5)
        assert (board.current, board.slowest, board.tally) == (b"01234567", b"slow", Tally(3, 2, 1, 0.5))
        assert board.report.endswith("end")
        board.current = b""
        assert board.current == b""
