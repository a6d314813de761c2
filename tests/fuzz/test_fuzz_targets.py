"""Every target with its seeds: the seeds mean something, the invariants hold on them, and no outcome depends on the process."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.campaign import regressions
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.examination import examine
from tests.rounds import rounds

ROOT = Path(__file__).parents[2]
SLOWNESS = 20
"""These tests run under coverage, beside others."""
SWOLLEN_BYTES = 96 * 1024
OPERATORS_OWN = {"config", "rule_pack", "source_lists"}
"""TOML files of an operator: the standard library's reader takes quadratic time for a key of a hundred thousand parts."""
DIGESTS = """
import hashlib, itertools, sys
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.targets.documents import config_file
from tests.fuzz.examination import examine
from tests.fuzz.mutation import Mutator
for name, target in TARGETS.items():
    seeds = [data[: target.max_bytes] for data in itertools.islice(target.seeds(), int(sys.argv[1]))]
    mutator = Mutator(7, target.words, target.max_bytes)
    inputs = seeds + [mutator.mutate(seeds) for _ in range(int(sys.argv[1]))]
    outcomes = "".join(repr(examine(target, data, slowness=20, twice=False).outcome) for data in inputs)
    outcomes = outcomes.replace(str(config_file().parent), "")
    print(name, hashlib.sha256(outcomes.encode("utf-8", "backslashreplace")).hexdigest())
"""


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_hold_and_reach_what_lies_behind_the_first_check(name):
    target = TARGETS[name]
    inputs = [*target.seeds(), *regressions(name)]
    examined = [examine(target, data[: target.max_bytes], slowness=SLOWNESS) for data in inputs]
    assert sum(one.accepted for one in examined) >= 2
    assert len(inputs) > 3


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - OPERATORS_OWN))
def test_swollen_inputs_take_time_in_proportion(name):
    """What takes twice as long for each byte more shows in inputs that are larger than a fuzzer's."""
    chance = random.Random(name)
    seeds = list(TARGETS[name].seeds())
    for _ in range(6):
        seed = chance.choice(seeds)
        start = chance.randrange(len(seed) + 1)
        piece = seed[start : start + chance.choice((1, 2, 8, 40, 400))]
        swollen = seed[:start] + piece * (SWOLLEN_BYTES // max(1, len(piece))) + seed[start:]
        examine(TARGETS[name], swollen, slowness=SLOWNESS / 5, twice=False)


def test_outcomes_do_not_depend_on_the_process():
    """Sets and dicts of strings have another order in each process; nothing that is recorded may."""
    seen = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS, str(rounds(15))],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert len(seen[0]) == len(TARGETS)
    assert seen[0] == seen[1]


def test_every_parser_of_hostile_bytes_has_a_target():
    """A module that raises MalformedEvidence reads somebody's bytes; the fuzz targets must reach it."""
    modules = {path for room in ("evidence", "measurement", "sealing") for path in (ROOT / "kbs_rim" / room).rglob("*.py")}
    readers = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in modules
        if any(f"raise {error}(" in path.read_text() for error in ("MalformedEvidence", "RefusedKey", "UnopenableSecret"))
    }
    assert len(readers) > 15
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, tests.fuzz.catalogue; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert readers - set(loaded) == set()
