"""The strict reader: what it refuses, and that what it accepts means the same to another reader."""

import math

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.strict_cbor import Tagged, decode, encode, leading_tag
from kbs_rim.limits import Limits

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
SCALARS = INTEGERS | st.binary(max_size=40) | st.text(max_size=20) | st.booleans() | st.none()
ITEMS = st.recursive(
    SCALARS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(INTEGERS | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DEEP = Limits(cbor_depth=40)


def refusal(data: bytes, **rules) -> str:
    with pytest.raises(MalformedEvidence) as caught:
        decode(data, **rules)
    return caught.value.finding_id


@given(ITEMS)
def test_decode_inverts_encode(item):
    decoded = decode(encode(item), limits=DEEP, allow_text_keys=True, allow_floats=True, preferred=True)
    assert decoded == item
    assert encode(decoded) == encode(item)


@given(ITEMS)
def test_reads_what_another_encoder_writes(item):
    assert decode(cbor2.dumps(item), limits=DEEP, allow_text_keys=True, allow_floats=True) == item


def as_cbor2(value):
    """The value with our arrays and tags in cbor2's terms."""
    if isinstance(value, tuple):
        return [as_cbor2(item) for item in value]
    if isinstance(value, dict):
        return {key: as_cbor2(item) for key, item in value.items()}
    return value


@st.composite
def damaged(draw):
    """An encoded item with a few bytes replaced: close enough to CBOR to get far into a reader."""
    data = bytearray(cbor2.dumps(draw(ITEMS)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def outcome(read, data, **rules):
    try:
        return read(data, **rules)
    except MalformedEvidence as error:
        return error


@given(st.binary(max_size=60) | damaged())
@example(bytes.fromhex("a20102180103"))
@example(bytes.fromhex("a1f97e0001"))
@example(bytes.fromhex("bf0102ff"))
@example(bytes.fromhex("c249010000000000000000"))
def test_never_differs_from_another_reader(data):
    """Whatever is accepted, cbor2 reads to the same value of the same types; whatever is refused is refused in one way."""
    result = outcome(decode, data, allow_text_keys=True, allow_floats=True)
    if isinstance(result, MalformedEvidence):
        assert result.finding_id.startswith("cbor.")
    else:
        assert repr(as_cbor2(result)) == repr(cbor2.loads(data))


@given(st.binary(max_size=200) | damaged(), st.booleans(), st.booleans(), st.booleans(), st.sets(st.integers(0, 40), max_size=3))
def test_any_bytes_are_read_or_refused(data, text_keys, outer_tag, preferred, tags):
    result = outcome(decode, data, allow_text_keys=text_keys, outer_tag=outer_tag, preferred=preferred, allowed_tags=frozenset(tags))
    assert not isinstance(result, MalformedEvidence) or result.finding_id.startswith("cbor.")
    head = outcome(leading_tag, data)
    assert not isinstance(head, MalformedEvidence) or head.finding_id in ("cbor.truncated", "cbor.malformed", "cbor.indefinite-length")


@given(ITEMS, st.data())
def test_every_truncation_is_refused(item, data):
    encoded = encode(item)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert refusal(encoded[:cut], limits=DEEP, allow_text_keys=True, allow_floats=True) == "cbor.truncated"


@given(ITEMS, st.binary(min_size=1, max_size=4))
def test_trailing_bytes_are_refused(item, tail):
    assert refusal(encode(item) + tail, limits=DEEP, allow_text_keys=True, allow_floats=True) == "cbor.trailing-bytes"


@pytest.mark.parametrize(
    ("hexadecimal", "finding"),
    [
        ("", "cbor.truncated"),
        ("18", "cbor.truncated"),
        ("5803aabb", "cbor.truncated"),
        ("820101ff", "cbor.trailing-bytes"),
        ("5bffffffffffffffff", "cbor.truncated"),
        ("9bffffffffffffffff01", "cbor.truncated"),
        ("bbffffffffffffffff0101", "cbor.truncated"),
        ("9a0fffffff01", "cbor.truncated"),
        ("8201", "cbor.truncated"),
        ("a101", "cbor.truncated"),
        ("5f4101ff", "cbor.indefinite-length"),
        ("7f6161ff", "cbor.indefinite-length"),
        ("9f01ff", "cbor.indefinite-length"),
        ("bf0102ff", "cbor.indefinite-length"),
        ("a15f4101ff01", "cbor.indefinite-length"),
        ("ff", "cbor.malformed"),
        ("1c", "cbor.malformed"),
        ("1f", "cbor.malformed"),
        ("dfff", "cbor.malformed"),
        ("a201020103", "cbor.duplicate-key"),
        ("a20102180103", "cbor.duplicate-key"),
        ("a2200220 03", "cbor.duplicate-key"),
        ("a120a201020103", "cbor.duplicate-key"),
        ("a1616101", "cbor.key-type"),
        ("a1410101", "cbor.key-type"),
        ("a1f501", "cbor.key-type"),
        ("a1f601", "cbor.key-type"),
        ("a1f93c0001", "cbor.key-type"),
        ("a1c2410101", "cbor.key-type"),
        ("a18001", "cbor.key-type"),
        ("a1a001", "cbor.key-type"),
        ("c24101", "cbor.tag"),
        ("c4820101", "cbor.tag"),
        ("d82361 61", "cbor.tag"),
        ("d81c80", "cbor.tag"),
        ("d9010e80", "cbor.tag"),
        ("81d28440a04040", "cbor.tag"),
        ("f93c00", "cbor.float"),
        ("fa3f800000", "cbor.float"),
        ("fb3ff0000000000000", "cbor.float"),
        ("f7", "cbor.simple"),
        ("e0", "cbor.simple"),
        ("f8ff", "cbor.simple"),
        ("f814", "cbor.simple"),
        ("62c328", "cbor.text"),
        ("63eda080", "cbor.text"),
        ("62c0af", "cbor.text"),
    ],
)
def test_refused(hexadecimal, finding):
    assert refusal(bytes.fromhex(hexadecimal)) == finding


def test_text_keys_only_where_asked():
    data = cbor2.dumps({"10": 1, 10: 2})
    assert refusal(data) == "cbor.key-type"
    assert decode(data, allow_text_keys=True) == {"10": 1, 10: 2}
    assert refusal(bytes.fromhex("a2616101616102"), allow_text_keys=True) == "cbor.duplicate-key"
    assert refusal(bytes.fromhex("a1f501"), allow_text_keys=True) == "cbor.key-type"


@pytest.mark.parametrize(
    "hexadecimal", ["1801", "190017", "1a000000ff", "1b00000000ffffffff", "3801", "580141", "7801 61", "980101", "b8010101", "d80101"]
)
def test_longer_heads_only_without_preferred(hexadecimal):
    data = bytes.fromhex(hexadecimal)
    decode(data, allowed_tags=frozenset({1}))
    assert refusal(data, allowed_tags=frozenset({1}), preferred=True) == "cbor.encoding"


def test_depth_counts_arrays_maps_and_tags():
    limits = Limits(cbor_depth=3)
    assert decode(bytes.fromhex("818180"), limits=limits) == (((),),)
    assert refusal(bytes.fromhex("81818180"), limits=limits) == "cbor.depth"
    assert refusal(bytes.fromhex("a101a101a101a0"), limits=limits) == "cbor.depth"
    assert refusal(bytes.fromhex("c1c1c180"), limits=limits, allowed_tags=frozenset({1})) == "cbor.depth"
    assert refusal(bytes.fromhex("c6818180"), limits=limits, outer_tag=True) == "cbor.depth"


def test_a_deep_nest_does_not_exhaust_the_stack():
    assert refusal(b"\x81" * 100_000, limits=Limits(cbor_depth=1_000_000)) == "cbor.depth"
    assert refusal(b"\xc1" * 100_000, limits=Limits(cbor_depth=1_000_000), allowed_tags=frozenset({1})) == "cbor.depth"


def test_items_are_counted_with_keys_and_containers():
    limits = Limits(cbor_items=5)
    assert decode(bytes.fromhex("a201020304"), limits=limits) == {1: 2, 3: 4}
    assert refusal(bytes.fromhex("8501010101 01"), limits=limits) == "cbor.items"


def test_a_declared_size_is_held_against_the_rest_of_the_input_before_anything_is_read():
    assert refusal(b"\x99\x07\xd0" + b"\x01" * 1500) == "cbor.truncated"
    assert refusal(b"\xb9\x03\xe8" + b"\x01" * 1500) == "cbor.truncated"
    assert refusal(b"\x99\x05\xdc" + b"\x01" * 1500) == "cbor.items"


def test_the_outer_tag_is_for_the_caller_and_only_outside():
    assert decode(bytes.fromhex("d9018f01"), outer_tag=True) == Tagged(399, 1)
    assert decode(bytes.fromhex("01"), outer_tag=True) == 1
    assert refusal(bytes.fromhex("d9018fd20 1".replace(" ", "")), outer_tag=True) == "cbor.tag"
    assert decode(bytes.fromhex("d9018fd201"), outer_tag=True, allowed_tags=frozenset({18})) == Tagged(399, Tagged(18, 1))


def test_leading_tag():
    assert leading_tag(bytes.fromhex("d9018f")) == 399
    assert leading_tag(bytes.fromhex("d2ff")) == 18
    assert leading_tag(bytes.fromhex("a0")) is None


def test_floats_of_every_width():
    for hexadecimal, value in (("f93c00", 1.0), ("fa47c35000", 100000.0), ("fb3ff199999999999a", 1.1), ("f97c00", math.inf)):
        assert decode(bytes.fromhex(hexadecimal), allow_floats=True) == value
    assert math.isnan(decode(bytes.fromhex("f97e00"), allow_floats=True))


def test_the_error_says_where_and_in_what():
    with pytest.raises(MalformedEvidence) as caught:
        decode(bytes.fromhex("8201f7"), what="realm token, claims")
    assert caught.value.offset == 2
    assert str(caught.value).startswith("realm token, claims: ")


@given(st.dictionaries(INTEGERS | st.text(max_size=4), SCALARS, max_size=6))
def test_encoding_does_not_depend_on_the_order_of_the_map(entries):
    backwards = dict(reversed(list(entries.items())))
    assert encode(entries) == encode(backwards)


def test_keys_are_sorted_bytewise():
    assert encode({"a": 1, -1: 2, 1000: 3, 10: 4}).hex() == "a4" + "0a04" + "1903e803" + "2002" + "616101"


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, {1, 2}, object(), bytearray(b"x")])
def test_what_has_no_encoding(value):
    with pytest.raises(ValueError, match=r"encoding|64 bits"):
        encode(value)
