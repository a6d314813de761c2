"""Any bytes at all: a token, or one kind of refusal."""

from pathlib import Path

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from tests.token_forge import token

VALID = sorted((Path(__file__).parent.parent / "vectors" / "tokens" / "valid").glob("*.cbor"))
SEEDS = [path.read_bytes() for path in VALID] + [token("2024"), token("legacy", 399)]


def parsed_or_refused(data: bytes) -> None:
    try:
        parse_cca_token(data)
    except MalformedEvidence as error:
        refused = error
    else:
        return
    assert refused.finding_id.startswith(("cbor.", "token."))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    parsed_or_refused(data)
    parsed_or_refused(b"\xd9\x03\x8b" + data)
    parsed_or_refused(b"\xd9\x01\x8f\xa2\x19\xac\xca" + data)


@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4)
)
def test_mutated_tokens_are_read_or_refused(seed, changes):
    data = bytearray(seed)
    for position, inserted, removed in changes:
        start = position % (len(data) + 1)
        data[start : start + removed] = inserted
    parsed_or_refused(bytes(data))


PLATFORM_LABELS = (265, 10, 256, 2394, 2395, 2396, 2399, 2400, 2401, 2402, 2404, 2405)
LABELS = (*PLATFORM_LABELS, 44235, 44236, 44237, 44238, 44239, 44240, 44243, 44244, 44257)


@st.composite
def strange_claims(draw):
    """A realm or platform with one claim replaced by anything CBOR can say."""
    label = draw(st.sampled_from(LABELS))
    leaf = st.integers() | st.binary(max_size=70) | st.text(max_size=10) | st.booleans() | st.none() | st.floats()
    value = draw(
        st.recursive(
            leaf, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(-5, 9) | st.text(max_size=3), inner, max_size=4)
        )
    )
    return {label: value}


@given(strange_claims(), st.sampled_from(["platform", "realm"]))
def test_strange_claims_are_read_or_refused(claims, which):
    parsed_or_refused(token("2024", **{which: claims}))


@given(strange_claims().map(lambda claims: next(iter(claims.values()))))
def test_strange_keys_are_read_or_refused(value):
    parsed_or_refused(token(realm={44237: cbor2.dumps(value)}))
