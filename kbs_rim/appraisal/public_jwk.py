"""Read a public JWK (RFC 7517, 7518, 8037) that may verify signatures. Private keys are refused, not just ignored."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurve, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence import base64url

VerificationKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey
_Read = tuple[VerificationKey, dict[str, str]]

_CURVES: Mapping[str, type[EllipticCurve]] = {"P-256": SECP256R1, "P-384": SECP384R1, "P-521": SECP521R1}
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192


def read_public_jwk(jwk: Mapping[str, Any], *, finding_id: str, what: str) -> tuple[VerificationKey, str]:
    """Return the key and its RFC 7638 SHA-256 thumbprint (base64url); ``kid``, ``use``, ``x5c`` and the like are ignored.

    Raises ``InvalidDocument(finding_id)``, whose message starts with ``what``, for a private, malformed or weak key.
    """

    def refuse(problem: str) -> NoReturn:
        raise InvalidDocument(finding_id, f"{what} {problem}")

    if _SECRET_MEMBERS & set(jwk):
        refuse("holds a private key; give the public half only")
    kind = jwk.get("kty")
    if kind == "EC":
        key, required = _read_ec(jwk, refuse)
    elif kind == "RSA":
        key, required = _read_rsa(jwk, refuse)
    elif kind == "OKP":
        key, required = _read_okp(jwk, refuse)
    else:
        refuse("is not of type EC, RSA or OKP")
    canonical = json.dumps(required, sort_keys=True, separators=(",", ":")).encode("ascii")
    return key, base64url.encode(sha256(canonical).digest())


def _member(jwk: Mapping[str, Any], name: str, refuse: Callable[[str], NoReturn]) -> bytes:
    """Decode one member; padding is tolerated, since configuration files in the wild have it."""
    value = jwk.get(name)
    if not isinstance(value, str) or not value.isascii() or len(value) > 2 * _MAX_RSA_BITS // 8:
        refuse(f"lacks the member {name!r}, or it is not a short string")
    plain = value.rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        refuse(f"has a member {name!r} that is not base64url")


def _read_ec(jwk: Mapping[str, Any], refuse: Callable[[str], NoReturn]) -> _Read:
    name = jwk.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        refuse(f"is not on one of the curves {', '.join(_CURVES)}")
    curve = _CURVES[name]()
    x, y = _member(jwk, "x", refuse), _member(jwk, "y", refuse)
    size = (curve.key_size + 7) // 8
    if len(x) != size or len(y) != size:
        refuse("has coordinates of the wrong length")
    try:
        key = EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    except ValueError:
        refuse("is not a point on its curve")
    return key, {"crv": name, "kty": "EC", "x": base64url.encode(x), "y": base64url.encode(y)}


def _read_rsa(jwk: Mapping[str, Any], refuse: Callable[[str], NoReturn]) -> _Read:
    modulus, exponent = _member(jwk, "n", refuse), _member(jwk, "e", refuse)
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    if not _MIN_RSA_BITS <= n.bit_length() <= _MAX_RSA_BITS:
        refuse(f"has an RSA modulus outside {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
    try:
        key = RSAPublicNumbers(e, n).public_key()
    except ValueError:
        refuse("has an impossible RSA exponent or modulus")
    return key, {"e": base64url.encode(exponent), "kty": "RSA", "n": base64url.encode(modulus)}


def _read_okp(jwk: Mapping[str, Any], refuse: Callable[[str], NoReturn]) -> _Read:
    if jwk.get("crv") != "Ed25519":
        refuse("is an OKP key, but not Ed25519")
    x = _member(jwk, "x", refuse)
    try:
        key = Ed25519PublicKey.from_public_bytes(x)
    except ValueError:
        refuse("is not an Ed25519 key")
    return key, {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(x)}
