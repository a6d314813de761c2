"""Why a realm was refused, for administrators and auditors: what each finding means, and what comes close.

Pure. Nothing here decides anything: a record and its findings stand as they were written; this puts registered trust beside
them, as it is now.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.appraisal.workload import Role
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.granules import lead_of
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.replay import ReplayResult
from kbs_rim.measurement.rmm import RmmVersion

MAX_NEAREST = 3
_ROLE_OF = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "FIRMWARE": Role.FIRMWARE, "DTB": Role.DEVICE_TREE}


@dataclass(frozen=True, slots=True)
class Near:
    """A registered image that comes close to one that the log names; ``size_difference`` is log minus registry, in bytes."""

    image: RegisteredImage
    size_difference: int

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.image.id,
            "name": self.image.name,
            "state": self.image.state.value,
            "size": self.image.measurements.size,
            "size_difference": self.size_difference,
        }


@dataclass(frozen=True, slots=True)
class Reason:
    """One finding explained. ``hints`` are sentences about this very case; ``nearest`` belongs to an unknown image."""

    finding: Mapping[str, Any]
    title: str
    remedy: str
    hints: tuple[str, ...] = ()
    nearest: tuple[Near, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "finding": dict(self.finding),
            "title": self.title,
            "remedy": self.remedy,
            "hints": list(self.hints),
            "nearest": [near.to_document() for near in self.nearest],
        }


def explain(
    findings: Iterable[Mapping[str, Any]],
    *,
    plan: BootPlan | None,
    registered: Sequence[RegisteredImage],
    wide_replay: ReplayResult | None,
) -> tuple[Reason, ...]:
    """Explain the findings that refused (documents of ``Finding.to_document``), in order.

    ``plan`` is the boot plan read again from the stored log, None if it cannot be; ``registered`` are the images to look for near
    ones; ``wide_replay`` is a replay in every dialect there is, allowed by the workload or not, None if it was not possible.
    """
    loaded = {image.event: image for image in plan.images} if plan else {}
    reasons = []
    for finding in findings:
        if finding["severity"] != "error":
            continue
        entry = CATALOGUE[finding["id"]]
        image = loaded.get(finding.get("where", {}).get("event"))
        hints: tuple[str, ...] = ()
        nearest: tuple[Near, ...] = ()
        if finding["id"] == "rim.image-unknown" and image is not None:
            nearest = nearest_images(image, registered)
            hints = _image_hints(image, nearest)
        elif finding["id"] == "rim.mismatch":
            hints = _replay_hints(wide_replay)
        elif finding["id"].startswith("rem."):
            hints = _runtime_hints(finding)
        reasons.append(Reason(finding, entry.title, entry.remedy, hints, nearest))
    return tuple(reasons)


def nearest_images(loaded: LoadedImage, registered: Iterable[RegisteredImage]) -> tuple[Near, ...]:
    """Return the registered images of the role that the log claims whose size comes closest, at most three."""
    role = _ROLE_OF.get(loaded.description.strip().upper())
    candidates = [image for image in registered if role is None or role in image.roles]
    found = [Near(image, loaded.size - image.measurements.size) for image in candidates]
    return tuple(sorted(found, key=lambda near: (abs(near.size_difference), near.image.name, near.image.id))[:MAX_NEAREST])


def _image_hints(loaded: LoadedImage, nearest: tuple[Near, ...]) -> tuple[str, ...]:
    where = f"event {loaded.event} loads {loaded.size} bytes as {loaded.description or 'an image without a name'} at {loaded.base:#x}"
    digest = f"their {loaded.algorithm.value} is {loaded.digest.hex()}"
    if not nearest:
        return (where, digest, "no image is registered for that role")
    if nearest[0].size_difference == 0:
        return (where, digest, f"{nearest[0].image.name} has the same size and other content")
    return (where, digest)


def _replay_hints(wide: ReplayResult | None) -> tuple[str, ...]:
    if wide is None:
        return ("the log was not kept or an image is no longer at hand, so the replay could not be repeated",)
    if wide.matched is not None:
        hint = f"the signed RIM is that of the log replayed as {wide.matched}, which the workload does not allow"
        return (hint, "if such hosts are yours, allow it in the workload's rmm table")
    tried = f"none of the {len(wide.rims)} replays that we know gives the signed RIM"
    return (tried, "the host did something that is not in the log, or loaded other bytes than the log says")


def _runtime_hints(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """What an administrator who trusts an event would write, and what a register without its log means."""
    where = finding.get("where", {})
    digest, rem = where.get("digest"), where.get("rem")
    if finding["id"] == "rem.event-unknown" and digest is not None:
        rule = f'runtime.digests: rem = {rem}, digest = "{digest}", type = "{where.get("type", "")}"'
        return (
            "no active image that is registered has this digest in any of its parts",
            f"if you trust it, register what it is of; or {rule}",
        )
    if finding["id"] in ("rem.replay", "rem.unexplained"):
        return ("whatever these logs say of the register is not believed; compare them with those of a good boot by kbs-rim log diff",)
    return ()


def every_dialect() -> tuple[Dialect, ...]:
    """Return every dialect there is, likeliest first, for explaining only."""
    return tuple(Dialect(rmm, rounding, order) for rounding in Rounding for order in Order for rmm in RmmVersion)


@dataclass(frozen=True, slots=True)
class GranuleDifference:
    """Granules that differ between two images: (index, guest address) pairs, and how many there are in all."""

    first: tuple[tuple[int, int], ...]
    count: int
    compared: int


def differing_granules(
    ours: ImageMeasurements, registered: ImageMeasurements, loaded: LoadedImage, most: int = 10
) -> GranuleDifference | None:
    """Compare two images granule by granule as they would lie at the logged place; None if a layout is not at hand.

    Granules that only the longer image has count as different.
    """
    left, right = _granules(ours, loaded), _granules(registered, loaded)
    if left is None or right is None:
        return None
    size = loaded.algorithm.digest_size
    total = max(len(left), len(right)) // size
    differing = [index for index in range(total) if left[index * size :][:size] != right[index * size :][:size]]
    base = loaded.base // GRANULE_SIZE * GRANULE_SIZE
    return GranuleDifference(tuple((index, base + index * GRANULE_SIZE) for index in differing[:most]), len(differing), total)


def _granules(image: ImageMeasurements, loaded: LoadedImage) -> bytes | None:
    """Granules of an image laid out like the logged one; another size shifts an end-aligned one, so the alignment decides."""
    for (algorithm, alignment), digests in image.granules.items():
        if algorithm is loaded.algorithm and lead_of(alignment, loaded.size) == loaded.base % GRANULE_SIZE:
            return digests
    return None
