"""Caches are brought to the registry's state before they are asked, with exactly what changed, and nobody sends a message."""

from dataclasses import replace

import pytest

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.appraisal.workload import Role, Workload, parse_workload, workload_document
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.ports import ImageState
from kbs_rim.services.trust_lookup import TrustLookup
from tests.registry_values import change, image, kernel_bytes, sealed, workload

KERNEL, TREE, OTHER = image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"tree", roles=(Role.DEVICE_TREE,)), image(b"other")


@pytest.fixture
async def furnished(store: Store) -> Store:
    for record in (KERNEL, TREE, OTHER):
        await store.images.add_image(record, change())
    await store.workloads.add_workload(workload("web", KERNEL, TREE), change())
    await store.secrets.create_secret("a/b/c", "c", ["web"], change())
    await store.secrets.add_version("a/b/c", sealed(1), change())
    return store


def lookup_of(store: Store) -> TrustLookup:
    return TrustLookup(store.trust, store.images, DEFAULT_LIMITS)


async def filled(store: Store) -> TrustLookup:
    """A lookup of a replica that has a RIM for each combination of images."""
    lookup = lookup_of(store)
    trust = await lookup.read("c", None)
    for key, images in (("both", {KERNEL.id, TREE.id}), ("kernel", {KERNEL.id}), ("other", {OTHER.id})):
        trust.memo.put(key, b"rim of " + key.encode(), frozenset(images))
    for record in (KERNEL, OTHER):
        lookup.granules.put(record.measurements, HashAlgorithm.SHA256)
    return lookup


def held(lookup: TrustLookup) -> set[str]:
    return {key for key in ("both", "kernel", "other") if lookup.rims.get(key) is not None}


async def test_a_replica_learns_of_a_revocation_before_it_asks_its_cache(furnished: Store, database_url: str) -> None:
    replica = open_store(database_url)
    lookup = await filled(replica)
    await furnished.images.set_image_state(TREE.id, ImageState.REVOKED, "CVE", change())
    await lookup.read("c", None)
    assert held(lookup) == {"kernel", "other"}
    assert lookup.rims.counts.dropped == 1
    await furnished.images.set_image_state(KERNEL.id, ImageState.REVOKED, "CVE", change())
    await lookup.read("a name that is nobody's", None)
    assert held(lookup) == {"other"}
    assert lookup.granules.get(KERNEL.id, HashAlgorithm.SHA256) is None
    assert lookup.granules.get(OTHER.id, HashAlgorithm.SHA256) is not None
    assert (lookup.rims.counts.dropped, lookup.granules.counts.dropped) == (2, 1)
    await replica.close()


async def test_other_changes_drop_nothing(furnished: Store) -> None:
    lookup = await filled(furnished)
    await furnished.images.set_image_state(KERNEL.id, ImageState.DEPRECATED, "old", change())
    await furnished.images.set_image_state(KERNEL.id, ImageState.ACTIVE, "not so old", change())
    await furnished.images.add_image(image(b"new"), change())
    await furnished.workloads.retire_workload("web", change())
    await furnished.secrets.revoke_version("a/b/c", 1, change())
    trust = await lookup.read("c", None)
    assert held(lookup) == {"both", "kernel", "other"}
    assert (trust.secret, trust.candidates, trust.bound_workloads) == ("a/b/c", (), 1)


async def test_an_appraisal_under_way_puts_back_nothing_that_depends_on_a_revoked_image(furnished: Store) -> None:
    lookup = await filled(furnished)
    under_way = await lookup.read("c", None)
    await furnished.images.set_image_state(TREE.id, ImageState.REVOKED, "CVE", change())
    after = await lookup.read("c", None)
    under_way.memo.put("both", b"late", frozenset({KERNEL.id, TREE.id}))
    assert under_way.memo.get("both") is None
    assert after.memo.get("both") is None
    under_way.memo.put("other", b"late", frozenset({OTHER.id}))
    assert after.memo.get("other") == b"late"


async def test_views_that_come_back_in_another_order_lose_no_revocation(furnished: Store) -> None:
    lookup = await filled(furnished)
    since = lookup._seen
    early = await furnished.trust.view("c", [], since=since)
    await furnished.images.set_image_state(TREE.id, ImageState.REVOKED, "CVE", change())
    late = await furnished.trust.view("c", [], since=since)
    lookup._reconcile(late, since)
    lookup._reconcile(early, since)
    await furnished.images.set_image_state(KERNEL.id, ImageState.REVOKED, "CVE", change())
    await lookup.read("c", None)
    assert held(lookup) == {"other"}


async def test_a_database_from_a_backup_empties_the_caches(furnished: Store) -> None:
    lookup = await filled(furnished)
    view = await furnished.trust.view("c", [], since=None)
    lookup._reconcile(replace(view, sequence=view.sequence - 1), view.sequence)
    assert held(lookup) == set()
    assert lookup.granules.held_bytes == 0
    assert lookup._seen == view.sequence - 1


async def test_a_view_is_one_moment(furnished: Store) -> None:
    wanted = [("sha-256", record.measurements.digests[HashAlgorithm.SHA256]) for record in (KERNEL, TREE)]
    view = await furnished.trust.view("a/b/c", wanted, since=0)
    assert view.sequence == await furnished.images.registry_sequence() == 6
    assert {found.id: found.state for found in view.images} == {KERNEL.id: ImageState.ACTIVE, TREE.id: ImageState.ACTIVE}
    assert [found.measurements for found in view.images if found.id == KERNEL.id] == [KERNEL.measurements.with_granules_of()]
    assert view.workloads == tuple(await furnished.workloads.list_workloads())
    assert view.revoked == frozenset()
    await furnished.images.set_image_state(TREE.id, ImageState.REVOKED, "CVE", change())
    later = await furnished.trust.view("c", wanted, since=view.sequence)
    assert (later.secret, later.sequence, later.revoked) == ("a/b/c", 7, {TREE.id})
    assert {found.id: found.state for found in later.images} == {KERNEL.id: ImageState.ACTIVE, TREE.id: ImageState.REVOKED}
    assert (await furnished.trust.view("c", [], since=7)).revoked == frozenset()


async def test_only_present_bindings_and_revisions_count(furnished: Store) -> None:
    await furnished.workloads.add_workload(workload("app", KERNEL, TREE), change())
    await furnished.secrets.bind_secret("a/b/c", ["app", "web"], change())
    await furnished.workloads.retire_workload("web", change())
    await furnished.workloads.add_workload(workload("web", KERNEL, TREE), change())
    view = await furnished.trust.view("c", [], since=None)
    assert [(record.workload.name, record.revision, record.active) for record in view.workloads] == [("app", 1, True), ("web", 2, True)]
    await furnished.secrets.bind_secret("a/b/c", ["app"], change())
    assert [record.workload.name for record in (await furnished.trust.view("c", [], since=None)).workloads] == ["app"]
    await furnished.secrets.bind_secret("a/b/c", [], change())
    assert (await furnished.trust.view("c", [], since=None)).workloads == ()


@pytest.mark.parametrize("name", ["unknown", "", "c\0", "\ud800", "'; DROP TABLE secrets; --"])
async def test_a_secret_that_there_is_not_still_gives_a_view(furnished: Store, name: str) -> None:
    view = await furnished.trust.view(name, [], since=None)
    assert (view.secret, view.workloads, view.sequence) == (None, (), 6)


def defining(name: str, **definition) -> Workload:
    """A workload that defines its VM."""
    table = {"vmm": "qemu", "cpus": [1], "ram": [1 << 28], "device_trees": ["registered"], "breakpoints": [2], "watchpoints": [2]}
    plain = workload_document(workload(name, KERNEL, TREE))
    memory = {**plain["memory"], "size": {"min": 0, "max": 1 << 40}}
    return parse_workload({**plain, "memory": memory, "definition": {**table, **definition}})


async def test_without_a_log_the_images_of_definitions_are_read_and_no_others(furnished: Store) -> None:
    lookup = lookup_of(furnished)
    assert (await lookup.read("c", None)).images == ()
    await furnished.workloads.add_workload(defining("web", without_log=False), change())
    assert (await lookup.read("c", None)).images == ()
    await furnished.workloads.add_workload(defining("web", without_log=True), change())
    trust = await lookup.read("c", None)
    assert {image.id for image in trust.images} == {KERNEL.id, TREE.id}
    assert [candidate.revision for candidate in trust.candidates] == [3]
    await furnished.workloads.retire_workload("web", change())
    assert (await lookup.read("c", None)).images == ()


async def test_a_revocation_between_the_two_looks_is_seen_by_both(furnished: Store) -> None:
    await furnished.workloads.add_workload(defining("web", without_log=True), change())
    lookup = await filled(furnished)
    await furnished.images.set_image_state(TREE.id, ImageState.REVOKED, "CVE", change())
    trust = await lookup.read("c", None)
    assert {image.id: image.state for image in trust.images} == {KERNEL.id: ImageState.ACTIVE, TREE.id: ImageState.REVOKED}
    assert held(lookup) == {"kernel", "other"}
