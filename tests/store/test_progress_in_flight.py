"""Progress that is being sent when newer comes, or the end: superseded if it fails, and left alone until then."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from dispatcher.rules.verdict import Outcome
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.postgres.store import PostgresStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.progress import DONE, STEP, P, states
from tests.store.steps import claim, claim_one, queue


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.INTERRUPTED, Outcome.DEAD])
@pytest.mark.parametrize("newer", [P, DONE])
async def test_progress_in_flight_that_fails_is_superseded_by_what_came_meanwhile(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome, newer: str, ordered: bool
) -> None:
    await outpost.endpoint(ordered=ordered)
    await queue(outpost, store, P)
    claimed = await claim_one(store)
    await queue(outpost, store, newer)
    result = await store.record([finished(claimed, outcome, at=clock.now())])
    assert result.superseded == {claimed.delivery_row}
    assert result.freed is ordered
    assert await states(outpost) == [("superseded", 2), ("pending", None)]
    row = (await outpost.deliveries())[0]
    assert (row.due_at, row.hold_until, row.dispatcher_row, row.attempts) == (None, None, None, 1)
    assert [attempt.number for attempt in await outpost.attempts()] == [1]
    assert not await outpost.letters()
    assert (await claim_one(store)).event_type == newer


async def test_progress_in_flight_that_succeeds_is_delivered(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P)
    claimed = await claim_one(store)
    await queue(outpost, store, DONE)
    assert not (await store.record([finished(claimed, at=clock.now())])).superseded
    assert await states(outpost) == [("delivered", None), ("pending", None)]


async def test_on_an_unordered_endpoint_progress_is_not_tried_again_once_newer_was_attempted(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(ordered=False)
    await queue(outpost, store, P)
    older = await claim_one(store)
    await queue(outpost, store, P)
    await store.record([finished(await claim_one(store), at=clock.now())])
    await store.record([finished(older, Outcome.RETRY, at=clock.now())])
    assert await states(outpost) == [("superseded", 2), ("delivered", None)]


async def test_failed_progress_without_a_newer_one_is_tried_again(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P, "job.log")
    await store.record([finished(await claim_one(store), Outcome.RETRY, at=clock.now())])
    assert await states(outpost) == [("pending", None), ("pending", None)]


async def test_state_and_terminal_in_flight_go_on_being_tried(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, STEP)
    await store.record([finished(await claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=None)])
    await queue(outpost, store, STEP, DONE)
    await store.record([finished(await claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=None)])
    assert await states(outpost) == [("pending", None)] * 3


@pytest.mark.parametrize("ordered", [True, False])
async def test_progress_that_is_given_back_is_superseded_when_newer_waits(
    outpost: Outpost, store: HotStore, ordered: bool
) -> None:
    await outpost.endpoint(ordered=ordered)
    await queue(outpost, store, P)
    claimed = await claim_one(store)
    await queue(outpost, store, P)
    await store.release([claimed])
    assert await states(outpost) == [("superseded", 2), ("pending", None)]
    assert (await outpost.deliveries())[0].attempts == 0
    assert (await claim_one(store)).sequence == 2


async def test_progress_of_a_dead_dispatcher_is_superseded_when_newer_waits(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint(ordered=False)
    async with outpost.store(lease_s=10.0) as dead:
        await queue(outpost, dead, P)
        claimed = await claim_one(dead)
    async with outpost.store() as store:
        await queue(outpost, store, P)
        clock.advance(11)
        (orphan,) = await store.orphans(10)
        assert orphan.progress_of == claimed.progress_of is not None
        interrupted = finished(claimed, Outcome.INTERRUPTED, at=clock.now())
        assert (await store.record([interrupted])).superseded == {claimed.delivery_row}
    assert await states(outpost) == [("superseded", 2), ("pending", None)]


async def test_a_late_head_that_is_superseded_leaves_its_lane_as_it_was(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P, STEP)
    head = await claim_one(store)
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=3600.0, hold_s=60.0)])
    clock.advance(60)
    assert await store.pass_lanes(10) == 1
    follower = await claim_one(store)
    await queue(outpost, store, P)
    assert await states(outpost) == [("superseded", 3), ("sending", None), ("pending", None)]
    assert not await claim(store)
    await store.record([finished(follower, at=clock.now())])
    newest = await claim_one(store)
    assert (newest.sequence, newest.previous_sequence) == (3, 2)


async def test_on_postgresql_a_claim_beside_the_fan_out_begins_no_superseded_progress(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint()
    async with outpost.store() as store:
        await queue(outpost, store, P)
        (row,) = await outpost.deliveries()
        # Somebody else is about to supersede it, and has not committed yet.
        async with outpost.database.begin() as connection:
            deliveries = outpost.tables.deliveries
            await connection.execute(
                deliveries.update()
                .where(deliveries.c.row_id == row.row_id)
                .values(state="superseded", reason="superseded", superseded_by=99)
            )
            assert not await claim(store)
        assert not await claim(store)


async def test_on_postgresql_a_failure_waits_for_the_fan_out_that_may_supersede_it(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(ordered=False)
    async with outpost.store() as store:
        await queue(outpost, store, P)
        claimed = await claim_one(store)
        async with outpost.database.begin() as fanning_out:
            await fanning_out.execute(outpost.tables.jobs.update().values(settled_by=99))
            recording = asyncio.create_task(store.record([finished(claimed, Outcome.RETRY, at=clock.now())]))
            async with asyncio.timeout(10):
                while not (await fanning_out.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar():
                    assert not recording.done()
        assert (await recording).superseded == {claimed.delivery_row}
    assert (await outpost.delivery()).superseded_by == 99


async def _once_somebody_waits(outpost: Outpost, work: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(10), outpost.database.read() as watching:
        while not (await watching.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar():
            assert not work.done()


@pytest.mark.parametrize("newer", [P, DONE])
@pytest.mark.parametrize("ordered", [True, False])
async def test_on_postgresql_fan_out_leaves_alone_what_is_claimed_beside_it(
    postgres_outpost: Outpost, clock: FakeClock, newer: str, ordered: bool
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(ordered=ordered)
    async with outpost.store() as store, outpost.store(name="other") as other:
        assert isinstance(other, PostgresStore)
        await queue(outpost, store, P)
        claimed, commit = asyncio.Event(), asyncio.Event()

        async def slowly(driver: Any) -> Sequence[Claimed]:
            batch = await other._claim.run(driver, 10, other.dispatcher_row, clock.now(), ())
            claimed.set()
            await commit.wait()
            return batch.deliveries

        claiming = asyncio.create_task(other._claiming.transact(slowly))
        await claimed.wait()
        await outpost.publish(newer, job_id="job_1")
        fanning = asyncio.create_task(store.fan_out(10))
        await _once_somebody_waits(outpost, fanning)
        commit.set()
        (first,) = await claiming
        assert (await fanning).superseded == 0
        assert await states(outpost) == [("sending", None), ("pending", None)]
        assert len(await claim(store)) == (0 if ordered else 1)
        await other.record([finished(first, Outcome.RETRY, at=clock.now())])
        assert (await states(outpost))[0] == ("superseded", 2)
        assert len(await claim(store)) == (1 if ordered else 0)
