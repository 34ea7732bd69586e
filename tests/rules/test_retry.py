"""Retry: the schedule with its jitter, and every form of Retry-After."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.errors import InvalidField
from dispatcher.rules.retry import RetryPolicy, parse_schedule, retry_after_s

NOW = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)
DEFAULT = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)


def test_the_delay_follows_the_schedule_and_ends_with_it() -> None:
    policy = RetryPolicy(DEFAULT, jitter=0)

    assert tuple(policy.delay_s(failures) for failures in range(1, 10)) == DEFAULT
    assert policy.delay_s(10) is None
    assert policy.delay_s(1_000_000) is None


def test_an_empty_schedule_is_one_attempt() -> None:
    assert RetryPolicy((), jitter=0.2).delay_s(1) is None


@given(
    schedule=st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50).map(tuple),
    jitter=st.floats(min_value=0, max_value=0.99),
    data=st.data(),
)
def test_jitter_stays_within_its_share(schedule: tuple[float, ...], jitter: float, data: st.DataObject) -> None:
    failures = data.draw(st.integers(min_value=1, max_value=len(schedule)))
    planned = schedule[failures - 1]

    delay_s = RetryPolicy(schedule, jitter).delay_s(failures)

    assert delay_s is not None
    assert planned * (1 - jitter) * (1 - 1e-9) <= delay_s <= planned * (1 + jitter) * (1 + 1e-9)


def test_jitter_goes_both_ways() -> None:
    delays = [RetryPolicy((100.0,), jitter=0.2).delay_s(1) or 0 for _ in range(1000)]

    assert 80 <= min(delays) < 85
    assert 115 < max(delays) <= 120
    assert 98 < sum(delays) / len(delays) < 102


def test_a_schedule_is_written_as_durations() -> None:
    assert parse_schedule("5s,5m,30m,2h,5h,10h,14h,20h,24h") == DEFAULT
    assert parse_schedule(" 200ms , 1h30m ") == (0.2, 5400)
    assert parse_schedule("") == parse_schedule("  ") == ()
    assert len(parse_schedule(",".join(["1s"] * 50))) == 50


@pytest.mark.parametrize("text", ["5x", "5s,,5m", "5s,", "-5s", "5s;5m", "nan", ",".join(["1s"] * 51)])
def test_a_bad_schedule_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_schedule(text)
    assert refused.value.field == "retry_schedule"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("0", 0),
        (" 5 ", 5),
        ("1.5", 1.5),
        ("-5", 0),
        ("9" * 400, 3650 * 86400),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37),
        ("sun, 06 nov 1994 08:49:37 gmt", 37),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 59),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37),
        ("Sun Nov  6 08:49:37 1994", 37),
        ("Mon Nov 14 08:49:00 1994", 8 * 86400),
        ("Sun, 06 Nov 1994 08:48:59 GMT", 0),
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0),
        ("", None),
        ("soon", None),
        ("5 s", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٥", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("1994-11-06T08:49:37Z", None),
    ],
)
def test_retry_after_in_every_form(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


def test_a_year_of_two_digits_is_never_more_than_fifty_years_ahead() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert (
        retry_after_s("Thursday, 01-Jan-70 00:00:00 GMT", now)
        == (datetime(2070, 1, 1, tzinfo=UTC) - now).total_seconds()
    )
    assert retry_after_s("Thursday, 01-Jan-80 00:00:00 GMT", now) == 0
    assert (
        retry_after_s("Saturday, 01-Jan-05 00:00:00 GMT", datetime(2099, 12, 31, tzinfo=UTC))
        == (datetime(2105, 1, 1, tzinfo=UTC) - datetime(2099, 12, 31, tzinfo=UTC)).total_seconds()
    )


@given(st.integers(min_value=0, max_value=10**8))
def test_a_date_that_python_writes_is_read_back(ahead_s: int) -> None:
    assert retry_after_s(format_datetime(NOW + timedelta(seconds=ahead_s), usegmt=True), NOW) == ahead_s


@given(st.text(max_size=40))
def test_no_text_makes_it_raise(value: str) -> None:
    seconds = retry_after_s(value, NOW)

    assert seconds is None or seconds >= 0
