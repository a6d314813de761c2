"""Walks the arguments of a VMM: which option, which value, is it known at all.

Two styles: QEMU's (one or two dashes, always whole words) and getopt's long and short options (kvmtool, cloud-hypervisor).
"""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kbs_rim.measurement.vmm.argument_values import LONGEST_ARGUMENT
from kbs_rim.measurement.vmm.definition import refuse_argument

MOST_ARGUMENTS = 4096


class GivenOption(NamedTuple):
    """One option as given: its ``name`` in the table (no dashes), how it was ``written``, its value ("" for a flag)."""

    name: str
    written: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionTable:
    """The options that a VMM has: with a value, without; ``short`` maps single letters to names.

    ``programs`` are words that may stand in front, from a command line that was copied whole.
    """

    valued: Collection[str]
    flags: Collection[str]
    short: dict[str, str]
    programs: re.Pattern[str]


def scan_words(arguments: Sequence[str], table: OptionTable) -> Iterator[GivenOption]:
    """Yield QEMU's options: ``-name value``, ``--name value`` or ``-name=value``."""
    words = _checked(arguments, table)
    for word in words:
        if not word.startswith("-"):
            raise refuse_argument(word[:60], "is no option; quote values that hold blanks, and put -drive in front of a disk image")
        name, sign, value = word.removeprefix("-").removeprefix("-").partition("=")
        yield _option(name, f"-{name}", value if sign else None, words, table)


def scan_getopt(arguments: Sequence[str], table: OptionTable) -> Iterator[GivenOption]:
    """Yield options as getopt reads them: ``--name value``, ``--name=value``, ``-x value``, ``-xvalue``, ``-x=value``, ``-xy``."""
    words = _checked(arguments, table)
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, sign, value = word[2:].partition("=")
            yield _option(name, f"--{name}", value if sign else None, words, table)
        elif word.startswith("-") and len(word) > 1:
            yield from _short(word, words, table)
        else:
            raise refuse_argument(word[:60] or "''", "is no option; quote values that hold blanks")


def _short(word: str, words: Iterator[str], table: OptionTable) -> Iterator[GivenOption]:
    for position, letter in enumerate(word[1:], start=1):
        name = table.short.get(letter)
        if name is None:
            raise refuse_argument(f"-{letter}", "is not an option of this VMM")
        rest = word[position + 1 :]
        if name in table.valued:
            yield _option(name, f"-{letter}", rest.removeprefix("=") if rest else None, words, table)
            return
        yield GivenOption(name, f"-{letter}", "")


def _option(name: str, written: str, value: str | None, words: Iterator[str], table: OptionTable) -> GivenOption:
    if name in table.flags:
        if value is not None:
            raise refuse_argument(written, "takes no value")
        return GivenOption(name, written, "")
    if name not in table.valued:
        dashes = written[: len(written) - len(name)]
        near = difflib.get_close_matches(name[:60], [*table.valued, *table.flags], n=1)
        hint = f"; did you mean {dashes}{near[0]}?" if near else ""
        raise refuse_argument(written[:60], f"is not an option of this VMM{hint}")
    if value is None:
        value = next(words, None)
        if value is None:
            raise refuse_argument(written, "needs a value")
    return GivenOption(name, written, value)


def _checked(arguments: Sequence[str], table: OptionTable) -> Iterator[str]:
    if len(arguments) > MOST_ARGUMENTS:
        raise refuse_argument("arguments", f"there are more than {MOST_ARGUMENTS}")
    for argument in arguments:
        if len(argument) > LONGEST_ARGUMENT or "\0" in argument:
            raise refuse_argument(argument[:20], f"has more than {LONGEST_ARGUMENT} characters, or a NUL")
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise refuse_argument(argument[:20], "is not UTF-8")
    start = 0
    while start < len(arguments) and table.programs.fullmatch(arguments[start]):
        start += 1
    return iter(arguments[start:])
