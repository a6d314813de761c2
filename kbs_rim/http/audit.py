"""Audit: who asked, what was measured, what was decided and why, what was released, who changed which trust. Read only."""

import re
from datetime import UTC, datetime

from aiohttp import web

from kbs_rim.appraisal.finding_catalogue import ENTRIES
from kbs_rim.http.paging import page_limit, page_of
from kbs_rim.ledger.records import VerdictKind
from kbs_rim.ports import AppraisalFilter
from kbs_rim.services.audit import Auditor
from kbs_rim.services.explanation import Explainer

AUDITOR = web.AppKey("auditor", Auditor)
EXPLAINER = web.AppKey("explainer", Explainer)
_TICKET = re.compile(r"[0-9a-f]{8,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILTERS = ("verdict", "secret", "workload", "finding", "image", "instance_id", "after", "before")
routes = web.RouteTableDef()


@routes.get("/audit/v1/appraisals")
async def list_appraisals(request: web.Request) -> web.Response:
    """List appraisals, newest first, that meet every condition of the query."""
    unknown = set(request.query) - set(_FILTERS) - {"limit", "cursor"}
    if unknown:
        raise web.HTTPBadRequest(text=f"Unknown conditions: {', '.join(sorted(unknown))}. Known: {', '.join(_FILTERS)}.")
    limit = page_limit(request)
    verdict = request.query.get("verdict")
    if verdict is not None and verdict not in set(VerdictKind):
        raise web.HTTPBadRequest(text=f"verdict is one of {', '.join(VerdictKind)}.")
    condition = AppraisalFilter(
        verdict=VerdictKind(verdict) if verdict else None,
        secret=request.query.get("secret"),
        workload=request.query.get("workload"),
        finding=request.query.get("finding"),
        image=request.query.get("image"),
        instance_id=request.query.get("instance_id"),
        after=_time(request, "after"),
        before=_time(request, "before"),
        cursor=request.query.get("cursor"),
        limit=limit,
    )
    records = await request.app[AUDITOR].list_appraisals(condition)
    return page_of("appraisals", [record.document() for record in records], limit, lambda item: item["id"])


@routes.get("/audit/v1/appraisals/{ticket}")
async def show_appraisal(request: web.Request) -> web.Response:
    """Show one appraisal with its releases and the digest of its canonical record."""
    ticket = request.match_info["ticket"]
    if not _TICKET.fullmatch(ticket):
        raise web.HTTPNotFound(text="A ticket is a hexadecimal number.")
    record, releases = await request.app[AUDITOR].get_appraisal(ticket)
    body = {"appraisal": record.document(), "digest": record.digest(), "releases": [release.document() for release in releases]}
    return web.json_response(body)


@routes.get("/audit/v1/appraisals/{ticket}/explanation")
async def explain_appraisal(request: web.Request) -> web.Response:
    """Say what each finding that refused means, what to do about it, and which registered images come close."""
    ticket = request.match_info["ticket"]
    if not _TICKET.fullmatch(ticket):
        raise web.HTTPNotFound(text="A ticket is a hexadecimal number.")
    explanation = await request.app[EXPLAINER].explain(ticket)
    reasons = [reason.to_document() for reason in explanation.reasons]
    return web.json_response({"appraisal": explanation.record.document(), "reasons": reasons})


@routes.get("/audit/v1/payloads/{sha256}")
async def show_payload(request: web.Request) -> web.Response:
    """Return an input of an appraisal, byte for byte."""
    sha256 = request.match_info["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise web.HTTPNotFound(text="A payload is named by its SHA-256.")
    data = await request.app[AUDITOR].get_payload(sha256)
    headers = {"Content-Disposition": f'attachment; filename="{sha256}.bin"'}
    return web.Response(body=data, content_type="application/octet-stream", headers=headers)


@routes.get("/audit/v1/changes")
async def list_changes(request: web.Request) -> web.Response:
    """List administrative changes, newest first."""
    limit = page_limit(request)
    cursor = request.query.get("cursor")
    if cursor is not None and not (cursor.isdecimal() and len(cursor) < 19):
        raise web.HTTPBadRequest(text="cursor is the number of a change.")
    subject = request.query.get("subject")
    changes = await request.app[AUDITOR].list_changes(subject=subject, cursor=int(cursor) if cursor else None, limit=limit)
    items = [{"number": number, **change.document()} for number, change in changes]
    return page_of("changes", items, limit, lambda item: item["number"])


@routes.get("/audit/v1/findings")
async def list_findings(_request: web.Request) -> web.Response:
    """Return the catalogue of finding ids."""
    items = [{"id": entry.id, "step": entry.step, "code": entry.code, "title": entry.title, "remedy": entry.remedy} for entry in ENTRIES]
    return web.json_response({"findings": items})


def _time(request: web.Request, name: str) -> datetime | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise web.HTTPBadRequest(text=f"{name} must be a time such as 2026-11-23T12:00:00Z.") from None
