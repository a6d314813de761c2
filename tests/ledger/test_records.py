"""Canonical JSON against RFC 8785 cases, and what a record's digest covers."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.ledger.canonical import canonical_json, digest_of
from kbs_rim.ledger.records import AppraisalRecord, VerdictKind

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def _holds_float(value):
    if isinstance(value, dict):
        return any(_holds_float(item) for item in value.values())
    return isinstance(value, float) or (isinstance(value, list) and any(_holds_float(item) for item in value))


def test_objects_of_the_vectors(vectors):
    cases = json.loads((vectors / "tlog/jcs/jcs.json").read_text())["objects"]
    parsed = [(json.loads(case["input"]), case) for case in cases]
    usable = [(value, case) for value, case in parsed if not _holds_float(value)]
    assert len(usable) > 5
    for value, case in usable:
        assert canonical_json(value).hex() == case["canonical_hex"]


@given(VALUES)
def test_canonical_form_reads_back(value):
    encoded = canonical_json(value)
    assert json.loads(encoded) == value
    assert canonical_json(json.loads(encoded)) == encoded


@pytest.mark.parametrize("value", [1.5, float("nan"), 2**53, -(2**53), {1: 2}, b"x", object(), "\ud800", {"\ud800": 1}])
def test_what_a_record_cannot_hold(value):
    with pytest.raises((TypeError, ValueError)):
        canonical_json({"a": value})


def test_every_field_of_an_appraisal_moves_its_digest():
    base = {
        "id": "t1", "at": datetime(2026, 11, 23, tzinfo=UTC), "verdict": VerdictKind.REFUSED, "secret": "s", "workload": None,
        "workload_revision": None, "findings": ({"id": "rim.mismatch"},), "inputs": {"token": "00"}, "facts": {"a": 1},
        "durations_us": {"read": 1}, "config_digest": "c", "request_id": "r", "software": "v",
    }  # fmt: skip
    changes = {
        "id": "t2", "at": datetime(2026, 11, 24, tzinfo=UTC), "verdict": VerdictKind.ALLOWED, "secret": "x", "workload": "w",
        "workload_revision": 2, "findings": (), "inputs": {}, "facts": {}, "durations_us": {}, "config_digest": "", "request_id": "",
        "software": "",
    }  # fmt: skip
    digest = AppraisalRecord(**base).digest()
    assert {AppraisalRecord(**{**base, key: value}).digest() for key, value in changes.items()}.isdisjoint({digest})
    assert set(changes) == set(base)


def test_digest_is_sha256_of_the_canonical_form():
    assert digest_of({"b": 2, "a": 1}) == "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777"
