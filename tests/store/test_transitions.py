"""Redelivery and cancelling: what may go back and what may not, with what it leaves behind."""

import asyncio

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import endpoint_status, transitions
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished


async def _end(outpost: Outpost, store: HotStore, outcome: Outcome, event_type: str = "job.step") -> None:
    await outpost.publish(event_type)
    await store.fan_out(10)
    claimed = (await store.claim(10)).deliveries
    await store.record([finished(one, outcome, at=outpost.clock.now()) for one in claimed])


@pytest.mark.parametrize("state", ["delivered", "dead", "cancelled", "superseded"])
async def test_what_has_ended_begins_a_new_round(outpost: Outpost, store: HotStore, state: str) -> None:
    await outpost.endpoint()
    await _end(outpost, store, Outcome.DEAD)
    row = await outpost.delivery()
    await outpost.change("deliveries", row.row_id, state=state, failures=3, interruptions=2, late=True)
    (result,) = await outpost.put_back(row)
    assert (result.outcome, result.attempts) == ("put_back", 1)
    row = await outpost.delivery()
    assert (row.state, row.reason, row.due_at, row.failures, row.interruptions, row.late, row.attempts) == (
        DeliveryState.PENDING,
        None,
        None,
        0,
        0,
        False,
        1,
    )
    assert row.replay
    (letter,) = await outpost.letters()
    assert letter.redelivered_at == outpost.clock.now()
    (claimed,) = (await store.claim(10)).deliveries
    assert (claimed.attempt, claimed.replay) == (2, True)


async def test_what_never_was_sent_is_no_replay(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish()
    await store.fan_out(10)
    await outpost.cancel(await outpost.delivery())
    await outpost.put_back(await outpost.delivery())
    assert not (await outpost.delivery()).replay


async def test_what_is_pending_or_sending_stays_as_it_is(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish()
    await store.fan_out(10)
    before = await outpost.delivery()
    assert [result.outcome for result in await outpost.put_back(before)] == ["pending"]
    assert await outpost.delivery() == before
    await store.claim(10)
    before = await outpost.delivery()
    assert [result.outcome for result in await outpost.put_back(before)] == ["sending"]
    assert await outpost.delivery() == before


async def test_an_event_that_never_matched_is_delivered_on_demand_in_its_place(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.publish("early", job_id="job_1")
    await store.fan_out(10)
    endpoint = await outpost.endpoint()
    await outpost.publish("late", job_id="job_1")
    await store.fan_out(10)
    events = await outpost.rows("events")
    async with outpost.database.begin() as connection:
        (made,) = await transitions.put_back(connection, outpost.database, [(events[0].row_id, endpoint.row)])
    assert made.outcome == "put_back"
    order = []
    while batch := (await store.claim(10)).deliveries:
        order += [(claimed.event_type, claimed.sequence, claimed.replay) for claimed in batch]
        await store.record([finished(claimed, at=outpost.clock.now()) for claimed in batch])
    assert order == [("early", 1, False), ("late", 2, False)]


async def test_nothing_is_sent_to_an_endpoint_that_is_disabled_or_deleted_or_anothers(
    outpost: Outpost, store: HotStore
) -> None:
    disabled = await outpost.endpoint()
    deleted = await outpost.endpoint()
    await _end(outpost, store, Outcome.DEAD)
    await outpost.change("endpoints", disabled.row, status=EndpointStatus.DISABLED)
    await outpost.change("endpoints", deleted.row, deleted_at=outpost.clock.now())
    assert {result.outcome for result in await outpost.put_back(*await outpost.deliveries())} == {"unavailable"}
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DEAD}
    foreign = await outpost.endpoint(tenant="acme")
    (event,) = await outpost.rows("events")
    async with outpost.database.begin() as connection:
        (refused,) = await transitions.put_back(connection, outpost.database, [(event.row_id, foreign.row)])
    assert (refused.outcome, refused.delivery_row) == ("unavailable", None)


@pytest.mark.parametrize("job_id", ["job_1", None])
async def test_many_redeliveries_at_once_put_each_back_once(postgres_outpost: Outpost, job_id: str | None) -> None:
    outpost = postgres_outpost
    async with outpost.store() as store:
        await outpost.endpoint()
        await outpost.publish(*["a"] * 20, job_id=job_id)
        await store.fan_out(100)
        while batch := (await store.claim(10)).deliveries:
            await store.record([finished(claimed, Outcome.DEAD, at=outpost.clock.now()) for claimed in batch])
        rows = await outpost.deliveries()
        results = await asyncio.gather(*(outpost.put_back(*order) for order in (rows, rows[::-1], rows, rows[::-1])))
        outcomes = [result.outcome for answer in results for result in answer]
        assert outcomes.count("put_back") == 20
        assert outcomes.count("pending") == 60
        assert [row.waiting for row in await outpost.deliveries()] == [False] + [job_id is not None] * 19


async def test_a_disabled_endpoint_matches_nothing_and_loses_what_waits(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(event_types=("job.*",), max_in_flight=1)
    await outpost.publish("job.a", "job.b", "job.c")
    await store.fan_out(10)
    (in_flight,) = (await store.claim(10)).deliveries
    async with outpost.database.begin() as connection:
        assert await endpoint_status.disable(connection, outpost.database, endpoint.row, Reason.FAILING)
        assert not await endpoint_status.disable(connection, outpost.database, endpoint.row, Reason.GONE)
        assert await transitions.cancel_endpoint(connection, outpost.database, endpoint.row, Reason.FAILING) == 2
        assert await transitions.cancel_endpoint(connection, outpost.database, endpoint.row, Reason.FAILING) == 0
    await store.record([finished(in_flight, Outcome.RETRY, at=clock.now())])
    assert [(row.state, row.reason) for row in await outpost.deliveries()] == [
        (DeliveryState.CANCELLED, Reason.FAILING)
    ] * 3
    await outpost.publish("job.d")
    assert (await store.fan_out(10)).deliveries == 0
    assert await outpost.count("subscriptions") == 0
