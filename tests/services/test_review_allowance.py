"""A bound on how often something happens."""

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
    assert [allowance.take(at(moment)) for moment in (0, 4, 5, 9.9, 10, 11, 14)] == [True, True, False, False, True, False, True]


def test_a_clock_set_back_does_not_close_the_door():
    allowance = Allowance(1, PERIOD)
    assert allowance.take(at(3600))
    assert allowance.take(at(0))
    assert not allowance.take(at(1))


@pytest.mark.parametrize(("most", "period"), [(0, PERIOD), (-1, PERIOD), (1, timedelta(0)), (1, -PERIOD)])
def test_an_allowance_of_nothing_is_a_mistake(most, period):
    with pytest.raises(ValueError, match="allowance"):
        Allowance(most, period)


@given(st.integers(1, 5), st.lists(st.floats(0, 5, allow_nan=False), max_size=40))
def test_no_window_ever_holds_more(most, gaps):
    allowance, now, taken = Allowance(most, PERIOD), START, []
    for gap in gaps:
        now += timedelta(seconds=gap)
        if allowance.take(now):
            taken.append(now)
        else:
            assert sum(now - PERIOD < moment <= now for moment in taken) == most
    for moment in taken:
        assert sum(moment - PERIOD < other <= moment for other in taken) <= most
