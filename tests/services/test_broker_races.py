"""Trust that changes while a realm is appraised: what is revoked when the administrator gets the answer is released no more."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from kbs_rim.adapters.db import Store
from kbs_rim.ports import ImageState
from tests.broker_stage import SECRETS, Answer, Logs, Site, Starter, expect
from tests.registry_values import change

VM = "qemu-kernel"


class Meddling:
    """A record writer that lets something happen once, between an appraisal and its release."""

    def __init__(self, real, store: Store, meddle) -> None:
        self._real, self._store, self._meddle = real, store, meddle

    async def append_appraisal(self, *args, **options) -> None:
        await self._real.append_appraisal(*args, **options)

    async def append_release(self, *args, **options) -> None:
        if self._meddle is not None:
            meddle, self._meddle = self._meddle, None
            await meddle(self._store)
        await self._real.append_release(*args, **options)


def meddling(meddle):
    return lambda store: replace(store, records=Meddling(store.records, store, meddle))


async def revoke_kernel(store: Store) -> None:
    kernel = next(image for image in await store.images.list_images() if "kernel" in image.roles)
    await store.images.set_image_state(kernel.id, ImageState.REVOKED, "just now", change("image.revoked", kernel.id))


async def retire_workload(store: Store) -> None:
    await store.workloads.retire_workload(VM, change("workload.retire", VM))


async def unbind(store: Store) -> None:
    await store.secrets.bind_secret(f"vault/disk/{VM}", [], change("secret.bind", VM))


async def revoke_version(store: Store) -> None:
    await store.secrets.revoke_version(f"vault/disk/{VM}", 1, change("secret.revoke", VM))


MEDDLING = {
    "image revoked": (revoke_kernel, "rim.image-revoked"),
    "workload retired": (retire_workload, "policy.workload-inactive"),
    "secret unbound": (unbind, "policy.no-workload"),
    "version erased": (revoke_version, "policy.secret-revoked"),
}


@pytest.mark.parametrize("what", MEDDLING)
async def test_attack_race_between_an_appraisal_and_a_revocation(start: Starter, logs: Logs, what: str) -> None:
    """The appraisal was good; before its release is committed, trust is withdrawn: it is repeated, and refused."""
    meddle, finding = MEDDLING[what]
    site = await start(stores=meddling(meddle))
    answer = await site.attempt()
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json; charset=utf-8")
    await site.assert_refused(answer, finding)
    verdicts = [record["verdict"] for record in await site.appraisals()]
    assert verdicts[0] == "refused"
    assert set(verdicts[1:]) == {"allowed"}, "the first appraisal stays on record, and nothing follows it"
    assert len(logs.of("registry changed during an appraisal; appraising again")) == 1


async def test_a_harmless_change_meanwhile_costs_a_second_appraisal_and_no_more(start: Starter) -> None:
    async def deprecate(store: Store) -> None:
        [first, *_] = await store.images.list_images()
        await store.images.set_image_state(first.id, ImageState.DEPRECATED, "old", change("image.deprecated", first.id))

    site = await start(stores=meddling(deprecate))
    assert await site.fetch() == SECRETS[VM]
    assert [record["verdict"] for record in await site.appraisals()] == ["allowed", "allowed"]
    assert await site.count("releases") == 1


async def test_a_new_version_meanwhile_is_the_one_that_leaves(start: Starter) -> None:
    sites: list[Site] = []

    async def store_another(_store: Store) -> None:
        await expect(sites[0], 201, "POST", f"/admin/v1/secrets/vault/disk/{VM}/versions", {"value": "bmV3"})

    sites.append(await start(stores=meddling(store_another)))
    assert await sites[0].fetch() == b"new"
    [record] = [shown for shown in [await sites[0].record(item["id"]) for item in await sites[0].appraisals()] if shown["releases"]]
    assert record["releases"][0]["version"] == 2


# --- two replicas under fire ------------------------------------------------------------------------------------------


async def hammer(site: Site, enough: asyncio.Event, stop: asyncio.Event, replica: int, after: int = 3) -> list[Answer]:
    """Ask again and again, first leg here and second leg there, until told to stop."""
    answers: list[Answer] = []
    realm = site.realm()
    while not stop.is_set():
        exchange = site.exchange(replica=replica)
        offer = await site.offer(exchange)
        evidence = realm.evidence(offer.challenge)
        answers.append(await site.submit(offer, evidence, replica=(replica + len(answers)) % len(site.services)))
        if sum(answer.status == 200 for answer in answers) >= after or answers[-1].status != 200:
            enough.set()
    return answers


async def assert_nothing_after_revocation(site: Site) -> None:
    """Hammer, revoke in the middle, hammer on: no release is committed after the administrator got the answer."""
    stop, enough = asyncio.Event(), [asyncio.Event() for _ in range(4)]
    guests = [asyncio.create_task(hammer(site, event, stop, number % len(site.services))) for number, event in enumerate(enough)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(event.wait() for event in enough))
    [kernel] = [image for image in (await site.get("/admin/v1/images", replica=1))["images"] if image["roles"] == ["kernel"]]
    path = f"/admin/v1/images/{kernel['id']}/state"
    answer = await expect(site, 200, "POST", path, {"state": "revoked", "reason": "a hole was found"}, replica=1)
    released, sequence = await site.count("releases"), await site.store.images.registry_sequence()
    for _ in range(3):
        late = await site.attempt()
        assert (late.status, late.code) == (403, "measurement-refused")
    stop.set()
    answers = [answer for guest in await asyncio.gather(*guests) for answer in guest]
    assert await site.count("releases") == released, "not one after the answer"
    assert sum(answer.status == 200 for answer in answers) == released
    assert {answer.status for answer in answers} <= {200, 403}
    assert answer.document["touches"]["past_releases"] == released
    async with site.store.database.reading() as session:
        newest = await session.scalar(text("SELECT max(registry_sequence) FROM releases"))
    assert newest < sequence, "every release was committed before the revocation, by the registry's own count"
    refused = [record for record in await site.appraisals(limit=500) if record["verdict"] == "refused"]
    assert all("rim.image-revoked" in [finding["id"] for finding in record["findings"]] for record in refused)


async def test_attack_race_of_two_replicas_against_a_revocation_on_postgresql(pair: Site) -> None:
    await assert_nothing_after_revocation(pair)


async def test_attack_race_of_two_replicas_against_a_revocation_on_sqlite(start: Starter) -> None:
    site = await start(replicas=2)
    await assert_nothing_after_revocation(site)


async def test_a_hundred_changes_do_not_starve_the_guests(pair: Site) -> None:
    """Unrelated changes all the time: guests may have to come again, and each answer is one of the three that there are."""
    stop = asyncio.Event()

    async def change_things() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await expect(pair, 201, "POST", f"/admin/v1/secrets/vault/disk/{VM}/versions", {"value": "AAAA"}, replica=number % 2)
            await asyncio.sleep(0.05)

    changing = asyncio.create_task(change_things())
    answers = await asyncio.gather(*(pair.attempt() for _ in range(12)))
    stop.set()
    await changing
    assert {answer.status for answer in answers} <= {200, 503}
    assert await pair.count("releases") == sum(answer.status == 200 for answer in answers)
