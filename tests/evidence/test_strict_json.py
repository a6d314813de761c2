import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import strict_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**19) + 1, 10**19 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_encoded_is_decoded(value: strict_json.JsonValue) -> None:
    assert strict_json.decode(strict_json.encode(value)) == value
    assert strict_json.decode(json.dumps(value, indent=1).encode()) == value


@given(st.binary(max_size=60) | st.text('{}[]",:\\ud800 aenul.-1', max_size=30).map(str.encode))
def test_any_bytes_are_read_as_json_reads_them_or_refused(data: bytes) -> None:
    refusal = None
    try:
        value = strict_json.decode(data, allow_floats=True)
    except MalformedEvidence as error:
        refusal = error.finding_id
    assert refusal == "envelope.malformed" or value == json.loads(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("nothing", b""),
        ("two documents", b"1 2"),
        ("trailing comma", b"[1,]"),
        ("comment", b"/* */ 1"),
        ("single quotes", b"{'a':1}"),
        ("duplicate key", b'{"a":1,"b":{},"a":1}'),
        ("duplicate key, deep", b'[{"x":{"a":1,"a":2}}]'),
        ("duplicate key, escaped", b'{"a":1,"\\u0061":2}'),
        ("NaN", b"[NaN]"),
        ("infinity", b"-Infinity"),
        ("fraction", b"1.0"),
        ("exponent", b"1e2"),
        ("integer of 20 digits", b"10000000000000000000"),
        ("integer of a million digits", b"-" + b"1" * 1_000_000),
        ("leading zero", b"01"),
        ("raw control character", b'"\x01"'),
        ("lone surrogate", b'"\\ud800"'),
        ("lone surrogate as key", b'{"\\uDFFF":1}'),
        ("surrogate in UTF-8", b'"\xed\xa0\x80"'),
        ("not UTF-8", b'"\xff"'),
        ("UTF-16", '{"a":1}'.encode("utf-16")),
        ("byte order mark", b"\xef\xbb\xbf{}"),
        ("17 levels", b"[" * 17 + b"]" * 17),
        ("a million levels", b"[" * 1_000_000),
        ("a million levels of objects", b'{"a":' * 400_000),
        ("too many items", b"[" + b"0," * 5000 + b"0]"),
        ("too many strings", b'""' * 5000),
        ("string that never ends", b'"' + b'\\"' * 500_000),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(name: str, data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(MalformedEvidence) as caught:
        strict_json.decode(data, what="the key request")
    assert caught.value.finding_id == "envelope.malformed"
    assert str(caught.value).startswith("the key request")
    assert time.process_time() - started < 1.0


def test_a_body_over_the_limit_is_not_even_scanned() -> None:
    with pytest.raises(MalformedEvidence) as caught:
        strict_json.decode(b"[1,2]", max_bytes=4)
    assert caught.value.finding_id == "envelope.too-large"
    assert (caught.value.expected, caught.value.seen) == ("at most 4 bytes", "5 bytes")
    assert strict_json.decode(b"[1,2]", max_bytes=5) == [1, 2]


def test_limits_are_inclusive() -> None:
    assert strict_json.decode(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(MalformedEvidence):
        strict_json.decode(b"[[1]]", max_depth=1)
    assert strict_json.decode(b"[1,2]", max_items=3) == [1, 2]
    with pytest.raises(MalformedEvidence):
        strict_json.decode(b"[1,2]", max_items=2)


def test_brackets_inside_strings_do_not_count() -> None:
    assert strict_json.decode(b'"[[[[\\"[[[["', max_depth=1, max_items=1) == '[[[["[[[['


def test_floats_when_asked_for() -> None:
    assert strict_json.decode(b"[0.5,1e3]", allow_floats=True) == [0.5, 1000.0]
    with pytest.raises(MalformedEvidence):
        strict_json.decode(b"1e999", allow_floats=True)


def test_surrogate_pairs_are_text() -> None:
    assert strict_json.decode(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_an_object_may_be_demanded() -> None:
    assert strict_json.decode_object(b'{"a":null}') == {"a": None}
    with pytest.raises(MalformedEvidence):
        strict_json.decode_object(b"[]")


def test_the_offset_counts_bytes() -> None:
    with pytest.raises(MalformedEvidence) as caught:
        strict_json.decode('["\u00e4" x'.encode())
    assert caught.value.offset == 6


def test_no_content_reaches_the_message() -> None:
    for data in (b'{"hunter2":1,"hunter2":2}', b'["hunter2"', b"hunter2", b'"hunter2\x01"'):
        with pytest.raises(MalformedEvidence) as caught:
            strict_json.decode(data)
        assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__dict__}"


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.encode(float("nan"))


@given(st.text('{}[]",:\\a ', max_size=24).map(str.encode), st.integers(0, 4), st.integers(0, 12))
def test_the_quick_count_is_that_of_a_reader(data: bytes, max_depth: int, max_items: int) -> None:
    """Token by token, as the error is found; the quick count may give up on many quotes, but never lets more through."""
    depth = deepest = items = place = 0
    while place < len(data):
        letter = data[place : place + 1]
        if letter == b'"':
            place += 1
            while place < len(data) and data[place : place + 1] != b'"':
                place += 2 if data[place : place + 1] == b"\\" and place + 1 < len(data) else 1
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(letter, 0)
        deepest, items, place = max(deepest, depth), items + (letter in b'[]{},:"'), place + 1
    within = deepest <= max_depth and items <= max_items
    quick = strict_json._is_within(data, max_depth, max_items)
    assert quick is within or (within and data.count(b'"') > 2 * max_items)
