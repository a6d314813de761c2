"""Bearer tokens: shown once, stored as a hash, useless once expired or revoked."""

import secrets
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from kbs_rim.adapters.db import Store
from kbs_rim.errors import Conflict, InvalidDocument, NotFound
from kbs_rim.ports import PrincipalRole
from kbs_rim.services.principals import Principals
from tests.registry_values import AT, SettableClock


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def principals(sqlite_store: Store, clock: SettableClock) -> Principals:
    return Principals(store=sqlite_store.principals, clock=clock, entropy=secrets.token_bytes)


async def test_a_token_has_256_bits_and_names_its_owner(principals: Principals) -> None:
    ada, token = await principals.add("ada", PrincipalRole.ADMIN, lifetime=None, actor="local/root")
    assert token.startswith("kbsrim_")
    assert len(token) == len("kbsrim_") + 43
    assert (ada.name, ada.role, ada.created_at, ada.expires_at, ada.revoked) == ("ada", PrincipalRole.ADMIN, AT, None, False)
    assert await principals.authenticate(token) == ada
    _, other = await principals.add("bob", PrincipalRole.AUDITOR, lifetime=None, actor="local/root")
    assert other != token


async def test_the_database_does_not_know_the_token(principals: Principals, sqlite_store: Store) -> None:
    _, token = await principals.add("ada", PrincipalRole.ADMIN, lifetime=None, actor="local/root")
    async with sqlite_store.database.reading() as session:
        rows = [*await session.execute(text("SELECT * FROM principals")), *await session.execute(text("SELECT * FROM changes"))]
    assert len(rows) == 2
    assert token not in repr(rows)
    assert token.removeprefix("kbsrim_") not in repr(rows)


async def test_a_token_expires(principals: Principals, clock: SettableClock) -> None:
    _, token = await principals.add("ada", PrincipalRole.ADMIN, lifetime=timedelta(days=1), actor="local/root")
    clock.advance(seconds=86399)
    assert await principals.authenticate(token) is not None
    clock.advance(seconds=1)
    assert await principals.authenticate(token) is None


async def test_a_revoked_token_is_nobodys(principals: Principals) -> None:
    _, token = await principals.add("ada", PrincipalRole.ADMIN, lifetime=None, actor="local/root")
    assert (await principals.revoke("ada", actor="local/root")).revoked
    assert await principals.authenticate(token) is None
    with pytest.raises(Conflict):
        await principals.add("ada", PrincipalRole.ADMIN, lifetime=None, actor="local/root")
    with pytest.raises(NotFound):
        await principals.revoke("nobody", actor="local/root")
    assert [item.revoked for item in await principals.list_all()] == [True]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(guess=st.text() | st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789_-").map("kbsrim_".__add__))
async def test_any_other_token_is_nobodys(principals: Principals, guess: str) -> None:
    assert await principals.authenticate(guess) is None


@pytest.mark.parametrize("name", ["", " ada", "ada\n", "a/b", "ü", "x" * 65, "-ada", "a\0b"])
async def test_a_name_that_could_be_misread_is_refused(principals: Principals, name: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        await principals.add(name, PrincipalRole.ADMIN, lifetime=None, actor="local/root")
    assert caught.value.finding_id == "document.principal"


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=-1), timedelta(days=3651), timedelta.max])
async def test_a_lifetime_out_of_bounds_is_refused(principals: Principals, lifetime: timedelta) -> None:
    with pytest.raises(InvalidDocument):
        await principals.add("ada", PrincipalRole.ADMIN, lifetime=lifetime, actor="local/root")
    assert await principals.list_all() == []


async def test_who_made_and_revoked_whom_is_written_down(principals: Principals, sqlite_store: Store) -> None:
    await principals.add("ada", PrincipalRole.AUDITOR, lifetime=None, actor="local/root")
    await principals.revoke("ada", actor="bob")
    changes = [record for _, record in reversed(await sqlite_store.record_reader.list_changes())]
    assert [(record.action, record.subject, record.actor, dict(record.detail)) for record in changes] == [
        ("principal.add", "ada", "local/root", {"role": "auditor"}),
        ("principal.revoke", "ada", "bob", {}),
    ]
