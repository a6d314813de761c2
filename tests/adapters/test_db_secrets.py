"""What the store promises about secrets, on both engines."""

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, NotFound
from tests.registry_values import AT, change, image, kernel_bytes, sealed, workload

PATH, KEY_ID = "default/disk/root", "disk-root"
LATER = AT + timedelta(days=1)


@pytest.fixture(autouse=True)
async def _workloads(store: Store) -> None:
    kernel, tree = image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"tree", roles=(Role.DEVICE_TREE,))
    for record in (kernel, tree):
        await store.images.add_image(record, change())
    for name in ("web", "db", "old"):
        await store.workloads.add_workload(workload(name, kernel, tree), change())


async def test_a_secret_is_found_by_path_and_by_key_id(store: Store) -> None:
    created = await store.secrets.create_secret(PATH, KEY_ID, ["web", "db", "web"], change())
    assert (created.path, created.key_id, created.workloads, created.versions) == (PATH, KEY_ID, ("db", "web"), ())
    assert (created.created_at, created.created_by) == (AT, "ada")
    assert await store.secrets.get_secret(PATH) == created
    assert await store.secrets.get_secret(KEY_ID) == created


async def test_nobody_may_have_a_secret_by_default(store: Store) -> None:
    assert (await store.secrets.create_secret(PATH, KEY_ID, [], change())).workloads == ()


async def test_a_path_and_a_key_id_belong_to_one_secret(store: Store) -> None:
    await store.secrets.create_secret(PATH, KEY_ID, [], change())
    for path, key_id in ((PATH, "other"), ("default/disk/other", KEY_ID), (KEY_ID, "other"), ("default/disk/other", PATH)):
        with pytest.raises(Conflict) as caught:
            await store.secrets.create_secret(path, key_id, [], change())
        assert caught.value.finding_id == "registry.secret-exists"


async def test_a_secret_cannot_be_bound_to_a_workload_that_does_not_exist(store: Store) -> None:
    for name in ("nobody", "a\0b"):
        with pytest.raises(NotFound) as caught:
            await store.secrets.create_secret(PATH, KEY_ID, ["web", name], change())
        assert caught.value.finding_id == "registry.workload-unknown"
    with pytest.raises(NotFound):
        await store.secrets.get_secret(PATH)
    await store.secrets.create_secret(PATH, KEY_ID, ["web"], change())
    with pytest.raises(NotFound):
        await store.secrets.bind_secret(PATH, ["web", "nobody"], change())
    assert (await store.secrets.get_secret(PATH)).workloads == ("web",)


async def test_versions_are_numbered_without_gaps(store: Store) -> None:
    await store.secrets.create_secret(PATH, KEY_ID, [], change())
    for wrong in (0, 2, -1):
        with pytest.raises(Conflict) as caught:
            await store.secrets.add_version(PATH, sealed(wrong), change())
        assert caught.value.finding_id == "registry.secret-version"
    await store.secrets.add_version(PATH, sealed(1), change())
    info = await store.secrets.add_version(PATH, sealed(2), change(at=LATER, actor="bob"))
    assert [(item.version, item.active, item.created_by, item.kek_id) for item in info.versions] == [
        (1, True, "ada", "kek-1"),
        (2, True, "bob", "kek-1"),
    ]
    with pytest.raises(Conflict):
        await store.secrets.add_version(PATH, sealed(2), change())
    with pytest.raises(NotFound):
        await store.secrets.add_version("default/disk/none", sealed(1), change())


async def test_the_newest_active_version_is_opened(store: Store) -> None:
    await store.secrets.create_secret(PATH, KEY_ID, [], change())
    for version in (1, 2, 3):
        await store.secrets.add_version(PATH, sealed(version), change())
    assert await store.opener.newest_version(PATH) == sealed(3)
    await store.secrets.revoke_version(PATH, 3, change())
    assert await store.opener.newest_version(PATH) == sealed(2)
    await store.secrets.revoke_version(PATH, 1, change())
    assert await store.opener.newest_version(PATH) == sealed(2)
    await store.secrets.revoke_version(PATH, 2, change())
    with pytest.raises(NotFound) as caught:
        await store.opener.newest_version(PATH)
    assert caught.value.finding_id == "policy.secret-revoked"
    await store.secrets.add_version(PATH, sealed(4), change())
    assert await store.opener.newest_version(PATH) == sealed(4)


async def test_revoking_a_version_erases_its_ciphertext_and_keeps_its_number(store: Store) -> None:
    await store.secrets.create_secret(PATH, KEY_ID, [], change())
    await store.secrets.add_version(PATH, sealed(1), change())
    info = await store.secrets.revoke_version(PATH, 1, change(at=LATER))
    assert [(item.version, item.active) for item in info.versions] == [(1, False)]
    async with store.database.reading() as session:
        assert await session.scalar(text("SELECT count(*) FROM secret_material")) == 0
    before = await store.images.registry_sequence()
    assert await store.secrets.revoke_version(PATH, 1, change(at=LATER)) == info
    assert await store.images.registry_sequence() == before
    with pytest.raises(NotFound) as caught:
        await store.secrets.revoke_version(PATH, 2, change())
    assert caught.value.finding_id == "registry.version-unknown"


def test_an_erased_ciphertext_is_gone_from_the_sqlite_file(sqlite_template: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sqlite_template, tmp_path / "own.db"))

    async def store_and_revoke() -> None:
        opened = open_store(f"sqlite:///{path}")
        await opened.secrets.create_secret(PATH, KEY_ID, [], change())
        for version in (1, 2):
            await opened.secrets.add_version(PATH, sealed(version), change())
        await opened.secrets.revoke_version(PATH, 1, change())
        await opened.close()

    asyncio.run(store_and_revoke())
    content = path.read_bytes()
    assert sealed(1).ciphertext not in content
    assert sealed(2).ciphertext in content


async def test_binding_replaces_the_set_and_keeps_the_history(store: Store) -> None:
    await store.secrets.create_secret(PATH, KEY_ID, ["web"], change())
    assert (await store.secrets.bind_secret(PATH, ["db", "old"], change(at=LATER))).workloads == ("db", "old")
    before = await store.images.registry_sequence()
    assert (await store.secrets.bind_secret(PATH, ["old", "db"], change(at=LATER))).workloads == ("db", "old")
    assert await store.images.registry_sequence() == before
    assert (await store.secrets.bind_secret(PATH, [], change(at=LATER))).workloads == ()
    async with store.database.reading() as session:
        rows = await session.execute(text("SELECT revision, workload FROM secret_binding_workloads ORDER BY revision, workload"))
        assert [tuple(row) for row in rows] == [(1, "web"), (2, "db"), (2, "old")]


async def test_secrets_bound_to_a_workload_are_found_by_their_present_binding(store: Store) -> None:
    await store.secrets.create_secret("r/t/1", "one", ["web", "db"], change())
    await store.secrets.create_secret("r/t/2", "two", ["web"], change())
    await store.secrets.bind_secret("r/t/2", ["old"], change())
    await store.secrets.create_secret("r/t/3", "three", [], change())
    assert [info.path for info in await store.secrets.secrets_bound_to(["web", "db"])] == ["r/t/1"]
    assert [info.path for info in await store.secrets.secrets_bound_to(["old", "web"])] == ["r/t/1", "r/t/2"]
    assert await store.secrets.secrets_bound_to([]) == []
    assert await store.secrets.secrets_bound_to(["\0"]) == []


async def test_secrets_are_listed_in_pages(store: Store) -> None:
    paths = [f"r/t/{number}" for number in range(5)]
    for path in paths:
        await store.secrets.create_secret(path, path.replace("/", "-"), ["web"], change())
        await store.secrets.add_version(path, sealed(1), change())
    first = await store.secrets.list_secrets(limit=2)
    rest = await store.secrets.list_secrets(after=first[-1].path)
    assert [info.path for info in (*first, *rest)] == paths
    assert all(info.workloads == ("web",) and len(info.versions) == 1 for info in (*first, *rest))


@pytest.mark.parametrize("name", ["no/such/secret", "", "a\0b", "\ud800"])
async def test_an_unknown_secret_is_not_found_whatever_its_name(store: Store, name: str) -> None:
    for call in (
        store.secrets.get_secret(name),
        store.secrets.bind_secret(name, [], change()),
        store.secrets.revoke_version(name, 1, change()),
        store.opener.newest_version(name),
    ):
        with pytest.raises(NotFound):
            await call


async def test_every_change_of_a_secret_moves_the_sequence(store: Store) -> None:
    start = await store.images.registry_sequence()
    await store.secrets.create_secret(PATH, KEY_ID, [], change())
    await store.secrets.add_version(PATH, sealed(1), change())
    await store.secrets.bind_secret(PATH, ["web"], change())
    await store.secrets.revoke_version(PATH, 1, change())
    assert await store.images.registry_sequence() == start + 4


def test_a_sealed_version_does_not_print_itself() -> None:
    assert "ciphertext" not in repr(sealed(1)).replace("SealedVersion", "")
