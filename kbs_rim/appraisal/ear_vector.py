"""Trust tiers and the trustworthiness vector of an attestation result (draft-ietf-rats-ar4si, draft-ietf-rats-ear).

A claim of the vector is a signed 8-bit number; its tier follows from the number alone. The status that a verifier
declares may never be better than the worst tier of its own vector, so a reader recomputes it (draft-ietf-rats-ear).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from kbs_rim.errors import MalformedEvidence

CLAIM_NAMES = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)
"""The eight claims of a vector. A claim that is left out is 0, no claim."""

MALFUNCTION, UNEXPECTED_EVIDENCE, CRYPTO_FAILED = -1, 1, 99
_UNUSABLE = {
    MALFUNCTION: "the verifier malfunctioned",
    UNEXPECTED_EVIDENCE: "unexpected evidence",
    CRYPTO_FAILED: "cryptographic validation failed",
}


class TrustTier(IntEnum):
    """The four tiers, ordered from no opinion to the worst. Values are those of ``ear.status`` as an integer."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96

    @property
    def label(self) -> str:
        """The spelling of ``ear.status``: none, affirming, warning, contraindicated."""
        return self.name.lower()


def tier_of(value: int) -> TrustTier:
    """Return the tier of one claim value, -128 to 127; raise ``ValueError`` outside."""
    if not -128 <= value <= 127:
        raise ValueError(f"{value} is not a signed 8-bit number")
    if -1 <= value <= 1:
        return TrustTier.NONE
    if 2 <= value <= 31 or -32 <= value <= -2:
        return TrustTier.AFFIRMING
    if 32 <= value <= 95 or -96 <= value <= -33:
        return TrustTier.WARNING
    return TrustTier.CONTRAINDICATED


def parse_status(value: object) -> TrustTier | None:
    """Read ``ear.status``, which libraries write as a name, an integer or a numeric string; None if it is none of them."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return _TIER_BY_VALUE.get(value)
    if isinstance(value, str):
        return _TIER_BY_NAME.get(value)
    return None


_TIER_BY_VALUE = {int(tier): tier for tier in TrustTier}
_TIER_BY_NAME = {tier.label: tier for tier in TrustTier} | {str(int(tier)): tier for tier in TrustTier}


@dataclass(frozen=True, slots=True)
class TrustVector:
    """All eight claims by name. Construct with any subset; the rest becomes 0."""

    values: Mapping[str, int]

    def __post_init__(self) -> None:
        if unknown := set(self.values) - set(CLAIM_NAMES):
            raise ValueError(f"not a claim of a trust vector: {min(unknown)!r}")
        for value in self.values.values():
            tier_of(value)
        object.__setattr__(self, "values", MappingProxyType({name: self.values.get(name, 0) for name in CLAIM_NAMES}))

    @property
    def worst(self) -> TrustTier:
        """The worst tier of all claims: what ``ear.status`` must at least say."""
        return max(tier_of(value) for value in self.values.values())

    @property
    def unusable(self) -> Mapping[str, str]:
        """Claims that report a failure of the verifier itself, with what they say."""
        return {name: _UNUSABLE[value] for name, value in self.values.items() if value in _UNUSABLE}


def parse_vector(value: object) -> TrustVector:
    """Read ``ear.trustworthiness-vector``; raise ``MalformedEvidence("verifier.vector")``."""
    if not isinstance(value, Mapping):
        raise MalformedEvidence("verifier.vector", "the trust vector is missing or is not an object")
    if not value:
        raise MalformedEvidence("verifier.vector", "the trust vector is empty: nothing was judged")
    for name, number in value.items():
        if name not in CLAIM_NAMES:
            raise MalformedEvidence("verifier.vector", "the trust vector has an unknown claim", expected=", ".join(CLAIM_NAMES))
        if not isinstance(number, int) or isinstance(number, bool) or not -128 <= number <= 127:
            raise MalformedEvidence("verifier.vector", f"{name} in the trust vector is not a signed 8-bit number")
    return TrustVector(value)
