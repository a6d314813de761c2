import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.media_type import parse_media_type


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("application/cbor", "application/cbor", {}),
        ('Application/EAT+cwt; EAT_profile="Tag:x"', "application/eat+cwt", {"eat_profile": "Tag:x"}),
        ("a/b;c=http://arm.com/CCA-SSD/1.0.0", "a/b", {"c": "http://arm.com/CCA-SSD/1.0.0"}),
        ('a/b \t; c="x\\"y\\\\" ;d=e', "a/b", {"c": 'x"y\\', "d": "e"}),
        ('a/b; c=""', "a/b", {"c": ""}),
    ],
)
def test_a_media_type_is_read(text: str, name: str, parameters: dict[str, str]) -> None:
    given_type = parse_media_type(text)
    assert (given_type.name, dict(given_type.parameters)) == (name, parameters)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "application",
        "application/",
        " application/cbor",
        "application/cbor ",
        "application/cbor;",
        "application/cbor; x",
        "application/cbor; x=",
        "application/cbor; x =y",
        "application/cbor, application/json",
        "application/cbor; x=1; X=2",
        'application/cbor; x="1',
        'application/cbor; x="1"2',
        'application/cbor; x="\u00e4"',
        'application/cbor; x="\U0001f600"',
        "application/cbor; x=a\r\nb",
        "application/cbor\0",
        "application/cbor;x=" + "1" * 300,
    ],
)
def test_a_malformed_media_type_is_refused(text: str) -> None:
    with pytest.raises(MalformedEvidence) as caught:
        parse_media_type(text)
    assert caught.value.finding_id == "envelope.media-type"


@given(st.text(max_size=40) | st.text('ab/;= "\\\t', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        outcome = parse_media_type(text).name
    except MalformedEvidence as error:
        outcome = error.finding_id
    assert outcome == "envelope.media-type" or outcome in text.lower()
