"""Realms that ask for their secrets, and what they are told."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from stat import S_IMODE
from typing import Any

from demo.programs import Cli
from demo.realms import Vm
from demo.wire import Message

GOT_IT = "secret"
"""What a guest was told if it got the secret."""
_REFUSED = 1


@dataclass(frozen=True, slots=True)
class Told:
    """How an exchange ended for whoever asked: a code, and the ticket if the broker gave one. ``seconds`` for all of it."""

    code: str
    ticket: str | None = None
    seconds: float = 0.0
    secret: bytes | None = field(default=None, repr=False)
    message: str = ""


class Guests:
    """Runs ``kbs-rim guest get`` for simulated realms."""

    def __init__(self, cli: Cli, images: Mapping[str, Path], folder: Path) -> None:
        """``folder`` has the files of the platforms, and takes the secrets that guests get."""
        self._cli, self._images, self._folder = cli, images, folder
        self._numbers = count(1)

    def ask(self, vm: Vm, broker_url: str, *, lie: str | None = None, deadline_s: float = 60, echo: bool = False) -> Told:
        """Let the VM boot and ask; ``lie`` is what its host or its platform does."""
        output = self._folder / f"secret-{next(self._numbers)}"
        command = ["guest", "get", vm.key, "--broker", broker_url, "--output", str(output), "--json", "--key-type", vm.key_type]
        command += ["--deadline", str(deadline_s), "--simulate", "--", *vm.arguments(self._images)]
        command += ["--platform", str(self._folder / f"{vm.platform}.json")]
        command += ["--lie", lie] if lie else []
        result = self._cli.run(*command, echo=echo)
        message = result.stderr.strip().rpartition("\n")[2]
        if result.code == 0:
            mode = S_IMODE(output.stat().st_mode)
            code = GOT_IT if mode == 0o600 else f"secret in a file with mode {mode:o}"
            return Told(code, json.loads(result.stdout)["ticket"], result.seconds, output.read_bytes(), message)
        if result.code == _REFUSED:
            refused = json.loads(result.stdout)["refused"]
            return Told(refused["code"], refused["ticket"], result.seconds, None, message)
        return Told(f"exit code {result.code}", None, result.seconds, None, message)


def told_by(answer: Message, seconds: float = 0.0) -> Told:
    """Read what a broker said to an attacker who speaks HTTP himself."""
    document: dict[str, Any] = answer.json
    if answer.status < 300:
        return Told(f"HTTP {answer.status}", document.get("ticket"), seconds, answer.body)
    return Told(str(document.get("code", f"HTTP {answer.status}")), document.get("ticket"), seconds)
