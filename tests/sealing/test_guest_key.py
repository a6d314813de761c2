import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK

from kbs_rim.errors import RefusedKey
from kbs_rim.evidence import base64url
from kbs_rim.sealing.guest_key import SealingAlgorithm, commitment, guest_key_of, parse_guest_key

RFC7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93"
    "lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XP"
    "ksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
# The example of RFC 7638 section 3.1 without its signature algorithm.
RFC7638_KEY = {"kty": "RSA", "n": RFC7638_N, "e": "AQAB", "kid": "2011-04-29"}
P = 2**255 - 19


def uint(number: int) -> str:
    return base64url.encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def rsa_jwk(bits: int, *, e: int = 65537, alg: str | None = "RSA-OAEP-256", n: int | None = None) -> dict[str, Any]:
    """A JWK with an odd modulus of so many bits; nothing here needs its factors."""
    modulus = (1 << (bits - 1)) + 12345 if n is None else n
    jwk = {"kty": "RSA", "n": uint(modulus), "e": uint(e)}
    return jwk if alg is None else {**jwk, "alg": alg}


def ec_jwk(curve: ec.EllipticCurve) -> dict[str, Any]:
    numbers = ec.generate_private_key(curve).public_key().public_numbers()
    size = (curve.key_size + 7) // 8
    names = {256: "P-256", 384: "P-384", 521: "P-521"}
    return {
        "kty": "EC",
        "crv": names[curve.key_size],
        "x": base64url.encode(numbers.x.to_bytes(size, "big")),
        "y": base64url.encode(numbers.y.to_bytes(size, "big")),
        "alg": "ECDH-ES+A256KW",
    }


def okp_jwk(octets: bytes | None = None) -> dict[str, Any]:
    octets = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw() if octets is None else octets
    return {"kty": "OKP", "crv": "X25519", "x": base64url.encode(octets), "alg": "ECDH-ES+A256KW"}


EC = ec_jwk(ec.SECP256R1())


def refusal(jwk: object, **options: bool) -> RefusedKey:
    with pytest.raises(RefusedKey) as caught:
        parse_guest_key(jwk, **options)  # type: ignore[arg-type]
    return caught.value


def test_the_thumbprint_of_rfc_7638() -> None:
    assert parse_guest_key(RFC7638_KEY).kid == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("jwk", [EC, ec_jwk(ec.SECP384R1()), okp_jwk(), rsa_jwk(2048), rsa_jwk(3072), rsa_jwk(8192)])
def test_good_keys_have_the_thumbprint_that_jwcrypto_computes(jwk: dict[str, Any]) -> None:
    key = parse_guest_key(jwk)
    assert key.kid == JWK(**jwk).thumbprint()
    assert key.thumbprint == hashlib.sha256(json.dumps(dict(key.jwk), sort_keys=True, separators=(",", ":")).encode()).digest()
    assert parse_guest_key(json.dumps(jwk).encode()) == key
    assert key.to_jwk() == jwk
    assert guest_key_of(key.public_key) == key


def test_the_keys_of_trustees_client(vectors: Path) -> None:
    bindings = json.loads((vectors / "trustee" / "vectors.json").read_text())["runtime_data_binding"]
    keys = {binding["key"]: binding["tee-pubkey"] for binding in bindings}
    assert parse_guest_key(keys["P-256"]).algorithm is SealingAlgorithm.ECDH_ES_A256KW
    assert parse_guest_key(keys["RSA-2048"]).algorithm is SealingAlgorithm.RSA_OAEP_256
    assert refusal(keys["P-521"]).finding_id == "key.type"


@pytest.mark.parametrize(
    ("alg", "algorithm", "form"),
    [
        (None, SealingAlgorithm.RSA_OAEP_256, "jwe"),
        ("RSA-OAEP-256", SealingAlgorithm.RSA_OAEP_256, "jwe"),
        ("RSA-OAEP", SealingAlgorithm.RSA_OAEP, "raw"),
        ("RSA1_5", SealingAlgorithm.RSA1_5, "raw"),
    ],
)
def test_the_algorithm_says_how_to_seal(alg: str | None, algorithm: SealingAlgorithm, form: str) -> None:
    key = parse_guest_key(rsa_jwk(2048, alg=alg), allow_rsa1_5=True)
    assert (key.algorithm, key.algorithm.form) == (algorithm, form)


def test_the_algorithm_is_no_part_of_the_thumbprint() -> None:
    one, other = (parse_guest_key(rsa_jwk(2048, alg=alg)) for alg in ("RSA-OAEP", "RSA-OAEP-256"))
    assert one.thumbprint == other.thumbprint
    assert one != other


def test_rsa1_5_and_short_keys_only_behind_the_legacy_switch() -> None:
    old_client = rsa_jwk(1024, alg="RSA1_5")
    assert refusal(old_client).finding_id == "key.legacy"
    assert parse_guest_key(old_client, allow_rsa1_5=True).algorithm is SealingAlgorithm.RSA1_5
    assert refusal(rsa_jwk(1023, alg="RSA1_5"), allow_rsa1_5=True).finding_id == "key.weak"
    for alg in ("RSA-OAEP", "RSA-OAEP-256", None):
        assert refusal(rsa_jwk(1024, alg=alg), allow_rsa1_5=True).finding_id == "key.weak"


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
@pytest.mark.parametrize("jwk", [EC, okp_jwk(), rsa_jwk(2048), {"kty": "oct"}])
def test_a_private_key_is_refused_whatever_its_type(jwk: dict[str, Any], member: str) -> None:
    error = refusal({**jwk, member: "c2VjcmV0"})
    assert error.finding_id == "key.private"
    assert "c2VjcmV0" not in f"{error} {error!r} {error.__dict__}"


@pytest.mark.parametrize(
    ("attack", "finding_id", "jwk"),
    [
        ("RSA of 2047 bits", "key.weak", rsa_jwk(2047)),
        ("RSA of 512 bits", "key.weak", rsa_jwk(512)),
        ("RSA of 8193 bits", "key.weak", rsa_jwk(8193)),
        ("RSA of a million bits", "key.malformed", rsa_jwk(1_000_000)),
        ("exponent 1", "key.weak", rsa_jwk(2048, e=1)),
        ("exponent 3", "key.weak", rsa_jwk(2048, e=3)),
        ("even exponent", "key.weak", rsa_jwk(2048, e=65536)),
        ("huge exponent", "key.weak", rsa_jwk(2048, e=(1 << 2047) + 1)),
        ("even modulus", "key.weak", rsa_jwk(2048, n=1 << 2047)),
        ("modulus zero", "key.malformed", {**rsa_jwk(2048), "n": "AA"}),
        ("modulus with a leading zero", "key.malformed", {**rsa_jwk(2048), "n": base64url.encode(b"\0" + b"\xff" * 256)}),
        ("exponent with a leading zero", "key.malformed", {**rsa_jwk(2048), "e": "AAEAAQ"}),
        ("exponent as a number", "key.malformed", {**rsa_jwk(2048), "e": 65537}),
        ("modulus padded", "key.malformed", {**rsa_jwk(2048), "n": RFC7638_N + "=="}),
        ("modulus missing", "key.malformed", {"kty": "RSA", "e": "AQAB"}),
        ("modulus empty", "key.malformed", {**rsa_jwk(2048), "n": ""}),
        ("signature algorithm", "key.type", {**RFC7638_KEY, "alg": "RS256"}),
        ("algorithm of another type", "key.type", {**RFC7638_KEY, "alg": "ECDH-ES+A256KW"}),
        ("no algorithm", "key.type", {**RFC7638_KEY, "alg": "none"}),
        ("algorithm null", "key.type", {**RFC7638_KEY, "alg": None}),
        ("algorithm in a list", "key.type", {**RFC7638_KEY, "alg": ["RSA-OAEP-256"]}),
        ("algorithm in lower case", "key.type", {**RFC7638_KEY, "alg": "rsa-oaep-256"}),
        ("direct agreement", "key.type", {**EC, "alg": "ECDH-ES"}),
        ("RSA algorithm for a curve", "key.type", {**EC, "alg": "RSA-OAEP-256"}),
        ("P-521", "key.type", ec_jwk(ec.SECP521R1())),
        ("secp256k1", "key.type", {**EC, "crv": "secp256k1"}),
        ("P-384 name on P-256 point", "key.malformed", {**EC, "crv": "P-384"}),
        ("curve missing", "key.type", {"kty": "EC", "x": EC["x"], "y": EC["y"]}),
        ("curve in a list", "key.type", {**EC, "crv": ["P-256"]}),
        ("off the curve", "key.malformed", {**EC, "y": EC["x"]}),
        ("point of zeros", "key.malformed", {**EC, "x": "A" * 43, "y": "A" * 43}),
        ("coordinate above the prime", "key.malformed", {**EC, "x": base64url.encode(b"\xff" * 32)}),
        ("short coordinate", "key.malformed", {**EC, "x": base64url.encode(b"\1" * 31)}),
        ("coordinate missing", "key.malformed", {"kty": "EC", "crv": "P-256", "x": EC["x"]}),
        ("Ed25519", "key.type", {**okp_jwk(), "crv": "Ed25519"}),
        ("X448", "key.type", {**okp_jwk(), "crv": "X448"}),
        ("X25519 under EC", "key.type", {**okp_jwk(), "kty": "EC"}),
        ("X25519 of 31 bytes", "key.malformed", okp_jwk(b"\x09" + bytes(30))),
        ("X25519 above the prime", "key.malformed", okp_jwk((P + 9).to_bytes(32, "little"))),
        ("X25519 with the high bit", "key.malformed", okp_jwk(b"\x09" + bytes(30) + b"\x80")),
        ("X25519 zero", "key.weak", okp_jwk(bytes(32))),
        ("X25519 one", "key.weak", okp_jwk(b"\1" + bytes(31))),
        ("X25519 minus one", "key.weak", okp_jwk((P - 1).to_bytes(32, "little"))),
        ("X25519 of order 8", "key.weak", okp_jwk(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"))),
        (
            "X25519 of order 8, other",
            "key.weak",
            okp_jwk(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
        ),
        ("symmetric", "key.type", {"kty": "oct"}),
        ("type missing", "key.type", {"crv": "P-256"}),
        ("type in a list", "key.type", {**EC, "kty": ["EC"]}),
        ("post-quantum", "key.type", {"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AAAA"}),
        ("signing key", "key.type", {**EC, "use": "sig"}),
        ("use null", "key.type", {**EC, "use": None}),
        ("operations to sign", "key.type", {**EC, "key_ops": ["verify"]}),
        ("operations of another type", "key.type", {**EC, "key_ops": ["encrypt"]}),
        ("operations to open", "key.type", {**RFC7638_KEY, "key_ops": ["decrypt"]}),
        ("no operation", "key.type", {**EC, "key_ops": []}),
        ("operation twice", "key.type", {**EC, "key_ops": ["deriveKey", "deriveKey"]}),
        ("operations as text", "key.malformed", {**EC, "key_ops": "deriveKey"}),
        ("operations of numbers", "key.malformed", {**EC, "key_ops": [1]}),
        ("kid as a number", "key.malformed", {**EC, "kid": 1}),
        ("long kid", "key.malformed", {**EC, "kid": "x" * 257}),
        ("nothing", "key.type", {}),
    ],
)
def test_keys_that_no_secret_is_sealed_to(attack: str, finding_id: str, jwk: dict[str, Any]) -> None:
    started = time.process_time()
    assert refusal(jwk).finding_id == finding_id
    assert time.process_time() - started < 0.5


def test_consistent_hints_are_tolerated_and_unknown_members_ignored() -> None:
    plain = parse_guest_key(EC)
    assert parse_guest_key({**EC, "use": "enc", "key_ops": ["deriveKey", "deriveBits"], "kid": "mine", "ext": True}) == plain
    assert parse_guest_key({**RFC7638_KEY, "key_ops": ["wrapKey"]}).kid == parse_guest_key(RFC7638_KEY).kid


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"kty":"EC"',
        json.dumps(EC).encode()[:-1] + b',"alg":"ECDH-ES+A256KW"}',
        b'{"kty":"EC","x":NaN}',
        b" " * 20_000 + b"{}",
        b'{"a":' * 1000,
    ],
)
def test_text_that_is_no_json_object_or_has_a_member_twice(data: bytes) -> None:
    assert refusal(data).finding_id == "key.malformed"


MEMBERS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "key_ops", "kid", "d", "other"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=10)
    | st.sampled_from(["EC", "OKP", "RSA", "P-256", "X25519", "AQAB", "A" * 43]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([EC, okp_jwk(), RFC7638_KEY, {}]), st.dictionaries(MEMBERS, JSON, max_size=4))
def test_any_object_is_a_key_or_is_refused(base: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        outcome = parse_guest_key({**base, **changes}).kty
    except RefusedKey as error:
        outcome = error.finding_id.split(".")[0]
    assert outcome in {"EC", "OKP", "RSA", "key"}


@given(st.binary(max_size=100))
def test_any_bytes_are_a_key_or_are_refused(data: bytes) -> None:
    assert refusal(data).finding_id in {"key.malformed", "key.type"}


def test_the_client_makes_its_jwk_from_its_own_key() -> None:
    private = x25519.X25519PrivateKey.generate()
    jwk = guest_key_of(private.public_key()).to_jwk()
    assert jwk["alg"] == "ECDH-ES+A256KW"
    assert not {"d", "kid"} & set(jwk)
    assert parse_guest_key(jwk).thumbprint == guest_key_of(private.public_key()).thumbprint
    with pytest.raises(RefusedKey):
        guest_key_of(ec.generate_private_key(ec.SECP521R1()).public_key())


def test_the_commitment_byte_by_byte() -> None:
    salt, thumbprint = bytes(range(32)), bytes(range(100, 132))
    assert commitment(salt, thumbprint) == hashlib.sha512(b"kbs_rim challenge v1\x00" + salt + thumbprint).digest()
    # A fixed value: guests of other makes compute it too, so it may never change.
    assert commitment(salt, thumbprint).hex().startswith(COMMITMENT)
    assert len(commitment(salt, thumbprint)) == 64


COMMITMENT = "1ad1cf599735927ce6035172123a232e"


def test_a_commitment_names_one_key_and_one_salt() -> None:
    salt, other_salt = bytes(32), b"\1" + bytes(31)
    mine, his = parse_guest_key(EC).thumbprint, parse_guest_key(RFC7638_KEY).thumbprint
    assert len({commitment(s, t) for s in (salt, other_salt) for t in (mine, his)}) == 4


@pytest.mark.parametrize(("salt", "thumbprint"), [(31, 32), (33, 31), (32, 33), (0, 64)])
def test_a_commitment_over_other_lengths_is_a_mistake_of_ours(salt: int, thumbprint: int) -> None:
    with pytest.raises(ValueError, match="32 and 32 bytes"):
        commitment(bytes(salt), bytes(thumbprint))


def test_a_key_prints_no_more_than_its_name() -> None:
    text = repr(guest_key_of(rsa.generate_private_key(65537, 2048).public_key()))
    assert "jwk" not in text
    assert "0x" not in text
