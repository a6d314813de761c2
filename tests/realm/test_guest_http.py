"""The guest over real sockets: a small honest broker, a hostile proxy in front of it, and brokers that cannot answer."""

import asyncio
import json
import os
import time

import aiohttp
import pytest
from aiohttp import web

from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.failures import BrokerNotTrusted, BrokerRefused, BrokerUnavailable, EvidenceUnavailable
from kbs_rim.realm.guest import MAX_ANSWER_BYTES, Exchange, KeyType, new_key
from kbs_rim.realm.guest_http import Patience, get_secret
from kbs_rim.sealing.guest_key import commitment, guest_key_of, parse_guest_key
from kbs_rim.sealing.jwe import open_jwe, seal

SECRET = b"correct horse battery staple"
TAG = b"\xd9\x03\x8b"  # the envelope looks at the first byte of a token, and this broker at nothing else
QUICK = Patience(deadline_s=5, spread=lambda: 0.0)


class Source:
    """Evidence that echoes the challenge, as a realm token does."""

    def __init__(self):
        self.challenges = []

    def evidence(self, challenge):
        self.challenges.append(challenge)
        return Evidence(TAG + challenge, ((LogKind.VMM, b"log"),))


class SmallBroker:
    """The protocol and the real sealing, with no appraisal but the challenge."""

    def __init__(self):
        self.pending = {}
        self.busy = []  # (leg, headers) to answer 503 with, in order
        self.location = "/keys/v1/evidence/{}"
        self.app = web.Application()
        self.app.add_routes([web.post("/keys/v1/key/{name:.+}", self.request_key), web.post("/keys/v1/evidence/{id}", self.submit)])

    def _busy(self, leg):
        if self.busy and self.busy[0][0] == leg:
            return web.json_response({"code": "busy"}, status=503, headers=self.busy.pop(0)[1])
        return None

    async def request_key(self, request):
        if busy := self._busy("key"):
            return busy
        key = parse_guest_key((await request.json())["pubkey"])
        salt, number = os.urandom(32), os.urandom(8).hex()
        challenge = commitment(salt, key.thumbprint)
        self.pending[number] = (key, challenge)
        answer = {"challenge": base64url.encode(challenge), "salt": base64url.encode(salt), "accept": [EVIDENCE_JSON_TYPE]}
        return web.json_response(answer, status=201, headers={"Location": self.location.format(number)})

    async def submit(self, request):
        if busy := self._busy("evidence"):
            return busy
        key, challenge = self.pending.pop(request.match_info["id"])
        evidence = parse_evidence(request.headers["Content-Type"], await request.read())
        if evidence.token != TAG + challenge:
            return web.json_response({"code": "realm-token-refused", "ticket": "t-1"}, status=403)
        return web.json_response({"data": seal(key, SECRET).value, "ticket": "t-2"})


@pytest.fixture
def broker():
    return SmallBroker()


@pytest.fixture
async def url(aiohttp_server, broker):
    server = await aiohttp_server(broker.app)
    return str(server.make_url("")).rstrip("/")


def exchange_with(url, kind=KeyType.P256):
    return Exchange(url, "disk-key", new_key(kind))


@pytest.mark.parametrize("kind", list(KeyType))
async def test_the_guest_gets_its_secret(url, kind):
    secret = await get_secret(exchange_with(url, kind), Source(), QUICK)
    assert secret.value == SECRET
    assert secret.ticket == "t-2"


async def test_a_refusal_ends_the_exchange(url):
    class Replayer(Source):
        def evidence(self, challenge):
            return super().evidence(bytes(64))

    with pytest.raises(BrokerRefused) as refused:
        await get_secret(exchange_with(url), Replayer(), QUICK)
    assert (refused.value.code, refused.value.ticket) == ("realm-token-refused", "t-1")


class HostileProxy:
    """Asks the broker with its own key, hands that challenge to the guest, and opens what comes back."""

    def __init__(self, broker_url):
        self.broker_url = broker_url
        self.own = new_key(KeyType.P256)
        self.stolen = []
        self.app = web.Application()
        self.app.add_routes([web.post("/keys/v1/key/{name}", self.swap), web.post("/keys/v1/evidence/{id}", self.relay)])

    async def _forward(self, request, body):
        headers = {"Content-Type": request.content_type}
        async with aiohttp.ClientSession() as session, session.post(self.broker_url + request.path, data=body, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers.get("Location", "")

    async def swap(self, request):
        status, body, location = await self._forward(request, json.dumps({"pubkey": guest_key_of(self.own.public_key()).to_jwk()}))
        return web.Response(status=status, body=body, headers={"Location": location})

    async def relay(self, request):
        status, body, _ = await self._forward(request, await request.read())
        self.stolen.append(open_jwe(self.own, json.loads(body)["data"]))
        return web.Response(status=status, body=body)


@pytest.fixture
async def proxy(aiohttp_server, url):
    hostile = HostileProxy(url)
    hostile.url = str((await aiohttp_server(hostile.app)).make_url("")).rstrip("/")
    return hostile


async def test_a_key_swapped_by_a_man_in_the_middle_is_noticed_by_the_guest(proxy):
    source = Source()
    with pytest.raises(BrokerNotTrusted) as refused:
        await get_secret(exchange_with(proxy.url), source, QUICK)
    assert refused.value.code == "guest.challenge-not-ours"
    assert source.challenges == []
    assert proxy.stolen == []


async def test_the_same_proxy_robs_a_guest_that_does_not_check(proxy, monkeypatch):
    """The attack is real, and the commitment is what stops it."""
    monkeypatch.setattr("kbs_rim.realm.guest.compare_digest", lambda one, two: True)
    with pytest.raises(BrokerNotTrusted):
        await get_secret(exchange_with(proxy.url), Source(), QUICK)
    assert proxy.stolen == [SECRET]


async def test_a_location_on_another_origin_is_refused(broker, url):
    broker.location = "http://127.0.0.1:1/keys/v1/evidence/{}"
    source = Source()
    with pytest.raises(BrokerNotTrusted, match="another origin"):
        await get_secret(exchange_with(url), source, QUICK)
    assert source.challenges == []


@pytest.mark.parametrize("leg", ["key", "evidence"])
async def test_a_busy_broker_is_asked_again_with_a_new_challenge(broker, url, leg):
    pauses = []
    broker.busy = [(leg, {"Retry-After": "2"}), (leg, {})]
    source = Source()
    assert (await get_secret(exchange_with(url), source, patience_with(pauses, 1.0))).value == SECRET
    assert len(set(source.challenges)) == len(source.challenges) == (1 if leg == "key" else 3)
    assert pauses == [3.0, 1.5]


def patience_with(pauses, spread=0.0):
    """Pauses take no time and are noted."""

    async def sleep(seconds):
        pauses.append(seconds)

    return Patience(deadline_s=30, spread=lambda: spread, sleep=sleep)


async def test_a_retry_after_beyond_the_deadline_ends_at_once(broker, url):
    broker.busy = [("key", {"Retry-After": "3600"})]
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="503"):
        await get_secret(exchange_with(url), Source(), QUICK)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1e9", "²"])
async def test_a_retry_after_that_is_no_number_is_no_wish(broker, url, value):
    pauses = []
    broker.busy = [("key", {"Retry-After": value.encode().decode("latin-1")})]
    assert (await get_secret(exchange_with(url), Source(), patience_with(pauses))).value == SECRET
    assert pauses == [0.5]


async def test_no_broker_at_all(unused_tcp_port):
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        await get_secret(exchange_with(f"http://127.0.0.1:{unused_tcp_port}"), Source(), QUICK)


async def serve(aiohttp_server, handler):
    app = web.Application()
    app.router.add_post("/{tail:.*}", handler)
    return str((await aiohttp_server(app)).make_url("")).rstrip("/")


async def test_a_silent_broker_meets_the_deadline(aiohttp_server):
    release = asyncio.Event()

    async def silent(request):
        await release.wait()
        return web.Response()

    url = await serve(aiohttp_server, silent)
    with pytest.raises(BrokerUnavailable, match=r"0\.1 s"):
        await get_secret(exchange_with(url), Source(), Patience(deadline_s=0.1))
    release.set()


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, BrokerUnavailable), (404, BrokerRefused), (400, BrokerRefused), (200, BrokerNotTrusted), (307, BrokerNotTrusted)],
)
async def test_other_answers(aiohttp_server, status, error):
    async def answer(request):
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})

    with pytest.raises(error):
        await get_secret(exchange_with(await serve(aiohttp_server, answer)), Source(), QUICK)


async def test_an_endless_answer_is_cut_off(aiohttp_server):
    async def endless(request):
        return web.Response(status=201, body=bytes(MAX_ANSWER_BYTES + 1))

    with pytest.raises(BrokerNotTrusted, match="more than"):
        await get_secret(exchange_with(await serve(aiohttp_server, endless)), Source(), QUICK)


async def test_a_realm_without_evidence_says_so(url):
    class Broken(Source):
        def evidence(self, challenge):
            raise EvidenceUnavailable("this is no CCA realm")

    with pytest.raises(EvidenceUnavailable, match="no CCA realm"):
        await get_secret(exchange_with(url), Broken(), QUICK)
