"""Trust as one appraisal sees it: everything that a release depends on, at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.ports.workloads import WorkloadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustView:
    """What the registry said at one moment; all of it belongs together.

    ``sequence`` is the number that grows with every change of images, workloads, secrets or bindings. ``secret`` is the path of the
    secret asked for, None if there is no such secret; ``workloads`` the newest revisions of those that may have it, by name, retired ones
    included. ``images`` come without granule digests, by id, whatever their state. ``revoked`` are the images that were revoked
    after the sequence that the caller had seen.
    """

    sequence: int
    secret: str | None
    workloads: tuple[WorkloadRecord, ...]
    images: tuple[RegisteredImage, ...]
    revoked: frozenset[str]


class TrustReader(Protocol):
    """Reads what an appraisal judges by. Changes nothing."""

    async def view(self, secret: str, digests: Sequence[tuple[str, bytes]], *, since: int | None) -> TrustView:
        """Return trust as it is now, in one snapshot of the registry.

        ``secret`` is a path or a key id; ``digests`` are the (IANA hash name, digest) pairs of loaded images to look for; ``since`` is
        the sequence of an earlier view, or None for no interest in what was revoked since.
        """
        ...
