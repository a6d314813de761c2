"""The guest's public key: which ones a secret may be sealed to, and how a challenge commits to one.

A JWK (RFC 7517) from outside is trusted for nothing: it may be private, weak, off its curve, enormous, or somebody else's.
The first four are refused here. The last is what the challenge is for: it *is* the commitment to the key
(docs/security.md), so the realm's own attestation says which key may open the secret.

What the commitment does not cover is the ``alg`` member: the RFC 7638 thumbprint names the key only. A client must
therefore refuse an answer that is sealed in another way than it asked for; ``jwe.open_jwe`` does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from kbs_rim.errors import MalformedEvidence, RefusedKey
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.limits import DEFAULT_LIMITS

PublicKey = ec.EllipticCurvePublicKey | x25519.X25519PublicKey | rsa.RSAPublicKey

RSA_MIN_BITS = 2048
RSA_MAX_BITS = 8192
RSA_LEGACY_MIN_BITS = 1024
"""What keybroker-demo's client makes. Accepted only together with RSA1_5, behind the legacy switch."""
RSA_EXPONENT = 65537
CHALLENGE_DOMAIN = b"kbs_rim challenge v1\0"
SALT_BYTES = 32
THUMBPRINT_BYTES = 32

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "k", "oth"})
_SEALING_OPERATIONS = {"RSA": {"encrypt", "wrapKey"}, "EC": {"deriveKey", "deriveBits"}, "OKP": {"deriveKey", "deriveBits"}}
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int]] = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48)}
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384"}
_X25519_BYTES = 32
_X25519_PRIME = 2**255 - 19
_MAX_KID = 256
_MAX_MEMBER = 2048  # characters; the modulus of RSA 8192 has 1366


class SealingAlgorithm(Enum):
    """How a secret is sealed; the value is the JWA name (RFC 7518) that the guest's key carries as ``alg``."""

    ECDH_ES_A256KW = "ECDH-ES+A256KW"
    RSA_OAEP_256 = "RSA-OAEP-256"
    RSA_OAEP = "RSA-OAEP"
    RSA1_5 = "RSA1_5"

    @property
    def form(self) -> Literal["jwe", "raw"]:
        """``jwe``: a compact JWE. ``raw``: the bare RSA ciphertext, for clients of keybroker-demo's protocol."""
        return "jwe" if self in {SealingAlgorithm.ECDH_ES_A256KW, SealingAlgorithm.RSA_OAEP_256} else "raw"


_ALGORITHMS: Mapping[str, tuple[SealingAlgorithm, ...]] = {
    # Without an ``alg`` member the first is taken: never a raw form that nobody asked for.
    "EC": (SealingAlgorithm.ECDH_ES_A256KW,),
    "OKP": (SealingAlgorithm.ECDH_ES_A256KW,),
    "RSA": (SealingAlgorithm.RSA_OAEP_256, SealingAlgorithm.RSA_OAEP, SealingAlgorithm.RSA1_5),
}


@dataclass(frozen=True, slots=True)
class GuestKey:
    """A public key that was checked. ``jwk`` has the members that RFC 7638 hashes, and no others."""

    kty: str
    algorithm: SealingAlgorithm
    public_key: PublicKey = field(repr=False, compare=False)
    thumbprint: bytes
    jwk: Mapping[str, str] = field(repr=False)

    @property
    def kid(self) -> str:
        """The thumbprint in base64url, as JWE headers name the key."""
        return base64url.encode(self.thumbprint)

    def to_jwk(self) -> dict[str, str]:
        """Return the JWK that a client sends: the public members and ``alg``."""
        return {**self.jwk, "alg": self.algorithm.value}


def parse_guest_key(jwk: Mapping[str, object] | bytes, *, allow_rsa1_5: bool = False) -> GuestKey:
    """Check a JWK and return the key; bytes are read by ``strict_json``, so duplicate members are refused.

    ``allow_rsa1_5`` is the loud legacy switch: it admits ``RSA1_5``, and with it keys of 1024 bits.

    Raises ``RefusedKey``: ``key.private`` for any private member, ``key.type`` for a type, curve, use or algorithm that
    nothing is sealed to, ``key.legacy`` for RSA1_5 while it is off, ``key.weak`` for RSA outside 2048 to 8192 bits or an
    exponent other than 65537 or a point of small order, ``key.malformed`` for the rest.
    """
    members = _members(jwk)
    if _PRIVATE_MEMBERS & set(members):
        raise RefusedKey("key.private", "the JWK has private members")
    kty = members.get("kty")
    if not isinstance(kty, str) or kty not in _ALGORITHMS:
        raise RefusedKey("key.type", "the key has a type that nothing is sealed to", expected="EC, OKP or RSA")
    _check_purpose(members, kty)
    algorithm = _algorithm(members, kty, allow_rsa1_5)
    if kty == "EC":
        return guest_key_of(_ec_key(members), algorithm)
    if kty == "OKP":
        return guest_key_of(_x25519_key(members), algorithm)
    return guest_key_of(_rsa_key(members, algorithm), algorithm)


def guest_key_of(public_key: PublicKey, algorithm: SealingAlgorithm | None = None) -> GuestKey:
    """Make the value for a key that is known to be good, such as the client's own.

    Without ``algorithm``: ECDH-ES+A256KW, or RSA-OAEP-256 for RSA. Raises ``RefusedKey("key.type")`` for another curve.
    """
    kty, members = _public_members(public_key)
    text = strict_json.encode({name: members[name] for name in sorted(members)})
    return GuestKey(kty, algorithm or _ALGORITHMS[kty][0], public_key, hashlib.sha256(text).digest(), MappingProxyType(members))


def commitment(salt: bytes, thumbprint: bytes) -> bytes:
    """Return the 64-byte challenge that commits to one key.

    The bytes are ``SHA-512(b"kbs_rim challenge v1" || 0x00 || salt || thumbprint)``: a domain of 21 bytes with its NUL, a
    random salt of 32 bytes that is sent beside the challenge, and the SHA-256 thumbprint of the key (RFC 7638), 32 bytes.
    The lengths are fixed, so no two inputs run into each other. Raises ``ValueError`` for other lengths.
    """
    if len(salt) != SALT_BYTES or len(thumbprint) != THUMBPRINT_BYTES:
        raise ValueError(f"salt and thumbprint have {SALT_BYTES} and {THUMBPRINT_BYTES} bytes, not {len(salt)} and {len(thumbprint)}")
    return hashlib.sha512(CHALLENGE_DOMAIN + salt + thumbprint).digest()


def _members(jwk: Mapping[str, object] | bytes) -> Mapping[str, object]:
    if not isinstance(jwk, bytes):
        return jwk
    try:
        return strict_json.decode_object(jwk, what="the JWK", max_bytes=DEFAULT_LIMITS.key_request_bytes)
    except MalformedEvidence as error:
        raise RefusedKey("key.malformed", error.message) from None


def _check_purpose(members: Mapping[str, object], kty: str) -> None:
    """``use``, ``key_ops`` and ``kid`` may be absent; what they say must fit."""
    if members.get("use", "enc") != "enc":
        raise RefusedKey("key.type", "the key is not meant for encryption", expected="use: enc")
    operations = members.get("key_ops", [])
    if not isinstance(operations, list) or not all(isinstance(operation, str) for operation in operations):
        raise RefusedKey("key.malformed", "key_ops is not a list of strings")
    if "key_ops" in members and (
        not set(operations) <= _SEALING_OPERATIONS[kty] or len(set(operations)) != len(operations) or not operations
    ):
        raise RefusedKey("key.type", "key_ops does not allow to seal to this key", expected=", ".join(sorted(_SEALING_OPERATIONS[kty])))
    kid = members.get("kid", "")
    if not isinstance(kid, str) or len(kid) > _MAX_KID:
        raise RefusedKey("key.malformed", f"kid is not a string of at most {_MAX_KID} characters")


def _algorithm(members: Mapping[str, object], kty: str, allow_rsa1_5: bool) -> SealingAlgorithm:
    allowed = _ALGORITHMS[kty]
    if "alg" not in members:
        return allowed[0]
    for algorithm in allowed:
        if algorithm.value == members["alg"]:
            if algorithm is SealingAlgorithm.RSA1_5 and not allow_rsa1_5:
                raise RefusedKey("key.legacy", "RSA1_5 is switched off")
            return algorithm
    expected = ", ".join(algorithm.value for algorithm in allowed if algorithm is not SealingAlgorithm.RSA1_5)
    raise RefusedKey("key.type", "the key has an algorithm that nothing is sealed with", expected=expected)


def _octets(members: Mapping[str, object], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_MEMBER:
        raise RefusedKey("key.malformed", f"the member {name} of the JWK is missing, empty, too long or not a string")
    try:
        return base64url.decode(value, what=f"the member {name}")
    except MalformedEvidence as error:
        raise RefusedKey("key.malformed", error.message) from None


def _integer(members: Mapping[str, object], name: str) -> int:
    """A Base64urlUInt: big-endian, without leading zero octets (RFC 7518 section 2), so that a key has one thumbprint."""
    octets = _octets(members, name)
    if octets[0] == 0:
        raise RefusedKey("key.malformed", f"the member {name} of the JWK has leading zeros")
    return int.from_bytes(octets, "big")


def _ec_key(members: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    name = members.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        raise RefusedKey("key.type", "the key is on a curve that nothing is sealed to", expected=", ".join(_CURVES))
    curve, size = _CURVES[name]
    x, y = _octets(members, "x"), _octets(members, "y")
    if len(x) != size or len(y) != size:
        raise RefusedKey("key.malformed", "a coordinate has another length than its curve says", expected=f"{size} bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    except ValueError:
        raise RefusedKey("key.malformed", "the point is not on its curve") from None


def _x25519_key(members: Mapping[str, object]) -> x25519.X25519PublicKey:
    if members.get("crv") != "X25519":
        raise RefusedKey("key.type", "the key is on a curve that nothing is sealed to", expected="X25519")
    octets = _octets(members, "x")
    if len(octets) != _X25519_BYTES or int.from_bytes(octets, "little") >= _X25519_PRIME:
        raise RefusedKey("key.malformed", "the X25519 key is not a number of 32 bytes below its prime")
    key = x25519.X25519PublicKey.from_public_bytes(octets)
    try:
        # Any scalar is a multiple of 8, so a point of small order gives the all-zero secret, which the library refuses.
        x25519.X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES)).exchange(key)
    except ValueError:
        raise RefusedKey("key.weak", "the X25519 key is a point of small order") from None
    return key


def _rsa_key(members: Mapping[str, object], algorithm: SealingAlgorithm) -> rsa.RSAPublicKey:
    # _octets bounds the modulus before any arithmetic is done with it.
    modulus, exponent = _integer(members, "n"), _integer(members, "e")
    least = RSA_LEGACY_MIN_BITS if algorithm is SealingAlgorithm.RSA1_5 else RSA_MIN_BITS
    if not least <= modulus.bit_length() <= RSA_MAX_BITS:
        seen = f"{modulus.bit_length()} bits"
        raise RefusedKey("key.weak", "the RSA key has a length that is not allowed", expected=f"{least} to {RSA_MAX_BITS} bits", seen=seen)
    if exponent != RSA_EXPONENT:
        raise RefusedKey("key.weak", "the RSA key has another exponent than 65537", expected=str(RSA_EXPONENT))
    if modulus % 2 == 0:
        raise RefusedKey("key.weak", "the RSA modulus is even")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise RefusedKey("key.malformed", "the RSA key is malformed") from None


def _public_members(public_key: PublicKey) -> tuple[str, dict[str, str]]:
    """The type and the members that RFC 7638 section 3.2 requires."""
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return "RSA", {"e": _uint(numbers.e), "kty": "RSA", "n": _uint(numbers.n)}
    if isinstance(public_key, x25519.X25519PublicKey):
        return "OKP", {"crv": "X25519", "kty": "OKP", "x": base64url.encode(public_key.public_bytes_raw())}
    name = _CURVE_NAMES.get(public_key.curve.name)
    if name is None:
        raise RefusedKey("key.type", "the key is on a curve that nothing is sealed to", expected=", ".join(_CURVES))
    size = _CURVES[name][1]
    point = public_key.public_numbers()
    x, y = (base64url.encode(number.to_bytes(size, "big")) for number in (point.x, point.y))
    return "EC", {"crv": name, "kty": "EC", "x": x, "y": y}


def _uint(number: int) -> str:
    return base64url.encode(number.to_bytes((number.bit_length() + 7) // 8, "big"))
