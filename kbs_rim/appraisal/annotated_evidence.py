"""Hold the evidence that the verifier says it read against what our own parser read (docs/tokens.md).

Parsers differ: given the same key twice, one takes the first value and another the last. A token built on that shows the
verifier a genuine platform and us a forged realm. So every claim that a decision rests on must be the same in both
readings, and a claim that the verifier does not report counts as a difference.
"""

import binascii
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kbs_rim.appraisal.findings import Finding
from kbs_rim.evidence.cca_token import PlatformClaims, RealmClaims, SoftwareComponent
from kbs_rim.evidence.printable import printable

_SHOWN_BYTES = 64


def decode_base64(text: str) -> bytes | None:
    """Decode base64 in either alphabet, padded or not; None if it is not base64.

    Verifiers change their mind about alphabet and padding between versions, so callers compare bytes.
    """
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return binascii.a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def judge_platform_evidence(annotated: object, claims: PlatformClaims) -> tuple[Finding, ...]:
    """Compare the platform's annotated evidence with our reading of the platform token.

    The profile is left out: verifiers rewrite it, and it decides nothing that the other claims do not show.
    """
    if not isinstance(annotated, Mapping):
        return (_missing("CCA platform", None),)
    same = _Comparison(annotated)
    same.octets("cca-platform-challenge", claims.challenge)
    same.octets("cca-platform-implementation-id", claims.implementation_id)
    same.octets("cca-platform-instance-id", claims.instance_id)
    same.octets("cca-platform-config", claims.config)
    same.value("cca-platform-lifecycle", claims.lifecycle)
    same.value("cca-platform-hash-algo-id", claims.hash_algorithm)
    _compare_components(same, annotated.get("cca-platform-sw-components"), claims.sw_components)
    return tuple(same.findings)


def judge_realm_evidence(annotated: object, claims: RealmClaims) -> tuple[Finding, ...]:
    """Compare the realm's annotated evidence with our reading of the realm token.

    ``cca-realm-profile`` is not compared: for a legacy token, which has none, Veraison reports the 2023 profile.
    """
    if not isinstance(annotated, Mapping):
        return (_missing("CCA realm", None),)
    same = _Comparison(annotated)
    same.octets("cca-realm-challenge", claims.challenge)
    same.octets("cca-realm-personalization-value", claims.personalization_value)
    same.octets("cca-realm-initial-measurement", claims.initial_measurement)
    same.octets_list("cca-realm-extensible-measurements", claims.extensible_measurements)
    same.octets("cca-realm-public-key", claims.public_key)
    same.value("cca-realm-hash-algo-id", claims.hash_algorithm.value)
    same.value("cca-realm-public-key-hash-algo-id", claims.public_key_hash_algorithm.value)
    return tuple(same.findings)


class _Comparison:
    """Collects a finding for each claim of one annotated evidence object that is absent or differs."""

    def __init__(self, annotated: Mapping[str, Any], prefix: str = "") -> None:
        self._annotated = annotated
        self._prefix = prefix
        self.findings: list[Finding] = []

    def octets(self, name: str, ours: bytes) -> None:
        """Compare a byte string that is written as base64."""
        theirs = self._annotated.get(name)
        decoded = decode_base64(theirs) if isinstance(theirs, str) else None
        if decoded is None:
            self._report_missing(name)
        elif not hmac.compare_digest(decoded, ours):
            self._report(name, _hex(ours), _hex(decoded))

    def octets_list(self, name: str, ours: Sequence[bytes]) -> None:
        """Compare a list of byte strings, order and number included."""
        theirs = self._annotated.get(name)
        if not isinstance(theirs, list) or not all(isinstance(item, str) for item in theirs):
            self._report_missing(name)
            return
        decoded = [decode_base64(item) for item in theirs]
        if decoded != list(ours):
            self._report(name, _hex_list(ours), _hex_list(decoded))

    def value(self, name: str, ours: int | str) -> None:
        """Compare a number or a text."""
        theirs = self._annotated.get(name)
        if type(theirs) is not type(ours):
            self._report_missing(name)
        elif theirs != ours:
            self._report(name, str(ours), _printable(theirs))

    def optional_value(self, name: str, ours: str | None) -> None:
        """Compare a text that is reported exactly when the token has it."""
        theirs = self._annotated.get(name)
        if theirs != ours:
            self._report(name, "absent" if ours is None else _printable(ours), "absent" if theirs is None else _printable(theirs))

    def _report(self, name: str, expected: str, seen: str) -> None:
        message = f"the verifier read another {self._prefix}{name} in the token than we did"
        where = {"claim": f"{self._prefix}{name}"}
        self.findings.append(Finding("verifier.evidence-mismatch", message, expected=expected, seen=seen, where=where))

    def _report_missing(self, name: str) -> None:
        self.findings.append(_missing("", f"{self._prefix}{name}"))


def _compare_components(same: _Comparison, theirs: object, ours: Sequence[SoftwareComponent]) -> None:
    name = "cca-platform-sw-components"
    if not isinstance(theirs, list) or not all(isinstance(item, Mapping) for item in theirs):
        same.findings.append(_missing("", name))
        return
    if len(theirs) != len(ours):
        where = {"claim": name}
        message = f"the verifier read another {name} in the token than we did"
        seen = f"{len(theirs)} components"
        same.findings.append(Finding("verifier.evidence-mismatch", message, expected=f"{len(ours)} components", seen=seen, where=where))
        return
    for index, (reported, component) in enumerate(zip(theirs, ours, strict=True)):
        one = _Comparison(reported, f"{name}[{index}].")
        one.octets("measurement-value", component.measurement_value)
        one.octets("signer-id", component.signer_id)
        one.optional_value("measurement-type", component.measurement_type)
        one.optional_value("version", component.version)
        same.findings.extend(one.findings)


def _missing(what: str, claim: str | None) -> Finding:
    if claim is None:
        return Finding("verifier.evidence-mismatch", f"the attestation result does not say what it read in the {what} token")
    message = f"the attestation result does not report {claim}, or not in its form"
    return Finding("verifier.evidence-mismatch", message, where={"claim": claim})


def _hex(data: bytes | None) -> str:
    if data is None:
        return "not base64"
    return data.hex() if len(data) <= _SHOWN_BYTES else f"{data[:_SHOWN_BYTES].hex()}... ({len(data)} bytes)"


def _hex_list(items: Iterable[bytes | None]) -> str:
    shown = [_hex(item) for item in items]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _printable(value: object) -> str:
    return printable(value if isinstance(value, str) else repr(value), 200)
