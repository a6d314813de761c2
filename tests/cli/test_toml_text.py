"""TOML that is written is the TOML that is read."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.cli.toml_text import to_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
LISTS = st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=5)
DOCUMENTS = st.recursive(
    st.dictionaries(TEXT, SCALARS | LISTS, max_size=4),
    lambda inner: st.dictionaries(TEXT, SCALARS | inner | st.lists(inner, min_size=1, max_size=3) | LISTS, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS, st.dictionaries(TEXT, TEXT, max_size=3))
def test_what_is_written_is_read_back(document, notes):
    assert tomllib.loads(to_toml(document, notes)) == document


def test_notes_stand_behind_items_and_cannot_break_out():
    text = to_toml({"images": ["a", "b"]}, {"a": "the first\nimages = []"})
    assert text == 'images = [\n  "a",  # the first?images = []\n  "b",\n]\n'


def test_what_toml_does_not_have():
    assert to_toml({"a": None, "b": {"c": None}}) == "\n"
    with pytest.raises(ValueError, match="float"):
        to_toml({"a": 1.5})
    with pytest.raises(ValueError, match="surrogates"):
        to_toml({"a": "\ud800"})
