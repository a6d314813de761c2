"""The guest over real sockets: a small honest broker, a hostile proxy in front of it, and brokers that cannot answer."""

import asyncio
import time

import pytest
from aiohttp import web
from small_broker import SECRET, EchoingSource, HostileProxy, SmallBroker

from kbs_rim.realm.failures import BrokerNotTrusted, BrokerRefused, BrokerUnavailable, EvidenceUnavailable
from kbs_rim.realm.guest import MAX_ANSWER_BYTES, Exchange, KeyType, new_key
from kbs_rim.realm.guest_http import Patience, get_secret

QUICK = Patience(deadline_s=5, spread=lambda: 0.0)


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
    secret = await get_secret(exchange_with(url, kind), EchoingSource(), QUICK)
    assert secret.value == SECRET
    assert secret.ticket == "t-2"


async def test_a_refusal_ends_the_exchange(url):
    class Replayer(EchoingSource):
        def evidence(self, challenge):
            return super().evidence(bytes(64))

    with pytest.raises(BrokerRefused) as refused:
        await get_secret(exchange_with(url), Replayer(), QUICK)
    assert (refused.value.code, refused.value.ticket) == ("realm-token-refused", "t-1")


@pytest.fixture
async def proxy(aiohttp_server, url):
    hostile = HostileProxy(url)
    hostile.url = str((await aiohttp_server(hostile.app)).make_url("")).rstrip("/")
    return hostile


async def test_a_key_swapped_by_a_man_in_the_middle_is_noticed_by_the_guest(proxy):
    source = EchoingSource()
    with pytest.raises(BrokerNotTrusted) as refused:
        await get_secret(exchange_with(proxy.url), source, QUICK)
    assert refused.value.code == "guest.challenge-not-ours"
    assert source.challenges == []
    assert proxy.stolen == []


async def test_the_same_proxy_robs_a_guest_that_does_not_check(proxy, monkeypatch):
    """The attack is real, and the commitment is what stops it."""
    monkeypatch.setattr("kbs_rim.realm.guest.compare_digest", lambda one, two: True)
    with pytest.raises(BrokerNotTrusted):
        await get_secret(exchange_with(proxy.url), EchoingSource(), QUICK)
    assert proxy.stolen == [SECRET]


async def test_a_location_on_another_origin_is_refused(broker, url):
    broker.location = "http://127.0.0.1:1/keys/v1/evidence/{}"
    source = EchoingSource()
    with pytest.raises(BrokerNotTrusted, match="another origin"):
        await get_secret(exchange_with(url), source, QUICK)
    assert source.challenges == []


@pytest.mark.parametrize("leg", ["key", "evidence"])
async def test_a_busy_broker_is_asked_again_with_a_new_challenge(broker, url, leg):
    pauses = []
    broker.busy = [(leg, {"Retry-After": "2"}), (leg, {})]
    source = EchoingSource()
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
        await get_secret(exchange_with(url), EchoingSource(), QUICK)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1e9", "²"])
async def test_a_retry_after_that_is_no_number_is_no_wish(broker, url, value):
    pauses = []
    broker.busy = [("key", {"Retry-After": value.encode().decode("latin-1")})]
    assert (await get_secret(exchange_with(url), EchoingSource(), patience_with(pauses))).value == SECRET
    assert pauses == [0.5]


async def test_no_broker_at_all(unused_tcp_port):
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        await get_secret(exchange_with(f"http://127.0.0.1:{unused_tcp_port}"), EchoingSource(), QUICK)


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
        await get_secret(exchange_with(url), EchoingSource(), Patience(deadline_s=0.1))
    release.set()


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, BrokerUnavailable), (404, BrokerRefused), (400, BrokerRefused), (200, BrokerNotTrusted), (307, BrokerNotTrusted)],
)
async def test_other_answers(aiohttp_server, status, error):
    async def answer(request):
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})

    with pytest.raises(error):
        await get_secret(exchange_with(await serve(aiohttp_server, answer)), EchoingSource(), QUICK)


async def test_an_endless_answer_is_cut_off(aiohttp_server):
    async def endless(request):
        return web.Response(status=201, body=bytes(MAX_ANSWER_BYTES + 1))

    with pytest.raises(BrokerNotTrusted, match="more than"):
        await get_secret(exchange_with(await serve(aiohttp_server, endless)), EchoingSource(), QUICK)


async def test_a_realm_without_evidence_says_so(url):
    class Broken(EchoingSource):
        def evidence(self, challenge):
            raise EvidenceUnavailable("this is no CCA realm")

    with pytest.raises(EvidenceUnavailable, match="no CCA realm"):
        await get_secret(exchange_with(url), Broken(), QUICK)


def problem(status, **members):
    async def answer(request):
        return web.json_response(members, status=status, headers={"Retry-After": "0"}, content_type="application/problem+json")

    return answer


async def test_a_guest_out_of_time_says_what_it_was_told_last(aiohttp_server):
    """The verifier is down for longer than the guest has patience: its administrator needs the ticket, not "no answer"."""
    url = await serve(aiohttp_server, problem(503, code="verifier-unavailable", ticket="0a1b2c3d"))
    waiting = Patience(deadline_s=0.3, spread=lambda: 0.0, sleep=lambda seconds: asyncio.sleep(10))
    for patience in (waiting, Patience(deadline_s=0.3, spread=lambda: 0.0)):
        with pytest.raises(BrokerUnavailable, match=r"HTTP 503, verifier-unavailable, ticket 0a1b2c3d\)"):
            await get_secret(exchange_with(url), EchoingSource(), patience)


async def test_a_busy_answer_of_a_proxy_has_neither_code_nor_ticket(aiohttp_server):
    async def answer(request):
        return web.Response(status=503, text="<html>", headers={"Retry-After": "3600"})

    with pytest.raises(BrokerUnavailable, match=r"\(HTTP 503, http-503\)"):
        await get_secret(exchange_with(await serve(aiohttp_server, answer)), EchoingSource(), QUICK)


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (404, "no-such-route"), (404, None)])
async def test_a_guest_at_the_wrong_listener_is_told_so(aiohttp_server, status, code):
    url = await serve(aiohttp_server, problem(status, **({"code": code} if code else {})))
    with pytest.raises(BrokerRefused, match="must name the listener for guests") as refused:
        await get_secret(exchange_with(url), EchoingSource(), QUICK)
    assert refused.value.code == (code or f"http-{status}")
