"""Whether the rules of a workload let in what hashed bytes can mean.

One small function for each meaning. An objection says what was expected and seen; None lets the meaning in. What a key of the ``runtime``
table does not mention is refused.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from kbs_rim.appraisal.bootargs import judge_bootargs, matches_pattern
from kbs_rim.appraisal.event_meaning import EventMeaning, Meaning, ima_entry
from kbs_rim.appraisal.runtime_logs import LoggedEvent
from kbs_rim.appraisal.runtime_workload import ImaRules, RuntimeRules
from kbs_rim.evidence.aael import parse_aael_line
from kbs_rim.evidence.event_log import ImaTemplate, OpaqueContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.printable import printable
from kbs_rim.evidence.tcg_structures import parse_tagged_event

_BOOT_IMAGE = "BOOT_IMAGE="
_FILES_READ = ("initrd=", "dtb=")
"""What makes Linux's EFI stub read files from the disk that it was started from (drivers/firmware/efi/libstub)."""
_OWNER_SIZE = 16
"""EFI_SIGNATURE_DATA begins with the GUID of whoever enrolled the certificate."""
_AGGREGATE = b"boot_aggregate"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why something is refused, as finding id, message, and what was expected and seen."""

    finding: str
    message: str
    expected: str | None = None
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class ImaFiles:
    """Patterns of paths by the digest in hex that the file must have, and those of files with any contents."""

    by_digest: Mapping[str, tuple[str, ...]]
    any_contents: tuple[str, ...]

    @classmethod
    def of(cls, rules: ImaRules | None) -> "ImaFiles":
        """Index the rules: a list of files has thousands of entries, and so may the rules."""
        found: dict[str, tuple[str, ...]] = {}
        for file in rules.files if rules else ():
            for digest in file.digests:
                found[digest] = (*found.get(digest, ()), file.path)
        return cls(found, tuple(file.path for file in rules.files if not file.digests) if rules else ())

    def let_in(self, path: str, digest: bytes) -> bool:
        """Whether a file with this path and digest is listed."""
        return any(matches_pattern(pattern, path) for pattern in (*self.by_digest.get(digest.hex(), ()), *self.any_contents))


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rules, and the command lines that come with images which these rules let in (UKIs and their addons)."""

    rules: RuntimeRules
    ima: ImaFiles
    own_command_lines: Collection[str] = ()


def object_to(meaning: EventMeaning, event: LoggedEvent, allowance: Allowance) -> Objection | None:
    """Return why the workload refuses bytes with this meaning in this register, or None."""
    return _JUDGES[meaning.kind](meaning, event, allowance)


def object_to_load_options(text: str, allowance: Allowance) -> Objection | None:
    """Judge the command line that a kernel took from its load options. GRUB puts BOOT_IMAGE= in front, which no kernel obeys."""
    if text in allowance.own_command_lines:
        return None
    for file in _FILES_READ:
        if file in text and not _written_out(file, allowance.rules):
            return Objection(
                "rem.command-line", "the kernel was told to read a file, which it does not measure", f"no {file}", _shown(text)
            )
    objection = _command_line(text, allowance.rules)
    first, _, rest = text.partition(" ")
    if objection is not None and first.startswith(_BOOT_IMAGE) and '"' not in first and _command_line(rest, allowance.rules) is None:
        return None
    return objection


def _written_out(parameter: str, rules: RuntimeRules) -> bool:
    """Whether the workload writes the parameter out: Linux's EFI stub finds it inside of other parameters too, where a star may stand."""
    line = rules.command_line
    return line is not None and any(parameter in text for text in (*line.exact, *line.required, *line.allowed))


def _command_line(text: str, rules: RuntimeRules) -> Objection | None:
    if rules.command_line is None:
        return Objection("rem.command-line", "the workload has no rules for command lines", seen=_shown(text))
    first = next(judge_bootargs(text, rules.command_line), None)
    return None if first is None else Objection("rem.command-line", first.message, first.expected, first.seen)


def _good(_: EventMeaning, __: LoggedEvent, ___: Allowance) -> None:
    return None


def _error_separator(_: EventMeaning, __: LoggedEvent, ___: Allowance) -> Objection:
    return Objection("rem.event-refused", "the firmware measured that it met an error", "a separator", "that of an error")


def _version(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return _patterns(meaning, allowance.rules.firmware_versions, "firmware_versions")


def _action(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return _patterns(meaning, allowance.rules.actions, "actions")


def _boot_text(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return _patterns(meaning, allowance.rules.grub_commands, "grub_commands")


def _patterns(meaning: EventMeaning, patterns: tuple[str, ...], key: str) -> Objection | None:
    if any(matches_pattern(pattern, meaning.text) for pattern in patterns):
        return None
    return Objection("rem.event-refused", f"runtime.{key} does not let in the {meaning.kind}", seen=_shown(meaning.text))


def _kernel_text(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    """GRUB measures the file's name in front of the parameters; the same text as a command is judged alike."""
    return _command_line(meaning.text.partition(" ")[2].lstrip(" "), allowance.rules)


def _load_options(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return object_to_load_options(meaning.text, allowance)


def _secure_boot_variable(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    rules = allowance.rules.secure_boot
    if meaning.text != "SecureBoot":
        allowed = {"PK": rules.pk, "KEK": rules.kek, "db": rules.db, "dbx": rules.dbx}[meaning.text]
        return _contents(meaning, allowed, "rem.secure-boot", f"secure_boot.{meaning.text.lower()}")
    state = {b"\x01": "on", b"\0": "off", b"": "off"}.get(meaning.data)
    if state is None or rules.state not in ("any", state):
        return Objection("rem.secure-boot", "Secure Boot is in another state", rules.state, state or _shown(meaning.data.hex()))
    return None


def _variable(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    allowed = allowance.rules.secure_boot.authorities
    objection = _contents(meaning, allowed, "rem.authority", "secure_boot.authorities")
    if objection is not None and isinstance(allowed, tuple) and _sha256(meaning.data[_OWNER_SIZE:]) in allowed:
        return None
    return objection


def _boot_variable(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return _contents(meaning, allowance.rules.boot_variables, "rem.event-refused", "boot_variables")


def _partition_table(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    return _contents(meaning, allowance.rules.partition_tables, "rem.event-refused", "partition_tables")


def _contents(meaning: EventMeaning, allowed: str | tuple[str, ...], finding: str, key: str) -> Objection | None:
    digest = _sha256(meaning.data)
    if allowed == "any" or (isinstance(allowed, tuple) and digest in allowed):
        return None
    message = f"runtime.{key} does not let in the {meaning.kind} {printable(meaning.text)}".rstrip()
    expected = f"one of {len(allowed)} digests" if isinstance(allowed, tuple) else "none"
    return Objection(finding, message, expected, f"contents with SHA-256 {digest}")


def _agent_event(meaning: EventMeaning, _: LoggedEvent, allowance: Allowance) -> Objection | None:
    line = parse_aael_line(parse_tagged_event(meaning.data).data)
    for rule in allowance.rules.aael:
        pairs = ((rule.domain, line.domain), (rule.operation, line.operation), (rule.content, line.content))
        if all(matches_pattern(pattern, text) for pattern, text in pairs):
            return None
    return Objection("rem.event-refused", "runtime.aael does not let in the agent's event", seen=_shown(meaning.text))


def _ima_entry(meaning: EventMeaning, event: LoggedEvent, allowance: Allowance) -> Objection | None:
    rules, content = allowance.rules.ima, event.event.content
    entry = ima_entry(content) if isinstance(content, ImaTemplate) else None
    if rules is None or entry is None:
        return Objection("rem.ima", "the workload has no rules for what IMA measures", seen=_shown(meaning.text))
    if rules.mode == "any" or (entry.path == _AGGREGATE and rules.boot_aggregate):
        return None
    if allowance.ima.let_in(meaning.text, entry.digest):
        return None
    return Objection("rem.ima", "IMA measured a file that the workload does not list", seen=f"{_shown(meaning.text)} {entry.digest.hex()}")


def _ima_violation(_: EventMeaning, __: LoggedEvent, allowance: Allowance) -> Objection | None:
    rules: ImaRules | None = allowance.rules.ima
    if rules is not None and rules.violations:
        return None
    return Objection("rem.ima", "a file was open for writing while IMA measured it: what was used is unknown")


def _cel_content(meaning: EventMeaning, event: LoggedEvent, allowance: Allowance) -> Objection | None:
    content = event.event.content
    kind = content.type if isinstance(content, OpaqueContent) else None
    digest = _sha256(meaning.data)
    if any(rule.rem == event.rem and rule.type == kind and digest in rule.contents for rule in allowance.rules.cel):
        return None
    return Objection("rem.event-refused", f"runtime.cel does not let in a content of type {kind}", seen=f"SHA-256 {digest}")


def _sha256(data: bytes) -> str:
    return HashAlgorithm.SHA256.digest(data).hex()


def _shown(text: str) -> str:
    return printable(text, 400)


_Judge = Callable[[EventMeaning, LoggedEvent, Allowance], Objection | None]
_JUDGES: Mapping[Meaning, _Judge] = {
    Meaning.SEPARATOR: _good,
    Meaning.ERROR_SEPARATOR: _error_separator,
    Meaning.FIRMWARE_VERSION: _version,
    Meaning.SECURE_BOOT_VARIABLE: _secure_boot_variable,
    Meaning.VARIABLE: _variable,
    Meaning.BOOT_ORDER: _boot_variable,
    Meaning.BOOT_OPTION: _boot_variable,
    Meaning.PARTITION_TABLE: _partition_table,
    Meaning.ACTION: _action,
    Meaning.BOOT_TEXT: _boot_text,
    Meaning.KERNEL_TEXT: _kernel_text,
    Meaning.LOAD_OPTIONS: _load_options,
    Meaning.SECTION_NAME: _good,
    Meaning.MOK_LIST_TRUSTED: _good,
    Meaning.AGENT_EVENT: _agent_event,
    Meaning.IMA_ENTRY: _ima_entry,
    Meaning.IMA_VIOLATION: _ima_violation,
    Meaning.CEL_CONTENT: _cel_content,
}
