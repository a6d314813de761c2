"""Event logs that are no TCG2 logs, and what is done with any log in the neutral form."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.aael import entry_of, is_aael, parse_aael
from kbs_rim.evidence.ccel import parse_ccel, parse_ccel_table
from kbs_rim.evidence.cel_cbor import parse_cel_cbor
from kbs_rim.evidence.cel_json import parse_cel_json
from kbs_rim.evidence.cel_tlv import names_measurement_registers, parse_cel_tlv
from kbs_rim.evidence.event_diff import diff_logs
from kbs_rim.evidence.event_digest import rederive
from kbs_rim.evidence.event_log import (
    CelManagement,
    EventLog,
    ImaTemplate,
    LogFormat,
    MeasuredEvent,
    RegisterKind,
    TcgContent,
    in_measurement_registers,
    replay_event_log,
)
from kbs_rim.evidence.event_text import describe_measured
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, guess_ima_layout, in_bank, parse_ima_log
from kbs_rim.evidence.ima_template import ByteOrder, decode_entry, join_fields, split_fields
from kbs_rim.evidence.ima_text import is_ima_text, parse_ima_text
from kbs_rim.evidence.log_reader import counts_by_its_own_words, guess_format, read_event_log
from kbs_rim.evidence.tcg_events import EventDescription
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.measurement.rem import rem_candidates
from tests import log_forge as forge
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.targets.codecs import JSON_WORDS
from tests.fuzz.vectors import files

_JSON_INTEGERS = 10**19
_TLV_TYPES = 256
_KINDS = (RegisterKind.PCR, RegisterKind.MR)


def attempt(function: Callable[..., object], *arguments: object) -> object:
    try:
        return function(*arguments)
    except MalformedEvidence as error:
        require_presentable(str(error))
        return error.finding_id


def seen_in(log: EventLog) -> tuple[object, ...]:
    """Everything that is done with a log in the neutral form: each digest is explained, registers replay, and so do REMs."""
    explained: list[object] = []
    for event in log.events:
        require_presentable(event.type_name)
        for algorithm in event.digests:
            found = rederive(event, algorithm)
            require_presentable(found.what)
            explained.append(found)
        described = attempt(describe_measured, event)
        require_presentable(described.text if isinstance(described, EventDescription) else str(described))
        explained.append(described)
        if isinstance(event.content, ImaTemplate):
            explained.append(attempt(decode_entry, event.content))
    require(diff_logs(log, log) == (), "a log differs from itself")
    rems = [attempt(rem_candidates, in_measurement_registers(log), algorithm) for algorithm in HashAlgorithm]
    return log, explained, attempt(replay_event_log, log), rems


# --- canonical event logs ---------------------------------------------------------------------------------------------

_PARSERS = {LogFormat.CEL_TLV: parse_cel_tlv, LogFormat.CEL_CBOR: parse_cel_cbor, LogFormat.CEL_JSON: parse_cel_json}


def check_cel(format_: LogFormat) -> Callable[[bytes], object]:
    """Return the check for one encoding. The first byte says what registers count; a log is the same in every encoding."""

    def check(data: bytes) -> object:
        kind, content = _KINDS[data[0] % 2 if data else 0], data[1:]
        names_measurement_registers(content)  # promises never to raise
        log = _PARSERS[format_](content, kind)
        for other, written in _written(log):
            require(_PARSERS[other](written, kind).events == log.events, f"a {format_} log is the same in {other}")
        return seen_in(log)

    return check


def _written(log: EventLog) -> Iterable[tuple[LogFormat, bytes]]:
    """The log in each encoding that can say it: TLV has types of one byte, JSON integers of 19 digits."""
    records = [(event.number, event.register, event.digests, _content(event)) for event in log.events]
    yield LogFormat.CEL_CBOR, forge.cel_cbor(records)
    if all(kind < _TLV_TYPES for _, _, _, (kind, _) in records):
        yield LogFormat.CEL_TLV, forge.cel_tlv(records, register_type=1)
    values = (event.content.values for event in log.events if isinstance(event.content, CelManagement))
    if all(value < _JSON_INTEGERS for row in values for value in row):
        yield LogFormat.CEL_JSON, forge.cel_json(records)


def _content(event: MeasuredEvent) -> tuple[int, object]:
    content = event.content
    if isinstance(content, TcgContent):
        return 5, (content.type, content.data)
    if isinstance(content, ImaTemplate):
        return 7, (content.name, content.data)
    return (4, (int(content.type), content.values)) if isinstance(content, CelManagement) else (content.type, content.data)


def cel_seeds(write: Callable[..., bytes], **styles: object) -> Callable[[], Iterable[bytes]]:
    """Return seeds in one encoding, plain and in each of its styles: firmware's events, IMA's, an agent's, management."""

    def seeds() -> Iterable[bytes]:
        digests = {forge.SHA256: forge.digest_of(forge.SHA256, b"data"), forge.SHA384: forge.digest_of(forge.SHA384, b"data")}
        records: list[forge.Record] = [
            (0, 1, {}, (4, (1, (1, 1)))),
            (1, 1, digests, (5, (forge.IPL, b"grub_cmd: data"))),
            (2, 1, digests, (5, (forge.SEPARATOR, bytes(4)))),
            (3, 2, digests, (7, ("ima-ng", forge.ima_ng(b"/bin/sh")))),
            (4, 2, digests, (9, b"data")),
            (5, 3, digests, (80, b"data")),
            (6, 1, {}, (4, (2, ()))),
            (7, 3, digests, (4, (80, (1_800_000_000,)))),
            (8, 3, digests, (4, (81, (2,)))),
        ]
        few = [record for record in records if record[3][0] in (4, 5, 7)]
        for kind in (b"\0", b"\1"):
            yield kind + write(records)
            for name, value in styles.items():
                yield kind + write(few, **{name: value})
            yield from (kind + write([record]) for record in records)
        yield b"\0" + write(records)[:-1]

    return seeds


# --- IMA --------------------------------------------------------------------------------------------------------------


def check_ima_log(data: bytes) -> object:
    """The first byte chooses algorithm and byte order. Fields of templates come apart and together again."""
    choice, content = (data[0] if data else 0), data[1:]
    guess_ima_layout(content)
    order: ByteOrder = "big" if choice & 1 else "little"
    algorithm = (forge.SHA1, forge.SHA256, forge.SHA384, forge.SHA512)[choice // 2 % 4]
    log = parse_ima_log(content, algorithm=algorithm, order=order)
    for event in log.events:
        data = event.content.data if isinstance(event.content, ImaTemplate) else b""
        fields = attempt(split_fields, data, order)
        require(not isinstance(fields, tuple) or join_fields(fields, order) == data, "fields join to what was split")
    banks = [attempt(in_bank, log, bank, how, order) for bank in HashAlgorithm for how in ImaBank]
    return seen_in(log), banks


def ima_seeds() -> Iterable[bytes]:
    """Entries of each template, in each algorithm and byte order; a violation; the old template."""
    for choice, algorithm in enumerate((forge.SHA1, forge.SHA256, forge.SHA384, forge.SHA512)):
        for big, order in enumerate("<>"):
            digest = b"sha256:\0" + bytes(32)
            rows = (
                (b"ima-ng", forge.ima_ng(b"/bin/sh", order=order)),
                (b"ima-sig", forge.ima_fields(digest, b"/x\0", b"\3\2signature", order=order)),
                (b"ima-sigv2", forge.ima_fields(b"verity:" + digest, b"/x\0", b"", order=order)),
                (b"ima-modsig", forge.ima_fields(digest, b"/x\0", b"", digest, b"m", order=order)),
                (b"d-ng|n-ng", forge.ima_ng(b"/y", order=order)),
            )
            log = b"".join(forge.ima_record(name, data, algorithm=algorithm, order=order) for name, data in rows)
            yield bytes([2 * choice + big]) + log
            data, hashed = forge.ima_legacy(b"/bin/sh", bytes(20), order)
            legacy = forge.ima_record(b"ima", data, digest=forge.digest_of(algorithm, hashed), algorithm=algorithm, order=order)
            zeros = bytes(len(forge.digest_of(algorithm, b"")))
            yield bytes([2 * choice + big]) + legacy + forge.ima_record(*rows[0], digest=zeros, algorithm=algorithm, order=order)
    yield b"\0" + forge.ima_record(b"ima-ng", forge.ima_ng(b"/bin/sh"))[:-1]


def check_ima_text(data: bytes) -> object:
    """The text list."""
    is_ima_text(data)
    return seen_in(parse_ima_text(data))


def text_seeds() -> Iterable[bytes]:
    """Lists of each algorithm, and every template."""
    yield from files("logs/ima/*.txt")
    digest, sha256 = b"ab" * 20, b"sha256:" + b"cd" * 32
    yield b"10 " + digest + b" ima " + b"12" * 20 + b" /bin/sh\n"
    yield b"10 " + b"00" * 20 + b" ima-sig " + sha256 + b" /x 030204\n10 " + digest + b" ima-sigv2 verity:" + sha256 + b" /x \n"


# --- the attestation agent, and ACPI ----------------------------------------------------------------------------------


def check_aael(data: bytes) -> object:
    """The first byte says what registers count. Every record is a line in three parts."""
    kind, content = _KINDS[data[0] % 2 if data else 0], data[1:]
    is_aael(content)
    log = parse_aael(content, registers=kind)
    lines = [entry_of(event) for event in log.events]
    for line in lines:
        require_presentable(line.domain + line.operation + line.content)
    return seen_in(log), lines


def aael_seeds() -> Iterable[bytes]:
    """Records with and without an agent's header and end mark."""
    records = forge.aael_record(b"domain operation content") + forge.aael_record(b'a b {"c": 1}', register=3)
    for kind in (b"\0", b"\1"):
        yield from (kind + records, kind + forge.AGENT_HEADER + records + b"\xff" * 8, kind + forge.AGENT_HEADER)
    yield b"\1" + forge.aael_record(b"no", algorithm=forge.SHA256)


def check_ccel(data: bytes) -> object:
    """A table, and behind it the area that it describes."""
    table, area = data[:56], data[56:]
    described = parse_ccel_table(table)
    log = parse_ccel(table, area, cc_type=described.cc_type)
    require(replace(log, used_bytes=0) == replace(parse_tcg_log(area, LogKind.CC), used_bytes=0), "the table changes nothing in the log")
    return described, described.cc_type_name, len(log.events)


def ccel_seeds() -> Iterable[bytes]:
    """The tables of real machines, with a small area behind them."""
    area = forge.tcg_log(forge.SHA384, (1, forge.SEPARATOR, bytes(4), None))
    yield from (table + area for table in files("logs/ccel/*able.bin"))
    yield from files("logs/ccel/*able.bin")


# --- logs of unknown kind ---------------------------------------------------------------------------------------------


def check_any_log(data: bytes) -> object:
    """The way of ``kbs-rim log show`` and ``log diff``: a guess, then the parser for it. Guessing never raises."""
    format_ = guess_format(data)
    if format_ is LogFormat.IMA and is_ima_text(data):
        return format_, seen_in(parse_ima_text(data))
    log = read_event_log(data, format_, registers=counts_by_its_own_words(data, format_))
    require(log.format is format_, "a log has the format that it was read in")
    if log.algorithms:
        require(diff_logs(log, log) == (), "a log does not differ from itself")
        fewer = replace(log, events=log.events[1:])
        require(not fewer.algorithms or bool(diff_logs(log, fewer)), "a log differs from one with an event less")
    return Judged(format_.value, [event.type_name for event in log.events])


def any_seeds() -> Iterable[bytes]:
    """Some of every kind."""
    yield from (seed[1:] for seeds in (cel_seeds(forge.cel_tlv), cel_seeds(forge.cel_cbor), cel_seeds(forge.cel_json)) for seed in seeds())
    yield from (seed[1:] for seed in (*ima_seeds(), *aael_seeds()))
    yield from text_seeds()
    yield from files("logs/synthetic/emitter*.bin", "logs/synthetic/hostile/*.bin", "logs/ccel/CCEL_unpadded*", most=9000)
    yield forge.tcg_log(forge.SHA256, (0, forge.SEPARATOR, bytes(4), None), (4, forge.ACTION, b"Exit Boot Services Invocation", None))


TARGETS = (
    Target(name="cel_tlv", check=check_cel(LogFormat.CEL_TLV), seeds=cel_seeds(forge.cel_tlv, register_type=108, number_size=1)),
    Target(name="cel_cbor", check=check_cel(LogFormat.CEL_CBOR), seeds=cel_seeds(forge.cel_cbor, sequence=True, old=True)),
    Target(
        name="cel_json",
        check=check_cel(LogFormat.CEL_JSON),
        seeds=cel_seeds(forge.cel_json, numbers=True, old=True),
        words=(b'"recnum":', b'"content_type":', b'"hashAlg":', b'"sha256"', b'"ima_template"', *JSON_WORDS[:6]),
        max_bytes=8192,
    ),
    Target(name="ima_log", check=check_ima_log, seeds=ima_seeds, words=(b"ima-ng", b"sha256:\0", b"verity:", b"d-ng|n-ng")),
    Target(name="ima_text", check=check_ima_text, seeds=text_seeds, words=(b" ima-ng ", b" sha256:", b"\n10 ", b" ima-sig ")),
    Target(name="aael", check=check_aael, seeds=aael_seeds, words=(b"LEAA", b"\xff" * 8, b" ")),
    Target(
        name="any_log",
        check=check_any_log,
        seeds=any_seeds,
        words=(b"Spec ID Event03\0", b"VM VERSION", b"LEAA", b"ima-ng"),
        max_bytes=8192,
    ),
    Target(name="ccel", check=check_ccel, seeds=ccel_seeds, words=(b"CCEL",), max_bytes=2048),
)
