"""What an administrator is told of a wrong document: the key, what stands there, what may; in no case pydantic's own words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kbs_rim.appraisal.document_problems import document_problems
from kbs_rim.appraisal.workload import Workload, parse_workload
from kbs_rim.errors import InvalidDocument

IMAGE = f"sha256:{'ab' * 32}"
LEAST = {
    "name": "web",
    "images": [{"role": "kernel", "images": [IMAGE]}, {"role": "device-tree", "images": [IMAGE]}],
    "memory": {"base": "0x40000000", "size": {"min": 0, "max": 4096}},
}
PYDANTIC = re.compile(
    r"Input should|Extra inputs|Field required|Value error|validation|errors\.pydantic|should have at|String should|literal\["
)


def problems(document: object) -> str:
    with pytest.raises(InvalidDocument) as refused:
        parse_workload(document)
    return refused.value.message.removeprefix("the workload is not valid: ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"memroy": {}}, "memroy: this key is not known; did you mean memory?"),
        ({"entry": {"rol": "kernel"}}, "entry.rol: this key is not known; did you mean role?"),
        ({"entry": {"colour": 1}}, "entry.colour: this key is not known; known here: role, x0"),
        (
            {"name": "Web Server"},
            "name: \"Web Server\" is not lower case letters, digits, '.', '_' and '-', at most 64 of them, the first a letter or digit",
        ),
        (
            {"images": [*LEAST["images"], {"role": "initrd", "images": ["x"]}]},
            'images.2.images.0: "x" is not the id of an image: sha256: and 64 hexadecimal digits, as kbs-rim image add prints it',
        ),
        ({"images": []}, "images: there must be at least 1 entry"),
        ({"images": {}}, "images: a table is not a list"),
        ({"memory": {"base": 4096}}, "memory.size: this key is missing"),
        ({"memory": {"base": -4096, "size": {"min": 0, "max": 1}}}, "memory.base: -4096 is not at least 0"),
        (
            {"memory": {"base": "4 GiB", "size": {"min": 0, "max": 1}}},
            'memory.base: "4 GiB" is not a whole number, or one in hexadecimal such as "0x40000000"',
        ),
        ({"memory": {"base": "0xg", "size": {"min": 0, "max": 1}}}, 'memory.base: "0xg" is not a hexadecimal number'),
        ({"memory": {"base": 1, "size": {"min": 0, "max": 1}}}, "memory: base is not a multiple of 4096"),
        ({"realm": {"rpv": "zz"}}, 'realm.rpv: "zz" is neither one of zero or any nor bytes in hexadecimal digits'),
        ({"realm": {"rems": ["zero", 3, "zero", "zero"]}}, "realm.rems.1: 3 is neither one of zero or log nor a list"),
        ({"parameters": {"sve": "maybe"}}, 'parameters.sve: "maybe" is not true or false'),
        ({"platform": {"lifecycle": ["debug"]}}, 'platform.lifecycle.0: "debug" is not one of unknown, assembly-and-test, '),
        ({"rmm": {"hash_algorithms": ["md5"]}}, "rmm.hash_algorithms.0: unknown hash algorithm 'md5': use sha256, sha384 or sha512"),
        ({"description": "x" * 1001}, "description: there must be at most 1000 characters"),
    ],
)
def test_the_key_what_stands_there_and_what_may(change: dict, told: str) -> None:
    assert problems({**LEAST, **change}).startswith(told)


def test_a_document_that_is_no_table_and_one_that_is_empty() -> None:
    assert problems([]) == "workload: a list is not a table"
    assert problems({}) == "name: this key is missing; images: this key is missing; memory: this key is missing"


def test_an_entry_that_is_wrong_is_not_said_to_be_missing_as_well() -> None:
    assert "there must be" not in problems({**LEAST, "images": [{"role": "kernle", "images": ["x"]}]})


def test_a_value_from_outside_is_shown_short_and_harmless() -> None:
    told = problems({**LEAST, "name": "\x1b[2J" + "n" * 10_000})
    assert r"\x1b[2J" in told
    assert len(told) < 400


_KEYS = st.sampled_from([*Workload.model_fields, "min", "max", "role", "x"])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Workload.model_fields, "x"]), _values))
def test_whatever_stands_in_a_document_nobody_reads_pydantic(change: dict) -> None:
    try:
        parse_workload({**LEAST, **change})
        told = ""
    except InvalidDocument as refused:
        told = refused.message
    assert not PYDANTIC.search(told), told
    assert told.isprintable()


def test_a_kind_of_error_without_words_of_ours_is_still_told() -> None:
    class Odd(BaseModel):
        when: complex

    with pytest.raises(ValueError, match="1") as caught:
        Odd.model_validate({"when": "x"})
    assert document_problems(caught.value, {"when": "x"}, Odd, whole="it").startswith('when: "x": ')
