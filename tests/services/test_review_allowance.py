"""A bound on how much is there at once."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.services.allowance import Allowance

START = datetime(2026, 11, 23, tzinfo=UTC)
PERIOD = timedelta(seconds=10)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_the_first_ones_pass_and_the_next_waits_for_the_oldest_to_age():
    allowance = Allowance(2, PERIOD)
    moments = (0, 4, 5, 9.9, 10, 11, 14)
    assert [allowance.take(str(moment), at(moment)) for moment in moments] == [True, True, False, False, True, False, True]


def test_what_is_given_back_makes_room_once():
    allowance = Allowance(1, PERIOD)
    assert allowance.take("a", at(0))
    allowance.give_back("unknown")
    assert not allowance.take("b", at(1))
    allowance.give_back("a")
    allowance.give_back("a")
    assert allowance.take("b", at(1))
    assert not allowance.take("c", at(1))


def test_a_clock_set_back_does_not_close_the_door():
    allowance = Allowance(1, PERIOD)
    assert allowance.take("a", at(3600))
    assert allowance.take("b", at(0))
    assert not allowance.take("c", at(1))


@pytest.mark.parametrize(("most", "period"), [(0, PERIOD), (-1, PERIOD), (1, timedelta(0)), (1, -PERIOD)])
def test_an_allowance_of_nothing_is_a_mistake(most, period):
    with pytest.raises(ValueError, match="allowance"):
        Allowance(most, period)


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 5, allow_nan=False), st.booleans()), max_size=40))
def test_there_are_never_more_and_nobody_is_turned_away_without_need(most, steps):
    allowance, now, there = Allowance(most, PERIOD), START, {}
    for number, (gap, give_back) in enumerate(steps):
        now += timedelta(seconds=gap)
        there = {name: since for name, since in there.items() if now < since + PERIOD}
        if give_back and there:
            name = next(reversed(there))
            allowance.give_back(name)
            del there[name]
        assert allowance.take(str(number), now) == (len(there) < most)
        if len(there) < most:
            there[str(number)] = now
