"""One exchange with a guest: what it gathered so far, how long each stage took, and how it can end."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from kbs_rim.appraisal.findings import Finding
from kbs_rim.errors import OurFault, RefusedKey
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.measurement.boot_plan import BootPlan
from kbs_rim.ports import Challenge, VerifierAnswer
from kbs_rim.sealing.guest_key import commitment, parse_guest_key
from kbs_rim.sealing.jwe import SealedSecret

_T = TypeVar("_T")


class RefusedError(Exception):
    """The guest gets nothing but this stable code and this ticket number."""

    def __init__(self, code: str, ticket: str, finding_ids: tuple[str, ...]) -> None:
        super().__init__(f"{code} ({ticket})")
        self.code = code
        self.ticket = ticket
        self.finding_ids = finding_ids


class BusyError(Exception):
    """Too much is asked of this process already; the guest may come again after ``retry_after_s`` seconds."""

    def __init__(self, message: str = "Too many appraisals are running.", *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, repr=False)
class Release:
    """A sealed secret on its way out."""

    sealed: SealedSecret
    ticket: str


@dataclass(slots=True)
class Exchange:
    """What an exchange gathered so far. ``ticket`` is the id of its record; ``payloads`` go into it, by kind."""

    challenge: Challenge
    request_id: str
    ticket: str
    evidence: Evidence | None = None
    token: CcaToken | None = None
    plan: BootPlan | None = None
    log_findings: tuple[Finding, ...] = ()
    answer: VerifierAnswer | None = None
    payloads: dict[str, bytes] = field(default_factory=dict)
    durations_us: dict[str, int] = field(default_factory=dict)


class Stage:
    """Measures one stage of an exchange for the record and for the metrics."""

    def __init__(self, attempt: Exchange, name: str, observe: Callable[[str, float], None]) -> None:
        self._attempt, self._name, self._observe = attempt, name, observe
        self._start = 0

    def __enter__(self) -> None:
        self._start = time.perf_counter_ns()

    def __exit__(self, *_exc: object) -> None:
        elapsed_ns = time.perf_counter_ns() - self._start
        self._attempt.durations_us[self._name] = elapsed_ns // 1000
        self._observe(self._name, elapsed_ns / 1e9)


def commits_to_its_key(challenge: Challenge) -> bool:
    """Whether a stored challenge is one to the key stored with it: who can write to the database must not swap the key."""
    try:
        key = parse_guest_key(challenge.jwk, allow_rsa1_5=True)
        return hmac.compare_digest(commitment(challenge.salt, key.thumbprint), challenge.value)
    except (RefusedKey, ValueError):
        return False


def present(value: _T | None) -> _T:
    """Return what an earlier stage left; its absence is a fault of ours, and must not pass ``python -O``."""
    if value is None:
        raise OurFault("a stage of the exchange was skipped")
    return value
