"""The device tree that came with the evidence: bytes that anybody may have sent, believed only as far as they can be hashed.

Who sends a tree says nothing of what it is. The bytes become an image of their own under the digests that *we* compute, for one
appraisal, never in the registry and never under a digest that somebody claims;
their granules enter the replay, so the RIM that the RMM signed decides whether this tree was loaded.
"""

from dataclasses import dataclass
from enum import StrEnum

from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage
from kbs_rim.measurement.device_tree import DeviceTree, facts_of, parse_device_tree
from kbs_rim.measurement.granules import ImageHasher, blocks_of
from kbs_rim.measurement.image import ImageKind, ImageMeasurements

NAME = "the device tree that came with the evidence"
_DESCRIPTION = "DTB"


class TreeSource(StrEnum):
    """Where the bytes stood, or that we made them from the workload's definition."""

    LOG = "log"
    ENVELOPE = "envelope"
    DEFINITION = "definition"


@dataclass(frozen=True, slots=True)
class SuppliedTree:
    """A tree that the log says was loaded, with everything we computed from its bytes. The replay has still to confirm it."""

    tree: DeviceTree
    image: RegisteredImage
    source: TreeSource


@dataclass(frozen=True, slots=True)
class TreeReading:
    """What came of looking for a tree: one, or findings that say why there is none. Neither if nobody sent any."""

    supplied: SuppliedTree | None = None
    findings: tuple[Finding, ...] = ()


NO_TREE = TreeReading()


def read_supplied_tree(sent: bytes | None, plan: BootPlan, limits: Limits) -> TreeReading:
    """Take the tree that stood in the envelope (``sent``) or in the log, if it is one of the images that ``plan`` loads."""
    data, source = (sent, TreeSource.ENVELOPE) if sent is not None else (plan.sent_tree, TreeSource.LOG)
    if data is None:
        return NO_TREE
    where = {"source": source.value}
    if sent is not None and plan.sent_tree is not None and sent.rstrip(b"\0") != plan.sent_tree.rstrip(b"\0"):
        return TreeReading(findings=(Finding("tree.ambiguous", "the log and the envelope hold different device trees", where=where),))
    if len(data) > limits.device_tree_bytes:
        message, expected = "the device tree that was sent is too large", f"at most {limits.device_tree_bytes} bytes"
        return TreeReading(findings=(Finding("tree.malformed", message, expected=expected, seen=f"{len(data)} bytes", where=where),))
    loaded = as_loaded(data, plan, limits)
    if loaded is None:
        message = "the device tree that was sent is none of the images that were loaded"
        expected = ", ".join(image.digest.hex() for image in plan.images if is_tree(image)) or "an image called DTB in the log"
        seen = f"{plan.hash_algorithm.digest(data).hex()}, {len(data)} bytes"
        return TreeReading(findings=(Finding("tree.not-measured", message, expected=expected, seen=seen, where=where),))
    try:
        tree = parse_device_tree(loaded, limits)
        return TreeReading(SuppliedTree(tree, image_of_tree(loaded, tree, limits), source))
    except MalformedEvidence as error:
        return TreeReading(findings=(Finding.from_error(error, **where),))


def is_tree(image: LoadedImage) -> bool:
    """Return whether the log calls this image the device tree."""
    return image.description.strip().upper() == _DESCRIPTION


def as_loaded(data: bytes, plan: BootPlan, limits: Limits) -> bytes | None:
    """Return the bytes as the log says that they were loaded, or None if their digest is not there.

    A VMM may load zeros behind a tree that no reader of the tree sees (kvmtool up to 64 KiB, QEMU up to 1 MiB), so for the image
    called DTB they are put back; the digest must be right with them.
    """
    digests: dict[tuple[HashAlgorithm, int], bytes] = {}
    for image in plan.images:
        padded = is_tree(image) and len(data) < image.size <= limits.device_tree_bytes
        if not padded and image.size != len(data):
            continue
        key = image.algorithm, image.size
        if key not in digests:
            digests[key] = image.algorithm.digest(data.ljust(image.size, b"\0"))
        if digests[key] == image.digest:
            return data.ljust(image.size, b"\0")
    return None


def image_of_tree(data: bytes, tree: DeviceTree, limits: Limits, name: str = NAME) -> RegisteredImage:
    """Measure the bytes. The kind is a device tree whatever else they may look like; no registered role comes with them."""
    hasher = ImageHasher(len(data))
    for block in blocks_of(data):
        hasher.update(block)
    hashed = hasher.finish()
    measurements = ImageMeasurements(
        kind=ImageKind.DEVICE_TREE,
        compression=None,
        file_size=hashed.size,
        file_digests=hashed.digests,
        size=hashed.size,
        digests=hashed.digests,
        kernel=None,
        device_tree=facts_of(tree, len(data), limits),
        granules=hashed.granules,
    )
    return RegisteredImage(measurements.image_id, name, (Role.DEVICE_TREE,), ImageState.ACTIVE, measurements)
