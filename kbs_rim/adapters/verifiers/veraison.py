"""Client of Veraison's challenge-response verification API, and of anything else that speaks it.

It moves bytes and judges nothing: whatever is not a complete, well-formed answer within the deadline becomes
``VerifierUnavailable``, which says nothing about the realm. A failed attestation is an answer (HTTP 200, status
``complete``) and comes back as one. Error details of the verifier may quote the challenge: log them, never forward them.
"""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import aiohttp
from yarl import URL

from kbs_rim.adapters.verifiers.veraison_discovery import Discovery, read_discovery, resolve
from kbs_rim.adapters.verifiers.veraison_session import VerifierSession, read_session
from kbs_rim.appraisal.ear_signature import EarKey, parse_compact_jws
from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence, VerifierUnavailable
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.media_type import parse_media_type
from kbs_rim.evidence.printable import printable
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.ports import VerifierAnswer
from kbs_rim.tls_files import client_context, load_own_certificate

CCA_EVIDENCE_TYPE = 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'
SESSION_TYPE = "application/vnd.veraison.challenge-response-session+json"
DISCOVERY_TYPE = "application/vnd.veraison.discovery+json"
PROBLEM_TYPE = "application/problem+json"

_DISCOVERY_PATH = ".well-known/veraison/verification"
_RETRY_PAUSE_S = 0.2
_POLL_FIRST_S, _POLL_GROWTH, _POLL_LONGEST_S = 0.2, 1.5, 2.0
_FORGET_S = 5.0
_REFRESH_EVERY_S = 10.0
_READINESS_AGE_S = 5.0
_CONNECTIONS = 64
_READ_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VeraisonSettings:
    """How to reach the verifier. ``url`` comes from configuration only, never from a token. ``deadline_s`` bounds one appraisal.

    ``ca_file`` replaces the system's certificate authorities. ``authorization`` is sent as it is; stock Veraison asks for
    none. ``media_type`` is what CCA evidence is called; the verifier's own spelling of it is what is sent.
    """

    url: str
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    authorization: str | None = field(default=None, repr=False)
    media_type: str = CCA_EVIDENCE_TYPE
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        url = URL(self.url)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string or url.fragment:
            raise ConfigurationError("verifier.url must be http(s)://HOST[:PORT][/PATH] without user, query and fragment")
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise ConfigurationError("verifier.client_certificate_file and client_key_file are given together or not at all")
        if not 0 < self.deadline_s <= 120:
            raise ConfigurationError("verifier.deadline_s must be between 0 and 120 seconds")
        try:
            parse_media_type(self.media_type)
        except MalformedEvidence as error:
            raise ConfigurationError(f"verifier.media_type: {error.message}") from error


class _TransientFailure(VerifierUnavailable):
    """A failure after which the whole exchange may be tried once more: a restarted or overloaded replica."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """One HTTP answer, read within the size limit."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes
    url: URL


class VeraisonVerifier:
    """Implements ``ports.PlatformVerifier``. Create it anywhere; use and close it inside one event loop."""

    def __init__(self, settings: VeraisonSettings, limits: Limits = DEFAULT_LIMITS) -> None:
        """Read certificates; raise ``ConfigurationError`` if they cannot be read. Opens no connection."""
        self._settings = settings
        self._limits = limits
        self._base = URL(settings.url if settings.url.endswith("/") else settings.url + "/")
        self._tls = _tls_context(settings) if self._base.scheme == "https" else None
        self._wanted_type = parse_media_type(settings.media_type)
        self._client: aiohttp.ClientSession | None = None
        self._discovery: Discovery | None = None
        self._discovering: asyncio.Task[Discovery] | None = None
        self._refreshed_at = float("-inf")
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # --- the port -----------------------------------------------------------------------------------------------------

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        """Send ``token`` for a session with this 64-byte nonce; raise ``VerifierUnavailable``."""
        started = time.monotonic_ns()
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                result, discovery = await self._twice(token, challenge)
                keys = await self._keys_for(result, discovery)
        except TimeoutError:
            raise VerifierUnavailable(f"the verifier did not answer within {self._settings.deadline_s:g} s") from None
        duration_us = (time.monotonic_ns() - started) // 1000
        return VerifierAnswer(attestation_result=result, discovery_keys=keys, verifier=str(self._base.origin()), duration_us=duration_us)

    async def check(self) -> tuple[Mapping[str, Any], ...]:
        """Return its keys; raise ``VerifierUnavailable`` unless it says that it is ready. Looks again after a few seconds."""
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                return (await self._discover(max_age_s=_READINESS_AGE_S)).keys
        except TimeoutError:
            raise VerifierUnavailable(f"the verifier did not answer within {self._settings.deadline_s:g} s") from None

    async def close(self) -> None:
        """End background work and close connections. Calling it twice is harmless."""
        self._closed = True
        tasks: set[asyncio.Task[Any]] = {*self._background}
        if self._discovering is not None:
            tasks.add(self._discovering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    # --- one exchange -------------------------------------------------------------------------------------------------

    async def _twice(self, token: bytes, challenge: bytes) -> tuple[str, Discovery]:
        try:
            return await self._exchange(token, challenge)
        except _TransientFailure:
            self._discovery = None
            await asyncio.sleep(_RETRY_PAUSE_S)
            return await self._exchange(token, challenge)

    async def _exchange(self, token: bytes, challenge: bytes) -> tuple[str, Discovery]:
        discovery = await self._discover()
        url, session = await self._open_session(discovery.new_session, challenge)
        try:
            return await self._submit(url, session, token), discovery
        finally:
            self._forget(url)

    async def _open_session(self, endpoint: URL, challenge: bytes) -> tuple[URL, VerifierSession]:
        """Open a session with our nonce: padded base64url, which every release understands (1.4)."""
        nonce = base64.urlsafe_b64encode(challenge).decode("ascii")
        reply = await self._request("POST", endpoint.with_query({"nonce": nonce}), accept=SESSION_TYPE)
        if reply.status != 201:
            self._unexpected(reply, "a new session")
        location = reply.headers.get("Location")
        url = resolve(reply.url, location) if location else None
        if url is None:
            raise VerifierUnavailable("the verifier opened a session without a usable Location")
        session = self._session_of(reply)
        if session.nonce != challenge:
            raise VerifierUnavailable("the verifier opened a session for another nonce")
        return url, session

    async def _submit(self, url: URL, session: VerifierSession, token: bytes) -> str:
        media_type = session.spelling_of(self._wanted_type)
        if media_type is None:
            raise VerifierUnavailable(f"the verifier does not accept {self._settings.media_type}")
        # The verifier looks its plugin up by the exact spelling that it advertised (1.5).
        reply = await self._request("POST", url, accept=SESSION_TYPE, body=token, content_type=media_type)
        pause = _POLL_FIRST_S
        while True:
            if reply.status not in (200, 202):
                self._unexpected(reply, "evidence")
            session = self._session_of(reply)
            if session.status == "complete" and reply.status == 200:
                if session.result is None:
                    raise VerifierUnavailable("the verifier completed a session without a result")
                return session.result
            if session.status == "failed":
                raise _TransientFailure("the verifier failed to process the evidence")
            await asyncio.sleep(pause)
            pause = min(pause * _POLL_GROWTH, _POLL_LONGEST_S)
            reply = await self._request("GET", url, accept=SESSION_TYPE)

    def _session_of(self, reply: _Reply) -> VerifierSession:
        return read_session(self._json_of(reply, SESSION_TYPE, "session"))

    # --- discovery ----------------------------------------------------------------------------------------------------

    async def _discover(self, *, max_age_s: float | None = None) -> Discovery:
        """Return the discovery document, from the cache while it is fresh. Callers at the same time share one request."""
        cached, now = self._discovery, time.monotonic()
        if cached is not None and now < cached.expires_at and (max_age_s is None or now - cached.fetched_at < max_age_s):
            return cached
        if self._discovering is None:
            task = asyncio.create_task(self._fetch_discovery(), name="verifier-discovery")
            self._discovering = task
            task.add_done_callback(self._discovered)
        task = self._discovering
        try:
            # Shielded: one caller's deadline must not fail the others.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise VerifierUnavailable("the verifier's client is closed") from None
            raise

    def _discovered(self, task: asyncio.Task[Discovery]) -> None:
        self._discovering = None
        if not task.cancelled() and task.exception() is None:
            self._discovery = task.result()

    async def _fetch_discovery(self) -> Discovery:
        url = self._base.join(URL(_DISCOVERY_PATH))
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                reply = await self._request("GET", url, accept=DISCOVERY_TYPE)
        except TimeoutError:
            raise VerifierUnavailable("the verifier's discovery document did not come in time") from None
        if reply.status != 200:
            self._unexpected(reply, "the discovery document")
        document = self._json_of(reply, DISCOVERY_TYPE, "discovery document")
        return read_discovery(document, self._base, reply.headers.get("Cache-Control"), time.monotonic())

    async def _keys_for(self, result: str, discovery: Discovery) -> tuple[Mapping[str, Any], ...]:
        """Return the advertised keys, looked up again (not too often) if they did not sign ``result``: keys rotate."""
        if _signed_by(discovery.keys, result) or time.monotonic() - self._refreshed_at < _REFRESH_EVERY_S:
            return discovery.keys
        self._refreshed_at = time.monotonic()
        try:
            return (await self._discover(max_age_s=0)).keys
        except VerifierUnavailable:
            return discovery.keys  # the answer is there; whether its key is trusted is judged elsewhere

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _request(
        self, method: str, url: URL, *, accept: str | None = None, body: bytes | None = None, content_type: str | None = None
    ) -> _Reply:
        """Make one request: no redirects, no proxies, no cookies, no compression, at most so many bytes of answer."""
        headers = {} if accept is None else {"Accept": accept}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._connected().request(method, url, headers=headers, data=body, allow_redirects=False) as response:
                content = await self._bounded(response)
                return _Reply(response.status, response.content_type, response.headers, content, response.url)
        except aiohttp.ClientConnectionError as error:
            raise _TransientFailure(f"the verifier cannot be reached: {type(error).__name__}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise VerifierUnavailable(f"talking to the verifier failed: {type(error).__name__}") from error

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_READ_CHUNK):
            content += chunk
            if len(content) > self._limits.verifier_response_bytes:
                response.close()
                raise VerifierUnavailable(f"the verifier's answer is larger than {self._limits.verifier_response_bytes} bytes")
        return bytes(content)

    def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise VerifierUnavailable("the verifier's client is closed")
        if self._client is None:
            headers = {"Accept-Encoding": "identity"}
            if self._settings.authorization is not None:
                headers["Authorization"] = self._settings.authorization
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls if self._tls is not None else True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.deadline_s),
            )
        return self._client

    def _json_of(self, reply: _Reply, media_type: str, what: str) -> Mapping[str, Any]:
        if reply.media_type not in (media_type, "application/json"):
            raise VerifierUnavailable(f"the verifier's {what} has the media type {printable(reply.media_type, 80)}")
        try:
            return strict_json.decode_object(reply.body, what=what, max_bytes=self._limits.verifier_response_bytes, allow_floats=True)
        except MalformedEvidence as error:
            raise VerifierUnavailable(f"the verifier's answer is malformed: {error.message}") from None

    def _unexpected(self, reply: _Reply, what: str) -> NoReturn:
        detail = f": {_detail_of(reply)}" if reply.media_type == PROBLEM_TYPE else ""
        kind = _TransientFailure if reply.status == 404 or reply.status >= 500 else VerifierUnavailable
        raise kind(f"the verifier answered {reply.status} to a request for {what}{detail}")

    def _forget(self, url: URL) -> None:
        """Drop a session behind the caller's back; whether it works does not matter (1.6)."""
        if self._closed:
            return
        task = asyncio.create_task(self._delete(url), name="verifier-forget")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _delete(self, url: URL) -> None:
        try:
            async with asyncio.timeout(_FORGET_S):
                await self._request("DELETE", url)
        except (VerifierUnavailable, TimeoutError):
            return  # the verifier drops it by itself after its lifetime


def _detail_of(reply: _Reply) -> str:
    try:
        detail = json.loads(reply.body).get("detail")
    except (ValueError, AttributeError, RecursionError):
        detail = None
    return printable(detail, 200) if isinstance(detail, str) else "no detail"


def _signed_by(keys: tuple[Mapping[str, Any], ...], result: str) -> bool:
    """Whether an advertised key made the signature. Decides only whether to look for newer keys; trust is judged elsewhere."""
    try:
        jws = parse_compact_jws(result)
        readable = [EarKey.from_jwk(key) for key in keys]
    except (MalformedEvidence, InvalidDocument):
        return False
    return any(key.verifies(jws, algorithm) for key in readable for algorithm in key.algorithms)


def _tls_context(settings: VeraisonSettings) -> ssl.SSLContext:
    context = client_context(settings.ca_file, option="verifier.ca_file")
    certificate, key = settings.client_certificate_file, settings.client_key_file
    if certificate is not None and key is not None:
        load_own_certificate(context, certificate, key, options=("verifier.client_certificate_file", "verifier.client_key_file"))
    return context
