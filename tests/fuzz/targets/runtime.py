"""What was measured into REMs: any log is classified, no label of an event decides, and any bytes have meanings or none."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace

from kbs_rim.appraisal.event_classes import ClassifiedEvent, EventClass, classify_events
from kbs_rim.appraisal.event_meaning import Meaning, meanings_of
from kbs_rim.appraisal.learned_review import warnings_of
from kbs_rim.appraisal.measured_images import NO_IMAGES
from kbs_rim.appraisal.reference_boot import Boot, Choices, learn
from kbs_rim.appraisal.runtime_logs import EventReader, LoggedEvent, in_rems, read_runtime_logs
from kbs_rim.appraisal.runtime_workload import LogRule, PcrMapping, RuntimeRules
from kbs_rim.cli.toml_text import to_toml
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.event_log import EventLog, MeasuredEvent, RegisterKind, TcgContent
from kbs_rim.evidence.event_preimage import preimage_of
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import LABELS, label_of
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import Limits
from tests import log_forge as forge
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.vectors import files

_LABELS = [label for label in LABELS if label.registers is not RegisterKind.RIM]
_LIMITS = Limits(runtime_events=200)
_SHA256 = HashAlgorithm.SHA256
_OPEN = RuntimeRules.model_validate({
    "logs": [{"kind": label} for label in dict.fromkeys(label.format for label in _LABELS)],
    "command_line": {"allowed": ["*", "root=*"]},
    "grub_commands": ["*", "set *", "* * *"],
    "secure_boot": {"authorities": "any"},
    "firmware_versions": ["*"],
    "boot_variables": "any",
    "partition_tables": "any",
    "aael": [{"domain": "*", "operation": "*", "content": "*"}],
    "ima": {"mode": "any"},
})  # fmt: skip
_CLOSED = RuntimeRules.model_validate({"logs": [{"kind": "cc"}], "actions": []})
_BAD = frozenset({EventClass.REFUSED, EventClass.UNKNOWN})


def check_runtime_log(data: bytes) -> object:
    """The first byte is the label. Every event gets a class, the same under any type; closed rules let less in than open ones."""
    label = _LABELS[data[0] % len(_LABELS) if data else 0]
    [read] = read_runtime_logs(Evidence(b"token", [(label, data[1:])]), [_OPEN], _LIMITS).logs
    if read.log is None:
        require(read.problem is not None, "a log that cannot be read leaves a finding")
        return read.problem.id
    mapped = in_rems(read.log, LogRule(kind=label.format, pcr_mapping=PcrMapping.UEFI))
    require(mapped is not None and mapped.registers is RegisterKind.MR, "a mapped log counts measurement registers")
    whole = replace(mapped, events=tuple(event for event in mapped.events if _SHA256.tpm_id in event.digests))
    found = _classified(whole, _OPEN)
    for one, two in zip(found, _classified(_relabelled(whole), _OPEN), strict=True):
        require(one.kind is two.kind, "the type of an event decides nothing")
    for one, two in zip(found, _classified(whole, _CLOSED), strict=True):
        require(one.kind not in _BAD or two.kind in _BAD, "closed rules let nothing in that open ones refuse")
    return Judged(str(sorted({event.kind for event in found})), [(event.kind, event.what) for event in found])


def _classified(log: EventLog, rules: RuntimeRules) -> tuple[ClassifiedEvent, ...]:
    events = EventReader(_SHA256).events(log, label_of(LogKind.CC), range(4))
    found = classify_events(events, rules, NO_IMAGES, _SHA256, _LIMITS)
    for event in found:
        require_presentable(event.what)
        require((event.objection is not None) == (event.kind is EventClass.REFUSED), "what is refused says why")
    return found


def _relabelled(log: EventLog) -> EventLog:
    def other(event: MeasuredEvent) -> MeasuredEvent:
        content = event.content
        return replace(event, content=replace(content, type=content.type ^ 0x5)) if isinstance(content, TcgContent) else event

    return replace(log, events=tuple(map(other, log.events)))


def check_event_meaning(data: bytes) -> object:
    """The first byte is the REM, the rest was hashed. What bytes mean can be shown, and readers that must differ do."""
    rem, hashed = (data[0] if data else 0) % 4, data[1:]
    event = MeasuredEvent(
        0, rem + 1, RegisterKind.MR, "EV_IPL", {_SHA256.tpm_id: _SHA256.digest(hashed)}, TcgContent(forge.IPL, hashed), measured=True
    )
    require(preimage_of(event, _SHA256) == hashed, "the bytes themselves are tried")
    found = meanings_of(LoggedEvent(label_of(LogKind.CC), rem, event, _SHA256.digest(hashed), hashed))
    kinds = [meaning.kind for meaning in found]
    for meaning in found:
        require_presentable(str(meaning))
    require(len(set(kinds)) == len(kinds), "each reader gives one meaning")
    require(len(hashed) == 2 or not {Meaning.KERNEL_TEXT, Meaning.LOAD_OPTIONS} <= set(kinds), "text of 8 and of 16 bits are kept apart")
    require(not {Meaning.BOOT_OPTION, Meaning.SECURE_BOOT_VARIABLE} <= set(kinds), "a variable of Secure Boot is no boot option")
    require(not {Meaning.BOOT_ORDER, Meaning.SECURE_BOOT_VARIABLE} <= set(kinds), "a variable of Secure Boot is no boot order")
    return Judged(str(sorted(kinds)), found)


def check_learning(data: bytes) -> object:
    """The first byte is the label. Rules that are learnt of any log let that log in, under the judge, or it cannot be learnt."""
    label = _LABELS[data[0] % len(_LABELS) if data else 0]
    [read] = read_runtime_logs(Evidence(b"token", [(label, data[1:])]), [_OPEN], _LIMITS).logs
    boot = Boot(logs=[(LogRule(kind=label.format, pcr_mapping=PcrMapping.UEFI_RIM_TO_REM0), read)], algorithm=_SHA256)
    learned = learn(boot, limits=_LIMITS)
    for lesson in learned.lessons:
        require_presentable(lesson.what)
        require_presentable(lesson.advice)
    for warning in warnings_of(learned):
        require_presentable(warning)
    require(learned.complete == (not learned.unexplained and not learned.problems), "what is missing is said")
    accepted = learn(boot, Choices(accept_unknown=True), _LIMITS)
    require(accepted.complete, "whatever was measured can be let in by its digest")
    require(tomllib.loads(to_toml({"runtime": accepted.table}))["runtime"] == accepted.table, "rules can be written and read")
    return Judged(str(sorted({lesson.key or "" for lesson in learned.lessons})), learned.table)


def log_seeds() -> Iterable[bytes]:
    """Small real logs, and synthetic ones of each kind."""
    names = [label.value for label in _LABELS]
    records: list[forge.Record] = [
        (0, 1, {forge.SHA256: forge.digest_of(forge.SHA256, b"data")}, (5, (forge.IPL, b"grub_cmd: data"))),
        (1, 3, {forge.SHA256: forge.digest_of(forge.SHA256, b"data")}, (80, b"data")),
        (2, 3, {forge.SHA256: forge.digest_of(forge.SHA256, forge.ima_ng(b"/x"))}, (7, ("ima-ng", forge.ima_ng(b"/x")))),
    ]
    events = [(3, forge.IPL, b"kernel_cmdline: /k root=/dev/vda\0", b"/k root=/dev/vda"), (1, forge.SEPARATOR, bytes(4), None)]
    yield bytes([names.index("cc")]) + forge.tcg_log(forge.SHA256, *events)
    for written, name in ((forge.cel_tlv, "cel-tlv.mr"), (forge.cel_cbor, "cel-cbor.mr"), (forge.cel_json, "cel-json.pcr")):
        yield bytes([names.index(name)]) + written(records)
    yield bytes([names.index("aael")]) + forge.aael_record(b"a b c", forge.SHA256)
    yield bytes([names.index("ima")]) + forge.ima_record(b"ima-ng", forge.ima_ng(b"/bin/sh"))
    for data in files("images/measured-boot/*/log.bin"):
        if len(data) < 12_000:
            yield bytes([names.index("tpm")]) + data


def meaning_seeds() -> Iterable[bytes]:
    """One of each meaning."""
    secure = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c") + b"\x0a" + bytes(7) + b"\x01" + bytes(7)
    option = b"\1\0\0\0\4\0" + "disk\0".encode("utf-16-le") + b"\x7f\xff\4\0"
    yield from (b"\0" + data for data in (bytes(4), b"2026.08\0", "2026\0".encode("utf-16-le"), b"\0\0\1\0", option))
    yield b"\0" + secure + "SecureBoot".encode("utf-16-le") + b"\1"
    yield b"\1" + b"Exit Boot Services Invocation"
    yield from (b"\2" + data for data in (b"set root=hd0", b"/vmlinuz quiet", "quiet\0".encode("utf-16-le"), b".linux\0", b"\1"))
    yield b"\3" + forge.tagged(0x4141454C, b"domain operation content")


TARGETS = (
    Target(name="runtime_log", check=check_runtime_log, seeds=log_seeds, max_bytes=16 * 1024, cpu_ms=300, cpu_ms_per_kib=60),
    Target(
        name="learning",
        check=check_learning,
        seeds=log_seeds,
        refusals=(MalformedEvidence, InvalidDocument),
        max_bytes=16 * 1024,
        cpu_ms=600,
        cpu_ms_per_kib=150,
    ),
    Target(
        name="event_meaning",
        check=check_event_meaning,
        seeds=meaning_seeds,
        max_bytes=8 * 1024,
        words=(b"SecureBoot", b"LEAA", b"EFI PART"),
    ),
)
