"""The realm attestation key: claim 44237, in the one encoding that the realm's profile says.

The key comes from the token that it is to verify, so it proves nothing until the platform token vouches for it
(``realm.binding``). Implements the CCA token specification, 2.3 and 3.2, and RFC 9052 section 7.
"""

from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.claim_shapes import kind_of
from kbs_rim.evidence.cose import ES384
from kbs_rim.evidence.strict_cbor import CborMap, decode
from kbs_rim.evidence.token_claims import RakEncoding
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_COORDINATE_SIZE = 48
_POINT_SIZE = 1 + 2 * _COORDINATE_SIZE
_UNCOMPRESSED = 0x04
"""SEC 1 section 2.3.3."""

_KTY, _KID, _ALG, _KEY_OPS, _CRV, _X, _Y, _D = 1, 2, 3, 4, -1, -2, -3, -4
"""COSE_Key labels (RFC 9052 table 4, RFC 9053 table 19)."""
_EC2, _P384, _VERIFY = 2, 2, 2
_KNOWN = frozenset({_KTY, _KID, _ALG, _KEY_OPS, _CRV, _X, _Y, _D})


def parse_rak(content: bytes, encoding: RakEncoding, limits: Limits = DEFAULT_LIMITS) -> EllipticCurvePublicKey:
    """Return the P-384 key in ``content`` of claim 44237.

    The two encodings never stand in for each other: which one is read follows from the profile alone. Raises
    ``MalformedEvidence("token.rak" | "token.rak-private" | "cbor.*")``.
    """
    point = _raw_point(content) if encoding is RakEncoding.RAW_POINT else _cose_key_point(content, limits)
    try:
        return EllipticCurvePublicKey.from_encoded_point(SECP384R1(), point)
    except ValueError:
        _refuse("is not a point on P-384")


def _raw_point(content: bytes) -> bytes:
    if len(content) != _POINT_SIZE or content[0] != _UNCOMPRESSED:
        _refuse("is not an uncompressed point", expected=f"{_POINT_SIZE} bytes starting with 04", seen=f"{len(content)} bytes")
    return content


def _cose_key_point(content: bytes, limits: Limits) -> bytes:
    key = decode(content, limits=limits, what="realm attestation key")
    if not isinstance(key, dict):
        _refuse("is not a COSE_Key", expected="map", seen=kind_of(key))
    if _D in key:
        raise MalformedEvidence("token.rak-private", "the realm attestation key has a private part")
    _check_parameters(key)
    return bytes([_UNCOMPRESSED]) + _coordinate(key, _X, "x") + _coordinate(key, _Y, "y")


def _check_parameters(key: CborMap) -> None:
    if unknown := key.keys() - _KNOWN:
        _refuse("has a parameter that means nothing for EC2 keys", seen=f"{len(unknown)} unknown labels")
    if key.get(_KTY) != _EC2 or key.get(_CRV) != _P384:
        _refuse("is not an EC2 key on P-384")
    if _ALG in key and key[_ALG] != ES384:
        _refuse("is for another algorithm", expected=f"{ES384} (ES384)")
    if _KEY_OPS in key:
        operations = key[_KEY_OPS]
        if not isinstance(operations, tuple) or _VERIFY not in operations:
            _refuse("may not be used to verify", expected="key_ops with verify")
    if _KID in key and not isinstance(key[_KID], bytes):
        _refuse("has a key id that is not a byte string")


def _coordinate(key: CborMap, label: int, name: str) -> bytes:
    """Return one coordinate in full length. A bool for y is a compressed point, which leaves the choice of key to the reader."""
    value = key.get(label)
    if not isinstance(value, bytes) or len(value) != _COORDINATE_SIZE:
        seen = f"{len(value)} bytes" if isinstance(value, bytes) else kind_of(value)
        _refuse(f"has a malformed {name} coordinate", expected=f"{_COORDINATE_SIZE} bytes", seen=seen)
    return value


def _refuse(problem: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
    raise MalformedEvidence("token.rak", f"the realm attestation key {problem}", expected=expected, seen=seen)
