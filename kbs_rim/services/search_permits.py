"""How often realms of one machine may make this process search for a RIM in vain.

Implements ``appraisal.definition_search.SearchPermits``. A machine is known by the instance id of a platform token that the verifier
affirmed, so nobody can use up what belongs to another machine's realms but a neighbour on the same one. In process memory, bounded.
"""

import threading
from collections import OrderedDict, deque
from typing import Final

PERIOD_S: Final = 600
_MACHINES = 4096


class FailedSearches:
    """At most ``most`` searches that found nothing within ten minutes for each machine. Safe to use from several threads."""

    def __init__(self, most: int) -> None:
        """Raise ``ValueError`` for an allowance that allows nothing."""
        if most < 1:
            raise ValueError("an allowance needs at least one search")
        self._most = most
        self._begun: OrderedDict[bytes, deque[int]] = OrderedDict()
        self._lock = threading.Lock()  # replays run in several threads

    def take(self, platform: bytes, at: int) -> bool:
        """Count a search that begins at ``at``, in seconds since the epoch, or return False if that would be one too many."""
        with self._lock:
            begun = self._begun.setdefault(platform, deque())
            self._begun.move_to_end(platform)
            # What is younger than now is dropped too: a clock that was set back must not close the door.
            while begun and not begun[0] <= at < begun[0] + PERIOD_S:
                begun.popleft()
            if len(begun) >= self._most:
                return False
            begun.append(at)
            if len(self._begun) > _MACHINES:
                self._begun.popitem(last=False)
            return True

    def give_back(self, platform: bytes) -> None:
        """Count the last search of this machine no longer: it found its VM."""
        with self._lock:
            if begun := self._begun.get(platform):
                begun.pop()
