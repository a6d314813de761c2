import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import base64url


@given(st.binary(max_size=200))
def test_what_was_encoded_is_decoded(data: bytes) -> None:
    text = base64url.encode(data)
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert base64url.decode(text) == data
    assert base64url.decode(text.encode()) == data


@given(st.text(max_size=40) | st.text("ABab01-_+/= \n", max_size=12) | st.binary(max_size=40))
def test_a_text_has_one_reading_or_none(text: str | bytes) -> None:
    try:
        outcome = base64url.encode(base64url.decode(text))
    except MalformedEvidence as error:
        outcome = error.finding_id
    assert outcome in {"envelope.base64", text if isinstance(text, str) else text.decode(errors="replace")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("padding", "AA=="),
        ("padding inside", "AA==AAAA"),
        ("standard alphabet", "+/AA"),
        ("white space", "AA AA"),
        ("new line at the end", "AAAA\n"),
        ("impossible length", "AAAAA"),
        ("unused bits set, two characters", "AB"),
        ("unused bits set, three characters", "AAB"),
        ("letter outside ASCII", "AAA\u00e4"),
        ("fullwidth letter", "\uff21AAA"),
        ("NUL", "AAA\0"),
    ],
)
def test_other_spellings_are_refused(name: str, text: str) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        base64url.decode(text, what="the nonce")
    assert caught.value.finding_id == "envelope.base64"
    assert str(caught.value).startswith("the nonce")
    assert text not in str(caught.value)


@pytest.mark.parametrize("size", [49151, 49152, 49153, 49154, 98305])
def test_long_texts_are_read_in_pieces_and_as_strictly(size: int) -> None:
    data = (bytes(range(256)) * 400)[:size]
    text = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert base64url.decode(text) == data
    for place in (0, 65535, len(text) - 1):
        for letter in "+/=\n":
            with pytest.raises(MalformedEvidence):
                base64url.decode(text[:place] + letter + text[place + 1 :])
    with pytest.raises(MalformedEvidence):
        base64url.decode(text + "A" * (-len(text) % 4 + 1))
