"""How the differences between the logs of two boots are shown."""

import json
from typing import Any

import click

from kbs_rim.cli.log_view import LogView, digests_of, print_rows, register_name, short_digest
from kbs_rim.evidence.event_diff import Change, EventChange
from kbs_rim.evidence.event_log import MeasuredEvent

_SIGNS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}


def print_changes(changes: tuple[EventChange, ...], before: LogView, after: LogView, *, as_json: bool) -> None:
    """Print all differences, by register: a table for people or a JSON document."""
    if as_json:
        click.echo(json.dumps(_document(changes, before, after), indent=2))
        return
    if not changes:
        click.echo("the same")
        return
    rows = []
    for change in changes:
        sides = [(event, view) for event, view in ((change.before, before), (change.after, after)) if event is not None]
        numbers = " -> ".join(str(event.number) for event, _ in sides)
        texts = list(dict.fromkeys(view.descriptions[event.number].text for event, view in sides))
        digests = list(dict.fromkeys(short_digest(event) for event, _ in sides))
        register = register_name(before.log.registers, change.register)
        rows.append((_SIGNS[change.change], register, numbers, sides[0][0].type_name, " -> ".join(texts), " -> ".join(digests)))
    print_rows(("", "Register", "#", "Type", "What it says", "Digest"), rows)


def _document(changes: tuple[EventChange, ...], before: LogView, after: LogView) -> dict[str, Any]:
    listed = [
        {
            "change": change.change.value,
            "register": change.register,
            "before": _side(change.before, before),
            "after": _side(change.after, after),
        }
        for change in changes
    ]
    registers = sorted({event.register for view in (before, after) for event in view.log.events if event.measured})
    differ = {change.register for change in changes if any(event and event.measured for event in (change.before, change.after))}
    return {
        "same": not changes,
        "kinds": [before.kind, after.kind],
        "registers": {str(register): "different" if register in differ else "same" for register in registers},
        "changes": listed,
    }


def _side(event: MeasuredEvent | None, view: LogView) -> dict[str, Any] | None:
    if event is None:
        return None
    return {
        "number": event.number,
        "type_name": event.type_name,
        "measured": event.measured,
        "description": view.descriptions[event.number].text,
        "digests": digests_of(event),
    }
