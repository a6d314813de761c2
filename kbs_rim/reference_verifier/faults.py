"""Named ways for the reference verifier to misbehave, and what each does to an attestation result."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from kbs_rim.appraisal.ear_vector import CLAIM_NAMES

_HOUR_S = 3600


class NonceStyle(StrEnum):
    """How nonces are spelled: releases up to v0.0.2608, the middle of 2026, and HEAD since."""

    RELEASE = "t"
    MIDDLE = "mid"
    HEAD = "h"


class Fault(StrEnum):
    """One way to misbehave. The first group is about HTTP, the second about opinions, the third about the signed result."""

    DISCOVERY_500 = "discovery-500"
    NOT_READY = "not-ready"
    OTHER_SESSION_NONCE = "other-session-nonce"
    NO_CCA_MEDIA_TYPE = "no-cca-media-type"
    HTTP_500 = "http-500"
    HTTP_500_ONCE = "http-500-once"
    EMPTY_500 = "empty-500"
    HTML_502 = "html-502"
    REDIRECT = "redirect"
    OVERSIZED = "oversized"
    DELAY = "delay"
    PROCESSING = "processing"
    PROCESSING_FOREVER = "processing-forever"
    SESSION_FAILED = "session-failed"
    SESSION_LOST = "session-lost"
    SESSION_LOST_ONCE = "session-lost-once"

    REALM_WARNING = "realm-warning"
    PLATFORM_WARNING = "platform-warning"
    CONTRAINDICATED = "contraindicated"
    BAD_CRYPTO = "bad-crypto"
    MALFUNCTION = "malfunction"

    WRONG_KEY = "wrong-key"
    ROTATED_KEY = "rotated-key"
    ALG_NONE = "alg-none"
    ALG_HS256 = "alg-hs256"
    STALE_IAT = "stale-iat"
    FUTURE_IAT = "future-iat"
    WRONG_NONCE = "wrong-nonce"
    MISSING_NONCE = "missing-nonce"
    DUPLICATE_NONCE = "duplicate-nonce"
    MISSING_REALM = "missing-realm"
    EXTRA_SUBMOD = "extra-submod"
    TRUSTEE_PROFILE = "trustee-profile"
    INTEGER_STATUS = "integer-status"
    STATUS_ONLY = "status-only"
    OTHER_EVIDENCE = "other-evidence"
    NO_ANNOTATED_EVIDENCE = "no-annotated-evidence"


PLATFORM, REALM = "CCA_SSD_PLATFORM", "CCA_REALM"
_VECTOR, _STATUS, _ANNOTATED = "ear.trustworthiness-vector", "ear.status", "ear.veraison.annotated-evidence"
_TIERS = {"none": 0, "affirming": 2, "warning": 32, "contraindicated": 96}


def _parts(claims: dict[str, Any]) -> list[dict[str, Any]]:
    return list(claims["submods"].values())


def _opinion(submod: str, status: str, **values: int) -> Callable[[dict[str, Any]], None]:
    def apply(claims: dict[str, Any]) -> None:
        part = claims["submods"].get(submod)
        if part is not None:
            part[_STATUS] = status
            part[_VECTOR] |= {name.replace("_", "-"): value for name, value in values.items()}

    return apply


def _malfunction(claims: dict[str, Any]) -> None:
    for part in _parts(claims):
        part[_STATUS] = "none"
        part[_VECTOR] = dict.fromkeys(CLAIM_NAMES, -1)


def _shift(seconds: int) -> Callable[[dict[str, Any]], None]:
    def apply(claims: dict[str, Any]) -> None:
        claims["iat"] += seconds

    return apply


def _wrong_nonce(claims: dict[str, Any]) -> None:
    nonce = claims["eat_nonce"]
    claims["eat_nonce"] = ("B" if nonce[0] == "A" else "A") + nonce[1:]


def _integer_status(claims: dict[str, Any]) -> None:
    for part in _parts(claims):
        part[_STATUS] = _TIERS[part[_STATUS]]


def _status_only(claims: dict[str, Any]) -> None:
    """Declare a better status than the numbers give; a reader must recompute it."""
    part = claims["submods"].get(PLATFORM)
    if part is not None:
        part[_VECTOR]["executables"] = 33


def _other_evidence(claims: dict[str, Any]) -> None:
    """Report another platform than the one in the token: what a doubly keyed token makes a lenient verifier do."""
    part = claims["submods"].get(PLATFORM)
    if part is not None:
        part[_ANNOTATED]["cca-platform-instance-id"] = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def _no_annotated_evidence(claims: dict[str, Any]) -> None:
    for part in _parts(claims):
        part.pop(_ANNOTATED, None)


def _extra_submod(claims: dict[str, Any]) -> None:
    claims["submods"]["CCA_DEVICE"] = {_STATUS: "affirming", _VECTOR: dict.fromkeys(CLAIM_NAMES, 2)}


EAR_FAULTS: Mapping[Fault, Callable[[dict[str, Any]], None]] = MappingProxyType(
    {
        Fault.REALM_WARNING: _opinion(REALM, "warning", executables=33),
        Fault.PLATFORM_WARNING: _opinion(PLATFORM, "warning", executables=33, configuration=32),
        Fault.CONTRAINDICATED: _opinion(PLATFORM, "contraindicated", instance_identity=96, runtime_opaque=96, storage_opaque=96),
        Fault.MALFUNCTION: _malfunction,
        Fault.STALE_IAT: _shift(-_HOUR_S),
        Fault.FUTURE_IAT: _shift(_HOUR_S),
        Fault.WRONG_NONCE: _wrong_nonce,
        Fault.MISSING_NONCE: lambda claims: claims.pop("eat_nonce"),
        Fault.MISSING_REALM: lambda claims: claims["submods"].pop(REALM, None),
        Fault.EXTRA_SUBMOD: _extra_submod,
        Fault.TRUSTEE_PROFILE: lambda claims: claims.update(eat_profile="tag:github.com,2024:confidential-containers/Trustee"),
        Fault.INTEGER_STATUS: _integer_status,
        Fault.STATUS_ONLY: _status_only,
        Fault.OTHER_EVIDENCE: _other_evidence,
        Fault.NO_ANNOTATED_EVIDENCE: _no_annotated_evidence,
    }
)
"""What to do to the claims before they are signed."""
