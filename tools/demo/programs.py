"""Running ``kbs-rim`` as people do: as a command, with its exit code and its JSON."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.processes import Processes, Result

PROGRAM = Path(sys.executable).parent / "kbs-rim"


class CommandFailed(Exception):
    """A command that had to succeed did not."""


def clean_environment() -> dict[str, str]:
    """Return our environment without what would change the programs: the user's own kbs-rim settings, and proxies."""
    left_out = ("KBS_RIM_", "PYTHON", "COLUMNS", "FORCE_COLOR")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out) and not name.lower().endswith("_proxy")}


class Cli:
    """Runs ``kbs-rim`` commands as one person. ``echo`` gets each command in short form."""

    def __init__(self, processes: Processes, echo: Callable[[str], None], environment: Mapping[str, str]) -> None:
        self._processes = processes
        self._echo = echo
        self._environment = dict(environment)

    def run(self, *arguments: str, echo: bool = False, stdin: bytes | None = None, environment: Mapping[str, str] | None = None) -> Result:
        """Run to the end, whatever the exit code."""
        if echo:
            self._echo(short_form(arguments))
        return self._processes.run([str(PROGRAM), *arguments], stdin=stdin, environment={**self._environment, **(environment or {})})

    def must(self, *arguments: str, echo: bool = True, stdin: bytes | None = None) -> Result:
        """Run a command that has to succeed; raise ``CommandFailed`` with what it said."""
        result = self.run(*arguments, echo=echo, stdin=stdin)
        if result.code:
            raise CommandFailed(f"$ {short_form(arguments)}\n{result.stderr.strip()}\n(exit code {result.code})")
        return result

    def json(self, *arguments: str, echo: bool = False) -> Any:
        """Run a command that has to succeed with ``--json``; return the document."""
        return json.loads(self.must(*arguments, "--json", echo=echo).stdout)


def short_form(arguments: Sequence[str]) -> str:
    """Return a command for people: files by name, image ids and keys cut."""
    return shlex.join(["kbs-rim", *map(_short, arguments)])


def _short(argument: str) -> str:
    if argument.startswith("/"):
        return Path(argument).name
    return f"{argument[:15]}…" if argument.startswith("sha256:") else argument
