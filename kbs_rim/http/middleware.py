"""What every request passes through: an id, one access log line, metrics, problem documents, bounded bodies."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex

import structlog
from aiohttp import web

from kbs_rim.errors import KbsRimError, OurFault, VerifierUnavailable
from kbs_rim.http.metrics import Metrics
from kbs_rim.http.problems import problem_of
from kbs_rim.http.receiving import Receiving
from kbs_rim.services.exchange import BusyError, RefusedError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID = web.RequestKey("request_id", str)
METRICS = web.AppKey("metrics", Metrics)
RECEIVING = web.AppKey("receiving", Receiving)
"""On the guests' application; administrators are known before their body is read."""
BODY_TIMEOUT_S = 30
"""A guest that needs longer to send two megabytes is holding a connection, not sending."""

_ACCEPTED_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
    "Server": "kbs_rim",
}
_log = structlog.get_logger("kbs_rim.http")


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, turn every error into a problem document, log and count the outcome."""
    proposed = request.headers.get("X-Request-Id", "")
    request_id = proposed if _ACCEPTED_REQUEST_ID.match(proposed) else token_hex(8)
    request[REQUEST_ID] = request_id
    started = time.perf_counter()
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - the boundary: whatever happened, a problem document goes out and no secret
        if isinstance(error, OurFault) and not isinstance(error, VerifierUnavailable):  # that one is logged with its ticket
            _log.error("cannot serve", kind=type(error).__name__, reason=str(error), request_id=request_id)
        elif not _is_expected(error):
            _log.exception("unhandled error", request_id=request_id)
        response = problem_of(error, request_id)
    elapsed = time.perf_counter() - started
    response.headers["X-Request-Id"] = request_id
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "unmatched"
    request.app[METRICS].observe_request(route, request.method, response.status, elapsed)
    _log.info("request", method=request.method, route=route, status=response.status, ms=round(elapsed * 1000, 1), request_id=request_id)
    return response


def _is_expected(error: Exception) -> bool:
    return isinstance(error, (web.HTTPException, KbsRimError, BusyError, RefusedError))


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    """Return the body if it has at most ``limit_bytes``. Raise as ``read_large_body`` does."""
    return bytes(await read_large_body(request, limit_bytes))


async def read_large_body(request: web.Request, limit_bytes: int) -> bytearray:
    """Return the body if it has at most ``limit_bytes``, in the buffer that it arrived in: a copy of 64 MiB holds the loop up for 40 ms.

    Raise ``BusyError`` if too many bytes of others are arriving,
    413 if it is larger, 415 for a content coding, 408 if it comes too slowly, 400 if it is cut off or badly chunked.
    """
    if any(coding.strip().lower() != "identity" for coding in request.headers.getall("Content-Encoding", ())):
        raise web.HTTPUnsupportedMediaType(text="Send the body without a content coding.")
    if request.content_length is not None and request.content_length > limit_bytes:
        raise web.HTTPRequestEntityTooLarge(limit_bytes, request.content_length)
    body = bytearray()
    receiving = request.app.get(RECEIVING) or Receiving(limit_bytes)
    try:
        with receiving.share() as take:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in request.content.iter_any():
                    if len(body) + len(chunk) > limit_bytes:
                        raise web.HTTPRequestEntityTooLarge(limit_bytes, len(body) + len(chunk))
                    take(len(chunk))
                    body += chunk
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The body came too slowly.") from None
    except (ConnectionError, web.RequestPayloadError):
        raise web.HTTPBadRequest(text="The body did not arrive whole.") from None
    return body
