"""The two parts (submods) of an attestation result, their statuses and vectors (draft-ietf-rats-ear; docs/verifier.md, items 5 and 6)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_vector import TrustTier, TrustVector, parse_status, parse_vector, tier_of
from kbs_rim.appraisal.findings import Finding
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.printable import printable

PLATFORM_SUBMOD, REALM_SUBMOD = "CCA_SSD_PLATFORM", "CCA_REALM"
_MAX_SUBMODS = 16

_APPROVED = frozenset({2, 3})
PLATFORM_CLAIMS: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        "hardware": frozenset({2}),
        "instance-identity": frozenset({2}),
        "configuration": _APPROVED,
        "executables": _APPROVED,
    }
)
"""What the platform's vector must say, whatever its status: a vector of zeros would otherwise pass as nothing wrong."""

REALM_WITHOUT_REFERENCES = TrustVector({"instance-identity": 2, "executables": 33})
"""The one realm vector that may be a warning: the verifier knows no reference values for this RIM (docs/verifier.md)."""
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class EarParts:
    """The parts of an attestation result, judged one by one."""

    parts: Mapping[str, Mapping[str, Any]]
    statuses: Mapping[str, str]
    vectors: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]

    @classmethod
    def read(cls, value: object, policy: EarPolicy) -> "EarParts":
        """Read ``submods``, whatever it is."""
        if not isinstance(value, Mapping) or not value:
            return cls({}, {}, {}, (Finding("verifier.submods", "the attestation result has no parts"),))
        parts = {name: part for name, part in list(value.items())[:_MAX_SUBMODS] if isinstance(part, Mapping)}
        findings = _judge_names(value, parts)
        statuses: dict[str, str] = {}
        vectors: dict[str, Mapping[str, int]] = {}
        for name in (PLATFORM_SUBMOD, REALM_SUBMOD):
            if name not in parts:
                continue
            status, vector, found = _read_part(name, parts[name], policy)
            findings += found
            if vector is not None:
                findings += _judge_platform(status, vector) if name == PLATFORM_SUBMOD else _judge_realm(status, vector, policy)
                vectors[name] = dict(vector.values)
            statuses[name] = status.label if status is not None else "unknown"
        return cls(parts, statuses, vectors, tuple(findings))

    def annotated(self, name: str) -> object:
        """The annotated evidence of one part, unread."""
        return self.parts.get(name, {}).get("ear.veraison.annotated-evidence")

    def problem(self) -> str | None:
        """What the verifier complains about, if it does. For administrators only: it may quote the challenge."""
        for part in self.parts.values():
            claims = part.get("ear.veraison.policy-claims")
            if isinstance(claims, Mapping) and isinstance(claims.get("problem"), str):
                return shown(claims["problem"])
        return None


def _judge_names(value: Mapping[str, Any], parts: Mapping[str, Any]) -> list[Finding]:
    expected = {PLATFORM_SUBMOD, REALM_SUBMOD}
    if set(value) == expected and set(parts) == expected:
        return []
    seen = ", ".join(shown(name) for name in sorted(value)[:_MAX_SUBMODS])
    message = "the attestation result has other parts than a platform and a realm"
    return [Finding("verifier.submods", message, expected=", ".join(sorted(expected)), seen=seen)]


def _read_part(name: str, part: Mapping[str, Any], policy: EarPolicy) -> tuple[TrustTier | None, TrustVector | None, list[Finding]]:
    """Return the effective status (None if unreadable), the vector (None if unusable) and what is wrong with them."""
    where = {"submod": name}
    findings = []
    declared = parse_status(part.get("ear.status"))
    if declared is None:
        id_ = "verifier.status" if name == PLATFORM_SUBMOD else "verifier.realm-status"
        findings.append(Finding(id_, "the status is missing or unknown", seen=shown(part.get("ear.status")), where=where))
    policy_id = part.get("ear.appraisal-policy-id")
    if policy.appraisal_policy_ids is not None and not (isinstance(policy_id, str) and policy_id in policy.appraisal_policy_ids):
        allowed = ", ".join(sorted(policy.appraisal_policy_ids))
        message = "the verifier applied another appraisal policy"
        findings.append(Finding("verifier.policy-id", message, expected=allowed, seen=shown(policy_id), where=where))
    try:
        vector = parse_vector(part.get("ear.trustworthiness-vector"))
    except MalformedEvidence as error:
        return declared, None, [*findings, Finding.from_error(error, **where)]
    for claim, complaint in vector.unusable.items():
        findings.append(Finding("verifier.vector", f"{claim}: {complaint}", where={**where, "claim": claim}))
    if declared is TrustTier.NONE:
        return declared, vector, findings  # a verifier that gives no opinion is not made to have one by its numbers
    return max(declared, vector.worst) if declared is not None else None, vector, findings


def _judge_platform(status: TrustTier | None, vector: TrustVector) -> list[Finding]:
    where = {"submod": PLATFORM_SUBMOD}
    findings = []
    if status is not None and status is not TrustTier.AFFIRMING:
        message = "the verifier does not affirm the platform"
        findings.append(Finding("verifier.status", message, expected="affirming", seen=status.label, where=where))
    for claim, allowed in PLATFORM_CLAIMS.items():
        value = vector.values[claim]
        if value not in allowed:
            message = f"the verifier does not approve the platform's {claim}"
            expected = " or ".join(str(number) for number in sorted(allowed))
            seen = f"{value} ({tier_of(value).label})"
            findings.append(Finding("verifier.status", message, expected=expected, seen=seen, where={**where, "claim": claim}))
    return findings


def _judge_realm(status: TrustTier | None, vector: TrustVector, policy: EarPolicy) -> list[Finding]:
    if status is None:
        return []
    identified = vector.values["instance-identity"] == 2
    if status is TrustTier.AFFIRMING and status in policy.realm_statuses and identified:
        return []
    if status is TrustTier.WARNING and status in policy.realm_statuses and vector == REALM_WITHOUT_REFERENCES:
        return []
    expected = ", ".join(sorted(tier.label for tier in policy.realm_statuses))
    seen = f"{status.label} {json.dumps({name: value for name, value in vector.values.items() if value})}"
    message = "the verifier's opinion of the realm is worse than lacking reference values"
    return [Finding("verifier.realm-status", message, expected=expected, seen=seen, where={"submod": REALM_SUBMOD})]


def shown(value: object) -> str:
    """Return a foreign value as short printable text, fit for a finding or a record."""
    if isinstance(value, (dict, list)):
        return type(value).__name__
    return printable(value if isinstance(value, str) else json.dumps(value), _SHOWN_CHARACTERS)
