"""Hashing on several cores: hashlib lets other threads run while it hashes, longest with the large blocks of whole digests."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from kbs_rim.measurement.image import Work

_HELPERS = 2
"""Parts of PE files and firmware, whole digests, and granules are the pieces of work; the last is the longest and stays here.

Granules are hashed 4 KiB at a time; sharing them out among threads costs more than it gains, since each gives way and waits for
its turn for every granule.
"""


class SharedWork:
    """Does pieces of work on the caller's thread and two others, as ``measure_stream`` wants them done."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_HELPERS, thread_name_prefix="hashing")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def __call__(self, works: Sequence[Work]) -> None:
        """Do all of them; raise what the first that failed raised, when none is under way any more."""
        *others, own = works
        handed = [self._pool.submit(work) for work in others]
        try:
            own()
        finally:
            errors = [task.exception() for task in handed]
        for error in errors:
            if error is not None:
                raise error
