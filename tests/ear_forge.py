"""Makes attestation results, good and bad, with ``cryptography`` and ``json`` alone: none of the code under test is used."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.token_forge import CHALLENGE, PAIRS, bound, key, platform_claims, realm_claims

PLATFORM, REALM = "CCA_SSD_PLATFORM", "CCA_REALM"
NOW = 1_800_000_000
_NAMES = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
_HASHES = {"ES256": hashes.SHA256, "ES384": hashes.SHA384}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def verifier_key(name: str = "verifier", curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return key(f"ear {name}", curve)


def public_jwk(private_key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = private_key.public_key().public_numbers()
    size = (private_key.curve.key_size + 7) // 8
    name = {256: "P-256", 384: "P-384", 521: "P-521"}[private_key.curve.key_size]
    return {"kty": "EC", "crv": name, "x": b64url(numbers.x.to_bytes(size, "big")), "y": b64url(numbers.y.to_bytes(size, "big"))}


def vector(**values: int) -> dict[str, int]:
    return dict.fromkeys(_NAMES, 0) | {name.replace("_", "-"): value for name, value in values.items()}


def annotated_platform(claims: dict[int, Any]) -> dict[str, Any]:
    components = []
    for component in claims[2399]:
        entry = {"measurement-type": component.get(1), "measurement-value": b64(component[2])}
        entry |= {"version": component.get(4), "signer-id": b64(component[5]), "measurement-description": component.get(6)}
        components.append({name: value for name, value in entry.items() if value is not None})
    return {
        "cca-platform-profile": claims[265],
        "cca-platform-challenge": b64(claims[10]),
        "cca-platform-implementation-id": b64(claims[2396]),
        "cca-platform-instance-id": b64(claims[256]),
        "cca-platform-config": b64(claims[2401]),
        "cca-platform-lifecycle": claims[2395],
        "cca-platform-sw-components": components,
        "cca-platform-hash-algo-id": claims[2402],
    }


def annotated_realm(claims: dict[int, Any]) -> dict[str, Any]:
    return {
        "cca-realm-profile": claims.get(265, "tag:arm.com,2023:realm#1.0.0"),
        "cca-realm-challenge": b64(claims[10]),
        "cca-realm-personalization-value": b64(claims[44235]),
        "cca-realm-initial-measurement": b64(claims[44238]),
        "cca-realm-extensible-measurements": [b64(value) for value in claims[44239]],
        "cca-realm-hash-algo-id": claims[44236],
        "cca-realm-public-key": b64(claims[44237]),
        "cca-realm-public-key-hash-algo-id": claims[44240],
    }


def ear(pair: str = "2023-2024", *, nonce: bytes = CHALLENGE, at: int = NOW) -> dict[str, Any]:
    """The claims of a good result about ``token_forge.token(pair)``."""
    platform_profile, realm_profile = PAIRS[pair]
    realm = realm_claims(realm_profile)
    platform = platform_claims(platform_profile, bound(realm))
    good = vector(instance_identity=2, configuration=2, executables=2, hardware=2, runtime_opaque=2, storage_opaque=2)
    return {
        "eat_profile": "tag:github.com,2023:veraison/ear",
        "iat": at,
        "ear.verifier-id": {"build": "0.0.2608+6b88102", "developer": "Veraison Project"},
        "eat_nonce": base64.urlsafe_b64encode(nonce).decode(),
        "submods": {
            PLATFORM: {
                "ear.status": "affirming",
                "ear.appraisal-policy-id": "policy:ARM_CCA",
                "ear.trustworthiness-vector": good,
                "ear.veraison.annotated-evidence": annotated_platform(platform),
            },
            REALM: {
                "ear.status": "affirming",
                "ear.appraisal-policy-id": "policy:ARM_CCA",
                "ear.trustworthiness-vector": vector(instance_identity=2, executables=2),
                "ear.veraison.annotated-evidence": annotated_realm(realm),
            },
        },
    }


def sign(
    claims: Any,
    private_key: ec.EllipticCurvePrivateKey | None = None,
    *,
    header: dict[str, Any] | None = None,
    payload: bytes | None = None,
    algorithm: str = "ES256",
) -> str:
    """Sign as compact JWS. ``header`` replaces the header, ``payload`` the encoded claims; neither changes how it is signed."""
    private_key = private_key or verifier_key()
    head = json.dumps({"alg": algorithm, "typ": "JWT"} if header is None else header).encode()
    body = json.dumps(claims).encode() if payload is None else payload
    message = f"{b64url(head)}.{b64url(body)}".encode()
    r, s = decode_dss_signature(private_key.sign(message, ec.ECDSA(_HASHES[algorithm]())))
    size = (private_key.curve.key_size + 7) // 8
    return f"{message.decode()}.{b64url(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"
