"""Evidence of a real realm: the token from configfs-tsm, the logs from ACPI and files.

The kernel's rules that are easy to miss: a write takes effect when the file is closed and its error is thrown away, so only the
``generation`` counter tells whether it worked; a report is made at the first read, and another writer could change the
challenge in between, so the counter is read again afterwards; an empty report is a failure.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kbs_rim.evidence.envelope import Evidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.realm.failures import EvidenceUnavailable
from kbs_rim.realm.guest_logs import GuestLogs, read_bounded

REPORT_ROOT = Path("/sys/kernel/config/tsm/report")
PROVIDER = "arm_cca_guest"
CHALLENGE_SIZE = 64
RETRY_DELAYS_S = (0.2, 1.0, 3.0)
"""Pauses before another try in a new directory, after an error that the RMM or a lack of memory may cause."""
_PREFIX = "kbs-rim-"
_TRANSIENT = frozenset({"ENXIO", "EINVAL", "ENOMEM"})


class ReportTree(Protocol):
    """configfs-tsm as a file system: what ``ConfigfsTree`` does on a real realm."""

    def create(self, name: str) -> None:
        """Make a report directory."""

    def remove(self, name: str) -> None:
        """Remove it."""

    def names(self) -> list[str]:
        """Return the report directories that exist."""

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Open, write once, close."""

    def read(self, name: str, attribute: str, limit: int) -> bytes:
        """Read an attribute, at most ``limit`` bytes and one more."""


class ConfigfsTree:
    """The real thing, below ``root``."""

    def __init__(self, root: Path = REPORT_ROOT) -> None:
        self.root = root

    def create(self, name: str) -> None:
        """``mkdir`` needs root and a provider."""
        (self.root / name).mkdir()

    def remove(self, name: str) -> None:
        """configfs removes the attributes with the directory."""
        (self.root / name).rmdir()

    def names(self) -> list[str]:
        """Return the directories below the root."""
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """One ``write`` call, write-only: a file opened for both is refused, several writes would concatenate."""
        descriptor = os.open(self.root / name / attribute, os.O_WRONLY)
        try:
            if os.write(descriptor, data) != len(data):
                raise EvidenceUnavailable(f"{attribute} took only a part of the challenge")
        finally:
            os.close(descriptor)

    def read(self, name: str, attribute: str, limit: int) -> bytes:
        """Read unbuffered, so that the report is made once."""
        with (self.root / name / attribute).open("rb", buffering=0) as file:
            parts, size = [], 0
            while size <= limit and (part := file.read(limit + 1 - size)):
                parts.append(part)
                size += len(part)
            return b"".join(parts)


def read_token(
    challenge: bytes,
    tree: ReportTree,
    limits: Limits = DEFAULT_LIMITS,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> bytes:
    """Return the CCA token for a 64-byte challenge; raise ``EvidenceUnavailable`` with what the kernel said."""
    if len(challenge) != CHALLENGE_SIZE:
        raise ValueError(f"a challenge has {CHALLENGE_SIZE} bytes")
    _remove_leftovers(tree)
    for delay in (*RETRY_DELAYS_S, None):
        try:
            return _one_report(challenge, tree, limits)
        except OSError as error:
            if delay is None or _name_of(error) not in _TRANSIENT:
                raise EvidenceUnavailable(_explain(error)) from None
            pause(delay)
    raise EvidenceUnavailable("no report")


def _one_report(challenge: bytes, tree: ReportTree, limits: Limits) -> bytes:
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    tree.create(name)
    try:
        provider = tree.read(name, "provider", 64).decode("ascii", "replace").strip()
        if provider != PROVIDER:
            raise EvidenceUnavailable(f"the report provider is {provider!r}, not {PROVIDER}: this is no CCA realm")
        before = _generation(tree, name)
        tree.write(name, "inblob", challenge)
        if _generation(tree, name) != before + 1:
            raise EvidenceUnavailable("the kernel did not take the challenge, or somebody else writes to our report")
        token = tree.read(name, "outblob", limits.token_bytes)
        if _generation(tree, name) != before + 1:
            raise EvidenceUnavailable("somebody else wrote to our report while it was made")
        if not token:
            raise EvidenceUnavailable("the kernel gave an empty report")
        if len(token) > limits.token_bytes:
            raise EvidenceUnavailable(f"the token is larger than {limits.token_bytes} bytes")
        return token
    finally:
        with contextlib.suppress(OSError):
            tree.remove(name)


def _generation(tree: ReportTree, name: str) -> int:
    text = tree.read(name, "generation", 32).decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise EvidenceUnavailable("the report has no generation counter")
    return int(text)


def _remove_leftovers(tree: ReportTree) -> None:
    """Directories of processes that died block a later load of the provider: remove those of our prefix whose process is gone."""
    try:
        names = tree.names()
    except OSError as error:
        raise EvidenceUnavailable(_explain(error)) from None
    for name in names:
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if name.startswith(_PREFIX) and owner.isdecimal() and not _is_alive(int(owner)):
            with contextlib.suppress(OSError):
                tree.remove(name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")


_EXPLANATIONS = {
    "ENOENT": "configfs is not mounted, or the modules tsm_report and arm_cca_guest are not loaded: this may be no realm",
    "EACCES": "reports are made by root only",
    "EPERM": "reports are made by root only",
    "ENXIO": "no report provider: the module arm_cca_guest is not loaded, or the RMM failed",
    "EINVAL": "the RMM refused the challenge",
    "ENOMEM": "the kernel had no memory for the report",
    "EFBIG": "the report is larger than the kernel allows",
}


def _explain(error: OSError) -> str:
    name = _name_of(error)
    return f"{_EXPLANATIONS.get(name, 'the report could not be made')} ({name})"


class TsmEvidence:
    """Where a real realm gets its evidence from."""

    def __init__(self, tree: ReportTree | None = None, *, logs: GuestLogs | None = None, device_tree: Path | None = None) -> None:
        """``logs`` is where they are. ``device_tree`` is the tree as it was loaded; Linux has it as /sys/firmware/fdt, unless it wiped a
        seed in it.
        """
        self._tree = tree or ConfigfsTree()
        self._logs = logs or GuestLogs()
        self._device_tree = device_tree

    def evidence(self, challenge: bytes) -> Evidence:
        """Return token, logs and device tree; raise ``EvidenceUnavailable``, or ``OSError`` for a tree that cannot be read."""
        logs = self._logs.read()
        most = DEFAULT_LIMITS.device_tree_bytes
        tree = None if self._device_tree is None else read_bounded(self._device_tree, "a device tree", most)
        return Evidence(read_token(challenge, self._tree), logs, tree)
