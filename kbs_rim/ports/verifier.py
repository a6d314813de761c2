"""The external verifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierAnswer:
    """What an external verifier said, unjudged: the attestation result as compact JWS and what is needed to judge it.

    ``discovery_keys`` are the public JWKs that the verifier publishes about itself; they are trusted only by explicit choice.
    """

    attestation_result: str
    discovery_keys: tuple[Mapping[str, Any], ...]
    verifier: str
    duration_us: int


class PlatformVerifier(Protocol):
    """Appraises the platform half of a CCA token."""

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        """Send the token for a session with this 64-byte nonce; raise ``VerifierUnavailable`` if no usable answer came in time."""
        ...

    async def check(self) -> tuple[Mapping[str, Any], ...]:
        """Return the public JWKs that the verifier publishes; raise ``VerifierUnavailable`` if it is not ready."""
        ...

    async def close(self) -> None:
        """Release connections and background work."""
        ...
