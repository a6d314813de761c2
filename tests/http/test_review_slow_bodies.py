"""Bodies that arrive slowly, or never: they share a bounded amount of memory, and give it back."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from kbs_rim.http.receiving import Receiving
from kbs_rim.services.exchange import BusyError
from tests.broker_stage import SECRETS, Answer, Site, Starter

VM = "qemu-kernel"


async def half_a_body(site: Site, stack: AsyncExitStack, size: int) -> asyncio.StreamWriter:
    """Announce twice as much as is sent, and wait."""
    _, writer = await asyncio.open_connection(*site.services[0].guest_address)
    stack.callback(writer.close)
    head = f"POST /keys/v1/evidence/{'0' * 48} HTTP/1.1\r\nHost: a\r\nContent-Type: application/cbor\r\nContent-Length: {2 * size}\r\n\r\n"
    writer.write(head.encode() + bytes(size))
    await writer.drain()
    return writer


async def test_attack_slow_bodies_share_what_there_is(start: Starter) -> None:
    site = await start(limits={"receiving_bytes": 200_000})
    async with AsyncExitStack() as stack:
        slow = [await half_a_body(site, stack, 60_000) for _ in range(3)]
        answer = await until(site, 503)
        assert (answer.code, answer.headers["Retry-After"]) == ("busy", "1")
        for writer in slow:
            writer.close()
            await writer.wait_closed()
    await until(site, 200)
    assert await site.fetch() == SECRETS[VM]


async def until(site: Site, status: int) -> Answer:
    """Guests come until one gets this answer: what the broker has read of the slow ones is not ours to see."""
    async with asyncio.timeout(5):
        answer = await site.attempt()
        while answer.status != status:
            answer = await site.attempt()
        return answer


def test_what_was_taken_is_given_back_whatever_happens():
    receiving = Receiving(10)
    with receiving.share() as first, receiving.share() as second:
        first(6)
        second(4)
        with pytest.raises(BusyError):
            first(1)
    with suppress(ZeroDivisionError), receiving.share() as take:
        take(10)
        take(1 // 0)
    with receiving.share() as take:
        take(10)


async def test_the_server_does_not_name_its_versions(site: Site) -> None:
    for answer in (await site.request_key(site.exchange()), await site.ask("GET", "/healthz"), await site.call("GET", site.guest_url())):
        assert answer.headers["Server"] == "kbs_rim"
