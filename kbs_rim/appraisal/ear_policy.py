"""What an operator demands of an attestation result: keys, algorithms, profiles, age, statuses."""

from dataclasses import dataclass

from kbs_rim.appraisal.ear_signature import SUPPORTED_ALGORITHMS, EarKey
from kbs_rim.appraisal.ear_vector import TrustTier

VERAISON_PROFILE = "tag:github.com,2023:veraison/ear"
_MAX_KEYS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EarPolicy:
    """What an attestation result must satisfy. Times are in seconds.

    ``keys`` are pinned; ``trust_discovery`` lets the verifier's own discovery document vouch for a key, which makes the TLS
    peer the root of trust. ``allow_published_keys`` is for test set-ups. ``developer`` and ``appraisal_policy_ids``
    restrict who judged and by which policy, if set. ``realm_statuses`` may drop ``warning``.
    """

    keys: tuple[EarKey, ...] = ()
    trust_discovery: bool = False
    algorithms: frozenset[str] = frozenset({"ES256"})
    profiles: frozenset[str] = frozenset({VERAISON_PROFILE})
    developer: str | None = None
    appraisal_policy_ids: frozenset[str] | None = None
    max_age_s: int = 300
    skew_s: int = 60
    allow_published_keys: bool = False
    realm_statuses: frozenset[TrustTier] = frozenset({TrustTier.AFFIRMING, TrustTier.WARNING})

    def __post_init__(self) -> None:
        if not self.keys and not self.trust_discovery:
            raise ValueError("an EAR policy without a pinned key that does not trust discovery can accept nothing")
        if len(self.keys) > _MAX_KEYS:
            raise ValueError(f"more than {_MAX_KEYS} pinned keys")
        if not self.algorithms or not self.algorithms <= SUPPORTED_ALGORITHMS:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(SUPPORTED_ALGORITHMS))}")
        if not self.profiles:
            raise ValueError("no profile is allowed")
        if self.max_age_s < 1 or self.skew_s < 0:
            raise ValueError("max_age_s must be positive and skew_s not negative")
        if not self.realm_statuses <= {TrustTier.AFFIRMING, TrustTier.WARNING}:
            raise ValueError("the realm may be affirming or warning, nothing worse")
