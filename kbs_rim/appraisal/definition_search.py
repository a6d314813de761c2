"""Step 5 without a log: look for the signed RIM among the VMs that a workload defines.

A search is work that a guest asks for, so it is bounded four times: by ``definition.max_candidates``; by the budget of replays of the
appraisal; it begins only for a token that a verifier vouches for; and a machine whose realms keep coming with RIMs that nothing gives
is not searched for (``SearchPermits``). What was found is remembered: that a VM of the definition has this RIM, or that none has.
Only results of this code are remembered, and a remembered VM is measured again before it counts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kbs_rim.appraisal.definition_space import VmSpace, choices_of
from kbs_rim.appraisal.derived_boot import BootDeriver, DerivedBoot, digest_of_id
from kbs_rim.appraisal.findings import Finding, Severity
from kbs_rim.appraisal.registered_image import ImageSet, ImageState
from kbs_rim.appraisal.workload import Workload
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE, Limits
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.replay import ReplayResult, ReplayWork, RimMemo, match_rim
from kbs_rim.measurement.rim_runs import runs_of, steps_of_all

_FOUND, _NONE = b"\1", b"\0"
_NUMBER_SIZE = 4
_REASONS = 3
_STEPS_A_VM, _STEPS_A_PIECE = 1024, 32
"""What deriving a VM costs, in chain steps of 2 microseconds, and what each vCPU and each granule of its tree adds."""


class SearchPermits(Protocol):
    """Says who may cause a search. Called from threads that replay; ``at`` is in seconds since the epoch."""

    def take(self, platform: bytes, at: int) -> bool:
        """Return whether one more search for a realm of this machine (its instance id) may begin, and count it."""
        ...

    def give_back(self, platform: bytes) -> None:
        """Count one less: the search found its VM."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRealm:
    """What the token says, by which a search goes. ``vouched_for``: the verifier affirmed the token."""

    rim: bytes
    algorithm: HashAlgorithm
    platform: bytes
    vouched_for: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """``boot`` and ``result`` are None if no VM was found; ``facts`` go to the record."""

    boot: DerivedBoot | None = None
    result: ReplayResult | None = None
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _ReadOnlyMemo:
    """Many VMs are tried and one is right: what the others give is not worth a place among the RIMs of realms that boot."""

    memo: RimMemo

    def get(self, key: bytes) -> bytes | None:
        return self.memo.get(key)

    def furthest(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        return self.memo.furthest(keys)

    def put(self, key: bytes, rim: bytes, images: frozenset[str]) -> None:
        """Remember nothing."""


class DefinitionSearch:
    """The searches of one appraisal: one for each workload that allows it, all within one budget and with one permit."""

    def __init__(
        self, realm: SignedRealm, images: ImageSet, work: ReplayWork, limits: Limits, *, permits: SearchPermits | None, at: int
    ) -> None:
        """``images`` are those that the workloads name. ``permits`` None: whoever calls answers for the cost."""
        self._realm, self._images, self._work, self._limits = realm, images, work, limits
        self._permits, self._at = permits, at
        self._permitted: bool | None = None

    def find(self, workload: Workload, revision: int, dialects: Sequence[Dialect]) -> SearchOutcome:
        """Look for the VM of ``workload`` that has the signed RIM. Its definition must allow realms without a log."""
        definition = workload.definition
        if definition is None or not definition.without_log:
            raise ValueError("the workload defines no VM that may come without a log")
        if not self._realm.vouched_for:
            return _not_searched("no VM was looked for: the token is not one that the verifier vouches for")
        memo, key = self._work.memo, _name_of(self._realm, workload, revision)
        deriver = BootDeriver(definition, workload.entry.role, self._images, self._limits)
        hunt = _Hunt(deriver, choices_of(workload, definition), self._realm, self._images, dialects, self._limits)
        known = memo.get(key) if memo else None
        if known is not None and known[:1] == _NONE:
            return hunt.failed(f"none of the {len(hunt.choices)} VMs of the definition has the signed RIM, as was found before", known)
        if known is not None and hunt.tries(int.from_bytes(known[1:]), self._work):
            return hunt.succeeded(remembered=True)
        if not self._permit():
            return _not_searched(
                "no VM was looked for: realms of this machine came with unknown RIMs too often", self._realm.platform.hex()
            )
        outcome = hunt.through_all(self._work)
        if outcome.boot is not None:
            self._give_back()
        if memo is not None and hunt.boot is not None:
            memo.put(key, _FOUND + hunt.number.to_bytes(_NUMBER_SIZE), hunt.boot.registered)
        elif memo is not None and hunt.complete and not _unusable(workload, self._images):
            memo.put(key, _NONE + hunt.tried.to_bytes(_NUMBER_SIZE), workload.defined_images)
        return replace(outcome, findings=(*_unusable(workload, self._images), *outcome.findings)) if outcome.boot is None else outcome

    def _permit(self) -> bool:
        """Take the permit of this appraisal, once."""
        if self._permitted is None:
            self._permitted = self._permits is None or self._permits.take(self._realm.platform, self._at)
        return self._permitted

    def _give_back(self) -> None:
        if self._permits is not None:
            self._permits.give_back(self._realm.platform)
        self._permitted = None


@dataclass(slots=True)
class _Hunt:
    """The search for one workload: what was tried, and what came of it."""

    deriver: BootDeriver
    choices: VmSpace
    realm: SignedRealm
    images: ImageSet
    dialects: Sequence[Dialect]
    limits: Limits
    tried: int = 0
    complete: bool = False
    number: int = 0
    boot: DerivedBoot | None = None
    result: ReplayResult | None = None
    refusals: dict[str, None] = field(default_factory=dict)

    def through_all(self, work: ReplayWork) -> SearchOutcome:
        """Try every VM in order, as long as ``work`` has something left, without leaving RIMs of other VMs in its memo."""
        own = ReplayWork(work.left, None if work.memo is None else _ReadOnlyMemo(work.memo), pause=work.pause)
        try:
            for number in range(len(self.choices)):
                if own.pause is not None:
                    own.pause()
                if self.tries(number, own):
                    return self.succeeded()
                if not self.complete:
                    stopped = "then the work that one appraisal may cost was used up"
                    return self.failed(f"{number + 1} of {len(self.choices)} VMs of the definition were tried, {stopped}")
        finally:
            work.spent += own.spent
        return self.failed(f"none of the {len(self.choices)} VMs of the definition has the signed RIM")

    def tries(self, number: int, work: ReplayWork) -> bool:
        """Measure one VM. ``complete`` says whether the budget was enough for it."""
        self.complete = True
        if not 0 <= number < len(self.choices):
            return False
        boot, choice = None, self.choices[number]
        work.spent += _STEPS_A_VM + _STEPS_A_PIECE * choice.cpus
        try:
            boot = self.deriver.derive(choice, self.realm.algorithm)
            work.spent += _STEPS_A_PIECE * (boot.tree.image.measurements.size // GRANULE_SIZE if boot.tree else 0)
            images = self.images.with_supplied(boot.tree.image if boot.tree else None)
            params = boot.plan.create.params
            result = match_rim(boot.plan, images, self.realm.rim, self.dialects, self.limits, variants=(params,), work=work)
        except (InvalidDocument, MalformedEvidence) as problem:
            self.refusals.setdefault(problem.message)
            self.complete = boot is None or not _too_dear(boot, self.dialects, work)
            return False
        self.tried += 1
        self.complete = not _too_dear(boot, tuple(result.skipped), work)
        if result.matched is None:
            return False
        self.number, self.boot, self.result = number, boot, result
        return True

    def succeeded(self, *, remembered: bool = False) -> SearchOutcome:
        """Return what was found."""
        choice, count = self.choices[self.number], len(self.choices)
        message = f"derived from the definition: VM {self.number + 1} of {count}: {choice}"
        facts = {**self._facts(remembered), "number": self.number + 1, "vm": choice.to_document()}
        return SearchOutcome(boot=self.boot, result=self.result, findings=(Finding("rim.derived", message, Severity.NOTE),), facts=facts)

    def failed(self, message: str, known: bytes = b"") -> SearchOutcome:
        """Return that nothing was found, and what stood in the way; ``known`` is how an earlier search ended."""
        if known:
            self.tried = int.from_bytes(known[1:])
        reasons = "; ".join(list(self.refusals)[:_REASONS])
        computed = "the one RIM computed" if self.tried == 1 else f"one of {self.tried} RIMs computed"
        expected = f"{computed} for {self.choices.summary}" + (f"; VMs that cannot be: {reasons}" if reasons else "")
        finding = Finding("rim.no-candidate", message, expected=expected, seen=self.realm.rim.hex())
        return SearchOutcome(findings=(finding,), facts=self._facts(bool(known)))

    def _facts(self, remembered: bool) -> dict[str, Any]:
        return {"vms": len(self.choices), "tried": self.tried, "remembered": remembered}


def _too_dear(boot: DerivedBoot, dialects: Sequence[Dialect], work: ReplayWork) -> bool:
    """Return whether one of ``dialects`` was left out because it may cost more than is left."""
    return any(steps_of_all(runs_of(boot.plan, dialect)) > work.left for dialect in dialects)


def _not_searched(message: str, platform: str | None = None) -> SearchOutcome:
    return SearchOutcome(findings=(Finding("rim.not-searched", message, seen=platform),))


def _unusable(workload: Workload, images: ImageSet) -> tuple[Finding, ...]:
    """Return a finding for each image of the workload that no VM may load."""
    findings = []
    for role, image_id in workload.named_images:
        if image_id not in workload.defined_images:
            continue
        image = images.registered(HashAlgorithm.SHA256, digest_of_id(image_id))
        where: dict[str, str | int] = {"role": role.value, "image": image_id}
        if image is None:
            findings.append(
                Finding("rim.image-unknown", f"the {role.value} of the definition is not registered", seen=image_id, where=where)
            )
        elif image is not None and image.state is ImageState.REVOKED:
            findings.append(
                Finding("rim.image-revoked", f"the definition names {image.name}, which is revoked", seen=image_id, where=where)
            )
    return tuple(findings)


def _name_of(realm: SignedRealm, workload: Workload, revision: int) -> bytes:
    """Name the question: which VM of this revision of the workload has this RIM? The answer depends on nothing else but image states."""
    text = f"kbs_rim definition 1 {workload.name} {revision} {realm.algorithm.value} {realm.rim.hex()}"
    return hashlib.sha256(text.encode()).digest()
