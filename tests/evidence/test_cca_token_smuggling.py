"""Ways to build a CCA token that two readers read differently: each layer, each trick."""

import cbor2
import pytest

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from tests.token_forge import ES256, ES384, ES512, parts, token, wrap


def finding(data: bytes) -> str:
    with pytest.raises(MalformedEvidence) as caught:
        parse_cca_token(data)
    return caught.value.finding_id


def head_and_members(form: int, *members: tuple[bytes, bytes]) -> bytes:
    """A collection with exactly these encoded keys and byte strings, in this order."""
    wrapped = b"".join(label + (cbor2.dumps([263, raw]) if form == 907 else cbor2.dumps(raw)) for label, raw in members)
    return b"\xd9" + form.to_bytes(2, "big") + bytes([0xA0 | len(members)]) + wrapped


PLATFORM_KEY, REALM_KEY = cbor2.dumps(44234), cbor2.dumps(44241)


@pytest.mark.parametrize("form", [399, 907])
def test_duplicate_members_that_the_verifier_reads_first_and_we_last(form):
    ours, theirs = parts(), parts(realm={44238: b"\x99" * 32})
    first, last = [part.encode() for part in theirs], [part.encode() for part in ours]
    data = head_and_members(form, (PLATFORM_KEY, first[0]), (REALM_KEY, first[1]), (PLATFORM_KEY, last[0]), (REALM_KEY, last[1]))
    assert finding(data) == "cbor.duplicate-key"


@pytest.mark.parametrize("form", [399, 907])
@pytest.mark.parametrize("text", ["44234", "44241"])
def test_text_member_that_spells_an_integer(form, text):
    platform, realm = (part.encode() for part in parts())
    data = head_and_members(form, (cbor2.dumps(text), platform), (PLATFORM_KEY, platform), (REALM_KEY, realm))
    assert finding(data) == "cbor.key-type"


@pytest.mark.parametrize("encoded", ["1a0000acca", "1b000000000000acca"])
def test_long_form_of_a_member_key(encoded):
    platform, realm = (part.encode() for part in parts())
    assert finding(head_and_members(907, (bytes.fromhex(encoded), platform), (REALM_KEY, realm))) == "cbor.encoding"
    assert (
        finding(head_and_members(907, (PLATFORM_KEY, platform), (REALM_KEY, realm), (bytes.fromhex(encoded), platform))) == "cbor.encoding"
    )


def test_bignum_member_key():
    platform, realm = (part.encode() for part in parts())
    assert finding(head_and_members(907, (bytes.fromhex("c242acca"), platform), (REALM_KEY, realm))) == "cbor.key-type"


def test_float_member_key():
    platform, realm = (part.encode() for part in parts())
    assert finding(head_and_members(907, (cbor2.dumps(44234.0), platform), (REALM_KEY, realm))) == "cbor.key-type"


def twice(claims: dict, label: object, value: object) -> bytes:
    """The encoded claims with one more entry at the end."""
    encoded = cbor2.dumps(claims)
    assert encoded[0] >> 5 == 5
    assert encoded[0] & 31 < 23
    return bytes([encoded[0] + 1]) + encoded[1:] + cbor2.dumps(label) + cbor2.dumps(value)


@pytest.mark.parametrize("which", [0, 1], ids=["platform", "realm"])
def test_duplicate_claims(which):
    signed = parts()
    signed[which].raw_payload = twice(signed[which].claims, 10, bytes(64))
    assert finding(wrap(907, signed[0].encode(), signed[1].encode())) == "cbor.duplicate-key"


@pytest.mark.parametrize("text", ["10", "265", "44238", "44234", "+10", "010", " 10", "1_0", "١٠", "44257"])
@pytest.mark.parametrize("which", ["platform", "realm"])
def test_text_claims_that_spell_a_label(which, text):
    assert finding(token(**{which: {text: b"x"}})) == "cbor.key-type"


def test_text_in_a_component_that_spells_a_label():
    component = {2: b"\x55" * 32, 5: b"\x66" * 32, "2": b"\x77" * 32}
    assert finding(token(platform={2399: [component]})) == "cbor.key-type"
    del component["2"]
    parse_cca_token(token(platform={2399: [component | {"vendor": 1}]}))


@pytest.mark.parametrize("which", [0, 1], ids=["platform", "realm"])
def test_trailing_bytes_at_each_layer(which):
    signed = parts()
    encoded = [part.encode() for part in signed]
    assert finding(wrap(907, *encoded) + b"\x00") == "cbor.trailing-bytes"
    longer = list(encoded)
    longer[which] += b"\x00"
    assert finding(wrap(907, *longer)) == "cbor.trailing-bytes"
    signed[which].raw_payload = cbor2.dumps(signed[which].claims) + b"\xf6"
    assert finding(wrap(907, *(part.encode() for part in signed))) == "cbor.trailing-bytes"
    signed[which].raw_payload = None
    signed[which].protected = b"\xa1\x01\x38\x22\x00"
    assert finding(wrap(907, *(part.encode() for part in signed))) == "cbor.trailing-bytes"


@pytest.mark.parametrize("which", [0, 1], ids=["platform", "realm"])
def test_indefinite_lengths_at_each_layer(which):
    signed = parts()
    claims = cbor2.dumps(signed[which].claims)
    signed[which].raw_payload = b"\xbf" + claims[1:] + b"\xff"
    assert finding(wrap(907, *(part.encode() for part in signed))) == "cbor.indefinite-length"
    signed = parts()
    signed[which].protected = b"\xbf\x01\x38\x22\xff"
    assert finding(wrap(907, *(part.encode() for part in signed))) == "cbor.indefinite-length"
    encoded = [part.encode() for part in parts()]
    encoded[which] = b"\xd2\x9f" + encoded[which][2:] + b"\xff"
    assert finding(wrap(907, *encoded)) == "cbor.indefinite-length"
    data = wrap(907, *(part.encode() for part in parts()))
    assert finding(data[:3] + b"\xbf" + data[4:] + b"\xff") == "cbor.indefinite-length"


# --- headers ---


def with_header(which: int, **changes) -> bytes:
    signed = parts()
    for name, value in changes.items():
        setattr(signed[which], name, value)
    return wrap(907, signed[0].encode(), signed[1].encode())


BOTH = pytest.mark.parametrize("which", [0, 1], ids=["platform", "realm"])


@BOTH
def test_algorithm_in_the_unprotected_header_only(which):
    assert finding(with_header(which, protected=b"", unprotected={1: ES384})) == "token.header"
    assert finding(with_header(which, protected=b"\xa0", unprotected={1: ES384})) == "token.header"


@BOTH
@pytest.mark.parametrize(
    "header", [b"", b"\xa0", cbor2.dumps({1: "ES384"}), cbor2.dumps({1: -37}), cbor2.dumps({1: 5}), cbor2.dumps({1: -8})]
)
def test_algorithms_that_are_not_allowed(which, header):
    assert finding(with_header(which, protected=header)) == "token.algorithm"


@pytest.mark.parametrize("algorithm", [ES256, ES512])
def test_realm_tokens_are_es384_only(algorithm):
    assert finding(with_header(1, protected=cbor2.dumps({1: algorithm}))) == "token.algorithm"


@BOTH
def test_critical_header_parameters(which):
    assert finding(with_header(which, protected=cbor2.dumps({1: ES384, 2: [4]}))) == "token.header"
    assert finding(with_header(which, unprotected={2: [4]})) == "token.header"


@BOTH
@pytest.mark.parametrize("header", [{4: b"kid"}, {33: b"certificate", 4: b"kid"}, {99: 1}])
def test_unprotected_parameters_that_are_not_allowed(which, header):
    assert finding(with_header(which, unprotected=header)) == "token.header"


def test_the_realm_takes_no_certificates_and_nothing_beside_the_algorithm():
    assert finding(with_header(1, unprotected={33: b"certificate"})) == "token.header"
    assert finding(with_header(1, protected=cbor2.dumps({1: ES384, 4: b"kid"}))) == "token.header"


@pytest.mark.parametrize("header", [{99: 1}, {4: "kid"}, {33: 5}, {34: b"x"}, {3: True}])
def test_protected_platform_parameters_of_another_kind(header):
    assert finding(with_header(0, protected=cbor2.dumps({1: ES384} | header))) == "token.header"


@BOTH
def test_five_elements_another_tag_and_a_payload_that_is_no_map(which):
    assert finding(with_header(which, extra_elements=(b"",))) == "token.cose"
    assert finding(with_header(which, tag=17)) == "token.cose"
    assert finding(with_header(which, raw_payload=b"\x80")) == "token.cose"
    assert finding(with_header(which, raw_payload=b"")) == "cbor.truncated"
