"""Trusted images and workloads: what administrators register, deprecate, revoke and retire."""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from kbs_rim.appraisal.workload import Role, Workload
from kbs_rim.errors import Conflict, InvalidDocument
from kbs_rim.ledger.canonical import canonical_json
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import ImageKind, ImageMeasurements
from kbs_rim.ports import (
    Clock,
    ImageRecord,
    ImageState,
    ImageWriter,
    RecordReader,
    Registration,
    SecretReader,
    WorkloadRecord,
    WorkloadWriter,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+:~/,()@=-]{0,199}")
_MAX_REASON = 1000
_MAX_PROVENANCE_BYTES = 16 * 1024
_MAX_SET = 200
"""Images of one registration; a container image or an installer has fewer than 20."""
_ENTRY_REQUIRED = frozenset({"name", "roles", "measurements"})


class Registry:
    """Changes trust, and says who did. Reading is open to auditors, changing to admins; the caller has checked that."""

    def __init__(
        self,
        *,
        images: ImageWriter,
        workloads: WorkloadWriter,
        secrets: SecretReader,
        records: RecordReader,
        clock: Clock,
        limits: Limits,
        rule_packs: Collection[str] = (),
        reading: Executor | None = None,
    ) -> None:
        """``secrets`` and ``records`` are only asked what a revocation touches; ``rule_packs`` are the names of those that there are.

        ``reading`` runs what would hold the event loop up: granule digests of large images are tens of megabytes of base64.
        """
        self._reading = reading
        self._rule_packs = frozenset(rule_packs)
        self._images, self._workloads, self._secrets, self._records = images, workloads, secrets, records
        self._clock, self._limits = clock, limits

    async def register_image(self, *, name: Any, roles: Any, measurements: Any, provenance: Any, actor: str) -> tuple[ImageRecord, bool]:
        """Register an image from JSON values that an administrator sent; return it and whether it is new.

        Raises ``InvalidDocument``, or ``Conflict`` if the image is revoked or was registered with other measurements.
        """
        entry = {"name": name, "roles": roles, "measurements": measurements, "provenance": provenance}
        [(record, registration)] = await self.register_images([entry], actor=actor)
        return record, registration.created

    async def register_images(self, entries: Any, *, actor: str) -> list[tuple[ImageRecord, Registration]]:
        """Register a set, all of it or nothing, as one change of the registry; return each image with what became of it.

        Raises ``InvalidDocument``, or ``Conflict`` as ``register_image`` does.
        """
        if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_SET:
            raise InvalidDocument("document.image", f"images must list 1 to {_MAX_SET} images")
        additions = []
        for entry in entries:
            record = await asyncio.get_running_loop().run_in_executor(self._reading, self._image, entry, actor)
            detail = {"name": record.name, "roles": [role.value for role in record.roles], "provenance": dict(record.provenance)}
            additions.append((record, self._change(actor, "image.register", record.id, detail)))
        registrations = await self._images.add_images(additions)
        return [(await self._images.get_image(registration.image_id), registration) for registration in registrations]

    def _image(self, entry: Any, actor: str) -> ImageRecord:
        if not isinstance(entry, dict) or not _ENTRY_REQUIRED <= entry.keys() <= _ENTRY_REQUIRED | {"provenance"}:
            raise InvalidDocument("document.image", "an image has name, roles and measurements, may have provenance, and nothing else")
        name = entry["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidDocument("document.image", "name must be 1 to 200 letters, digits, blanks or . _ + : ~ / , ( ) @ = -")
        measured = ImageMeasurements.from_document(entry["measurements"], self._limits)
        now = self._clock.now()
        return ImageRecord(
            id=measured.image_id,
            name=name,
            roles=_roles(entry["roles"], measured),
            state=ImageState.ACTIVE,
            measurements=measured,
            provenance=_provenance(entry.get("provenance", {})),
            registered_at=now,
            registered_by=actor,
            state_at=now,
            state_by=actor,
        )

    async def get_image(self, image_id: str) -> ImageRecord:
        """Raise ``NotFound``."""
        return await self._images.get_image(image_id)

    async def get_measurements(self, image_id: str) -> ImageMeasurements:
        """Return all that was measured of an image, granule digests included. Raises ``NotFound``."""
        record = await self._images.get_image(image_id)
        wanted = [(algorithm.value, digest) for algorithm, digest in record.measurements.digests.items()]
        found = await self._images.find_images(wanted)
        return next(item.measurements for item in found if item.id == image_id)

    async def list_images(self, *, state: ImageState | None = None, after: str | None = None, limit: int = 100) -> list[ImageRecord]:
        """Return images ordered by id."""
        return await self._images.list_images(state=state, after=after, limit=limit)

    async def set_image_state(self, image_id: str, state: Any, *, reason: Any, actor: str) -> tuple[ImageRecord, dict[str, Any]]:
        """Move an image to another state; return it and what that touches.

        Raises ``InvalidDocument``, ``NotFound``, or ``Conflict`` for a revoked image. When it returns, no replica releases
        anything to a realm with a revoked image.
        """
        if not isinstance(state, str) or state not in set(ImageState):
            raise InvalidDocument("document.image", f"state is one of {', '.join(ImageState)}")
        if not isinstance(reason, str) or not reason.strip() or len(reason) > _MAX_REASON or not reason.isprintable():
            raise InvalidDocument("document.image", f"reason must say why, in at most {_MAX_REASON} printable characters")
        change = self._change(actor, f"image.{ImageState(state).value}", image_id, {"reason": reason})
        record = await self._images.set_image_state(image_id, ImageState(state), reason, change)
        return record, await self.touched_by(image_id)

    async def touched_by(self, image_id: str) -> dict[str, Any]:
        """Return the workloads that name the image, the secrets bound to those, and how many releases followed it."""
        workloads = [record.workload.name for record in await self._workloads.workloads_naming(image_id)]
        secrets = [info.path for info in await self._secrets.secrets_bound_to(workloads)]
        releases = await self._records.count_releases(image=image_id)
        return {"workloads": workloads, "secrets": secrets, "past_releases": releases}

    async def register_workload(self, workload: Workload, *, actor: str) -> WorkloadRecord:
        """Register a revision; raise ``Conflict`` if it names an image that cannot serve, or a rule pack that is not there."""
        pack = workload.device_tree.pack
        if workload.device_tree.judges and pack not in self._rule_packs:
            known = ", ".join(sorted(self._rule_packs)) or "none"
            message = f"{workload.name} names the rule pack {pack}, which this broker does not have; it has {known}"
            raise Conflict("registry.workload-rules", message, expected=known, seen=pack)
        change = self._change(actor, "workload.register", workload.name, {"images": sorted(workload.image_ids)})
        return await self._workloads.add_workload(workload, change)

    async def get_workload(self, name: str, revision: int | None = None) -> WorkloadRecord:
        """Raise ``NotFound``."""
        return await self._workloads.get_workload(name, revision)

    async def list_workloads(self, *, after: str | None = None, limit: int = 100) -> list[WorkloadRecord]:
        """Return the newest revisions ordered by name."""
        return await self._workloads.list_workloads(after=after, limit=limit)

    async def retire_workload(self, name: str, *, actor: str) -> WorkloadRecord:
        """Raise ``NotFound``."""
        return await self._workloads.retire_workload(name, self._change(actor, "workload.retire", name, {}))

    def _change(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> ChangeRecord:
        return ChangeRecord(at=self._clock.now(), actor=actor, action=action, subject=subject, detail=detail)


def _is_kernel(image: ImageMeasurements) -> bool:
    """A VMM loads Images; firmware also loads compressed kernels that are PE files."""
    return image.kind is ImageKind.ARM64_IMAGE or image.pe is not None


def _is_uki_part(image: ImageMeasurements) -> bool:
    return image.pe is not None and image.pe.uki is not None


def _roles(value: Any, measured: ImageMeasurements) -> tuple[Role, ...]:
    """Read roles, and refuse those that such an image could never play: it would be trusted in vain."""
    known = set(Role)
    good = isinstance(value, Sequence) and not isinstance(value, str)
    if not good or not value or not all(isinstance(item, str) and item in known for item in value):
        raise InvalidDocument("document.image", f"roles must list some of {', '.join(Role)}")
    for role, (fits, needed) in _FIT.items():
        if role.value in value and not fits(measured):
            raise InvalidDocument("document.image", f"only {needed} can be a {role}", expected=needed, seen=measured.kind.value)
    return tuple(sorted({Role(item) for item in value}))


def _provenance(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidDocument("document.image", "provenance must be an object")
    try:
        size = len(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise InvalidDocument("document.image", f"provenance: {error}") from None
    if size > _MAX_PROVENANCE_BYTES:
        raise InvalidDocument("document.image", f"provenance is larger than {_MAX_PROVENANCE_BYTES} bytes")
    return value


_FIT: Mapping[Role, tuple[Callable[[ImageMeasurements], bool], str]] = {
    Role.KERNEL: (_is_kernel, "an image of the kind arm64-image, or a PE file,"),
    Role.DEVICE_TREE: (lambda image: image.kind is ImageKind.DEVICE_TREE, "an image of the kind device-tree"),
    Role.BOOT_LOADER: (lambda image: image.pe is not None, "a PE file"),
    Role.UKI: (_is_uki_part, "a PE file with sections of a UKI"),
    Role.UKI_ADDON: (_is_uki_part, "a PE file with sections of a UKI"),
}
