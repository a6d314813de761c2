"""What ``kbs-rim workload learn`` shows for approval: every event with what lets it in, the warnings, what is missing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kbs_rim.cli.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from kbs_rim.appraisal.reference_boot import Learned, Lesson

_UNFOLDED_WIDTH = 200
_DIGITS = 16


def print_review(learned: "Learned", warnings: Sequence[str], *, signed: bool) -> None:
    """Print the review on stderr: stdout is for the document."""
    import sys

    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, width=None if sys.stderr.isatty() else _UNFOLDED_WIDTH)
    _print_events(console, learned)
    proven = (
        "the logs replay to the REMs that the RMM signed" if signed else "no signed REMs to compare with: is this log what you think it is?"
    )
    console.print(f"\n{proven}")
    for warning in warnings:
        console.print(f"warning: {warning}")
    for lesson in learned.unexplained:
        console.print(f"NOT LET IN: {_place(lesson)}, {lesson.what}: {lesson.advice}")
    for problem in learned.problems:
        console.print(f"PROBLEM: {problem.id}: {problem.message}")
    if learned.complete:
        console.print(f"\nThe judge lets this boot in by these rules: {counted(len(learned.lessons), 'event')}.")
    else:
        missing = f"{counted(len(learned.unexplained), 'event')} {'is' if len(learned.unexplained) == 1 else 'are'} not explained"
        console.print(f"\nThese rules refuse the boot that they were learnt from: {missing}.")


def _print_events(console: "Console", learned: "Learned") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("register", "event", "says", "is", "digest", "let in by"):
        table.add_column(column, overflow="fold")
    for lesson in sorted(learned.lessons, key=lambda item: (item.event.rem, learned.lessons.index(item))):
        cells = (
            f"REM{lesson.event.rem}",
            f"{lesson.event.label} {lesson.event.event.number}",
            lesson.event.event.type_name.removeprefix("EV_"),
            lesson.what,
            lesson.event.digest.hex()[:_DIGITS],
            lesson.key or "NOTHING",
        )
        table.add_row(*(Text(cell) for cell in cells), style=None if lesson.key else "bold red")
    with console.capture() as capture:
        console.print(table, soft_wrap=False)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _place(lesson: "Lesson") -> str:
    return f"event {lesson.event.event.number} of the {lesson.event.label} log in REM{lesson.event.rem}"


def review_document(learned: "Learned", warnings: Sequence[str], *, signed: bool) -> dict[str, Any]:
    """Return the review and the rules as JSON."""
    return {
        "complete": learned.complete,
        "realm": {"rems": learned.rems},
        "runtime": learned.table,
        "replayed": [value.hex() for value in learned.values],
        "signed": signed,
        "warnings": list(warnings),
        "events": [
            {
                "log": lesson.event.label.value,
                "event": lesson.event.event.number,
                "rem": lesson.event.rem,
                "type": lesson.event.event.type_name,
                "what": lesson.what,
                "digest": lesson.event.digest.hex(),
                "let_in_by": lesson.key,
                "image": lesson.image.id if lesson.image else None,
                "advice": lesson.advice or None,
            }
            for lesson in learned.lessons
        ],
        "problems": [problem.to_document() for problem in learned.problems],
    }


def notes_of(learned: "Learned") -> Mapping[str, str]:
    """Return comments for the TOML: what ids and digests of the rules are of."""
    import hashlib

    notes = {image.id: image.name for image in learned.images} | {hashlib.sha256(b"").hexdigest(): "empty"}
    for lesson in learned.lessons:
        hashed = lesson.event.hashed
        if hashed is not None:
            notes.setdefault(hashlib.sha256(hashed).hexdigest(), lesson.what)
    return notes
