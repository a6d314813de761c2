"""The table of attacks in docs/security.md: each test is there, and asserts the finding that the table gives."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.realm.lies import LIES

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| (?P<attack>[^|]+) \| (?P<finding>[^|]+) \| `(?P<file>tests/[\w/]+\.py)` `(?P<test>test_attack_\w+)` \|$", re.MULTILINE
)
ROWS = [row.groupdict() for row in ROW.finditer((ROOT / "docs" / "security.md").read_text())]
FROM_THE_ISSUES = (
    "replayed nonce",
    "expired challenge",
    "key swapped",
    "spliced",
    "tampered kernel",
    "unregistered image",
    "revoked image",
    "pc off the entry point",
    "x0 pointing into the log area",
    "unmeasured kernel",
    "unmeasured initrd",
    "second runnable rec",
    "two images overlapping",
    "trusted images of two workloads mixed",
    "debug platform",
    "result of another session",
    "foreign key",
    "duplicate cbor keys",
    "log bombs",
    "forged boot arguments",
    "initrd range",
    "extra memory node",
    "rem event relabelled",
    "ccel read under pcr numbering",
    "truncated log",
    "data after padding",
    "digest poisoning between two clients",
    "revocation race",
)


@cache
def functions(file: str) -> frozenset[str]:
    """Names of the functions of a test file."""
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_attack_of_the_issues_has_a_row() -> None:
    listed = [row["attack"].lower() for row in ROWS]
    assert [attack for attack in FROM_THE_ISSUES if not any(attack in row for row in listed)] == []
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("row", ROWS, ids=[row["attack"] for row in ROWS])
def test_its_test_is_there_and_knows_the_finding(row: dict[str, str]) -> None:
    assert row["test"] in functions(row["file"])
    for finding in re.findall(r"`([a-z]+\.[a-z-]+)`", row["finding"]):
        assert finding in CATALOGUE or finding.startswith("guest."), finding
        # The finding stands in the test's file, in what that imports from beside it, or with the lie that the test lets a host tell.
        text = (ROOT / row["file"]).read_text()
        beside = [ROOT / "tests" / f"{name}.py" for name in re.findall(r"^from tests\.(\w+) import", text, re.MULTILINE)]
        places = [text, *(file.read_text() for file in beside), (ROOT / "kbs_rim" / "realm" / "lies.py").read_text()]
        assert any(f'"{finding}"' in place for place in places)


def test_every_lie_of_the_simulator_is_refused_for_a_finding_of_the_catalogue() -> None:
    assert {finding for lie in LIES.values() for finding in lie.findings} <= CATALOGUE.keys()
