"""Challenges: issued by one replica, redeemed once by any."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """An issued challenge. ``value`` (64 bytes) commits to ``jwk`` through ``salt``; ``jwk`` is the public JWK with its ``alg``."""

    id: str
    secret: str
    value: bytes
    salt: bytes
    jwk: Mapping[str, str]
    issued_at: datetime
    expires_at: datetime


class ChallengeOutcome(StrEnum):
    """Why a redemption gave no challenge."""

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REDEEMED = "redeemed"


class ChallengeStore(Protocol):
    """Issues and redeems challenges; any replica may do either."""

    async def issue(self, challenge: Challenge) -> None:
        """Store it."""
        ...

    async def redeem(self, challenge_id: str, at: datetime) -> Challenge | ChallengeOutcome:
        """Take the challenge out of circulation in one atomic statement: of any number of callers one gets it, once."""
        ...

    async def purge(self, before: datetime) -> int:
        """Forget challenges that expired before ``before``; return how many."""
        ...
