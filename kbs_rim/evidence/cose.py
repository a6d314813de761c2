"""COSE_Sign1: read strictly, verified with ``cryptography`` over the bytes as received.

Structures and headers are pycose's; its ``decode`` and ``verify_signature`` are never called, because they accept an
algorithm from the unprotected header, unknown ``crit``, trailing bytes and five-element arrays, and verify in pure Python.
Nothing here trusts a key: the caller says which key and which algorithm.

Implements RFC 9052 sections 3, 4.2 and 4.4, and the CCA token specification, 4.3 (items 11 to 15).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pycose.exceptions import CoseException
from pycose.messages.sign1message import Sign1Message

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged, decode
from kbs_rim.limits import DEFAULT_LIMITS, Limits

SIGN1_TAG = 18
ALG, CRIT, CONTENT_TYPE, KID, X5CHAIN, X5T = 1, 2, 3, 4, 33, 34
"""Header parameter labels (RFC 9052 table 3, RFC 9360 table 1)."""
ES256, ES384, ES512 = -7, -35, -36
"""Algorithm ids (RFC 9053 table 1)."""


@dataclass(frozen=True, slots=True)
class EcdsaParameters:
    """One ECDSA algorithm. CCA ties each to one curve, where RFC 9053 leaves the curve open.

    ``coordinate_size`` is the length in bytes of r and of s.
    """

    name: str
    curve: EllipticCurve
    hash: hashes.HashAlgorithm
    coordinate_size: int


ALGORITHMS: Mapping[int, EcdsaParameters] = MappingProxyType(
    {
        ES256: EcdsaParameters("ES256", SECP256R1(), hashes.SHA256(), 32),
        ES384: EcdsaParameters("ES384", SECP384R1(), hashes.SHA384(), 48),
        ES512: EcdsaParameters("ES512", SECP521R1(), hashes.SHA512(), 66),
    }
)
"""The algorithms we verify."""


@dataclass(frozen=True, slots=True)
class Sign1:
    """One COSE_Sign1. ``protected_raw`` and ``payload`` are the signed bytes as received, never re-encoded."""

    protected_raw: bytes
    protected: Mapping[int, CborValue]
    unprotected: Mapping[int, CborValue]
    payload: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not all(isinstance(part, bytes) for part in (self.protected_raw, self.payload, self.signature)):
            raise TypeError("protected_raw, payload and signature are bytes")


def parse_sign1(data: bytes, *, limits: Limits = DEFAULT_LIMITS, what: str = "COSE_Sign1") -> Sign1:
    """Read one tagged COSE_Sign1 that fills ``data``; which header parameters may stand in it is the caller's question.

    Refused whatever the caller thinks: another tag or none, not exactly four elements, a detached payload, a label in both
    headers, ``crit``. Raises ``MalformedEvidence("cbor.*" | "token.cose" | "token.header")``; ``what`` names it in messages.
    """
    item = decode(data, limits=limits, outer_tag=True, what=what)
    if not isinstance(item, Tagged) or item.number != SIGN1_TAG:
        _refuse(what, "token.cose", "is not a COSE_Sign1 with tag 18")
    if not isinstance(item.value, tuple) or len(item.value) != 4:
        _refuse(what, "token.cose", "is not an array of four elements")
    protected_raw, unprotected, payload, signature = item.value
    if not isinstance(protected_raw, bytes) or not isinstance(unprotected, dict) or not isinstance(signature, bytes):
        _refuse(what, "token.cose", "does not consist of a byte string, a map and two byte strings")
    if not isinstance(payload, bytes):
        _refuse(what, "token.cose", "has no payload of its own")
    protected = _protected_header(protected_raw, limits, what)
    loose = _integer_labels(unprotected)
    if CRIT in protected or CRIT in loose:
        _refuse(what, "token.header", "has critical header parameters, which we do not process")
    if both := sorted(protected.keys() & loose.keys()):
        _refuse(what, "token.header", f"has label {both[0]} in both headers")
    return Sign1(protected_raw, MappingProxyType(protected), MappingProxyType(loose), payload, signature)


def _protected_header(raw: bytes, limits: Limits, what: str) -> dict[int, CborValue]:
    """Decode the protected header; a zero-length string is an empty map (RFC 9052 section 3)."""
    if not raw:
        return {}
    header = decode(raw, limits=limits, preferred=True, what=f"{what}, protected header")
    if not isinstance(header, dict):
        _refuse(what, "token.header", "has a protected header that is not a map")
    return _integer_labels(header)


def _integer_labels(header: CborMap) -> dict[int, CborValue]:
    """Narrow the type: ``decode`` refused text keys already."""
    return {label: value for label, value in header.items() if isinstance(label, int)}


def _refuse(what: str, finding_id: str, problem: str) -> NoReturn:
    raise MalformedEvidence(finding_id, f"{what} {problem}")


def algorithm_of(sign1: Sign1) -> int:
    """Return the algorithm id of the protected header: never the unprotected one, never a name.

    Raises ``MalformedEvidence("token.algorithm")`` if there is none, or none that is an integer.
    """
    algorithm = sign1.protected.get(ALG)
    if isinstance(algorithm, bool) or not isinstance(algorithm, int):
        seen = "none" if algorithm is None else "not an integer"
        raise MalformedEvidence("token.algorithm", "the protected header names no algorithm", expected="a COSE algorithm id", seen=seen)
    return algorithm


def signed_bytes(sign1: Sign1) -> bytes:
    """Return the Sig_structure (RFC 9052 section 4.4) over the received bytes, with empty external data.

    The unprotected header is kept from pycose altogether. Raises ``MalformedEvidence("token.header")`` if pycose objects to
    the type of a header parameter.
    """
    try:
        message = Sign1Message.from_cose_obj([sign1.protected_raw, {}, sign1.payload, sign1.signature], True)
        structure: bytes = message._create_sig_structure()
    except (CoseException, TypeError, ValueError, AttributeError, KeyError):
        raise MalformedEvidence("token.header", "a protected header parameter has the wrong type") from None
    return structure


def verify_sign1(sign1: Sign1, key: EllipticCurvePublicKey, algorithm: int) -> bool:
    """Say whether ``key`` made the signature with ``algorithm``, which the protected header must name too.

    False for a wrong curve, a signature that is not r and s of the curve's size, r or s outside 1..order-1, and for a
    signature that does not verify. Raises ``MalformedEvidence("token.algorithm" | "token.header")``, and ``ValueError`` if
    ``algorithm`` is none of ``ALGORITHMS``.
    """
    parameters = ALGORITHMS.get(algorithm)
    if parameters is None:
        raise ValueError(f"no ECDSA algorithm has the id {algorithm}")
    size = parameters.coordinate_size
    if algorithm_of(sign1) != algorithm or key.curve.name != parameters.curve.name or len(sign1.signature) != 2 * size:
        return False
    r, s = int.from_bytes(sign1.signature[:size], "big"), int.from_bytes(sign1.signature[size:], "big")
    if not (0 < r < parameters.curve.group_order and 0 < s < parameters.curve.group_order):
        return False
    try:
        key.verify(encode_dss_signature(r, s), signed_bytes(sign1), ECDSA(parameters.hash))
    except InvalidSignature:
        return False
    return True
