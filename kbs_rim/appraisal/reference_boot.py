"""Reference boot: rules for the REMs learnt from the logs of one trusted boot, for a person to approve.

The rules that come out are held against the same logs by the judge itself (``runtime_rules``), as if a realm had measured just these
events: rules that the judge would refuse are never called complete. What is learnt is as good as the trust in the logs; whoever has
signed REMs passes them, and then logs that do not replay to them are refused.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from kbs_rim.appraisal.event_classes import ClassifiedEvent, EventClass, classify_events
from kbs_rim.appraisal.event_meaning import REM2, Meaning, meanings_of
from kbs_rim.appraisal.findings import Finding, errors_of
from kbs_rim.appraisal.learned_rules import RuleDraft, whole_images_first, without_boot_image
from kbs_rim.appraisal.measured_images import MeasuredImages
from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.appraisal.runtime_logs import EventReader, LoggedEvent, RuntimeLog, RuntimeLogs, in_rems
from kbs_rim.appraisal.runtime_rules import RuntimeOpinion, judge_runtime
from kbs_rim.appraisal.runtime_workload import LogRule, PcrMapping, RuntimeRules
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.cca_token import RealmClaims
from kbs_rim.evidence.event_digest import rederive
from kbs_rim.evidence.event_log import EventLog
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.rem import REMS, RemReplay, RemValues, rem_candidates
from kbs_rim.measurement.uki import load_options

_NO_IMAGE = "sha256:" + 64 * "0"
_MOST_FINDINGS = 1 << 20
_ROUNDS = 4
"""What is named in one round may be missed in the next one, and what is missed there need not be required."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One trusted boot. ``logs`` are in the order in which they extended the REMs, each with its rule.

    ``signed`` are the REMs that an RMM signed for this boot, if they are known. ``images`` are what the registry or local files say of
    digests, ``loaded`` the device trees that the RIM covers, by digest in ``algorithm``.
    """

    logs: Sequence[tuple[LogRule, RuntimeLog]]
    algorithm: HashAlgorithm
    images: Sequence[RegisteredImage] = ()
    signed: RemValues | None = None
    loaded: Mapping[bytes, RegisteredImage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the administrator decides beforehand. ``loose`` are some of ``learned_rules.LOOSE_KEYS``.

    ``command_lines`` are tried for events that hold a digest of the kernel's command line only. ``parameters`` replaces the exact lines by
    the keys ``required``, ``allowed`` and ``forbidden``. ``accept_unknown``: what nothing explains becomes a digest, and a register that
    moved without a log its value.
    """

    loose: frozenset[str] = frozenset()
    command_lines: tuple[str, ...] = ()
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    accept_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learnt of one event. ``key`` is the part of the table that lets it in; None: nothing does, and ``advice`` helps."""

    event: LoggedEvent
    what: str
    key: str | None
    kind: EventClass
    image: RegisteredImage | None = None
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Rules for approval. ``rems`` and ``table`` go into a workload as ``realm.rems`` and ``runtime``.

    ``unexplained`` are events that the rules do not let in, ``problems`` what else the judge finds wrong: with any of them the rules are
    incomplete. ``values`` are the registers that the logs replay to.
    """

    rems: list[str | list[str]]
    table: dict[str, Any]
    lessons: tuple[Lesson, ...]
    values: RemValues
    problems: tuple[Finding, ...] = ()
    images: tuple[RegisteredImage, ...] = ()

    @property
    def unexplained(self) -> tuple[Lesson, ...]:
        """The events that the rules do not let in."""
        return tuple(lesson for lesson in self.lessons if lesson.key is None)

    @property
    def complete(self) -> bool:
        """True if the judge lets the whole boot in by these rules."""
        return not self.problems and not self.unexplained


def learn(boot: Boot, choices: Choices | None = None, limits: Limits = DEFAULT_LIMITS) -> Learned:
    """Learn rules from one boot, as tight as the table can say them, and judge the boot by them. Pure.

    Raises ``MalformedEvidence``: ``rem.numbering`` for a log of PCRs that no rule maps, ``rem.replay`` for logs that do not give the
    signed REMs, ``rem.unexplained`` for logs without any event, and what replaying raises; ``InvalidDocument`` (``document.workload``) for
    rules that cannot be, such as too many of one kind.
    """
    try:
        return _Teacher(boot, choices or Choices(), limits).learn()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidDocument("document.workload", f"no rules can be made of this boot: runtime.{where}: {first['msg']}") from None


class _Teacher:
    """One boot. Rules are drafted from images and meanings; what the classifier then still refuses gets a second look."""

    def __init__(self, boot: Boot, choices: Choices, limits: Limits) -> None:
        self._boot, self._choices = boot, choices
        self._limits = replace(limits, runtime_findings=_MOST_FINDINGS)
        self._images = MeasuredImages(boot.images)
        self._mapped = [(log.label, _mapped(rule, log)) for rule, log in boot.logs]
        self._replayed = _replay([log for _, log in self._mapped], boot, unlogged=choices.accept_unknown)
        self._rems = [number for number in range(REMS) if self._replayed.events[number]]
        self._reader = EventReader(boot.algorithm)
        self._events = self._read_events()
        self._draft = RuleDraft(loose=choices.loose)
        self._keys: dict[LoggedEventKey, str] = {}

    def learn(self) -> Learned:
        self._draft_rules()
        self._find_command_lines()
        opinion = self._judge()
        for _ in range(_ROUNDS):
            if not self._improve(opinion):
                break
            opinion = self._judge()
        lessons = tuple(self._lesson(event, opinion) for event in opinion.events)
        refused = {_key(lesson.event) for lesson in lessons if lesson.key is None}
        problems = [finding for finding in errors_of(opinion.findings) if _place(finding) not in refused]
        return Learned(
            rems=self._rem_rules(),
            table=self._table(),
            lessons=lessons,
            values=self._values,
            problems=tuple(problems),
            images=tuple({image.id: image for chosen in self._draft.images.values() for image in chosen}.values()),
        )

    @property
    def _values(self) -> RemValues:
        return self._boot.signed or self._replayed.values

    def _read_events(self) -> list[LoggedEvent]:
        bank = self._replayed.ima
        return [event for label, log in self._mapped for event in self._reader.events(log, label, self._rems, bank)]

    # --- drafting -----------------------------------------------------------------------------------------------------

    def _draft_rules(self) -> None:
        for event in whole_images_first(self._events, self._images, self._boot.algorithm):
            if event.digest in self._boot.loaded and event.rem == 0:
                self._keys[_key(event)] = "covered by the RIM"
                continue
            image = self._draft.learn_image(event, self._images, self._boot.algorithm)
            key = image[0] if image else self._draft.learn_meaning(event, meanings_of(event))
            if key is not None:
                self._keys[_key(event)] = key

    def _find_command_lines(self) -> None:
        """Try the given command lines on what is still unknown: those of UKIs and boot loaders are known to the classifier by now."""
        texts = {self._boot.algorithm.digest(data): text for text in self._choices.command_lines for data in _encodings(text)}
        for event in self._classify():
            text = texts.get(event.logged.digest)
            if event.kind in (EventClass.UNKNOWN, EventClass.REFUSED) and event.logged.rem == REM2 and text is not None:
                line = without_boot_image(text) if self._boot_loader_says(text) else text
                if line not in self._draft.command_lines:
                    self._draft.command_lines.append(line)

    def _boot_loader_says(self, text: str) -> bool:
        """Whether a boot loader measured this line as text, so that the classifier finds it by itself."""
        said = (meaning.text for event in self._events for meaning in meanings_of(event) if meaning.kind is Meaning.KERNEL_TEXT)
        return any(text in (f"BOOT_IMAGE={line}", line) for line in said)

    def _classify(self) -> tuple[ClassifiedEvent, ...]:
        rules = RuntimeRules.model_validate(self._table(checked=False))
        return classify_events(self._events, rules, self._images, self._boot.algorithm, self._limits, loaded=self._boot.loaded)

    def _improve(self, opinion: RuntimeOpinion) -> bool:
        """Mend the rules where the judge refuses and rules can help; return whether there is anything new to judge."""
        changed = [self._draft.require_less(finding) for finding in errors_of(opinion.findings)]
        named = self._choices.accept_unknown and self._name_the_rest(opinion)
        return any(changed) or named

    def _name_the_rest(self, opinion: RuntimeOpinion) -> bool:
        before = len(self._draft.digests)
        refused = {place for finding in errors_of(opinion.findings) if (place := _place(finding)) is not None}
        for event in opinion.events:
            if _key(event.logged) in refused:
                self._keys[_key(event.logged)] = self._draft.name_digest(event.logged, f"accepted unknown: {event.what}")
        return len(self._draft.digests) > before

    # --- the table and its judge --------------------------------------------------------------------------------------

    def _table(self, *, checked: bool = True) -> dict[str, Any]:
        parameters = {key: list(value) for key, value in self._choices.parameters.items() if value}
        logs = [rule.model_dump(mode="json", exclude_defaults=True) for rule, _ in self._boot.logs]
        table = self._draft.table(logs, parameters)
        if checked and "command_line" in table and not self._kernel_measures():
            table["command_line"]["measured_by"] = "boot-loader"
        return table

    def _kernel_measures(self) -> bool:
        return any(event.logged.rem == REM2 and event.means(Meaning.LOAD_OPTIONS) for event in self._classify())

    def _rem_rules(self) -> list[str | list[str]]:
        """What logs explain, they explain; a register that moved by itself has its value, and one that did not is zero."""
        rules: list[str | list[str]] = ["zero"] * REMS
        for number, value in enumerate(self._values):
            if number in self._rems:
                rules[number] = "log"
            elif any(value):
                rules[number] = [value.hex()]
        return rules

    def _judge(self) -> RuntimeOpinion:
        workload = parse_workload(
            {
                "name": "reference-boot",
                "images": [{"role": role, "images": [_NO_IMAGE]} for role in ("kernel", "device-tree")],
                "memory": {"base": 0, "size": {"min": 0, "max": 0}},
                "realm": {"rems": self._rem_rules()},
                "runtime": self._table(),
            }
        )
        logs = RuntimeLogs(tuple(log for _, log in self._boot.logs))
        claims = _claims(self._boot.algorithm, self._values)
        return judge_runtime(claims, workload, logs, self._images, self._reader, self._limits, loaded=self._boot.loaded)

    def _lesson(self, event: ClassifiedEvent, opinion: RuntimeOpinion) -> Lesson:
        place = _key(event.logged)
        refusal = next((finding for finding in errors_of(opinion.findings) if _place(finding) == place), None)
        if refusal is not None:
            return Lesson(event.logged, event.what, None, event.kind, event.image, _advice(event, refusal, self._boot.algorithm))
        key = self._keys.get(place)
        if key is None:
            key = "command_line" if self._draft.command_lines or self._choices.parameters else "the UKI's own command line"
        return Lesson(event.logged, event.what, key, event.kind, event.image)


LoggedEventKey = tuple[str, int]


def _key(event: LoggedEvent) -> LoggedEventKey:
    return event.label.value, event.event.number


def _place(finding: Finding) -> LoggedEventKey | None:
    log, number = finding.where.get("log"), finding.where.get("event")
    return (log, number) if isinstance(log, str) and isinstance(number, int) else None


def _encodings(text: str) -> tuple[bytes, ...]:
    encoded = load_options(text)
    return encoded, encoded[:-2]


def _mapped(rule: LogRule, log: RuntimeLog) -> EventLog:
    if log.log is None:
        problem = log.problem or Finding("rem.not-judged", f"the {log.label} log could not be read")
        raise MalformedEvidence(problem.id, problem.message, expected=problem.expected, seen=problem.seen)
    mapped = in_rems(log.log, rule)
    if mapped is None:
        message = f"the {log.label} log counts {log.log.registers} registers: say how they went to REMs (--mapping uefi, say)"
        raise MalformedEvidence("rem.numbering", message, expected="a pcr_mapping", seen=log.label.value)
    into_rim = next((event for event in mapped.events if event.measured and event.register == 0), None)
    if into_rim is not None and rule.pcr_mapping is PcrMapping.UEFI:
        message = (
            f"event {into_rim.number} of the {log.label} log, {into_rim.type_name}, would be measured into the RIM, as UEFI says of PCR 0"
        )
        remedy = "only the RMM extends that. EDK2 for Arm CCA takes REM0 for PCR 0: try --mapping uefi-rim-to-rem0"
        raise MalformedEvidence(
            "rem.register", f"{message}; {remedy}", expected=PcrMapping.UEFI_RIM_TO_REM0.value, seen=rule.pcr_mapping.value
        )
    return mapped


def _replay(logs: Sequence[EventLog], boot: Boot, *, unlogged: bool) -> RemReplay:
    """Return the replay that gives the signed REMs, if those are known. ``unlogged``: a register without any event may have any value."""
    candidates = rem_candidates(logs, boot.algorithm)
    if not any(candidates[0].events):
        raise MalformedEvidence("rem.unexplained", "the logs have no measured event: there is nothing to learn")
    if boot.signed is None:
        return candidates[0]
    for candidate in candidates:
        compared = [rem for rem in range(REMS) if candidate.events[rem] or not unlogged]
        if all(hmac.compare_digest(candidate.values[rem], boot.signed[rem]) for rem in compared):
            return candidate
    replayed = candidates[0]
    wrong = [rem for rem in range(REMS) if replayed.values[rem] != boot.signed[rem]]
    rem = next((rem for rem in wrong if replayed.events[rem]), wrong[0])
    if not replayed.events[rem]:
        message = (
            f"the signed REM{rem} moved, and no log has an event for it: a log is missing, or --accept-unknown takes the value as it is"
        )
        raise MalformedEvidence("rem.unexplained", message, expected="a log", seen=boot.signed[rem].hex())
    message = (
        f"the logs do not replay to the signed REM{rem} ({replayed.events[rem]} events): they are not the logs of this boot, or not all"
    )
    raise MalformedEvidence("rem.replay", message, expected=boot.signed[rem].hex(), seen=replayed.values[rem].hex())


def _claims(algorithm: HashAlgorithm, values: RemValues) -> RealmClaims:
    """Claims of a realm that measured these values, for the judge; nothing else of them is looked at."""
    return RealmClaims(
        profile=None,
        challenge=bytes(64),
        instance_id=None,
        personalization_value=bytes(64),
        hash_algorithm=algorithm,
        public_key=b"",
        public_key_hash_algorithm=algorithm,
        initial_measurement=bytes(algorithm.digest_size),
        extensible_measurements=values,
        memory_encryption=None,
        lfa=None,
    )


_ADVICE = {
    "pe-image": "register the EFI program, or give its file with --image",
    "file": "give the file with --image boot-file=FILE",
    "initrd": "give the initrd with --image initrd=FILE; for a UKI give the UKI",
    "load-options": "give the kernel's command line with --command-line",
    "command-line": "give the command line's file with --image boot-file=FILE",
    "section": "give the UKI with --image",
    "firmware": "give the firmware with --image",
    "acpi": "give the blob with --image acpi=FILE, or leave ACPI to the firmware",
    "device-tree": "give the tree that the VM was started with by --device-tree",
}
_NAME_IT = "or name the digest with --accept-unknown, if you know what it is"


def _advice(event: ClassifiedEvent, refusal: Finding, algorithm: HashAlgorithm) -> str:
    """What would let the event in, by what refused it and by the event's own words."""
    if event.meanings and {meaning.kind for meaning in event.meanings} == {Meaning.ERROR_SEPARATOR}:
        return "the firmware met an error: this is no boot to learn from"
    if refusal.id == "rem.image-revoked":
        return "the image is revoked, and never matches again"
    if refusal.id == "rem.image-unexpected":
        return "the image is not registered for a role in which this is measured into this register"
    if refusal.id != "rem.event-unknown":
        return f"{refusal.message.partition(': ')[2] or refusal.message}; {_NAME_IT}"
    material = rederive(event.logged.event, algorithm).material
    return f"{_ADVICE.get(material.value if material else '', 'nobody here can say what was hashed')}; {_NAME_IT}"
