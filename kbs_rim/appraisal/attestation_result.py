"""Judge an attestation result (EAR) of an external verifier, in the order of docs/verifier.md.

The verifier is trusted to judge the platform token, and for nothing else. Its answer counts only if it is signed by a key
of the policy, fresh, about our challenge, complete, affirming, and about the very claims that we read ourselves.
What this module leaves to the caller: the life cycle and the ids that a workload allows (2.4 item 7, second half), and
every statement about the realm (item 9): the realm half of the verifier's opinion can refuse but never helps.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from kbs_rim.appraisal.annotated_evidence import decode_base64, judge_platform_evidence, judge_realm_evidence
from kbs_rim.appraisal.ear_parts import PLATFORM_SUBMOD, REALM_SUBMOD, EarParts, shown
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import CompactJws, EarKey, json_object, parse_compact_jws
from kbs_rim.appraisal.findings import Finding, Severity, errors_of
from kbs_rim.appraisal.published_keys import is_published
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.limits import DEFAULT_LIMITS, Limits

__all__ = ["EarPolicy", "PlatformOpinion", "judge_attestation_result"]

_MAX_DISCOVERY_KEYS = 4


@dataclass(frozen=True, slots=True)
class PlatformOpinion:
    """What became of an attestation result. ``statuses`` are effective: the worse of the declared one and the vector's.

    ``claims`` is a summary fit for the record: profile, iat, developer, build, policy ids and the verifier's complaint.
    """

    findings: tuple[Finding, ...]
    statuses: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    key_thumbprint: str | None = None
    claims: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def affirming(self) -> bool:
        """Whether nothing speaks against the platform."""
        return not errors_of(self.findings)

    @property
    def facts(self) -> dict[str, Any]:
        """The JSON form for the record, without the findings; it holds no floats."""
        return {
            "statuses": dict(self.statuses),
            "vectors": {name: dict(vector) for name, vector in self.vectors.items()},
            "key_thumbprint": self.key_thumbprint,
            "claims": dict(self.claims),
        }


def judge_attestation_result(
    jwt: str,
    policy: EarPolicy,
    *,
    token: CcaToken,
    challenge: bytes,
    issued_at: int,
    at: int,
    discovery_keys: Sequence[Mapping[str, Any]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> PlatformOpinion:
    """Judge a compact JWT about ``token``, for the 64-byte ``challenge`` issued at ``issued_at``; times in epoch seconds.

    A result that cannot be read or is not signed by a trusted key is judged no further; otherwise all findings are
    collected. Never raises for anything the verifier sent.
    """
    try:
        jws = parse_compact_jws(jwt, limits)
        key, findings = _trusted_key(jws, policy, discovery_keys)
        if key is None:
            return PlatformOpinion(findings)
        claims = json_object(jws.payload, "its payload", limits)
    except MalformedEvidence as error:
        return PlatformOpinion((Finding.from_error(error),))
    submods = EarParts.read(claims.get("submods"), policy)
    found = (
        *findings,
        *_judge_identity(claims, policy),
        *_judge_times(claims, policy, issued_at, at),
        *_judge_nonce(claims, challenge),
        *submods.findings,
        *_judge_readings(submods, token),
    )
    summary = _summary(claims, submods)
    return PlatformOpinion(found, submods.statuses, submods.vectors, key.thumbprint, summary)


# --- steps 1 and 2: algorithm, signature, key -------------------------------------------------------------------------


def _trusted_key(jws: CompactJws, policy: EarPolicy, discovery: Sequence[Mapping[str, Any]]) -> tuple[EarKey | None, tuple[Finding, ...]]:
    algorithm = jws.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in policy.algorithms:
        allowed = ", ".join(sorted(policy.algorithms))
        message = "the attestation result is not signed with an allowed algorithm"
        return None, (Finding("verifier.algorithm", message, expected=allowed, seen=shown(algorithm)),)
    advertised = _readable_keys(discovery)
    findings = list(_key_drift(policy, advertised))
    key = next((key for key in policy.keys if key.verifies(jws, algorithm)), None)
    if key is None and policy.trust_discovery:
        key = next((key for key in advertised if key.verifies(jws, algorithm)), None)
        if key is not None:
            message = "only the verifier's own discovery document vouches for the key of the attestation result"
            findings.append(Finding("verifier.discovery-key", message, Severity.WARNING, seen=key.thumbprint))
    if key is None:
        known = ", ".join(key.thumbprint for key in policy.keys) or "the discovery document's key"
        message = "the attestation result is not signed by a trusted key"
        seen = ", ".join(key.thumbprint for key in advertised) or None
        return None, (*findings, Finding("verifier.signature", message, expected=known, seen=seen))
    if is_published(key.thumbprint):
        severity = Severity.WARNING if policy.allow_published_keys else Severity.ERROR
        message = "the attestation result is signed by a key whose private half is published"
        findings.append(Finding("verifier.published-key", message, severity, seen=key.thumbprint))
    return key, tuple(findings)


def _readable_keys(discovery: Sequence[Mapping[str, Any]]) -> tuple[EarKey, ...]:
    keys = []
    for jwk in discovery[:_MAX_DISCOVERY_KEYS]:
        try:
            keys.append(EarKey.from_jwk(jwk))
        except InvalidDocument:
            continue  # an unreadable key vouches for nothing; if it was needed, verifier.signature says so
    return tuple(keys)


def _key_drift(policy: EarPolicy, advertised: tuple[EarKey, ...]) -> tuple[Finding, ...]:
    pinned = {key.thumbprint for key in policy.keys}
    others = sorted({key.thumbprint for key in advertised} - pinned)
    if not pinned or not others:
        return ()
    message = "the verifier advertises a key that is not pinned"
    return (
        Finding(
            "verifier.key-drift",
            message,
            Severity.WARNING,
            expected=", ".join(sorted(pinned)),
            seen=", ".join(others),
        ),
    )


# --- steps 3, 4 and 5: who, when, for which challenge -----------------------------------------------------------------


def _judge_identity(claims: Mapping[str, Any], policy: EarPolicy) -> list[Finding]:
    findings = []
    profile = claims.get("eat_profile")
    if not isinstance(profile, str) or profile not in policy.profiles:
        allowed = ", ".join(sorted(policy.profiles))
        findings.append(Finding("verifier.profile", "the attestation result has another profile", expected=allowed, seen=shown(profile)))
    identity = claims.get("ear.verifier-id")
    developer = identity.get("developer") if isinstance(identity, Mapping) else None
    build = identity.get("build") if isinstance(identity, Mapping) else None
    if not isinstance(developer, str) or not isinstance(build, str) or not developer:
        findings.append(Finding("verifier.identity", "the attestation result does not say who made it"))
    elif policy.developer is not None and developer != policy.developer:
        message = "the attestation result was made by another verifier"
        findings.append(Finding("verifier.identity", message, expected=policy.developer, seen=shown(developer)))
    return findings


def _judge_times(claims: Mapping[str, Any], policy: EarPolicy, issued_at: int, at: int) -> list[Finding]:
    issued = claims.get("iat")
    if not _is_integer(issued):
        return [Finding("verifier.stale", "the attestation result does not say when it was made", seen=shown(issued))]
    findings = []
    if issued > at + policy.skew_s:
        expected = f"at most {at + policy.skew_s}"
        findings.append(Finding("verifier.future", "the attestation result is from the future", expected=expected, seen=shown(issued)))
    oldest = max(at - policy.max_age_s, issued_at) - policy.skew_s
    if issued < oldest:
        message = "the attestation result is older than the challenge it should answer, or than the limit"
        findings.append(Finding("verifier.stale", message, expected=f"at least {oldest}", seen=shown(issued)))
    for name, late in (("exp", True), ("nbf", False)):
        bound = claims.get(name)
        if bound is None:
            continue
        broken = not _is_integer(bound) or (bound < at - policy.skew_s if late else bound > at + policy.skew_s)
        if broken:
            id_ = "verifier.stale" if late else "verifier.future"
            findings.append(Finding(id_, f"the attestation result's {name} does not hold", seen=shown(bound)))
    return findings


def _judge_nonce(claims: Mapping[str, Any], challenge: bytes) -> list[Finding]:
    nonce = claims.get("eat_nonce")
    decoded = decode_base64(nonce) if isinstance(nonce, str) else None
    if decoded is None:
        return [Finding("verifier.nonce", "the attestation result names no challenge")]
    if not hmac.compare_digest(decoded, challenge):
        message = "the attestation result is about another challenge"
        return [Finding("verifier.nonce", message, expected=challenge.hex(), seen=decoded[:64].hex())]
    return []


def _judge_readings(submods: EarParts, token: CcaToken) -> Iterator[Finding]:
    """Compare what the verifier read with what we read, part by part. A part that is missing refuses already (``verifier.submods``);
    that it was not read either is no news, and no sign of a token with two readings.
    """
    if PLATFORM_SUBMOD in submods.parts:
        yield from judge_platform_evidence(submods.annotated(PLATFORM_SUBMOD), token.platform.claims)
    if REALM_SUBMOD in submods.parts:
        yield from judge_realm_evidence(submods.annotated(REALM_SUBMOD), token.realm.claims)


# --- the record -------------------------------------------------------------------------------------------------------


def _summary(claims: Mapping[str, Any], submods: EarParts) -> dict[str, str | int]:
    identity = claims.get("ear.verifier-id")
    identity = identity if isinstance(identity, Mapping) else {}
    summary: dict[str, str | int] = {
        "profile": shown(claims.get("eat_profile")),
        "developer": shown(identity.get("developer")),
        "build": shown(identity.get("build")),
    }
    issued = claims.get("iat")
    if _is_integer(issued) and 0 <= issued < 1 << 53:
        summary["iat"] = issued
    for name, key in ((PLATFORM_SUBMOD, "platform_policy_id"), (REALM_SUBMOD, "realm_policy_id")):
        if name in submods.parts:
            summary[key] = shown(submods.parts[name].get("ear.appraisal-policy-id"))
    if (problem := submods.problem()) is not None:
        summary["problem"] = problem
    return summary


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
