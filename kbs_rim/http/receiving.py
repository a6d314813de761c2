"""Memory for bodies that are still arriving: anybody can send them slowly, and together they must not take all there is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kbs_rim.services.exchange import BusyError


class Receiving:
    """A number of bytes that all bodies in progress share."""

    def __init__(self, most: int) -> None:
        """``most`` bounds the sum, in bytes."""
        self._left = most

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes so many bytes more, or raises ``BusyError``; they are given back at the end."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._left:
                raise BusyError("Too many requests are arriving.")
            self._left -= size
            taken += size

        try:
            yield take
        finally:
            self._left += taken
