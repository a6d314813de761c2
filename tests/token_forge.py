"""Makes CCA tokens, good and bad, with cbor2 and ``cryptography`` alone: none of the code under test is used to build its input."""

import functools
from dataclasses import dataclass, field
from hashlib import new as new_hash
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

CHALLENGE = bytes(range(64))
LEGACY = "http://arm.com/CCA-SSD/1.0.0"
PLATFORM_2023, PLATFORM_2024 = "tag:arm.com,2023:cca_platform#1.0.0", "tag:arm.com,2024:cca_platform#2.0.0"
REALM_2023, REALM_2024 = "tag:arm.com,2023:realm#1.0.0", "tag:arm.com,2024:realm#2.0.0"
ES256, ES384, ES512 = -7, -35, -36
DROP = object()
"""As the value of a claim: leave it out."""

_ALGORITHMS = {ES256: (hashes.SHA256, 32), ES384: (hashes.SHA384, 48), ES512: (hashes.SHA512, 66)}


def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP384R1) -> ec.EllipticCurvePrivateKey:
    """One key per name, curve and test run."""
    return _key(name, curve)


@functools.cache
def _key(_name: str, curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


def coordinates(private_key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    numbers = private_key.public_key().public_numbers()
    size = (private_key.curve.key_size + 7) // 8
    return numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")


def raw_point(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return b"\x04" + b"".join(coordinates(private_key))


def cose_key(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """The encoding of TF-RMM: kty, crv, x, y."""
    x, y = coordinates(private_key)
    return cbor2.dumps({1: 2, -1: 2, -2: x, -3: y})


def signature(private_key: ec.EllipticCurvePrivateKey, algorithm: int, protected: bytes, payload: bytes) -> bytes:
    hash_, size = _ALGORITHMS[algorithm]
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(private_key.sign(structure, ec.ECDSA(hash_())))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def changed(claims: dict[Any, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    return {label: value for label, value in (claims | changes).items() if value is not DROP}


@dataclass
class Signed:
    """One COSE_Sign1 and all that can be wrong with it. ``elements`` replaces the array, ``raw_payload`` the encoded claims."""

    claims: dict[Any, Any]
    private_key: ec.EllipticCurvePrivateKey
    algorithm: int = ES384
    protected: bytes | None = None
    unprotected: Any = field(default_factory=dict)
    raw_payload: bytes | None = None
    tag: int = 18
    extra_elements: tuple[Any, ...] = ()

    def encode(self) -> bytes:
        protected = cbor2.dumps({1: self.algorithm}) if self.protected is None else self.protected
        payload = cbor2.dumps(self.claims) if self.raw_payload is None else self.raw_payload
        sealed = signature(self.private_key, self.algorithm, protected, payload)
        return cbor2.dumps(cbor2.CBORTag(self.tag, [protected, self.unprotected, payload, sealed, *self.extra_elements]))


def realm_claims(profile: str | None = REALM_2024, hash_name: str = "sha-256", **_: Any) -> dict[Any, Any]:
    """Claims of a realm as TF-RMM writes them under ``profile`` (None: legacy)."""
    size = {"sha-256": 32, "sha-384": 48, "sha-512": 64}[hash_name]
    rak = key("rak")
    claims: dict[Any, Any] = {
        10: CHALLENGE,
        44235: bytes(64),
        44237: raw_point(rak) if profile is None else cose_key(rak),
        44236: hash_name,
        44240: "sha-256",
        44238: b"\x11" * size,
        44239: [bytes([index]) * size for index in range(4)],
    }
    if profile is not None:
        claims[265] = profile
    if profile == REALM_2024:
        claims |= {256: b"\x01" + b"\x22" * 32, 44243: 1}
    return claims


def platform_claims(profile: str, challenge: bytes) -> dict[Any, Any]:
    """Claims of a platform in secured state."""
    claims: dict[Any, Any] = {
        265: profile,
        10: challenge,
        2396: b"\x33" * 32,
        256: b"\x01" + b"\x44" * 32,
        2401: b"\xcf\xcf",
        2395: 0x3003,
        2402: "sha-256",
        2400: "https://verifier.example/",
        2399: [{1: "RMM", 2: b"\x55" * 32, 4: "1.0", 5: b"\x66" * 32, 6: "sha-256"}],
    }
    if profile == PLATFORM_2024:
        claims |= {2394: 1, 2403: b"\x01"}
    return claims


def bound(realm: dict[Any, Any]) -> bytes:
    """What the platform's challenge must be: the hash of the content of claim 44237."""
    return new_hash(str(realm[44240]).replace("-", ""), realm[44237]).digest()


PAIRS = {
    "legacy": (LEGACY, None),
    "2023": (PLATFORM_2023, REALM_2023),
    "2023-2024": (PLATFORM_2023, REALM_2024),
    "2024": (PLATFORM_2024, REALM_2024),
}


def parts(
    pair: str = "2023-2024", *, realm: dict[Any, Any] | None = None, platform: dict[Any, Any] | None = None, hash_name: str = "sha-256"
) -> tuple[Signed, Signed]:
    """Return the platform and the realm token of a good token, with claims changed as given before signing."""
    platform_profile, realm_profile = PAIRS[pair]
    realm_map = changed(realm_claims(realm_profile, hash_name), realm or {})
    hash_input = (
        realm_map if isinstance(realm_map.get(44237), bytes) and realm_map.get(44240) in ("sha-256", "sha-384", "sha-512") else None
    )
    challenge = bound(hash_input) if hash_input else bytes(32)
    platform_map = changed(platform_claims(platform_profile, challenge), platform or {})
    return Signed(platform_map, key("cpak")), Signed(realm_map, key("rak"))


def wrap(form: int, platform: bytes, realm: bytes, **more: Any) -> bytes:
    """Put two signed byte strings into a collection of tag ``form``; ``more`` may give ``members`` to add or replace."""
    members: dict[Any, Any] = {44234: platform, 44241: realm}
    if form == 907:
        members = {label: [263, member] for label, member in members.items()}
    return cbor2.dumps(cbor2.CBORTag(form, changed(members, more.get("members", {}))))


def token(pair: str = "2023-2024", form: int = 907, **changes: Any) -> bytes:
    """Return a token that is good but for ``changes`` (see ``parts``)."""
    platform, realm = parts(pair, **changes)
    return wrap(form, platform.encode(), realm.encode())
