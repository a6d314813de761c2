"""What runtime logs hold for an image is found, on both engines; what is learned of an image later never changes what was known."""

import json
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import event, text

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.db.images import _IMAGES_AT_MOST, _IMAGES_FOR_ONE_DIGEST
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, StoreUnavailable
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import measure_image
from kbs_rim.ports import ImageRecord, ImageState
from tests.pe_builder import PeFile, Section, signed, uki, volume
from tests.postgres import query_plan
from tests.registry_values import change, image

KERNEL = b"kernel" * 100
UKI = uki((".linux", KERNEL), (".cmdline", b"quiet"), (".initrd", b"initrd"), (".osrel", b"ID=x\n"))
FIRMWARE = bytes(4096) + volume(8192)
ODD = PeFile([Section(".text", b"x")], trailer=b"odd").build()


def pairs(record: ImageRecord, what: str | None = None) -> list[tuple[str, bytes]]:
    return [(item.algorithm.value, item.digest) for item in record.measurements.measured_digests() if what in (None, item.what)]


@pytest.mark.parametrize("content", [UKI, signed(UKI), FIRMWARE, ODD, b"plain"])
async def test_parts_come_back_as_they_were_registered(store: Store, content: bytes) -> None:
    registered = image(content)
    assert await store.images.add_image(registered, change())
    bare = replace(registered, measurements=registered.measurements.with_granules_of())
    assert await store.images.get_image(registered.id) == bare
    assert await store.images.list_images() == [bare]
    assert not await store.images.add_image(registered, change())
    await store.images.set_image_state(registered.id, ImageState.DEPRECATED, "old", change())
    assert (await store.images.get_image(registered.id)).measurements == bare.measurements


async def test_every_part_leads_to_the_image(store: Store) -> None:
    records = [image(content) for content in (UKI, KERNEL, FIRMWARE, ODD)]
    for record in records:
        await store.images.add_image(record, change())
    expected = {
        "file": 1, "authenticode": 1, "authenticode-padded": 1, "section .cmdline": 1, "section .osrel": 1, "initrd": 1, "volume": 1,
    }  # fmt: skip
    for record in records:
        for what in {item.what for item in record.measurements.measured_digests()}:
            found = await store.images.find_images_by_measurement(pairs(record, what))
            mine = [item for item in found if item.image.id == record.id]
            assert len(mine) == 1, what
            assert {item.algorithm for item in mine[0].digests if item.what == what} == set(HashAlgorithm)
            assert mine[0].image.measurements == record.measurements.with_granules_of()
            if what in expected and record.id != records[1].id:
                assert len(found) == expected[what], what


async def test_a_kernel_alone_and_inside_a_uki_are_both_named(store: Store) -> None:
    uki_record, kernel_record = image(UKI), image(KERNEL)
    for record in (uki_record, kernel_record):
        await store.images.add_image(record, change())
    [digest] = [pair for pair in pairs(kernel_record, "file") if pair[0] == "sha-256"]
    found = await store.images.find_images_by_measurement([digest, ("sha-256", bytes(32))])
    assert {(item.image.id, digest.what) for item in found for digest in item.digests} == {
        (uki_record.id, "section .linux"),
        (kernel_record.id, "file"),
    }


async def test_the_image_that_explains_most_comes_first(store: Store) -> None:
    other = image(uki((".linux", KERNEL), (".cmdline", b"other")))
    for record in (image(UKI), other):
        await store.images.add_image(record, change())
    found = await store.images.find_images_by_measurement(pairs(image(UKI)))
    assert [item.image.id for item in found] == [image(UKI).id, other.id]
    assert set(found[0].digests) == set(image(UKI).measurements.measured_digests())
    assert {item.what for item in found[1].digests} == {"section .linux"}


async def test_a_digest_is_looked_up_under_its_own_algorithm(store: Store) -> None:
    await store.images.add_image(image(UKI), change())
    [(_, sha256)] = [pair for pair in pairs(image(UKI), "file") if pair[0] == "sha-256"]
    assert await store.images.find_images_by_measurement([("sha-512", sha256), ("md5", sha256), ("sha-256", sha256[:31])]) == []
    assert await store.images.find_images_by_measurement([]) == []
    assert len(await store.images.find_images_by_measurement([("sha-256", sha256)] * 3)) == 1


async def test_revoked_images_are_found_as_revoked(store: Store) -> None:
    await store.images.add_image(image(UKI), change())
    await store.images.set_image_state(image(UKI).id, ImageState.REVOKED, "CVE", change())
    [found] = await store.images.find_images_by_measurement(pairs(image(UKI), "authenticode"))
    assert found.image.state is ImageState.REVOKED


async def test_what_thousands_of_images_share_costs_no_more(store: Store) -> None:
    records = [image(uki((".linux", KERNEL), (".uname", str(number).encode()))) for number in range(_IMAGES_FOR_ONE_DIGEST + 4)]
    for record in records:
        await store.images.add_image(record, change())
    found = await store.images.find_images_by_measurement(pairs(records[0], "section .linux"))
    assert [item.image.id for item in found] == sorted(record.id for record in records)[:_IMAGES_FOR_ONE_DIGEST]
    last = max(records, key=lambda record: record.id)
    found = await store.images.find_images_by_measurement(pairs(last))
    assert found[0].image.id == last.id


async def test_a_log_that_names_every_image_costs_no_more(store: Store) -> None:
    records = [image(str(number).encode()) for number in range(_IMAGES_AT_MOST + 3)]
    async with store.database.writing() as session:
        for record in records:
            values = {"id": record.id, "digest": record.measurements.digests[HashAlgorithm.SHA256]}
            await session.execute(
                text("INSERT INTO images VALUES (:id, 'x', :document, '{}', '2026-01-01 00:00:00', 'ada')"),
                {"id": record.id, "document": _document(record)},
            )
            await session.execute(
                text(
                    "INSERT INTO image_revisions VALUES"
                    " (:id, 1, '[]', 'active', '2026-01-01 00:00:00', 'ada', '', '2026-01-01 00:00:00', 'ada', NULL, 1)"
                ),
                {"id": record.id},
            )
            await session.execute(text("INSERT INTO image_measured_digests VALUES ('sha-256', :digest, :id, 'file')"), values)
    asked = [("sha-256", record.measurements.digests[HashAlgorithm.SHA256]) for record in records]
    asked += [("sha-256", number.to_bytes(32, "big")) for number in range(8192)]
    found = await store.images.find_images_by_measurement(asked)
    assert [item.image.id for item in found] == sorted(record.id for record in records)[:_IMAGES_AT_MOST]


def _document(record: ImageRecord) -> str:
    document = record.measurements.with_granules_of().to_document()
    return json.dumps({name: value for name, value in document.items() if name not in ("pe", "volumes")})


def _without_parts(record: ImageRecord) -> ImageRecord:
    return replace(record, measurements=replace(record.measurements, pe=None, volumes=()))


@pytest.mark.parametrize("content", [UKI, FIRMWARE])
async def test_parts_may_be_learned_later_and_stay(store: Store, content: bytes) -> None:
    """An image that a client from before registered is registered again; and that client once more."""
    record = image(content)
    assert await store.images.add_image(_without_parts(record), change())
    assert len(await store.images.find_images_by_measurement(pairs(record))) == 1
    assert not await store.images.add_image(record, change(actor="bob"))
    assert await store.images.registry_sequence() == 2
    [found] = await store.images.find_images_by_measurement(pairs(record))
    assert set(found.digests) == set(record.measurements.measured_digests())
    assert found.image.measurements == record.measurements.with_granules_of()
    assert not await store.images.add_image(_without_parts(record), change())
    assert not await store.images.add_image(record, change())
    assert await store.images.registry_sequence() == 2
    async with store.database.reading() as session:
        revisions = (await session.execute(text("SELECT revision, parts, recorded_by FROM image_revisions ORDER BY revision"))).all()
    assert [(revision.revision, revision.recorded_by) for revision in revisions] == [(1, "ada"), (2, "bob")]
    assert revisions[0].parts == '{"pe":null,"volumes":[]}'


async def test_known_parts_never_change(store: Store) -> None:
    record = image(UKI, roles=(Role.INITRD,))
    await store.images.add_image(record, change())
    before = await store.images.registry_sequence()
    pe = record.measurements.pe
    assert pe is not None
    other = measure_image(ODD).pe
    for false in (replace(pe, loader="systemd-stub 258"), replace(pe, uki=None), other):
        lie = replace(record, measurements=replace(record.measurements, pe=false))
        with pytest.raises(Conflict) as caught:
            await store.images.add_image(lie, change())
        assert caught.value.finding_id == "registry.image-differs"
    assert await store.images.registry_sequence() == before


async def test_parts_of_a_revoked_image_are_not_learned(store: Store) -> None:
    await store.images.add_image(_without_parts(image(UKI)), change())
    await store.images.set_image_state(image(UKI).id, ImageState.REVOKED, "CVE", change())
    with pytest.raises(Conflict) as caught:
        await store.images.add_image(image(UKI), change())
    assert caught.value.finding_id == "registry.image-revoked"


@pytest.mark.parametrize("damage", ["'[]'", "'{\"pe\": 3}'", "'not json'", "'{\"size\": 1}'"])
async def test_damaged_parts_are_our_fault(store: Store, damage: str) -> None:
    await store.images.add_image(image(UKI), change())
    async with store.database.writing() as session:
        await session.execute(text(f"UPDATE image_revisions SET parts = {damage}"))
    with pytest.raises(StoreUnavailable):
        await store.images.get_image(image(UKI).id)


async def test_the_search_scans_no_table(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    await store.images.add_image(image(UKI), change())
    statements: list[tuple[str, tuple]] = []

    def note(_connection, _cursor, statement, parameters, *_rest) -> None:
        statements.append((statement, parameters))

    engine, _ = store.database.engines
    event.listen(engine, "before_cursor_execute", note)
    await store.images.find_images_by_measurement(pairs(image(UKI)))
    event.remove(engine, "before_cursor_execute", note)
    selects = [item for item in statements if item[0].startswith("SELECT")]
    assert len(selects) == 2, "one query for the digests, one for the images"
    async with store.database.reading() as session:
        for statement, parameters in selects:
            steps = await session.run(partial(query_plan, statement, parameters))
            assert any("SEARCH image" in step for step in steps), steps
            assert not any(step.startswith("SCAN image") for step in steps), steps
    await store.close()
