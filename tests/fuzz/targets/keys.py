"""Keys and sealed secrets: guests' keys, JWEs, verifiers' keys, and what brokers and verifiers answer over HTTP."""

import json
import struct
from collections.abc import Iterable, Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from yarl import URL

from kbs_rim.adapters.verifiers.veraison_discovery import read_discovery
from kbs_rim.adapters.verifiers.veraison_session import read_session
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.errors import InvalidDocument, MalformedEvidence, RefusedKey, UnopenableSecret, VerifierUnavailable
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE
from kbs_rim.realm.failures import BrokerNotTrusted
from kbs_rim.realm.guest import Exchange, read_refusal
from kbs_rim.sealing.guest_key import commitment, guest_key_of, parse_guest_key
from kbs_rim.sealing.jwe import PrivateKey, open_jwe, seal
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.targets.codecs import JSON_WORDS
from tests.fuzz.vectors import files, own

SECRET = b"a secret of the fuzz targets"
_SEALED = own("sealed")


def _rsa_key() -> rsa.RSAPrivateKey:
    key = load_pem_private_key(_SEALED["rsa-2048-published"], password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the seed is an RSA key")
    return key


KEYS: Mapping[str, PrivateKey] = {
    "p256": ec.derive_private_key(0x1234567, ec.SECP256R1()),
    "p384": ec.derive_private_key(0x1234567, ec.SECP384R1()),
    "x25519": x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))),
    "rsa-2048": _rsa_key(),
}
"""Private keys that are published here, for these targets and nothing else."""

# --- guests' keys -----------------------------------------------------------------------------------------------------


def check_guest_key(data: bytes) -> object:
    """A key that is accepted has one thumbprint, is read back, and can be sealed to; the legacy switch only adds keys."""
    try:
        strict = parse_guest_key(data)
    except RefusedKey:
        strict = None
    try:
        key = parse_guest_key(data, allow_rsa1_5=True)
    except RefusedKey:
        require(strict is None, "the legacy switch refuses nothing")
        raise
    require(strict is None or strict == key, "the legacy switch changes no key")
    require(parse_guest_key(strict_json.encode(dict(key.to_jwk())), allow_rsa1_5=True) == key, "a key's JWK is read back")
    members = json.dumps(dict(key.jwk), sort_keys=True, separators=(",", ":")).encode()
    require(key.thumbprint == sha256(members).digest(), "the thumbprint is that of RFC 7638")
    try:
        sealed = seal(key, SECRET)
    except RefusedKey as error:
        require(error.finding_id == "key.capacity", "a key that was accepted can be sealed to")
    else:
        require(sealed.form == key.algorithm.form, "a secret is sealed in the form that was asked for")
    return Judged(f"{key.algorithm.value} {key.jwk.get('crv', '')}", (key.kid, key.algorithm, dict(key.jwk)))


def guest_key_seeds() -> Iterable[bytes]:
    """One key of each kind, with everything a JWK may say."""
    for private in KEYS.values():
        yield strict_json.encode(dict(guest_key_of(private.public_key()).to_jwk()))
    jwk = dict(guest_key_of(KEYS["rsa-2048"].public_key()).to_jwk())
    for algorithm in ("RSA-OAEP", "RSA1_5"):
        yield strict_json.encode({**jwk, "alg": algorithm, "use": "enc", "key_ops": ["encrypt"], "kid": "k"})
    yield from files("tokens/keys/*.jwk", "corim/keys/*.jwk")


# --- sealed secrets ---------------------------------------------------------------------------------------------------

_PIECES = struct.Struct(">BHH")
_TAG, _IV = 16, 12


def check_open_jwe(data: bytes) -> object:
    """The first byte chooses the key, and whether the rest is a token or the pieces of one; nothing but our secret opens."""
    choice = data[0] if data else 0
    private = tuple(KEYS.values())[choice % len(KEYS)]
    token = data[1:].decode("utf-8", "replace") if choice < 128 else _token_of(data)
    require(open_jwe(private, token) == SECRET, "only what was sealed opens")
    return token


def _token_of(data: bytes) -> str:
    """Header, encrypted key, IV, tag and ciphertext, each in base64url whatever they are."""
    _, header, wrapped = _PIECES.unpack(data[: _PIECES.size].ljust(_PIECES.size, b"\0"))
    rest = data[_PIECES.size :]
    pieces = (rest[:header], rest[header:][:wrapped], *_tail(rest[header:][wrapped:]))
    return ".".join(map(base64url.encode, pieces))


def _tail(rest: bytes) -> tuple[bytes, bytes, bytes]:
    return rest[:_IV], rest[_IV + _TAG :], rest[_IV : _IV + _TAG]


def sealed_seeds() -> Iterable[bytes]:
    """One JWE for each key, whole and in pieces."""
    for number, name in enumerate(KEYS):
        token = _SEALED[name].strip()
        yield bytes([number]) + token
        header, wrapped, iv, ciphertext, tag = (base64url.decode(part) for part in token.split(b"."))
        yield _PIECES.pack(128 + number, len(header), len(wrapped)) + header + wrapped + iv + tag + ciphertext
        odd = b'{"alg":"dir","enc":"A256GCM","zip":"DEF","epk":{"kty":"EC","crv":"P-256","x":"","y":""},"crit":["x"]}'
        yield _PIECES.pack(128 + number, len(odd), 0) + odd
    yield from (b"\0" + str(answer["response"]).encode() for answer in json.loads(files("trustee/vectors.json")[0])["resource_response"])


# --- answers over HTTP ------------------------------------------------------------------------------------------------

BROKER = "http://broker.example:8088"
EXCHANGE = Exchange(BROKER, "a-key", KEYS["p256"])
_REFUSED_STATUS = 403


def check_broker_answer(data: bytes) -> object:
    """The first byte chooses: 0 a challenge (Location, line feed, body), 1 a sealed secret, 2 a refusal."""
    mode, content = (data[0] % 3 if data else 0), data[1:]
    if mode == 1:
        return EXCHANGE.read_secret(content)
    if mode == 2:
        refused = read_refusal(_REFUSED_STATUS, content)
        require_presentable(str(refused))
        return refused.code, refused.ticket
    location, _, body = content.partition(b"\n")
    offer = EXCHANGE.read_offer(location.decode("utf-8", "surrogateescape"), body)
    require(urlsplit(offer.location).hostname == "broker.example", "evidence goes to the broker that was asked")
    try:
        url = URL(offer.location)
    except ValueError:
        return offer.challenge, "not a URL"
    # aiohttp reads the URL with yarl; it must see the same host as urllib did
    require((url.scheme, url.host, url.port) == ("http", "broker.example", 8088), "both readers of URLs see the same origin")
    return offer


def answer_seeds() -> Iterable[bytes]:
    """A good challenge with Locations good and bad, a secret, refusals."""
    salt = bytes(32)
    challenge = commitment(salt, guest_key_of(KEYS["p256"].public_key()).thumbprint)
    offer = {"challenge": base64url.encode(challenge), "salt": base64url.encode(salt), "accept": [EVIDENCE_JSON_TYPE]}
    for location in (
        "/keys/v1/evidence/1",
        f"{BROKER}/x",
        "//evil.example/",
        "http://broker.example:8088@evil.example/",
        "\\\\evil/",
        "//[::1/",
    ):
        yield b"\0" + location.encode() + b"\n" + json.dumps(offer).encode()
    yield b"\1" + strict_json.encode({"data": _SEALED["p256"].decode().strip(), "ticket": "T-1"})
    yield b"\2" + strict_json.encode({"code": "not-authorized", "ticket": "T-1", "detail": "no"})


_BASE = URL("https://verifier.example:8443/base/")


def check_verifier_answer(data: bytes) -> object:
    """The first byte chooses: 0 a discovery document (Cache-Control, line feed, body), 1 a session."""
    mode, content = (data[0] % 2 if data else 0), data[1:]
    line, _, body = content.partition(b"\n")
    document = strict_json.decode_object(body, allow_floats=True)
    if mode == 1:
        session = read_session(document)
        require(session.status in {"waiting", "processing", "complete", "failed"}, "a session has a known status")
        return session
    found = read_discovery(document, _BASE, line.decode("utf-8", "surrogateescape"), 0.0)
    require(found.new_session.origin() == _BASE.origin(), "sessions are opened on the host that was configured")
    require(0 <= found.expires_at <= 3600, "a discovery document is believed for an hour at most")
    return found


def verifier_seeds() -> Iterable[bytes]:
    """Discovery documents and sessions."""
    for document in files("corim/generated/well-known-verification.json"):
        yield b"\0max-age=60, public\n" + document
    for path in (
        "/x/newSession",
        "https://verifier.example:8443/x",
        "//evil.example/x",
        "https://u@verifier.example:8443/",
        "http:x",
        "?a#b",
    ):
        yield b"\0\n" + strict_json.encode({"api-endpoints": {"newChallengeResponseSession": path}})
    yield b"\1\n" + strict_json.encode({"status": "waiting", "nonce": "AAEC", "accept": ["application/cbor", 1], "result": None})
    yield b'\1\n{"state":"complete","result":"a.b.c","nonce":5}'


def check_public_jwk(data: bytes) -> object:
    """A key for attestation results has one thumbprint, and can do something."""
    jwk = strict_json.decode_object(data)
    key = EarKey.from_jwk(jwk)
    require(EarKey.from_jwk({**jwk, "kid": "other"}).thumbprint == key.thumbprint, "a thumbprint is of the key alone")
    require(bool(key.algorithms), "a key that is accepted fits an algorithm")
    return key.thumbprint, sorted(key.algorithms)


def jwk_seeds() -> Iterable[bytes]:
    """Published test keys, and the other kinds."""
    yield from files("tokens/keys/*.jwk", "corim/keys/*.jwk")
    yield from guest_key_seeds()
    yield strict_json.encode({"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(bytes(range(32)))})


_KEY_WORDS = (b'"kty":', b'"crv":', b'"alg":', b'"P-384"', b'"AQAB"', b'"key_ops":[', b'"use":"enc"', *JSON_WORDS[:6])
TARGETS = (
    Target(name="guest_key", check=check_guest_key, seeds=guest_key_seeds, refusals=(RefusedKey,), words=_KEY_WORDS),
    Target(
        name="open_jwe",
        check=check_open_jwe,
        seeds=sealed_seeds,
        refusals=(UnopenableSecret,),
        words=(b'"epk":', b'"zip":', b"."),
        max_bytes=2048,
    ),
    Target(name="public_jwk", check=check_public_jwk, seeds=jwk_seeds, refusals=(InvalidDocument, MalformedEvidence), words=_KEY_WORDS),
    Target(
        name="broker_answer",
        check=check_broker_answer,
        seeds=answer_seeds,
        refusals=(BrokerNotTrusted,),
        words=(b"//", b"\\", b"@", b"http:", b":8088", b"\t", *JSON_WORDS[:6]),
    ),
    Target(
        name="verifier_answer",
        check=check_verifier_answer,
        seeds=verifier_seeds,
        refusals=(VerifierUnavailable, MalformedEvidence),
        words=(b"//", b"\\", b"@", b"https:", b"max-age=", b":8443", *JSON_WORDS[:6]),
    ),
)
