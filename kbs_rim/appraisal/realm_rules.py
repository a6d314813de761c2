"""Step 8: what only the realm token says (REMs, personalization value, memory encryption), and platform ids."""

import hmac
from collections.abc import Iterator

from kbs_rim.appraisal.findings import Finding, Severity
from kbs_rim.appraisal.token_rules import lifecycle_state
from kbs_rim.appraisal.workload import PlatformRules, RealmRules, Role, Workload
from kbs_rim.evidence.cca_token import CcaToken, PlatformClaims, RealmClaims

_RPV_SIZE = 64


def judge_claims(token: CcaToken, workload: Workload) -> tuple[Finding, ...]:
    """Return the findings of a workload's rules for the claims of the token."""
    return (
        *_judge_platform(token.platform.claims, workload.platform),
        *_judge_profile(token, workload.realm),
        *_judge_personalization(token.realm.claims, workload.realm),
        *_judge_rems(token.realm.claims, workload.realm),
        *_judge_firmware(token.realm.claims, workload),
        *_judge_memory_encryption(token.realm.claims, workload.realm),
    )


def _judge_platform(claims: PlatformClaims, rules: PlatformRules) -> Iterator[Finding]:
    state = lifecycle_state(claims.lifecycle)
    if state not in rules.lifecycle:
        yield Finding(
            "platform.lifecycle",
            "the platform's life cycle state is not allowed",
            expected=", ".join(item.value for item in rules.lifecycle),
            seen=f"{state.value} ({claims.lifecycle:#06x})",
        )
    ids = (
        ("platform.implementation", "implementation id", claims.implementation_id, rules.implementation_ids),
        ("platform.instance", "instance id", claims.instance_id, rules.instance_ids),
    )
    for finding, name, value, allowed in ids:
        if allowed and value.hex() not in allowed:
            yield Finding(finding, f"the platform's {name} is not allowed", expected=f"one of {len(allowed)}", seen=value.hex())


def _judge_profile(token: CcaToken, rules: RealmRules) -> Iterator[Finding]:
    if token.realm.claims.profile is None and not rules.legacy_profile:
        message = "the realm token has no profile (RMM before 1.0-rel0)"
        yield Finding("token.profile-legacy", message, expected="a profile", seen=token.platform.claims.profile)


def _judge_personalization(claims: RealmClaims, rules: RealmRules) -> Iterator[Finding]:
    if rules.rpv == "any":
        return
    expected = bytes(_RPV_SIZE) if rules.rpv == "zero" else bytes.fromhex(rules.rpv).ljust(_RPV_SIZE, b"\0")
    if not hmac.compare_digest(claims.personalization_value, expected):
        message = "the realm personalization value is not the expected one"
        yield Finding("rpv.mismatch", message, expected=expected.hex(), seen=claims.personalization_value.hex())


def _judge_rems(claims: RealmClaims, rules: RealmRules) -> Iterator[Finding]:
    """A REM that moved is explained by the workload or refused: "the RIM matched" excuses nothing."""
    size = claims.hash_algorithm.digest_size
    for number, (value, rule) in enumerate(zip(claims.extensible_measurements, rules.rems, strict=True)):
        if rule == "log":
            continue  # runtime_rules judges it
        allowed = [bytes(size)] if rule == "zero" else [bytes.fromhex(item) for item in rule]
        if not any(hmac.compare_digest(value, item) for item in allowed):
            expected = "zero" if rule == "zero" else " or ".join(item.hex() for item in allowed)
            message = f"REM{number} does not have the expected value"
            yield Finding("rem.mismatch", message, expected=expected, seen=value.hex(), where={"rem": number})


def _judge_firmware(claims: RealmClaims, workload: Workload) -> Iterator[Finding]:
    """The RIM ends with the firmware. What that loaded from the host's disk or fw_cfg is in the REMs, or nowhere."""
    if workload.entry.role is Role.FIRMWARE and not any(map(any, claims.extensible_measurements)):
        message = "firmware started first and measured nothing: what it loaded is unknown"
        yield Finding("rem.nothing-measured", message, Severity.WARNING, expected="a measured boot", seen="REMs of zeros")


def _judge_memory_encryption(claims: RealmClaims, rules: RealmRules) -> Iterator[Finding]:
    if rules.memory_encryption == "private" and claims.memory_encryption != "private":
        message = "the realm's memory is not encrypted with a private key"
        yield Finding("mec.policy", message, expected="private", seen=claims.memory_encryption or "not said")
