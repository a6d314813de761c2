"""Event logs: whole logs of each kind, single records, and VMM logs composed so that the boot plan behind them is reached."""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.definition_rules import Definition
from kbs_rim.appraisal.regenerated_tree import read_regenerated_tree
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_names as names
from kbs_rim.evidence.event_log import event_log_from_tcg
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_events import describe_event
from kbs_rim.evidence.tcg_log import LogKind, TcgEvent, TcgLog, guess_kind, parse_tcg_log, replay_registers
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, boot_plan_from_log, check_vmm_records
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import image_problems, match_rim, replay_rim
from kbs_rim.measurement.rmm import RmmVersion
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.targets.event_logs import attempt, seen_in
from tests.fuzz.vectors import VECTORS, device_trees, files

LIMITS = Limits(ripas_entries=256, plan_granules=256, replay_granules=4096, tree_guesses=4)
"""Small ones: a replay costs what the limits allow, whatever the size of the log, and here it is the parsers that matter."""
DIALECTS = (
    Dialect(RmmVersion.V1_0),
    Dialect(RmmVersion.V2_0),
    Dialect(RmmVersion.V1_0, Rounding.PAGE_64K, Order.RIPAS_LAST),
    Dialect(RmmVersion.V1_0, Rounding.PAGE_16K, Order.RIPAS_LAST_WHOLE),
)
KERNEL = struct.pack("<IIQQQQQQII", 0x91005A4D, 0x14000000, 0, 0x20000, 0xA, 0, 0, 0, 0x644D5241, 64) + bytes(range(256)) * 40


def _images() -> tuple[tuple[Role, bytes], ...]:
    folder = VECTORS / "logs" / "synthetic" / "images"
    return (
        (Role.KERNEL, KERNEL),
        (Role.INITRD, (folder / "initrd.bin").read_bytes()),
        (Role.FIRMWARE, (folder / "firmware.bin").read_bytes()),
        (Role.DEVICE_TREE, device_trees()[-1]),
    )


IMAGES = _images()
REGISTERED = ImageSet(
    RegisteredImage(measured.image_id, role.value, (role,), ImageState.ACTIVE, measured)
    for role, data in IMAGES
    for measured in [measure_image(data)]
)
WORKLOAD = parse_workload(
    {
        "name": "fuzz",
        "images": [
            {"role": role.value, "images": [measure_image(data).image_id], "required": role is not Role.FIRMWARE} for role, data in IMAGES
        ],
        "memory": {"base": 0x40000000, "size": {"min": 0, "max": 1 << 40}},
        "vmm": ["QEMU"],
    }
)


_DEFINED = {"cpus": [1], "ram": [1 << 28], "breakpoints": [2], "watchpoints": [2], "bootargs": ["quiet"], "its": "either"}
DEFINITIONS = (
    Definition(vmm="qemu", device_trees=("generated", "qemu-7.2", "qemu-10.0"), **_DEFINED),
    Definition(vmm="kvmtool", **_DEFINED),
)


# --- whole logs -------------------------------------------------------------------------------------------------------


def check_log(kind: LogKind) -> Callable[[bytes], object]:
    """Return the check for logs of one kind."""

    def check(data: bytes) -> object:
        guess_kind(data)  # promises never to raise, so it comes before anything that may refuse
        if kind is LogKind.TPM:
            return _read(parse_tcg_log(data, kind, allow_legacy=True), data)
        log = parse_tcg_log(data, kind)
        return (_read(log, data), _replayed(log)) if kind is LogKind.VMM else _read(log, data)

    return check


def _read(log: TcgLog, data: bytes) -> object:
    """What stands behind the records is padding and nothing else; every record is described or refused; registers replay."""
    rest = data[log.used_bytes :]
    require(rest == b"" if log.padding is None else bool(rest) and not rest.strip(bytes([log.padding])), "behind the records is padding")
    trimmed = parse_tcg_log(data[: log.used_bytes], log.kind, allow_legacy=log.header is None)
    require((trimmed.events, trimmed.padding) == (log.events, None), "padding changes nothing")
    require([event.number for event in log.events] == list(range(len(log.events))), "records are numbered from 0")
    for event in log.events:
        require(all(len(digest) == log.algorithms[algorithm] for algorithm, digest in event.digests.items()), "digests have their length")
    described = [_described(event, log.kind) for event in log.events]
    explained = None if log.kind is LogKind.VMM else seen_in(event_log_from_tcg(log))
    return log.events, described, attempt(replay_registers, log), explained


def _described(event: TcgEvent, kind: LogKind) -> object:
    try:
        description = describe_event(event, kind)
    except MalformedEvidence as error:
        require_presentable(str(error))
        return error.finding_id
    for text in (description.type_name, description.text, *(field for field in description.fields.values() if isinstance(field, str))):
        require_presentable(text)
    return description


def _replayed(log: TcgLog) -> Judged:
    """A log that gives a plan is replayed and judged; its records check one by one as well."""
    plan = attempt(boot_plan_from_log, log, LIMITS)
    if not isinstance(plan, BootPlan):
        return Judged(str(plan), attempt(check_vmm_records, log, LIMITS))
    check_vmm_records(log, LIMITS)
    problems = image_problems(plan, REGISTERED)
    rims = [attempt(replay_rim, plan, REGISTERED, dialect, LIMITS) for dialect in DIALECTS]
    for dialect, rim in zip(DIALECTS, rims, strict=True):
        if isinstance(rim, bytes):
            require(not problems, "a plan with an unknown image gives no RIM")
            matched = match_rim(plan, REGISTERED, rim, (dialect,), LIMITS)
            require(matched.matched is dialect and matched.granules <= LIMITS.replay_granules, "a RIM matches in its own dialect")
    findings = judge_boot_plan(plan, _resolved(plan), WORKLOAD, None)
    for finding in findings:
        require_presentable(finding.message)
        require_presentable(finding.seen)
    made = read_regenerated_tree(plan, DEFINITIONS, REGISTERED, LIMITS)
    if made.supplied is not None:
        digests = made.supplied.image.measurements.digests
        require(any(digests[image.algorithm] == image.digest for image in plan.images), "a tree that was made is one that the log names")
    for finding in made.findings:
        require_presentable(finding.expected)
        require_presentable(finding.seen)
    findings = (*findings, *made.findings)
    ids = sorted({finding.id for finding in findings})
    return Judged(f"{len(problems)} problems, {', '.join(ids)}", (plan, rims, [finding.to_document() for finding in findings]))


def _resolved(plan: BootPlan) -> Mapping[int, RegisteredImage]:
    found = ((loaded.event, REGISTERED.registered(loaded.algorithm, loaded.digest)) for loaded in plan.images)
    return {event: image for event, image in found if image is not None}


def log_seeds(*patterns: str) -> Callable[[], Iterable[bytes]]:
    """Real logs and hostile ones. Big areas are mostly padding: a little of it is enough."""

    def seeds() -> Iterable[bytes]:
        for data in files(*patterns, most=300_000):
            used = max(len(data.rstrip(b"\0")), len(data.rstrip(b"\xff")) if data.endswith(b"\xff") else 0)
            yield data[: min(used, 32 * 1024) + 16]

    return seeds


# --- single records ---------------------------------------------------------------------------------------------------

_TYPES = tuple(names.EVENT_TYPES)
_KINDS = tuple(LogKind)


def check_event(data: bytes) -> object:
    """The first byte is the kind of log, the second the type (255: the next four bytes are), the rest the record's data."""
    kind, choice = _KINDS[data[0] % len(_KINDS)] if data else LogKind.TPM, data[1] if len(data) > 1 else 0
    event_type, content = _TYPES[choice % len(_TYPES)], data[2:]
    if choice == 0xFF:
        event_type, content = int.from_bytes(data[2:6], "little"), data[6:]
    event = TcgEvent(0, 0, 0, event_type, {}, content)
    described = _described(event, kind)
    name = event.type_name if event_type in names.EVENT_TYPES else "another type"
    return Judged(f"{name}: {'refused' if isinstance(described, str) else 'read'}", described)


def event_seeds() -> Iterable[bytes]:
    """Every kind of record of real logs, once or twice."""
    seen: dict[tuple[int, int], int] = {}
    for kind, patterns in ((LogKind.TPM, "logs/tpm/*"), (LogKind.CC, "logs/ccel/*"), (LogKind.VMM, "logs/synthetic/*.bin")):
        for data in files(patterns, most=300_000):
            for event in _events(data, kind):
                key = (_KINDS.index(kind), event.type)
                seen[key] = seen.get(key, 0) + 1
                if seen[key] <= 4 and event.type in _TYPES and len(event.data) < 2048:
                    yield bytes([key[0], _TYPES.index(event.type)]) + event.data


def _events(data: bytes, kind: LogKind) -> Iterable[TcgEvent]:
    try:
        return parse_tcg_log(data, kind, allow_legacy=kind is LogKind.TPM).events
    except MalformedEvidence:
        return ()


# --- composed VMM logs ------------------------------------------------------------------------------------------------

_CREATE, _RIPAS, _IMAGE, _STRANGE_IMAGE, _LOG, _REC, _VERSION, _TAGGED = range(8)
_DESCRIPTIONS = (b"KERNEL", b"INITRD", b"FIRMWARE", b"DTB", b"LOG", b"", b"x\0")
_FIELDS = {
    _CREATE: struct.Struct("<14s"),
    _RIPAS: struct.Struct("<QQ"),
    _IMAGE: struct.Struct("<BBQ"),
    _STRANGE_IMAGE: struct.Struct("<BBQQ"),
    _LOG: struct.Struct("<QI"),
    _REC: struct.Struct("<80s"),
    _VERSION: struct.Struct("<BQI"),
    _TAGGED: struct.Struct("<IB"),
}
_ALGORITHMS = (
    (HashAlgorithm.SHA256,),
    (HashAlgorithm.SHA512,),
    (HashAlgorithm.SHA384, HashAlgorithm.SHA256),
    (HashAlgorithm.SHA256, HashAlgorithm.SHA512),
)


@dataclass(frozen=True, slots=True)
class _Record:
    type: int
    digests: tuple[tuple[int, bytes], ...]
    data: bytes

    def encode(self) -> bytes:
        digests = b"".join(struct.pack("<H", identifier) + digest for identifier, digest in self.digests)
        return struct.pack("<III", 0, self.type, len(self.digests)) + digests + struct.pack("<I", len(self.data)) + self.data


def check_boot_plan(data: bytes) -> object:
    """The input is a list of operations; lengths, digests and framing are always right, so that mutations reach the plan."""
    whole = composed(data)
    log = parse_tcg_log(whole, LogKind.VMM)
    judged = _replayed(log)
    return Judged(judged.label, (_read(log, whole), judged.detail))


def composed(data: bytes) -> bytes:
    """Return the VMM log that ``data`` stands for: a byte for the algorithms, then operations of a byte and fixed fields."""
    algorithms = _ALGORITHMS[data[0] % len(_ALGORITHMS)] if data else _ALGORITHMS[0]
    table = b"".join(struct.pack("<HH", algorithm.tpm_id, algorithm.digest_size) for algorithm in algorithms)
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms)) + table + b"\0"
    header = struct.pack("<II20sI", 0, names.EV_NO_ACTION, bytes(20), len(spec)) + spec
    return header + b"".join(record.encode() for record in _records(data[1:], algorithms))


def _records(data: bytes, algorithms: tuple[HashAlgorithm, ...]) -> Iterator[_Record]:
    at = 0
    while at < len(data):
        operation = data[at] % len(_FIELDS)
        layout = _FIELDS[operation]
        fields = layout.unpack(data[at + 1 : at + 1 + layout.size].ljust(layout.size, b"\0"))
        at += 1 + layout.size
        if operation == _TAGGED:
            content = data[at : at + fields[1]]
            at += len(content)
            yield _tagged(fields[0], content)
        else:
            yield _record(operation, fields, algorithms)


def _record(operation: int, fields: tuple[object, ...], algorithms: tuple[HashAlgorithm, ...]) -> _Record:
    match operation, fields:
        case 0, (bytes() as params,):
            return _tagged(names.TAG_REALM_CREATE, params)
        case 1, (int() as base, int() as size):
            return _tagged(names.TAG_INIT_RIPAS, struct.pack("<QQ", base, size))
        case 2, (int() as number, int() as description, int() as base):
            content = IMAGES[number % len(IMAGES)][1]
            return _blob(description, base, len(content), tuple((item.tpm_id, item.digest(content)) for item in algorithms))
        case 3, (int() as number, int() as description, int() as base, int() as size):
            content = bytes([number])
            return _blob(description, base, size, tuple((item.tpm_id, item.digest(content)) for item in algorithms[: number % 4]))
        case 4, (int() as base, int() as size):
            return _blob(4, base, size, ())
        case 5, (bytes() as rec,):
            return _tagged(names.TAG_REC_CREATE, rec)
        case _, (int() as layout, int() as ram, int() as cpus):
            text = b"VM VERSION".ljust(16, b"\0") + b"QEMU".ljust(32, b"\0") + b"10.0".ljust(40, b"\0")
            tail = (struct.pack("<QI", ram, cpus), struct.pack("<QI4xQ", ram, cpus, 0), struct.pack("<QQQI", 0, 0, ram, cpus))[layout % 3]
            return _Record(names.EV_NO_ACTION, tuple((item.tpm_id, bytes(item.digest_size)) for item in algorithms), text + tail)
    raise AssertionError("every operation has its fields")


def _tagged(tag: int, content: bytes) -> _Record:
    return _Record(names.EV_EVENT_TAG, (), struct.pack("<II", tag, len(content)) + content)


def _blob(description: int, base: int, size: int, digests: tuple[tuple[int, bytes], ...]) -> _Record:
    text = _DESCRIPTIONS[description % len(_DESCRIPTIONS)]
    kind = names.EV_EFI_PLATFORM_FIRMWARE_BLOB2 if digests else names.EV_POST_CODE2
    return _Record(kind, digests, bytes([len(text)]) + text + struct.pack("<QQ", base, size))


def plan_seeds() -> Iterable[bytes]:
    """A kernel boot and a firmware boot, in each table of algorithms."""

    def operation(number: int, *fields: object) -> bytes:
        return bytes([number]) + _FIELDS[number].pack(*fields)

    ram, rec = operation(_RIPAS, 0x40000000, 0x100000), struct.pack("<QQ8Q", 1, 0x40200000, 0x48000000, *[0] * 7)
    for number, algorithms in enumerate(_ALGORITHMS):
        create = operation(_CREATE, struct.pack("<QBBBBBB", 0, 40, 0, 1, 1, 0, algorithms[0].rmi_code))
        version = operation(_VERSION, number, 1 << 20, 2)
        images = [operation(_IMAGE, image, image, 0x40200000 + image * 0x10000) for image in (0, 1, 3)]
        vcpus = operation(_REC, rec) + operation(_REC, bytes(80))
        yield bytes([number]) + version + create + ram + b"".join(images) + operation(_LOG, 0x40400000, 0x2000) + vcpus
        yield bytes([number]) + create + operation(_IMAGE, 2, 2, 0) + ram + operation(_IMAGE, 1, 1, 0x48000000 - 3008) + vcpus
        yield bytes([number]) + create + operation(_STRANGE_IMAGE, 3, 0, 0x40000000, 4096) + operation(_TAGGED, 7, 0)


_LOG_WORDS = (b"Spec ID Event03\0", b"StartupLocality\0", b"VM VERSION\0\0\0\0\0\0", b"\x0b\0 \0", struct.pack("<I", 3), b"EFI PART")
_LOG_PATTERNS = {
    LogKind.VMM: ("logs/synthetic/*.bin", "logs/synthetic/hostile/*.bin", "logs/cca/*"),
    LogKind.TPM: ("logs/tpm/*", "images/measured-boot/*/log.bin", "logs/synthetic/hostile/1*.bin"),
    LogKind.CC: ("logs/ccel/*", "logs/synthetic/hostile/2*.bin"),
}
TARGETS = (
    *(
        Target(
            name=f"tcg_log_{kind}",
            check=check_log(kind),
            seeds=log_seeds(*_LOG_PATTERNS[kind]),
            words=_LOG_WORDS,
            max_bytes=32 * 1024,
            cpu_ms=400 if kind is LogKind.VMM else 50,
        )
        for kind in LogKind
    ),
    Target(name="tcg_event", check=check_event, seeds=event_seeds, words=(b"EFI PART", b"LOADED_IMAGE::LoadOptions\0"), max_bytes=2048),
    Target(name="boot_plan", check=check_boot_plan, seeds=plan_seeds, max_bytes=2048, cpu_ms=400),
)
