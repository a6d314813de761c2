"""Client of Veraison's provisioning API: hands a CoRIM to a verifier's store, and finds out whether it was taken.

Veraison answers 200 also when it refuses, so only the ``status`` of the answer counts. What failed on the way (a connection, 429, 5xx) is
tried again until the deadline; a store that then says that it has these very bytes already took them the first time.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import aiohttp
from yarl import URL

from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence, VerifierUnavailable
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.printable import printable
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_T = TypeVar("_T")
SESSION_TYPE = "application/vnd.veraison.provisioning-session+json"
UNSIGNED_TYPE, SIGNED_TYPE = "application/rim+cbor", "application/rim+cose"
WELL_KNOWN_PATH = ".well-known/veraison/provisioning"
SUBMIT_PATH = "endorsement-provisioning/v1/submit"
ENDPOINT = "provisioningSubmit"
_PROCESSING, _SUCCESS, _FAILED = "processing", "success", "failed"
_ALREADY = "token already in store"
_RETRY_FIRST_S, _RETRY_GROWTH, _RETRY_LONGEST_S = 0.5, 2.0, 15.0
_POLL_S = 0.5
_AGAIN = frozenset({429, 500, 502, 503, 504})
_SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSettings:
    """Where to submit. ``url`` is the service's root, or the address of its submit endpoint. Durations in seconds.

    ``authorization`` is sent as it is, and over a connection to this very host only. ``attempts`` bounds how often a submission is sent.
    """

    url: str
    ca_file: Path | None = None
    authorization: str | None = field(default=None, repr=False)
    deadline_s: float = 120.0
    request_s: float = 30.0
    attempts: int = 5

    def __post_init__(self) -> None:
        url = URL(self.url)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string or url.fragment:
            raise ConfigurationError("the provisioning service is http(s)://HOST[:PORT][/PATH] without user, query and fragment")
        if not (0 < self.request_s <= self.deadline_s and self.attempts >= 1):
            raise ConfigurationError("the deadline is at least as long as the time for one request, and there is at least one attempt")


@dataclass(frozen=True, slots=True)
class Submission:
    """An accepted submission. ``attempts`` is how often it was sent; ``note`` says what else is to be known."""

    session: str
    expiry: str | None
    attempts: int
    note: str | None = None


def media_type_of(profile: str, *, signed: bool) -> str:
    """Return the media type in the spelling that Veraison looks up letter by letter."""
    return f'{SIGNED_TYPE if signed else UNSIGNED_TYPE}; profile="{profile}"'


async def submit_corim(
    data: bytes,
    media_type: str,
    settings: ProvisioningSettings,
    *,
    tell: Callable[[str], None] = lambda message: None,
    limits: Limits = DEFAULT_LIMITS,
) -> Submission:
    """Submit a CoRIM, and wait until the service has judged it. ``tell`` is told what is tried again, and why.

    Raises ``InvalidDocument("endorsement.not-accepted")`` with the service's words if it refuses, ``VerifierUnavailable`` if no answer
    comes before the deadline, and ``ConfigurationError`` for a CA file that cannot be read.
    """
    tls = _tls(settings)
    timeout = aiohttp.ClientTimeout(total=settings.request_s)
    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as client:
        exchange = _Exchange(client, settings, tell, limits)
        try:
            async with asyncio.timeout(settings.deadline_s):
                return await exchange.run(data, media_type)
        except TimeoutError:
            raise VerifierUnavailable(f"no final answer from {settings.url} within {settings.deadline_s:g} s: {exchange.trouble}") from None


def _tls(settings: ProvisioningSettings) -> ssl.SSLContext | None:
    if URL(settings.url).scheme != "https":
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the file with certificate authorities cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    url: URL


class _TransientError(Exception):
    """Something that may be gone when it is tried again. ``pause_s`` is what the service asks for."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class _Exchange:
    """One submission, from discovery to the final status."""

    def __init__(self, client: aiohttp.ClientSession, settings: ProvisioningSettings, tell: Callable[[str], None], limits: Limits) -> None:
        self._client, self._settings, self._tell, self._limits = client, settings, tell, limits
        self._sent = 0
        self.trouble = "it is still processing"

    async def run(self, data: bytes, media_type: str) -> Submission:
        target = await self._again(self._endpoint)
        headers = {"Content-Type": media_type}

        async def send() -> _Reply:
            self._sent += 1
            return await self._request("POST", target, headers, data)

        return await self._follow(await self._again(send))

    async def _again(self, action: Callable[[], Awaitable[_T]]) -> _T:
        pause_s = _RETRY_FIRST_S
        for left in reversed(range(self._settings.attempts)):
            try:
                return await action()
            except _TransientError as error:
                self.trouble = str(error)
                if not left:
                    raise VerifierUnavailable(f"{self._settings.url}: {error}") from None
                wait_s = min(error.pause_s if error.pause_s is not None else pause_s, _RETRY_LONGEST_S)
                self._tell(f"{error}; trying again in {wait_s:g} s")
                await asyncio.sleep(wait_s)
                pause_s *= _RETRY_GROWTH
        raise VerifierUnavailable(f"{self._settings.url}: not a single attempt was allowed")

    async def _endpoint(self) -> URL:
        """Where to submit: what the service's discovery document says, else the usual path."""
        base = URL(self._settings.url)
        if base.path.rstrip("/").endswith("/submit"):
            return base
        base = base if base.path.endswith("/") else base.with_path(f"{base.path}/")
        try:
            reply = await self._request("GET", base.join(URL(WELL_KNOWN_PATH)), {"Accept": "application/json, application/*"}, None)
            document = self._object(reply) if reply.status == 200 else {}
        except (InvalidDocument, VerifierUnavailable):
            document = {}  # discovery is a courtesy: the usual path is tried whatever stands there
        endpoints = document.get("api-endpoints")
        path = endpoints.get(ENDPOINT) if isinstance(endpoints, dict) else None
        found = base.join(URL(path)) if isinstance(path, str) else base.join(URL(SUBMIT_PATH))
        return found if found.origin() == base.origin() else base.join(URL(SUBMIT_PATH))

    async def _request(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None) -> _Reply:
        sent = {"Accept": SESSION_TYPE, **headers}
        if self._settings.authorization is not None:
            sent["Authorization"] = self._settings.authorization
        try:
            async with self._client.request(method, url, data=body, headers=sent, allow_redirects=False) as response:
                content = await response.content.read(self._limits.verifier_response_bytes + 1)
                while len(content) <= self._limits.verifier_response_bytes and (more := await response.content.readany()):
                    content += more
                reply = _Reply(response.status, response.headers.copy(), content, response.url)
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
            raise VerifierUnavailable(f"{self._settings.url}: {error}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _TransientError(f"{method} {url.path}: {printable(str(error) or type(error).__name__)}") from None
        if len(reply.body) > self._limits.verifier_response_bytes:
            raise VerifierUnavailable(f"{method} {url.path}: the answer is too large")
        if reply.status in _AGAIN:
            raise _TransientError(f"{method} {url.path}: {self._problem(reply)}", _retry_after(reply.headers))
        return reply

    async def _follow(self, reply: _Reply) -> Submission:
        """Read the session's status, again and again while it is processed. The HTTP code alone says nothing."""
        session = reply.url.join(URL(reply.headers["Location"])) if "Location" in reply.headers else reply.url

        async def poll() -> _Reply:
            return await self._request("GET", session, {}, None)

        while True:
            if reply.status not in (200, 201, 202):
                self._refuse(self._problem(reply))
            document = self._object(reply)
            status = document.get("status")
            if status == _SUCCESS:
                return Submission(str(session), _text(document.get("expiry")), self._sent)
            if status == _FAILED:
                return self._failed(_text(document.get("failure-reason")) or "no reason given", str(session))
            if status != _PROCESSING:
                raise VerifierUnavailable(f"{self._settings.url}: an answer without a known status: {printable(str(status), 60)}")
            if session.origin() != URL(self._settings.url).origin():
                raise VerifierUnavailable(f"{self._settings.url}: the session is elsewhere: {session}")
            await asyncio.sleep(_POLL_S)
            reply = await self._again(poll)

    def _failed(self, reason: str, session: str) -> Submission:
        if self._sent > 1 and _ALREADY in reason and "different" not in reason:
            return Submission(session, None, self._sent, "an earlier attempt, whose answer was lost, had stored it")
        return self._refuse(reason)

    def _refuse(self, reason: str) -> NoReturn:
        raise InvalidDocument("endorsement.not-accepted", f"{self._settings.url} did not take the CoRIM: {printable(reason, _SHOWN)}")

    def _object(self, reply: _Reply) -> dict[str, Any]:
        try:
            return strict_json.decode_object(reply.body, what="the answer", max_bytes=self._limits.verifier_response_bytes)
        except MalformedEvidence as error:
            raise VerifierUnavailable(f"{self._settings.url} answered {reply.status} with something unreadable: {error}") from None

    def _problem(self, reply: _Reply) -> str:
        """What an error says: title and detail of a problem document (RFC 9457), else the beginning of the text."""
        shown = f"HTTP {reply.status}"
        try:
            document = strict_json.decode_object(reply.body, what="the problem")
        except MalformedEvidence:
            content = reply.body[:_SHOWN].decode("utf-8", "replace").strip()
            plain = reply.headers.get("Content-Type", "").startswith("text/plain")
            return f"{shown}: {printable(content)}" if content and plain else shown
        words = [text for name in ("title", "detail") if (text := _text(document.get(name)))]
        supported = f" (it takes {reply.headers['Accept']})" if reply.status == 415 and "Accept" in reply.headers else ""
        return printable(": ".join([shown, *words]) + supported, _SHOWN)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
