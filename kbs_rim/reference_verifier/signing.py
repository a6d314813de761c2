"""The verifier's signing key (P-256) and the compact JWS it makes."""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePrivateNumbers,
    EllipticCurvePublicNumbers,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from kbs_rim.appraisal.published_keys import is_published, thumbprint
from kbs_rim.errors import ConfigurationError
from kbs_rim.evidence import base64url

_COORDINATE_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A P-256 key that signs attestation results with ES256."""

    private: EllipticCurvePrivateKey

    def __post_init__(self) -> None:
        if not isinstance(self.private.curve, SECP256R1):
            raise ConfigurationError("the verifier's signing key is not on P-256: make one with --generate-key")

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new key."""
        return cls(generate_private_key(SECP256R1()))

    @classmethod
    def load(cls, content: bytes) -> "SigningKey":
        """Read a private key as PEM (PKCS #8, SEC 1) or JWK; raise ``ConfigurationError``."""
        try:
            if content.lstrip().startswith(b"{"):
                return cls(_from_jwk(json.loads(content)))
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigurationError("the verifier's signing key is not a readable private key in PEM or JWK form") from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ConfigurationError("the verifier's signing key is not an EC key: make one with --generate-key")
        return cls(key)

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public half, base64url."""
        return thumbprint(self.private.public_key())

    @property
    def published(self) -> str | None:
        """What key this is, if its private half is published."""
        return is_published(self.private.public_key())

    def pem(self) -> bytes:
        """The private key as unencrypted PKCS #8 PEM: for a file that only its owner can read."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_jwk(self) -> dict[str, str]:
        """The public half as discovery shows it: no kid, no use, just as Veraison."""
        numbers = self.private.public_key().public_numbers()
        return {"alg": "ES256", "crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return the claims as compact JWS with ES256."""
        return self.sign_payload(encode_claims(claims))

    def sign_payload(self, payload: bytes) -> str:
        """Sign a payload that is encoded already."""
        message = _signing_input({"alg": "ES256", "typ": "JWT"}, payload)
        r, s = decode_dss_signature(self.private.sign(message, ECDSA(SHA256())))
        signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return f"{message.decode('ascii')}.{base64url.encode(signature)}"

    def forge_unsigned(self, claims: Mapping[str, Any]) -> str:
        """A token with algorithm ``none``, for the fault of that name."""
        return _signing_input({"alg": "none", "typ": "JWT"}, encode_claims(claims)).decode("ascii") + "."

    def forge_hmac(self, claims: Mapping[str, Any]) -> str:
        """A token whose HMAC key is the public key: the classic confusion of algorithms, for the fault of that name."""
        message = _signing_input({"alg": "HS256", "typ": "JWT"}, encode_claims(claims))
        key = json.dumps(self.public_jwk(), sort_keys=True).encode("ascii")
        return f"{message.decode('ascii')}.{base64url.encode(hmac.new(key, message, sha256).digest())}"


def encode_claims(claims: Mapping[str, Any]) -> bytes:
    """Encode claims as compact JSON."""
    return json.dumps(claims, separators=(",", ":")).encode("ascii")


def _signing_input(header: Mapping[str, str], payload: bytes) -> bytes:
    return f"{base64url.encode(encode_claims(header))}.{base64url.encode(payload)}".encode("ascii")


def _coordinate(value: int) -> str:
    return base64url.encode(value.to_bytes(_COORDINATE_BYTES, "big"))


def _from_jwk(jwk: Mapping[str, str]) -> EllipticCurvePrivateKey:
    if jwk["kty"] != "EC" or jwk["crv"] != "P-256":
        raise ValueError("not a P-256 key")
    x, y, d = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=="), "big") for name in ("x", "y", "d"))
    return EllipticCurvePrivateNumbers(d, EllipticCurvePublicNumbers(x, y, SECP256R1())).private_key()
