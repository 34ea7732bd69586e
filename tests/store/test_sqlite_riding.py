"""Outcomes on SQLite share the flush of what brings events next, where events come often."""

import asyncio

import pytest

from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent
from dispatcher.store.hot import Finished, HotStore
from dispatcher.store.ingest import Straight
from dispatcher.store.sqlite import store as sqlite_store
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost, finished


@pytest.fixture(autouse=True)
def _long_rides(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than any test waits.
    monkeypatch.setattr(sqlite_store, "RIDE_S", 10 * PATIENCE_S)


def _event(job_id: str | None = None) -> NewEvent:
    return new_event("job.step", "{}", max_payload=100, job_id=job_id)


async def _sent(outpost: Outpost, store: HotStore, job_id: str | None = None) -> Finished:
    done = await store.ingest([[_event(job_id)]], Straight(1, ()))
    assert done.claimed is not None
    (claimed,) = done.claimed.deliveries
    return finished(claimed, at=outpost.clock.now())


async def _states(outpost: Outpost) -> list[str]:
    return [row.state for row in await outpost.deliveries()]


async def test_an_outcome_waits_for_the_next_event_where_events_come_often(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    await outpost.endpoint()
    async with outpost.store() as store, asyncio.timeout(PATIENCE_S):
        first, second = [await _sent(outpost, store) for _ in range(2)]
        recording = [asyncio.create_task(store.record([one])) for one in (first, second)]
        # The writer's thread has had its turn when this is answered.
        assert not (await store.fan_out_one()).events
        assert await _states(outpost) == ["sending", "sending"]
        await _sent(outpost, store)
        assert [len((await one).lost) for one in recording] == [0, 0]
    assert await _states(outpost) == ["delivered", "delivered", "sending"]


async def test_an_outcome_waits_for_a_producers_event_too(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    await outpost.endpoint()
    async with outpost.store() as store, asyncio.timeout(PATIENCE_S):
        first, _ = [await _sent(outpost, store) for _ in range(2)]
        recording = asyncio.create_task(store.record([first]))
        await outpost.publish()
        assert (await store.fan_out(10)).events == 1
        await recording


async def test_an_outcome_waits_for_nothing_where_events_come_seldom(sqlite_outpost: Outpost, clock: FakeClock) -> None:
    outpost = sqlite_outpost
    await outpost.endpoint()
    async with outpost.store() as store, asyncio.timeout(PATIENCE_S):
        await _sent(outpost, store)
        clock.advance(sqlite_store.RIDE_S)
        await store.record([await _sent(outpost, store)])
        _, last = [await _sent(outpost, store) for _ in range(2)]
        clock.advance(sqlite_store.RIDE_S)
        await store.record([last])


async def test_an_outcome_that_others_of_its_job_wait_for_waits_for_nothing(sqlite_outpost: Outpost) -> None:
    outpost = sqlite_outpost
    await outpost.endpoint(ordered=True)
    async with outpost.store() as store, asyncio.timeout(PATIENCE_S):
        _, last = [await _sent(outpost, store, job_id) for job_id in ("job_1", "job_2")]
        await store.record([last])
