"""The record: complete, append-only, and no release after an acknowledged revocation. On both engines."""

import asyncio
import hashlib
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.db.registry_state import RegistryChange, hold_registry
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ledger.records import VerdictKind
from kbs_rim.ports import AppraisalFilter, ImageState
from tests.registry_values import AT, appraisal, change, image, release

IMAGE = f"sha256:{'1' * 64}"
OTHER_IMAGE = f"sha256:{'2' * 64}"


async def test_an_appraisal_comes_back_with_the_digest_it_was_stored_under(store: Store) -> None:
    record = appraisal("ticket-1", images=(IMAGE,), instance_id="ABCD", findings=("policy.accepted", "boot.image-deprecated"))
    await store.records.append_appraisal(record, {})
    found, releases = await store.record_reader.get_appraisal("ticket-1")
    assert (found, releases) == (record, [])
    assert found.digest() == record.digest()
    async with store.database.reading() as session:
        assert await session.scalar(text("SELECT digest FROM appraisals")) == record.digest()


async def test_a_ticket_is_written_once(store: Store) -> None:
    await store.records.append_appraisal(appraisal("ticket-1"), {})
    with pytest.raises(Conflict):
        await store.records.append_appraisal(appraisal("ticket-1", verdict=VerdictKind.REFUSED), {})
    assert (await store.record_reader.get_appraisal("ticket-1"))[0].verdict is VerdictKind.ALLOWED


async def test_payloads_are_stored_once_under_their_digest(store: Store) -> None:
    token, log = b"token" * 100, b"log\0" * 100
    inputs = {"token": hashlib.sha256(token).hexdigest(), "log.vmm": hashlib.sha256(log).hexdigest()}
    for number in range(3):
        await store.records.append_appraisal(appraisal(f"ticket-{number}", inputs=inputs), {"token": token, "log.vmm": log})
    assert await store.record_reader.get_payload(inputs["token"]) == token
    assert await store.record_reader.get_payload(inputs["log.vmm"]) == log
    async with store.database.reading() as session:
        assert await session.scalar(text("SELECT count(*) FROM payloads")) == 2


async def test_a_payload_that_the_record_does_not_name_is_refused(store: Store) -> None:
    for inputs in ({}, {"token": hashlib.sha256(b"another").hexdigest()}):
        with pytest.raises(ValueError, match="token is not the one"):
            await store.records.append_appraisal(appraisal("ticket-1", inputs=inputs), {"token": b"token"})
    with pytest.raises(NotFound):
        await store.record_reader.get_appraisal("ticket-1")


async def test_replicas_that_share_payloads_do_not_wait_for_each_other_for_ever(store: Store) -> None:
    payloads = {f"kind-{number}": bytes([number]) * 100 for number in range(6)}
    inputs = {kind: hashlib.sha256(data).hexdigest() for kind, data in payloads.items()}
    backwards = dict(reversed(payloads.items()))
    await asyncio.gather(
        *(store.records.append_appraisal(appraisal(f"t{n}", inputs=inputs), payloads if n % 2 else backwards) for n in range(20))
    )
    assert len(await store.record_reader.list_appraisals(AppraisalFilter())) == 20


@pytest.mark.parametrize("name", ["a\0b", "x" * 100_000, "ünï" * 5000])
async def test_what_a_guest_calls_a_secret_cannot_keep_the_record_from_being_written(store: Store, name: str) -> None:
    record = appraisal("ticket-1", secret=name, verdict=VerdictKind.REFUSED)
    await store.records.append_appraisal(record, {})
    assert await store.record_reader.list_appraisals(AppraisalFilter(secret=name)) == [record]


@pytest.mark.parametrize("name", ["ticket-2", "", "a\0b", "\ud800"])
async def test_what_is_not_on_record_is_not_found(store: Store, name: str) -> None:
    await store.records.append_appraisal(appraisal("ticket-1"), {})
    with pytest.raises(NotFound) as caught:
        await store.record_reader.get_appraisal(name)
    assert caught.value.finding_id == "record.unknown"
    with pytest.raises(NotFound):
        await store.record_reader.list_appraisals(AppraisalFilter(cursor=name))
    with pytest.raises(NotFound) as caught:
        await store.record_reader.get_payload(name)
    assert caught.value.finding_id == "record.payload-unknown"


async def test_each_filter_selects_what_it_says(store: Store) -> None:
    hour = timedelta(hours=1)
    records = [
        appraisal("a", at=AT, images=(IMAGE,), instance_id="aa", findings=("policy.accepted",)),
        appraisal("b", at=AT + hour, verdict=VerdictKind.REFUSED, findings=("rim.mismatch", "boot.x0"), images=(IMAGE, OTHER_IMAGE)),
        appraisal(
            "c",
            at=AT + 2 * hour,
            verdict=VerdictKind.UNAVAILABLE,
            secret="default/tls/key",
            workload_name=None,
            findings=("boot.x0", "boot.x0"),
        ),
        appraisal("d", at=AT + 3 * hour, workload_name="db", instance_id="bb", findings=()),
    ]
    for record in records:
        await store.records.append_appraisal(record, {})
    expected = {
        AppraisalFilter(): "dcba",
        AppraisalFilter(verdict=VerdictKind.ALLOWED): "da",
        AppraisalFilter(verdict=VerdictKind.UNAVAILABLE): "c",
        AppraisalFilter(secret="default/tls/key"): "c",
        AppraisalFilter(workload="db"): "d",
        AppraisalFilter(finding="boot.x0"): "cb",
        AppraisalFilter(image=IMAGE): "ba",
        AppraisalFilter(image=OTHER_IMAGE, finding="policy.accepted"): "",
        AppraisalFilter(instance_id="BB"): "d",
        AppraisalFilter(after=AT + hour): "dcb",
        AppraisalFilter(before=AT + hour): "a",
        AppraisalFilter(after=AT + hour, before=AT + 3 * hour, finding="boot.x0", verdict=VerdictKind.REFUSED): "b",
        AppraisalFilter(cursor="c"): "ba",
        AppraisalFilter(cursor="d", limit=2): "cb",
        AppraisalFilter(secret="nothing"): "",
    }
    for condition, identities in expected.items():
        found = await store.record_reader.list_appraisals(condition)
        assert "".join(record.id for record in found) == identities, condition


async def test_pages_are_complete_when_times_are_equal(store: Store) -> None:
    identities = [f"{number:02}" for number in range(11)]
    for number, identity in enumerate(identities):
        await store.records.append_appraisal(appraisal(identity, at=AT + timedelta(microseconds=number // 4)), {})
    seen: list[str] = []
    cursor = None
    while page := await store.record_reader.list_appraisals(AppraisalFilter(cursor=cursor, limit=3)):
        seen += [record.id for record in page]
        cursor = page[-1].id
    assert seen == identities[::-1]


async def test_a_release_follows_an_appraisal_that_allowed_it(store: Store) -> None:
    await store.records.append_appraisal(appraisal("allowed", images=(IMAGE,)), {})
    await store.records.append_appraisal(appraisal("refused", verdict=VerdictKind.REFUSED), {})
    await store.records.append_release(release("allowed"), registry_sequence=0)
    await store.records.append_release(release("allowed", at=AT + timedelta(seconds=1), version=2), registry_sequence=0)
    _, releases = await store.record_reader.get_appraisal("allowed")
    assert releases == [release("allowed"), release("allowed", at=AT + timedelta(seconds=1), version=2)]
    for ticket in ("refused", "never-written"):
        with pytest.raises(Conflict):
            await store.records.append_release(release(ticket), registry_sequence=0)
    assert await store.record_reader.count_releases(image=IMAGE) == 2
    assert await store.record_reader.count_releases(image=OTHER_IMAGE) == 0
    assert await store.record_reader.count_releases(image="\0") == 0


async def test_a_registry_that_moved_on_stops_a_release(store: Store) -> None:
    await store.records.append_appraisal(appraisal("ticket-1"), {})
    await store.images.add_image(image(), change())
    for stale in (0, 2):
        with pytest.raises(Conflict) as caught:
            await store.records.append_release(release("ticket-1"), registry_sequence=stale)
        assert caught.value.finding_id == "registry.moved"
    assert (await store.record_reader.get_appraisal("ticket-1"))[1] == []
    await store.records.append_release(release("ticket-1"), registry_sequence=1)


async def test_a_release_waits_for_a_revocation_in_progress_and_then_fails(store: Store, database_url: str) -> None:
    replica = open_store(database_url)
    await store.images.add_image(image(), change())
    await store.records.append_appraisal(appraisal("ticket-1"), {})
    async with store.database.writing() as transaction:
        await transaction.run(lambda session: RegistryChange(session).record(change("image.revoke")))
        attempt = asyncio.create_task(replica.records.append_release(release("ticket-1"), registry_sequence=1))
        done, _ = await asyncio.wait([attempt], timeout=0.1)
        assert not done, "the release did not wait for the change"
    with pytest.raises(Conflict):
        await attempt
    await replica.close()


async def test_a_revocation_waits_for_a_release_in_progress(store: Store, database_url: str) -> None:
    replica = open_store(database_url)
    await store.images.add_image(image(), change())
    async with store.database.writing() as transaction:
        await transaction.run(lambda session: hold_registry(session.connection()))
        revocation = asyncio.create_task(replica.images.set_image_state(image().id, ImageState.REVOKED, "CVE", change()))
        done, _ = await asyncio.wait([revocation], timeout=0.1)
        assert not done, "the revocation returned while a release was in progress"
    assert (await revocation).state is ImageState.REVOKED
    await replica.close()


async def test_no_release_is_committed_after_a_revocation_returned(store: Store, database_url: str) -> None:
    replicas = [store, open_store(database_url)]
    await store.images.add_image(image(), change())
    await store.records.append_appraisal(appraisal("ticket-1"), {})
    sequence = await store.images.registry_sequence()
    released = 0
    under_way = asyncio.Event()

    async def keep_releasing(replica: Store) -> None:
        nonlocal released
        while True:
            await replica.records.append_release(release("ticket-1"), registry_sequence=sequence)
            released += 1
            if released == 6:
                under_way.set()

    releasing = [asyncio.create_task(keep_releasing(replicas[number % 2])) for number in range(6)]
    await under_way.wait()
    await replicas[1].images.set_image_state(image().id, ImageState.REVOKED, "CVE", change())
    at_return = await store.record_reader.get_appraisal("ticket-1")
    outcomes = await asyncio.gather(*releasing, return_exceptions=True)
    assert all(isinstance(outcome, Conflict) for outcome in outcomes), outcomes
    assert await store.record_reader.get_appraisal("ticket-1") == at_return
    assert len(at_return[1]) == released
    await replicas[1].close()


async def test_concurrent_changes_are_all_counted(store: Store, database_url: str) -> None:
    replica = open_store(database_url)
    contents = [bytes([number]) * 10 for number in range(12)]
    await asyncio.gather(*((store, replica)[n % 2].images.add_image(image(content), change()) for n, content in enumerate(contents)))
    await replica.close()
    assert await store.images.registry_sequence() == len(contents)


async def test_of_replicas_that_register_one_image_at_once_one_adds_it(store: Store, database_url: str) -> None:
    replica = open_store(database_url)
    outcomes = await asyncio.gather(*((store, replica)[number % 2].images.add_image(image(), change()) for number in range(8)))
    await replica.close()
    assert sorted(outcomes) == [False] * 7 + [True]


async def test_changes_are_listed_newest_first_in_pages(store: Store) -> None:
    for number in range(5):
        await store.images.add_image(image(bytes([number])), change("image.register", f"image/{number % 2}"))
    numbers = [number for number, _ in await store.record_reader.list_changes()]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 5
    first = await store.record_reader.list_changes(limit=2)
    rest = await store.record_reader.list_changes(cursor=first[-1][0])
    assert [number for number, _ in (*first, *rest)] == numbers
    assert len(await store.record_reader.list_changes(subject="image/1")) == 2
    assert await store.record_reader.list_changes(subject="\0") == []


_TICKETS = itertools.count()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.dictionaries(st.text(), JSON, max_size=3), message=st.text())
async def test_any_facts_survive(store: Store, facts: dict, message: str) -> None:
    identity = f"ticket-{next(_TICKETS)}"
    record = appraisal(identity)
    record = replace(record, facts=facts, findings=({"id": "boot.x0", "seen": message},))
    await store.records.append_appraisal(record, {})
    found, _ = await store.record_reader.get_appraisal(identity)
    assert found == record
    assert found.digest() == record.digest()
