"""Programs that the demo starts, each in a process group of its own, and none of which outlives it."""

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

_GRACE_S = 5.0
_POLL_S = 0.02


class Interrupted(BaseException):
    """The user or the system wants the demo to end. Not an ``Exception``: nothing may take it for a failed attack."""


class ServiceFailed(Exception):
    """A service did not start, or died; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Result:
    """A program that ended: exit code, output, and how long it took."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float


class Service:
    """A long-running program whose output goes to a log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    def check(self) -> None:
        """Raise ``ServiceFailed`` if it ended."""
        if (code := self.process.poll()) is not None:
            raise ServiceFailed(f"{self.name} ended with exit code {code}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_for_line(self, start: str, timeout_s: float) -> str:
        """Return the first line of the log that begins with ``start``; raise ``ServiceFailed``."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            for line in self.log.read_text(errors="replace").splitlines(keepends=True):
                if line.startswith(start) and line.endswith("\n"):
                    return line.strip()
            self.check()
            time.sleep(_POLL_S)
        raise ServiceFailed(f"{self.name} was not ready after {timeout_s:g} s:\n{self.tail()}")


class Processes:
    """Starts programs and, as a context manager, ends all that still run: at success, failure, Ctrl-C, SIGTERM and SIGHUP.

    The first signal becomes ``Interrupted`` in the main thread, but never between a program's start and its entry in the list
    of what must be ended. Later signals change nothing.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._starting = False
        self._signal: str | None = None

    def __enter__(self) -> Self:
        atexit.register(self.close)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End everything; start nothing more."""
        self._closed = True
        with self._lock:
            left = list(self._running.values())
            self._running.clear()
        end_all(left)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        first, self._signal = self._signal is None, signal.Signals(number).name
        if first and not self._closed and not self._starting:
            raise Interrupted(self._signal)

    def start(self, name: str, command: Sequence[str], log: Path) -> Service:
        """Start a service; stdout and stderr go to ``log``."""
        with log.open("wb") as output:
            process = self._spawn(command, {}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        return Service(name, process, log)

    def stop(self, service: Service) -> None:
        """End a service and wait until it is gone."""
        end_all([service.process])
        with self._lock:
            self._running.pop(service.process.pid, None)

    def run(
        self, command: Sequence[str], *, stdin: bytes | None = None, environment: Mapping[str, str] | None = None, timeout_s: float = 120
    ) -> Result:
        """Run a program to its end; it is killed after ``timeout_s``, which counts as exit code -9."""
        began = time.monotonic()
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = self._spawn(command, environment or {}, stdin=null if stdin is None else pipe, stdout=pipe, stderr=pipe)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_all([process])
            stdout, stderr = process.communicate()
        finally:
            end_all([process])
            with self._lock:
                self._running.pop(process.pid, None)
        return Result(process.returncode, stdout, stderr.decode(errors="replace"), time.monotonic() - began)

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int | IO[bytes], stderr: int
    ) -> subprocess.Popen[bytes]:
        merged = {**self._environment, **environment}
        is_main = threading.current_thread() is threading.main_thread()
        with self._lock:
            if self._closed:
                raise Interrupted("closed")
            self._starting = is_main
            try:
                process = subprocess.Popen(command, env=merged, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
                self._running[process.pid] = process
            finally:
                self._starting = False
        if is_main and self._signal is not None:
            raise Interrupted(self._signal)
        return process


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every program to end; kill what does not within five seconds, and what a program left behind in its group."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        _signal_group(process, signal.SIGTERM)
    end = time.monotonic() + _GRACE_S
    while left and time.monotonic() < end:
        time.sleep(_POLL_S)
        left = [process for process in left if process.poll() is None]
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
