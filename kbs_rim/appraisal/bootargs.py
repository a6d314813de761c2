"""Kernel command lines: taken apart as Linux does it, and judged by a workload's rules.

The host writes the command line, and the kernel obeys it: one parameter (``init=``, ``rd.break``, ``ima_appraise=off``) undoes what
was measured. So the rules name what is allowed and refuse the rest. Parsing follows ``next_arg`` and ``parse_args`` of Linux
(lib/cmdline.c, kernel/params.c): blanks separate, double quotes hold a value together and do not nest, ``--`` ends the kernel's
part, ``-`` and ``_`` are one letter in names. User space (systemd, dracut, shells) reads the same text and takes it apart in other ways;
where the two could differ, the stricter reading counts.
"""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

COMMAND_LINE_BYTES = 2047
"""COMMAND_LINE_SIZE of arm64 without the NUL: Linux cuts what is longer without a word."""
_MOST_STARS = 3
_BLANKS = re.compile(r"[ ]+")
_NOT_FREE = frozenset(string.whitespace + '"')
"""What ``*`` does not stand for: blanks and quotes, in which one reader could find what another one does not see."""
_COUNT = 256

Text = Annotated[str, StringConstraints(max_length=COMMAND_LINE_BYTES)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=COMMAND_LINE_BYTES)]


class BootargsRules(BaseModel):
    """What ``/chosen/bootargs`` may be. Without any key: nothing at all, or no such property.

    ``exact``: the whole text is one of these, byte for byte. Otherwise each parameter must match ``allowed`` or ``required``;
    those in ``required`` must be there; what matches ``forbidden`` is refused all the same. A pattern is ``name``, ``name=value`` or has
    up to three ``*``, which stand for anything but blanks and quotes. ``--`` must be allowed, as must each argument of init behind it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: Annotated[tuple[Text, ...], Field(max_length=_COUNT)] = ()
    required: Annotated[tuple[Pattern, ...], Field(max_length=_COUNT)] = ()
    allowed: Annotated[tuple[Pattern, ...], Field(max_length=_COUNT)] = ()
    forbidden: Annotated[tuple[Pattern, ...], Field(max_length=_COUNT)] = ()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.exact and (self.required or self.allowed or self.forbidden):
            raise ValueError("exact says everything: leave out required, allowed and forbidden")
        if self.forbidden and not self.allowed:
            raise ValueError("forbidden only takes away from allowed: what is not allowed is refused anyway")
        for pattern in (*self.required, *self.allowed, *self.forbidden):
            if pattern.count("*") > _MOST_STARS:
                raise ValueError(f"a pattern has at most {_MOST_STARS} stars")
        if any("*" in pattern for pattern in self.required):
            raise ValueError("required parameters are written out, without stars")
        return self


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as the kernel sees it, quotes taken off; ``value`` is None without ``=``."""

    name: str
    value: str | None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


_END = Parameter("--", None)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The kernel's parameters, and what it hands to init behind ``--`` (None if there is no ``--``)."""

    parameters: tuple[Parameter, ...]
    init: tuple[Parameter, ...] | None = None


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason why a command line is refused."""

    message: str
    expected: str | None
    seen: str


def parse_command_line(text: str) -> CommandLine:
    """Take printable ASCII apart as Linux does. Raises ``ValueError`` for other text and for a quote without its partner."""
    if not text.isascii() or not (text.isprintable() or not text):
        raise ValueError("the boot arguments are not printable ASCII: readers disagree on what separates them")
    if text.count('"') % 2:
        raise ValueError("the boot arguments have a quote without its partner")
    parameters = tuple(map(_parameter, _words(text)))
    if _END not in parameters:
        return CommandLine(parameters)
    end = parameters.index(_END)
    return CommandLine(parameters[:end], parameters[end + 1 :])


def judge_bootargs(text: str, rules: BootargsRules) -> Iterator[Objection]:
    """Yield every objection to a command line; ``text`` is empty if the tree has none."""
    if len(text.encode()) > COMMAND_LINE_BYTES:
        yield Objection("the kernel would cut the boot arguments", f"at most {COMMAND_LINE_BYTES} bytes", f"{len(text.encode())} bytes")
        return
    if rules.exact or not (rules.required or rules.allowed):
        wanted = rules.exact or ("",)
        if text not in wanted:
            yield Objection("the boot arguments are others than the workload says", " or ".join(map(_shown, wanted)), _shown(text))
        return
    try:
        line = parse_command_line(text)
    except ValueError as error:
        yield Objection(str(error), None, _shown(text))
        return
    yield from _judge_parameters(line, rules)
    yield from _judge_forbidden(text, line, rules)


def _judge_parameters(line: CommandLine, rules: BootargsRules) -> Iterator[Objection]:
    """Everything there is allowed, everything required is there, and nothing that is required gets a second value."""
    pinned = {_folded(wanted.partition("=")[0]) for wanted in rules.required if "=" in wanted}
    for parameter in line.parameters:
        if str(parameter) in rules.required:
            continue
        if _folded(parameter.name) in pinned:
            expected = ", ".join(wanted for wanted in rules.required if _folded(wanted.partition("=")[0]) == _folded(parameter.name))
            yield Objection(f"{_shown(parameter.name)} has another value than is required", expected, _shown(str(parameter)))
        elif not any(matches_pattern(pattern, str(parameter)) for pattern in rules.allowed):
            yield Objection(f"the boot parameter {_shown(parameter.name)} is not allowed", None, _shown(str(parameter)))
    if line.init is not None and str(_END) not in rules.allowed:
        yield Objection("arguments for init (behind --) are not allowed", None, _shown(" ".join(map(str, line.init))))
    for argument in line.init or ():
        if not any(matches_pattern(pattern, str(argument)) for pattern in rules.allowed):
            yield Objection(f"the argument {_shown(argument.name)} for init is not allowed", None, _shown(str(argument)))
    present = {str(parameter) for parameter in line.parameters}
    for wanted in rules.required:
        if wanted not in present:
            yield Objection(f"the boot parameter {wanted} is missing", wanted, "absent")


def _judge_forbidden(text: str, line: CommandLine, rules: BootargsRules) -> Iterator[Objection]:
    """What is forbidden is looked for in the kernel's reading and in those of programs that see or drop quotes in other ways."""
    plain = (_parameter(word) for reading in (" ", "") for word in _BLANKS.split(text.replace('"', reading)) if word)
    every = dict.fromkeys((*line.parameters, *(line.init or ()), *plain))
    for pattern in rules.forbidden:
        name, separator, _ = pattern.partition("=")
        whole, bare = _folded(pattern), _folded(name)
        for parameter in every:
            folded = Parameter(_folded(parameter.name), parameter.value)
            hit = matches_pattern(whole, _with_folded_value(folded)) if separator else matches_pattern(bare, folded.name)
            if hit:
                yield Objection(f"the boot parameter {_shown(parameter.name)} is forbidden", f"no {pattern}", _shown(str(parameter)))


def _words(text: str) -> Iterator[str]:
    """Split at blanks outside of quotes; the quotes stay in."""
    word, quoted = "", False
    for character in text:
        if character == " " and not quoted:
            if word:
                yield word
            word = ""
            continue
        quoted ^= character == '"'
        word += character
    if word:
        yield word


def _parameter(word: str) -> Parameter:
    """What ``next_arg`` makes of one word: the quotes around the whole word or around the value are dropped, others stay."""
    whole = word.startswith('"')
    if whole:
        word = word[1:]
    # Linux looks for "=" from the second character on: a word that begins with it has no value.
    at = word.find("=", 1)
    name, value = (word, None) if at < 0 else (word[:at], word[at + 1 :])
    if value is not None and value.startswith('"'):
        value = value[1:].removesuffix('"')
    elif whole:
        if value is None:
            name = name.removesuffix('"')
        else:
            value = value.removesuffix('"')
    return Parameter(name, value)


def _folded(name: str) -> str:
    """Linux takes ``-`` and ``_`` in names of parameters for the same letter."""
    return name.replace("-", "_")


def _with_folded_value(parameter: Parameter) -> str:
    return parameter.name if parameter.value is None else f"{parameter.name}={_folded(parameter.value)}"


@lru_cache(maxsize=4 * _COUNT)
def _compiled(pattern: str) -> tuple[dict[str, int], int, int]:
    """Return, with one bit for each place: where each character stands, where stars stand, and where the pattern ends."""
    places: dict[str, int] = {}
    stars, place = 0, 0
    for character in pattern:
        if character == "*":
            stars |= 1 << place
        else:
            places[character] = places.get(character, 0) | 1 << place
            place += 1
    return places, stars, 1 << place


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether all of ``text`` matches. A regular expression tries every way to share a text among several stars, which takes seconds
    for the text that an attacker would choose; here all ways are followed at once.
    """
    head, star, _ = pattern.partition("*")
    if not star:
        return text == pattern
    if not text.startswith(head) or not text.endswith(pattern.rpartition("*")[2]):
        return False
    places, stars, end = _compiled(pattern)
    reached = 1
    for character in text:
        stay = 0 if character in _NOT_FREE else reached & stars
        reached = (reached & places.get(character, 0)) << 1 | stay
        if not reached:
            return False
    return bool(reached & end)


def _shown(text: str) -> str:
    """Return text for a finding: ASCII, quoted, short."""
    shown = ascii(text[:400])
    return shown if len(text) <= 400 else f"{shown}... ({len(text)} characters)"
