"""What the store promises about workloads, on both engines."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from kbs_rim.adapters.db import Store
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ports import ImageState
from tests.registry_values import AT, change, image, kernel_bytes, workload

LATER = AT + timedelta(days=1)
KERNEL = image(kernel_bytes(), roles=(Role.KERNEL,))
TREE = image(b"tree", roles=(Role.DEVICE_TREE,))
INITRD = image(b"initrd", roles=(Role.INITRD,))


@pytest.fixture(autouse=True)
async def _images(store: Store) -> None:
    for record in (KERNEL, TREE, INITRD):
        await store.images.add_image(record, change())


async def test_a_workload_comes_back_as_it_was_registered(store: Store) -> None:
    web = workload("web", KERNEL, TREE, INITRD)
    added = await store.workloads.add_workload(web, change())
    assert (added.workload, added.revision, added.active, added.registered_at, added.registered_by) == (web, 1, True, AT, "ada")
    assert await store.workloads.get_workload("web") == added
    assert added.workload.memory.size.max == 0xFFFFFFFFFFFF0000


async def test_the_newest_revision_counts_and_old_ones_stay(store: Store) -> None:
    first = await store.workloads.add_workload(workload("web", KERNEL, TREE), change())
    second = await store.workloads.add_workload(workload("web", KERNEL, TREE, INITRD), change(at=LATER, actor="bob"))
    assert (second.revision, second.registered_at, second.registered_by) == (2, LATER, "bob")
    assert await store.workloads.get_workload("web") == second
    assert await store.workloads.get_workload("web", 1) == first
    with pytest.raises(NotFound):
        await store.workloads.get_workload("web", 3)


async def test_an_identical_registration_is_no_new_revision(store: Store) -> None:
    first = await store.workloads.add_workload(workload("web", KERNEL, TREE), change())
    before = await store.images.registry_sequence()
    assert await store.workloads.add_workload(workload("web", KERNEL, TREE), change(at=LATER)) == first
    assert await store.images.registry_sequence() == before


async def test_a_retired_workload_comes_back_only_as_a_new_revision(store: Store) -> None:
    await store.workloads.add_workload(workload("web", KERNEL, TREE), change())
    retired = await store.workloads.retire_workload("web", change(at=LATER))
    assert (retired.revision, retired.active) == (1, False)
    assert await store.workloads.get_workload("web") == retired
    before = await store.images.registry_sequence()
    assert await store.workloads.retire_workload("web", change(at=LATER)) == retired
    assert await store.images.registry_sequence() == before
    again = await store.workloads.add_workload(workload("web", KERNEL, TREE), change(at=LATER))
    assert (again.revision, again.active) == (2, True)
    assert not (await store.workloads.get_workload("web", 1)).active


async def test_a_workload_may_name_only_images_that_are_registered_for_the_role(store: Store) -> None:
    unknown = image(b"never registered", roles=(Role.INITRD,))
    with pytest.raises(Conflict, match="is not registered"):
        await store.workloads.add_workload(workload("web", KERNEL, TREE, unknown), change())
    with pytest.raises(Conflict, match="for initrd only"):
        await store.workloads.add_workload(workload("web", INITRD, TREE), change())
    await store.images.set_image_state(INITRD.id, ImageState.DEPRECATED, "", change())
    await store.workloads.add_workload(workload("deprecated-is-allowed", KERNEL, TREE, INITRD), change())
    await store.images.set_image_state(INITRD.id, ImageState.REVOKED, "", change())
    with pytest.raises(Conflict, match="is revoked") as caught:
        await store.workloads.add_workload(workload("web", KERNEL, TREE, INITRD), change())
    assert caught.value.finding_id == "registry.workload-image"
    with pytest.raises(NotFound):
        await store.workloads.get_workload("web")


async def test_workloads_naming_an_image_are_the_newest_active_ones(store: Store) -> None:
    await store.workloads.add_workload(workload("old", KERNEL, TREE, INITRD), change())
    await store.workloads.add_workload(workload("old", KERNEL, TREE), change())
    await store.workloads.add_workload(workload("retired", KERNEL, TREE, INITRD), change())
    await store.workloads.retire_workload("retired", change())
    naming = await store.workloads.add_workload(workload("naming", KERNEL, TREE, INITRD), change())
    assert await store.workloads.workloads_naming(INITRD.id) == [naming]
    assert [record.workload.name for record in await store.workloads.workloads_naming(KERNEL.id)] == ["naming", "old"]
    assert await store.workloads.workloads_naming("a\0b") == []


async def test_workloads_are_listed_byte_by_byte_in_pages(store: Store) -> None:
    names = ["a", "a-b", "a.b", "a_b", "ab", "b", "b0"]
    for name in names:
        await store.workloads.add_workload(workload(name, KERNEL, TREE), change())
    first = await store.workloads.list_workloads(limit=3)
    rest = await store.workloads.list_workloads(after=first[-1].workload.name, limit=100)
    assert [record.workload.name for record in (*first, *rest)] == sorted(names)
    assert await store.workloads.list_workloads(after="\ud800") == []


@pytest.mark.parametrize("name", ["nobody", "", "a\0b", "\udfff"])
async def test_an_unknown_workload_is_not_found_whatever_its_name(store: Store, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await store.workloads.get_workload(name)
    assert caught.value.finding_id == "registry.workload-unknown"
    with pytest.raises(NotFound):
        await store.workloads.retire_workload(name, change())


async def test_every_change_of_a_workload_moves_the_sequence(store: Store) -> None:
    start = await store.images.registry_sequence()
    await store.workloads.add_workload(workload("web", KERNEL, TREE), change())
    await store.workloads.add_workload(workload("web", KERNEL, TREE, description="two"), change())
    await store.workloads.retire_workload("web", change())
    assert await store.images.registry_sequence() == start + 3
    async with store.database.reading() as session:
        assert await session.scalar(text("SELECT count(*) FROM changes")) == start + 3
