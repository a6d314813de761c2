"""The appraisal: evidence in, findings and a verdict out, in the steps that docs/architecture.md lists.

Pure: the same bytes, images, workloads and time give the same verdict years later. Steps that cannot run leave a finding,
never silence; nothing to check is a failure. Left to the caller: redeeming the challenge, asking the external verifier,
fetching images by the digests that ``digests_of`` and ``read_runtime`` name, and writing the record before anything is released.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal.attestation_result import EarPolicy, judge_attestation_result
from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.definition_search import DefinitionSearch, SearchPermits, SignedRealm
from kbs_rim.appraisal.findings import Finding, Severity, errors_of
from kbs_rim.appraisal.judged_tree import Packs, judge_device_tree, tree_facts, tree_to_judge
from kbs_rim.appraisal.measured_images import NO_IMAGES, MeasuredImages
from kbs_rim.appraisal.realm_rules import judge_claims
from kbs_rim.appraisal.regenerated_tree import read_regenerated_tree
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.replay_rules import allowed_dialects, parameters_to_try
from kbs_rim.appraisal.runtime_logs import NO_RUNTIME_LOGS, EventReader, RuntimeLogs, digests_to_look_up, read_runtime_logs
from kbs_rim.appraisal.runtime_rules import NOT_FOR_STRANGERS, RuntimeOpinion, judge_runtime, unjudged_logs, workloads_for_strangers
from kbs_rim.appraisal.supplied_tree import NO_TREE, TreeReading, read_supplied_tree
from kbs_rim.appraisal.token_rules import judge_platform_claims, judge_realm_token
from kbs_rim.appraisal.workload import Workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, boot_plan_from_log
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.replay import ReplayResult, ReplayWork, RimMemo, match_rim


@dataclass(frozen=True, slots=True)
class Candidate:
    """A workload that may have the secret, in the revision that was current."""

    workload: Workload
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything one appraisal looks at. ``issued_at`` and ``at`` are seconds since the epoch.

    ``attestation_result`` is the verifier's compact JWS. ``device_tree`` is what ``read_tree`` gave, ``rule_packs`` are by name.
    ``runtime`` is what ``read_runtime`` gave, ``measured`` the images with one of the digests that it named.
    ``bound_workloads`` counts those that may have the secret, retired ones included; ``memo`` may remember RIMs of earlier cases;
    ``permits`` says who may cause a search among the VMs that a workload defines, where no log came;
    ``pause`` is called now and then by long replays, and may end them.
    """

    token: CcaToken
    plan: BootPlan | None
    log_findings: tuple[Finding, ...]
    challenge: bytes
    issued_at: int
    at: int
    attestation_result: str
    ear_policy: EarPolicy
    discovery_keys: tuple[Mapping[str, Any], ...] = ()
    images: ImageSet
    candidates: tuple[Candidate, ...]
    limits: Limits
    device_tree: TreeReading = NO_TREE
    runtime: RuntimeLogs = NO_RUNTIME_LOGS
    measured: MeasuredImages = NO_IMAGES
    rule_packs: Packs = field(default_factory=dict)
    allow_test_keys: bool = False
    memo: RimMemo | None = None
    permits: SearchPermits | None = None
    pause: Callable[[], None] | None = None
    bound_workloads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Allowed or not, for which workload, and why. ``facts`` are numbers an auditor wants to filter and compare."""

    allowed: bool
    candidate: Candidate | None
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Boot:
    """How the realm was built, as far as it is known to one workload: by the log, or derived from its definition.

    ``images`` are by event; ``result`` is None if nothing was replayed; ``facts`` are those of a search.
    """

    plan: BootPlan | None
    images: Mapping[int, RegisteredImage]
    tree: TreeReading
    result: ReplayResult | None = None
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect | None:
        """The dialect that gave the RIM."""
        return self.result.matched if self.result else None


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one workload says."""

    candidate: Candidate
    findings: tuple[Finding, ...]
    boot: _Boot
    runtime: RuntimeOpinion

    @property
    def errors(self) -> int:
        return len(errors_of(self.findings))


def read_log(evidence: Evidence, limits: Limits) -> tuple[BootPlan | None, tuple[Finding, ...]]:
    """Step 4: find the VMM log and turn it into a boot plan, or say why not."""
    raw = evidence.log(LogKind.VMM)
    if raw is None:
        return None, (Finding("log.missing", "no VMM log came with the token", expected="a VMM log", seen="none"),)
    try:
        return boot_plan_from_log(parse_tcg_log(raw, LogKind.VMM, limits), limits), ()
    except MalformedEvidence as error:
        return None, (Finding.from_error(error, log=LogKind.VMM.value),)


def digests_of(plan: BootPlan | None) -> tuple[tuple[HashAlgorithm, bytes], ...]:
    """Return what to look up in the registry: the digests that the log names, each once."""
    if plan is None:
        return ()
    return tuple(dict.fromkeys((image.algorithm, image.digest) for image in plan.images))


def read_tree(
    evidence: Evidence, plan: BootPlan | None, candidates: Iterable[Candidate], limits: Limits, registered: Iterable[RegisteredImage] = ()
) -> TreeReading:
    """Read the device tree that came with the evidence, if one of the workloads judges trees by rules; else nobody looks at it.

    If none came, and the one that the log names is not a revoked one of the ``registered`` images, it is made anew where a workload defines
    the VM.
    """
    judging = [candidate.workload for candidate in candidates if candidate.workload.device_tree.judges]
    if plan is None or not judging:
        return NO_TREE
    if evidence.device_tree is not None or plan.sent_tree is not None:
        return read_supplied_tree(evidence.device_tree, plan, limits)
    definitions = [workload.definition for workload in judging if workload.definition is not None]
    return read_regenerated_tree(plan, definitions, ImageSet(registered), limits)


def asks_for_more(candidates: Iterable[Candidate]) -> bool:
    """Tell whether a workload has device trees or logs read; if none has, ``read_tree`` and ``read_runtime`` have nothing to do."""
    return any(candidate.workload.device_tree.judges or candidate.workload.runtime is not None for candidate in candidates)


def read_runtime(
    evidence: Evidence, candidates: Iterable[Candidate], token: CcaToken, limits: Limits
) -> tuple[RuntimeLogs, tuple[tuple[HashAlgorithm, bytes], ...]]:
    """Step 4 for the logs that explain REMs: read those that one of the workloads asks for.

    Returns them, and what to look up in the registry for them: digests in the realm's algorithm, each once.
    """
    tables = [candidate.workload.runtime for candidate in candidates if candidate.workload.runtime is not None]
    logs = read_runtime_logs(evidence, tables, limits)
    named = [bytes.fromhex(rule.digest) for table in tables for rule in table.digests]
    return logs, digests_to_look_up(logs, token.realm.claims.hash_algorithm, named)


def worth_replaying(token: CcaToken, plan: BootPlan | None, images: ImageSet) -> bool:
    """True if the RIM can be recomputed from these images; without it their granule digests need not be fetched at all.

    A log of a few hundred bytes can name sixteen images of gigabytes; what it says of them is checked before that costs memory.
    """
    return plan is not None and not errors_of(_resolve(plan, token.realm.claims.hash_algorithm, images)[1])


def appraise(case: Case) -> Verdict:
    """Judge ``case``; every step runs, and the verdict carries all findings."""
    common = [
        *judge_realm_token(case.token, challenge=case.challenge, allow_test_keys=case.allow_test_keys, allow_legacy_profile=True),
        *judge_platform_claims(case.token, allow_test_keys=case.allow_test_keys),
    ]
    opinion = judge_attestation_result(
        case.attestation_result,
        case.ear_policy,
        token=case.token,
        challenge=case.challenge,
        issued_at=case.issued_at,
        at=case.at,
        discovery_keys=case.discovery_keys,
        limits=case.limits,
    )
    common += opinion.findings
    vouched_for = not errors_of(common)
    work = ReplayWork(_budget(case.limits, vouched_for=vouched_for), case.memo, pause=case.pause)
    search = _search(case, work, vouched_for=vouched_for) if _lacks_log(case) else None
    common += () if search and case.candidates else case.log_findings
    resolved, image_findings = _resolve(case.plan, case.token.realm.claims.hash_algorithm, case.images)
    common += image_findings
    opinions = _judge_workloads(case, resolved, None if errors_of(image_findings) else work, search, vouched_for=vouched_for)
    if not opinions:
        common += [*unjudged_logs(case.runtime), _nobody(case)]
    return _verdict(case, tuple(common), opinions, _Boot(case.plan, resolved, case.device_tree), opinion.facts)


def _nobody(case: Case) -> Finding:
    if case.bound_workloads:
        return Finding("policy.workload-inactive", "every workload that may have this secret is retired", seen=str(case.bound_workloads))
    return Finding("policy.no-workload", "no workload may have this secret")


def _budget(limits: Limits, *, vouched_for: bool) -> int:
    """Return the chain steps that all replays may cost. A token that no verifier vouches for can be made by anybody."""
    return limits.replay_granules if vouched_for else min(limits.replay_granules, limits.unproven_granules)


def _resolve(plan: BootPlan | None, realm_hash: HashAlgorithm, images: ImageSet) -> tuple[dict[int, RegisteredImage], list[Finding]]:
    """Step 5, first half: every image that the log names is registered, active, and of the logged size."""
    resolved: dict[int, RegisteredImage] = {}
    findings: list[Finding] = []
    if plan is None:
        return resolved, findings
    if plan.hash_algorithm is not realm_hash:
        message = "the log was made for another hash algorithm than the realm's"
        findings.append(Finding("boot.hash-mismatch", message, expected=realm_hash.value, seen=plan.hash_algorithm.value))
    for loaded in plan.images:
        where: dict[str, str | int] = {"event": loaded.event, "description": loaded.description, "address": hex(loaded.base)}
        image = images.known(loaded.algorithm, loaded.digest)
        if image is None:
            message = f"event {loaded.event} loads an image that is not registered"
            findings.append(Finding("rim.image-unknown", message, seen=loaded.digest.hex(), where=where))
            continue
        resolved[loaded.event] = image
        where["image"] = image.id
        if image.state is ImageState.REVOKED:
            message = f"event {loaded.event} loads {image.name}, which is revoked"
            findings.append(Finding("rim.image-revoked", message, seen=image.id, where=where))
        if image.measurements.size != loaded.size:
            message = f"event {loaded.event} loads another number of bytes than {image.name} has"
            expected, seen = str(image.measurements.size), str(loaded.size)
            findings.append(Finding("rim.image-size", message, expected=expected, seen=seen, where=where))
    return resolved, findings


def _lacks_log(case: Case) -> bool:
    """True if no VMM log came at all; one that cannot be read is refused, whatever a workload defines."""
    return case.plan is None and {finding.id for finding in case.log_findings} == {"log.missing"}


def _search(case: Case, work: ReplayWork, *, vouched_for: bool) -> DefinitionSearch:
    realm = case.token.realm.claims
    signed = SignedRealm(
        rim=realm.initial_measurement,
        algorithm=realm.hash_algorithm,
        platform=case.token.platform.claims.instance_id,
        vouched_for=vouched_for,
    )
    return DefinitionSearch(signed, case.images, work, case.limits, permits=case.permits, at=case.at)


def _judge_workloads(
    case: Case,
    resolved: Mapping[int, RegisteredImage],
    work: ReplayWork | None,
    search: DefinitionSearch | None,
    *,
    vouched_for: bool,
) -> list[_Opinion]:
    """Steps 5 to 9 for each workload. All share ``work``, so their number does not multiply the cost; None: nothing to replay."""
    opinions = []
    reader = EventReader(case.token.realm.claims.hash_algorithm)
    most = len(case.candidates) if vouched_for else workloads_for_strangers(case.runtime, case.limits)
    for position, candidate in enumerate(case.candidates):
        workload = candidate.workload
        boot = _logged_boot(case, resolved, workload, work) if search is None else _derived_boot(case, candidate, search)
        findings = [*boot.findings, *judge_claims(case.token, workload)]
        if boot.plan is None:
            findings.append(Finding("boot.not-judged", "there is no boot plan to judge"))
        else:
            tree = tree_to_judge(workload, boot.images, boot.tree)
            params, judged = boot.result.params if boot.result else None, tree.image.id if tree else None
            findings += judge_boot_plan(boot.plan, boot.images, workload, boot.dialect, params=params, judged_tree=judged)
            findings += judge_device_tree(boot.plan, boot.images, workload, boot.tree, case.rule_packs, case.limits)
        trees = _trees(case, boot.images)
        if position < most or workload.runtime is None:
            runtime = judge_runtime(case.token.realm.claims, workload, case.runtime, case.measured, reader, case.limits, loaded=trees)
        else:
            runtime = NOT_FOR_STRANGERS
        opinions.append(_Opinion(candidate, (*findings, *runtime.findings), boot, runtime))
    return opinions


def _logged_boot(case: Case, resolved: Mapping[int, RegisteredImage], workload: Workload, work: ReplayWork | None) -> _Boot:
    result, findings = _replay(case, workload, work)
    return _Boot(case.plan, resolved, case.device_tree, result, findings)


def _derived_boot(case: Case, candidate: Candidate, search: DefinitionSearch) -> _Boot:
    """Step 5 without a log: what the workload's definition gives, if it allows that. It is judged like what a log says."""
    definition = candidate.workload.definition
    if definition is None or not definition.without_log:
        findings = (*case.log_findings, Finding("rim.not-judged", "the RIM could not be recomputed"))
        return _Boot(None, {}, NO_TREE, findings=findings)
    found = search.find(candidate.workload, candidate.revision, allowed_dialects(candidate.workload))
    if found.boot is None:
        return _Boot(None, {}, NO_TREE, findings=found.findings, facts=found.facts)
    tree = found.boot.tree
    images = case.images.with_supplied(tree.image if tree else None)
    resolved, image_findings = _resolve(found.boot.plan, case.token.realm.claims.hash_algorithm, images)
    findings = (*found.findings, *image_findings)
    return _Boot(found.boot.plan, resolved, TreeReading(tree), found.result, findings, found.facts)


def _trees(case: Case, resolved: Mapping[int, RegisteredImage]) -> dict[bytes, RegisteredImage]:
    """Return the device trees that the log says were loaded, by digest in the realm's algorithm. The RIM decides whether they were."""
    algorithm = case.token.realm.claims.hash_algorithm
    return {image.measurements.digests[algorithm]: image for image in resolved.values() if image.measurements.device_tree is not None}


def _replay(case: Case, workload: Workload, work: ReplayWork | None) -> tuple[ReplayResult | None, tuple[Finding, ...]]:
    """Step 5, second half: recomputed RIM == signed RIM under one of the dialects that the workload allows."""
    if case.plan is None or work is None:
        return None, (Finding("rim.not-judged", "the RIM could not be recomputed"),)
    signed = case.token.realm.claims.initial_measurement
    try:
        variants = parameters_to_try(case.plan.create.params, workload.parameters)
        result = match_rim(case.plan, case.images, signed, allowed_dialects(workload), case.limits, variants=variants, work=work)
    except MalformedEvidence as error:
        return None, (Finding.from_error(error),)
    if result.matched is None:
        computed = "; ".join(f"{dialect}: {rim.hex()}" for dialect, rim in result.rims.items())
        message = f"none of {len(result.rims)} replays of the log gives the signed RIM"
        return result, (Finding("rim.mismatch", message, expected=computed or "no replay possible", seen=signed.hex()),)
    return result, ()


def _verdict(
    case: Case,
    common: tuple[Finding, ...],
    opinions: list[_Opinion],
    logged: _Boot,
    platform_facts: Mapping[str, Any],
) -> Verdict:
    """Step 9: allowed if the common steps and all rules of one workload have no error. Default is deny."""
    best = min(opinions, key=lambda opinion: opinion.errors, default=None)
    findings = (*common, *(best.findings if best else ()))
    allowed = best is not None and not errors_of(findings)
    if allowed and best is not None:
        message = f"everything matched workload {best.candidate.workload.name}"
        findings = (*findings, Finding("policy.accepted", message, Severity.NOTE))
    facts = _facts(case, best.boot if best else logged, best.runtime.images if best else ())
    facts["platform"] = dict(platform_facts)
    if best is not None and best.boot.facts:
        facts["definition"] = dict(best.boot.facts)
    if best is not None and best.runtime.facts:
        facts["runtime"] = dict(best.runtime.facts)
    if best is not None and (tree := tree_facts(best.candidate.workload, best.boot.images, best.boot.tree, case.rule_packs)):
        facts["device_tree"] = tree
    facts["other_workloads"] = {
        opinion.candidate.workload.name: list(dict.fromkeys(finding.id for finding in errors_of(opinion.findings)))
        for opinion in opinions
        if opinion is not best
    }
    return Verdict(allowed=allowed, candidate=best.candidate if best else None, findings=findings, facts=facts)


def _facts(case: Case, boot: _Boot, measured: Iterable[RegisteredImage]) -> dict[str, Any]:
    realm, platform = case.token.realm.claims, case.token.platform.claims
    return {
        "rim": realm.initial_measurement.hex(),
        "rems": [value.hex() for value in realm.extensible_measurements],
        "rpv": realm.personalization_value.hex(),
        "hash_algorithm": realm.hash_algorithm.value,
        "realm_profile": realm.profile,
        "realm_instance_id": realm.instance_id.hex() if realm.instance_id else None,
        "platform_profile": platform.profile,
        "implementation_id": platform.implementation_id.hex(),
        "instance_id": platform.instance_id.hex(),
        "lifecycle": platform.lifecycle,
        "token_form": case.token.form.name,
        "dialect": str(boot.dialect) if boot.dialect else None,
        "images": sorted({image.id for image in (*boot.images.values(), *measured)}),
        "vmm": boot.plan.vm.name if boot.plan and boot.plan.vm else None,
    }
