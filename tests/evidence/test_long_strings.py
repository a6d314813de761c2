"""Setting long strings aside changes how long a document takes, never what it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import long_strings, strict_json
from kbs_rim.evidence.long_strings import LONG, shorten

LONG_TEXTS = [
    "A" * (LONG + 1),
    "b" * (3 * LONG + 7),
    " " * (LONG + 5),
    "ü" * LONG,
    "x" * LONG + '"' + "y" * LONG,
    "x" * LONG + "\\" * 7,
    "\x7f" * (LONG + 1),
    "\n" * LONG,
    "😀" * LONG,
]
TEXTS = st.one_of(st.sampled_from(LONG_TEXTS), st.text(max_size=8))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(-9, 9), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def read(data: bytes):
    return strict_json.decode(data, max_bytes=1 << 26)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_read_is_what_was_written(value, ascii_only, indent):
    assert read(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")) == value


def test_plain_long_strings_are_set_aside_and_others_are_not():
    short = shorten(json.dumps(LONG_TEXTS, ensure_ascii=False).encode(), 1000)
    assert sorted(short.strings.values()) == sorted(LONG_TEXTS[:3])
    assert shorten(json.dumps("A" * (LONG - 3)).encode(), 1000).strings == {}


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([b"{", b"]", b"]]", b",", b":", b'"', b"nul", b"\x00", b"01"]), st.data())
def test_an_error_is_where_it_is_and_what_it_is(values, rubbish, data):
    """With and without strings set aside: the same refusal at the same offset."""
    document = json.dumps(values).encode()
    at = data.draw(st.sampled_from([0, 1, len(document) - 1, len(document)]))
    broken = document[:at] + rubbish + document[at:]

    def outcome():
        try:
            return read(broken)
        except MalformedEvidence as error:
            return error.finding_id, str(error), error.offset

    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_strings, "LONG", 1 << 30)
        assert outcome() == found


def test_attack_equal_keys_that_are_too_long_to_look_at():
    key = json.dumps("k" * (LONG + 1))
    with pytest.raises(MalformedEvidence, match="the same key twice"):
        read(f"{{{key}: 1, {key}: 2}}".encode())


def test_attack_a_string_that_looks_like_the_name_of_another():
    """The names depend on all bytes of the document, so one that was right for another document is just a string."""
    secret = "s" * (LONG + 1)
    [name] = shorten(json.dumps([secret]).encode(), 10).strings
    assert read(json.dumps([secret, name]).encode()) == [secret, name]


def test_a_document_with_too_many_strings_is_not_searched_to_its_end():
    document = json.dumps(["a"] * 50 + ["b" * (LONG + 1)]).encode()
    assert shorten(document, 50).strings == {}
    assert len(shorten(document, 51).strings) == 1
