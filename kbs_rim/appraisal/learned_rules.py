"""What the events of one trusted boot say in the words of a ``runtime`` table, as tight as the table can put it.

A digest that the table can only name, and a text with a star, which as a pattern would let in more than itself, become digests. What nobody
can put a name to is left to whoever calls (``reference_boot``). Labels of events are believed here and nowhere else: the log is trusted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal.event_classes import fitting_roles
from kbs_rim.appraisal.event_meaning import BINDING, EventMeaning, Meaning, ima_entry
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.measured_images import WHOLE, KnownDigest, MeasuredImages
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.runtime_logs import LoggedEvent
from kbs_rim.evidence.aael import parse_aael_line
from kbs_rim.evidence.event_digest import Material, rederive
from kbs_rim.evidence.event_log import ImaTemplate, OpaqueContent, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.printable import printable
from kbs_rim.evidence.tcg_structures import parse_tagged_event

LOOSE_KEYS = ("boot-variables", "partition-tables", "authorities", "ima")
"""Keys that may be learnt as ``"any"``: what well-formed things of these kinds say is then not looked at."""
_MOST_TEXTS, _LINE_LENGTH = 256, 1024
"""Of each list of texts in the table, and of each text; what is more becomes a digest."""
_SHORT = 16
"""A variable with fewer bytes than these is named by the whole event: such contents could be another variable's as well."""
_TYPE_LENGTH, _COMMENT_LENGTH = 64, 200
_CONSTANT = frozenset({Meaning.SEPARATOR, Meaning.SECTION_NAME, Meaning.MOK_LIST_TRUSTED})
_MODULE = b"module_cmdline: "
_BOOT_IMAGE = "BOOT_IMAGE="
_ROLE_OF_MATERIAL = {
    Material.INITRD: Role.INITRD,
    Material.FIRMWARE: Role.FIRMWARE,
    Material.DEVICE_TREE: Role.DEVICE_TREE,
    Material.ACPI: Role.ACPI,
}


@dataclass(slots=True)
class RuleDraft:
    """A ``runtime`` table while it grows. ``images`` are ids by role, ``optional`` the roles that need not appear, ``either`` those of
    which one image is enough; the other members are keys of the table.
    """

    loose: frozenset[str] = frozenset()
    images: dict[Role, list[RegisteredImage]] = field(default_factory=dict)
    optional: set[Role] = field(default_factory=set)
    either: set[Role] = field(default_factory=set)
    command_lines: list[str] = field(default_factory=list)
    grub_commands: list[str] = field(default_factory=list)
    firmware_versions: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    boot_variables: list[str] = field(default_factory=list)
    partition_tables: list[str] = field(default_factory=list)
    authorities: list[str] = field(default_factory=list)
    secure_boot: dict[str, list[str]] = field(default_factory=dict)
    separators: list[int] = field(default_factory=list)
    aael: list[dict[str, str]] = field(default_factory=list)
    ima_files: dict[str, list[str]] = field(default_factory=dict)
    ima_aggregate: bool = False
    cel: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    digests: list[dict[str, Any]] = field(default_factory=list)

    def name_digest(self, event: LoggedEvent, comment: str) -> str:
        """Let this one digest in, in this one register, and require it."""
        named = {
            "rem": event.rem,
            "digest": event.digest.hex(),
            "type": printable(event.event.type_name, _TYPE_LENGTH).encode("ascii", "replace").decode(),
            "comment": printable(comment, _COMMENT_LENGTH),
            "required": True,
        }
        if all((rule["rem"], rule["digest"]) != (event.rem, named["digest"]) for rule in self.digests):
            self.digests.append(named)
        return "digests"

    def learn_image(self, event: LoggedEvent, images: MeasuredImages, algorithm: HashAlgorithm) -> tuple[str, KnownDigest] | None:
        """Let the image in that the digest is of, if there is one that may be measured here; return the key and what it is."""
        known = [item for item in images.known(algorithm, event.digest) if item.image.state is not ImageState.REVOKED]
        found = [(item, role) for item in known for role in fitting_roles(item, event.rem)]
        if not found:
            return None
        hint = _ROLE_OF_MATERIAL.get(rederive(event.event, algorithm).material or Material.PE_IMAGE)
        item, role = max(found, key=lambda pair: (self._has(pair[0].image), self._has(pair[0].image, pair[1]), pair[1] is hint))
        chosen = self.images.setdefault(role, [])
        if not self._has(item.image, role):
            chosen.append(item.image)
        return f"images, {role}", item

    def table(self, logs: Sequence[Mapping[str, Any]], command_line: Mapping[str, Any]) -> dict[str, Any]:
        """Return the table. ``command_line`` has parameters instead of the exact lines that were seen, if it is not empty."""
        table: dict[str, Any] = {"logs": list(logs)}
        if self.images:
            table["images"] = [self._image_rule(role) for role in Role if role in self.images]
        if command_line:
            table["command_line"] = dict(command_line)
        elif self.command_lines:
            table["command_line"] = {"exact": self.command_lines}
        table["secure_boot"] = self._secure_boot()
        for key in ("grub_commands", "firmware_versions", "actions"):
            table[key] = getattr(self, key)
        for key, found in (("boot-variables", self.boot_variables), ("partition-tables", self.partition_tables)):
            table[key.replace("-", "_")] = self._contents(key, found)
        table["separators"] = sorted(self.separators)
        table["aael"] = self.aael
        table["ima"] = self._ima()
        table["cel"] = [{"rem": rem, "type": kind, "contents": found} for (rem, kind), found in sorted(self.cel.items())]
        table["digests"] = self.digests
        return {key: value for key, value in table.items() if key == "actions" or value not in ([], None)}

    def _image_rule(self, role: Role) -> dict[str, Any]:
        """Return the rule; of several images each is required, because each was measured in this one boot."""
        rule: dict[str, Any] = {"role": role.value, "images": [image.id for image in self.images[role]]}
        if role in self.optional:
            return {**rule, "required": False}
        return {**rule, "required": "each"} if len(self.images[role]) > 1 and role not in self.either else rule

    def require_less(self, missing: Finding) -> bool:
        """Do not require what was measured too late to have started the realm; return whether that is what ``missing`` is about."""
        if missing.id == "rem.image-missing":
            role = next((role for role in self.images if role.value == missing.where.get("role")), None)
            if role is None or role in self.optional:
                return False
            several = len(self.images[role]) > 1 and role not in self.either
            (self.either if several else self.optional).add(role)
            return True
        for rule in self.digests:
            if missing.id == "rem.event-missing" and (rule["rem"], rule["digest"]) == (missing.where.get("rem"), missing.expected):
                done, rule["required"] = rule["required"], False
                return bool(done)
        return False

    def _contents(self, key: str, found: list[str]) -> str | list[str]:
        return ("any" if key in self.loose else found) if found else "refuse"

    def _secure_boot(self) -> dict[str, Any]:
        """What was measured is required as it was; a variable that was not is refused."""
        states = self.secure_boot.get("state", [])
        found: dict[str, Any] = {"state": states[0] if len(states) == 1 else "any"}
        for key in ("pk", "kek", "db", "dbx"):
            found[key] = self.secure_boot.get(key, "refuse")
        return {**found, "authorities": self._contents("authorities", self.authorities)}

    def _ima(self) -> dict[str, Any] | None:
        if not self.ima_files and not self.ima_aggregate:
            return None
        if "ima" in self.loose:
            return {"mode": "any", "boot_aggregate": self.ima_aggregate}
        files = [{"path": path, "digests": found} for path, found in self.ima_files.items()]
        return {"files": files, "boot_aggregate": self.ima_aggregate}

    def _has(self, image: RegisteredImage, role: Role | None = None) -> bool:
        roles = self.images if role is None else (role,)
        return any(image.id == other.id for one in roles for other in self.images.get(one, ()))

    def learn_meaning(self, event: LoggedEvent, meanings: Sequence[EventMeaning]) -> str | None:
        """Let in what the bytes mean: every meaning that could refuse them, and one of the others. Return the keys, None if none can."""
        binding = [meaning for meaning in meanings if meaning.kind in BINDING]
        others = sorted((meaning for meaning in meanings if meaning.kind not in BINDING), key=lambda item: item.kind not in _CONSTANT)
        keys = [_LEARNERS[meaning.kind](self, meaning, event) for meaning in binding]
        if not binding:
            keys.append(next((key for meaning in others if (key := _LEARNERS[meaning.kind](self, meaning, event)) is not None), None))
        return None if None in keys else ", ".join(dict.fromkeys(str(key) for key in keys))


def whole_images_first(events: Sequence[LoggedEvent], images: MeasuredImages, algorithm: HashAlgorithm) -> list[LoggedEvent]:
    """Return the events in the order in which images are learnt: a section may be that of several UKIs, a whole image is one."""
    return sorted(events, key=lambda event: not any(item.kind in WHOLE for item in images.known(algorithm, event.digest)))


# --- one learner for each meaning -------------------------------------------------------------------------------------


def _add(known: list[str], value: str) -> None:
    if value not in known:
        known.append(value)


def _is_exact(text: str) -> bool:
    """Whether a pattern can be made of ``text`` that lets in nothing else."""
    return "*" not in text and text.isascii() and len(text) <= _LINE_LENGTH and (text.isprintable() or not text)


def _sha256(data: bytes) -> str:
    return HashAlgorithm.SHA256.digest(data).hex()


def _separator(draft: RuleDraft, _: EventMeaning, event: LoggedEvent) -> str:
    if event.rem not in draft.separators:
        draft.separators.append(event.rem)
    return "separators"


def _nothing(_: RuleDraft, __: EventMeaning, ___: LoggedEvent) -> str:
    return "always good"


def _never(_: RuleDraft, __: EventMeaning, ___: LoggedEvent) -> None:
    return None


def _text(key: str) -> "_Learner":
    """A learner of whole texts, for a key that has patterns."""

    def learn(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str:
        known: list[str] = getattr(draft, key)
        if not _is_exact(meaning.text) or (len(known) >= _MOST_TEXTS and meaning.text not in known):
            return draft.name_digest(event, str(meaning))
        _add(known, meaning.text)
        return key

    return learn


def _version(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str | None:
    """Two bytes of zeros are an empty version and a boot order as well; here the event's own words decide."""
    return _text("firmware_versions")(draft, meaning, event) if "CRTM" in event.event.type_name else None


def _kernel_text(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str:
    """What GRUB gives to modules must not become a command line that a kernel may have."""
    content = event.event.content
    if isinstance(content, TcgContent) and content.data.startswith(_MODULE):
        return draft.name_digest(event, f"module, {meaning.text}")
    _add(draft.command_lines, meaning.text.partition(" ")[2].lstrip(" "))
    return "command_line"


def _load_options(draft: RuleDraft, meaning: EventMeaning, _: LoggedEvent) -> str:
    _add(draft.command_lines, without_boot_image(meaning.text))
    return "command_line"


def without_boot_image(text: str) -> str:
    """Return a command line without the parameter BOOT_IMAGE= that GRUB puts in front, as it is judged."""
    first, _, rest = text.partition(" ")
    return rest if first.startswith(_BOOT_IMAGE) and '"' not in first else text


def _secure_boot_variable(draft: RuleDraft, meaning: EventMeaning, _: LoggedEvent) -> str:
    if meaning.text == "SecureBoot":
        _add(draft.secure_boot.setdefault("state", []), {b"\x01": "on", b"\0": "off", b"": "off"}.get(meaning.data, "any"))
        return "secure_boot.state"
    key = meaning.text.lower()
    _add(draft.secure_boot.setdefault(key, []), _sha256(meaning.data))
    return f"secure_boot.{key}"


def _variable(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str:
    if len(meaning.data) < _SHORT:
        return draft.name_digest(event, f"variable {meaning.text}")
    _add(draft.authorities, _sha256(meaning.data))
    return "secure_boot.authorities"


def _boot_variable(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str | None:
    if "CRTM" in event.event.type_name:
        return None
    _add(draft.boot_variables, _sha256(meaning.data))
    return "boot_variables"


def _partition_table(draft: RuleDraft, meaning: EventMeaning, _: LoggedEvent) -> str:
    _add(draft.partition_tables, _sha256(meaning.data))
    return "partition_tables"


def _agent_event(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str:
    line = parse_aael_line(parse_tagged_event(meaning.data).data)
    rule = {"domain": line.domain, "operation": line.operation, "content": line.content}
    if not all(map(_is_exact, rule.values())) or (len(draft.aael) >= _MOST_TEXTS and rule not in draft.aael):
        return draft.name_digest(event, str(meaning))
    if rule not in draft.aael:
        draft.aael.append(rule)
    return "aael"


def _ima_entry(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str:
    content = event.event.content
    entry = ima_entry(content) if isinstance(content, ImaTemplate) else None
    if entry is not None and entry.path == b"boot_aggregate":
        draft.ima_aggregate = True
        return "ima.boot_aggregate"
    if entry is None or not entry.digest or not _is_exact(meaning.text):
        return draft.name_digest(event, str(meaning))
    _add(draft.ima_files.setdefault(meaning.text, []), entry.digest.hex())
    return "ima.files"


def _cel_content(draft: RuleDraft, meaning: EventMeaning, event: LoggedEvent) -> str | None:
    content = event.event.content
    if not isinstance(content, OpaqueContent):
        return None
    _add(draft.cel.setdefault((event.rem, content.type), []), _sha256(meaning.data))
    return "cel"


_Learner = Callable[[RuleDraft, EventMeaning, LoggedEvent], str | None]
_LEARNERS: Mapping[Meaning, _Learner] = {
    Meaning.SEPARATOR: _separator,
    Meaning.ERROR_SEPARATOR: _never,
    Meaning.FIRMWARE_VERSION: _version,
    Meaning.SECURE_BOOT_VARIABLE: _secure_boot_variable,
    Meaning.VARIABLE: _variable,
    Meaning.BOOT_ORDER: _boot_variable,
    Meaning.BOOT_OPTION: _boot_variable,
    Meaning.PARTITION_TABLE: _partition_table,
    Meaning.ACTION: _text("actions"),
    Meaning.BOOT_TEXT: _text("grub_commands"),
    Meaning.KERNEL_TEXT: _kernel_text,
    Meaning.LOAD_OPTIONS: _load_options,
    Meaning.SECTION_NAME: _nothing,
    Meaning.MOK_LIST_TRUSTED: _nothing,
    Meaning.AGENT_EVENT: _agent_event,
    Meaning.IMA_ENTRY: _ima_entry,
    Meaning.IMA_VIOLATION: _never,
    Meaning.CEL_CONTENT: _cel_content,
}
