"""``kbs-rim dtb diff``: how two device trees differ, as a list for people or as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED
from kbs_rim.measurement.device_tree_diff import Change, Subject, TreeDifference, diff_trees, summary
from kbs_rim.measurement.device_tree_layout import TreeFile, read_tree_file

_SIGNS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}
_LONGEST = 120
"""Characters of a value that is shown; --json has all of it."""


@click.command("diff")
@click.argument("before", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.option(
    "--all", "everything", is_flag=True, help="List what only follows from other differences too: phandle numbers, padding, order."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which has everything.")
def command(before: Path, after: Path, everything: bool, as_json: bool) -> int:
    """Print what differs between the device trees BEFORE and AFTER (- reads stdin), node by node: + added, - removed, ~ changed.

    Cells that name a node are shown as the node's path. Memory reservations, the header and bytes that no reader sees count too: they
    are measured. Exit 0 if both are the same bytes, 1 if not, 2 if they cannot be compared.
    """
    from kbs_rim.errors import MalformedEvidence

    if str(before) == str(after) == "-":
        raise click.UsageError("only one of the trees can come from stdin")
    files = []
    for file in (before, after):
        try:
            files.append(_read(file))
        except MalformedEvidence as error:
            raise click.ClickException(f"{file}: {error.finding_id}: {error}") from None
    differences = diff_trees(*files)
    if as_json:
        click.echo(json.dumps(_document(differences), indent=2))
    else:
        for line in _lines(differences, everything=everything):
            click.echo(line)
    return EXIT_REFUSED if differences else EXIT_OK


def _read(file: Path) -> TreeFile:
    from kbs_rim.limits import DEFAULT_LIMITS

    with click.open_file(str(file), "rb") as stream:
        return read_tree_file(stream.read(DEFAULT_LIMITS.device_tree_bytes + 1))


def _lines(differences: tuple[TreeDifference, ...], *, everything: bool) -> Iterator[str]:
    if not differences:
        yield "the same"
        return
    hidden = []
    alone = ""
    for difference in differences:
        if difference.subject is Subject.NODE:
            alone = difference.path
        if alone and difference.subject is Subject.PROPERTY and difference.path == alone:
            yield f"{_SIGNS[difference.change]}     {difference.name}{_values(difference)}"
        elif everything or not (difference.renumbered or difference.subject in (Subject.PADDING, Subject.ORDER, Subject.STRINGS)):
            yield _line(difference)
        else:
            hidden.append(difference)
    if hidden:
        counts = summary(hidden)
        names = {
            "renumbered": "properties with other phandle numbers",
            "padding": "paddings",
            "order": "orders",
            "strings": "strings block",
        }
        yield f"not listed: {', '.join(f'{count} {names[key]}' for key, count in counts.items())} (--all)"


def _line(difference: TreeDifference) -> str:
    place = " ".join(part for part in (difference.path, difference.name) if part)
    subject = "" if difference.subject is Subject.PROPERTY else f"{difference.subject.value} "
    return f"{_SIGNS[difference.change]} {subject}{place}".rstrip() + _values(difference)


def _values(difference: TreeDifference) -> str:
    values = [_short(text) for text in (difference.before, difference.after) if text is not None]
    if not any(values):
        return ""
    text = " -> ".join(value or "(empty)" for value in values)
    own_number = difference.name in ("phandle", "linux,phandle")
    return f": {text}" + (" (the same node)" if difference.renumbered and not own_number else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _document(differences: tuple[TreeDifference, ...]) -> dict[str, Any]:
    return {
        "same": not differences,
        "counts": dict(summary(differences)),
        "differences": [_entry(difference) for difference in differences],
    }


def _entry(difference: TreeDifference) -> dict[str, Any]:
    sides = ((difference.before, difference.before_bytes), (difference.after, difference.after_bytes))
    before, after = (None if text is None else {"text": text, "hex": None if raw is None else raw.hex()} for text, raw in sides)
    return {
        "change": difference.change.value,
        "subject": difference.subject.value,
        "path": difference.path,
        "name": difference.name,
        "before": before,
        "after": after,
        "renumbered": difference.renumbered,
    }
