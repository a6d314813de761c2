"""No input within the limits costs more than docs/security.md states. Counted, never timed: calls, memory, findings, bytes of a record."""

import json
import re
from pathlib import Path

import pytest

from kbs_rim.errors import KbsRimError
from kbs_rim.limits import DEFAULT_LIMITS, KIB, MIB
from tests.worst_cases import WorstCase, appraised, calls_of, largest_log, parsers, peak_of

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| (?P<input>[a-zA-Z ,]+) \| (?P<limit>[^|]+) \| (?P<cpu>[0-9.]+) s \| (?P<memory>[0-9]+) MiB \|", re.MULTILINE)
STATED = {row["input"]: int(row["memory"]) * MIB for row in ROW.finditer(SECURITY.read_text())}
CALLS_PER_BYTE = 6
"""A record of fifteen bytes costs some sixty calls. More than a few for each byte would be a loop in a loop."""
CALLS_AT_LEAST = 20_000
GROWTH = 2.6
"""Twice the input: twice the calls and a little. Four times would be quadratic."""
CASES = {case.name: case for case in parsers()}
SMALL, HALF = ({case.name: case for case in parsers(share)} for share in (0.125, 0.0625))
PATTERN_BOUND = {"boot arguments"}
"""Work is the input times the 768 patterns of the workload, which its administrator wrote."""


def test_every_parser_has_its_row_in_the_table() -> None:
    assert {case.stated for case in CASES.values()} <= STATED.keys()


REFUSED_AT_THE_DOOR = {"CEL-JSON, values only", "token, many items", "token, nested", "attestation result", "multipart"}


@pytest.mark.parametrize("name", CASES)
def test_attack_worst_case(name: str) -> None:
    """As large as the limits allow; and unless that is the point, it is read to its end."""
    calls, before = calls_of(SMALL[name].run), calls_of(HALF[name].run)
    if name not in PATTERN_BOUND:
        assert calls <= CALLS_AT_LEAST + CALLS_PER_BYTE * SMALL[name].size_bytes
    assert calls <= GROWTH * before + CALLS_AT_LEAST / 4, "twice the input costs twice the work"
    case, refused = CASES[name], False

    def run() -> None:
        nonlocal refused
        try:
            case.run()
        except KbsRimError:
            refused = True

    assert peak_of(run) <= STATED[case.stated]
    assert refused == (name in REFUSED_AT_THE_DOOR or name.startswith(("device tree, memory", "device tree, reservations")))


def test_attack_largest_log_in_a_whole_appraisal() -> None:
    """Every vCPU and RAM range that fits, all dialects, all variants: findings are few. (The chain's steps: test_review_cost.)"""
    log = largest_log()
    assert len(log) == DEFAULT_LIMITS.vmm_log_bytes
    verdict = appraised(log)
    assert not verdict.allowed
    documents = [finding.to_document() for finding in verdict.findings]
    assert len(documents) < 120
    assert len(json.dumps(documents)) < 256 * KIB


def test_attack_largest_log_before_many_workloads() -> None:
    """The replay and all that a log lays out is shared; a workload more costs its own rules."""
    few, many = (
        calls_of(lambda: appraised(largest_log(60, 10), workloads=2)),
        calls_of(lambda: appraised(largest_log(60, 10), workloads=18)),
    )
    assert many - few < 16 * 8_000
    assert peak_of(lambda: appraised(largest_log(), workloads=4)) <= STATED["appraisal, each further workload"]


def test_attack_findings_of_hostile_trees_are_few_and_short() -> None:
    """Whatever a tree says, each workload records some thirty faults of it, and none is a novel."""
    for name, case in CASES.items():
        if not name.startswith("device tree"):
            continue
        try:
            found = [finding.to_document() for findings in case.run() for finding in findings]
        except KbsRimError:
            continue
        assert len(found) <= 3 * 34
        assert len(json.dumps(found)) < 256 * KIB


def test_the_counter_counts() -> None:
    """A loop in a loop is found by what these tests count, so that they can fail."""

    def quadratic(size: int) -> WorstCase:
        return WorstCase("x", "x", size, lambda: [len(str(one)) for one in range(size) for _ in range(size)])

    assert calls_of(quadratic(400).run) > 3.5 * calls_of(quadratic(200).run)
    assert peak_of(lambda: bytes(10 * MIB)) >= 10 * MIB
