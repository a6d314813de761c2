"""Administration: images, workloads, secrets. Auditors may read all of it; only admins may change it.

No route returns a secret's value: the services behind this module cannot even name a ciphertext.
"""

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from aiohttp import web

from kbs_rim.appraisal.workload import parse_workload, workload_document
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.base64url import decode as decode_base64url
from kbs_rim.evidence.strict_json import decode_object
from kbs_rim.http.auth import PRINCIPAL
from kbs_rim.http.middleware import read_body, read_large_body
from kbs_rim.http.paging import page_limit, page_of
from kbs_rim.limits import KIB, Limits
from kbs_rim.measurement.firmware_volume import volumes_to_document
from kbs_rim.measurement.image_document import facts_to_document
from kbs_rim.ports import ImageRecord, ImageState, SecretInfo, WorkloadRecord
from kbs_rim.services.registry import Registry
from kbs_rim.services.secrets import SecretVault

REGISTRY = web.AppKey("registry", Registry)
VAULT = web.AppKey("vault", SecretVault)
LIMITS = web.AppKey("admin_limits", Limits)
READING: web.AppKey[Executor | None] = web.AppKey("admin_reading")
_NAME = "{secret:[^/]+(?:/[^/]+/[^/]+)?}"
"""A path of three parts, or a key id."""
_JSON_DEPTH = 12
_JSON_ITEMS = 100_000
_SMALL_BODY_BYTES = 64 * KIB
"""A body of this size is read in a millisecond, sooner than a thread would have it."""
_T = TypeVar("_T")
routes = web.RouteTableDef()


@routes.get("/admin/v1/whoami")
async def whoami(request: web.Request) -> web.Response:
    """Say whose token this is."""
    principal = request[PRINCIPAL]
    expires = principal.expires_at.isoformat() if principal.expires_at else None
    return web.json_response({"name": principal.name, "role": principal.role.value, "expires_at": expires})


# --- images -----------------------------------------------------------------------------------------------------------


@routes.post("/admin/v1/images")
async def add_image(request: web.Request) -> web.Response:
    """Register what an administrator measured on their own side: 201 if new, 200 if it was registered already."""
    document = await _document(request, {"name", "roles", "measurements"}, {"provenance"})
    record, created = await request.app[REGISTRY].register_image(
        name=document["name"],
        roles=document["roles"],
        measurements=document["measurements"],
        provenance=document.get("provenance", {}),
        actor=request[PRINCIPAL].name,
    )
    return web.json_response(image_document(record), status=201 if created else 200)


@routes.post("/admin/v1/images/batch")
async def add_images(request: web.Request) -> web.Response:
    """Register a set in one transaction, all of it or nothing: 201 if one of them is new."""
    document = await _document(request, {"images"}, set())
    registered = await request.app[REGISTRY].register_images(document["images"], actor=request[PRINCIPAL].name)
    items = [
        {
            "outcome": "registered" if found.created else "extended" if found.added else "unchanged",
            "added": list(found.added),
            "image": image_document(record),
        }
        for record, found in registered
    ]
    return web.json_response({"images": items}, status=201 if any(found.created for _, found in registered) else 200)


@routes.get("/admin/v1/images")
async def list_images(request: web.Request) -> web.Response:
    """List images by id."""
    asked = request.query.get("state")
    if asked is not None and asked not in set(ImageState):
        raise web.HTTPBadRequest(text=f"state is one of {', '.join(ImageState)}.")
    state = None if asked is None else ImageState(asked)
    limit = page_limit(request)
    records = await request.app[REGISTRY].list_images(state=state, after=request.query.get("cursor"), limit=limit)
    return page_of("images", [image_document(record) for record in records], limit, lambda item: item["id"])


@routes.get("/admin/v1/images/{id}")
async def show_image(request: web.Request) -> web.Response:
    """Show one image."""
    return web.json_response(image_document(await request.app[REGISTRY].get_image(request.match_info["id"])))


@routes.get("/admin/v1/images/{id}/measurements")
async def show_measurements(request: web.Request) -> web.Response:
    """Return what was registered, granule digests included, for comparing it with a file granule by granule."""
    measurements = await request.app[REGISTRY].get_measurements(request.match_info["id"])
    return web.json_response(body=await _off_loop(request, lambda: json.dumps(measurements.to_document()).encode()))


@routes.post("/admin/v1/images/{id}/state")
async def change_image(request: web.Request) -> web.Response:
    """Deprecate, revoke or re-activate; a revocation holds on every replica when this returns, and says what it touches."""
    document = await _document(request, {"state", "reason"}, set())
    record, touched = await request.app[REGISTRY].set_image_state(
        request.match_info["id"], document["state"], reason=document["reason"], actor=request[PRINCIPAL].name
    )
    return web.json_response({"image": image_document(record), "touches": touched})


def image_document(record: ImageRecord) -> dict[str, Any]:
    """Return the JSON form of an image, without granule digests."""
    measured = record.measurements
    kernel, tree = measured.kernel, measured.device_tree
    return {
        "id": record.id,
        "name": record.name,
        "roles": [role.value for role in record.roles],
        "state": record.state.value,
        "state_at": record.state_at.isoformat(),
        "state_by": record.state_by,
        "state_reason": record.state_reason,
        "kind": measured.kind,
        "compression": measured.compression,
        "size": measured.size,
        "digests": {algorithm.value: digest.hex() for algorithm, digest in measured.digests.items()},
        "file_size": measured.file_size,
        "file_digests": {algorithm.value: digest.hex() for algorithm, digest in measured.file_digests.items()},
        "kernel": {"text_offset": kernel.text_offset, "image_size": kernel.image_size, "flags": kernel.flags} if kernel else None,
        "device_tree": facts_to_document(tree) if tree else None,
        "pe": measured.pe.to_document() if measured.pe else None,
        "volumes": volumes_to_document(measured.volumes),
        "provenance": dict(record.provenance),
        "further_provenance": [
            {"provenance": dict(word.provenance), "added_at": word.added_at.isoformat(), "added_by": word.added_by}
            for word in record.further_provenance
        ],
        "registered_at": record.registered_at.isoformat(),
        "registered_by": record.registered_by,
    }


# --- workloads --------------------------------------------------------------------------------------------------------


@routes.post("/admin/v1/workloads")
async def add_workload(request: web.Request) -> web.Response:
    """Register a revision of a workload."""
    workload = parse_workload(decode_object(await read_body(request, request.app[LIMITS].body_bytes), what="the workload"))
    record = await request.app[REGISTRY].register_workload(workload, actor=request[PRINCIPAL].name)
    return web.json_response(_workload_document(record), status=201)


@routes.get("/admin/v1/workloads")
async def list_workloads(request: web.Request) -> web.Response:
    """List the newest revision of each workload."""
    limit = page_limit(request)
    records = await request.app[REGISTRY].list_workloads(after=request.query.get("cursor"), limit=limit)
    return page_of("workloads", [_workload_document(record) for record in records], limit, lambda item: item["name"])


@routes.get("/admin/v1/workloads/{name}")
async def show_workload(request: web.Request) -> web.Response:
    """Show the newest revision, or the one in the query."""
    asked = request.query.get("revision")
    if asked is not None and not re.fullmatch("[0-9]{1,9}", asked):
        raise web.HTTPBadRequest(text="revision is a number.")
    revision = None if asked is None else int(asked)
    return web.json_response(_workload_document(await request.app[REGISTRY].get_workload(request.match_info["name"], revision)))


@routes.post("/admin/v1/workloads/{name}/retire")
async def retire_workload(request: web.Request) -> web.Response:
    """Release nothing to this workload any more."""
    record = await request.app[REGISTRY].retire_workload(request.match_info["name"], actor=request[PRINCIPAL].name)
    return web.json_response(_workload_document(record))


def _workload_document(record: WorkloadRecord) -> dict[str, Any]:
    return {
        "name": record.workload.name,
        "revision": record.revision,
        "active": record.active,
        "registered_at": record.registered_at.isoformat(),
        "registered_by": record.registered_by,
        "workload": workload_document(record.workload),
    }


# --- secrets ----------------------------------------------------------------------------------------------------------


@routes.post("/admin/v1/secrets")
async def add_secret(request: web.Request) -> web.Response:
    """Create a secret with its first version; nobody may have it unless workloads are named."""
    document = await _document(request, {"path", "key_id", "workloads", "value"}, set())
    info = await request.app[VAULT].create(
        document["path"],
        key_id=document["key_id"],
        workloads=document["workloads"],
        value=_value(document["value"]),
        actor=request[PRINCIPAL].name,
    )
    return web.json_response(_secret_document(info), status=201)


@routes.get("/admin/v1/secrets")
async def list_secrets(request: web.Request) -> web.Response:
    """List secrets, everything but their values."""
    limit = page_limit(request)
    infos = await request.app[VAULT].list_secrets(after=request.query.get("cursor"), limit=limit)
    return page_of("secrets", [_secret_document(info) for info in infos], limit, lambda item: item["path"])


@routes.get(f"/admin/v1/secrets/{_NAME}")
async def show_secret(request: web.Request) -> web.Response:
    """Show versions and bindings."""
    return web.json_response(_secret_document(await _secret(request)))


@routes.post(f"/admin/v1/secrets/{_NAME}/versions")
async def add_version(request: web.Request) -> web.Response:
    """Store a new version."""
    document = await _document(request, {"value"}, set())
    info = await request.app[VAULT].put_version((await _secret(request)).path, _value(document["value"]), actor=request[PRINCIPAL].name)
    return web.json_response(_secret_document(info), status=201)


@routes.post(f"/admin/v1/secrets/{_NAME}/versions/{{version:[0-9]{{1,9}}}}/revoke")
async def revoke_version(request: web.Request) -> web.Response:
    """Erase a version."""
    version = int(request.match_info["version"])
    info = await request.app[VAULT].revoke_version((await _secret(request)).path, version, actor=request[PRINCIPAL].name)
    return web.json_response(_secret_document(info))


@routes.put(f"/admin/v1/secrets/{_NAME}/workloads")
async def bind_secret(request: web.Request) -> web.Response:
    """Replace the set of workloads that may have the secret."""
    document = await _document(request, {"workloads"}, set())
    info = await request.app[VAULT].bind((await _secret(request)).path, document["workloads"], actor=request[PRINCIPAL].name)
    return web.json_response(_secret_document(info))


async def _secret(request: web.Request) -> SecretInfo:
    return await request.app[VAULT].get_secret(request.match_info["secret"])


def _secret_document(info: SecretInfo) -> dict[str, Any]:
    return {
        "path": info.path,
        "key_id": info.key_id,
        "workloads": list(info.workloads),
        "created_at": info.created_at.isoformat(),
        "created_by": info.created_by,
        "versions": [
            {
                "version": version.version,
                "active": version.active,
                "created_at": version.created_at.isoformat(),
                "created_by": version.created_by,
                "kek_id": version.kek_id,
            }
            for version in info.versions
        ],
    }


# --- bodies -----------------------------------------------------------------------------------------------------------


async def _document(request: web.Request, required: set[str], optional: set[str]) -> dict[str, Any]:
    """Read a JSON object with exactly the known members; raise ``InvalidDocument``."""
    limits = request.app[LIMITS]
    body = await read_large_body(request, limits.admin_body_bytes)

    def read() -> dict[str, Any]:
        return decode_object(body, what="the body", max_bytes=limits.admin_body_bytes, max_depth=_JSON_DEPTH, max_items=_JSON_ITEMS)

    document = read() if len(body) <= _SMALL_BODY_BYTES else await _off_loop(request, read)
    if missing := required - set(document):
        raise InvalidDocument("document.member", f"the body lacks {', '.join(sorted(missing))}")
    if unknown := set(document) - required - optional:
        raise InvalidDocument("document.member", f"the body has unknown members: {', '.join(sorted(unknown))}")
    return document


async def _off_loop(request: web.Request, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(request.app[READING], work)


def _value(text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidDocument("document.value", "value must be base64url text without padding")
    return decode_base64url(text)
