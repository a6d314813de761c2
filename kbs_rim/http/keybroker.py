"""The Veraison keybroker protocol: ``POST /keys/v1/key/{id}`` and ``POST /keys/v1/evidence/{challenge}``.

As keybroker-demo speaks it, with three differences that old clients do not notice: the challenge commits to the guest's key
and the answer carries the ``salt`` beside it; challenges expire and work once; errors are RFC 9457 problem documents with a
``ticket``.
"""

import re
from base64 import urlsafe_b64encode

from aiohttp import web

from kbs_rim.errors import RefusedKey
from kbs_rim.evidence.envelope import ACCEPTED_MEDIA_TYPES
from kbs_rim.evidence.strict_json import decode_object
from kbs_rim.http.middleware import METRICS, REQUEST_ID, read_body
from kbs_rim.limits import Limits
from kbs_rim.services.broker import Broker
from kbs_rim.services.exchange import BusyError, RefusedError

BROKER = web.AppKey("broker", Broker)
LIMITS = web.AppKey("limits", Limits)
PUBLIC_URL = web.AppKey("public_url", str)
KEY_REQUEST_TYPE = "application/vnd.veraison.keybroker.background-check-key-request+json"

_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,2}")
_CHALLENGE_ID = re.compile(r"[0-9a-f]{48}")
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
routes = web.RouteTableDef()


@routes.post("/keys/v1/key/{name:.+}")
async def request_key(request: web.Request) -> web.Response:
    """Answer 201 with a challenge for the guest's public key. Whether the secret exists is not said."""
    name = request.match_info["name"]
    if not _SECRET_NAME.fullmatch(name):
        raise web.HTTPNotFound(text="A key is named by its key id or by repository/type/tag.")
    if request.content_type not in (KEY_REQUEST_TYPE, "application/json"):
        raise web.HTTPUnsupportedMediaType(text=f"Send {KEY_REQUEST_TYPE}.")
    limits = request.app[LIMITS]
    document = decode_object(await read_body(request, limits.key_request_bytes), what="the key request")
    jwk = document.get("pubkey")
    if set(document) != {"pubkey"} or not isinstance(jwk, dict):
        raise RefusedKey("key.malformed", 'the body must be {"pubkey": JWK}')
    challenge = await request.app[BROKER].issue_challenge(name, jwk)
    answer = {
        "challenge": _base64url(challenge.value),
        "accept": list(ACCEPTED_MEDIA_TYPES),
        "salt": _base64url(challenge.salt),
        "expires": challenge.expires_at.isoformat(),
    }
    location = f"{_origin(request)}/keys/v1/evidence/{challenge.id}"
    return web.json_response(answer, status=201, headers={"Location": location})


@routes.post("/keys/v1/evidence/{challenge}")
async def submit_evidence(request: web.Request) -> web.Response:
    """Answer 200 with the sealed secret, or 403 with a code and a ticket."""
    challenge_id = request.match_info["challenge"]
    if not _CHALLENGE_ID.fullmatch(challenge_id):
        challenge_id = ""  # an id we never issue: refused like any unknown one
    body = await read_body(request, request.app[LIMITS].body_bytes)
    metrics = request.app[METRICS]
    media_type = request.headers.get("Content-Type", "")
    try:
        release = await request.app[BROKER].release(challenge_id, media_type, body, request_id=request[REQUEST_ID])
    except RefusedError as error:
        metrics.observe_outcome(error.code, error.finding_ids)
        raise
    except BusyError:
        metrics.observe_outcome("busy")
        raise
    metrics.observe_outcome("released")
    return web.json_response({"data": release.sealed.value, "ticket": release.ticket})


def _origin(request: web.Request) -> str:
    """Return the origin for Location; none, which makes it relative, if the request does not say by which name we are known."""
    if public_url := request.app[PUBLIC_URL]:
        return public_url
    host = request.headers.get("Host", "")
    return f"{request.scheme}://{host}" if _HOST.fullmatch(host) else ""


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
