import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from kbs_rim.errors import RefusedKey, UnopenableSecret
from kbs_rim.evidence import base64url
from kbs_rim.sealing.guest_key import RSA_MIN_BITS, GuestKey, SealingAlgorithm, guest_key_of, parse_guest_key
from kbs_rim.sealing.jwe import PrivateKey, SealedSecret, open_jwe, seal

SECRET = b"hunter2 hunter2 hunter2"
P256 = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
P384 = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP384R1())
X25519 = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32)))
RSA2048 = rsa.generate_private_key(65537, RSA_MIN_BITS)
KEYS: dict[str, PrivateKey] = {"P-256": P256, "P-384": P384, "X25519": X25519, "RSA": RSA2048}
ALGORITHMS = ["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"]


def by_name(test: Any) -> Any:
    return pytest.mark.parametrize("private", KEYS.values(), ids=KEYS.keys())(test)


def guest(private: PrivateKey) -> GuestKey:
    return guest_key_of(private.public_key())


def jwcrypto_key(private: PrivateKey) -> JWK:
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return JWK.from_pem(pem)


def header_of(token: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(base64url.decode(token.split(".", maxsplit=1)[0]))
    return header


def refusal(private: PrivateKey, token: str, **options: int) -> UnopenableSecret:
    with pytest.raises(UnopenableSecret) as caught:
        open_jwe(private, token, **options)
    assert caught.value.finding_id == "answer.unopenable"
    return caught.value


@by_name
@given(plaintext=st.binary(min_size=1, max_size=300))
@settings(max_examples=25)
def test_what_was_sealed_is_opened_by_us_and_by_jwcrypto(private: PrivateKey, plaintext: bytes) -> None:
    sealed = seal(guest(private), plaintext)
    assert sealed.form == "jwe"
    assert open_jwe(private, sealed.value) == plaintext
    oracle = JWE(algs=ALGORITHMS)
    oracle.deserialize(sealed.value, jwcrypto_key(private))
    assert oracle.payload == plaintext


@by_name
def test_the_header_names_algorithms_and_key_and_nothing_else(private: PrivateKey) -> None:
    header = header_of(seal(guest(private), SECRET).value)
    agreement = not isinstance(private, rsa.RSAPrivateKey)
    assert (header["alg"], header["enc"]) == ("ECDH-ES+A256KW" if agreement else "RSA-OAEP-256", "A256GCM")
    assert header["kid"] == jwcrypto_key(private).thumbprint()
    assert set(header) == {"alg", "enc", "kid"} | ({"epk"} if agreement else set())
    assert "d" not in header.get("epk", {})


@by_name
def test_a_token_of_jwcrypto_is_opened(private: PrivateKey) -> None:
    key = jwcrypto_key(private)
    header = {"alg": guest(private).algorithm.value, "enc": "A256GCM"}
    token = JWE(SECRET, json.dumps(header), algs=ALGORITHMS)
    token.add_recipient(key)
    assert open_jwe(private, token.serialize(compact=True)) == SECRET


def test_the_key_agreement_of_rfc_7518_by_hand() -> None:
    """Section 4.6 computed here from the token's own bytes: the header text as sent is the additional data."""
    token = seal(guest(P256), SECRET).value
    header, wrapped, iv, ciphertext, tag = token.split(".")
    epk = header_of(token)["epk"]
    point = b"\x04" + base64url.decode(epk["x"]) + base64url.decode(epk["y"])
    shared = P256.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
    name = b"ECDH-ES+A256KW"
    info = struct.pack(">I", len(name)) + name + struct.pack(">III", 0, 0, 256)
    content_key = aes_key_unwrap(hashlib.sha256(struct.pack(">I", 1) + shared + info).digest(), base64url.decode(wrapped))
    plaintext = AESGCM(content_key).decrypt(base64url.decode(iv), base64url.decode(ciphertext) + base64url.decode(tag), header.encode())
    assert plaintext == SECRET


@pytest.mark.parametrize("name", ["P-256", "RSA-2048"])
def test_what_trustees_client_can_read_we_can_read(vectors: Path, name: str) -> None:
    responses = json.loads((vectors / "trustee" / "vectors.json").read_text())["resource_response"]
    vector = next(response for response in responses if response["key"] == name)
    private: Any = serialization.load_pem_private_key(vector["private_key_pem"].encode(), None)
    token = ".".join(vector["response"][member] for member in ("protected", "encrypted_key", "iv", "ciphertext", "tag"))
    assert open_jwe(private, token) == vector["plaintext"].encode()


def test_the_largest_rsa_key(vectors: Path) -> None:
    pem = (vectors / "sealing" / "rsa-8192.pem").read_bytes()
    # Checking the primes of so large a key takes seconds.
    private: Any = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    sealed = seal(parse_guest_key(guest(private).to_jwk()), SECRET)
    assert open_jwe(private, sealed.value) == SECRET


def test_two_sealings_have_nothing_in_common() -> None:
    one, other = (seal(guest(P256), SECRET).value.split(".") for _ in range(2))
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_the_largest_secret_fits_and_one_byte_more_does_not() -> None:
    for size in (1000, 1001, 1002):
        token = seal(guest(P256), bytes(size)).value
        assert open_jwe(P256, token, max_bytes=size) == bytes(size)
    assert "too large" in str(refusal(P256, seal(guest(P256), bytes(1001)).value, max_bytes=1000))
    assert open_jwe(P256, seal(guest(P256), bytes(65536)).value) == bytes(65536)
    refusal(P256, seal(guest(P256), bytes(65537)).value)


@pytest.mark.parametrize(
    ("algorithm", "capacity", "scheme"),
    [
        (SealingAlgorithm.RSA_OAEP, 256 - 42, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)),
        (SealingAlgorithm.RSA1_5, 256 - 11, padding.PKCS1v15()),
    ],
)
def test_old_clients_get_the_bare_ciphertext(algorithm: SealingAlgorithm, capacity: int, scheme: padding.AsymmetricPadding) -> None:
    key = guest_key_of(RSA2048.public_key(), algorithm)
    sealed = seal(key, bytes(capacity))
    assert sealed.form == "raw"
    assert RSA2048.decrypt(base64url.decode(sealed.value), scheme) == bytes(capacity)
    with pytest.raises(RefusedKey) as caught:
        seal(key, bytes(capacity + 1))
    assert caught.value.finding_id == "key.capacity"
    assert caught.value.expected == f"at most {capacity} bytes"


def test_keybroker_demos_client_with_its_key_of_1024_bits() -> None:
    private = rsa.generate_private_key(65537, 1024)
    jwk = guest_key_of(private.public_key(), SealingAlgorithm.RSA1_5).to_jwk()
    sealed = seal(parse_guest_key(jwk, allow_rsa1_5=True), b"May the force be with you.")
    assert private.decrypt(base64url.decode(sealed.value), padding.PKCS1v15()) == b"May the force be with you."


def test_a_raw_form_needs_an_rsa_key() -> None:
    with pytest.raises(RefusedKey) as caught:
        seal(guest_key_of(P256.public_key(), SealingAlgorithm.RSA1_5), SECRET)
    assert caught.value.finding_id == "key.type"


def sealed_with(private: PrivateKey, header: dict[str, Any], algorithms: list[str]) -> str:
    token = JWE(SECRET, json.dumps(header), algs=algorithms)
    token.add_recipient(jwcrypto_key(private))
    compact: str = token.serialize(compact=True)
    return compact


def test_an_answer_sealed_to_another_key() -> None:
    mine, his = guest(P256), guest(ec.derive_private_key(99, ec.SECP256R1()))
    assert "another key" in str(refusal(P256, seal(his, SECRET).value))
    renamed = GuestKey(his.kty, his.algorithm, his.public_key, mine.thumbprint, his.jwk)
    assert "does not open" in str(refusal(P256, seal(renamed, SECRET).value))


@pytest.mark.parametrize(
    ("attack", "private", "header", "algorithms"),
    [
        ("RSA-OAEP with SHA-1", RSA2048, {"alg": "RSA-OAEP", "enc": "A256GCM"}, ["RSA-OAEP", "A256GCM"]),
        ("RSA1_5", RSA2048, {"alg": "RSA1_5", "enc": "A256GCM"}, ["RSA1_5", "A256GCM"]),
        ("CBC", RSA2048, {"alg": "RSA-OAEP-256", "enc": "A128CBC-HS256"}, ["RSA-OAEP-256", "A128CBC-HS256"]),
        ("direct agreement", P256, {"alg": "ECDH-ES", "enc": "A256GCM"}, ["ECDH-ES", "A256GCM"]),
        ("weaker wrapping", P256, {"alg": "ECDH-ES+A128KW", "enc": "A256GCM"}, ["ECDH-ES+A128KW", "A256GCM"]),
        ("compressed", P256, {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "zip": "DEF"}, ALGORITHMS),
        ("foreign member", P256, {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "jku": "https://example.com"}, ALGORITHMS),
        ("party information", P256, {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "apu": "QQ"}, ALGORITHMS),
    ],
)
def test_a_valid_token_of_another_making_is_refused(
    attack: str, private: PrivateKey, header: dict[str, Any], algorithms: list[str]
) -> None:
    token = sealed_with(private, header, algorithms)
    oracle = JWE(algs=algorithms)
    oracle.deserialize(token, jwcrypto_key(private))
    assert oracle.payload == SECRET
    refusal(private, token)


def with_header(token: str, text: str) -> str:
    return ".".join([base64url.encode(text.encode()), *token.split(".")[1:]])


TOKEN = seal(guest(P256), SECRET).value
HEADER = header_of(TOKEN)


@pytest.mark.parametrize(
    ("attack", "token"),
    [
        ("nothing", ""),
        ("four segments", TOKEN.rpartition(".")[0]),
        ("six segments", TOKEN + ".AAAA"),
        ("a million dots", "." * 1_000_000),
        ("white space", TOKEN + "\n"),
        ("padding", TOKEN + "="),
        ("letters outside ASCII", TOKEN.replace("A", "\u00c4")),
        ("header not JSON", with_header(TOKEN, "hello")),
        ("header a list", with_header(TOKEN, "[]")),
        ("header member twice", with_header(TOKEN, json.dumps(HEADER)[:-1] + ',"alg":"none"}')),
        ("huge header", with_header(TOKEN, json.dumps({**HEADER, "kid": "x" * 5000}))),
        ("header rewritten with blanks", with_header(TOKEN, json.dumps(HEADER))),
        ("critical member", with_header(TOKEN, json.dumps({**HEADER, "crit": ["exp"], "exp": 1}))),
        ("no ephemeral key", with_header(TOKEN, json.dumps({name: HEADER[name] for name in ("alg", "enc", "kid")}))),
        ("ephemeral key null", with_header(TOKEN, json.dumps({**HEADER, "epk": None}))),
        ("ephemeral key a text", with_header(TOKEN, json.dumps({**HEADER, "epk": "P-256"}))),
        ("ephemeral key empty", with_header(TOKEN, json.dumps({**HEADER, "epk": {}}))),
        ("ephemeral key off the curve", with_header(TOKEN, json.dumps({**HEADER, "epk": {**HEADER["epk"], "y": HEADER["epk"]["x"]}}))),
        ("ephemeral key on another curve", with_header(TOKEN, json.dumps({**HEADER, "epk": dict(guest(P384).jwk)}))),
        ("ephemeral key RSA", with_header(TOKEN, json.dumps({**HEADER, "epk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}))),
        ("ephemeral key with numbers", with_header(TOKEN, json.dumps({**HEADER, "epk": {**HEADER["epk"], "x": 1}}))),
        ("kid a number", with_header(TOKEN, json.dumps({**HEADER, "kid": 1}))),
    ],
)
def test_malformed_tokens_are_refused(attack: str, token: str) -> None:
    error = refusal(P256, token)
    assert "hunter2" not in f"{error} {error!r}"


@given(st.sampled_from(list(KEYS.values())), st.data())
@settings(max_examples=100)
def test_a_token_changed_anywhere_does_not_open(private: PrivateKey, data: st.DataObject) -> None:
    token = seal(guest(private), SECRET).value
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABab01-_.=\n\u00e4").filter(lambda letter: letter != token[at]))
    refusal(private, token[:at] + letter + token[at + 1 :])


@given(st.text(max_size=50) | st.text("A.eyJ9-_", max_size=50))
def test_any_text_is_refused(token: str) -> None:
    refusal(P256, token)


def test_a_key_that_we_never_make() -> None:
    with pytest.raises(RefusedKey):
        open_jwe(ec.generate_private_key(ec.SECP521R1()), TOKEN)


def test_nothing_prints_the_secret() -> None:
    sealed = seal(guest(P256), SECRET)
    assert repr(sealed) == "SealedSecret(form='jwe')"
    assert SealedSecret("raw", "hunter2").value not in repr(SealedSecret("raw", "hunter2"))
    with pytest.raises(RefusedKey) as caught:
        seal(guest_key_of(RSA2048.public_key(), SealingAlgorithm.RSA_OAEP), SECRET * 100)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error} {error!r} {error.__dict__}"
        error = error.__cause__ or error.__context__
