"""Signing COSE_Sign1 messages, as RMM and platform firmware do (RFC 9052 4.4)."""

from collections.abc import Mapping
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ES256, ES384, ES512 = -7, -35, -36
_HASH: Mapping[int, hashes.HashAlgorithm] = {ES256: hashes.SHA256(), ES384: hashes.SHA384(), ES512: hashes.SHA512()}
_ALGORITHM_OF_CURVE = {"secp256r1": ES256, "secp384r1": ES384, "secp521r1": ES512}
_ALG = 1
_COSE_SIGN1_TAG = 18


def algorithm_for(key: ec.EllipticCurvePrivateKey) -> int:
    """Return the COSE algorithm that belongs to the key's curve."""
    return _ALGORITHM_OF_CURVE[key.curve.name]


def sign_sign1(
    protected: Mapping[int, Any], payload: bytes, private_key: ec.EllipticCurvePrivateKey, unprotected: Mapping[Any, Any] | None = None
) -> bytes:
    """Return the tagged COSE_Sign1 over ``payload``; ``protected`` must name the algorithm (label 1).

    Members keep the order given. The signature is r || s at the curve's full length.
    """
    header = cbor2.dumps(dict(protected))
    to_be_signed = cbor2.dumps(["Signature1", header, b"", payload])
    r, s = decode_dss_signature(private_key.sign(to_be_signed, ec.ECDSA(_HASH[protected[_ALG]])))
    size = (private_key.curve.key_size + 7) // 8
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return cbor2.dumps(cbor2.CBORTag(_COSE_SIGN1_TAG, [header, dict(unprotected or {}), payload, signature]))


def sign_claims(claims: Mapping[Any, Any], private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a claims map with the protected header {1: alg} that TF-RMM writes."""
    return sign_sign1({_ALG: algorithm_for(private_key)}, cbor2.dumps(dict(claims)), private_key)
