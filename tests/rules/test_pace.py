"""A rate with a burst: what fits now, and when the next fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.rules import pace


def test_as_much_as_the_burst_holds_may_be_done_at_once_and_then_as_the_rate_has_it() -> None:
    ahead = 0.0
    for _ in range(5):
        assert pace.wait_s(ahead, 100.0, 2.0, 10.0) == 0
        ahead = pace.spent(ahead, 100.0, 2.0)
    assert pace.wait_s(ahead, 100.0, 2.0, 10.0) == 2.0
    assert pace.wait_s(ahead, 102.0, 2.0, 10.0) == 0


def test_rounding_keeps_nobody_out() -> None:
    ahead = 1000.0
    for _ in range(200):
        assert pace.wait_s(ahead, 1000.0, 0.1, 20.0) == 0
        ahead = pace.spent(ahead, 1000.0, 0.1)
    assert pace.wait_s(ahead, 1000.0, 0.1, 20.0) > 0.09


def test_what_is_larger_than_the_burst_waits_until_nothing_is_ahead_and_delays_what_follows() -> None:
    assert pace.wait_s(103.0, 100.0, 50.0, 10.0) == 3.0
    assert pace.wait_s(100.0, 100.0, 50.0, 10.0) == 0
    assert pace.wait_s(pace.spent(100.0, 100.0, 50.0), 100.0, 2.0, 10.0) == pytest.approx(42.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), min_size=1, max_size=60))
def test_over_any_time_no_more_is_done_than_the_rate_the_burst_and_one_piece_allow(
    pieces: list[tuple[float, int]],
) -> None:
    every_s, burst_s = 0.5, 4.0
    now, ahead, done = 1000.0, 0.0, 0
    for pause_s, count in pieces:
        now += pause_s
        if not pace.wait_s(ahead, now, count * every_s, burst_s):
            ahead = pace.spent(ahead, now, count * every_s)
            done += count
    assert done * every_s <= (now - 1000.0) + burst_s + 30 * every_s + 1e-6
