"""The five routes of Veraison's verification API over a real appraisal.

Like Veraison's, this API asks nobody who they are. It hands out opinions about evidence that the caller has already;
``DELETE`` needs the session's random id.
"""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from secrets import SystemRandom, token_bytes
from typing import Any
from uuid import UUID

from aiohttp import web

from kbs_rim import __version__
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.errors import ConfigurationError, MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.reference_verifier.faults import EAR_FAULTS, Fault, NonceStyle
from kbs_rim.reference_verifier.negotiation import (
    CCA_EVIDENCE_TYPE,
    DISCOVERY_TYPE,
    SESSION_TYPE,
    accepts,
    describe_malformed,
    is_supported,
)
from kbs_rim.reference_verifier.provisioning import ProvisionedStore, ProvisioningSettings, add_routes
from kbs_rim.reference_verifier.sessions import Session, SessionStatus, SessionStore, read_nonce
from kbs_rim.reference_verifier.signing import SigningKey, encode_claims
from kbs_rim.reference_verifier.trust_vectors import appraise_token, early_failure

EAR_PROFILE = "tag:github.com,2023:veraison/ear"
DEVELOPER = "kbs_rim"
_MIN_NONCE, _MAX_NONCE, _DEFAULT_NONCE = 8, 64, 32
_BODY_BYTES = 1 << 16
"""The largest token has a quarter of this; sessions keep what was sent, and anybody can send something."""
_SHUFFLE = SystemRandom().shuffle
_OTHER_TYPE = "application/psa-attestation-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a reference verifier is made of. Durations in seconds.

    ``allow_test_keys`` accepts platforms and realms whose keys are published, and a published signing key. With ``provisioning``,
    endorsements may be submitted while it runs.
    """

    signing_key: SigningKey
    endorsements: EndorsementStore
    allow_test_keys: bool = False
    faults: frozenset[Fault] = frozenset()
    nonce_style: NonceStyle = NonceStyle.HEAD
    delay_s: float = 1.0
    discovery_max_age_s: int = 60
    session_ttl_s: float = 150.0
    max_sessions: int = 4096
    limits: Limits = DEFAULT_LIMITS
    developer: str = DEVELOPER
    other_key: SigningKey = field(default_factory=SigningKey.generate)
    provisioning: ProvisioningSettings | None = None

    def __post_init__(self) -> None:
        if self.allow_test_keys:
            return
        if name := self.signing_key.published:
            raise ConfigurationError(f"the verifier's signing key is published ({name}): make one with --generate-key")


def make_app(settings: Settings) -> web.Application:
    """Return the application; it owns no background work and no files."""
    verifier = _Verifier(settings)
    app = web.Application(client_max_size=_BODY_BYTES, middlewares=[_go_errors])
    session = "/challenge-response/v1/session/{id}"
    app.router.add_get("/.well-known/veraison/verification", verifier.discover, allow_head=False)
    app.router.add_post("/challenge-response/v1/newSession", verifier.open_session)
    app.router.add_post(session, verifier.submit)
    app.router.add_get(session, verifier.read_session, allow_head=False)
    app.router.add_delete(session, verifier.delete_session)
    if settings.provisioning is not None:
        add_routes(app, verifier.endorsements, settings.provisioning, settings.limits)
    return app


@web.middleware
async def _go_errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Unknown paths and methods look as they do with gin: 404 and text, never 405."""
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return web.Response(status=404, text="404 page not found")
    except web.HTTPRequestEntityTooLarge:
        return _problem(413, "Request Entity Too Large", f"evidence is larger than {_BODY_BYTES} bytes")


def _problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.Response(status=status, text=json.dumps(document), content_type="application/problem+json", headers=headers)


def _answer(document: dict[str, Any], media_type: str, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=json.dumps(document).encode("utf-8"), headers={"Content-Type": media_type, **(headers or {})})


def _not_acceptable(media_type: str) -> web.Response:
    return _problem(406, "Not Acceptable", f"the only supported output format is {media_type}")


class _Verifier:
    """State and handlers of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions = SessionStore(ttl_s=settings.session_ttl_s, maximum=settings.max_sessions, now=time.time)
        self._discoveries = 0
        self._spent: set[Fault] = set()
        self.endorsements = ProvisionedStore(settings.endorsements, time.time)

    def _has(self, fault: Fault) -> bool:
        return fault in self._settings.faults

    def _once(self, fault: Fault) -> bool:
        """Whether ``fault`` is on and has not struck yet."""
        if not self._has(fault) or fault in self._spent:
            return False
        self._spent.add(fault)
        return True

    @property
    def _media_types(self) -> list[str]:
        types = [_OTHER_TYPE] if self._has(Fault.NO_CCA_MEDIA_TYPE) else [CCA_EVIDENCE_TYPE, _OTHER_TYPE]
        _SHUFFLE(types)  # Go walks its maps in random order; nobody may rely on one
        return types

    # --- discovery ----------------------------------------------------------------------------------------------------

    async def discover(self, request: web.Request) -> web.Response:
        """GET /.well-known/veraison/verification (1.3)."""
        if not accepts(request.headers.get("Accept"), DISCOVERY_TYPE):
            return _not_acceptable(DISCOVERY_TYPE)
        if self._has(Fault.DISCOVERY_500):
            return _problem(500, "Internal Server Error", "could not get public key from verifier")
        settings = self._settings
        self._discoveries += 1
        rotated = self._has(Fault.ROTATED_KEY) and self._discoveries > 1
        document = {
            "ear-verification-key": (settings.other_key if rotated else settings.signing_key).public_jwk(),
            "media-types": self._media_types,
            "version": __version__,
            "service-state": "INITIALIZING" if self._has(Fault.NOT_READY) else "READY",
            "api-endpoints": {"newChallengeResponseSession": "/challenge-response/v1/newSession"},
        }
        age = settings.discovery_max_age_s
        caching = {"Cache-Control": f"max-age={age}", "Expires": formatdate(time.time() + age, usegmt=True)}
        return _answer(document, DISCOVERY_TYPE, headers=caching)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(self, request: web.Request) -> web.Response:
        """POST newSession (1.4)."""
        if not accepts(request.headers.get("Accept"), SESSION_TYPE):
            return _not_acceptable(SESSION_TYPE)
        nonce = self._requested_nonce(request)
        if isinstance(nonce, str):
            return _problem(400, "Bad Request", f"failed handling nonce request: {nonce}")
        session = self._sessions.open(nonce)
        if session is None:
            return _problem(503, "Service Unavailable", "too many sessions", {"Retry-After": "5"})
        document = self._document(session)
        if self._has(Fault.OTHER_SESSION_NONCE):
            document["nonce"] = "A" * len(document["nonce"])
        # Relative and without a leading slash: clients resolve it against the request's URL.
        return _answer(document, SESSION_TYPE, status=201, headers={"Location": f"session/{session.id}"})

    def _requested_nonce(self, request: web.Request) -> bytes | str:
        """Return the session's nonce, or what is wrong with the query."""
        if "nonce" in request.query and "nonceSize" in request.query:
            return "nonce and nonceSize are mutually exclusive"
        if "nonce" in request.query:
            nonce = read_nonce(request.query["nonce"], self._settings.nonce_style)
            if nonce is None:
                return "nonce must be valid base64"
            if not _MIN_NONCE <= len(nonce) <= _MAX_NONCE:
                return f"nonce must be between {_MIN_NONCE} and {_MAX_NONCE} bytes long; got {len(nonce)}"
            return nonce
        size = request.query.get("nonceSize", str(_DEFAULT_NONCE))
        if not (size.isascii() and size.isdigit() and len(size) <= 2 and _MIN_NONCE <= int(size) <= _MAX_NONCE):
            return f"nonceSize must be in range {_MIN_NONCE}..{_MAX_NONCE}"
        return token_bytes(int(size))

    async def read_session(self, request: web.Request) -> web.Response:
        """GET session (1.6)."""
        if not accepts(request.headers.get("Accept"), SESSION_TYPE):
            return _not_acceptable(SESSION_TYPE)
        session = self._find(request)
        if isinstance(session, web.Response):
            return session
        if session.status is SessionStatus.PROCESSING and not self._has(Fault.PROCESSING_FOREVER):
            session.polls_left -= 1
            if session.polls_left < 0:
                session.status = SessionStatus.FAILED if self._has(Fault.SESSION_FAILED) else SessionStatus.COMPLETE
        return _answer(self._document(session), SESSION_TYPE)

    async def delete_session(self, request: web.Request) -> web.Response:
        """DELETE session (1.6): no content, whether it was known or not."""
        id_ = _session_id(request)
        if id_ is None:
            return _invalid_id(request)
        self._sessions.drop(id_)
        return web.Response(status=204)

    def _find(self, request: web.Request) -> Session | web.Response:
        id_ = _session_id(request)
        if id_ is None:
            return _invalid_id(request)
        session = self._sessions.find(id_)
        if session is None or self._has(Fault.SESSION_LOST) or self._once(Fault.SESSION_LOST_ONCE):
            return _problem(404, "Not Found", f"session not found for (id, tenant)=({id_}, 0)")
        return session

    def _document(self, session: Session) -> dict[str, Any]:
        return session.to_document(self._settings.nonce_style, self._media_types)

    # --- evidence -----------------------------------------------------------------------------------------------------

    async def submit(self, request: web.Request) -> web.Response:
        """POST evidence (1.5): the checks in Veraison's order, each with its status."""
        if not accepts(request.headers.get("Accept"), SESSION_TYPE):
            return _not_acceptable(SESSION_TYPE)
        body = await request.read()
        if not body:
            return _problem(400, "Bad Request", "unable to read evidence from the request body")
        media_type = request.headers.get("Content-Type", "")
        try:
            supported = is_supported(media_type, self._media_types)
        except MalformedEvidence as error:
            return _problem(400, "Bad Request", describe_malformed(error))
        if not supported:
            listed = {"Accept": ", ".join(self._media_types)}
            return _problem(415, "Unsupported Media Type", f"no active plugin found for {media_type}", listed)
        session = self._find(request)
        if isinstance(session, web.Response):
            return session
        self._sessions.renew(session)
        session.evidence = (media_type, body)
        if (broken := await self._transport_fault()) is not None:
            session.status = SessionStatus.FAILED
            return broken
        if media_type != CCA_EVIDENCE_TYPE:
            # The lookup behind the REST layer is by exact spelling (1.5, trap).
            session.status = SessionStatus.FAILED
            return _problem(500, "Internal Server Error", "error encountered while processing evidence")
        session.result = self._appraise(body, session.nonce)
        return self._finish(session)

    def _finish(self, session: Session) -> web.Response:
        if self._settings.faults & {Fault.PROCESSING, Fault.PROCESSING_FOREVER, Fault.SESSION_FAILED}:
            session.status, session.polls_left = SessionStatus.PROCESSING, 1
            return _answer(self._document(session), SESSION_TYPE, status=202)
        session.status = SessionStatus.COMPLETE
        document = self._document(session)
        if self._has(Fault.OVERSIZED):
            document["padding"] = "x" * (2 * self._settings.limits.verifier_response_bytes)
        return _answer(document, SESSION_TYPE)

    async def _transport_fault(self) -> web.Response | None:
        if self._has(Fault.DELAY):
            await asyncio.sleep(self._settings.delay_s)
        if self._has(Fault.HTTP_500) or self._once(Fault.HTTP_500_ONCE):
            return _problem(500, "Internal Server Error", "error encountered while processing evidence")
        if self._has(Fault.EMPTY_500):
            return web.Response(status=500)
        if self._has(Fault.HTML_502):
            return web.Response(status=502, text="<html><body>Bad Gateway</body></html>", content_type="text/html")
        if self._has(Fault.REDIRECT):
            return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})
        return None

    def _appraise(self, evidence: bytes, nonce: bytes) -> str:
        """Appraise and sign; a failed attestation is a signed result like any other."""
        settings = self._settings
        at = int(time.time())
        if self._has(Fault.BAD_CRYPTO):
            submods = early_failure("integrity validation failed: bad evidence")
        else:
            submods = appraise_token(
                evidence, nonce, self.endorsements.current, at=at, allow_test_keys=settings.allow_test_keys, limits=settings.limits
            )
        claims = ear_claims(submods, nonce, at=at, developer=settings.developer)
        for fault in sorted(settings.faults & EAR_FAULTS.keys()):
            EAR_FAULTS[fault](claims)
        return self._sign(claims)

    def _sign(self, claims: dict[str, Any]) -> str:
        settings = self._settings
        if self._has(Fault.ALG_NONE):
            return settings.signing_key.forge_unsigned(claims)
        if self._has(Fault.ALG_HS256):
            return settings.signing_key.forge_hmac(claims)
        other = self._has(Fault.WRONG_KEY) or self._has(Fault.ROTATED_KEY)
        key = settings.other_key if other else settings.signing_key
        if self._has(Fault.DUPLICATE_NONCE):
            payload = encode_claims(claims)
            return key.sign_payload(b'{"eat_nonce":"AAAA",' + payload[1:])
        return key.sign(claims)


def ear_claims(submods: dict[str, Any], nonce: bytes, *, at: int, developer: str = DEVELOPER) -> dict[str, Any]:
    """Return the claims of an attestation result (draft-ietf-rats-ear), ready to be signed."""
    return {
        "eat_profile": EAR_PROFILE,
        "iat": at,
        "ear.verifier-id": {"build": __version__, "developer": developer},
        "eat_nonce": base64.urlsafe_b64encode(nonce).decode("ascii"),
        "submods": submods,
    }


def _session_id(request: web.Request) -> UUID | None:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        return None


def _invalid_id(request: web.Request) -> web.Response:
    return _problem(400, "Bad Request", f"invalid session id ({request.path}) in path segment: invalid UUID")
