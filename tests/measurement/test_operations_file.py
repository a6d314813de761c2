"""Files of RMM operations: every published case, and each way to write one wrongly."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import Limits
from kbs_rim.measurement.operations_file import PAGE_RULE, page_of_seed, parse_operations_file
from kbs_rim.measurement.rmm import replay_operations

VECTORS = Path(__file__).parent.parent / "vectors" / "rim"

GOOD = {
    "rmm": "1.0",
    "cases": [
        {
            "operations": [
                {"op": "realm_create", "hash_algo": "sha256", "flags": 0, "s2sz": 33, "sve_vl": 0,
                 "num_bps": 5, "num_wps": 5, "pmu_num_ctrs": 0},
                {"op": "ripas_entry", "base": 0x80000000, "top": 0x80200000},
                {"op": "data_create", "ipa": 0x80000000, "measured": True, "page_seed": 7},
                {"op": "data_create", "ipa": 0x80100000, "measured": False},
                {"op": "rec_create", "flags": 1, "pc": 0x80000000, "gprs": [0x8FE00000, 0, 0, 0, 0, 0, 0, 0]},
            ]
        }
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ["rmm1.0.json", "rmm2.0.json"])
def test_every_published_case_gives_its_rim(name):
    content = parse_operations_file((VECTORS / name).read_bytes())
    assert len(content.cases) == 60
    for case in content.cases:
        assert case.rim is not None
        assert replay_operations(content.rmm, case.operations) == case.rim


@given(st.integers(0, 2**32 - 1), st.integers(0, 4095))
def test_a_page_follows_the_rule_as_it_is_written(page_seed, i):
    assert page_of_seed(page_seed)[i] == ((page_seed * 2654435761 + i * 40503) % 2**32) >> 8 & 0xFF


def test_a_case_needs_no_rim_and_may_have_notes():
    document = copy.deepcopy(GOOD)
    document["note"] = document["cases"][0]["note"] = "made by hand"
    document["page_rule"] = PAGE_RULE
    assert parse_operations_file(json.dumps(document).encode()).cases[0].rim is None


def test_no_cases_is_an_empty_answer():
    assert parse_operations_file(b'{"rmm": "2.0", "cases": []}').cases == ()


_OPS = ("cases", 0, "operations")


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("rmm",), "3.0", "rmm"),
        (("rmm",), 1.0, "rmm"),
        (("extra",), 1, "file.extra"),
        (("page_rule",), "byte i is i", "page_rule"),
        (("cases",), {}, "cases"),
        (("cases", 0), [], "cases[0]"),
        (("cases", 0, "operations"), [], "cases[0].operations"),
        (("cases", 0, "operations"), None, "cases[0].operations"),
        (("cases", 0, "weight"), 3, "cases[0].weight"),
        (("cases", 0, "rim"), "00" * 31, "cases[0].rim"),
        (("cases", 0, "rim"), "zz" * 32, "cases[0].rim"),
        (("cases", 0, "rim"), 5, "cases[0].rim"),
        ((*_OPS, 0, "op"), "rec_create", "cases[0].operations[0].op"),
        ((*_OPS, 0, "hash_algo"), "md5", "cases[0].operations[0].hash_algo"),
        ((*_OPS, 0, "hash_algo"), 0, "cases[0].operations[0].hash_algo"),
        ((*_OPS, 0, "hash_algo"), "sha384", "cases[0].operations[0].hash_algo"),
        ((*_OPS, 0, "s2sz"), 256, "cases[0].operations[0].s2sz"),
        ((*_OPS, 0, "s2sz"), -1, "cases[0].operations[0].s2sz"),
        ((*_OPS, 0, "s2sz"), True, "cases[0].operations[0].s2sz"),
        ((*_OPS, 0, "s2sz"), 33.0, "cases[0].operations[0].s2sz"),
        ((*_OPS, 0, "s2sz"), "33", "cases[0].operations[0].s2sz"),
        ((*_OPS, 0, "flags"), 1 << 64, "cases[0].operations[0].flags"),
        ((*_OPS, 0, "rpv"), "00", "cases[0].operations[0].rpv"),
        ((*_OPS, 1, "op"), "realm_create", "cases[0].operations[1].op"),
        ((*_OPS, 1, "op"), "data_destroy", "cases[0].operations[1].op"),
        ((*_OPS, 1, "op"), ["ripas_entry"], "cases[0].operations[1].op"),
        ((*_OPS, 1), 7, "cases[0].operations[1]"),
        ((*_OPS, 1, "top"), 0x80000000, "cases[0].operations[1].top"),
        ((*_OPS, 1, "base"), 0x80000001, "cases[0].operations[1].base"),
        ((*_OPS, 2, "ipa"), 12, "cases[0].operations[2].ipa"),
        ((*_OPS, 2, "measured"), 1, "cases[0].operations[2].measured"),
        ((*_OPS, 2, "page_seed"), -1, "cases[0].operations[2].page_seed"),
        ((*_OPS, 2, "measured"), False, "cases[0].operations[2].page_seed"),
        ((*_OPS, 3, "measured"), True, "cases[0].operations[3].page_seed"),
        ((*_OPS, 4, "gprs"), [0] * 7, "cases[0].operations[4].gprs"),
        ((*_OPS, 4, "gprs"), [0] * 7 + ["0"], "cases[0].operations[4].gprs[7]"),
        ((*_OPS, 4, "pc"), None, "cases[0].operations[4].pc"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_case_and_key(path, value, where):
    document = copy.deepcopy(GOOD)
    parse_operations_file(json.dumps(document).encode())
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(InvalidDocument) as refused:
        parse_operations_file(json.dumps(document).encode())
    assert refused.value.finding_id == "document.operations"
    assert str(refused.value).startswith(f"{where}: ")


@pytest.mark.parametrize("key", ["op", "flags", "s2sz", "hash_algo", "num_wps"])
def test_a_missing_key_is_named(key):
    document = copy.deepcopy(GOOD)
    del document["cases"][0]["operations"][0][key]
    with pytest.raises(InvalidDocument, match=rf"^cases\[0\]\.operations\[0\]\.{key}: "):
        parse_operations_file(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"rmm": "1.0", "rmm": "2.0", "cases": []}',
        b'{"rmm": "1.0", "cases": NaN}',
        b'{"rmm": "1.0", "cases": ' + b"[" * 100_000,
        b'{"rmm": "1.0", "cases": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "utf-8", "list", "null", "duplicate", "nan", "deep", "long-number"],
)
def test_what_is_no_file_of_operations_is_refused(data):
    with pytest.raises(InvalidDocument):
        parse_operations_file(data)


def test_limits_hold():
    data = json.dumps(GOOD).encode()
    with pytest.raises(InvalidDocument, match="bytes"):
        parse_operations_file(data, Limits(operations_file_bytes=len(data) - 1))
    assert parse_operations_file(data, Limits(operations_file_bytes=len(data), operations=5))
    with pytest.raises(InvalidDocument, match="too many operations"):
        parse_operations_file(data, Limits(operations=4))
