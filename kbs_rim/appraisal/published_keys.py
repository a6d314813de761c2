"""Keys and platforms that anybody can impersonate, because the private halves are published with sample tokens.

A token or an attestation result made with one of these proves nothing. They are refused unless a test switch is on.
Public keys are named by their RFC 7638 thumbprint (SHA-256, base64url).
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey

from kbs_rim.evidence import base64url

_CURVES = {SECP256R1.name: ("P-256", 32), SECP384R1.name: ("P-384", 48), SECP521R1.name: ("P-521", 66)}

PUBLISHED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "Tm0waRFqJuDqU2BLCGkB1mwZoZ4wbJNIsRXaZE9oFc4": "CPAK of the TF-A, TF-RMM and TF-M example platform",
        "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s": "CPAK of Veraison's sample platform",
        "YA4w6xRL_r1ycpJ_OuX7G2WYrhBY0C0ElnkhIwYcZQE": "alternative CPAK of the ccatoken tests",
        "zlHKGdhwiiJ44GcXufNSB630FXaB7dFrCra_lc1ovtw": "RAK of the TF-RMM example realm",
        "1aYeBL7cEMq6UeHB1uF-qbOWm_Kyod9wtaSSN1YJBak": "second RAK of the TF-M examples",
        "AuAA4nCiqRdphuNkHnwf9ig7iSUUc11J4cArghmdy9w": "RAK of Veraison's sample realm",
        "xNnfOFTMgZSRM3KtGHQqavZGWGF00Fe54LZBYCIxr88": "EAR signing key of Veraison's quick deployments",
        "JMoFpoPS33VN44dRd1fusohLSuvAtUQlQRwd_vFlfPE": "CoSERV signing key of Veraison's native deployment",
        "GU6Fuy0KSIjAc2meKJwI3K3UrQUYA0RwaT43HJufOsg": "CoRIM signing key of Veraison's integration tests",
        "TeTYCPKER3y9k6LiFC-SHYlpDcVGRkRhkG68wxMo2LY": "sample key of rust-ccatoken",
        "n7yCtHyT79qIZy4J0vXn4qVTNpC-TcHBu750AKHjFW0": "PSA attestation key of TF-M's examples",
        "lsz0Ud6x2LbFn6a4g_9D_VRzarirKYnd-6GIe5-KwSI": "alternative PSA attestation key of TF-M's examples",
    }
)
"""RFC 7638 thumbprint -> what the key is."""

PUBLISHED_INSTANCES: Mapping[bytes, str] = MappingProxyType(
    {
        bytes.fromhex("0107060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"): "the TF-A, TF-RMM and TF-M example platform",
        b"\x01" + b"\x02" * 32: "the platform of Veraison's samples",
    }
)
"""Instance id (claim 256 of the platform token) -> whose it is (CCA token specification, 4.5 item 31)."""


def thumbprint(key: EllipticCurvePublicKey) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a P-256, P-384 or P-521 key; raise ``ValueError`` for other curves."""
    if key.curve.name not in _CURVES:
        raise ValueError(f"no JWK curve name for {key.curve.name}")
    curve, size = _CURVES[key.curve.name]
    numbers = key.public_numbers()
    x, y = (base64url.encode(coordinate.to_bytes(size, "big")) for coordinate in (numbers.x, numbers.y))
    members = {"crv": curve, "kty": "EC", "x": x, "y": y}
    return base64url.encode(sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def is_published(key: EllipticCurvePublicKey | str) -> str | None:
    """Say what the key is if its private half is published, else None. ``key`` is a public key or its thumbprint."""
    if isinstance(key, str):
        return PUBLISHED_KEYS.get(key)
    return PUBLISHED_KEYS.get(thumbprint(key)) if key.curve.name in _CURVES else None
