"""What the store promises about administrators and auditors, on both engines."""

from datetime import timedelta

import pytest

from kbs_rim.adapters.db import Store
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ports import Principal, PrincipalRole
from tests.registry_values import AT, change

TOKEN = bytes(range(32))
ADA = Principal(name="ada", role=PrincipalRole.ADMIN, created_at=AT)
BOB = Principal(name="bob", role=PrincipalRole.AUDITOR, created_at=AT, expires_at=AT + timedelta(days=1))


async def test_a_token_finds_its_owner_until_it_expires(store: Store) -> None:
    await store.principals.add_principal(ADA, TOKEN, change())
    await store.principals.add_principal(BOB, TOKEN[::-1], change())
    assert await store.principals.find_principal(TOKEN, AT + timedelta(days=1000)) == ADA
    assert await store.principals.find_principal(TOKEN[::-1], AT) == BOB
    assert await store.principals.find_principal(TOKEN[::-1], AT + timedelta(days=1)) is None
    assert await store.principals.find_principal(bytes(32), AT) is None
    assert await store.principals.list_principals() == [ADA, BOB]


async def test_a_revoked_principal_is_nobody_and_keeps_the_name(store: Store) -> None:
    await store.principals.add_principal(ADA, TOKEN, change())
    assert (await store.principals.revoke_principal("ada", change(action="principal.revoke"))).revoked
    assert await store.principals.find_principal(TOKEN, AT) is None
    assert [principal.revoked for principal in await store.principals.list_principals()] == [True]
    with pytest.raises(Conflict) as caught:
        await store.principals.add_principal(ADA, bytes(32), change())
    assert caught.value.finding_id == "registry.principal-exists"
    assert (await store.principals.revoke_principal("ada", change(action="principal.revoke"))).revoked
    actions = [record.action for _, record in await store.record_reader.list_changes()]
    assert actions == ["principal.revoke", "test.change"]


async def test_a_token_has_one_owner(store: Store) -> None:
    await store.principals.add_principal(ADA, TOKEN, change())
    with pytest.raises(Conflict):
        await store.principals.add_principal(BOB, TOKEN, change())
    assert await store.principals.list_principals() == [ADA]


@pytest.mark.parametrize("name", ["nobody", "", "a\0b"])
async def test_an_unknown_principal_cannot_be_revoked(store: Store, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await store.principals.revoke_principal(name, change())
    assert caught.value.finding_id == "registry.principal-unknown"


async def test_principals_are_not_part_of_what_a_release_depends_on(store: Store) -> None:
    await store.principals.add_principal(ADA, TOKEN, change())
    assert await store.images.registry_sequence() == 0
