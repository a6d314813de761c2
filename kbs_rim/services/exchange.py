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
from kbs_rim.sealing.guest_key import GuestKey, SealingAlgorithm, commitment, parse_guest_key
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
    key: GuestKey | None = None
    payloads: dict[str, bytes] = field(default_factory=dict)
    durations_us: dict[str, int] = field(default_factory=dict)

    def receive(self, evidence: Evidence) -> Evidence:
        """Keep what came in the body, and its pieces for the record in place of the body."""
        self.payloads = {"token": evidence.token, **{f"log.{label.value}": data for label, data in evidence.logs}}
        if evidence.device_tree is not None:
            self.payloads["device-tree"] = evidence.device_tree
        self.evidence = evidence
        return evidence


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


def key_of(challenge: Challenge) -> GuestKey | None:
    """Return the guest's key if a stored challenge is one to it: who can write to the database must not swap the key.

    RSA1_5 is let through: whether anything is sealed to it is asked when something is (``sealing_key``).
    """
    try:
        key = parse_guest_key(challenge.jwk, allow_rsa1_5=True)
        return key if hmac.compare_digest(commitment(challenge.salt, key.thumbprint), challenge.value) else None
    except (RefusedKey, ValueError):
        return None


def sealing_key(attempt: Exchange, *, allow_rsa1_5: bool) -> GuestKey:
    """Return the key to seal to. Raise ``RefusedKey``: the replica that gave the challenge may allow what this one does not."""
    key = present(attempt.key)
    if key.algorithm is SealingAlgorithm.RSA1_5 and not allow_rsa1_5:
        raise RefusedKey("key.legacy", "RSA1_5 is switched off")
    return key


def present(value: _T | None) -> _T:
    """Return what an earlier stage left; its absence is a fault of ours, and must not pass ``python -O``."""
    if value is None:
        raise OurFault("a stage of the exchange was skipped")
    return value
