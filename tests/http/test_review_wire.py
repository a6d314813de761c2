"""Clients and proxies as they come: old HTTP, odd Host fields, added parameters, numbers out of range. Nothing is a 5xx of ours."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kbs_rim import wiring
from kbs_rim.errors import KeyUnavailable, StoreUnavailable, VerifierUnavailable
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, encode_evidence_json
from kbs_rim.http.metrics import Metrics
from kbs_rim.http.middleware import METRICS, observe
from tests.broker_stage import SECRETS, Logs, Site, Starter

VM = "qemu-kernel"


async def raw(site: Site, head: str, body: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """One request as written; returns the status line, the fields and the body of the final answer."""
    reader, writer = await asyncio.open_connection(*site.services[0].guest_address)
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    fields, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = fields.decode().split("\r\n")
    return status.encode(), dict(line.split(": ", 1) for line in lines), content


LINE = f"POST /keys/v1/key/{VM} HTTP/"
TYPE = "Content-Type: application/json\nConnection: close"


@pytest.mark.parametrize(
    ("head", "location"),
    [
        (LINE + "1.0\n" + TYPE, "/keys/"),
        (LINE + "1.1\nHost: \n" + TYPE, "/keys/"),
        (LINE + '1.1\nHost: evil"> x/@y#z\n' + TYPE, "/keys/"),
        (LINE + "1.1\nHost: a@b\n" + TYPE, "/keys/"),
        (LINE + "1.1\nHost: kbs.example\n" + TYPE, "http://kbs.example/keys/"),
        (LINE + "1.1\nHost: [2001:db8::1]:8088\n" + TYPE, "http://[2001:db8::1]:8088/keys/"),
        (LINE + "1.1\nHost: kbs.example:443\nExpect: 100-continue\n" + TYPE, "http://kbs.example:443/keys/"),
    ],
)
async def test_location_repeats_the_host_only_if_it_is_one(site: Site, head: str, location: str) -> None:
    exchange = site.exchange()
    body = exchange.key_request()
    status, fields, content = await raw(site, f"{head}\nContent-Length: {len(body)}", body)
    assert b" 201 " in status
    assert fields["Location"].startswith(location + "v1/evidence/")
    if location == "/keys/":
        offer = exchange.read_offer(fields["Location"], content)
        assert (await site.submit(offer, site.realm().evidence(offer.challenge))).status == 200, "the guest finds its way"


async def test_a_chunked_body_without_a_length(site: Site) -> None:
    body = site.exchange().key_request()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    status, _, _ = await raw(site, f"{LINE}1.1\nHost: a\n{TYPE}\nTransfer-Encoding: chunked", chunks)
    assert b" 201 " in status


async def test_an_idle_connection_is_closed(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "KEEPALIVE_S", 0.05)
    site = await start()
    status, fields, _ = await raw(site, "GET / HTTP/1.1\nHost: a", b"")  # reads until the broker hangs up
    assert (b" 404 " in status, "Connection" in fields) == (True, False)


@pytest.mark.parametrize("added", ["; charset=utf-8", ";charset=UTF-8", '; charset="utf-8"', "; charset=us-ascii"])
async def test_a_charset_added_on_the_way_changes_nothing(site: Site, added: str) -> None:
    exchange = site.exchange()
    offer = await site.offer(exchange)
    answer = await site.send(offer, encode_evidence_json(site.realm().evidence(offer.challenge)), EVIDENCE_JSON_TYPE + added)
    assert answer.status == 200, answer
    assert exchange.read_secret(answer.body).value == SECRETS[VM]


async def test_another_charset_is_not_ignored(site: Site) -> None:
    offer = await site.offer()
    body = encode_evidence_json(site.realm().evidence(offer.challenge))
    await site.assert_refused(await site.send(offer, body, EVIDENCE_JSON_TYPE + "; charset=utf-16"), "envelope.media-type")


@pytest.mark.parametrize(
    "path",
    [
        f"/admin/v1/workloads/{VM}?revision={'9' * 5000}",
        f"/admin/v1/workloads/{VM}?revision={'9' * 20}",
        f"/admin/v1/workloads/{VM}?revision=-1",
        f"/admin/v1/workloads/{VM}?revision=%D9%A3",
        "/audit/v1/appraisals?after=0001-01-01T00:00:00%2B14:00",
        "/audit/v1/appraisals?before=9999-12-31T23:59:59-14:00",
        "/audit/v1/appraisals?after=yesterday",
    ],
)
async def test_numbers_and_times_out_of_range_are_the_askers_mistake(site: Site, path: str) -> None:
    answer = await site.ask("GET", path, who="auditor")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json; charset=utf-8")


@pytest.mark.parametrize("path", ["/audit/v1/appraisals/" + "0" * 20 + "%0A", "/audit/v1/payloads/" + "0" * 64 + "%0A"])
async def test_a_line_feed_is_no_part_of_a_number(site: Site, path: str) -> None:
    assert (await site.ask("GET", path, who="auditor")).status == 404


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (StoreUnavailable("the database could not be used (X)"), True),
        (KeyUnavailable("no such key"), True),
        (VerifierUnavailable("x"), False),
    ],
)
async def test_a_fault_of_ours_is_logged_with_its_reason_and_told_without(logs: Logs, error: Exception, logged: bool) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise error

    app = web.Application(middlewares=[observe])
    app[METRICS] = Metrics()
    app.router.add_get("/", fail)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/")
        assert (answer.status, str(error) in await answer.text()) == (503, False)
    lines = logs.of("cannot serve")
    assert [(line["kind"], line["reason"], line["level"]) for line in lines] == (
        [(type(error).__name__, str(error), "error")] if logged else []
    )
    assert "Traceback" not in json.dumps(logs.lines)
