"""Work that would hold the event loop up, done beside it: by few threads, in the order in which it was asked for, never too much.

There are two lanes. Reading (envelopes, logs, device trees, documents of administrators) takes milliseconds and keeps the
interpreter's lock, so one thread does all of it: a second would finish nothing sooner, and the loop would wait for both. Replays take
up to seconds; the native kernel gives the lock up while it works, so they may use every core, and the pure one gets one thread.

Each lane has doors. A door lets in so much and no more, so that administrators cannot take the places of guests; who is let in is
served first come, first served, whichever the door.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from kbs_rim.errors import OurFault
from kbs_rim.services.exchange import BusyError

_T = TypeVar("_T")
_P = ParamSpec("_P")
_NICER = 5


class StoppingError(OurFault):
    """The process is shutting down; what was computed is given up."""


LANE_COUNTS = {
    "inside": "Pieces of work that run or wait",
    "most_inside": "The most that ran or waited at once since the start",
    "turned_away": "Pieces of work for which there was no place since the start",
}
"""What is counted of a lane, and what that means."""


@dataclass(slots=True)
class LaneCounts:
    """How a lane is doing; ``LANE_COUNTS`` says what each number means."""

    inside: int = 0
    most_inside: int = 0
    turned_away: int = 0


class Lane:
    """Some threads and their queue."""

    def __init__(self, name: str, threads: int, *, yielding: bool = False) -> None:
        """``threads`` is how many pieces of work may run at the same time; ``yielding`` ones leave the cores to others who want them."""
        self.threads = threads
        self.counts = LaneCounts()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_yield_cores if yielding else None)
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def door(self, places: int) -> "Door":
        """Return an executor that lets in at most ``places`` pieces of work at a time, running or waiting."""
        return Door(self, places)

    def enter(self, door: "Door") -> None:
        """Take a place of ``door``; raise ``BusyError`` if there is none."""
        with self._lock:
            if door.taken >= door.places:
                self.counts.turned_away += 1
                raise BusyError("Too much work is waiting.", retry_after_s=2)
            door.taken += 1
            self.counts.inside += 1
            self.counts.most_inside = max(self.counts.most_inside, self.counts.inside)

    def leave(self, door: "Door") -> None:
        """Give the place back."""
        with self._lock:
            door.taken -= 1
            self.counts.inside -= 1

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Queue a piece of work."""
        return self._executor.submit(work)

    def pause(self) -> None:
        """Long work calls this now and then; raise ``StoppingError`` when it is to end."""
        if self._stopping.is_set():
            raise StoppingError("the process is shutting down")

    def stop(self) -> None:
        """Forget what waits, and end what runs at its next pause. Does not wait."""
        self._stopping.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def wait(self) -> None:
        """Wait until no thread is left; call it after ``stop``."""
        self._executor.shutdown(wait=True)


def _yield_cores() -> None:
    """Let the kernel prefer the event loop to this thread. On Linux niceness is a thread's own; a sandbox may forbid the call."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


class Door(Executor):
    """One way into a lane, with ``places`` of its own. ``submit`` raises ``BusyError`` when they are taken."""

    def __init__(self, lane: Lane, places: int) -> None:
        self.places, self.taken = places, 0
        self._lane = lane

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Queue ``fn`` in the lane; its place is free again when it has run or was cancelled."""
        self._lane.enter(self)
        try:
            future = self._lane.submit(partial(fn, *args, **kwargs))
        except RuntimeError:
            self._lane.leave(self)
            raise StoppingError("the process is shutting down") from None
        future.add_done_callback(lambda _: self._lane.leave(self))
        return future


@dataclass(frozen=True, slots=True)
class HeavyWork:
    """Both lanes of a process. ``replay_threads`` counts for replays only.

    Only the native kernel yields: a thread that waits for a core with the interpreter's lock in its hands makes the event loop wait too.
    """

    replay_threads: int
    native: bool = False
    reading: Lane = field(init=False)
    replays: Lane = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", Lane("reading", 1))
        object.__setattr__(self, "replays", Lane("replay", self.replay_threads, yielding=self.native))

    def stop(self) -> None:
        """Stop both lanes without waiting."""
        self.reading.stop()
        self.replays.stop()

    def wait(self) -> None:
        """Wait until no thread is left; call it after ``stop``."""
        self.reading.wait()
        self.replays.wait()
