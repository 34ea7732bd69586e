"""The verdict table, row by row, and that every exchange has a legal verdict."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import (
    PROXY_DOWN_FORGIVEN,
    PROXY_FORGIVEN,
    Exchange,
    Outcome,
    Verdict,
    drop_failed,
    judge,
    refused_request,
)
from dispatcher.states import AttemptError, Reason

POLICY = RetryPolicy((5.0, 300.0), jitter=0)
DAY_S = 86400.0


def answer(status: int, retry_after_s: float | None = None) -> Exchange:
    return Exchange(status, None if 200 <= status < 300 else AttemptError.HTTP_STATUS, retry_after_s)


def failure(error: AttemptError) -> Exchange:
    return Exchange(None, error)


def judged(exchange: Exchange, *, failures: int = 0, interruptions: int = 0, policy: RetryPolicy = POLICY) -> Verdict:
    return judge(exchange, failures=failures, interruptions=interruptions, policy=policy, retry_after_max_s=DAY_S)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_a_2xx_delivers(status: int) -> None:
    assert judged(answer(status)) == Verdict(Outcome.DELIVERED, None, None, None, backs_off=False, disables=None)


@pytest.mark.parametrize(
    "status", [301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 408, 409, 418, 422, 500, 501, 505, 599]
)
def test_every_other_status_is_retried_by_the_schedule_and_leaves_the_endpoint_alone(status: int) -> None:
    assert judged(answer(status)) == Verdict(Outcome.RETRY, None, 5, None, backs_off=False, disables=None)


def test_a_410_kills_the_delivery_and_disables_the_endpoint() -> None:
    assert judged(answer(410)) == Verdict(Outcome.DEAD, Reason.GONE, None, None, backs_off=False, disables=Reason.GONE)


def test_a_413_kills_the_delivery_alone() -> None:
    assert judged(answer(413)) == Verdict(Outcome.DEAD, Reason.TOO_LARGE, None, None, backs_off=False, disables=None)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overload_status_is_retried_and_backs_the_endpoint_off(status: int) -> None:
    assert judged(answer(status)) == Verdict(Outcome.RETRY, None, 5, None, backs_off=True, disables=None)


@pytest.mark.parametrize("error", [AttemptError.TIMEOUT, AttemptError.CONNECT_TIMEOUT, AttemptError.CONNECTION_REFUSED])
def test_a_timeout_or_a_refused_connection_is_retried_and_backs_the_endpoint_off(error: AttemptError) -> None:
    assert judged(failure(error)) == Verdict(Outcome.RETRY, None, 5, None, backs_off=True, disables=None)


@pytest.mark.parametrize(
    "error",
    [
        AttemptError.CONNECTION_RESET,
        AttemptError.DNS,
        AttemptError.TLS,
        AttemptError.PROTOCOL,
        AttemptError.BODY_TOO_LARGE,
        AttemptError.INTERNAL,
    ],
)
def test_every_other_error_is_retried_by_the_schedule(error: AttemptError) -> None:
    assert judged(failure(error)) == Verdict(Outcome.RETRY, None, 5, None, backs_off=False, disables=None)


def test_what_the_guard_refuses_is_dead() -> None:
    assert judged(failure(AttemptError.BLOCKED)) == Verdict(
        Outcome.DEAD, Reason.BLOCKED, None, None, backs_off=False, disables=None
    )


def test_the_last_failure_of_the_schedule_is_dead() -> None:
    assert judged(answer(500), failures=1).delay_s == 300
    assert judged(answer(500), failures=2) == Verdict(
        Outcome.DEAD, Reason.EXHAUSTED, None, None, backs_off=False, disables=None
    )
    assert judged(answer(503), policy=RetryPolicy((), 0)).reason is Reason.EXHAUSTED


@pytest.mark.parametrize("interruptions", range(4))
def test_an_interruption_is_due_at_once_and_uses_no_retry(interruptions: int) -> None:
    assert judged(failure(AttemptError.INTERRUPTED), failures=2, interruptions=interruptions) == Verdict(
        Outcome.INTERRUPTED, None, 0, None, backs_off=False, disables=None
    )


def test_the_fifth_interruption_in_a_row_is_a_failure() -> None:
    fifth = failure(AttemptError.INTERRUPTED)

    assert judged(fifth, interruptions=4).outcome is Outcome.RETRY
    assert judged(fifth, interruptions=4).delay_s == 5
    assert judged(fifth, interruptions=4, failures=2).reason is Reason.EXHAUSTED


@pytest.mark.parametrize(("asked_s", "delay_s", "pause_s"), [(0, 5, 0), (2, 5, 2), (60, 60, 60), (9e9, DAY_S, DAY_S)])
def test_retry_after_pauses_the_endpoint_and_delays_the_retry_up_to_the_cap(
    asked_s: float, delay_s: float, pause_s: float
) -> None:
    verdict = judged(answer(503, asked_s))

    assert (verdict.delay_s, verdict.pause_endpoint_s) == (delay_s, pause_s)


@pytest.mark.parametrize(("status", "outcome"), [(200, Outcome.DELIVERED), (404, Outcome.RETRY), (413, Outcome.DEAD)])
def test_retry_after_counts_on_any_answer(status: int, outcome: Outcome) -> None:
    verdict = judged(answer(status, 60))

    assert verdict.outcome is outcome
    assert verdict.pause_endpoint_s == 60


def test_an_answer_cut_short_after_a_2xx_is_not_delivered() -> None:
    verdict = judged(Exchange(200, AttemptError.TIMEOUT))

    assert verdict.outcome is Outcome.RETRY
    assert verdict.backs_off


def test_refused_requests_are_told_apart() -> None:
    assert [status for status in range(100, 600) if refused_request(status)] == [400, 401, 403]
    assert not refused_request(None)


@given(
    status=st.none() | st.integers(min_value=100, max_value=599),
    error=st.none() | st.sampled_from(AttemptError),
    retry_after_s=st.none() | st.floats(min_value=0, max_value=1e12),
    failures=st.integers(min_value=0, max_value=60),
    interruptions=st.integers(min_value=0, max_value=10),
    schedule=st.lists(st.floats(min_value=0, max_value=1e6), max_size=5).map(tuple),
)
def test_every_exchange_has_a_legal_verdict(
    status: int | None,
    error: AttemptError | None,
    retry_after_s: float | None,
    failures: int,
    interruptions: int,
    schedule: tuple[float, ...],
) -> None:
    verdict = judge(
        Exchange(status, error, retry_after_s),
        failures=failures,
        interruptions=interruptions,
        policy=RetryPolicy(schedule, 0.2),
        retry_after_max_s=DAY_S,
    )

    assert (verdict.reason is not None) == (verdict.outcome is Outcome.DEAD)
    assert (verdict.delay_s is not None) == (verdict.outcome in {Outcome.RETRY, Outcome.INTERRUPTED})
    assert verdict.delay_s is None or verdict.delay_s >= 0
    assert (verdict.pause_endpoint_s is not None) == (retry_after_s is not None)
    assert verdict.pause_endpoint_s is None or 0 <= verdict.pause_endpoint_s <= DAY_S
    assert verdict.disables in {None, Reason.GONE}
    assert (verdict.outcome is Outcome.DELIVERED) == (error is None and status is not None and status // 100 == 2)
    if verdict.outcome is Outcome.DELIVERED:
        assert not verdict.backs_off
    if failures >= len(schedule):
        assert verdict.outcome is not Outcome.RETRY


@pytest.mark.parametrize("error", AttemptError)
def test_every_error_has_a_verdict_without_and_with_each_status(error: AttemptError) -> None:
    outcomes = {judged(Exchange(status, error)).outcome for status in (None, *range(100, 600))}

    assert Outcome.DELIVERED not in outcomes


@given(
    status=st.none() | st.integers(100, 599),
    failures=st.integers(0, 3),
    interruptions=st.integers(0, 6),
)
@example(status=410, failures=0, interruptions=0)
def test_what_is_sent_once_only_is_dropped_by_its_failure(
    status: int | None, failures: int, interruptions: int
) -> None:
    well = status is not None and status // 100 == 2
    error = None if well else AttemptError.INTERRUPTED if status is None else AttemptError.HTTP_STATUS
    before = judge(
        Exchange(status, error),
        failures=failures,
        interruptions=interruptions,
        policy=RetryPolicy((5.0,), 0.0),
        retry_after_max_s=DAY_S,
    )
    after = drop_failed(before)
    assert after.outcome in (Outcome.DELIVERED, Outcome.INTERRUPTED, Outcome.DROPPED)
    assert (after.reason is Reason.SUPERSEDED) == (after.outcome is Outcome.DROPPED)
    assert (after.backs_off, after.pause_endpoint_s, after.disables) == (
        before.backs_off,
        before.pause_endpoint_s,
        before.disables,
    )


@pytest.mark.parametrize(("interruptions", "delay_s"), [(0, 5), (1, 10), (5, 160), (6, 300), (7, 300), (869, 300)])
def test_what_the_proxy_alone_kept_back_is_due_again_later_and_later_and_uses_no_retry(
    interruptions: int, delay_s: float
) -> None:
    exchange = Exchange(None, AttemptError.INTERNAL, forgiven=PROXY_DOWN_FORGIVEN)
    expected = Verdict(Outcome.INTERRUPTED, None, delay_s, None, backs_off=False, disables=None)
    assert judged(exchange, failures=2, interruptions=interruptions) == expected


def test_what_is_sent_once_only_does_not_wait_for_the_proxy() -> None:
    exchange = Exchange(None, AttemptError.INTERNAL, forgiven=PROXY_DOWN_FORGIVEN)
    assert drop_failed(judged(exchange)).outcome is Outcome.DROPPED
    # Cut off is something else: it is due again at once.
    assert drop_failed(judged(failure(AttemptError.INTERRUPTED))).outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("forgiven", [PROXY_FORGIVEN, PROXY_DOWN_FORGIVEN])
def test_a_proxy_is_forgiven_for_a_while_and_every_delivery_ends(forgiven: int) -> None:
    exchange = Exchange(None, AttemptError.INTERNAL, forgiven=forgiven)
    failures = interruptions = attempts = 0
    while (verdict := judged(exchange, failures=failures, interruptions=interruptions)).outcome is not Outcome.DEAD:
        attempts += 1
        interrupted = verdict.outcome is Outcome.INTERRUPTED
        failures, interruptions = (failures, interruptions + 1) if interrupted else (failures + 1, 0)
    assert verdict.reason is Reason.EXHAUSTED
    assert (failures, interruptions, attempts) == (2, forgiven, 2 * (forgiven + 1) + forgiven)
