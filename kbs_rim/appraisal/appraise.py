"""The appraisal: evidence in, findings and a verdict out (DESIGN.md section 5).

Pure: the same bytes, images, workloads and time give the same verdict years later. Steps that cannot run leave a finding,
never silence; nothing to check is a failure. Left to the caller: redeeming the challenge, asking the external verifier,
fetching images by the digests that ``digests_of`` and ``read_runtime`` name, and writing the record before anything is released.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kbs_rim.appraisal.attestation_result import EarPolicy, judge_attestation_result
from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.findings import Finding, Severity, errors_of
from kbs_rim.appraisal.judged_tree import Packs, judge_device_tree, tree_facts, tree_to_judge
from kbs_rim.appraisal.measured_images import NO_IMAGES, MeasuredImages
from kbs_rim.appraisal.realm_rules import judge_claims
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.runtime_logs import NO_RUNTIME_LOGS, EventReader, RuntimeLogs, digests_to_look_up, read_runtime_logs
from kbs_rim.appraisal.runtime_rules import RuntimeOpinion, judge_runtime, unjudged_logs
from kbs_rim.appraisal.supplied_tree import NO_TREE, TreeReading, read_supplied_tree
from kbs_rim.appraisal.token_rules import judge_platform_claims, judge_realm_token
from kbs_rim.appraisal.workload import Bounds, ParameterRules, Workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, boot_plan_from_log
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.replay import ReplayResult, ReplayWork, RimMemo, match_rim, params_to_try
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags

_COUNTS = range(2, 65)
"""Numbers of breakpoints and watchpoints that an RMM accepts."""


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
class _Opinion:
    """What one workload says."""

    candidate: Candidate
    findings: tuple[Finding, ...]
    dialect: Dialect | None
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


def read_tree(evidence: Evidence, plan: BootPlan | None, candidates: Iterable[Candidate], limits: Limits) -> TreeReading:
    """Read the device tree that came with the evidence, if one of the workloads judges trees by rules; else nobody looks at it."""
    if plan is None or not any(candidate.workload.device_tree.judges for candidate in candidates):
        return NO_TREE
    return read_supplied_tree(evidence.device_tree, plan, limits)


def read_runtime(
    evidence: Evidence, candidates: Iterable[Candidate], token: CcaToken, limits: Limits
) -> tuple[RuntimeLogs, tuple[tuple[HashAlgorithm, bytes], ...]]:
    """Step 4 for the logs that explain REMs: read those that one of the workloads asks for.

    Returns them, and what to look up in the registry for them: digests in the realm's algorithm, each once.
    """
    tables = [candidate.workload.runtime for candidate in candidates if candidate.workload.runtime is not None]
    logs = read_runtime_logs(evidence, tables, limits)
    return logs, digests_to_look_up(logs, token.realm.claims.hash_algorithm)


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
    work = ReplayWork(_budget(case.limits, vouched_for=not errors_of(common)), case.memo, pause=case.pause)
    common += case.log_findings
    resolved, image_findings = _resolve(case.plan, case.token.realm.claims.hash_algorithm, case.images)
    common += image_findings
    opinions = _judge_workloads(case, resolved, None if errors_of(image_findings) else work)
    if not opinions:
        common += [*unjudged_logs(case.runtime), _nobody(case)]
    return _verdict(case, tuple(common), opinions, resolved, opinion.facts)


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


def _judge_workloads(case: Case, resolved: Mapping[int, RegisteredImage], work: ReplayWork | None) -> list[_Opinion]:
    """Steps 5 to 9 for each workload. All share ``work``, so their number does not multiply the cost; None: nothing to replay."""
    opinions = []
    reader, trees = EventReader(case.token.realm.claims.hash_algorithm), _trees(case, resolved)
    for candidate in case.candidates:
        workload = candidate.workload
        result, replay_findings = _replay(case, workload, work)
        dialect = result.matched if result else None
        findings = [*replay_findings, *judge_claims(case.token, workload)]
        if case.plan is None:
            findings.append(Finding("boot.not-judged", "there is no boot plan to judge"))
        else:
            tree = tree_to_judge(workload, resolved, case.device_tree)
            params, judged = result.params if result else None, tree.image.id if tree else None
            findings += judge_boot_plan(case.plan, resolved, workload, dialect, params=params, judged_tree=judged)
            findings += judge_device_tree(case.plan, resolved, workload, case.device_tree, case.rule_packs, case.limits)
        runtime = judge_runtime(case.token.realm.claims, workload, case.runtime, case.measured, reader, case.limits, loaded=trees)
        opinions.append(_Opinion(candidate, (*findings, *runtime.findings), dialect, runtime))
    return opinions


def _trees(case: Case, resolved: Mapping[int, RegisteredImage]) -> dict[bytes, RegisteredImage]:
    """Return the device trees that the log says were loaded, by digest in the realm's algorithm. The RIM decides whether they were."""
    algorithm = case.token.realm.claims.hash_algorithm
    return {image.measurements.digests[algorithm]: image for image in resolved.values() if image.measurements.device_tree is not None}


def parameters_to_try(logged: RealmCreate, rules: ParameterRules) -> tuple[RealmCreate, ...]:
    """Return the realm parameters that a log may stand for under a workload, as logged first; at most eight.

    No VMM logs LPA2, which the host's kernel sets by itself, and kvmtool logs fixed numbers of breakpoints and watchpoints whatever the
    host has. Where a workload allows LPA2, or names exact numbers, those are tried too; what matched is judged, not what was logged.
    """
    known = params_to_try(logged)
    known += tuple(
        replace(params, num_bps=_encoded(rules.breakpoints, params.num_bps), num_wps=_encoded(rules.watchpoints, params.num_wps))
        for params in known
    )
    if rules.lpa2:
        known += tuple(replace(params, flags=params.flags | RealmFlags.LPA2) for params in known)
    return tuple(dict.fromkeys(known))


def _encoded(count: Bounds, logged: int) -> int:
    """Return the RMI field (the number minus one) for the only number that is allowed, or the logged field if there are several."""
    return count.min - 1 if count.exact and count.min in _COUNTS else logged


def allowed_dialects(workload: Workload) -> tuple[Dialect, ...]:
    """Return the dialects to try for a workload, likeliest first: RMM version, then order, then rounding."""
    rules = workload.rmm
    return tuple(Dialect(rmm, rounding, order) for rounding in rules.roundings for order in rules.orders for rmm in rules.versions)


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
    resolved: Mapping[int, RegisteredImage],
    platform_facts: Mapping[str, Any],
) -> Verdict:
    """Step 9: allowed if the common steps and all rules of one workload have no error. Default is deny."""
    best = min(opinions, key=lambda opinion: opinion.errors, default=None)
    findings = (*common, *(best.findings if best else ()))
    allowed = best is not None and not errors_of(findings)
    if allowed and best is not None:
        message = f"everything matched workload {best.candidate.workload.name}"
        findings = (*findings, Finding("policy.accepted", message, Severity.NOTE))
    facts = _facts(case, resolved, best)
    facts["platform"] = dict(platform_facts)
    if best is not None and best.runtime.facts:
        facts["runtime"] = dict(best.runtime.facts)
    if best is not None and (tree := tree_facts(best.candidate.workload, resolved, case.device_tree, case.rule_packs)):
        facts["device_tree"] = tree
    facts["other_workloads"] = {
        opinion.candidate.workload.name: list(dict.fromkeys(finding.id for finding in errors_of(opinion.findings)))
        for opinion in opinions
        if opinion is not best
    }
    return Verdict(allowed=allowed, candidate=best.candidate if best else None, findings=findings, facts=facts)


def _facts(case: Case, resolved: Mapping[int, RegisteredImage], best: _Opinion | None) -> dict[str, Any]:
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
        "dialect": str(best.dialect) if best and best.dialect else None,
        "images": sorted({image.id for image in (*resolved.values(), *(best.runtime.images if best else ()))}),
        "vmm": case.plan.vm.name if case.plan and case.plan.vm else None,
    }
