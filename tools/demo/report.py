"""What the demo prints. Plain text of 100 columns where nobody watches, colours and a moving line where somebody does."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.attacks import Judged

PLAIN_COLUMNS = 100


def make_console() -> Console:
    """Return the console for stdout: as wide as the terminal, or 100 columns."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PLAIN_COLUMNS)


class Report:
    """Prints the parts of the demo in order."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._number = 0

    def title(self, text: str) -> None:
        """Print the first line."""
        self._console.print(Text(text, style="bold"))

    def chapter(self, text: str, about: str = "") -> None:
        """Begin a numbered part."""
        self._number += 1
        self._console.print()
        self._console.print(Text(f"{self._number}  {text}", style="bold cyan"))
        if about:
            self._console.print(Text(about, style="dim"))

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self._console.print(Text(text, style=style))

    def verbatim(self, text: str) -> None:
        """Print lines that somebody will copy: they are never broken."""
        self._console.print(Text(text), soft_wrap=True)

    def command(self, text: str) -> None:
        """Show a command that is being run, cut to one line; that of a guest is shown whole."""
        whole = text.startswith("kbs-rim guest")
        self._console.print(Text(f"$ {text}", style="green"), no_wrap=not whole, overflow="fold" if whole else "ellipsis")

    def check(self, good: bool, text: str) -> None:
        """Print a statement that the demo has checked."""
        mark = Text("ok  ", style="green") if good else Text("NO  ", style="bold red")
        self._console.print(mark.append(text, style="" if good else "bold red"))

    def working(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal that something takes a moment; elsewhere print nothing."""
        return self._console.status(Text(text))

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(Text(name), Text(value))
        self._console.print(grid)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table; values fold, never vanish."""
        table = _table()
        for column in columns:
            table.add_column(Text(column), overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=_style_of(cell)) for cell in row))
        self._console.print(table)

    def attacks(self, group: str, judged: Iterable[Judged]) -> None:
        """Print one group of attacks: what the attacker was told, and whether the auditor sees what he must see."""
        table = _table()
        table.add_column("", width=2)
        table.add_column(Text(group, style="bold"), width=33)
        table.add_column("attacker is told", width=24, overflow="fold")
        table.add_column("auditor sees", width=26, overflow="fold")
        table.add_column("ms", justify="right", width=4)
        for item in judged:
            table.add_row(*attack_row(item))
        self._console.print(table)


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, header_style="bold")


def _style_of(cell: str) -> str:
    return {"ok": "green", "NO": "bold red"}.get(cell, "")


def attack_row(item: Judged) -> tuple[Text, Text, Text, Text, Text]:
    """Return the cells of one attack: mark, title with problems, code with ticket, findings, milliseconds of the broker."""
    good = not item.problems
    title = Text(item.attack.title)
    for problem in item.problems:
        title.append(f"\n{problem}", style="bold red")
    told = Text(item.told.code, style="" if item.told.code == item.attack.told else "bold red")
    if item.told.ticket:
        told.append(f"\n{item.told.ticket}", style="dim")
    mark = Text("ok", style="green") if good else Text("NO", style="bold red")
    cost = "" if item.broker_s is None else f"{1000 * item.broker_s:.0f}"
    return mark, title, told, _findings(item), Text(cost)


def _findings(item: Judged) -> Text:
    """Expected ids first, each as seen or missing; then how many others there are."""
    expected, seen = item.attack.findings, item.seen
    if not expected and not seen:
        return Text(item.attack.instead, style="dim")
    lines = [(name, "green") if name in seen else (f"{name} MISSING", "bold red") for name in expected]
    if others := [name for name in seen if name not in expected]:
        lines.append((f"and {others[0]}" if len(others) == 1 else f"and {len(others)} more", "dim"))
    return Text("\n").join(Text(text, style=style) for text, style in lines)
