"""RFC 9457 problem documents: the one translation of errors to the wire.

A guest learns a stable code and a ticket. An administrator, who is authenticated, also learns what was wrong with the
document. An unknown error becomes a plain 500 with the request id; its text goes to the log only.
"""

from http import HTTPStatus
from typing import Any

from aiohttp import web

from kbs_rim.errors import (
    Conflict,
    Forbidden,
    InvalidDocument,
    KbsRimError,
    MalformedEvidence,
    NotFound,
    RefusedKey,
    TheirFault,
    VerifierUnavailable,
)
from kbs_rim.services.exchange import BusyError, RefusedError

PROBLEM_PREFIX = "urn:kbs-rim:problem:"
_STATUS_OF: dict[type[TheirFault], HTTPStatus] = {
    RefusedKey: HTTPStatus.BAD_REQUEST,
    MalformedEvidence: HTTPStatus.BAD_REQUEST,
    InvalidDocument: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Forbidden: HTTPStatus.FORBIDDEN,
}


def problem(status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any) -> web.Response:
    """Return an ``application/problem+json`` response; ``code`` is stable and names the problem type."""
    document = {"type": PROBLEM_PREFIX + code, "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail, "code": code}
    document.update(members)
    return web.json_response(document, status=int(status), headers=headers, content_type="application/problem+json")


def problem_of(error: Exception, request_id: str) -> web.Response:
    """Translate an error; anything not known here is a 500 that says nothing but the request id."""
    match error:
        case RefusedError():
            detail = f"The request was refused. Give the administrator ticket {error.ticket}."
            return problem(HTTPStatus.FORBIDDEN, error.code, detail, ticket=error.ticket)
        case BusyError():
            return _unavailable("busy", str(error), error.retry_after_s, request_id)
        case VerifierUnavailable():
            members = {"ticket": error.ticket} if error.ticket else {}
            detail = "The platform verifier gave no usable answer."
            return _unavailable("verifier-unavailable", detail, error.retry_after_s, request_id, **members)
        case TheirFault():
            status = next((code for kind, code in _STATUS_OF.items() if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
            return problem(status, error.finding_id, str(error), request_id=request_id)
        case KbsRimError():
            return _unavailable("unavailable", "The service cannot do this now.", 5, request_id)
        case web.HTTPException():
            return _of_http_exception(error, request_id)
        case _:
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "An internal error occurred.", request_id=request_id)


def _unavailable(code: str, detail: str, retry_after_s: int, request_id: str, **members: str) -> web.Response:
    headers = {"Retry-After": str(retry_after_s)}
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, headers=headers, request_id=request_id, **members)


def _of_http_exception(error: web.HTTPException, request_id: str) -> web.Response:
    codes = {401: "unauthorized", 404: "no-such-route", 405: "method-not-allowed", 413: "too-large", 415: "media-type"}
    kept = {name: value for name, value in error.headers.items() if name in ("Allow", "WWW-Authenticate", "Retry-After")}
    code = codes.get(error.status, "http")
    return problem(error.status, code, error.text or error.reason, headers=kept, request_id=request_id)
