"""The signed envelope of an attestation result: compact JWS (RFC 7515), strictly read, and the keys that may sign it.

The algorithm comes from the policy and must fit the key; the header is only ever compared with them (RFC 8725 3.1).
Keys, URLs and certificates in the header are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, SECP521R1, EllipticCurve, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kbs_rim.appraisal.public_jwk import VerificationKey, read_public_jwk
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_ECDSA: Mapping[str, tuple[type[EllipticCurve], hashes.HashAlgorithm]] = MappingProxyType(
    {
        "ES256": (SECP256R1, hashes.SHA256()),
        "ES384": (SECP384R1, hashes.SHA384()),
        "ES512": (SECP521R1, hashes.SHA512()),
    }
)
_RSA_PSS: Mapping[str, hashes.HashAlgorithm] = MappingProxyType(
    {"PS256": hashes.SHA256(), "PS384": hashes.SHA384(), "PS512": hashes.SHA512()}
)
_EDDSA = frozenset({"EdDSA", "Ed25519"})
SUPPORTED_ALGORITHMS = frozenset(_ECDSA) | frozenset(_RSA_PSS) | _EDDSA
"""Signature algorithms a policy may allow. ``none``, HMAC and PKCS#1 v1.5 cannot even be configured."""


@dataclass(frozen=True, slots=True)
class EarKey:
    """A public key that may sign attestation results, with its RFC 7638 SHA-256 thumbprint (base64url)."""

    public: VerificationKey
    thumbprint: str
    algorithms: frozenset[str]

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> "EarKey":
        """Read a public JWK (RFC 7517); other members (kid, use, x5c) are ignored.

        Raise ``InvalidDocument("verifier.key")`` if it is private, of a type that cannot sign results, or malformed.
        """
        public, thumbprint = read_public_jwk(jwk, finding_id="verifier.key", what="the key for attestation results")
        algorithms = _algorithms_of(public)
        stated = jwk.get("alg")
        if stated is not None:
            if not isinstance(stated, str) or stated not in algorithms:
                message = "the key for attestation results states an algorithm that does not fit its type"
                raise InvalidDocument("verifier.key", message, expected=", ".join(sorted(algorithms)))
            algorithms = frozenset({stated})
        return cls(public, thumbprint, algorithms)

    def verifies(self, jws: "CompactJws", algorithm: str) -> bool:
        """Whether this key made the signature with ``algorithm``, which the caller took from its policy."""
        if algorithm not in self.algorithms:
            return False
        try:
            if isinstance(self.public, EllipticCurvePublicKey):
                _verify_ecdsa(self.public, jws, _ECDSA[algorithm][1])
            elif isinstance(self.public, RSAPublicKey):
                digest = _RSA_PSS[algorithm]
                pss = PSS(MGF1(digest), PSS.DIGEST_LENGTH)
                self.public.verify(jws.signature, jws.signing_input, pss, digest)
            else:
                self.public.verify(jws.signature, jws.signing_input)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class CompactJws:
    """A compact JWS taken apart, not yet verified."""

    header: Mapping[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes


def parse_compact_jws(text: str, limits: Limits = DEFAULT_LIMITS) -> CompactJws:
    """Take a compact JWS apart; raise ``MalformedEvidence("verifier.malformed")`` for anything irregular."""
    if len(text) > limits.attestation_result_bytes:
        raise _malformed(f"the attestation result is larger than {limits.attestation_result_bytes} bytes", seen=str(len(text)))
    if not text.isascii():
        raise _malformed("the attestation result is not ASCII")
    parts = text.split(".")
    if len(parts) != 3:
        raise _malformed("the attestation result is not a compact JWS", expected="3 parts", seen=f"{len(parts)} parts")
    header = json_object(_decode_segment(parts[0], "its header"), "its header", limits)
    if "crit" in header or "zip" in header:
        raise _malformed("the header of the attestation result demands an extension that we do not have")
    return CompactJws(
        header=header,
        payload=_decode_segment(parts[1], "its payload"),
        signing_input=f"{parts[0]}.{parts[1]}".encode("ascii"),
        # An empty signature is left to the algorithm check: it means "none", and its finding should say so.
        signature=_decode_segment(parts[2], "its signature") if parts[2] else b"",
    )


def json_object(data: bytes, what: str, limits: Limits = DEFAULT_LIMITS) -> Mapping[str, Any]:
    """Decode a JSON object strictly (duplicate keys refused); raise ``MalformedEvidence("verifier.malformed")``."""
    try:
        return strict_json.decode_object(data, what=what, max_bytes=limits.attestation_result_bytes, allow_floats=True)
    except MalformedEvidence as error:
        raise _malformed(f"the attestation result is malformed: {error.message}") from None


def _decode_segment(segment: str, what: str) -> bytes:
    try:
        data = base64url.decode(segment, what=what)
    except MalformedEvidence as error:
        raise _malformed(f"the attestation result is malformed: {error.message}") from None
    if not data:
        raise _malformed(f"the attestation result is malformed: {what} is empty")
    return data


def _malformed(message: str, *, expected: str | None = None, seen: str | None = None) -> MalformedEvidence:
    return MalformedEvidence("verifier.malformed", message, expected=expected, seen=seen)


def _verify_ecdsa(key: EllipticCurvePublicKey, jws: CompactJws, digest: hashes.HashAlgorithm) -> None:
    size = (key.curve.key_size + 7) // 8
    if len(jws.signature) != 2 * size:
        raise InvalidSignature
    r, s = int.from_bytes(jws.signature[:size], "big"), int.from_bytes(jws.signature[size:], "big")
    key.verify(encode_dss_signature(r, s), jws.signing_input, ECDSA(digest))


def _algorithms_of(key: VerificationKey) -> frozenset[str]:
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset(name for name, (curve, _) in _ECDSA.items() if isinstance(key.curve, curve))
    return frozenset(_RSA_PSS) if isinstance(key, RSAPublicKey) else _EDDSA
