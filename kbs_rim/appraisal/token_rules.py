"""Step 2 of the appraisal: is this realm token genuine, bound to this platform token, and an answer to our challenge?

Each check stands alone, so that a record shows everything that is wrong and not just the first thing. What remains for the
caller: the platform token's signature and reference values (the external verifier's part), the measurements, the workload.

Implements the CCA token specification, 4.4 (items 17, 18 and 20 to 22) and 4.5 (items 30 and 31).
"""

import hmac
from collections.abc import Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.published_keys import PUBLISHED_INSTANCES, is_published
from kbs_rim.appraisal.workload import Lifecycle
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.cose import ES384, algorithm_of, verify_sign1

_LIFECYCLE_STATES: Mapping[int, Lifecycle] = MappingProxyType(
    {
        0x00: Lifecycle.UNKNOWN,
        0x10: Lifecycle.ASSEMBLY,
        0x20: Lifecycle.PROVISIONING,
        0x30: Lifecycle.SECURED,
        0x40: Lifecycle.NON_PLATFORM_DEBUG,
        0x50: Lifecycle.RECOVERABLE_DEBUG,
        0x60: Lifecycle.DECOMMISSIONED,
    }
)
"""Bits 15:8 of claim 2395 (specification 2.2)."""


def judge_realm_token(
    token: CcaToken, *, challenge: bytes | None, allow_test_keys: bool, allow_legacy_profile: bool
) -> tuple[Finding, ...]:
    """Return every reason to refuse the realm token; an empty tuple means that it is good.

    ``challenge`` is the 64 bytes that we issued; with None freshness is not judged, which is for looking at old tokens only.
    ``allow_test_keys`` accepts keys whose private half is published, and the all-zero RIM of sample tokens.
    """
    findings = [_signature(token), _binding(token), _challenge(token, challenge)]
    if not allow_test_keys:
        findings += [_test_key(token), _zero_rim(token)]
    if not allow_legacy_profile:
        findings.append(_legacy_profile(token))
    return tuple(finding for finding in findings if finding is not None)


def judge_platform_signature(token: CcaToken, cpak: EllipticCurvePublicKey, *, allow_test_keys: bool = False) -> tuple[Finding, ...]:
    """Return the reasons why ``cpak`` does not vouch for the platform token: it did not sign it, or anybody can use it."""
    findings = []
    try:
        signed = verify_sign1(token.platform.sign1, cpak, algorithm_of(token.platform.sign1))
    except MalformedEvidence as error:
        findings.append(Finding.from_error(error))
    else:
        if not signed:
            findings.append(Finding("platform.signature", "the platform token is not signed by the given key"))
    name = None if allow_test_keys else is_published(cpak)
    if name is not None:
        findings.append(Finding("platform.test-key", "the platform's key is published", seen=name))
    return tuple(findings)


def judge_platform_claims(token: CcaToken, *, allow_test_keys: bool) -> tuple[Finding, ...]:
    """Return the reasons to refuse the platform that need no policy: it is one that anybody can imitate."""
    instance_id = token.platform.claims.instance_id
    name = PUBLISHED_INSTANCES.get(instance_id)
    if name is None or allow_test_keys:
        return ()
    message = "the platform's key is published"
    return (Finding("platform.test-instance", message, seen=f"{instance_id.hex()}, {name}", where={"claim": 256}),)


def lifecycle_state(value: int) -> Lifecycle:
    """Return the state that claim 2395 names; raise ``MalformedEvidence("token.claim-value")`` outside the defined ranges.

    0x40xx is debug of the realm management world: the RMM, and with it every secret of a realm, can be read, although
    Veraison affirms it.
    """
    state = _LIFECYCLE_STATES.get(value >> 8)
    if state is None:
        raise MalformedEvidence("token.claim-value", "the platform's life cycle has an undefined value", seen=f"0x{value:04x}")
    return state


def _signature(token: CcaToken) -> Finding | None:
    """Item 20. ECDSA signatures can be altered without the key (s to order-s): neither token nor hash is a replay key."""
    if verify_sign1(token.realm.sign1, token.realm.rak, ES384):
        return None
    return Finding("realm.signature", "the realm token is not signed by the key it carries")


def _binding(token: CcaToken) -> Finding | None:
    """Item 21, over the content bytes of claim 44237 exactly as received."""
    realm = token.realm.claims
    expected = realm.public_key_hash_algorithm.digest(realm.public_key)
    seen = token.platform.claims.challenge
    if hmac.compare_digest(expected, seen):
        return None
    message = "the platform token does not hold the hash of the realm attestation key"
    where = {"claim": 10, "algorithm": realm.public_key_hash_algorithm.value}
    return Finding("realm.binding", message, expected=expected.hex(), seen=seen.hex(), where=where)


def _challenge(token: CcaToken, challenge: bytes | None) -> Finding | None:
    """Item 22: all 64 bytes, never a prefix, never padded by us."""
    seen = token.realm.claims.challenge
    if challenge is None or hmac.compare_digest(challenge, seen):
        return None
    message = "the realm token answers another challenge"
    return Finding("realm.challenge", message, expected=challenge.hex(), seen=seen.hex(), where={"claim": 10})


def _test_key(token: CcaToken) -> Finding | None:
    name = is_published(token.realm.rak)
    return Finding("realm.test-key", "the realm attestation key is published", seen=name) if name is not None else None


def _zero_rim(token: CcaToken) -> Finding | None:
    """Item 18."""
    if any(token.realm.claims.initial_measurement):
        return None
    return Finding("realm.rim-zero", "the realm's initial measurement is all zero", where={"claim": 44238})


def _legacy_profile(token: CcaToken) -> Finding | None:
    """Item 17."""
    pair = token.profile_pair
    return Finding("token.profile-legacy", "the token has the legacy profile", seen=str(pair)) if pair.legacy else None
