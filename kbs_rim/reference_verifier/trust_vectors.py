"""Appraise a CCA token against endorsements and say so in the words of Veraison's ARM_CCA scheme.

Stricter than Veraison in one place: a software component must have the endorsed signer. As there, debug of the realm
management world (life cycle 0x40xx) keeps full marks, so that a relying party that relies on it alone is found out.
"""

import base64
from collections.abc import Mapping
from typing import Any

from kbs_rim.appraisal.ear_vector import CLAIM_NAMES, CRYPTO_FAILED, TrustVector
from kbs_rim.appraisal.endorsements import EndorsementStore, PlatformReference, RealmReference
from kbs_rim.appraisal.findings import Finding, errors_of
from kbs_rim.appraisal.token_rules import judge_platform_signature, judge_realm_token, lifecycle_state
from kbs_rim.appraisal.workload import Lifecycle
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken, PlatformClaims, RealmClaims, SoftwareComponent, parse_cca_token
from kbs_rim.limits import Limits

POLICY_ID = "policy:ARM_CCA"
_CHALLENGE_BYTES = 64
_TRUSTED_STATES = frozenset({Lifecycle.SECURED, Lifecycle.NON_PLATFORM_DEBUG})
_LEGACY_REALM_PROFILE = "tag:arm.com,2023:realm#1.0.0"
"""What Veraison reports for a realm token without a profile."""


def appraise_token(
    data: bytes, nonce: bytes, endorsements: EndorsementStore, *, at: int, allow_test_keys: bool, limits: Limits
) -> dict[str, Any]:
    """Return the ``submods`` of an attestation result about ``data``, for a session with ``nonce``; ``at`` in epoch seconds."""
    try:
        token = parse_cca_token(data, limits)
    except MalformedEvidence as error:
        return early_failure(f"could not establish identity from evidence: {error.finding_id}")
    platform = token.platform.claims
    anchor = endorsements.trust_anchor(platform.implementation_id, platform.instance_id, at)
    if anchor is None:
        return early_failure("no trust anchor for evidence")
    challenge = nonce.ljust(_CHALLENGE_BYTES, b"\0")
    if token.realm.claims.challenge != challenge:
        return early_failure(
            "integrity validation failed: bad evidence: freshness: realm challenge "
            f"({token.realm.claims.challenge.hex()}) does not match session nonce ({nonce.hex()})"
        )
    findings: tuple[Finding, ...] = (
        *judge_platform_signature(token, anchor.key, allow_test_keys=allow_test_keys),
        *judge_realm_token(token, challenge=challenge, allow_test_keys=allow_test_keys, allow_legacy_profile=True),
    )
    if broken := errors_of(findings):
        return early_failure(f"integrity validation failed: bad evidence: {broken[0].message}")
    return {
        "CCA_SSD_PLATFORM": _part(
            _platform_vector(platform, endorsements.platform_references(platform.implementation_id, at)),
            _annotated_platform(platform),
        ),
        "CCA_REALM": _part(
            _realm_vector(token.realm.claims, endorsements.realm_references(token.realm.claims.initial_measurement, at)),
            _annotated_realm(token),
        ),
    }


def early_failure(problem: str) -> dict[str, Any]:
    """The single part that stands for everything when evidence could not even be attributed or was not genuine."""
    part = _part(dict.fromkeys(CLAIM_NAMES, CRYPTO_FAILED), None)
    return {"ARM_CCA": part | {"ear.veraison.policy-claims": {"problem": problem}}}


def _part(values: Mapping[str, int], annotated: Mapping[str, Any] | None) -> dict[str, Any]:
    vector = TrustVector(values)
    part: dict[str, Any] = {
        "ear.status": vector.worst.label,
        "ear.appraisal-policy-id": POLICY_ID,
        "ear.trustworthiness-vector": dict(vector.values),
    }
    if annotated is not None:
        part["ear.veraison.annotated-evidence"] = dict(annotated)
    return part


def _platform_vector(claims: PlatformClaims, references: tuple[PlatformReference, ...]) -> dict[str, int]:
    trusted = 2 if lifecycle_state(claims.lifecycle) in _TRUSTED_STATES else 96
    known = [component for reference in references for component in reference.components]
    recognised = all(any(item.matches(component) for item in known) for component in claims.sw_components)
    return {
        "hardware": 2,
        "instance-identity": trusted,
        "runtime-opaque": trusted,
        "storage-opaque": trusted,
        "configuration": 2 if any(reference.config == claims.config for reference in references) else 32,
        "executables": 2 if recognised else 33,
    }


def _realm_vector(claims: RealmClaims, references: tuple[RealmReference, ...]) -> dict[str, int]:
    opinions = [_realm_opinion(claims, reference) for reference in references]
    return {"instance-identity": 2, "executables": min(opinions, default=33)}


def _realm_opinion(claims: RealmClaims, reference: RealmReference) -> int:
    if reference.rpv is not None and reference.rpv != claims.personalization_value:
        return 96
    rems = claims.extensible_measurements
    return 2 if all(rems[number] == value for number, value in reference.rems.items()) else 3


# --- annotated evidence -----------------------------------------------------------------------------------------------


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _annotated_platform(claims: PlatformClaims) -> dict[str, Any]:
    annotated = {
        "cca-platform-profile": claims.profile,
        "cca-platform-challenge": _b64(claims.challenge),
        "cca-platform-implementation-id": _b64(claims.implementation_id),
        "cca-platform-instance-id": _b64(claims.instance_id),
        "cca-platform-config": _b64(claims.config),
        "cca-platform-lifecycle": claims.lifecycle,
        "cca-platform-sw-components": [_annotated_component(component) for component in claims.sw_components],
        "cca-platform-hash-algo-id": claims.hash_algorithm,
    }
    if claims.verification_service is not None:
        annotated["cca-platform-service-indicator"] = claims.verification_service
    return annotated


def _annotated_component(component: SoftwareComponent) -> dict[str, str]:
    texts = {
        "measurement-type": component.measurement_type,
        "measurement-value": _b64(component.measurement_value),
        "version": component.version,
        "signer-id": _b64(component.signer_id),
        "measurement-description": component.hash_algorithm,
    }
    return {name: text for name, text in texts.items() if text is not None}


def _annotated_realm(token: CcaToken) -> dict[str, Any]:
    claims = token.realm.claims
    return {
        "cca-realm-profile": claims.profile or _LEGACY_REALM_PROFILE,
        "cca-realm-challenge": _b64(claims.challenge),
        "cca-realm-personalization-value": _b64(claims.personalization_value),
        "cca-realm-initial-measurement": _b64(claims.initial_measurement),
        "cca-realm-extensible-measurements": [_b64(value) for value in claims.extensible_measurements],
        "cca-realm-hash-algo-id": claims.hash_algorithm.value,
        "cca-realm-public-key": _b64(claims.public_key),
        "cca-realm-public-key-hash-algo-id": claims.public_key_hash_algorithm.value,
    }
