"""A challenge is redeemed once, whoever tries, on both engines."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.errors import Conflict, NotFound
from kbs_rim.ports import Challenge, ChallengeOutcome
from tests.registry_values import AT, challenge


async def test_a_challenge_comes_back_as_it_was_issued(store: Store) -> None:
    issued = challenge()
    await store.challenges.issue(issued)
    assert await store.challenges.redeem(issued.id, AT) == issued


async def test_a_second_redemption_is_told_apart_from_an_unknown_challenge(store: Store) -> None:
    await store.challenges.issue(challenge())
    await store.challenges.redeem(challenge().id, AT)
    assert await store.challenges.redeem(challenge().id, AT) is ChallengeOutcome.REDEEMED
    assert await store.challenges.redeem(challenge().id, AT + timedelta(hours=1)) is ChallengeOutcome.REDEEMED
    assert await store.challenges.redeem("never-issued", AT) is ChallengeOutcome.UNKNOWN


async def test_an_expired_challenge_is_refused_at_the_very_microsecond(store: Store) -> None:
    issued = challenge(lifetime_s=60)
    await store.challenges.issue(issued)
    assert await store.challenges.redeem(issued.id, issued.expires_at) is ChallengeOutcome.EXPIRED
    assert await store.challenges.redeem(issued.id, issued.expires_at + timedelta(days=1)) is ChallengeOutcome.EXPIRED
    assert await store.challenges.redeem(issued.id, issued.expires_at - timedelta(microseconds=1)) == issued


@pytest.mark.parametrize("identity", ["", "a\0b", "\ud800", "x" * 10_000, "'; DROP TABLE challenges; --"])
async def test_a_hostile_id_is_unknown(store: Store, identity: str) -> None:
    assert await store.challenges.redeem(identity, AT) is ChallengeOutcome.UNKNOWN


async def test_of_fifty_concurrent_redeemers_on_two_replicas_one_wins(store: Store, database_url: str) -> None:
    other = open_store(database_url)
    await store.challenges.issue(challenge())
    replicas = (store.challenges, other.challenges)
    outcomes = await asyncio.gather(*(replicas[number % 2].redeem(challenge().id, AT) for number in range(50)))
    await other.close()
    assert [outcome for outcome in outcomes if isinstance(outcome, Challenge)] == [challenge()]
    assert outcomes.count(ChallengeOutcome.REDEEMED) == 49


async def test_the_same_id_is_not_issued_twice(store: Store) -> None:
    await store.challenges.issue(challenge())
    with pytest.raises(Conflict):
        await store.challenges.issue(replace(challenge(), secret="another"))
    redeemed = await store.challenges.redeem(challenge().id, AT)
    assert isinstance(redeemed, Challenge)
    assert redeemed.secret == challenge().secret


async def test_a_secret_name_that_cannot_be_stored_names_no_secret(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.challenges.issue(challenge(secret="a\0b"))


async def test_purging_forgets_what_expired_and_nothing_else(store: Store) -> None:
    for number in range(3):
        await store.challenges.issue(challenge(f"short-{number}", lifetime_s=10))
    await store.challenges.issue(challenge("long", lifetime_s=1000))
    await store.challenges.redeem("short-0", AT)
    assert await store.challenges.purge(AT + timedelta(seconds=10)) == 0
    assert await store.challenges.purge(AT + timedelta(seconds=11)) == 3
    assert await store.challenges.redeem("short-0", AT) is ChallengeOutcome.UNKNOWN
    assert isinstance(await store.challenges.redeem("long", AT), Challenge)
