"""The record: outcomes, fenced by lease and attempt, with what they mean for lanes and endpoints, on both databases."""

from datetime import timedelta

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.tally import BACKOFF_AFTER, FAILING_AFTER
from tests.clock import FakeClock
from tests.outpost import Outpost, finished


async def _one(outpost: Outpost, store: HotStore, job_id: str | None = None) -> Claimed:
    await outpost.publish(job_id=job_id)
    await store.fan_out(10)
    (claimed,) = (await store.claim(10)).deliveries
    return claimed


async def test_a_delivered_outcome_settles_the_delivery_and_logs_the_attempt(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    claimed = await _one(outpost, store)
    recorded = await store.record([finished(claimed, at=clock.now())])
    assert not recorded.lost
    row = await outpost.delivery()
    assert (row.state, row.reason, row.last_status, row.dispatcher_row) == (DeliveryState.DELIVERED, None, 200, None)
    (attempt,) = await outpost.attempts()
    assert (attempt.number, attempt.status, attempt.error, attempt.started_at) == (1, 200, None, clock.now())


async def test_a_retry_is_pending_due_later_and_made_due_when_its_time_has_come(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    claimed = await _one(outpost, store)
    await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=300.0)])
    row = await outpost.delivery()
    assert (row.state, row.due_at, row.failures) == (DeliveryState.PENDING, clock.now() + timedelta(seconds=300), 1)
    assert await store.make_due(10) == (0, 300.0)
    assert not (await store.claim(10)).deliveries
    clock.advance(299.5)
    assert await store.make_due(10) == (0, 0.5)
    clock.advance(0.5)
    assert await store.make_due(10) == (1, None)
    (again,) = (await store.claim(10)).deliveries
    assert (again.attempt, again.failures) == (2, 1)


async def test_a_death_makes_a_dead_letter_that_says_why(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store, job_id="job_1")
    await store.record([finished(claimed, Outcome.DEAD, at=clock.now(), status=404)])
    row = await outpost.delivery()
    assert (row.state, row.reason) == (DeliveryState.DEAD, Reason.EXHAUSTED)
    (letter,) = await outpost.letters()
    assert (letter.delivery_row, letter.endpoint_row, letter.type, letter.job_id, letter.reason) == (
        row.row_id,
        endpoint.row,
        "job.step",
        "job_1",
        Reason.EXHAUSTED,
    )
    assert (letter.attempts, letter.last_status, letter.last_error) == (1, 404, AttemptError.HTTP_STATUS)
    assert letter.redelivered_at is None


async def test_what_is_dropped_ends_superseded_without_a_dead_letter(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await outpost.publish("job.step", "job.step", job_id="job_1")
    await store.fan_out(10)
    (claimed,) = (await store.claim(10)).deliveries
    recorded = await store.record([finished(claimed, Outcome.DROPPED, at=clock.now())])
    assert set(recorded.superseded) == {claimed.delivery_row}
    assert recorded.freed
    row, following = await outpost.deliveries()
    assert (row.state, row.reason, row.due_at) == (DeliveryState.SUPERSEDED, Reason.SUPERSEDED, None)
    assert (following.state, following.waiting) == (DeliveryState.PENDING, False)
    assert not await outpost.letters()
    assert (await outpost.endpoint_now(endpoint)).failures_in_row == 1


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_an_outcome_that_comes_after_its_lease_was_lost_changes_nothing(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome
) -> None:
    endpoint = await outpost.endpoint()
    lost = await _one(outpost, store)
    await store.record([finished(lost, Outcome.INTERRUPTED, at=clock.now())])
    (current,) = (await store.claim(10)).deliveries
    before = (await outpost.deliveries(), await outpost.attempts(), await outpost.endpoint_now(endpoint))
    recorded = await store.record([finished(lost, outcome, at=clock.now())])
    assert recorded.lost == {lost.delivery_row}
    assert (await outpost.deliveries(), await outpost.attempts(), await outpost.endpoint_now(endpoint)) == before
    assert not await outpost.letters()
    assert not (await store.record([finished(current, at=clock.now())])).lost


async def test_one_lost_lease_in_a_batch_does_not_keep_the_others_from_being_recorded(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await outpost.publish("a", "b")
    await store.fan_out(10)
    first, second = (await store.claim(10)).deliveries
    await store.record([finished(first, at=clock.now())])
    recorded = await store.record([finished(first, at=clock.now()), finished(second, at=clock.now())])
    assert recorded.lost == {first.delivery_row}
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DELIVERED] * 2
    assert len(await outpost.attempts()) == 2


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.INTERRUPTED])
async def test_a_failure_at_an_endpoint_that_was_disabled_meanwhile_ends_cancelled_for_its_reason(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome
) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store)
    await outpost.change("endpoints", endpoint.row, status=EndpointStatus.DISABLED, disabled_reason=Reason.OPERATOR)
    await store.record([finished(claimed, outcome, at=clock.now())])
    row = await outpost.delivery()
    assert (row.state, row.reason, row.due_at) == (DeliveryState.CANCELLED, Reason.OPERATOR, None)
    assert not await outpost.letters()


async def test_a_failure_at_an_endpoint_that_was_deleted_meanwhile_ends_cancelled(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store)
    await outpost.change("endpoints", endpoint.row, deleted_at=clock.now())
    await store.record([finished(claimed, Outcome.RETRY, at=clock.now())])
    row = await outpost.delivery()
    assert (row.state, row.reason) == (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)


async def test_a_2xx_counts_even_if_the_endpoint_was_disabled_meanwhile(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store)
    await outpost.change("endpoints", endpoint.row, status=EndpointStatus.DISABLED, disabled_reason=Reason.OPERATOR)
    await store.record([finished(claimed, at=clock.now())])
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED


async def test_an_attempt_that_was_not_begun_is_given_back_with_its_number(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    claimed = await _one(outpost, store)
    await store.release([claimed])
    row = await outpost.delivery()
    assert (row.state, row.attempts, row.dispatcher_row) == (DeliveryState.PENDING, 0, None)
    (again,) = (await store.claim(10)).deliveries
    assert again.attempt == 1
    await store.release([claimed, again])
    assert (await outpost.delivery()).attempts == 0


async def _overload(outpost: Outpost, store: HotStore, clock: FakeClock, times: int, deliveries: int) -> None:
    """Overload failures one after the other, round-robin over some deliveries, each retried at once."""
    await outpost.publish(*["a"] * deliveries)
    await store.fan_out(100)
    claimed = list((await store.claim(100)).deliveries)
    for n in range(times):
        turn = claimed[n % deliveries]
        failure = finished(turn, Outcome.RETRY, at=clock.now(), status=503, delay_s=None, backs_off=True)
        assert not (await store.record([failure])).lost
        again = (await store.claim(100)).deliveries
        if again:
            (claimed[n % deliveries],) = again


async def test_an_endpoint_backs_off_after_ten_overload_failures_over_two_deliveries(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _overload(outpost, store, clock, BACKOFF_AFTER - 1, deliveries=2)
    assert (await outpost.endpoint_now(endpoint)).paused_until is None
    await _overload(outpost, store, clock, 1, deliveries=1)
    known = await outpost.endpoint_now(endpoint)
    assert (known.paused_until, known.ramp) == (clock.now() + timedelta(seconds=5), 1)


async def test_one_delivery_alone_never_makes_its_endpoint_back_off(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _overload(outpost, store, clock, 15, deliveries=1)
    known = await outpost.endpoint_now(endpoint)
    assert (known.backoff_failures, known.paused_until) == (15, None)


async def test_a_back_off_ends_with_one_probe_and_a_slow_start(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _overload(outpost, store, clock, BACKOFF_AFTER, deliveries=2)
    in_flight = [row for row in await outpost.deliveries() if row.state == DeliveryState.SENDING]
    assert len(in_flight) == 1
    await outpost.publish(*["b"] * 20)
    await store.fan_out(100)
    clock.advance(5)
    # The attempt that is still in flight is the probe: nothing goes beside it.
    assert not (await store.claim(100)).deliveries
    (orphan,) = [row for row in await outpost.deliveries() if row.state == DeliveryState.SENDING]
    await outpost.change("deliveries", orphan.row_id, state=DeliveryState.DELIVERED)
    counts = []
    for _ in range(4):
        batch = (await store.claim(100)).deliveries
        counts.append(len(batch))
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert counts == [1, 2, 4, 8]
    assert (await outpost.endpoint_now(endpoint)).backoff_failures == 0


async def test_each_further_overload_doubles_the_pause_up_to_five_minutes(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _overload(outpost, store, clock, BACKOFF_AFTER, deliveries=2)
    pauses = []
    for _ in range(8):
        clock.advance(1000)
        for row in await outpost.deliveries():
            if row.state == DeliveryState.SENDING:
                await outpost.change("deliveries", row.row_id, state=DeliveryState.DELIVERED)
        await outpost.publish("probe")
        await store.fan_out(10)
        (probe,) = (await store.claim(100)).deliveries
        failure = finished(probe, Outcome.RETRY, at=clock.now(), status=503, delay_s=3600.0, backs_off=True)
        await store.record([failure])
        pauses.append(((await outpost.endpoint_now(endpoint)).paused_until - clock.now()).total_seconds())
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]


async def test_an_endpoint_is_failing_after_twenty_failures_in_a_row_and_five_days(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store)
    failing: list[int] = []
    for _ in range(FAILING_AFTER):
        recorded = await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=None)])
        failing += recorded.failing
        (claimed,) = (await store.claim(10)).deliveries
    assert failing == []
    clock.advance(5 * 86400 + 1)
    recorded = await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=None)])
    assert list(recorded.failing) == [endpoint.row]


async def test_an_endpoint_that_was_idle_for_long_is_not_failing_after_a_short_outage(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    claimed = await _one(outpost, store)
    await store.record([finished(claimed, at=clock.now())])
    clock.advance(10 * 86400)
    claimed = await _one(outpost, store)
    for _ in range(FAILING_AFTER + 5):
        recorded = await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=None)])
        assert not recorded.failing
        (claimed,) = (await store.claim(10)).deliveries


async def test_interruptions_say_nothing_about_the_endpoint(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    claimed = await _one(outpost, store)
    for _ in range(3):
        await store.record([finished(claimed, Outcome.INTERRUPTED, at=clock.now())])
        (claimed,) = (await store.claim(10)).deliveries
    assert (claimed.attempt, claimed.failures, claimed.interruptions) == (4, 0, 3)
    known = await outpost.endpoint_now(endpoint)
    assert (known.failures_in_row, known.backoff_failures) == (0, 0)


async def test_endpoints_that_did_well_together_are_forgiven_what_there_was_and_others_keep_their_last_success(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    failed, well, new = [await outpost.endpoint() for _ in range(3)]
    lately = clock.now() - timedelta(seconds=30)
    await outpost.change("endpoint_state", failed.row, failures_in_row=3, last_success_at=lately)
    await outpost.change("endpoint_state", well.row, last_success_at=lately)
    await outpost.publish()
    await store.fan_out(10)
    claimed = (await store.claim(10)).deliveries
    await store.record([finished(one, at=clock.now()) for one in claimed])
    known = [await outpost.endpoint_now(endpoint) for endpoint in (failed, well, new)]
    assert [row.failures_in_row for row in known] == [0, 0, 0]
    # A success is noted once a minute.
    assert [row.last_success_at for row in known] == [clock.now(), lately, clock.now()]
