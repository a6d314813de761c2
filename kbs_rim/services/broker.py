"""The broker: a challenge out, evidence in, a record, and perhaps a sealed secret out.

The order of one request: redeem, read, ask the verifier while the log is read, appraise, write the record,
unwrap and seal, write the release, answer. No record, no release; an exception never ends in a release.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn, TypeVar

import structlog

from kbs_rim.appraisal.appraise import Case, Verdict, appraise, asks_for_more, read_log, read_runtime, read_tree
from kbs_rim.appraisal.attestation_result import EarPolicy
from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.appraisal.findings import Finding, errors_of
from kbs_rim.appraisal.tree_pack import RulePack
from kbs_rim.errors import Conflict, MalformedEvidence, NotFound, OurFault, RefusedKey, VerifierUnavailable
from kbs_rim.evidence.cca_token import CcaToken, parse_cca_token, reassemble
from kbs_rim.evidence.envelope import parse_evidence
from kbs_rim.ledger.records import AppraisalRecord, ReleaseRecord, VerdictKind
from kbs_rim.limits import Limits
from kbs_rim.ports import (
    Challenge,
    ChallengeOutcome,
    ChallengeStore,
    Clock,
    ImageReader,
    PlatformVerifier,
    RecordWriter,
    TrustReader,
    VerifierAnswer,
)
from kbs_rim.sealing.guest_key import GuestKey, SealingAlgorithm, commitment, parse_guest_key
from kbs_rim.sealing.jwe import SealedSecret, seal
from kbs_rim.services.allowance import Allowance
from kbs_rim.services.exchange import BusyError, Exchange, RefusedError, Release, Stage, key_of, present, sealing_key
from kbs_rim.services.secrets import ReleaseVault
from kbs_rim.services.trust_lookup import Trust, TrustLookup

_T = TypeVar("_T")
_log = structlog.get_logger("kbs_rim.broker")

SALT_SIZE = 32
CHALLENGE_ID_SIZE = 24
TICKET_SIZE = 10
LAST_TOKEN_STEP = 3
"""Steps 1 to 3 of an appraisal: envelope, realm token, platform. If one of them failed, anybody can have sent it."""
REPLAYS_ON_RECORD = 500
"""Replays and late answers that one process puts on record within the lifetime of a challenge; the rest is logged only."""
MAX_ATTEMPTS = 3
"""How often one piece of evidence is appraised when the registry changes underneath."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPolicy:
    """What the configuration says about releases. ``ear_policy`` holds the pinned keys of the verifier."""

    ear_policy: EarPolicy
    limits: Limits
    challenge_lifetime: timedelta
    max_outstanding: int = 20_000
    max_concurrent: int = 32
    allow_test_keys: bool = False
    allow_rsa1_5: bool = False
    keep_payloads: bool = True
    rule_packs: Mapping[str, RulePack] = field(default_factory=dict)
    config_digest: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStores:
    """The storage roles that the broker may name; it cannot change trust."""

    trust: TrustReader
    images: ImageReader
    challenges: ChallengeStore
    records: RecordWriter


class Broker:
    """Issues challenges and releases secrets. One instance serves a process; all state is in the stores."""

    def __init__(
        self,
        *,
        stores: BrokerStores,
        vault: ReleaseVault,
        verifier: PlatformVerifier,
        policy: BrokerPolicy,
        clock: Clock,
        entropy: Callable[[int], bytes],
        executor: Executor | None = None,
        reading: Executor | None = None,
        pause: Callable[[], None] | None = None,
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        """``reading`` runs the parsers off the event loop, ``executor`` the rest of appraisals; each must have ``max_concurrent`` places.

        Long replays call ``pause``, which may end them. ``observe`` gets (stage, seconds).
        """
        self._stores = stores
        self._vault = vault
        self._verifier = verifier
        self._policy = policy
        self._clock = clock
        self._entropy = entropy
        self._executor, self._reading, self._pause = executor, reading or executor, pause
        self._observe = observe
        self._free = policy.max_concurrent
        self.trust = TrustLookup(stores.trust, stores.images, policy.limits)
        self._outstanding = Allowance(policy.max_outstanding, policy.challenge_lifetime)
        self._replays = Allowance(REPLAYS_ON_RECORD, policy.challenge_lifetime)

    async def issue_challenge(self, secret: str, jwk: bytes | Mapping[str, Any]) -> Challenge:
        """Return a challenge that commits to the guest's key; raise ``RefusedKey`` or ``BusyError``.

        Whether the secret exists is not said: an attacker must attest before learning a name.
        """
        key = parse_guest_key(jwk, allow_rsa1_5=self._policy.allow_rsa1_5)
        now = self._clock.now()
        challenge_id = self._entropy(CHALLENGE_ID_SIZE).hex()
        if not self._outstanding.take(challenge_id, now):
            raise BusyError("Too many challenges are outstanding.", retry_after_s=5)
        salt = self._entropy(SALT_SIZE)
        challenge = Challenge(
            id=challenge_id,
            secret=secret,
            value=commitment(salt, key.thumbprint),
            salt=salt,
            jwk=key.to_jwk(),
            issued_at=now,
            expires_at=now + self._policy.challenge_lifetime,
        )
        with self._outstanding.given_back_after(NotFound, OurFault, name=challenge_id):
            await self._stores.challenges.issue(challenge)
        return challenge

    async def release(self, challenge_id: str, media_type: str, body: bytes, *, request_id: str = "") -> Release:
        """Appraise evidence for a challenge and return the sealed secret.

        Raises ``RefusedError``, ``BusyError``, or an ``OurFault`` such as ``VerifierUnavailable``; each but ``BusyError``
        leaves a record.
        """
        if self._free <= 0:
            raise BusyError
        self._free -= 1
        try:
            attempt = await self._redeem(challenge_id, request_id)
            await self._read(attempt, media_type, body)
            await self._consult(attempt)
            return await self._decide(attempt)
        finally:
            self._free += 1

    # --- before the appraisal -----------------------------------------------------------------------------------------

    async def _redeem(self, challenge_id: str, request_id: str) -> Exchange:
        """Take the challenge out of circulation before anything else is looked at."""
        redeemed = await self._stores.challenges.redeem(challenge_id, self._clock.now())
        ticket = self._ticket()
        if isinstance(redeemed, Challenge):
            self._outstanding.give_back(challenge_id)
            attempt = Exchange(redeemed, request_id, ticket, key=key_of(redeemed))
            if attempt.key is None:
                await self._refuse(attempt, (Finding("challenge.altered", "the stored challenge is not one to the stored key"),))
            return attempt
        finding = f"challenge.{redeemed.value}"
        _log.warning("challenge refused", finding=finding, ticket=ticket, request_id=request_id)
        # Repeating a request costs nothing: a flood of replays is logged, but does not fill the record.
        if redeemed is not ChallengeOutcome.UNKNOWN and self._replays.take(ticket, self._clock.now()):
            await self._write_challenge_refusal(challenge_id, Finding(finding, CATALOGUE[finding].title), ticket, request_id)
        raise RefusedError(CATALOGUE[finding].code, ticket, (finding,))

    async def _write_challenge_refusal(self, challenge_id: str, finding: Finding, ticket: str, request_id: str) -> None:
        record = AppraisalRecord(
            id=ticket,
            at=self._clock.now(),
            verdict=VerdictKind.REFUSED,
            secret="",
            workload=None,
            workload_revision=None,
            findings=(finding.to_document(),),
            inputs={},
            facts={"challenge_id": challenge_id},
            config_digest=self._policy.config_digest,
            request_id=request_id,
            software=self._policy.software,
        )
        await self._stores.records.append_appraisal(record, {})

    async def _read(self, attempt: Exchange, media_type: str, body: bytes) -> None:
        """Steps 1, 2 and 4: envelope, token and log, decoded strictly."""
        attempt.payloads["body"] = body

        def read() -> None:
            evidence = attempt.receive(parse_evidence(media_type, body, self._policy.limits))
            attempt.token = parse_cca_token(evidence.token, self._policy.limits)

        try:
            with Stage(attempt, "read", self._observe):
                await self._read_off_loop(read)  # base64 of two megabytes takes as long as a hundred small requests
        except MalformedEvidence as error:
            await self._refuse(attempt, (Finding.from_error(error), Finding("platform.not-judged", "the token could not be read")))

    async def _consult(self, attempt: Exchange) -> None:
        """Step 3's question goes out while the log is read (step 4)."""
        token, evidence = present(attempt.token), present(attempt.evidence)
        question = asyncio.ensure_future(self._ask(attempt, token))
        try:
            with Stage(attempt, "log", self._observe):
                attempt.plan, attempt.log_findings = await self._read_off_loop(lambda: read_log(evidence, self._policy.limits))
            attempt.answer = await question
        except VerifierUnavailable as error:
            finding = Finding("platform.not-judged", "the external verifier gave no usable answer")
            await self._write(attempt, VerdictKind.UNAVAILABLE, (finding,))
            _log.error("verifier unavailable", ticket=attempt.ticket, reason=str(error))
            # Not the same object: guests that wait for one look-up of the verifier share its error.
            raise VerifierUnavailable(str(error), retry_after_s=error.retry_after_s, ticket=attempt.ticket) from error
        finally:
            question.cancel()  # whatever happened, no question outlives the exchange that asked it
            await asyncio.gather(question, return_exceptions=True)
        attempt.payloads["attestation-result"] = attempt.answer.attestation_result.encode()

    async def _ask(self, attempt: Exchange, token: CcaToken) -> VerifierAnswer:
        with Stage(attempt, "verifier", self._observe):
            return await self._verifier.appraise(reassemble(token), attempt.challenge.value)

    # --- the appraisal and what follows -------------------------------------------------------------------------------

    async def _decide(self, attempt: Exchange) -> Release:
        """Appraise, record, release; again from the registry if it changed before the release was committed."""
        for _ in range(MAX_ATTEMPTS):
            trust, verdict = await self._appraise(attempt)
            await self._write(attempt, VerdictKind.ALLOWED if verdict.allowed else VerdictKind.REFUSED, verdict.findings, verdict)
            if not verdict.allowed:
                self._raise_refused(attempt, verdict.findings)
            try:
                return await self._hand_out(attempt, present(trust.secret), trust.sequence)
            except Conflict:
                _log.info("registry changed during an appraisal; appraising again", ticket=attempt.ticket)
                attempt.ticket = self._ticket()
        raise OurFault("the registry changed during every attempt to release; try again")

    async def _appraise(self, attempt: Exchange) -> tuple[Trust, Verdict]:
        """Judge by the registry as it is now; return what was judged by as well."""
        evidence, token, answer, limits = present(attempt.evidence), present(attempt.token), present(attempt.answer), self._policy.limits
        with Stage(attempt, "registry", self._observe):
            trust = await self.trust.read(attempt.challenge.secret, attempt.plan)
            known = trust.candidates
            tree, (runtime, digests) = await self._read_off_loop(
                lambda: (read_tree(evidence, attempt.plan, known, limits, trust.images), read_runtime(evidence, known, token, limits)),
                worth_a_trip=asks_for_more(known),
            )
            images = await self.trust.images_for(trust, token, attempt.plan, tree)
            measured = await self.trust.measured_for(digests)
        case = Case(
            token=token,
            plan=attempt.plan,
            log_findings=attempt.log_findings,
            challenge=attempt.challenge.value,
            issued_at=_seconds(attempt.challenge.issued_at),
            at=_seconds(self._clock.now()),
            attestation_result=answer.attestation_result,
            discovery_keys=answer.discovery_keys,
            ear_policy=self._policy.ear_policy,
            images=images,
            candidates=trust.candidates,
            device_tree=tree,
            rule_packs=self._policy.rule_packs,
            runtime=runtime,
            measured=measured,
            limits=limits,
            allow_test_keys=self._policy.allow_test_keys,
            memo=trust.memo,
            permits=self.trust.searches,
            pause=self._pause,
            bound_workloads=trust.bound_workloads,
        )
        with Stage(attempt, "appraise", self._observe):
            verdict = await self.trust.without_revoked(await self._off_loop(lambda: appraise(case)), trust)
        if trust.secret is None:
            unknown = Finding("request.secret-unknown", "no secret of this name is registered", seen=attempt.challenge.secret)
            verdict = replace(verdict, allowed=False, findings=(*verdict.findings, unknown))
        return trust, verdict

    async def _hand_out(self, attempt: Exchange, secret: str, sequence: int) -> Release:
        """Unwrap, seal, commit the release, and only then return. The plaintext lives in this function."""
        try:
            key = sealing_key(attempt, allow_rsa1_5=self._policy.allow_rsa1_5)
            with Stage(attempt, "seal", self._observe):
                version, plaintext = await self._vault.open(secret)
                sealed = _seal(key, plaintext)
                del plaintext
        except NotFound:
            finding = Finding("policy.secret-revoked", "the secret has no active version")
            await self._refuse_again(attempt, finding)
        except RefusedKey as error:
            await self._refuse_again(attempt, Finding.from_error(error))
        await self._stores.records.append_release(
            ReleaseRecord(
                appraisal_id=attempt.ticket,
                at=self._clock.now(),
                secret=secret,
                version=version,
                key_thumbprint=key.thumbprint.hex(),
                sealing=key.algorithm.value,
            ),
            registry_sequence=sequence,
        )
        log = _log.warning if key.algorithm is SealingAlgorithm.RSA1_5 else _log.info
        log("released", ticket=attempt.ticket, secret=secret, version=version, sealing=key.algorithm.value, request_id=attempt.request_id)
        return Release(sealed, attempt.ticket)

    # --- records and refusals -----------------------------------------------------------------------------------------

    async def _write(self, attempt: Exchange, kind: VerdictKind, findings: tuple[Finding, ...], verdict: Verdict | None = None) -> None:
        """Commit the record. If this fails the exception goes up, and nothing is released."""
        candidate = verdict.candidate if verdict else None
        record = AppraisalRecord(
            id=attempt.ticket,
            at=self._clock.now(),
            verdict=kind,
            secret=attempt.challenge.secret,
            workload=candidate.workload.name if candidate else None,
            workload_revision=candidate.revision if candidate else None,
            findings=tuple(finding.to_document() for finding in findings),
            inputs={name: hashlib.sha256(data).hexdigest() for name, data in attempt.payloads.items()},
            facts={
                **(verdict.facts if verdict else {}),
                "challenge": attempt.challenge.value.hex(),
                "salt": attempt.challenge.salt.hex(),
                "issued_at": attempt.challenge.issued_at.isoformat(),
                "verifier": attempt.answer.verifier if attempt.answer else None,
            },
            durations_us=dict(attempt.durations_us),
            config_digest=self._policy.config_digest,
            request_id=attempt.request_id,
            software=self._policy.software,
        )
        with Stage(attempt, "record", self._observe):
            await self._stores.records.append_appraisal(record, self._payloads_to_keep(attempt, findings))

    def _payloads_to_keep(self, attempt: Exchange, findings: tuple[Finding, ...]) -> dict[str, bytes]:
        """Return all of them if token and platform are genuine, else the smallest: anybody can send us megabytes."""
        if not self._policy.keep_payloads:
            return {}
        if not any(finding.step <= LAST_TOKEN_STEP for finding in errors_of(findings)):
            return attempt.payloads
        kept, left = {}, self._policy.limits.unproven_payload_bytes
        for name, data in sorted(attempt.payloads.items(), key=lambda item: len(item[1])):
            left -= len(data)
            if left >= 0:
                kept[name] = data
        return kept

    async def _refuse(self, attempt: Exchange, findings: tuple[Finding, ...]) -> NoReturn:
        await self._write(attempt, VerdictKind.REFUSED, findings)
        self._raise_refused(attempt, findings)

    async def _refuse_again(self, attempt: Exchange, finding: Finding) -> NoReturn:
        """Refuse after the appraisal was recorded as allowed: under a ticket of its own, so that no record is changed."""
        attempt.ticket = self._ticket()
        await self._refuse(attempt, (finding,))

    def _raise_refused(self, attempt: Exchange, findings: tuple[Finding, ...]) -> NoReturn:
        errors = errors_of(findings)
        code = CATALOGUE[min(errors, key=lambda finding: finding.step).id].code if errors else "not-authorized"
        ids = tuple(dict.fromkeys(finding.id for finding in errors))
        _log.warning("refused", ticket=attempt.ticket, code=code, findings=ids, request_id=attempt.request_id)
        raise RefusedError(code, attempt.ticket, ids)

    def _ticket(self) -> str:
        return self._entropy(TICKET_SIZE).hex()

    async def _read_off_loop(self, work: Callable[[], _T], *, worth_a_trip: bool = True) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, work) if worth_a_trip else work()

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _seal(key: GuestKey, plaintext: bytes) -> SealedSecret:
    """Seal; raise ``RefusedKey``. What else a crypto library says is dropped: it may quote what it was given."""
    try:
        return seal(key, plaintext)
    except RefusedKey:
        raise
    except Exception as error:  # noqa: BLE001 - no text of this error may go anywhere
        failure = type(error).__name__
    raise OurFault(f"the secret could not be sealed: {failure}")


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
