"""How often something may happen within a stretch of time, in the memory of one process."""

from collections import deque
from datetime import datetime, timedelta


class Allowance:
    """At most ``most`` events within any ``period``. What anybody on the network can cause needs such a bound."""

    def __init__(self, most: int, period: timedelta) -> None:
        """Raise ``ValueError`` for an allowance that allows nothing."""
        if most < 1 or period <= timedelta(0):
            raise ValueError("an allowance needs at least one event in a positive period")
        self._period = period
        self._taken: deque[datetime] = deque(maxlen=most)

    def take(self, now: datetime) -> bool:
        """Count one event at ``now`` and return True, or return False if that would be one too many."""
        full = len(self._taken) == self._taken.maxlen
        # A clock that was set back must not stop the service for as long as it was ahead.
        if full and self._taken[0] <= now < self._taken[0] + self._period:
            return False
        self._taken.append(now)
        return True
