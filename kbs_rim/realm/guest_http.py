"""The guest's network: two POST requests, retries while the broker is not able to answer, one deadline over everything."""

import asyncio
import math
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kbs_rim.realm.failures import BrokerNotTrusted, BrokerUnavailable
from kbs_rim.realm.guest import KEY_REQUEST_TYPE, MAX_ANSWER_BYTES, EvidenceSource, Exchange, Secret, read_problem, read_refusal
from kbs_rim.tls_files import client_context

_CREATED, _OK = 201, 200
_COME_BACK = frozenset({429, 503})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_JITTER = 0.5


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    location: str | None
    retry_after_s: float
    body: bytes


class _ComeBackLater(Exception):
    """The broker cannot answer now."""

    def __init__(self, reply: _Reply) -> None:
        code, ticket = read_problem(reply.status, reply.body)
        named = f", ticket {ticket}" if ticket else ""
        super().__init__(f"the broker cannot answer now (HTTP {reply.status}, {code}{named})")
        self.after_s = reply.retry_after_s


@dataclass(slots=True)
class _Progress:
    """The last answer that was none, for the error when time is up."""

    said: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """``deadline_s`` bounds the whole exchange, pauses included; ``spread`` draws the jitter, 0 to 1; ``sleep`` waits."""

    deadline_s: float = 60.0
    spread: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return TLS settings that trust the system's authorities, or only those in ``ca_file``; raise ``ConfigurationError``."""
    return client_context(ca_file, option="--ca")


async def get_secret(exchange: Exchange, source: EvidenceSource, patience: Patience, *, tls: ssl.SSLContext | None = None) -> Secret:
    """Ask until there is a secret, a refusal, or no time left.

    A broker that answers 503 or 429 is asked again from the start, with a new challenge, after its Retry-After and some
    jitter. Raises ``BrokerRefused``, ``BrokerNotTrusted``, ``BrokerUnavailable``, and what the evidence source raises.
    """
    progress = _Progress()
    try:
        async with asyncio.timeout(patience.deadline_s):
            timeout = aiohttp.ClientTimeout(total=patience.deadline_s)
            async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session:
                return await _until_answered(session, exchange, source, patience, tls, progress)
    except TimeoutError:
        before = f"; before that, {progress.said}" if progress.said else ""
        raise BrokerUnavailable(f"no answer within {patience.deadline_s:g} s{before}") from None
    except aiohttp.ClientError as error:
        raise BrokerUnavailable(f"the broker cannot be reached: {type(error).__name__}: {error}") from None


async def _until_answered(
    session: aiohttp.ClientSession,
    exchange: Exchange,
    source: EvidenceSource,
    patience: Patience,
    tls: ssl.SSLContext | None,
    progress: _Progress,
) -> Secret:
    loop = asyncio.get_running_loop()
    end = loop.time() + patience.deadline_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return await _once(session, exchange, source, tls)
        except _ComeBackLater as later:
            progress.said = str(later)
            wait = max(later.after_s, pause) * (1 + _JITTER * patience.spread())
            if loop.time() + wait >= end:
                raise BrokerUnavailable(f"{later}, and the time is up") from None
        await patience.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _once(session: aiohttp.ClientSession, exchange: Exchange, source: EvidenceSource, tls: ssl.SSLContext | None) -> Secret:
    reply = await _post(session, exchange.request_url, KEY_REQUEST_TYPE, exchange.key_request(), tls)
    _expect(reply, _CREATED)
    offer = exchange.read_offer(reply.location, reply.body)
    # The RMM signs slowly, and the kernel makes us wait: not on the event loop.
    evidence = await asyncio.to_thread(source.evidence, offer.challenge)
    media_type, body = exchange.evidence_body(evidence)
    reply = await _post(session, offer.location, media_type, body, tls)
    _expect(reply, _OK)
    return exchange.read_secret(reply.body)


def _expect(reply: _Reply, status: int) -> None:
    if reply.status == status:
        return
    if reply.status in _COME_BACK:
        raise _ComeBackLater(reply)
    if 400 <= reply.status < 500:
        raise read_refusal(reply.status, reply.body)
    if reply.status >= 500:
        raise BrokerUnavailable(f"the broker failed (HTTP {reply.status})")
    raise BrokerNotTrusted("guest.answer", f"HTTP {reply.status} is no answer of a broker")


async def _post(session: aiohttp.ClientSession, url: str, media_type: str, body: bytes, tls: ssl.SSLContext | None) -> _Reply:
    """POST without following redirects and without reading more than a broker may send."""
    headers = {"Content-Type": media_type, "Accept": "application/json, application/problem+json"}
    context: ssl.SSLContext | bool = tls if tls is not None else True
    async with session.post(url, data=body, headers=headers, ssl=context, allow_redirects=False) as response:
        content = await response.content.read(MAX_ANSWER_BYTES + 1)
        while len(content) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES + 1 - len(content))):
            content += more
        if len(content) > MAX_ANSWER_BYTES:
            raise BrokerNotTrusted("guest.answer", f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return _Reply(response.status, response.headers.get("Location"), _seconds(response.headers.get("Retry-After")), content)


def _seconds(value: str | None) -> float:
    """Retry-After in seconds; the date form and nonsense count as no wish."""
    if value is None or not (value.isascii() and value.isdigit()):
        return 0.0
    return float(value) if len(value) < 10 else math.inf
