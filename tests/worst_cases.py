"""The most expensive inputs that we know of, within the limits: one for each parser of outside bytes, and whole appraisals.

``tests/attacks/test_worst_cases.py`` holds them against the table of docs/security.md in what can be counted (calls, memory,
findings); ``benchmarks/bench_worst_case.py`` measures the CPU time that the table states.
"""

import base64
import json
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType

import cbor2

from kbs_rim.appraisal.address_range import Range
from kbs_rim.appraisal.appraise import Candidate, Verdict
from kbs_rim.appraisal.bootargs import BootargsRules, judge_bootargs
from kbs_rim.appraisal.ear_signature import json_object, parse_compact_jws
from kbs_rim.appraisal.tree_rules import TreeOptions, judge_tree
from kbs_rim.appraisal.tree_surroundings import Surroundings
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.errors import KbsRimError
from kbs_rim.evidence.aael import parse_aael
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.cel_cbor import parse_cel_cbor
from kbs_rim.evidence.cel_json import parse_cel_json
from kbs_rim.evidence.cel_tlv import parse_cel_tlv
from kbs_rim.evidence.envelope import CMW_CBOR_TYPE, EVIDENCE_JSON_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.event_log import RegisterKind
from kbs_rim.evidence.ima_log import parse_ima_log
from kbs_rim.evidence.ima_text import parse_ima_text
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import DEFAULT_LIMITS as LIMITS
from kbs_rim.measurement.boot_plan import boot_plan_from_log
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_blob import BEGIN_NODE, END, END_NODE, HEADER, LAST_COMPATIBLE, MAGIC, PROP, RESERVATION, VERSION
from kbs_rim.realm.host_script import honest_log
from kbs_rim.realm.log_emitter import RecRecord, RipasRecord
from kbs_rim.realm.rim_model import RecParams
from kbs_rim.realm.simulator import SimulatedRealm, write_log
from kbs_rim.rule_packs import load_rule_packs
from tests import log_forge as forge
from tests.stage import Stage


@dataclass(frozen=True)
class WorstCase:
    """One input. ``run`` reads or judges it and may refuse; ``stated`` is the row of the table in docs/security.md."""

    name: str
    stated: str
    size_bytes: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """What a run cost. ``calls`` counts calls of Python and of C functions: the same number on every machine."""

    cpu_s: float
    peak_bytes: int
    calls: int


def cpu_of(run: Callable[[], object]) -> float:
    """CPU time of one run, in seconds."""
    start = time.process_time()
    _refused(run)
    return time.process_time() - start


def peak_of(run: Callable[[], object]) -> int:
    """The most memory that Python held during one run, beyond what it held before, in bytes. What coverage notes is not counted."""
    noting = sys.gettrace()
    sys.settrace(None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        _refused(run)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        sys.settrace(noting)


def calls_of(run: Callable[[], object]) -> int:
    """How many functions were called in one run."""
    count = 0

    def counted(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        _refused(run)
    finally:
        sys.setprofile(before)
    return count


def _refused(run: Callable[[], object]) -> None:
    with suppress(KbsRimError):
        run()


# --- logs -------------------------------------------------------------------------------------------------------------

MR, PCR = RegisterKind.MR, RegisterKind.PCR
EIGHT = (0x4, 0xB, 0xC, 0xD, 0x12, 0x27, 0x28, 0x29)


def tcg_small(size: int, kind: LogKind) -> bytes:
    """Records as small as they come: EV_NO_ACTION without a digest where the kind allows it, else with one."""
    head = forge.spec_id(forge.SHA1 if kind is LogKind.VMM else forge.SHA256)
    record = forge.tcg_record(0, 3, {forge.SHA1: bytes(20)} if kind is LogKind.VMM else {}, b"")
    return head + record * min(LIMITS.log_events, (size - len(head)) // len(record))


def tcg_digests(size: int) -> bytes:
    """Every record has eight digests."""
    algorithms = tuple(identifier for identifier in EIGHT if identifier in forge.TPM_ALGORITHMS)
    head = forge.spec_id(*algorithms)
    digests = {identifier: b"d" * forge.TPM_ALGORITHMS[identifier].digest_size for identifier in algorithms}
    record = forge.tcg_record(1, forge.IPL, digests, b"")
    return head + record * ((size - len(head)) // len(record))


def cel_records(count: int) -> list[forge.Record]:
    """Small records that differ in their numbers only."""
    return [(number, 1, {forge.SHA1: b"d" * 20}, (5, (forge.IPL, b""))) for number in range(count)]


def filled(write: Callable[[list[forge.Record]], bytes], size: int) -> bytes:
    """As many records as fit into ``size`` bytes."""
    each = len(write(cel_records(200))) - len(write(cel_records(100)))
    count = min(LIMITS.log_events, 100 * size // each)
    while len(data := write(cel_records(count))) > size:
        count -= count // 50 + 1
    return data


def ima_list(size: int) -> bytes:
    """Entries with one empty field each."""
    record = forge.ima_record(b"n", b"")
    return record * min(LIMITS.log_events, size // len(record))


def ima_lines(size: int) -> bytes:
    """Short lines; digests of 64 bytes leave the algorithm open for as long as no entry confirms one."""
    line = b"10 " + b"ab" * 64 + b" n-ng x\n"
    return line * min(LIMITS.log_events, size // len(line))


def aael_lines(size: int) -> bytes:
    """Short lines of the attestation agent."""
    record = forge.aael_record(b"a b c", algorithm=forge.SHA256, register=4)
    return record * min(LIMITS.log_events, size // len(record))


def json_items(size: int) -> bytes:
    """No log at all, but JSON of as many values as are looked at."""
    return b"[" + b"{}," * ((size - 4) // 3) + b"{}]"


# --- device trees -----------------------------------------------------------------------------------------------------


def blob(structure: bytes, strings: bytes, reservations: bytes = b"") -> bytes:
    """A flattened tree of these blocks."""
    reserved = reservations + bytes(RESERVATION.size)
    struct_at = HEADER.size + len(reserved)
    strings_at = struct_at + len(structure)
    total = strings_at + len(strings)
    numbers = (MAGIC, total, struct_at, strings_at, HEADER.size, VERSION, LAST_COMPATIBLE, 0, len(strings), len(structure))
    return HEADER.pack(*numbers) + reserved + structure + strings


def _cell(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def tree_of_properties(size: int) -> bytes:
    """One node with as many properties as fit; each name is a tail of a longer one, so that names are long and cost a byte."""
    count = size // 14
    strings = b"".join(b"n" * 249 + b"%05d\0" % block for block in range(count // 249 + 1))
    offsets = (255 * block + tail for block in range(count // 249 + 1) for tail in range(249))
    properties = b"".join(_cell(PROP, 0, offset) for offset, _ in zip(offsets, range(count), strict=False))
    return blob(_cell(BEGIN_NODE, 0) + properties + _cell(END_NODE, END), strings)


def tree_of_distinct_properties(size: int) -> bytes:
    """One node with as many properties of different short names as fit."""
    count = size // 18 - 10
    strings = b"".join(b"%05x\0" % number for number in range(count))
    properties = b"".join(_cell(PROP, 0, 6 * number) for number in range(count))
    return blob(_cell(BEGIN_NODE, 0) + properties + _cell(END_NODE, END), strings)


def tree_of_nodes(count: int, *, depth: int = 2) -> bytes:
    """``count`` nodes, in towers of ``depth``, with names of more than 200 characters."""
    tower, width = depth - 1, 247
    structure = _cell(BEGIN_NODE, 0)
    for number in range(count // tower):
        for level in range(tower):
            structure += _cell(BEGIN_NODE) + (b"%06d-%02d" % (number, level)).ljust(width, b"n") + b"\0"
        structure += _cell(*[END_NODE] * tower)
    return blob(structure + _cell(END_NODE, END), b"")


def tree_of_ranges(size: int) -> bytes:
    """A memory node of as many ranges as fit, no two of which touch, in falling order."""
    count = size // 16 - 20
    reg = b"".join(struct.pack(">QQ", (count - number) << 16, 4096) for number in range(count))
    strings = b"device_type\0reg\0#address-cells\0#size-cells\0"
    structure = _cell(BEGIN_NODE, 0, PROP, 4, 16, 2, PROP, 4, 31, 2, BEGIN_NODE) + b"memory\0\0"
    structure += _cell(PROP, 7, 0) + b"memory\0\0" + _cell(PROP, len(reg), 12) + reg + _cell(END_NODE, END_NODE, END)
    return blob(structure, strings)


def tree_of_reservations(size: int) -> bytes:
    """As many memory reservations as fit."""
    reserved = b"".join(struct.pack(">QQ", number << 12, 1) for number in range(size // 16 - 8))
    return blob(_cell(BEGIN_NODE, 0, END_NODE, END), b"", reserved)


@lru_cache(maxsize=1)
def _packs() -> tuple[object, ...]:
    return tuple(load_rule_packs().values())


def judged(data: bytes) -> Iterator[object]:
    """Read a tree, collect its facts and judge it by every pack that ships."""
    tree = parse_device_tree(data)
    around = Surroundings(memory=(Range(1 << 30, 1 << 31),), initrd=(), log_area=())
    options = TreeOptions(bootargs=BootargsRules(allowed=("quiet",)))
    found = [judge_tree(tree, pack, options, around) for pack in _packs()]  # type: ignore[arg-type]
    facts_of(tree, len(data))
    return iter(found)


BOOTARGS = BootargsRules(
    required=tuple(f"r{number}=1" for number in range(256)),
    allowed=(*(f"a*a*a*x{number}" for number in range(255)), "a*"),
    forbidden=tuple(f"a*a*a*b{number}" for number in range(256)),
)
"""What an administrator may write and never will: every list full, every pattern with as many stars as there may be."""


# --- tokens, results, envelopes ---------------------------------------------------------------------------------------


def cbor_items(size: int) -> bytes:
    """A token's outer form around an array of as many small maps as fit."""
    return cbor2.dumps(cbor2.CBORTag(399, {44234: cbor2.dumps([{1: 1}] * ((size - 40) // 3)), 44241: b""}))


def cbor_depth(size: int) -> bytes:
    """Arrays in arrays."""
    return b"\xd9\x01\x8f" + b"\x81" * (size - 4) + b"\0"


def jws(size: int) -> str:
    """A result whose payload is all brackets and commas."""
    part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()  # noqa: E731
    payload = b'{"submods":[' + b",".join([b"0"] * (size // 3)) + b"]}"
    return f"{part(b'{}')}.{part(payload)}."


def read_jws(text: str) -> object:
    """Read header and payload."""
    return json_object(parse_compact_jws(text).payload, "its payload")


def multipart(size: int) -> tuple[str, bytes]:
    """A body of almost-boundaries of a boundary that is all one character."""
    boundary = "a" * 70
    near = b"\r\n--" + b"a" * 69
    head = b"--" + boundary.encode() + b"\r\nContent-Type: application/cbor\r\n\r\n\xd2"
    return f"multipart/mixed; boundary={boundary}", head + near * ((size - len(head)) // len(near))


def three_logs(size: int) -> bytes:
    """The JSON envelope filled with base64."""
    text = base64.urlsafe_b64encode(b"\xd2" + bytes(size // 4 * 3 - 200)).decode().rstrip("=")
    return json.dumps({"token": text}).encode()


def cmw(size: int) -> bytes:
    """A collection of one record with a value as large as the body."""
    return cbor2.dumps({"token": ["application/cbor", b"\xd2" + bytes(size - 100)]})


# --- whole appraisals -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _stage() -> tuple[Stage, SimulatedRealm, Evidence]:
    stage = Stage()
    realm = SimulatedRealm(stage.simulation())
    return stage, realm, realm.evidence(stage.challenge)


def largest_log(recs: int = 490, ranges: int = 60) -> bytes:
    """A log of an honest VM with as many vCPUs and RAM ranges more as fit; every image in it is registered, and no RIM matches."""
    stage, realm, _ = _stage()
    area = stage.vm.script.log_area.base
    records = honest_log(realm.simulation.script, realm.simulation.habits)
    more_ram = tuple(RipasRecord((1 << 32) + (number << 22) + 4096, (1 << 21) - 8192) for number in range(ranges))
    more_recs = tuple(RecRecord(RecParams(1, area, (area, number, 0, 0, 0, 0, 0, 0))) for number in range(recs))
    return write_log((*records, *more_ram, *more_recs), realm.simulation, 65536)


def every_dialect(document: dict[str, object], name: str) -> Candidate:
    """A workload that allows all dialects and all variants of the parameters."""
    rmm = {"roundings": (4096, 16384, 65536), "orders": ("log", "ripas-last", "ripas-last-whole"), "versions": ("1.0", "2.0")}
    parameters = {"lpa2": True, "breakpoints": {"min": 3, "max": 3}, "watchpoints": {"min": 3, "max": 3}}
    return Candidate(parse_workload({**document, "name": name, "rmm": rmm, "parameters": parameters}), 1)


def appraised(log: bytes | None = None, *, workloads: int = 1, evidence: Evidence | None = None) -> Verdict:
    """Judge a realm that is genuine in all but its log, for that many workloads."""
    stage, _, honest = _stage()
    document = stage.vm.workload_document("w")
    candidates = tuple(every_dialect(document, f"w{number}") for number in range(workloads))
    sent = evidence or Evidence(honest.token, ((LogKind.VMM, honest.log(LogKind.VMM) if log is None else log),))
    return stage.judge(sent, candidates=candidates)


# --- the table --------------------------------------------------------------------------------------------------------


def parsers(share: float = 1.0) -> list[WorstCase]:
    """The cases of single parsers; ``share`` makes every input smaller, to see how the cost grows."""
    log, vmm, token = int(LIMITS.log_bytes * share), int(LIMITS.vmm_log_bytes * share), int(LIMITS.token_bytes * share)
    body, tree, ear = int(LIMITS.body_bytes * share), int(LIMITS.device_tree_bytes * share), int(LIMITS.attestation_result_bytes * share)
    nodes = int(LIMITS.device_tree_nodes * share) - 16
    cel = {
        "TLV": (parse_cel_tlv, filled(forge.cel_tlv, log)),
        "CBOR": (parse_cel_cbor, filled(forge.cel_cbor, log)),
        "JSON": (parse_cel_json, filled(forge.cel_json, log)),
    }
    read_body = lambda type_, data: lambda: parse_evidence(type_, data)  # noqa: E731
    many = multipart(body)
    cases = [
        ("VMM log, small records", "VMM log", vmm_log := tcg_small(vmm, LogKind.VMM), lambda: parse_tcg_log(vmm_log, LogKind.VMM)),
        ("VMM log, everything in it", "VMM log", plan := largest_log(int(490 * share), int(60 * share)), lambda: _plan_of(plan)),
        ("CC log, small records", "other logs", cc := tcg_small(log, LogKind.CC), lambda: parse_tcg_log(cc, LogKind.CC)),
        ("CC log, eight digests", "other logs", eight := tcg_digests(log), lambda: parse_tcg_log(eight, LogKind.CC)),
        *((f"CEL-{name}", "other logs", data, lambda read=read, data=data: read(data, MR)) for name, (read, data) in cel.items()),
        ("CEL-JSON, values only", "other logs", values := json_items(log), lambda: parse_cel_json(values, MR)),
        ("IMA list", "other logs", ima := ima_list(log), lambda: parse_ima_log(ima)),
        ("IMA text", "other logs", lines := ima_lines(log), lambda: parse_ima_text(lines)),
        ("AAEL", "other logs", aael := aael_lines(log), lambda: parse_aael(aael)),
        ("token, many items", "token", items := cbor_items(token), lambda: parse_cca_token(items)),
        ("token, nested", "token", nested := cbor_depth(token), lambda: parse_cca_token(nested)),
        ("attestation result", "attestation result", result := jws(ear).encode(), lambda: read_jws(result.decode())),
        ("multipart", "envelope", many[1], read_body(*many)),
        ("JSON envelope", "envelope", three := three_logs(body), read_body(EVIDENCE_JSON_TYPE, three)),
        ("CMW", "envelope", wrapped := cmw(body), read_body(CMW_CBOR_TYPE, wrapped)),
        *_trees(tree, nodes),
        ("boot arguments", "boot arguments", text := b"a " * int(1023 * share), lambda: list(judge_bootargs(text.decode(), BOOTARGS))),
    ]
    return [WorstCase(name, stated, len(data), run) for name, stated, data, run in cases]


def _trees(size: int, nodes: int) -> list[tuple[str, str, bytes, Callable[[], object]]]:
    trees = {
        "long property names": tree_of_properties(size),
        "many properties": tree_of_distinct_properties(size),
        "many nodes": tree_of_nodes(nodes),
        "deep nodes": tree_of_nodes(nodes, depth=LIMITS.device_tree_depth),
        "memory ranges": tree_of_ranges(size),
        "reservations": tree_of_reservations(size),
    }
    return [(f"device tree, {name}", "device tree", data, lambda data=data: judged(data)) for name, data in trees.items()]


def _plan_of(data: bytes) -> object:
    return boot_plan_from_log(parse_tcg_log(data, LogKind.VMM))


def appraisals(share: float = 1.0) -> list[WorstCase]:
    """Whole appraisals."""
    log = largest_log(int(490 * share), int(60 * share))
    return [
        WorstCase("appraisal, one workload", "appraisal of a genuine token", len(log), lambda: appraised(log)),
        WorstCase("appraisal, 32 workloads", "appraisal, each further workload", len(log), lambda: appraised(log, workloads=32)),
    ]
