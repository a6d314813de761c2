"""Secrets go in, come out only through the release vault, and cannot be moved or changed in the database."""

import contextlib
import json
import logging
import traceback
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from kbs_rim.adapters.db import Store
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, InvalidDocument, KeyUnavailable, NotFound
from kbs_rim.limits import Limits
from kbs_rim.services.secrets import ReleaseVault, SecretVault, secret_context
from tests.registry_values import SettableClock, change, image, kernel_bytes, workload

PATH, KEY_ID = "default/disk/root", "disk-root"
VALUE = b"correct horse battery staple"
KEY = bytes(range(32))


class CountingEntropy:
    """Different bytes at every call, the same in every run."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.calls.append(bytes([len(self.calls) + 1]) * size)
        return self.calls[-1]


class AbsentKey:
    """A key-encryption key that cannot be reached."""

    id = "absent"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        raise KeyUnavailable("no answer")

    async def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        raise KeyUnavailable("no answer")


@pytest.fixture
def entropy() -> CountingEntropy:
    return CountingEntropy()


@pytest.fixture
def kek(entropy: CountingEntropy) -> LocalKeyEncryptionKey:
    return LocalKeyEncryptionKey([KEY], entropy)


@pytest.fixture
def make_vault(sqlite_store: Store, entropy: CountingEntropy) -> Callable:
    return lambda key: SecretVault(store=sqlite_store.secrets, kek=key, clock=SettableClock(), entropy=entropy, limits=Limits())


@pytest.fixture
def vault(make_vault: Callable, kek: LocalKeyEncryptionKey) -> SecretVault:
    return make_vault(kek)


@pytest.fixture
def release(sqlite_store: Store, kek: LocalKeyEncryptionKey) -> ReleaseVault:
    return ReleaseVault(sqlite_store.opener, kek)


async def create(vault: SecretVault, **changed: object) -> object:
    return await vault.create(**({"path": PATH, "key_id": KEY_ID, "workloads": [], "value": VALUE, "actor": "ada"} | changed))  # type: ignore[arg-type]


async def test_a_secret_comes_out_as_it_went_in(vault: SecretVault, release: ReleaseVault, kek: LocalKeyEncryptionKey) -> None:
    info = await create(vault)
    assert (info.path, info.key_id, info.workloads, info.created_by) == (PATH, KEY_ID, (), "ada")
    assert [(item.version, item.active, item.kek_id) for item in info.versions] == [(1, True, kek.id)]
    assert await release.open(PATH) == (1, VALUE)
    await vault.put_version(KEY_ID, b"newer", actor="bob")
    assert await release.open(PATH) == (2, b"newer")
    await vault.revoke_version(PATH, 2, actor="bob")
    assert await release.open(PATH) == (1, VALUE)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.binary(min_size=1, max_size=4096))
async def test_any_value_survives(vault: SecretVault, release: ReleaseVault, value: bytes) -> None:
    with contextlib.suppress(Conflict):
        await create(vault)
    info = await vault.put_version(PATH, value, actor="ada")
    assert await release.open(PATH) == (info.versions[-1].version, value)


async def test_the_database_holds_neither_value_nor_data_key(vault: SecretVault, sqlite_store: Store, entropy: CountingEntropy) -> None:
    await create(vault)
    data_key = entropy.calls[0]
    assert len(data_key) == 32
    async with sqlite_store.database.reading() as session:
        [row] = await session.execute(text("SELECT * FROM secret_material"))
        changes = await session.execute(text("SELECT * FROM changes"))
        everything = repr(tuple(row)) + repr(list(changes))
    assert VALUE.decode() not in everything
    for column in row:
        assert not (isinstance(column, bytes) and (VALUE in column or data_key in column))


async def test_each_version_has_a_data_key_and_nonce_of_its_own(vault: SecretVault, entropy: CountingEntropy) -> None:
    await create(vault)
    await vault.put_version(PATH, VALUE, actor="ada")
    assert [len(call) for call in entropy.calls] == [32, 12, 12] * 2
    assert len(set(entropy.calls)) == 6


@pytest.mark.parametrize("column", ["ciphertext", "nonce", "wrapped_key"])
async def test_a_row_changed_in_the_database_is_noticed(
    vault: SecretVault, release: ReleaseVault, sqlite_store: Store, column: str
) -> None:
    await create(vault)
    async with sqlite_store.database.writing() as session:
        await session.execute(text(f"UPDATE secret_material SET {column} = zeroblob(length({column}))"))
    with pytest.raises(KeyUnavailable):
        await release.open(PATH)


async def test_a_row_moved_to_another_secret_is_noticed(vault: SecretVault, release: ReleaseVault, sqlite_store: Store) -> None:
    await create(vault)
    await create(vault, path="default/disk/public", key_id="public", value=b"nothing special")
    columns = "wrapped_key, nonce, ciphertext"
    async with sqlite_store.database.writing() as session:
        source = f"SELECT {columns} FROM secret_material WHERE path = '{PATH}'"
        await session.execute(text(f"UPDATE secret_material SET ({columns}) = ({source}) WHERE path != '{PATH}'"))
    with pytest.raises(KeyUnavailable):
        await release.open("default/disk/public")


async def test_an_older_version_cannot_be_renumbered_as_the_newest(vault: SecretVault, release: ReleaseVault, sqlite_store: Store) -> None:
    await create(vault)
    await vault.put_version(PATH, b"newer", actor="ada")
    columns = "wrapped_key, nonce, ciphertext"
    async with sqlite_store.database.writing() as session:
        await session.execute(text(f"UPDATE secret_material SET ({columns}) = (SELECT {columns} FROM secret_material WHERE version = 1)"))
    with pytest.raises(KeyUnavailable):
        await release.open(PATH)


def test_the_context_of_a_version_cannot_be_read_in_two_ways() -> None:
    assert json.loads(secret_context("a/b/c", 12)) == {"path": "a/b/c", "version": 12}
    assert len({secret_context("a/b/c", 12), secret_context("a/b/c1", 2), secret_context("a/b/c", 1)}) == 3


async def test_another_key_does_not_open_it(vault: SecretVault, sqlite_store: Store) -> None:
    await create(vault)
    with pytest.raises(KeyUnavailable, match="not configured"):
        await ReleaseVault(sqlite_store.opener, LocalKeyEncryptionKey([KEY[::-1]])).open(PATH)


async def test_no_error_and_no_log_line_holds_the_value(
    vault: SecretVault, release: ReleaseVault, sqlite_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await create(vault)
    async with sqlite_store.database.writing() as session:
        await session.execute(text("UPDATE secret_material SET nonce = zeroblob(12)"))
    seen = [caplog.text]
    for call in (
        lambda: create(vault),
        lambda: create(vault, path="bad"),
        lambda: create(vault, path="r/t/x", key_id="x", workloads=["nobody"]),
        lambda: release.open(PATH),
    ):
        with pytest.raises((Conflict, InvalidDocument, NotFound, KeyUnavailable)) as caught:
            await call()
        seen += [str(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__)]
        seen.append("".join(traceback.format_exception(caught.value)))
    assert not any(VALUE.decode() in text_ for text_ in [*seen, caplog.text])


async def test_a_key_that_is_not_there_leaves_no_empty_secret(make_vault: Callable, vault: SecretVault) -> None:
    with pytest.raises(KeyUnavailable):
        await create(make_vault(AbsentKey()))
    with pytest.raises(NotFound):
        await vault.get_secret(PATH)
    await create(vault)


@pytest.mark.parametrize(
    "changed",
    [
        {"path": path}
        for path in (
            "",
            "a/b",
            "a/b/c/d",
            "/b/c",
            "a//c",
            "../b/c",
            "a/./c",
            "a/b/c\n",
            "a/b/ü",
            "a/b/" + "c" * 65,
            "a/b/c d",
            "a\0/b/c",
            None,
            7,
            ["a/b/c"],
        )
    ]
    + [{"key_id": key_id} for key_id in ("", ".", "..", "a/b", "a\n", "x" * 65, None, 7)]
    + [{"workloads": workloads} for workloads in ("web", None, [1], [["web"]], {"web": 1}, ["x"] * 65, b"web")]
    + [{"value": b""}, {"value": bytes(65537)}],
)
async def test_a_secret_that_is_not_valid_is_not_stored(vault: SecretVault, changed: dict) -> None:
    with pytest.raises(InvalidDocument) as caught:
        await create(vault, **changed)
    assert caught.value.finding_id == "document.secret"
    assert await vault.list_secrets() == []


async def test_the_largest_value_fits(vault: SecretVault, release: ReleaseVault) -> None:
    await create(vault, value=bytes(65536))
    assert await release.open(PATH) == (1, bytes(65536))
    for wrong in (b"", bytes(65537)):
        with pytest.raises(InvalidDocument):
            await vault.put_version(PATH, wrong, actor="ada")


async def test_nobody_may_have_a_secret_until_it_is_bound(vault: SecretVault, sqlite_store: Store) -> None:
    kernel, tree = image(kernel_bytes(), roles=(Role.KERNEL,)), image(b"tree", roles=(Role.DEVICE_TREE,))
    for record in (kernel, tree):
        await sqlite_store.images.add_image(record, change())
    await sqlite_store.workloads.add_workload(workload("web", kernel, tree), change())
    assert (await create(vault)).workloads == ()
    assert (await vault.bind(PATH, ["web", "web"], actor="ada")).workloads == ("web",)
    with pytest.raises(NotFound):
        await vault.bind(PATH, ["nobody"], actor="ada")
    with pytest.raises(InvalidDocument):
        await vault.bind(PATH, "web", actor="ada")
    assert (await vault.bind(PATH, [], actor="ada")).workloads == ()


async def test_without_an_active_version_nothing_is_opened(vault: SecretVault, release: ReleaseVault) -> None:
    await create(vault)
    await vault.revoke_version(PATH, 1, actor="ada")
    for path in (PATH, "no/such/secret"):
        with pytest.raises(NotFound) as caught:
            await release.open(path)
        assert caught.value.finding_id == "policy.secret-revoked"
    with pytest.raises(NotFound):
        await vault.revoke_version(PATH, 2, actor="ada")


async def test_every_change_of_a_secret_is_written_down(vault: SecretVault, sqlite_store: Store) -> None:
    await create(vault)
    await vault.put_version(PATH, b"newer", actor="bob")
    await vault.revoke_version(PATH, 1, actor="cyd")
    changes = [record for _, record in reversed(await sqlite_store.record_reader.list_changes(subject=PATH))]
    assert [(record.action, record.actor, dict(record.detail)) for record in changes] == [
        ("secret.create", "ada", {"workloads": []}),
        ("secret.version", "ada", {"version": 1}),
        ("secret.version", "bob", {"version": 2}),
        ("secret.revoke", "cyd", {"version": 1}),
    ]


def test_an_administrator_holds_nothing_that_can_open_a_secret(vault: SecretVault) -> None:
    assert not hasattr(vault, "open")
    assert not hasattr(vault._store, "newest_version")
