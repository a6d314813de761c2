"""Explaining a refusal: the record, its stored log and today's registry, put together for whoever has the ticket."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from kbs_rim.appraisal.explain import Reason, every_dialect, explain
from kbs_rim.appraisal.registered_image import ImageSet, RegisteredImage
from kbs_rim.appraisal.supplied_tree import read_supplied_tree
from kbs_rim.errors import MalformedEvidence, NotFound
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.ledger.records import AppraisalRecord
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, boot_plan_from_log
from kbs_rim.measurement.replay import ReplayResult, match_rim
from kbs_rim.ports import ImageReader, ImageRecord
from kbs_rim.services.audit import Auditor

_T = TypeVar("_T")
_PAGE = 500
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
        return Explanation(record, explain(record.findings, plan=plan, registered=registered, wide_replay=wide))

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

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _replayed(plan: BootPlan, images: ImageSet, sent: bytes | None, signed: bytes, limits: Limits) -> ReplayResult:
    """Replay in every dialect, with the tree that came with the evidence as well; raise ``MalformedEvidence``."""
    supplied = read_supplied_tree(sent, plan, limits).supplied
    return match_rim(plan, images.with_supplied(supplied.image if supplied else None), signed, every_dialect(), limits)


def _registered_image(record: ImageRecord) -> RegisteredImage:
    return RegisteredImage(record.id, record.name, record.roles, record.state, record.measurements)
