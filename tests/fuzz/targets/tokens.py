"""CCA tokens: COSE_Sign1, whole tokens with their judges, and claims put into an intact outer form."""

import struct
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import product

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.appraisal.token_rules import judge_platform_claims, judge_platform_signature, judge_realm_token, lifecycle_state
from kbs_rim.evidence import token_claims as tc
from kbs_rim.evidence.cca_token import CcaToken, parse_cca_token, reassemble
from kbs_rim.evidence.cose import ALGORITHMS, algorithm_of, parse_sign1, signed_bytes, verify_sign1
from kbs_rim.evidence.strict_cbor import encode
from kbs_rim.evidence.token_collection import split_collection
from tests.fuzz.examination import Target, require, require_presentable
from tests.fuzz.vectors import files

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
KEYS = {name: ec.derive_private_key(0x1234567 + number, curve) for number, (name, curve) in enumerate(CURVES.items())}
"""Keys that every run has alike; nothing is signed with them."""
CHALLENGE = bytes(range(64))
_FORMS = (399, 907)
_LENGTHS = struct.Struct(">BHH")


def check_cose(data: bytes) -> object:
    """What is signed is what RFC 9052 4.4 says, over the bytes as received; a foreign key never made the signature."""
    sign1 = parse_sign1(data)
    algorithm = algorithm_of(sign1)
    signed = signed_bytes(sign1)
    require(signed == cbor2.dumps(["Signature1", sign1.protected_raw, b"", sign1.payload]), "the Sig_structure holds the bytes as received")
    if algorithm in ALGORITHMS:
        require(not any(verify_sign1(sign1, key.public_key(), algorithm) for key in KEYS.values()), "a foreign key verifies nothing")
    return algorithm, sign1.protected_raw, sign1.payload, sign1.signature


def cose_seeds() -> Iterable[bytes]:
    """The signed parts of tokens, and signed CoRIMs."""
    for token in files("tokens/valid/*.cbor"):
        collection = split_collection(token)
        yield from (collection.platform, collection.realm)
    yield from files("tokens/valid-platform/*.cbor", "corim/*/*.cose")


def check_cca_token(data: bytes) -> object:
    """A token made anew from its members holds the same claims; the judges have an opinion on whatever was parsed."""
    token = parse_cca_token(data)
    seen = _seen(token)
    anew = reassemble(token)
    again = parse_cca_token(anew)
    require(_seen(again) == seen, "a token that was put together anew has the same claims")
    require(reassemble(again) == anew, "the canonical form is one")
    return seen, _opinions(token)


def _seen(token: CcaToken) -> tuple[object, ...]:
    point = token.realm.rak.public_numbers()
    devices = None if token.devices is None else repr(token.devices.devices)
    return token.form, str(token.profile_pair), repr(token.platform.claims), repr(token.realm.claims), point.x, point.y, devices


def _opinions(token: CcaToken) -> list[object]:
    """All judges, with every combination of what may be allowed. What is allowed never adds a finding."""
    found: list[object] = [lifecycle_state(token.platform.claims.lifecycle)]
    strictest: set[str] | None = None
    for keys, legacy in product((False, True), repeat=2):
        findings = judge_realm_token(token, challenge=CHALLENGE, allow_test_keys=keys, allow_legacy_profile=legacy)
        ids = {finding.id for finding in findings}
        strictest = ids if strictest is None else strictest
        require(ids <= strictest, "what is allowed adds no finding")
        require("realm.challenge" in ids or token.realm.claims.challenge == CHALLENGE, "another challenge is always found")
        found += [finding.to_document() for finding in findings]
    for private in KEYS.values():
        findings = judge_platform_signature(token, private.public_key())
        require(bool(findings), "a foreign key does not vouch for a platform")
        found += [finding.to_document() for finding in findings]
    found += [finding.to_document() for finding in judge_platform_claims(token, allow_test_keys=False)]
    for document in found:
        if isinstance(document, Mapping):
            for text in (document["message"], document.get("expected"), document.get("seen")):
                require_presentable(text)
    return found


def token_seeds() -> Iterable[bytes]:
    """Good tokens and odd ones."""
    yield from files("tokens/valid/*.cbor", "tokens/odd/*.cbor")


def check_token_claims(data: bytes) -> object:
    """The input is flags, two lengths, then the claims of platform and realm, and of devices if flag 2 is set.

    Form, COSE and lengths around them are always right, so that mutations reach what is inside.
    """
    return check_cca_token(_assembled(data))


def _assembled(data: bytes) -> bytes:
    flags, platform_size, realm_size = _LENGTHS.unpack(data[: _LENGTHS.size].ljust(_LENGTHS.size, b"\0"))
    rest = data[_LENGTHS.size :]
    platform, realm, devices = rest[:platform_size], rest[platform_size:][:realm_size], rest[platform_size:][realm_size:]
    members: dict[int, object] = {
        tc.PLATFORM_TOKEN: cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: -7}), {}, platform, bytes(64)])),
        tc.REALM_TOKEN: cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: -35}), {}, realm, bytes(96)])),
    }
    if flags & 1:
        members = {label: [263, member] for label, member in members.items()}
        if flags & 2:
            members[tc.DEVICE_TOKEN] = [601, devices]
    return cbor2.dumps(cbor2.CBORTag(_FORMS[flags & 1], members))


def _seed(flags: int, platform: bytes, realm: bytes, devices: bytes = b"") -> bytes:
    return _LENGTHS.pack(flags, len(platform), len(realm)) + platform + realm + devices


def claims_seeds() -> Iterable[bytes]:
    """The claims of every good token, in both forms, and one with devices."""
    pairs = []
    for data in files("tokens/valid/*.cbor"):
        token = parse_cca_token(data)
        pairs.append((token.platform.sign1.payload, token.realm.sign1.payload))
    for (platform, realm), flags in product(pairs, (0, 1)):
        yield _seed(flags, platform, realm)
    platform, realm = pairs[6]
    digest = bytes(32)
    devices = encode({tc.PROFILE: tc.DEVICE_PROFILE, tc.DEVICE_MEASUREMENTS: [{1: digest, 2: digest, 4: True, 5: False}]})
    claims = cbor2.loads(realm) | {tc.DEVICES_HASH: sha256(devices).digest()}
    yield _seed(3, platform, encode(claims), devices)


TARGETS = (
    Target(name="cose_sign1", check=check_cose, seeds=cose_seeds),
    Target(name="cca_token", check=check_cca_token, seeds=token_seeds),
    Target(name="token_claims", check=check_token_claims, seeds=claims_seeds),
)
