"""Bombs: logs and bodies that are meant to cost more to read than to send. Work is counted, not timed."""

import asyncio
import gzip
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from kbs_rim.appraisal import appraise as appraise_module
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, encode_evidence_json
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.measurement import replay as replay_module
from kbs_rim.realm.host_script import honest_log
from kbs_rim.realm.lies import LIES, Lie
from kbs_rim.realm.log_emitter import LOG_AREA_SIZE, BlobRecord, LogRecord, RawRecord, RecRecord, RipasRecord
from kbs_rim.realm.simulator import SimulatedRealm, write_log
from tests.broker_stage import Logs, Site, Starter

VM = "qemu-kernel"
MIB = 1 << 20
READING_BYTES = 4 * MIB
"""What one hostile log may make us allocate while it is read: a small multiple of the 64 KiB that it may have."""


class Work:
    """Counts what an appraisal did: replays begun, steps of the hash chain, images fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replays = self.steps = 0
        match, chain = appraise_module.match_rim, replay_module._chain

        def counted_match(*args, **options):
            self.replays += 1
            result = match(*args, **options)
            self.steps += result.granules
            return result

        monkeypatch.setattr(appraise_module, "match_rim", counted_match)
        self.chains = 0

        def counted_chain(*args):
            self.chains += 1
            return chain(*args)

        monkeypatch.setattr(replay_module, "_chain", counted_chain)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


class Peak:
    """Most memory that Python held at once inside the block, beyond what it held before."""

    def __enter__(self) -> "Peak":
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_exc: object) -> None:
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


def log_with(realm: SimulatedRealm, change: Callable[[tuple[LogRecord, ...]], tuple[LogRecord, ...]], size: int = LOG_AREA_SIZE) -> bytes:
    return write_log(change(honest_log(realm.simulation.script, realm.simulation.habits)), realm.simulation, size)


async def send_log(site: Site, log: bytes, vm: str = VM):
    realm = site.realm(vm)
    offer = await site.offer(site.exchange(vm))
    return await site.submit(offer, Evidence(realm.token(offer.challenge), ((LogKind.VMM, log),)))


# --- log bombs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [Lie.LOG_BOMB_SIZE, Lie.LOG_BOMB_COUNT, Lie.LOG_BOMB_RECORDS, Lie.RIPAS_BOMB])
async def test_attack_log_bomb(site: Site, work: Work, lie: Lie) -> None:
    offer = await site.offer()
    evidence = site.realm(lie=lie).evidence(offer.challenge)
    await site.assert_refused(await site.submit(offer, evidence), *LIES[lie].findings, code="log-refused")
    assert (work.replays, work.chains) == (0, 0)


def blobs(count: int, size: int = 4096) -> tuple[BlobRecord, ...]:
    return tuple(BlobRecord(f"BLOB{number}", 0x4800_0000 + number * size, size, bytes(32)) for number in range(count))


LOG_BOMBS = {
    "more bytes than the log area": (lambda records: records, 65_537, {"log.too-large"}),
    "a megabyte": (lambda records: records, MIB, {"log.too-large"}),
    "seventeen images": (lambda records: (*records, *blobs(17)), LOG_AREA_SIZE, {"plan.image"}),
    "six hundred images": (lambda records: (*records, *blobs(600)), LOG_AREA_SIZE, {"plan.image"}),
    "images of 2^46 bytes": (lambda records: (*records, *blobs(4, 1 << 46)), LOG_AREA_SIZE, {"plan.granules", "plan.image"}),
    "five hundred vCPUs more": (
        lambda records: (*records, *([record for record in records if isinstance(record, RecRecord)][:1] * 520)),
        LOG_AREA_SIZE,
        {"plan.rec"},
    ),
    "a thousand RIPAS ranges": (
        lambda records: (*records, *(RipasRecord(0x1_0000_0000 + number * 8192, 4096) for number in range(1000))),
        LOG_AREA_SIZE,
        {"plan.ripas"},
    ),
    "RIPAS page by page": (lambda records: (*records, RipasRecord(0x1_0000_1000, (1 << 40) - 8192)), LOG_AREA_SIZE, {"plan.ripas"}),
    "a description of 255 bytes that lies about its length": (
        lambda records: (*records, RawRecord(struct.pack("<IIIIB", 0, 0x13, 0, 17, 255) + bytes(16))),
        LOG_AREA_SIZE,
        {"log.event-data"},
    ),
    "records without end": (lambda records: (*records, RawRecord(struct.pack("<IIII", 0, 3, 0, 0) * 3900)), LOG_AREA_SIZE, {"log.digests"}),
}


@pytest.mark.parametrize("bomb", LOG_BOMBS)
async def test_attack_log_bomb_by(site: Site, work: Work, bomb: str) -> None:
    change, size, findings = LOG_BOMBS[bomb]
    await site.assert_refused(await send_log(site, log_with(site.realm(), change, size)), *findings, code="log-refused")
    assert (work.replays, work.chains) == (0, 0), "refused before anything is hashed"


@pytest.mark.parametrize("bomb", [Lie.LOG_BOMB_SIZE, Lie.LOG_BOMB_COUNT, Lie.RIPAS_BOMB])
async def test_attack_log_bomb_allocates_nothing_that_it_announces(site: Site, bomb: Lie) -> None:
    """Four gigabytes of data, four thousand million digests, an exabyte of RAM: announced, and never allocated."""
    offer = await site.offer()
    body = encode_evidence_json(site.realm(lie=bomb).evidence(offer.challenge))
    with Peak() as peak:
        answer = await site.send(offer, body, EVIDENCE_JSON_TYPE)
    await site.assert_refused(answer, *LIES[bomb].findings)
    assert peak.bytes < READING_BYTES


async def test_attack_unregistered_images_are_never_replayed(site: Site, work: Work) -> None:
    """Fifteen unknown images of 256 MiB each: looked up by digest, and that is all."""
    records = lambda given: (*(item for item in given if not isinstance(item, BlobRecord) or item.digest is None), *blobs(15, 1 << 28))  # noqa: E731
    await site.assert_refused(await send_log(site, log_with(site.realm(), records)), "rim.image-unknown", code="measurement-refused")
    assert (work.replays, work.chains) == (0, 0)


async def test_attack_replays_are_bounded_however_many_dialects_are_allowed(start: Starter, work: Work) -> None:
    """A registered image, loaded as often as a log may say so, in every dialect there is."""
    site = await start(limits={"replay_granules": 2000})
    document = (await site.get(f"/admin/v1/workloads/{VM}"))["workload"]
    document["rmm"] |= {"roundings": [4096, 16384, 65536], "orders": ["log", "ripas-last", "ripas-last-whole"]}
    assert (await site.ask("POST", "/admin/v1/workloads", document)).status == 201
    initrd = site.realm().built.load("INITRD").data

    def repeat(records: tuple[LogRecord, ...]) -> tuple[LogRecord, ...]:
        [known] = [record for record in records if isinstance(record, BlobRecord) and record.description == "INITRD"]
        return (*records, *(replace(known, description=f"B{n}", base=0x4A00_0000 + n * 2 * len(initrd) // 4096 * 4096) for n in range(12)))

    await site.assert_refused(await send_log(site, log_with(site.realm(), repeat)), "rim.mismatch")
    assert work.replays == 1
    assert 0 < work.steps <= 2000


async def test_attack_replay_that_is_not_affordable_even_once(start: Starter, work: Work) -> None:
    site = await start(limits={"replay_granules": 20})
    await site.assert_refused(await site.attempt(), "rim.dialects", code="measurement-refused")
    assert work.chains == 0


async def test_attack_three_logs_of_a_megabyte_fit_in_no_body(site: Site) -> None:
    offer = await site.offer()
    token = site.realm().token(offer.challenge)
    evidence = Evidence(token, tuple((kind, bytes(MIB)) for kind in LogKind))
    answer = await site.submit(offer, evidence)
    assert (answer.status, answer.code) == (413, "too-large")


# --- token and envelope bombs -----------------------------------------------------------------------------------------

TOKEN_BOMBS = {
    "nested arrays": b"\xd9\x03\x8b" + b"\x81" * 10_000,
    "nested tags": b"\xd9\x03\x8b" * 5000,
    "an array of 2^64 - 1 items": b"\xd9\x03\x8b\x9b" + b"\xff" * 8,
    "a map of 2^32 pairs": b"\xd9\x03\x8b\xba\xff\xff\xff\xff",
    "a string of 2^63 bytes": b"\xd9\x03\x8b\xa1\x01\x5b\x7f" + b"\xff" * 7,
    "an endless array": b"\xd9\x03\x8b\x9f" + b"\x01" * 10_000,
    "sixteen thousand integers": b"\xd9\x03\x8b\x99\x3e\x80" + b"\x00" * 16_000,
    "a token of a megabyte": b"\xd9\x03\x8b\x5a\x00\x10\x00\x00" + bytes(MIB),
}


@pytest.mark.parametrize("bomb", TOKEN_BOMBS)
async def test_attack_token_bomb(site: Site, bomb: str) -> None:
    offer = await site.offer()
    body = encode_evidence_json(Evidence(TOKEN_BOMBS[bomb], ()))
    with Peak() as peak:
        answer = await site.send(offer, body, EVIDENCE_JSON_TYPE)
    record = await site.assert_refused(
        answer, "cbor.depth", "cbor.items", "cbor.tag", "cbor.truncated", "cbor.indefinite-length", "token.too-large", "token.form"
    )
    assert "attestation-result" not in record["inputs"]
    assert peak.bytes < READING_BYTES + 4 * len(body)


ENVELOPE_BOMBS = {
    "nested": b"[" * 100_000,
    "members": b'{"token":"' + b"A" * 8 + b'",' + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}",
    "a number of a million digits": b'{"token":' + b"9" * MIB + b"}",
    "backslashes": b'{"token":"' + b"\\" * MIB,
    "quotes": b'"' * MIB,
}


@pytest.mark.parametrize("bomb", ENVELOPE_BOMBS)
async def test_attack_envelope_bomb(site: Site, bomb: str) -> None:
    answer = await site.send(await site.offer(), ENVELOPE_BOMBS[bomb], EVIDENCE_JSON_TYPE)
    await site.assert_refused(answer, "envelope.malformed", code="evidence-malformed")


@pytest.mark.parametrize("boundary", ["x", "x" * 70])
async def test_attack_multipart_of_a_hundred_thousand_parts(site: Site, boundary: str) -> None:
    body = (b"--" + boundary.encode() + b"\r\n\r\n") * (MIB // (len(boundary) + 6))
    answer = await site.send(await site.offer(), body, f"multipart/mixed; boundary={boundary}")
    await site.assert_refused(answer, "envelope.malformed", "envelope.token-missing", code="evidence-malformed")


# --- body bombs -------------------------------------------------------------------------------------------------------


class RawPost:
    """One POST written by hand, so that it may be as rude as an attacker's."""

    def __init__(self, site: Site, path: str, *headers: str) -> None:
        self._site, self._path, self._headers = site, path, headers

    async def __aenter__(self) -> "RawPost":
        self.reader, self.writer = await asyncio.open_connection(*self._site.services[0].guest_address)
        lines = [f"POST {self._path} HTTP/1.1", "Host: x", f"Content-Type: {EVIDENCE_JSON_TYPE}", *self._headers, "", ""]
        self.writer.write("\r\n".join(lines).encode())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.writer.transport.abort()

    async def status(self) -> int:
        async with asyncio.timeout(5):
            return int((await self.reader.readline()).split()[1])


async def place(site: Site) -> tuple[object, str]:
    offer = await site.offer()
    return offer, offer.location[offer.location.index("/keys/") :]


async def assert_still_good(site: Site, offer) -> None:
    """The challenge was not spent by a body that nobody read."""
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    assert answer.status == 200, answer


async def test_attack_body_bomb_that_is_announced(site: Site) -> None:
    offer, path = await place(site)
    async with RawPost(site, path, f"Content-Length: {10**12}") as post:
        assert await post.status() == 413
    await assert_still_good(site, offer)


async def test_attack_body_bomb_in_chunks(site: Site) -> None:
    offer, path = await place(site)
    async with RawPost(site, path, "Transfer-Encoding: chunked") as post:
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(40):
            post.writer.write(chunk)
        assert await post.status() == 413
    await assert_still_good(site, offer)


@pytest.mark.parametrize("sent", [b"", b'{"tok'])
async def test_attack_slow_body_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("kbs_rim.http.middleware.BODY_TIMEOUT_S", 0.1)
    offer, path = await place(site)
    async with RawPost(site, path, "Content-Length: 1000") as post:
        post.writer.write(sent)
        assert await post.status() == 408
    await assert_still_good(site, offer)


async def test_attack_dripping_body_is_cut_although_something_comes_all_the_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbs_rim.http.middleware.BODY_TIMEOUT_S", 0.2)
    offer, path = await place(site)

    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    async with RawPost(site, path, "Content-Length: 100000") as post:
        dripping = asyncio.create_task(drip(post.writer))
        assert await post.status() == 408
        dripping.cancel()
    await assert_still_good(site, offer)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "x"])
async def test_attack_compressed_body_is_not_unpacked(site: Site, coding: str) -> None:
    offer = await site.offer()
    bomb = gzip.compress(bytes(64 * MIB))
    with Peak() as peak:
        answer = await site.send(offer, bomb, EVIDENCE_JSON_TYPE, headers={"Content-Encoding": coding})
    assert (answer.status, answer.code) == (415, "media-type")
    assert peak.bytes < READING_BYTES
    await assert_still_good(site, offer)


async def test_attack_two_content_codings_of_which_one_is_harmless(site: Site) -> None:
    _, path = await place(site)
    bomb = gzip.compress(bytes(16 * MIB))
    async with RawPost(site, path, "Content-Encoding: identity", "Content-Encoding: gzip", f"Content-Length: {len(bomb)}") as post:
        post.writer.write(bomb)
        assert await post.status() == 415


async def test_attack_body_that_ends_too_early(site: Site) -> None:
    """The guest hangs up in the middle: nothing is appraised, nothing is logged as our fault, and the challenge lives."""
    offer, path = await place(site)
    async with RawPost(site, path, "Content-Length: 1000") as post:
        post.writer.write(b'{"token"')
        await post.writer.drain()
    await asyncio.sleep(0.05)
    assert await site.count("appraisals") == 0
    await assert_still_good(site, offer)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-1\r\n", b"5\r\nab\r\n0\r\n\r\n", b"f" * 24 + b"\r\n", b"2\r\n{}X"])
async def test_attack_malformed_chunks(site: Site, logs: Logs, monkeypatch: pytest.MonkeyPatch, chunks: bytes, late: bool) -> None:
    """Whether they come with the headers or after them: a plain 4xx, and no traceback in the log for a stranger's bytes."""
    monkeypatch.setattr("kbs_rim.http.middleware.BODY_TIMEOUT_S", 0.3)  # aiohttp leaves a reader of late ones waiting
    offer, path = await place(site)
    async with RawPost(site, path, "Transfer-Encoding: chunked") as post:
        if late:
            post.writer.write(b"1\r\n{\r\n")
            await asyncio.sleep(0.05)
        post.writer.write(chunks)
        assert await post.status() == (408 if late else 400)
    await assert_still_good(site, offer)
    assert [line for line in logs.lines if line["level"] == "error" or "exception" in line] == []


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nA" + b"B" * 9000 + b": c\r\n\r\n"]
)
async def test_attack_bytes_that_are_not_http_leave_no_traceback(site: Site, logs: Logs, junk: bytes) -> None:
    reader, writer = await asyncio.open_connection(*site.services[0].guest_address)
    writer.write(junk)
    assert b" 400 " in await reader.readline()
    writer.transport.abort()
    assert [line for line in logs.lines if line["level"] == "error" or "exception" in line] == []


async def test_the_largest_body_that_is_allowed_is_read(site: Site) -> None:
    offer = await site.offer()
    body = encode_evidence_json(site.realm().evidence(offer.challenge))
    answer = await site.send(offer, body.ljust(site.settings.limits.body_bytes), EVIDENCE_JSON_TYPE)
    assert answer.status == 200, answer
    assert (await site.send(await site.offer(), bytes(site.settings.limits.body_bytes + 1), EVIDENCE_JSON_TYPE)).status == 413
