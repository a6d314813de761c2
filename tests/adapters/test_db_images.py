"""The image registry's promises, on both engines."""

import gzip
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import event, text

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.image import measure_image
from kbs_rim.ports import ImageRecord, ImageState
from tests.postgres import query_plan
from tests.registry_values import AT, change, image, kernel_bytes

LATER = AT + timedelta(days=1)


def digests_of(record, *algorithms: HashAlgorithm) -> list[tuple[str, bytes]]:
    return [(algorithm.value, record.measurements.digests[algorithm]) for algorithm in algorithms or HashAlgorithm]


async def test_an_image_comes_back_as_it_was_registered(store: Store) -> None:
    for registered in (image(), image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"x" * 4093)):
        assert await store.images.add_image(registered, change())
        [found] = await store.images.find_images(digests_of(registered))
        assert found == registered


async def test_granules_come_only_for_the_algorithm_asked_about(store: Store) -> None:
    registered = image()
    await store.images.add_image(registered, change())
    for algorithm in HashAlgorithm:
        [found] = await store.images.find_images(digests_of(registered, algorithm))
        assert found.measurements == registered.measurements.with_granules_of(algorithm)
    [bare] = await store.images.find_images(digests_of(registered), with_granules=False)
    assert bare.measurements == registered.measurements.with_granules_of()
    assert (await store.images.get_image(registered.id)).measurements.granules == {}


async def test_a_digest_is_looked_up_under_its_own_algorithm(store: Store) -> None:
    registered = image()
    await store.images.add_image(registered, change())
    sha256 = registered.measurements.digests[HashAlgorithm.SHA256]
    assert await store.images.find_images([("sha-512", sha256), ("sha-256", bytes(32)), ("md5", sha256)]) == []
    assert await store.images.find_images([]) == []
    assert len(await store.images.find_images([("sha-256", sha256), ("sha-256", sha256)])) == 1


async def test_the_file_digest_of_a_packed_kernel_is_not_what_is_loaded(store: Store) -> None:
    packed = gzip.compress(kernel_bytes())
    measurements = measure_image(packed)
    registered = image(kernel_bytes(), roles=(Role.KERNEL,))
    await store.images.add_image(registered, change())
    file_digest = measurements.file_digests[HashAlgorithm.SHA256]
    assert await store.images.find_images([("sha-256", file_digest)]) == []


async def test_the_same_measurements_register_once_and_merge_roles(store: Store) -> None:
    await store.images.add_image(image(), change())
    before = await store.images.registry_sequence()
    assert not await store.images.add_image(image(name="another name"), change())
    assert await store.images.registry_sequence() == before
    assert not await store.images.add_image(image(roles=(Role.FIRMWARE, Role.INITRD)), change(at=LATER, actor="bob"))
    assert await store.images.registry_sequence() == before + 1
    merged = await store.images.get_image(image().id)
    assert merged.roles == (Role.INITRD, Role.FIRMWARE)
    assert (merged.name, merged.state_at, merged.state_by, merged.registered_by) == ("an image", AT, "ada", "ada")


async def test_other_measurements_under_a_known_id_are_a_conflict(store: Store) -> None:
    kernel = image(kernel_bytes(), roles=(Role.KERNEL,))
    await store.images.add_image(kernel, change())
    packed = measure_image(gzip.compress(kernel_bytes()))
    assert packed.image_id == kernel.id
    with pytest.raises(Conflict) as caught:
        await store.images.add_image(replace(kernel, measurements=packed), change())
    assert caught.value.finding_id == "registry.image-differs"


async def test_a_revoked_image_is_found_as_revoked_and_never_comes_back(store: Store) -> None:
    await store.images.add_image(image(), change())
    moved = await store.images.set_image_state(image().id, ImageState.DEPRECATED, "successor is out", change(at=LATER, actor="bob"))
    assert (moved.state, moved.state_at, moved.state_by, moved.state_reason) == (ImageState.DEPRECATED, LATER, "bob", "successor is out")
    await store.images.set_image_state(image().id, ImageState.ACTIVE, "not yet", change())
    await store.images.set_image_state(image().id, ImageState.REVOKED, "CVE", change(at=LATER))
    for state in (ImageState.ACTIVE, ImageState.DEPRECATED):
        with pytest.raises(Conflict) as caught:
            await store.images.set_image_state(image().id, state, "oops", change())
        assert caught.value.finding_id == "registry.image-revoked"
    with pytest.raises(Conflict) as caught:
        await store.images.add_image(image(), change())
    assert caught.value.finding_id == "registry.image-revoked"
    [found] = await store.images.find_images(digests_of(image()))
    assert (found.state, found.state_reason) == (ImageState.REVOKED, "CVE")


async def test_a_state_that_is_there_already_is_not_written_again(store: Store) -> None:
    await store.images.add_image(image(), change())
    await store.images.set_image_state(image().id, ImageState.REVOKED, "first reason", change())
    before = await store.images.registry_sequence()
    again = await store.images.set_image_state(image().id, ImageState.REVOKED, "second reason", change(at=LATER))
    assert (again.state_reason, again.state_at) == ("first reason", AT)
    assert await store.images.registry_sequence() == before


async def test_the_registry_can_be_read_as_of_any_moment(store: Store) -> None:
    await store.images.add_image(image(), change())
    await store.images.set_image_state(image().id, ImageState.DEPRECATED, "", change(at=AT + timedelta(days=1)))
    await store.images.add_image(image(roles=(Role.FIRMWARE,)), change(at=AT + timedelta(days=2)))
    await store.images.set_image_state(image().id, ImageState.REVOKED, "", change(at=AT + timedelta(days=3)))
    async with store.database.reading() as session:
        rows = await session.execute(text("SELECT revision, state, roles FROM image_revisions ORDER BY recorded_at"))
        assert [tuple(row) for row in rows] == [
            (1, "active", '["initrd"]'),
            (2, "deprecated", '["initrd"]'),
            (3, "deprecated", '["initrd","firmware"]'),
            (4, "revoked", '["initrd","firmware"]'),
        ]


async def test_images_are_listed_in_pages_and_by_state(store: Store) -> None:
    records = sorted((image(bytes([number]) * 5) for number in range(7)), key=lambda record: record.id)
    for record in records:
        await store.images.add_image(record, change())
    await store.images.set_image_state(records[3].id, ImageState.REVOKED, "", change())
    first = await store.images.list_images(limit=4)
    second = await store.images.list_images(after=first[-1].id, limit=4)
    assert [record.id for record in (*first, *second)] == [record.id for record in records]
    assert [record.id for record in await store.images.list_images(state=ImageState.REVOKED)] == [records[3].id]
    assert len(await store.images.list_images(state=ImageState.ACTIVE)) == 6


@pytest.mark.parametrize("name", ["sha256:" + "0" * 64, "", "a\0b", "\ud800", "'; DROP TABLE images; --"])
async def test_an_unknown_id_is_not_found_whatever_it_is(store: Store, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await store.images.get_image(name)
    assert caught.value.finding_id == "registry.image-unknown"
    with pytest.raises(NotFound):
        await store.images.set_image_state(name, ImageState.REVOKED, "", change())
    assert len(await store.images.list_images(after=name)) == 0


async def test_every_change_moves_the_sequence_by_one_and_is_written_down(store: Store) -> None:
    assert await store.images.registry_sequence() == 0
    await store.images.add_image(image(), change("image.register", f"image/{image().id}", package="installer"))
    assert await store.images.registry_sequence() == 1
    await store.images.set_image_state(image().id, ImageState.REVOKED, "CVE", change("image.revoke", f"image/{image().id}"))
    assert await store.images.registry_sequence() == 2
    changes = await store.record_reader.list_changes(subject=f"image/{image().id}")
    assert [(record.action, record.at, record.actor) for _, record in changes] == [
        ("image.revoke", AT, "ada"),
        ("image.register", AT, "ada"),
    ]
    assert changes[1][1].detail == {"package": "installer"}


async def test_find_images_scans_no_table(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    await store.images.add_image(image(), change())
    statements: list[tuple[str, tuple]] = []

    def note(_connection, _cursor, statement, parameters, *_rest) -> None:
        statements.append((statement, parameters))

    engine, _ = store.database.engines
    event.listen(engine, "before_cursor_execute", note)
    await store.images.find_images(digests_of(image()))
    event.remove(engine, "before_cursor_execute", note)
    selects = [item for item in statements if item[0].startswith("SELECT")]
    assert len(selects) == 2, "one query for the images, one for the granules"
    async with store.database.reading() as session:
        for statement, parameters in selects:
            steps = await session.run(partial(query_plan, statement, parameters))
            assert steps
            assert not any(step.startswith("SCAN") for step in steps), steps
    await store.close()


def said(record: ImageRecord, **provenance: str) -> ImageRecord:
    return replace(record, provenance=provenance)


async def test_a_set_is_one_change_of_the_registry(store: Store) -> None:
    before = await store.images.registry_sequence()
    known = image()
    await store.images.add_image(known, change())
    kernel, other = image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"other" * 99)
    additions = [(record, change("image.register", record.id)) for record in (kernel, other, known)]
    found = await store.images.add_images(additions)
    assert [(item.image_id, item.created, item.added) for item in found] == [
        (kernel.id, True, ()),
        (other.id, True, ()),
        (known.id, False, ()),
    ]
    assert await store.images.registry_sequence() == before + 2
    changes = await store.record_reader.list_changes(subject=kernel.id)
    assert [item.action for _, item in changes] == ["image.register"]
    assert await store.images.add_images(additions) == [replace(item, created=False) for item in found]
    assert await store.images.registry_sequence() == before + 2


async def test_a_set_with_one_bad_image_registers_nothing(store: Store) -> None:
    bad, good = image(), image(kernel_bytes(), roles=(Role.KERNEL,))
    await store.images.add_image(bad, change())
    await store.images.set_image_state(bad.id, ImageState.REVOKED, "CVE", change())
    before = await store.images.registry_sequence()
    with pytest.raises(Conflict):
        await store.images.add_images([(good, change()), (bad, change())])
    assert [record.id for record in await store.images.list_images()] == [bad.id]
    assert await store.images.registry_sequence() == before


async def test_one_image_twice_in_a_set_is_merged_there(store: Store) -> None:
    twice = [(image(), change()), (image(roles=(Role.FIRMWARE,)), change())]
    assert [(item.created, item.added) for item in await store.images.add_images(twice)] == [(True, ()), (False, ("role firmware",))]
    assert set((await store.images.get_image(image().id)).roles) == {Role.INITRD, Role.FIRMWARE}


async def test_further_provenance_is_kept_once_with_time_and_author(store: Store) -> None:
    first = image()
    await store.images.add_image(first, change())
    for word, added in (({"mirror": "b"}, ("provenance",)), ({"mirror": "b"}, ()), ({}, ()), ({"mirror": "c"}, ("provenance",))):
        [found] = await store.images.add_images([(said(first, **word), change(at=LATER, actor="bob"))])
        assert (found.created, found.added) == (False, added)
    shown = await store.images.get_image(first.id)
    assert shown.provenance == first.provenance
    assert [(word.provenance, word.added_at, word.added_by) for word in shown.further_provenance] == [
        ({"mirror": "b"}, LATER, "bob"),
        ({"mirror": "c"}, LATER, "bob"),
    ]
    assert (await store.images.list_images())[0].further_provenance == ()
