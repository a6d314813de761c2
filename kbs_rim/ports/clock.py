"""Where time comes from."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time of a process."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...
