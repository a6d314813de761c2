"""What trust an appraisal is judged by, as it is now: workloads that may have the secret, and the images that the log names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kbs_rim.appraisal.appraise import Candidate, Verdict, digests_of, worth_replaying
from kbs_rim.appraisal.derived_boot import digest_of_id
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.measured_images import NO_IMAGES, MeasuredImages
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.supplied_tree import TreeReading
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan
from kbs_rim.ports import ImageReader, TrustReader, TrustView
from kbs_rim.services.replay_cache import GranuleCache, RimCache, RimView
from kbs_rim.services.search_permits import FailedSearches


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What one appraisal is judged by, all of it read at ``sequence``. ``secret`` is the path of the secret, None if there is none.

    ``candidates`` are the active workloads that may have it; ``bound_workloads`` counts the retired ones as well. ``images`` are those
    that the log says a VMM loaded, without granule digests.
    """

    sequence: int
    secret: str | None
    candidates: tuple[Candidate, ...]
    bound_workloads: int
    images: tuple[RegisteredImage, ...]
    memo: RimView


class TrustLookup:
    """Reads the registry for each appraisal. States are never cached; what is cached cannot change (``replay_cache``)."""

    def __init__(self, trust: TrustReader, images: ImageReader, limits: Limits) -> None:
        """Start with empty caches."""
        self._trust, self._images = trust, images
        self._seen: int | None = None
        self.rims = RimCache(limits)
        self.granules = GranuleCache(limits)
        self.searches = FailedSearches(limits.failed_searches)

    async def read(self, secret: str, plan: BootPlan | None) -> Trust:
        """Read everything that the release depends on, in one snapshot; and drop what depends on images revoked since the last look.

        Without a log the images are those that the workloads' definitions name: then a second look reads everything with them.

        The registry's sequence says whether there is anything to drop. No other process need be told of a revocation: this one
        learns of it before its caches are asked for anything.
        """
        wanted = [(algorithm.value, digest) for algorithm, digest in digests_of(plan)]
        view = await self._view(secret, wanted)
        if plan is None and (defined := _defined_images(view)):
            view = await self._view(secret, defined)
        return Trust(
            sequence=view.sequence,
            secret=view.secret,
            candidates=tuple(Candidate(record.workload, record.revision) for record in view.workloads if record.active),
            bound_workloads=len(view.workloads),
            images=view.images,
            memo=self.rims.as_of(view.sequence),
        )

    async def _view(self, secret: str, wanted: Sequence[tuple[str, bytes]]) -> TrustView:
        since = self._seen
        view = await self._trust.view(secret, wanted, since=since)
        self._reconcile(view, since)
        return view

    async def images_for(self, trust: Trust, token: CcaToken, plan: BootPlan | None, tree: TreeReading) -> ImageSet:
        """Return the images, with granule digests, which are large, only if there is something to replay with them.

        The device tree that came with the evidence is added for this appraisal alone.
        """
        supplied = tree.supplied.image if tree.supplied else None
        images = ImageSet(trust.images, supplied)
        if plan is not None and not worth_replaying(token, plan, images):
            return images
        return ImageSet(await self._with_granules(trust.images, token.realm.claims.hash_algorithm), supplied)

    async def measured_for(self, digests: Sequence[tuple[HashAlgorithm, bytes]]) -> MeasuredImages:
        """Return the images of which firmware, boot loaders or kernels may have measured one of ``digests``, by one bounded query.

        It is read after the view, and a release needs the registry to stand still from the view on: so their states belong to it.
        """
        if not digests:
            return NO_IMAGES
        found = await self._images.find_images_by_measurement([(algorithm.value, digest) for algorithm, digest in digests])
        records = (item.image for item in found)
        return MeasuredImages(
            RegisteredImage(record.id, record.name, record.roles, record.state, record.measurements) for record in records
        )

    async def without_revoked(self, verdict: Verdict, trust: Trust) -> Verdict:
        """Refuse what was allowed with a revoked image that nobody named beforehand: the tree that was made for a realm without a log.

        It is read after the view, as ``measured_for`` is: a release needs the registry to stand still from the view on.
        """
        named = {image.id for image in trust.images}
        others = [image_id for image_id in verdict.facts.get("images", ()) if image_id not in named]
        if not verdict.allowed or not others:
            return verdict
        digests = [(HashAlgorithm.SHA256.value, digest_of_id(image_id)) for image_id in others]
        found = await self._images.find_images(digests, with_granules=False)
        message = "{}, which was made from the workload's definition, is revoked"
        revoked = [image for image in found if image.state is ImageState.REVOKED]
        findings = tuple(Finding("rim.image-revoked", message.format(image.name), seen=image.id) for image in revoked)
        if not findings:
            return verdict
        others_said = tuple(finding for finding in verdict.findings if finding.id != "policy.accepted")
        return replace(verdict, allowed=False, findings=(*others_said, *findings))

    async def _with_granules(self, images: Sequence[RegisteredImage], algorithm: HashAlgorithm) -> list[RegisteredImage]:
        """Add granule digests: from the cache, and the missing ones from the database. States are those read before."""
        known = {image.id: self.granules.get(image.id, algorithm) for image in images}
        missing = [(algorithm.value, image.measurements.digests[algorithm]) for image in images if known[image.id] is None]
        for fetched in await self._images.find_images(missing) if missing else ():
            if fetched.state is ImageState.REVOKED or self.rims.knows_revoked(fetched.id):
                self.granules.counts.refused += 1
            else:
                self.granules.put(fetched.measurements, algorithm)
            known[fetched.id] = fetched.measurements
        return [replace(image, measurements=known[image.id] or image.measurements) for image in images]

    def _reconcile(self, view: TrustView, since: int | None) -> None:
        """Bring the caches to ``view``, which was read with ``since`` as the last sequence seen.

        Views may come back in another order than they were asked for; each drops what it knows of. A sequence that went back means
        that the database was restored from a backup: then nothing is known of what is in the caches.
        """
        if since is not None and view.sequence < since:
            self.rims.clear()
            self.granules.clear()
            self._seen = view.sequence
            return
        revoked = view.revoked.union(image.id for image in view.images if image.state is ImageState.REVOKED)
        self.rims.drop_images(revoked, sequence=view.sequence)
        self.granules.drop_images(revoked)
        self._seen = view.sequence if self._seen is None else max(self._seen, view.sequence)


def _defined_images(view: TrustView) -> list[tuple[str, bytes]]:
    """Return the digests of the images that definitions name, where a realm may come without a log; an image's id is one."""
    workloads = (record.workload for record in view.workloads if record.active)
    without_log = (workload for workload in workloads if workload.definition is not None and workload.definition.without_log)
    named = dict.fromkeys(image for workload in without_log for image in workload.defined_images)
    return [(HashAlgorithm.SHA256.value, digest_of_id(image)) for image in named]
