"""What trust an appraisal is judged by, as it is now: workloads that may have the secret, and the images that the log names."""

from collections.abc import Iterable
from dataclasses import replace

from kbs_rim.appraisal.appraise import Candidate, digests_of, worth_replaying
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.supplied_tree import TreeReading
from kbs_rim.evidence.cca_token import CcaToken
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan
from kbs_rim.ports import ImageReader, ImageRecord, SecretInfo, WorkloadReader
from kbs_rim.services.replay_cache import GranuleCache, RimCache


class TrustLookup:
    """Reads the registry for each appraisal. States are never cached; what is cached cannot change (``replay_cache``)."""

    def __init__(self, images: ImageReader, workloads: WorkloadReader, limits: Limits) -> None:
        """Start with empty caches."""
        self._images, self._workloads = images, workloads
        self.rims = RimCache(limits)
        self.granules = GranuleCache(limits)

    async def candidates(self, secret: SecretInfo | None) -> tuple[Candidate, ...]:
        """Return the active workloads that may have the secret."""
        names = secret.workloads if secret else ()
        records = [await self._workloads.get_workload(name) for name in names]
        return tuple(Candidate(record.workload, record.revision) for record in records if record.active)

    async def images_for(self, token: CcaToken, plan: BootPlan | None, tree: TreeReading) -> ImageSet:
        """Fetch what the log names; granule digests, which are large, only if there is something to replay with them.

        The device tree that came with the evidence is added for this appraisal alone.
        """
        supplied = tree.supplied.image if tree.supplied else None
        wanted = [(algorithm.value, digest) for algorithm, digest in digests_of(plan)]
        if not wanted:
            return ImageSet(())
        records = await self._images.find_images(wanted, with_granules=False)
        self.rims.drop_images(record.id for record in records if record.state is ImageState.REVOKED)
        images = _image_set(records).with_supplied(supplied)
        if not worth_replaying(token, plan, images):
            return images
        return (await self._with_granules(records, token.realm.claims.hash_algorithm)).with_supplied(supplied)

    async def _with_granules(self, records: list[ImageRecord], algorithm: HashAlgorithm) -> ImageSet:
        """Add granule digests: from the cache, and the missing ones from the database. States are those just read."""
        known = {record.id: self.granules.get(record.id, algorithm) for record in records}
        missing = [(algorithm.value, record.measurements.digests[algorithm]) for record in records if known[record.id] is None]
        for fetched in await self._images.find_images(missing) if missing else ():
            self.granules.put(fetched.measurements, algorithm)
            known[fetched.id] = fetched.measurements
        return _image_set(replace(record, measurements=known[record.id] or record.measurements) for record in records)


def _image_set(records: Iterable[ImageRecord]) -> ImageSet:
    return ImageSet(RegisteredImage(record.id, record.name, record.roles, record.state, record.measurements) for record in records)
