"""Lanes: the deliveries of one job to one endpoint, in order and one in flight, whatever happens to one of them."""

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.steps import claim, claim_one, queue


async def test_a_lane_has_one_in_flight_and_goes_on_in_order(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b", "c")
    order = []
    for _ in range(3):
        claimed = await claim_one(store)
        assert not await claim(store)
        order.append((claimed.event_type, claimed.sequence, claimed.previous_sequence))
        assert (await store.record([finished(claimed, at=clock.now())])).freed is (claimed.sequence != 3)
    assert order == [("a", 1, 0), ("b", 2, 1), ("c", 3, 2)]


async def test_jobs_and_endpoints_do_not_wait_for_each_other(outpost: Outpost, store: HotStore) -> None:
    for _ in range(2):
        await outpost.endpoint()
    await queue(outpost, store, "a", "b", job_id="job_1")
    await queue(outpost, store, "c", "d", job_id="job_2")
    assert sorted(claimed.event_type for claimed in await claim(store)) == ["a", "a", "c", "c"]


async def test_a_failing_head_holds_its_lane_until_its_hold_is_over_and_is_late_then(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    head = await claim_one(store)
    put_off = await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=3600.0, hold_s=900.0)])
    # The head had not been waiting: a wake-up would find nothing.
    assert not put_off.freed
    assert not await claim(store)
    clock.advance(899)
    assert await store.pass_lanes(10) == 0
    clock.advance(1)
    assert await store.pass_lanes(10) == 1
    follower = await claim_one(store)
    assert (follower.event_type, follower.late, follower.previous_sequence) == ("b", False, 1)
    clock.advance(3600)
    await store.make_due(10)
    # Late, but still in the lane: not beside one in flight.
    assert not await claim(store)
    await store.record([finished(follower, at=clock.now())])
    late = await claim_one(store)
    assert (late.event_type, late.late, late.previous_sequence) == ("a", True, 0)


async def test_further_failures_do_not_put_the_end_of_the_hold_off(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    for _ in range(3):
        head = await claim_one(store)
        await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=None, hold_s=900.0)])
        clock.advance(300)
    assert await store.pass_lanes(10) == 1


async def test_a_head_without_a_hold_is_never_passed(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint(order_hold_s=None)
    await queue(outpost, store, "a", "b")
    head = await claim_one(store)
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=10.0, hold_s=None)])
    clock.advance(10**7)
    assert await store.pass_lanes(10) == 0
    await store.make_due(10)
    assert (await claim_one(store)).event_type == "a"


async def test_a_head_with_nothing_behind_it_is_not_late(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a")
    head = await claim_one(store)
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=3600.0)])
    clock.advance(901)
    assert await store.pass_lanes(10) == 0
    await queue(outpost, store, "b")
    assert await store.pass_lanes(10) == 1
    assert (await claim_one(store)).event_type == "b"


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.INTERRUPTED])
async def test_a_head_in_flight_is_not_passed_and_an_interruption_starts_no_hold(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    head = await claim_one(store)
    await store.record([finished(head, outcome, at=clock.now(), delay_s=None)])
    await claim_one(store)
    clock.advance(10_000)
    assert await store.pass_lanes(10) == 0


async def test_a_dead_head_frees_its_lane_at_once(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    head = await claim_one(store)
    assert (await store.record([finished(head, Outcome.DEAD, at=clock.now())])).freed
    follower = await claim_one(store)
    assert (follower.event_type, follower.previous_sequence) == ("b", 1)


async def test_a_cancelled_head_frees_its_lane_and_was_never_attempted(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    assert await outpost.cancel((await outpost.deliveries())[0])
    follower = await claim_one(store)
    assert (follower.event_type, follower.previous_sequence) == ("b", 0)


async def test_cancelling_what_waits_leaves_the_head_alone(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b", "c")
    assert await outpost.cancel((await outpost.deliveries())[1])
    assert [row.waiting for row in await outpost.deliveries() if row.state == DeliveryState.PENDING] == [False, True]


async def test_what_is_sending_cannot_be_cancelled(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a")
    await claim_one(store)
    assert not await outpost.cancel(await outpost.delivery())
    assert (await outpost.delivery()).state == DeliveryState.SENDING


async def test_a_redelivery_goes_before_what_waits_behind_its_sequence(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b", "c")
    await store.record([finished(await claim_one(store), Outcome.DEAD, at=clock.now())])
    (result,) = await outpost.put_back((await outpost.deliveries())[0])
    assert result.outcome == "put_back"
    order = []
    while batch := await claim(store):
        order += [claimed.event_type for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert order == ["a", "b", "c"]


async def test_a_redelivery_never_goes_beside_one_in_flight(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b", "c")
    await store.record([finished(await claim_one(store), Outcome.DEAD, at=clock.now())])
    in_flight = await claim_one(store)
    await outpost.put_back((await outpost.deliveries())[0])
    assert not await claim(store)
    await store.record([finished(in_flight, at=clock.now())])
    redelivered = await claim_one(store)
    assert (redelivered.event_type, redelivered.replay, redelivered.attempt) == ("a", True, 2)
    await store.record([finished(redelivered, at=clock.now())])
    assert (await claim_one(store)).event_type == "c"


@pytest.mark.parametrize("how", ["retry", "interrupted", "release"])
async def test_what_comes_back_to_its_lane_waits_behind_an_earlier_redelivery(
    outpost: Outpost, store: HotStore, clock: FakeClock, how: str
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b", "c")
    await store.record([finished(await claim_one(store), Outcome.DEAD, at=clock.now())])
    in_flight = await claim_one(store)
    await outpost.put_back((await outpost.deliveries())[0])
    if how == "release":
        await store.release([in_flight])
    else:
        await store.record([finished(in_flight, Outcome(how), at=clock.now(), delay_s=None)])
    head = await claim_one(store)
    assert head.event_type == "a"
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=60.0)])
    assert not await claim(store)


async def test_a_redelivery_keeps_what_its_first_attempt_fixed(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, "a", "b")
    for _ in range(2):
        await store.record([finished(await claim_one(store), at=clock.now())])
    await outpost.put_back(*await outpost.deliveries())
    first = await claim_one(store)
    await store.record([finished(first, at=clock.now())])
    second = await claim_one(store)
    assert [(c.sequence, c.previous_sequence, c.attempt, c.replay) for c in (first, second)] == [
        (1, 0, 2, True),
        (2, 1, 2, True),
    ]
