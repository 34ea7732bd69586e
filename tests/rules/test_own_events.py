"""When deaths are told of, and when silence has lasted."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.rules.own_events import DEATHS_AHEAD, DEATHS_AT_ONCE, DEATHS_EVERY, deaths_to_tell, heartbeat_due_at

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_ten_deaths_are_told_at_once_and_then_one_every_six_seconds() -> None:
    told, until = deaths_to_tell(None, NOW, 25)
    assert (told, until) == (10, NOW + timedelta(seconds=60))
    assert deaths_to_tell(until, NOW + timedelta(seconds=5.9), 25)[0] == 0
    told, until = deaths_to_tell(until, NOW + timedelta(seconds=6), 25)
    assert (told, until) == (1, NOW + timedelta(seconds=66))
    assert deaths_to_tell(until, NOW + timedelta(seconds=66), 25)[0] == 10
    assert deaths_to_tell(until, NOW + timedelta(seconds=66), 3)[0] == 3


def test_a_clock_that_was_set_back_keeps_no_death_untold() -> None:
    assert deaths_to_tell(NOW + HOUR, NOW, 25) == (10, NOW + timedelta(seconds=60))


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 100)), max_size=50))
def test_no_more_are_told_than_the_time_allows(looks: list[tuple[int, int]]) -> None:
    now, until, total = NOW, None, 0
    for pause_s, waiting in looks:
        now += timedelta(seconds=pause_s)
        told, until = deaths_to_tell(until, now, waiting)
        assert 0 <= told <= waiting
        assert until <= now + DEATHS_AHEAD
        total += told
    assert total <= DEATHS_AT_ONCE + (now - NOW) // DEATHS_EVERY


def test_silence_lasts_from_the_latest_that_is_known_and_never_from_what_is_still_to_come() -> None:
    minute = timedelta(minutes=1)
    assert heartbeat_due_at([NOW - 2 * HOUR, None, NOW - HOUR], NOW, 60.0) == NOW - HOUR + minute
    assert heartbeat_due_at([NOW + minute / 2, NOW - HOUR], NOW, 60.0) == NOW + minute
    assert heartbeat_due_at([NOW + HOUR, NOW - minute / 2], NOW, 60.0) == NOW + minute / 2
    assert heartbeat_due_at([NOW + HOUR, None], NOW, 60.0) == NOW
