"""How much of something may be there at once, in the memory of one process."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta


class Allowance:
    """At most ``most`` things, each counted for ``period`` or until it is given back. What strangers can cause needs such a bound."""

    def __init__(self, most: int, period: timedelta) -> None:
        """Raise ``ValueError`` for an allowance that allows nothing."""
        if most < 1 or period <= timedelta(0):
            raise ValueError("an allowance needs at least one thing for a positive period")
        self._most, self._period = most, period
        self._taken: OrderedDict[str, datetime] = OrderedDict()

    def take(self, name: str, now: datetime) -> bool:
        """Count ``name`` from ``now`` on and return True, or return False if that would be one too many."""
        while self._taken:
            oldest, since = next(iter(self._taken.items()))
            # What is younger than now is dropped too: a clock that was set back must not close the door.
            if since <= now < since + self._period:
                break
            del self._taken[oldest]
        if len(self._taken) >= self._most:
            return False
        self._taken[name] = now
        return True

    def give_back(self, name: str) -> None:
        """Count ``name`` no longer; unknown ones, which another process counts, are none of ours."""
        self._taken.pop(name, None)

    @contextmanager
    def given_back_after(self, *errors: type[Exception], name: str) -> Iterator[None]:
        """Give ``name`` back if the block raises one of ``errors``: what was counted did not come about."""
        try:
            yield
        except errors:
            self.give_back(name)
            raise
