"""Explaining a refusal: the record, its stored log and today's registry, put together for whoever has the ticket."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from kbs_rim.appraisal.explain import Reason, differing_granules, every_dialect, explain
from kbs_rim.appraisal.registered_image import ImageSet, RegisteredImage
from kbs_rim.appraisal.supplied_tree import read_supplied_tree
from kbs_rim.errors import MalformedEvidence, NotFound
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.ledger.records import AppraisalRecord
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage, boot_plan_from_log
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ReplayResult, match_rim
from kbs_rim.ports import ImageReader, ImageRecord
from kbs_rim.services.audit import Auditor

_T = TypeVar("_T")
_PAGE = 500
_MAX_NAMED = 32
"""How many images of one explanation are looked up for their names."""
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_SHORT_ID = len("sha256:") + 12
_MAX_COMPARED = 5000
"""How many registered images are looked at for near ones."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A record with its reasons."""

    record: AppraisalRecord
    reasons: tuple[Reason, ...]


class Explainer:
    """Reads records and images; decides and writes nothing."""

    def __init__(self, *, auditor: Auditor, images: ImageReader, limits: Limits, executor: Executor | None = None) -> None:
        """``executor`` runs the replay off the event loop."""
        self._auditor, self._images, self._limits, self._executor = auditor, images, limits, executor

    async def explain(self, ticket: str) -> Explanation:
        """Raise ``NotFound`` for an unknown ticket."""
        record, _ = await self._auditor.get_appraisal(ticket)
        plan = await self._plan(record)
        unknown = "rim.image-unknown" in record.finding_ids
        registered = await self._registered() if unknown else []
        wide = await self._replay(record, plan) if "rim.mismatch" in record.finding_ids else None
        reasons = explain(record.findings, plan=plan, registered=registered, wide_replay=wide)
        if unknown and plan:
            reasons = await self._with_content(record, plan, reasons)
        return Explanation(record, await self._with_names(reasons))

    async def _plan(self, record: AppraisalRecord) -> BootPlan | None:
        digest = record.inputs.get("log.vmm")
        if digest is None:
            return None
        try:
            data = await self._auditor.get_payload(digest)
            return boot_plan_from_log(parse_tcg_log(data, LogKind.VMM, self._limits), self._limits)
        except (NotFound, MalformedEvidence):
            return None

    async def _registered(self) -> list[RegisteredImage]:
        found: list[RegisteredImage] = []
        after = None
        while len(found) < _MAX_COMPARED:
            page = await self._images.list_images(after=after, limit=_PAGE)
            found += [_registered_image(record) for record in page]
            if len(page) < _PAGE:
                break
            after = page[-1].id
        return found

    async def _replay(self, record: AppraisalRecord, plan: BootPlan | None) -> ReplayResult | None:
        signed = record.facts.get("rim")
        if plan is None or not isinstance(signed, str):
            return None
        wanted = [(image.algorithm.value, image.digest) for image in plan.images]
        images = ImageSet(_registered_image(item) for item in await self._images.find_images(wanted))
        sent = await self._sent_tree(record)
        try:
            return await self._off_loop(lambda: _replayed(plan, images, sent, bytes.fromhex(signed), self._limits))
        except MalformedEvidence:
            return None

    async def _sent_tree(self, record: AppraisalRecord) -> bytes | None:
        """Return the device tree that came beside the log, if it was kept."""
        digest = record.inputs.get("device-tree")
        if digest is None:
            return None
        try:
            return await self._auditor.get_payload(digest)
        except NotFound:
            return None

    async def _with_content(self, record: AppraisalRecord, plan: BootPlan, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Compare an unknown device tree, whose bytes came with the evidence, with the nearest registered one, granule by granule."""
        sent = await self._sent_tree(record) or plan.sent_tree
        if sent is None:
            return reasons
        loaded = {image.event: image for image in plan.images}
        explained = []
        for reason in reasons:
            image = loaded.get(reason.finding.get("where", {}).get("event"))
            if reason.finding["id"] == "rim.image-unknown" and image is not None and reason.nearest:
                near = reason.nearest[0].image
                known = await self._images.find_images([(HashAlgorithm.SHA256.value, near.measurements.digests[HashAlgorithm.SHA256])])
                hint = await self._off_loop(partial(_compared, sent, image, known, self._limits))
                reason = replace(reason, hints=(*reason.hints, *hint))
            explained.append(reason)
        return tuple(explained)

    async def _with_names(self, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Say what people call the images that findings name by their ids."""
        ids = [_image_ids(reason.finding) for reason in reasons]
        names: dict[str, str] = {}
        for image_id in list(dict.fromkeys(image_id for found in ids for image_id in found))[:_MAX_NAMED]:
            with suppress(NotFound):
                image = await self._images.get_image(image_id)
                roles = ", ".join(role.value for role in image.roles)
                names[image_id] = f"{image_id[:_SHORT_ID]}... is {image.name} ({roles}, {image.state.value})"
        return tuple(
            replace(reason, hints=(*reason.hints, *(names[image_id] for image_id in found if image_id in names)))
            for reason, found in zip(reasons, ids, strict=True)
        )

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _image_ids(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of images in what a finding expected, saw, and where it is, each once."""
    texts = (finding.get("expected"), finding.get("seen"), finding.get("where", {}).get("image"))
    return tuple(dict.fromkeys(found for text in texts if text for found in _IMAGE_ID.findall(str(text))))


def _compared(sent: bytes, loaded: LoadedImage, known: Sequence[ImageRecord], limits: Limits) -> tuple[str, ...]:
    """Return what differs between the bytes that were sent and a registered image; nothing if the log does not name these bytes."""
    data = sent.ljust(loaded.size, b"\0") if len(sent) <= loaded.size <= limits.device_tree_bytes else sent
    if not known or loaded.algorithm.digest(data) != loaded.digest:
        return ()
    try:
        difference = differing_granules(measure_image(data, limits), known[0].measurements, loaded)
    except MalformedEvidence as error:
        return (f"its bytes came along, and cannot be compared: {error}",)
    if difference is None:
        return ()
    first = ", ".join(f"{index} at {address:#x}" for index, address in difference.first)
    more = f" and {difference.count - len(difference.first)} more" if difference.count > len(difference.first) else ""
    return (f"its bytes came along: {difference.count} of {difference.compared} granules differ from {known[0].name}: {first}{more}",)


def _replayed(plan: BootPlan, images: ImageSet, sent: bytes | None, signed: bytes, limits: Limits) -> ReplayResult:
    """Replay in every dialect, with the tree that came with the evidence as well; raise ``MalformedEvidence``."""
    supplied = read_supplied_tree(sent, plan, limits).supplied
    return match_rim(plan, images.with_supplied(supplied.image if supplied else None), signed, every_dialect(), limits)


def _registered_image(record: ImageRecord) -> RegisteredImage:
    return RegisteredImage(record.id, record.name, record.roles, record.state, record.measurements)
