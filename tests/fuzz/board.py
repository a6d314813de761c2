"""Memory that a fuzzing process shares with its parent: what it did, and what it was doing when it died.

The child may be killed, run out of memory or crash in native code at any moment; the parent still knows the last input.
"""

import mmap
import struct
from dataclasses import dataclass

_NUMBERS = struct.Struct("<QQQd")
_LENGTH = struct.Struct("<I")
_REPORT_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done: ``outcomes`` counts different labels, ``slowest_ms`` is CPU time."""

    inputs: int
    accepted: int
    outcomes: int
    slowest_ms: float


class Board:
    """Anonymous shared memory with numbers, two inputs (the current one, the slowest one) and a report."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` is the longest input that can be noted; longer ones are cut."""
        self._max = max_bytes
        self._current = _NUMBERS.size
        self._slowest = self._current + _LENGTH.size + max_bytes
        self._report = self._slowest + _LENGTH.size + max_bytes
        self._memory = mmap.mmap(-1, self._report + _LENGTH.size + _REPORT_BYTES)

    @property
    def tally(self) -> Tally:
        """The numbers."""
        return Tally(*_NUMBERS.unpack_from(self._memory))

    @tally.setter
    def tally(self, value: Tally) -> None:
        _NUMBERS.pack_into(self._memory, 0, value.inputs, value.accepted, value.outcomes, value.slowest_ms)

    @property
    def current(self) -> bytes:
        """The input that is, or was last, under examination."""
        return self._get(self._current)

    @current.setter
    def current(self, data: bytes) -> None:
        self._put(self._current, data[: self._max])

    @property
    def slowest(self) -> bytes:
        """The input that took the most CPU time."""
        return self._get(self._slowest)

    @slowest.setter
    def slowest(self, data: bytes) -> None:
        self._put(self._slowest, data[: self._max])

    @property
    def report(self) -> str:
        """Why the child stopped early; empty if it did not."""
        return self._get(self._report).decode("utf-8", "replace")

    @report.setter
    def report(self, text: str) -> None:
        self._put(self._report, text.encode("utf-8", "backslashreplace")[-_REPORT_BYTES:])

    def _get(self, at: int) -> bytes:
        (length,) = _LENGTH.unpack_from(self._memory, at)
        return self._memory[at + _LENGTH.size : at + _LENGTH.size + length]

    def _put(self, at: int, data: bytes) -> None:
        _LENGTH.pack_into(self._memory, at, len(data))
        self._memory[at + _LENGTH.size : at + _LENGTH.size + len(data)] = data
