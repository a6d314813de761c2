"""What our image profile of CoRIM speaks about: images down to their granules, and how a realm is built from them (docs/corim.md).

An endorser's word is worth what its signature is worth, but two things need not be believed: the digests of one image must not
contradict each other, and a build plan gives a RIM that anybody can recompute from the images.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.granules import Alignment
from kbs_rim.measurement.image import ImageMeasurements
from kbs_rim.measurement.replay import replay_rim

_MAX_PROVENANCE = 32
_MAX_TEXT = 4096
Layout = tuple[HashAlgorithm, Alignment]


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One image as an endorser describes it.

    ``summaries`` has, for each algorithm and alignment, the digest in that algorithm of all granule digests end to end: two hosts
    that computed the same granules have the same summary. Without the granules themselves (``complete`` is false) an image can be
    compared, but no RIM be computed from it. Raises ``ValueError``.
    """

    measurements: ImageMeasurements
    name: str
    roles: tuple[Role, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    summaries: Mapping[Layout, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = [self.name, *self.provenance, *self.provenance.values()]
        if not all(text and len(text) <= _MAX_TEXT and text.isprintable() for text in texts) or len(self.provenance) > _MAX_PROVENANCE:
            raise ValueError(f"name and provenance of an image are printable texts of at most {_MAX_TEXT} characters")
        if len(set(self.roles)) != len(self.roles):
            raise ValueError("a role of an image stands twice")
        computed = {layout: layout[0].digest(digests) for layout, digests in self.measurements.granules.items()}
        if any(self.summaries.get(layout, summary) != summary for layout, summary in computed.items()):
            raise ValueError("the digest over an image's granule digests is another one than theirs")
        object.__setattr__(self, "summaries", MappingProxyType({**self.summaries, **computed}))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    @property
    def complete(self) -> bool:
        """Whether the granule digests of every algorithm and alignment are here, so that the image can be registered."""
        return len(self.measurements.granules) == len(HashAlgorithm) * len(Alignment)

    def summarised(self) -> "ImageReference":
        """Return the same image without granule digests, with their summaries."""
        return replace(self, measurements=self.measurements.with_granules_of())


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """How a realm with this RIM is built: parameters, operations, and the dialect in which they gave the RIM.

    ``boot`` has no VM version and no tree bytes, and its events are numbered from 0: ``of`` makes it so. Raises ``ValueError``.
    """

    rim: bytes
    dialect: Dialect
    boot: BootPlan

    def __post_init__(self) -> None:
        if len(self.rim) != self.boot.hash_algorithm.digest_size:
            raise ValueError("the RIM of a build plan has another length than its hash algorithm gives")
        if self.boot.vm is not None or self.boot.sent_tree is not None:
            raise ValueError("a build plan has no VM version and no tree bytes")

    @classmethod
    def of(cls, boot: BootPlan, rim: bytes, dialect: Dialect) -> "BuildPlan":
        """Return what of a log's boot plan decides the RIM."""
        steps = tuple(replace(step, event=number) for number, step in enumerate(boot.steps, 1))
        return cls(rim, dialect, replace(boot, vm=None, sent_tree=None, create=CreateRecord(0, boot.create.params), steps=steps))

    @classmethod
    def computed(cls, boot: BootPlan, images: "Iterable[ImageReference]", dialect: Dialect, limits: Limits = DEFAULT_LIMITS) -> "BuildPlan":
        """Return the plan with the RIM that ``images`` give; raise ``MalformedEvidence("rim.*")`` as ``replay_rim`` does."""
        return cls.of(boot, replay_rim(boot, _Lookup(images), dialect, limits), dialect)

    def holds(self, images: Iterable[ImageReference], limits: Limits = DEFAULT_LIMITS) -> bool:
        """Recompute the RIM from ``images``, and say whether it is this one.

        Raises ``MalformedEvidence("rim.*")`` if an image is missing, or the plan is not replayable.
        """
        return replay_rim(self.boot, _Lookup(images), self.dialect, limits) == self.rim


class _Lookup:
    """Complete images by the digests of their loaded bytes."""

    def __init__(self, images: Iterable[ImageReference]) -> None:
        held = [image.measurements for image in images if image.complete]
        self._images = {(algorithm, digest): image for image in held for algorithm, digest in image.digests.items()}

    def find(self, algorithm: HashAlgorithm, digest: bytes) -> ImageMeasurements | None:
        return self._images.get((algorithm, digest))
