"""Allowances of searches: per machine, by time, bounded in memory, from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from kbs_rim.services import search_permits
from kbs_rim.services.search_permits import PERIOD_S, FailedSearches


def test_each_machine_has_its_own_and_a_success_costs_nothing():
    permits = FailedSearches(2)
    assert [permits.take(b"a", 0) for _ in range(3)] == [True, True, False]
    assert permits.take(b"b", 0)
    permits.give_back(b"a")
    assert permits.take(b"a", 0)
    permits.give_back(b"unknown")
    assert not permits.take(b"a", 1)


def test_the_oldest_come_back_first():
    permits = FailedSearches(2)
    assert permits.take(b"a", 0)
    assert permits.take(b"a", 300)
    assert not permits.take(b"a", PERIOD_S - 1)
    assert permits.take(b"a", PERIOD_S)
    assert not permits.take(b"a", PERIOD_S)


def test_attack_many_machines_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(search_permits, "_MACHINES", 10)
    permits = FailedSearches(1)
    assert all(permits.take(bytes([number]), 0) for number in range(50))
    assert len(permits._begun) == 10


def test_threads_do_not_get_more_than_there_is():
    permits = FailedSearches(50)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: permits.take(b"a", 0), range(400)))
    assert sum(taken) == 50


def test_an_allowance_allows_something():
    with pytest.raises(ValueError, match="at least one"):
        FailedSearches(0)
