"""Step 8 for REMs that logs explain: the logs replay to what the RMM signed, and every event in them is let in by the workload.

A log that does not replay is not believed, so its events are not judged. Cost is bounded by the events, which ``runtime_logs`` bounds, and
by what patterns may be matched with; a workload leaves at most ``limits.runtime_findings`` findings about single events.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal.event_classes import ClassifiedEvent, EventClass, classify_events, counts_by_class
from kbs_rim.appraisal.event_meaning import REM0, REM1, REM2, Meaning
from kbs_rim.appraisal.event_order import BootOrder, counted_images
from kbs_rim.appraisal.findings import Finding, Severity, errors_of
from kbs_rim.appraisal.measured_images import MeasuredImages
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.runtime_logs import EventReader, LoggedEvent, RuntimeLogs, in_rems
from kbs_rim.appraisal.runtime_workload import RuntimeRules
from kbs_rim.appraisal.workload import Workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import RealmClaims
from kbs_rim.evidence.event_log import EventLog, LogFormat
from kbs_rim.evidence.event_text import describe_measured
from kbs_rim.evidence.log_label import LogLabel
from kbs_rim.limits import Limits
from kbs_rim.measurement.rem import RemReplay, rem_candidates


@dataclass(frozen=True, slots=True)
class RuntimeOpinion:
    """What one workload says of the REMs that logs explain. ``images`` are those that were measured and let in."""

    findings: tuple[Finding, ...] = ()
    events: tuple[ClassifiedEvent, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[RegisteredImage, ...]:
        """Return the registered images among the events, each once, revoked ones and unwelcome ones included."""
        return tuple({event.image.id: event.image for event in self.events if event.image is not None}.values())


NOT_FOR_STRANGERS = RuntimeOpinion(
    (Finding("rem.not-judged", "no verifier vouches for the token, and its logs were judged for other workloads already"),)
)
"""What becomes of the workloads beyond ``workloads_for_strangers``."""


def workloads_for_strangers(logs: RuntimeLogs, limits: Limits) -> int:
    """Return for how many workloads the logs are judged if the token is one that anybody can make: it is refused in any case.

    Thousands of events take half a second, and dozens of workloads may have one secret. So it is as many as make up the events that one
    appraisal may have, but at least one.
    """
    events = sum(len(read.log.events) for read in logs.logs if read.log)
    return max(1, limits.runtime_events // max(1, events))


def judge_runtime(
    claims: RealmClaims,
    workload: Workload,
    logs: RuntimeLogs,
    images: MeasuredImages,
    reader: EventReader,
    limits: Limits,
    *,
    loaded: Mapping[bytes, RegisteredImage] | None = None,
) -> RuntimeOpinion:
    """Judge the REMs for which ``workload`` says ``"log"``.

    ``images`` are what the registry knows of the events' digests; ``loaded`` are the device trees that the RIM covers, by digest in
    the realm's algorithm. ``reader`` is shared by all workloads of an appraisal.
    """
    rules, rems = workload.runtime, workload.realm.logged
    if rules is None:
        return RuntimeOpinion(unjudged_logs(logs))
    notes = unjudged_logs(logs, frozenset(rule.kind for rule in rules.logs))
    used, findings = _logs_of(rules, logs)
    if errors_of(findings):
        return RuntimeOpinion((*notes, *findings, Finding("rem.not-judged", "the logs of the REMs could not be replayed")))
    matched, replay_findings = _replay([log for _, log in used], claims, rems)
    if matched is None:
        return RuntimeOpinion((*notes, *findings, *replay_findings))
    events = [event for label, log in used for event in reader.events(log, label, rems, matched.ima)]
    classified = classify_events(events, rules, images, claims.hash_algorithm, limits, loaded=loaded)
    order = BootOrder.of(classified, claims.hash_algorithm)
    judged = (
        *_limited(_judge_events(classified, rules), limits),
        *_judge_images(classified),
        *_judge_order(classified, order),
        *_judge_missing(classified, rules, order, rems),
    )
    return RuntimeOpinion((*notes, *findings, *judged), classified, _facts(classified, used, matched))


def unjudged_logs(logs: RuntimeLogs, kinds: frozenset[LogFormat] = frozenset()) -> tuple[Finding, ...]:
    """Return a note for each log that came and is not one of ``kinds``."""
    names = [label.value for label in logs.labels() if label.format not in kinds]
    return tuple(Finding("log.kind", f"the {name} log was not judged", Severity.NOTE, seen=name) for name in names)


def _logs_of(rules: RuntimeRules, logs: RuntimeLogs) -> tuple[list[tuple[LogLabel, EventLog]], list[Finding]]:
    """Return the logs in the order of the rules, counting measurement registers, or say why one cannot be used."""
    used: list[tuple[LogLabel, EventLog]] = []
    findings: list[Finding] = []
    for rule in rules.logs:
        sent = logs.of(rule.kind)
        if sent is None:
            if rule.required:
                findings.append(Finding("rem.log-missing", f"no {rule.kind} log came, which explains REMs", expected=rule.kind.value))
            continue
        if sent.log is None:
            findings.append(sent.problem or Finding("rem.not-judged", f"the {rule.kind} log could not be read"))
            continue
        log = in_rems(sent.log, rule)
        if log is None:
            message = f"the {sent.label} log counts {sent.log.registers} registers, and the workload maps them to no REM"
            findings.append(Finding("rem.numbering", message, expected="a pcr_mapping, or measurement registers", seen=sent.label.value))
            continue
        used.append((sent.label, log))
    return used, findings


def _replay(logs: Sequence[EventLog], claims: RealmClaims, rems: Sequence[int]) -> tuple[RemReplay | None, tuple[Finding, ...]]:
    """Return the replay that gives the signed REMs of ``rems``; else what the first log-like replay lacks, register by register."""
    signed = claims.extensible_measurements
    try:
        candidates = rem_candidates(logs, claims.hash_algorithm)
    except MalformedEvidence as error:
        return None, (Finding.from_error(error), _nothing_judged())
    for candidate in candidates:
        if all(hmac.compare_digest(candidate.values[rem], signed[rem]) for rem in rems):
            return candidate, ()
    wrong = tuple(_mismatch(candidates[0], rem, signed[rem]) for rem in rems if candidates[0].values[rem] != signed[rem])
    return None, (*wrong, _nothing_judged())


def _nothing_judged() -> Finding:
    return Finding("rem.not-judged", "what the logs say was not looked at: they do not give the signed REMs")


def _mismatch(replayed: RemReplay, rem: int, signed: bytes) -> Finding:
    count = replayed.events[rem]
    where: dict[str, str | int] = {"rem": rem, "events": count}
    if not count:
        return Finding("rem.unexplained", f"REM{rem} moved, and no log has an event for it", seen=signed.hex(), where=where)
    message = f"{count} events in the logs replay to another value than REM{rem}"
    return Finding("rem.replay", message, expected=signed.hex(), seen=replayed.values[rem].hex(), where=where)


# --- events -----------------------------------------------------------------------------------------------------------


def _judge_events(events: Sequence[ClassifiedEvent], rules: RuntimeRules) -> Iterator[Finding]:
    for event in events:
        logged = event.logged
        name = f"event {logged.event.number} of the {logged.label} log in REM{logged.rem}"
        where = {**logged.where, "digest": logged.digest.hex()}
        if event.objection is not None:
            objection = event.objection
            where |= {"image": event.image.id} if event.image else {}
            yield Finding(
                objection.finding,
                f"{name}: {objection.message}",
                expected=objection.expected,
                seen=objection.seen or event.what,
                where=where,
            )
        elif event.kind is EventClass.UNKNOWN:
            tolerated = rules.unknown.tolerated(logged.rem)
            severity = Severity.WARNING if tolerated else Severity.ERROR
            message = f"{name} is of something unknown; by its own words: {event.what}"
            yield Finding("rem.event-unknown", message, severity, seen=logged.digest.hex(), where=where)
        if event.kind is not EventClass.NAMED and (problem := _structure_problem(logged)) is not None:
            yield Finding("rem.event-data", f"{name}: {problem.message}", expected=problem.expected, seen=problem.seen, where=where)


def _structure_problem(logged: LoggedEvent) -> MalformedEvidence | None:
    """What is wrong with data whose claimed type demands a structure: honest writers keep it, whatever the digest says."""
    try:
        describe_measured(logged.event)
    except MalformedEvidence as error:
        return error
    return None


def _limited(findings: Iterator[Finding], limits: Limits) -> Iterator[Finding]:
    """Yield the first findings, and one for all the others."""
    left, errors = limits.runtime_findings, 0
    more = 0
    for finding in findings:
        if left:
            left -= 1
            yield finding
        else:
            more += 1
            errors += finding.severity is Severity.ERROR
    if more:
        severity = Severity.ERROR if errors else Severity.WARNING
        yield Finding("rem.event-refused" if errors else "rem.event-unknown", f"{more} more events have findings like these", severity)


def _judge_images(events: Sequence[ClassifiedEvent]) -> Iterator[Finding]:
    deprecated = {
        event.image.id: event
        for event in events
        if event.image is not None and event.kind is EventClass.IMAGE and event.image.state is ImageState.DEPRECATED
    }
    for image_id, event in deprecated.items():
        where = {**event.logged.where, "image": image_id}
        yield Finding("rem.image-deprecated", f"{event.what} is deprecated", Severity.WARNING, seen=image_id, where=where)


def _judge_order(events: Sequence[ClassifiedEvent], order: BootOrder) -> Iterator[Finding]:
    late = {event.image.id: event for event in order.too_late(events) if event.image is not None}
    for image_id, event in late.items():
        message = f"{event.what} was measured when firmware had handed over: whoever measured it, no firmware started it"
        yield Finding(
            "rem.event-order", message, expected="no image behind Exit Boot Services", where={**event.logged.where, "image": image_id}
        )


# --- what must be there -----------------------------------------------------------------------------------------------


def _judge_missing(events: Sequence[ClassifiedEvent], rules: RuntimeRules, order: BootOrder, rems: Sequence[int]) -> Iterator[Finding]:
    measured = {event.role for event in events if event.kind is EventClass.IMAGE}
    counted = {(event.role, event.image.id) for event in counted_images(events, order, rems) if event.image is not None}
    for rule in rules.images:
        absent = tuple(image for image in rule.images if (rule.role, image) not in counted)
        if not absent or not rule.required or (rule.required != "each" and len(absent) < len(rule.images)):
            continue
        why = "it was not measured" if rule.role not in measured else "what was measured did not start this realm: the order is another"
        wanted = "each" if rule.required == "each" else "one"
        message = f"the workload requires {wanted} of its images for the role {rule.role} in the REMs, and {why}"
        yield Finding("rem.image-missing", message, expected=_names(absent), where={"role": rule.role.value})
    in_time = {(event.logged.rem, event.logged.digest.hex()) for at, event in enumerate(events) if not _behind_exit(order, at, event)}
    for named in rules.digests:
        if named.required and (named.rem, named.digest) not in in_time:
            message = f"a digest that the workload requires in REM{named.rem} was not measured: {named.comment or named.type}"
            yield Finding("rem.event-missing", message, expected=named.digest, where={"rem": named.rem})
    yield from _judge_missing_command_line(events, rules)
    yield from _judge_missing_variables(events, rules)
    for rem in rules.separators:
        if not any(event.logged.rem == rem and event.means(Meaning.SEPARATOR) for event in events):
            yield Finding("rem.event-missing", f"REM{rem} has no separator", expected="a separator", where={"rem": rem})


def _behind_exit(order: BootOrder, at: int, event: ClassifiedEvent) -> bool:
    return event.logged.rem == REM1 and at > order.left


def _names(images: Sequence[str]) -> str:
    shown = ", ".join(images[:3])
    return shown if len(images) <= 3 else f"{shown} and {len(images) - 3} more"


def _judge_missing_command_line(events: Sequence[ClassifiedEvent], rules: RuntimeRules) -> Iterator[Finding]:
    """The kernel's own event decides, or the boot loader's where the workload says that the kernel has none."""
    if rules.command_line is None:
        return
    by_kernel = rules.command_line.measured_by == "kernel"
    wanted = (Meaning.LOAD_OPTIONS,) if by_kernel else (Meaning.LOAD_OPTIONS, Meaning.KERNEL_TEXT)
    if not any(event.logged.rem == REM2 and any(map(event.means, wanted)) for event in events):
        who = "kernel" if by_kernel else "boot loader"
        message = f"no command line that the workload allows was measured by the {who}"
        yield Finding("rem.event-missing", message, expected=f"a command line measured by the {who}", where={"rem": REM2})


def _judge_missing_variables(events: Sequence[ClassifiedEvent], rules: RuntimeRules) -> Iterator[Finding]:
    secure_boot = rules.secure_boot
    wanted = ["SecureBoot"] if secure_boot.state != "any" else []
    contents = {"PK": secure_boot.pk, "KEK": secure_boot.kek, "db": secure_boot.db, "dbx": secure_boot.dbx}
    wanted += [name for name, allowed in contents.items() if isinstance(allowed, tuple)]
    measured = {
        meaning.text
        for event in events
        if event.logged.rem == REM0 and event.means(Meaning.SECURE_BOOT_VARIABLE)
        for meaning in event.meanings
        if meaning.kind is Meaning.SECURE_BOOT_VARIABLE
    }
    for name in wanted:
        if name not in measured:
            message = f"the variable {name}, which the workload has rules for, was not measured as it must be"
            yield Finding("rem.event-missing", message, expected=name, where={"rem": REM0})


# --- for the record ---------------------------------------------------------------------------------------------------


def _facts(events: Sequence[ClassifiedEvent], used: Sequence[tuple[LogLabel, EventLog]], matched: RemReplay) -> dict[str, Any]:
    return {
        "logs": {label.value: len(log.events) for label, log in used},
        "events": list(matched.events),
        "classes": counts_by_class(events),
        "images": [
            {
                "image": event.image.id,
                "role": event.role.value,
                "what": event.what,
                "rem": event.logged.rem,
                "event": event.logged.event.number,
            }
            for event in _first_of_each(events)
            if event.image is not None and event.role is not None
        ],
        "ima_bank": matched.ima.value if matched.ima else None,
    }


def _first_of_each(events: Sequence[ClassifiedEvent]) -> Iterator[ClassifiedEvent]:
    seen: set[tuple[str, str]] = set()
    for event in events:
        if event.kind is not EventClass.IMAGE or event.image is None or event.role is None:
            continue
        key = (event.image.id, event.role.value)
        if key not in seen:
            seen.add(key)
            yield event
