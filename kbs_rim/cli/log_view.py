"""How event logs of any kind are read for people, and shown: what each event says, and what its digest is the hash of.

Text in a log is the writer's: it is escaped before it reaches a terminal.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.ccel import CCEL_SIGNATURE, CCEL_TABLE_SIZE, parse_ccel_table
from kbs_rim.evidence.event_digest import DigestKind, Rederivation, rederive
from kbs_rim.evidence.event_log import (
    EventLog,
    LogFormat,
    MeasuredEvent,
    RegisterKind,
    algorithm_names,
    event_log_from_tcg,
    replay_event_log,
)
from kbs_rim.evidence.event_text import describe_measured
from kbs_rim.evidence.ima_log import guess_ima_layout, parse_ima_log
from kbs_rim.evidence.ima_template import ByteOrder
from kbs_rim.evidence.ima_text import is_ima_text, parse_ima_text
from kbs_rim.evidence.log_reader import CEL_FORMATS, TCG_FORMATS, counts_by_its_own_words, guess_cel_format, guess_format, read_event_log
from kbs_rim.evidence.tcg_events import EventDescription, describe_event
from kbs_rim.evidence.tcg_log import LogKind, TcgEvent, TcgLog, parse_tcg_log, replay_registers
from kbs_rim.evidence.tcg_names import TPM_ALG_SHA1, TPM_ALGORITHMS
from kbs_rim.measurement.boot_plan import check_vmm_records

_WIDTH_OF_A_PIPE = 200
_NUMBERED = CEL_FORMATS | {LogFormat.AAEL}


@dataclass(frozen=True, slots=True)
class LogView:
    """A log that was read to be shown. ``tcg`` has what only TCG2 logs have."""

    log: EventLog
    descriptions: tuple[EventDescription, ...]
    tcg: TcgLog | None = None

    @property
    def kind(self) -> str:
        """The kind as it is named on the command line."""
        return self.log.format.value


def read_view(data: bytes, kind: str | None, numbering: str | None = None) -> LogView:
    """Read a log of ``kind`` (guessed if None) and decode every event. ``numbering`` says what the registers of a CEL or AAEL count.

    Raises ``MalformedEvidence`` if anything in it is malformed, ``click.UsageError`` for a numbering that the kind does not leave open.
    """
    log_format = _format(data, kind)
    if numbering is not None and log_format not in _NUMBERED:
        raise click.UsageError(f"--numbering is for cel and aael logs; a {log_format} log says what it counts")
    if log_format in TCG_FORMATS:
        return _tcg_view(_parse_tcg(data, LogKind(log_format.value), guessed=kind is None))
    order: ByteOrder = "little"
    if log_format is LogFormat.IMA:
        log, order = _parse_ima(data)
    else:
        registers = counts_by_its_own_words(data, log_format) if numbering is None else RegisterKind(numbering)
        log = read_event_log(data, log_format, registers=registers)
    return LogView(log, tuple(describe_measured(event, order=order) for event in log.events))


def _format(data: bytes, kind: str | None) -> LogFormat:
    if kind is None:
        return guess_format(data)
    if kind != "cel":
        return LogFormat(kind)
    guessed = guess_cel_format(data)
    if guessed is None:
        raise MalformedEvidence("log.encoding", "the log begins as none of the encodings of a canonical event log")
    return guessed


def _parse_tcg(data: bytes, kind: LogKind, *, guessed: bool) -> TcgLog:
    """Parse a TCG2 log. If its kind was guessed as TPM or CC and does not fit, the other is tried."""
    try:
        return parse_tcg_log(data, kind, allow_legacy=kind is LogKind.TPM)
    except MalformedEvidence:
        if not guessed or kind is LogKind.VMM:
            raise
        other = LogKind.CC if kind is LogKind.TPM else LogKind.TPM
        try:
            return parse_tcg_log(data, other, allow_legacy=other is LogKind.TPM)
        except MalformedEvidence:
            pass
        raise


def _tcg_view(log: TcgLog) -> LogView:
    """Decode every record; a VMM log must also keep the limits under which it would be replayed."""
    descriptions = tuple(describe_event(event, log.kind) for event in log.events)
    if log.kind is LogKind.VMM:
        check_vmm_records(log)
    return LogView(event_log_from_tcg(log), descriptions, log)


def _parse_ima(data: bytes) -> tuple[EventLog, ByteOrder]:
    """Parse a list in text or binary. Which hash and byte order a binary one has is guessed by its first entry."""
    if is_ima_text(data):
        return parse_ima_text(data), "little"
    layout: tuple[int, ByteOrder] = guess_ima_layout(data) or (TPM_ALG_SHA1, "little")
    algorithm, order = layout
    return parse_ima_log(data, algorithm=algorithm, order=order), order


# --- registers --------------------------------------------------------------------------------------------------------


def print_registers(view: LogView, *, as_json: bool) -> None:
    """Print every register that the log extends, of every bank."""
    banks = replay_event_log(view.log) if view.tcg is None else replay_registers(view.tcg)
    if as_json:
        document = {name: {str(index): bank[index].hex() for index in sorted(bank)} for name, bank in banks.items()}
        click.echo(json.dumps({"registers": document}, indent=2))
        return
    for name, bank in banks.items():
        for index in sorted(bank):
            click.echo(f"{name} {index:>2} {bank[index].hex()}")


def register_name(registers: RegisterKind, register: int) -> str:
    """Return a register's name: RIM, PCR 4, MR 1."""
    return "RIM" if registers is RegisterKind.RIM else f"{registers.upper()} {register}"


# --- digests ----------------------------------------------------------------------------------------------------------


def known_as(event: MeasuredEvent) -> Rederivation:
    """Say what the digests of a measured event are. If they differ in what they are, a bank that does not match comes first."""
    found = [rederive(event, identifier) for identifier in event.digests]
    lies = [item for item in found if item.matches is False]
    known = [item for item in found if item.kind is not DigestKind.NONE]
    return (lies or known or found or [rederive(event, TPM_ALG_SHA1)])[0]


def text_of(known: Rederivation) -> str:
    """Return one cell of a table."""
    if known.kind is DigestKind.RECOMPUTED:
        return f"hash of {known.what}" if known.matches else f"NOT the hash of {known.what}"
    return {DigestKind.CONSTANT: "constant: ", DigestKind.EXTERNAL: "elsewhere: ", DigestKind.NONE: "unknown: "}[known.kind] + known.what


def digests_of(event: MeasuredEvent | TcgEvent) -> dict[str, str]:
    """Return all digests by the names of their algorithms, in hex."""
    return {TPM_ALGORITHMS[identifier].name: digest.hex() for identifier, digest in event.digests.items()}


def _digest_document(event: MeasuredEvent) -> dict[str, Any] | None:
    if not event.measured:
        return None
    known = known_as(event)
    material = None if known.material is None else known.material.value
    return {"kind": known.kind.value, "matches": known.matches, "what": known.what, "material": material}


# --- documents --------------------------------------------------------------------------------------------------------


def document_of(view: LogView) -> dict[str, Any]:
    """Return the JSON document of a log."""
    if view.tcg is not None:
        return _tcg_document(view, view.tcg)
    events = [
        {
            "number": event.number,
            "register": event.register,
            "type_name": description.type_name,
            "measured": event.measured,
            "digests": digests_of(event),
            "description": description.text,
            "fields": dict(description.fields),
            "digest_is": _digest_document(event),
        }
        for event, description in zip(view.log.events, view.descriptions, strict=True)
    ]
    return {
        "kind": view.kind,
        "registers": view.log.registers.value,
        "algorithms": algorithm_names(view.log.algorithms),
        "events": events,
    }


def _tcg_document(view: LogView, log: TcgLog) -> dict[str, Any]:
    events = [
        {
            "number": event.number,
            "offset": event.offset,
            "register": event.index,
            "type": event.type,
            "type_name": description.type_name,
            "digests": digests_of(event),
            "description": description.text,
            "fields": dict(description.fields),
            "data": event.data.hex(),
            # What a VMM loads is judged by the RIM, not event by event.
            **({} if log.kind is LogKind.VMM else {"digest_is": _digest_document(measured)}),
        }
        for event, measured, description in zip(log.events, view.log.events, view.descriptions, strict=True)
    ]
    return {
        "kind": log.kind.value,
        "format": "sha1" if log.header is None else "crypto-agile",
        "algorithms": algorithm_names(log.algorithms),
        "used_bytes": log.used_bytes,
        "padding": log.padding,
        "events": events,
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def print_table(view: LogView) -> None:
    """Print one line for each event."""
    columns = ["#", "Register", "Type", "What it says", "Digest"]
    explained = view.log.format is not LogFormat.VMM
    print_rows([*columns, "Digest is"] if explained else columns, _rows(view, explained=explained))


def _rows(view: LogView, *, explained: bool) -> Iterator[tuple[str, ...]]:
    for event, description in zip(view.log.events, view.descriptions, strict=True):
        register = register_name(view.log.registers, event.register) if event.measured else "-"
        row = (str(event.number), register, description.type_name, description.text, short_digest(event))
        yield (*row, text_of(known_as(event)) if event.measured else "") if explained else row


def short_digest(event: MeasuredEvent) -> str:
    """Return the beginning of the first digest."""
    if not event.measured:
        return "not measured"
    return next((f"{name}:{value[:16]}..." for name, value in digests_of(event).items()), "no digest")


def print_rows(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table: as wide as the terminal, or of a fixed width for programs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_PIPE)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: a log must not be able to colour, link or hide anything.
        table.add_row(*(Text(cell) for cell in row))
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


# --- the CCEL table ---------------------------------------------------------------------------------------------------


def is_ccel_table(data: bytes, kind: str | None) -> bool:
    """Whether a file is the ACPI table and not the log that it points to."""
    return kind in (None, "cc") and len(data) == CCEL_TABLE_SIZE and data.startswith(CCEL_SIGNATURE)


def print_ccel_table(data: bytes, *, as_json: bool) -> None:
    """Print what the CCEL table says. Raises ``MalformedEvidence("log.table")``."""
    table = parse_ccel_table(data)
    if as_json:
        document = {
            "kind": "ccel",
            "cc_type": table.cc_type,
            "cc_type_name": table.cc_type_name,
            "cc_subtype": table.cc_subtype,
            "area_bytes": table.area_bytes,
            "area_address": table.area_address,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"CCEL table: {table.cc_type_name}, log area of {table.area_bytes} bytes at {table.area_address:#x}")
    click.echo("kbs-rim: this is the table; Linux has the log in /sys/firmware/acpi/tables/data/CCEL", err=True)
