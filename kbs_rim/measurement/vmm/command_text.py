"""A command line as text: pasted from a script, or taken from ``/proc/PID/cmdline``. Split as a shell would, never run."""

import re
import shlex

from kbs_rim.limits import KIB
from kbs_rim.measurement.vmm.definition import refuse_argument
from kbs_rim.measurement.vmm.option_scanner import MOST_ARGUMENTS

LARGEST_COMMAND = 256 * KIB
"""Characters; libvirt's longest lines have 20 KiB."""
_IN_FRONT = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*=.*)|(?:.*/)?(?:sudo|exec|env|nohup|time)", re.DOTALL)
"""Words that stand before a program: variables for it, and programs that only start another one."""
_OPERATORS = re.compile(r"[();<>|&]+")


def command_words(text: str) -> tuple[str, ...]:
    """Return the words of one command, without variables and starters in front.

    Text with NULs is split at them. Anything else is read as a POSIX shell reads it: quotes, backslashes, lines that go on, comments.
    Nothing is expanded; an operator such as ``|`` or ``&&`` is refused, for what a shell would make of it is not known here.

    Raises ``InvalidDocument`` (``document.vm-arguments``).
    """
    if len(text) > LARGEST_COMMAND:
        raise refuse_argument("command line", f"has more than {LARGEST_COMMAND} characters")
    words = text.removesuffix("\0").split("\0") if "\0" in text else _shell_words(text)
    if len(words) > MOST_ARGUMENTS:
        raise refuse_argument("command line", f"has more than {MOST_ARGUMENTS} words")
    start = 0
    while start < len(words) and _IN_FRONT.fullmatch(words[start]):
        start += 1
    if start == len(words):
        raise refuse_argument("command line", "has no words")
    return tuple(words[start:])


def unexpanded(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that a shell might have expanded."""
    return tuple(word for word in words if "$" in word or "`" in word)


def _shell_words(text: str) -> list[str]:
    lines = (line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
    lexer = shlex.shlex("\n".join(lines), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = ""  # else a # inside a word would end the line, which it does in no shell
    try:
        words = list(lexer)
    except ValueError as error:
        raise refuse_argument("command line", f"cannot be split: {error}") from None
    operator = next((word for word in words if _OPERATORS.fullmatch(word)), None)
    if operator is not None:
        raise refuse_argument("command line", f"has the operator {operator[:8]}: give one command, and no more than that")
    return words
