"""The realm attestation key: encodings that must bind, and keys that must be refused."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from tests import token_forge as forge
from tests.token_forge import key, token


def finding(data: bytes) -> str:
    with pytest.raises(MalformedEvidence) as caught:
        parse_cca_token(data)
    return caught.value.finding_id


X, Y = forge.coordinates(key("rak"))
P384_P = 2**384 - 2**128 - 2**96 + 2**32 - 1


def rak_token(content: bytes, pair: str = "2023-2024") -> bytes:
    return token(pair, realm={44237: content})


@pytest.mark.parametrize(
    "content",
    [
        cbor2.dumps({1: 2, -1: 2, -2: X, -3: Y}),
        cbor2.dumps({-1: 2, -2: X, -3: Y, 1: 2}),
        cbor2.dumps({1: 2, 2: b"kid", 3: -35, 4: [2], -1: 2, -2: X, -3: Y}),
        cbor2.dumps({1: 2, 4: [1, 2], -1: 2, -2: X, -3: Y}),
        bytes.fromhex("a4" + "1801" + "02" + "20" + "1802" + "21" + "590030") + X + bytes.fromhex("22" + "5830") + Y,
    ],
    ids=["t_cose", "veraison order", "all optional", "sign and verify", "long forms"],
)
def test_cose_key_variants(content):
    """The content is kept as received: the binding is over these bytes, not over a canonical form."""
    parsed = parse_cca_token(rak_token(content))
    assert parsed.realm.claims.public_key == content
    assert parsed.realm.rak.public_numbers() == key("rak").public_key().public_numbers()


P256 = key("p256", ec.SECP256R1)
WRONG_KEYS = {
    "private part": ({1: 2, -1: 2, -2: X, -3: Y, -4: bytes(48)}, "token.rak-private"),
    "private part that is null": ({1: 2, -1: 2, -2: X, -3: Y, -4: None}, "token.rak-private"),
    "compressed": ({1: 2, -1: 2, -2: X, -3: True}, "token.rak"),
    "no y": ({1: 2, -1: 2, -2: X}, "token.rak"),
    "no x": ({1: 2, -1: 2, -3: Y}, "token.rak"),
    "no type": ({-1: 2, -2: X, -3: Y}, "token.rak"),
    "octet key pair": ({1: 1, -1: 2, -2: X, -3: Y}, "token.rak"),
    "type as text": ({1: "EC2", -1: 2, -2: X, -3: Y}, "token.rak"),
    "curve as text": ({1: 2, -1: "P-384", -2: X, -3: Y}, "token.rak"),
    "curve as bool": ({1: 2, -1: True, -2: X, -3: Y}, "token.rak"),
    "label P-256 with a P-384 point": ({1: 2, -1: 1, -2: X, -3: Y}, "token.rak"),
    "P-256": ({1: 2, -1: 1, -2: forge.coordinates(P256)[0], -3: forge.coordinates(P256)[1]}, "token.rak"),
    "label P-384 with a P-256 point": ({1: 2, -1: 2, -2: forge.coordinates(P256)[0], -3: forge.coordinates(P256)[1]}, "token.rak"),
    "leading zero": ({1: 2, -1: 2, -2: b"\0" + X, -3: Y}, "token.rak"),
    "the same point cut elsewhere": ({1: 2, -1: 2, -2: X[:47], -3: X[47:] + Y}, "token.rak"),
    "short x": ({1: 2, -1: 2, -2: X[1:], -3: Y}, "token.rak"),
    "off the curve": ({1: 2, -1: 2, -2: X, -3: Y[:-1] + bytes([Y[-1] ^ 1])}, "token.rak"),
    "zero": ({1: 2, -1: 2, -2: bytes(48), -3: bytes(48)}, "token.rak"),
    "coordinate not below p": ({1: 2, -1: 2, -2: P384_P.to_bytes(48, "big"), -3: Y}, "token.rak"),
    "another algorithm": ({1: 2, 3: -7, -1: 2, -2: X, -3: Y}, "token.rak"),
    "may only sign": ({1: 2, 4: [1], -1: 2, -2: X, -3: Y}, "token.rak"),
    "key_ops as text": ({1: 2, 4: ["verify"], -1: 2, -2: X, -3: Y}, "token.rak"),
    "key id as text": ({1: 2, 2: "kid", -1: 2, -2: X, -3: Y}, "token.rak"),
    "unknown label": ({1: 2, -1: 2, -2: X, -3: Y, 99: 1}, "token.rak"),
    "text labels": ({"kty": 2, "crv": 2, "x": X, "y": Y}, "cbor.key-type"),
    "text label beside": ({1: 2, -1: 2, -2: X, -3: Y, "d": b"x"}, "cbor.key-type"),
    "an array": ([2, 2, X, Y], "token.rak"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), WRONG_KEYS.values(), ids=list(WRONG_KEYS))
def test_wrong_cose_keys(content, expected):
    assert finding(rak_token(cbor2.dumps(content))) == expected


def test_wrong_cose_key_encodings():
    good = cbor2.dumps({1: 2, -1: 2, -2: X, -3: Y})
    assert finding(rak_token(good + b"\x00")) == "cbor.trailing-bytes"
    assert finding(rak_token(bytes([good[0] + 1]) + good[1:] + b"\x22\x58\x30" + Y)) == "cbor.duplicate-key"
    assert finding(rak_token(b"\xbf" + good[1:] + b"\xff")) == "cbor.indefinite-length"
    assert finding(rak_token(good[:-1])) == "cbor.truncated"


def test_each_profile_reads_its_own_key_encoding_only():
    assert finding(rak_token(forge.raw_point(key("rak")))).startswith(("cbor.", "token.rak"))
    assert finding(rak_token(forge.cose_key(key("rak")), "legacy")) == "token.rak"


COMPRESSED = bytes([2 + (Y[-1] & 1)]) + X


@pytest.mark.parametrize(
    "content",
    [
        COMPRESSED, COMPRESSED + bytes(48), b"\x06" + X + Y, b"\x00", b"\x00" * 97, b"\x04" + bytes(96),
        b"\x04" + X + Y[:-1], b"\x04" + X + Y + b"\0",
        b"\x04" + X + Y[:-1] + bytes([Y[-1] ^ 1]), forge.raw_point(P256), b"\x04" + P384_P.to_bytes(48, "big") + Y,
    ],
    ids=[
        "compressed", "compressed-padded", "hybrid-prefix", "infinity", "zeros", "zero-coordinates", "short", "long", "off-curve",
        "another-curve", "beyond-the-field",
    ],
)  # fmt: skip
def test_wrong_raw_points(content):
    assert finding(rak_token(content, "legacy")) == "token.rak"
