"""COSE_Sign1: structure, headers, and signatures that must not be taken for good."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cose import ALGORITHMS, Sign1, algorithm_of, parse_sign1, signed_bytes, verify_sign1
from tests.token_forge import ES256, ES384, ES512, Signed, key, signature

CURVES = {ES256: ec.SECP256R1, ES384: ec.SECP384R1, ES512: ec.SECP521R1}


def signed(algorithm: int = ES384, **changes) -> bytes:
    return Signed({1: b"claims"}, key("cose", CURVES[algorithm]), algorithm, **changes).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(MalformedEvidence) as caught:
        parse_sign1(data, what="token")
    return caught.value.finding_id


@pytest.mark.parametrize("algorithm", [ES256, ES384, ES512])
def test_good_signatures_verify(algorithm):
    sign1 = parse_sign1(signed(algorithm))
    assert algorithm_of(sign1) == algorithm
    assert verify_sign1(sign1, key("cose", CURVES[algorithm]).public_key(), algorithm)
    assert not verify_sign1(sign1, key("someone else", CURVES[algorithm]).public_key(), algorithm)


def test_the_signed_bytes_are_those_received():
    """A protected header in an unusual but legal order is signed as it is."""
    protected = bytes.fromhex("a2044161 013822".replace(" ", ""))
    sign1 = parse_sign1(signed(protected=protected))
    assert signed_bytes(sign1) == cbor2.dumps(["Signature1", protected, b"", sign1.payload])
    assert verify_sign1(sign1, key("cose").public_key(), ES384)


@pytest.mark.parametrize("part", ["protected_raw", "payload", "signature"])
def test_a_changed_bit_does_not_verify(part):
    sign1 = parse_sign1(signed())
    for position in (0, -1):
        content = bytearray(getattr(sign1, part))
        content[position] ^= 1
        fields = {name: getattr(sign1, name) for name in ("protected_raw", "payload", "signature")} | {part: bytes(content)}
        tampered = Sign1(fields["protected_raw"], sign1.protected, sign1.unprotected, fields["payload"], fields["signature"])
        try:
            assert not verify_sign1(tampered, key("cose").public_key(), ES384)
        except MalformedEvidence:
            assert part == "protected_raw"


def test_algorithm_confusion():
    """The key's curve, the header and the caller must all say the same."""
    sign1 = parse_sign1(signed(ES384))
    assert not verify_sign1(sign1, key("cose").public_key(), ES256)
    p256 = key("cose", ec.SECP256R1)
    # Signed with ES384's hash by a P-256 key: legal in RFC 9053, not in CCA.
    protected, payload = cbor2.dumps({1: ES384}), cbor2.dumps({1: b"claims"})
    sealed = signature(p256, ES384, protected, payload)
    crossed = Sign1(protected, {1: ES384}, {}, payload, sealed)
    assert not verify_sign1(crossed, p256.public_key(), ES384)
    # Signed as ES384, but the header says ES256.
    protected = cbor2.dumps({1: ES256})
    mislabelled = Sign1(protected, {1: ES256}, {}, payload, signature(key("cose"), ES384, protected, payload))
    assert not verify_sign1(mislabelled, key("cose").public_key(), ES384)
    with pytest.raises(ValueError, match="no ECDSA algorithm"):
        verify_sign1(sign1, key("cose").public_key(), -257)


def test_r_and_s_out_of_range():
    sign1 = parse_sign1(signed())
    order = ALGORITHMS[ES384].curve.group_order
    r, s = sign1.signature[:48], sign1.signature[48:]
    beyond = (int.from_bytes(s, "big") + order).to_bytes(49, "big")
    for forged in (bytes(96), bytes(48) + s, r + bytes(48), r + order.to_bytes(48, "big"), order.to_bytes(48, "big") + s, r + beyond):
        assert not verify_sign1(Sign1(sign1.protected_raw, sign1.protected, {}, sign1.payload, forged), key("cose").public_key(), ES384)


@pytest.mark.parametrize("length", [0, 1, 64, 95, 97, 132])
def test_signatures_of_another_length(length):
    sign1 = parse_sign1(signed())
    forged = (sign1.signature * 2)[:length]
    assert not verify_sign1(Sign1(sign1.protected_raw, sign1.protected, {}, sign1.payload, forged), key("cose").public_key(), ES384)


@pytest.mark.parametrize("tag", [17, 97, 98, 61])
def test_other_cose_types_are_refused(tag):
    assert refusal(signed(tag=tag)) == "token.cose"


def test_untagged_is_refused():
    assert refusal(signed()[1:]) == "token.cose"


def test_five_elements():
    assert refusal(signed(extra_elements=(b"",))) == "token.cose"


def test_three_elements():
    assert refusal(cbor2.dumps(cbor2.CBORTag(18, [b"\xa1\x01\x38\x22", {}, b"x"]))) == "token.cose"


@pytest.mark.parametrize("position", range(4))
def test_elements_of_another_type(position):
    elements = [b"\xa1\x01\x38\x22", {}, b"\xa0", bytes(96)]
    elements[position] = "text"
    assert refusal(cbor2.dumps(cbor2.CBORTag(18, elements))) == "token.cose"


def test_detached_payload():
    assert refusal(cbor2.dumps(cbor2.CBORTag(18, [b"\xa1\x01\x38\x22", {}, None, bytes(96)]))) == "token.cose"


def test_trailing_bytes_after_the_message():
    assert refusal(signed() + b"\x00") == "cbor.trailing-bytes"


def test_trailing_bytes_in_the_protected_header():
    assert refusal(signed(protected=b"\xa1\x01\x38\x22\x00")) == "cbor.trailing-bytes"


def test_duplicate_algorithm_in_the_protected_header():
    assert refusal(signed(protected=bytes.fromhex("a2013822012 6".replace(" ", "")))) == "cbor.duplicate-key"


def test_long_form_in_the_protected_header():
    assert refusal(signed(protected=bytes.fromhex("a10139 0022".replace(" ", "")))) == "cbor.encoding"


def test_indefinite_protected_header():
    assert refusal(signed(protected=bytes.fromhex("bf013822ff"))) == "cbor.indefinite-length"


def test_text_label_in_a_header():
    assert refusal(signed(protected=cbor2.dumps({"alg": -35}))) == "cbor.key-type"
    assert refusal(signed(unprotected={"alg": -35})) == "cbor.key-type"


def test_label_in_both_headers():
    assert refusal(signed(unprotected={1: ES384})) == "token.header"


@pytest.mark.parametrize("where", ["protected", "unprotected"])
def test_crit_is_refused(where):
    header = {2: [99], 99: 1}
    changes = {"protected": cbor2.dumps({1: ES384} | header)} if where == "protected" else {"unprotected": header}
    assert refusal(signed(**changes)) == "token.header"


def test_a_protected_header_that_is_no_map():
    assert refusal(signed(protected=b"\x80")) == "token.header"


@pytest.mark.parametrize(
    "header", [b"", b"\xa0", cbor2.dumps({4: b"kid"}), cbor2.dumps({1: "ES384"}), cbor2.dumps({1: True}), cbor2.dumps({1: None})]
)
def test_no_algorithm(header):
    sign1 = parse_sign1(signed(protected=header))
    with pytest.raises(MalformedEvidence) as caught:
        algorithm_of(sign1)
    assert caught.value.finding_id == "token.algorithm"


def test_a_header_that_pycose_cannot_represent():
    sign1 = parse_sign1(signed(protected=cbor2.dumps({1: ES384, 4: 5})))
    with pytest.raises(MalformedEvidence) as caught:
        verify_sign1(sign1, key("cose").public_key(), ES384)
    assert caught.value.finding_id == "token.header"


def test_sign1_holds_bytes():
    with pytest.raises(TypeError):
        Sign1(b"", {}, {}, bytearray(b"x"), b"")
