"""Veraison's provisioning API over the reference verifier's endorsements: submit a CoRIM, and it counts from then on.

It answers as Veraison does, 200 with a ``status`` also when it refuses, and refuses what Veraison's store refuses: the same CoRIM or the
same corim-id again. In two points it differs. Without a token of its own it is not there at all: endorsements decide which platforms are
genuine. And what is submitted is kept in memory only.
"""

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from aiohttp import web
from cryptography.x509 import Certificate

from kbs_rim import __version__
from kbs_rim.appraisal.corim import read_corim
from kbs_rim.appraisal.corim_document import Profile
from kbs_rim.appraisal.corim_signature import verify_signature
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.appraisal.published_keys import is_published
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.media_type import parse_media_type
from kbs_rim.limits import Limits
from kbs_rim.reference_verifier.negotiation import DISCOVERY_TYPE, accepts

SESSION_TYPE = "application/vnd.veraison.provisioning-session+json"
SUBMIT_PATH = "/endorsement-provisioning/v1/submit"
WELL_KNOWN_PATH = "/.well-known/veraison/provisioning"
_PREFIX = "submit endorsement returned error: submit endorsements failed: "
_SESSION_LIFE = timedelta(minutes=5)
_MAX_CORIMS = 1024
_TYPES = {
    f'application/rim+{kind}; profile="{profile.value}"': (profile, kind == "cose")
    for profile in (Profile.PLATFORM, Profile.REALM)
    for kind in ("cbor", "cose")
}
"""By exact spelling, as Veraison looks them up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSettings:
    """Who may provision, and which signatures count. ``require_signature`` refuses unsigned CoRIMs, which Veraison takes."""

    token: str = field(repr=False)
    roots: tuple[Certificate, ...] = ()
    require_signature: bool = False
    allow_test_keys: bool = False

    def __post_init__(self) -> None:
        if len(self.token) < 16 or not self.token.isascii():
            raise ValueError("the token for provisioning has at least 16 ASCII characters")


class ProvisionedStore:
    """The verifier's endorsements: those from its start and those that were submitted since."""

    def __init__(self, first: EndorsementStore, now: Callable[[], float]) -> None:
        """``now`` gives seconds since the epoch."""
        self.current = first
        self._now = now
        self._by_id: dict[str, bytes] = {}

    def submit(self, data: bytes, profile: Profile, *, signed: bool, settings: ProvisioningSettings, limits: Limits) -> None:
        """Take a CoRIM; raise ``InvalidDocument``."""
        found = read_corim(data, limits=limits)
        if found.corim.profile is not profile or (found.signature is not None) is not signed:
            raise InvalidDocument("endorsement.profile", "the CoRIM is not what its media type says")
        if found.signature is not None:
            verify_signature(found.signature, roots=settings.roots, at=int(self._now()))
        elif settings.require_signature:
            raise InvalidDocument("endorsement.signature", "the CoRIM is not signed")
        identity, digest = str(found.corim.id), sha256(data).digest()
        if self._by_id.get(identity) == digest:
            raise InvalidDocument("endorsement.duplicate", "token already in store")
        if identity in self._by_id:
            raise InvalidDocument("endorsement.duplicate", f'different token with manifest ID "{identity}" already in store')
        if len(self._by_id) >= _MAX_CORIMS:
            raise InvalidDocument("endorsement.duplicate", f"the store holds {_MAX_CORIMS} CoRIMs already")
        endorsements = found.corim.endorsements
        for anchor in endorsements.trust_anchors:
            if not settings.allow_test_keys and (name := is_published(anchor.key)):
                raise InvalidDocument("endorsement.test-key", f"the trust anchor is published ({name})")
        self.current = self.current.with_file(endorsements)
        self._by_id[identity] = digest


def add_routes(app: web.Application, store: ProvisionedStore, settings: ProvisioningSettings, limits: Limits) -> None:
    """Add discovery and submission to the verifier's application."""
    provisioning = _Provisioning(store, settings, limits)
    app.router.add_get(WELL_KNOWN_PATH, provisioning.discover, allow_head=False)
    app.router.add_post(SUBMIT_PATH, provisioning.submit)


class _Provisioning:
    def __init__(self, store: ProvisionedStore, settings: ProvisioningSettings, limits: Limits) -> None:
        self._store, self._settings, self._limits = store, settings, limits

    async def discover(self, request: web.Request) -> web.Response:
        """GET /.well-known/veraison/provisioning."""
        if not accepts(request.headers.get("Accept"), DISCOVERY_TYPE):
            return _problem(406, "Not Acceptable", f"the only supported output format is {DISCOVERY_TYPE}")
        document = {
            "media-types": list(_TYPES),
            "version": __version__,
            "service-state": "READY",
            "api-endpoints": {"provisioningSubmit": SUBMIT_PATH},
        }
        return web.Response(body=json.dumps(document).encode(), headers={"Content-Type": DISCOVERY_TYPE})

    async def submit(self, request: web.Request) -> web.Response:
        """POST submit: 401, 406, 400 and 415 as Veraison; everything else is 200 and a status."""
        if not self._authorized(request):
            headers = {"WWW-Authenticate": "Bearer realm=veraison"}
            return _problem(401, "Unauthorized", "wrong or missing bearer token", headers)
        if not accepts(request.headers.get("Accept"), SESSION_TYPE):
            return _problem(406, "Not Acceptable", f"the only supported output format is {SESSION_TYPE}")
        media_type = request.headers.get("Content-Type", "")
        try:
            parse_media_type(media_type)
        except MalformedEvidence as error:
            return _problem(400, "Bad Request", f"could not check media type: {error.message}")
        if media_type not in _TYPES:
            return _problem(415, "Unsupported Media Type", "no active plugin found", {"Accept": ", ".join(_TYPES)})
        body = await self._body(request)
        if body is None:
            return _problem(413, "Request Entity Too Large", f"a CoRIM has at most {self._limits.endorsement_bytes} bytes")
        if not body:
            return _problem(400, "Bad Request", "empty body")
        profile, signed = _TYPES[media_type]
        try:
            self._store.submit(body, profile, signed=signed, settings=self._settings, limits=self._limits)
        except InvalidDocument as error:
            return _session("failed", f"{_PREFIX}{error.message}")
        return _session("success")

    def _authorized(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self._settings.token.encode())

    async def _body(self, request: web.Request) -> bytes | None:
        """Read up to the limit for CoRIMs, which is larger than the one for evidence; None if there is more."""
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._limits.endorsement_bytes:
                return None
        return bytes(body)


def _session(status: str, reason: str | None = None) -> web.Response:
    expiry = (datetime.now(UTC) + _SESSION_LIFE).isoformat()
    document = {"status": status, "expiry": expiry, **({} if reason is None else {"failure-reason": reason})}
    return web.Response(body=json.dumps(document).encode(), headers={"Content-Type": SESSION_TYPE})


def _problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.Response(status=status, text=json.dumps(document), content_type="application/problem+json", headers=headers)
