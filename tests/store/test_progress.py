"""Progress: the newest wins, a job's end ends it, and an interval spaces it out, on both databases."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, EventKind, Reason
from dispatcher.store import endpoint_status, transitions
from dispatcher.store.hot import Claimed, HotStore
from dispatcher.store.postgres.store import PostgresStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

P, DONE, STEP = "job.progress", "job.completed", "job.step"


async def _queue(outpost: Outpost, store: HotStore, *types: str, job_id: str = "job_1", kind: str | None = None) -> Any:
    await outpost.publish(*types, job_id=job_id, kind=kind)
    return await store.fan_out(100)


async def _claim(store: HotStore) -> Sequence[Claimed]:
    return (await store.claim(100)).deliveries


async def _claim_one(store: HotStore) -> Claimed:
    (claimed,) = await _claim(store)
    return claimed


async def _states(outpost: Outpost) -> list[tuple[str, int | None]]:
    """State and superseding event's row of each delivery, by event; an event's row is its place from 1."""
    rows = sorted(await outpost.deliveries(), key=lambda row: (row.event_row, row.row_id))
    for row in rows:
        assert (row.state == DeliveryState.SUPERSEDED) == (row.superseded_by is not None)
        assert (row.reason == Reason.SUPERSEDED) == (row.superseded_by is not None)
    return [(row.state, row.superseded_by) for row in rows]


async def test_progress_that_waits_is_superseded_by_newer_progress_of_its_type(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.endpoint()
    assert (await _queue(outpost, store, STEP, P)).superseded == 0
    assert (await _queue(outpost, store, P)).superseded == 1
    await _queue(outpost, store, "job.log", kind="progress")
    await _queue(outpost, store, P, job_id="job_2")
    assert await _states(outpost) == [
        *(("pending", None), ("superseded", 3), ("pending", None), ("pending", None), ("pending", None))
    ]


async def test_within_a_batch_only_the_last_progress_of_a_type_waits_and_every_event_has_its_row(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.endpoint()
    await outpost.endpoint(ordered=False)
    result = await _queue(outpost, store, P, P, STEP, P)
    assert (result.events, result.deliveries, result.superseded) == (4, 8, 4)
    assert await _states(outpost) == [
        *[("superseded", 2)] * 2,
        *[("superseded", 4)] * 2,
        *[("pending", None)] * 4,
    ]
    assert sorted(claimed.event_type for claimed in await _claim(store)) == [P, STEP, STEP]


async def test_superseding_the_head_frees_its_lane(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P, STEP)
    assert (await _queue(outpost, store, P)).superseded == 1
    order = []
    while batch := await _claim(store):
        order += [claimed.event_type for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert order == [STEP, P]
    assert (await outpost.deliveries())[0].attempts == 0


async def test_a_terminal_event_supersedes_the_progress_of_its_job_at_every_endpoint(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    everything, progress_only = await outpost.endpoint(), await outpost.endpoint(event_types=("job.progress",))
    await _queue(outpost, store, P)
    await _queue(outpost, store, DONE)
    rows = await outpost.deliveries()
    assert {row.endpoint_row for row in rows if row.state == "superseded"} == {everything.row, progress_only.row}
    (job,) = await outpost.rows("jobs")
    assert (job.settled_by, job.settled_at) == (2, clock.now())
    assert (await _claim_one(store)).event_type == DONE


async def test_the_first_terminal_event_settles_for_good(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    settled_at = clock.now()
    await _queue(outpost, store, STEP, DONE, DONE)
    clock.advance(60)
    await _queue(outpost, store, DONE, P)
    (job,) = await outpost.rows("jobs")
    assert (job.settled_by, job.settled_at, job.last_sequence) == (2, settled_at, 5)


async def test_progress_after_the_end_is_superseded_by_it_also_in_the_same_batch(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P, DONE, P, STEP)
    await _queue(outpost, store, P, STEP)
    assert await _states(outpost) == [
        *(("superseded", 2), ("pending", None), ("superseded", 2), ("pending", None)),
        *(("superseded", 2), ("pending", None)),
    ]
    order = []
    while batch := await _claim(store):
        order += [claimed.sequence for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert order == [2, 4, 6]


async def test_newer_progress_supersedes_only_where_it_is_delivered_itself(outpost: Outpost, store: HotStore) -> None:
    staying, leaving = await outpost.endpoint(), await outpost.endpoint()
    await _queue(outpost, store, P)
    async with outpost.database.begin() as connection:
        subscriptions = outpost.tables.subscriptions
        await connection.execute(subscriptions.delete().where(subscriptions.c.endpoint_row == leaving.row))
    await _queue(outpost, store, P)
    assert {(row.endpoint_row, row.event_row): row.state for row in await outpost.deliveries()} == {
        (staying.row, 1): "superseded",
        (staying.row, 2): "pending",
        (leaving.row, 1): "pending",
    }


async def test_without_a_job_nothing_is_superseded(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish(P, P, DONE, P)
    await store.fan_out(100)
    assert await _states(outpost) == [("pending", None)] * 4


async def test_a_kind_that_an_event_names_and_one_of_the_settings_count(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint()
    async with outpost.store(event_kinds={"tick.*": EventKind.PROGRESS, "over": EventKind.TERMINAL}) as store:
        await _queue(outpost, store, "tick.a", "tick.a", "tick.b")
        await _queue(outpost, store, P, P, kind="state")
        await _queue(outpost, store, "over")
    assert await _states(outpost) == [
        *(("superseded", 2), ("superseded", 6), ("superseded", 6)),
        *[("pending", None)] * 3,
    ]
    assert [row.kind for row in await outpost.rows("job_events", "sequence")] == [
        *("progress", "progress", "progress", None, None, "terminal")
    ]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.INTERRUPTED, Outcome.DEAD])
@pytest.mark.parametrize("newer", [P, DONE])
async def test_progress_in_flight_that_fails_is_superseded_by_what_came_meanwhile(
    outpost: Outpost, store: HotStore, clock: FakeClock, outcome: Outcome, newer: str, ordered: bool
) -> None:
    await outpost.endpoint(ordered=ordered)
    await _queue(outpost, store, P)
    claimed = await _claim_one(store)
    await _queue(outpost, store, newer)
    result = await store.record([finished(claimed, outcome, at=clock.now())])
    assert result.superseded == {claimed.delivery_row}
    assert result.freed is ordered
    assert await _states(outpost) == [("superseded", 2), ("pending", None)]
    row = (await outpost.deliveries())[0]
    assert (row.due_at, row.hold_until, row.dispatcher_row, row.attempts) == (None, None, None, 1)
    assert [attempt.number for attempt in await outpost.attempts()] == [1]
    assert not await outpost.letters()
    assert (await _claim_one(store)).event_type == newer


async def test_progress_in_flight_that_succeeds_is_delivered(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P)
    claimed = await _claim_one(store)
    await _queue(outpost, store, DONE)
    assert not (await store.record([finished(claimed, at=clock.now())])).superseded
    assert await _states(outpost) == [("delivered", None), ("pending", None)]


async def test_on_an_unordered_endpoint_progress_is_not_tried_again_once_newer_was_attempted(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(ordered=False)
    await _queue(outpost, store, P)
    older = await _claim_one(store)
    await _queue(outpost, store, P)
    await store.record([finished(await _claim_one(store), at=clock.now())])
    await store.record([finished(older, Outcome.RETRY, at=clock.now())])
    assert await _states(outpost) == [("superseded", 2), ("delivered", None)]


async def test_failed_progress_without_a_newer_one_is_tried_again(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P, "job.log")
    await store.record([finished(await _claim_one(store), Outcome.RETRY, at=clock.now())])
    assert await _states(outpost) == [("pending", None), ("pending", None)]


async def test_state_and_terminal_in_flight_go_on_being_tried(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, STEP)
    await store.record([finished(await _claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=None)])
    await _queue(outpost, store, STEP, DONE)
    await store.record([finished(await _claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=None)])
    assert await _states(outpost) == [("pending", None)] * 3


@pytest.mark.parametrize("ordered", [True, False])
async def test_progress_that_is_given_back_is_superseded_when_newer_waits(
    outpost: Outpost, store: HotStore, ordered: bool
) -> None:
    await outpost.endpoint(ordered=ordered)
    await _queue(outpost, store, P)
    claimed = await _claim_one(store)
    await _queue(outpost, store, P)
    await store.release([claimed])
    assert await _states(outpost) == [("superseded", 2), ("pending", None)]
    assert (await outpost.deliveries())[0].attempts == 0
    assert (await _claim_one(store)).sequence == 2


async def test_progress_of_a_dead_dispatcher_is_superseded_when_newer_waits(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint(ordered=False)
    async with outpost.store(lease_s=10.0) as dead:
        await _queue(outpost, dead, P)
        claimed = await _claim_one(dead)
    async with outpost.store() as store:
        await _queue(outpost, store, P)
        clock.advance(11)
        (orphan,) = await store.orphans(10)
        assert orphan.progress_of == claimed.progress_of is not None
        interrupted = finished(claimed, Outcome.INTERRUPTED, at=clock.now())
        assert (await store.record([interrupted])).superseded == {claimed.delivery_row}
    assert await _states(outpost) == [("superseded", 2), ("pending", None)]


async def test_a_late_head_that_is_superseded_leaves_its_lane_as_it_was(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P, STEP)
    head = await _claim_one(store)
    await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=3600.0, hold_s=60.0)])
    clock.advance(60)
    assert await store.pass_lanes(10) == 1
    follower = await _claim_one(store)
    await _queue(outpost, store, P)
    assert await _states(outpost) == [("superseded", 3), ("sending", None), ("pending", None)]
    assert not await _claim(store)
    await store.record([finished(follower, at=clock.now())])
    newest = await _claim_one(store)
    assert (newest.sequence, newest.previous_sequence) == (3, 2)


async def test_a_progress_head_that_was_cancelled_or_whose_endpoint_ended_is_not_superseded(
    outpost: Outpost, store: HotStore
) -> None:
    endpoint = await outpost.endpoint()
    await _queue(outpost, store, P)
    assert await outpost.cancel(await outpost.delivery())
    await _queue(outpost, store, P)
    async with outpost.database.begin() as connection:
        await endpoint_status.disable(connection, outpost.database, endpoint.row, Reason.OPERATOR)
        await transitions.cancel_endpoint(connection, outpost.database, endpoint.row, Reason.OPERATOR)
    await _queue(outpost, store, DONE)
    assert await _states(outpost) == [("cancelled", None), ("cancelled", None)]


async def test_an_interval_spaces_out_what_is_attempted_and_the_last_one_is_sent(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    assert not (await _queue(outpost, store, P)).held
    first_at = clock.now()
    first = await _claim_one(store)
    clock.advance(2)
    assert not (await _queue(outpost, store, P)).held
    assert (await store.record([finished(first, at=clock.now())])).held
    clock.advance(3)
    assert (await _queue(outpost, store, P)).held
    assert not await _claim(store)
    last = (await outpost.deliveries())[-1]
    assert (last.state, last.due_at) == ("pending", first_at + timedelta(seconds=10))
    assert await store.make_due(10) == (0, 5.0)
    clock.advance(5)
    assert (await store.make_due(10))[0] == 1
    assert (await _claim_one(store)).sequence == 3
    assert await _states(outpost) == [("delivered", None), ("superseded", 3), ("sending", None)]


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_interval_counts_from_the_last_attempt_even_of_what_was_superseded_since(
    outpost: Outpost, store: HotStore, clock: FakeClock, ordered: bool
) -> None:
    await outpost.endpoint(progress_interval_s=10.0, ordered=ordered)
    await _queue(outpost, store, P)
    attempted_at = clock.now()
    await store.record([finished(await _claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=300.0)])
    clock.advance(6)
    await _queue(outpost, store, P)
    assert (await outpost.deliveries())[-1].due_at == attempted_at + timedelta(seconds=10)
    clock.advance(100)
    await store.make_due(10)
    await _queue(outpost, store, P)
    assert (await outpost.deliveries())[-1].due_at is None
    assert (await _claim_one(store)).sequence == 3


async def test_the_end_of_the_job_does_not_wait_for_the_interval(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=3600.0)
    await _queue(outpost, store, P)
    await store.record([finished(await _claim_one(store), at=clock.now())])
    await _queue(outpost, store, P, STEP)
    assert not await _claim(store)
    await _queue(outpost, store, DONE)
    assert (await _claim_one(store)).event_type == STEP


async def test_an_interval_holds_for_each_job_and_for_progress_only(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=3600.0)
    for job_id in ("job_1", "job_2"):
        await _queue(outpost, store, P, STEP, STEP, job_id=job_id)
    sent = []
    while batch := await _claim(store):
        sent += [(claimed.job_id, claimed.sequence) for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert sorted(sent) == [(job, n) for job in ("job_1", "job_2") for n in (1, 2, 3)]


async def test_progress_that_becomes_its_lanes_head_waits_for_the_interval_too(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    await _queue(outpost, store, P)
    first = await _claim_one(store)
    await store.record([finished(first, at=clock.now())])
    await _queue(outpost, store, STEP, P)
    clock.advance(4)
    assert (await store.record([finished(await _claim_one(store), at=clock.now())])).held
    assert (await outpost.deliveries())[-1].due_at == clock.now() + timedelta(seconds=6)
    await _queue(outpost, store, STEP, P)
    assert (await outpost.deliveries())[-1].waiting


async def test_progress_that_a_cancelled_head_lets_go_waits_for_the_interval_too(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    await _queue(outpost, store, P)
    await store.record([finished(await _claim_one(store), at=clock.now())])
    await _queue(outpost, store, STEP, P)
    assert await outpost.cancel((await outpost.deliveries())[1])
    assert (await outpost.deliveries())[-1].due_at == clock.now() + timedelta(seconds=10)


async def test_progress_of_a_settled_job_is_not_put_back(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P)
    await store.record([finished(await _claim_one(store), Outcome.DEAD, at=clock.now())])
    await _queue(outpost, store, DONE, P)
    await store.record([finished(await _claim_one(store), at=clock.now())])
    results = await outpost.put_back(*await outpost.deliveries())
    assert [result.outcome for result in results] == ["settled", "put_back", "settled"]
    assert await _states(outpost) == [("dead", None), ("pending", None), ("superseded", 2)]
    (letter,) = await outpost.letters()
    assert letter.redelivered_at is None


async def test_put_back_progress_gives_way_to_newer_and_takes_the_place_of_older(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    for _ in range(3):
        await _queue(outpost, store, P)
        await store.record([finished(await _claim_one(store), Outcome.DEAD, at=clock.now())])
    first, second, third = await outpost.deliveries()
    assert [r.outcome for r in await outpost.put_back(first, second)] == ["stale", "put_back"]
    assert [r.outcome for r in await outpost.put_back(first)] == ["stale"]
    assert [r.outcome for r in await outpost.put_back(third)] == ["put_back"]
    assert await _states(outpost) == [("dead", None), ("superseded", 3), ("pending", None)]
    claimed = await _claim_one(store)
    assert (claimed.sequence, claimed.replay) == (3, True)
    assert [r.outcome for r in await outpost.put_back(second)] == ["stale"]
    await store.record([finished(claimed, at=clock.now())])
    assert [r.outcome for r in await outpost.put_back(first)] == ["put_back"]
    assert (await _claim_one(store)).sequence == 1


async def test_in_bulk_only_the_newest_progress_is_made_or_put_back(outpost: Outpost, store: HotStore) -> None:
    await _queue(outpost, store, P, "job.log", P)
    await _queue(outpost, store, P, DONE, job_id="job_2")
    await outpost.publish(P)
    await store.fan_out(10)
    endpoint = await outpost.endpoint()
    events = await outpost.rows("events")
    async with outpost.database.begin() as connection:
        results = await transitions.put_back(
            connection, outpost.database, [(event.row_id, endpoint.row) for event in events], newest_only=True
        )
    assert [result.outcome for result in results] == [
        "stale",
        "put_back",
        "put_back",
        "settled",
        "put_back",
        "put_back",
    ]
    rows = {row.event_row: row for row in await outpost.deliveries()}
    assert [(row, rows[row].progress_of is None) for row in sorted(rows)] == [
        (2, True),
        (3, False),
        (5, True),
        (6, True),
    ]


async def test_what_is_put_back_begins_without_a_superseding_event(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _queue(outpost, store, P, P)
    await store.record([finished(await _claim_one(store), at=clock.now())])
    assert [r.outcome for r in await outpost.put_back((await outpost.deliveries())[0])] == ["put_back"]
    assert await _states(outpost) == [("pending", None), ("delivered", None)]
    # Newer progress was sent already: one that fails now is not worth another attempt.
    await store.record([finished(await _claim_one(store), Outcome.RETRY, at=clock.now())])
    assert await _states(outpost) == [("superseded", 2), ("delivered", None)]


async def test_on_postgresql_a_claim_beside_the_fan_out_begins_no_superseded_progress(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint()
    async with outpost.store() as store:
        await _queue(outpost, store, P)
        (row,) = await outpost.deliveries()
        # Somebody else is about to supersede it, and has not committed yet.
        async with outpost.database.begin() as connection:
            deliveries = outpost.tables.deliveries
            await connection.execute(
                deliveries.update()
                .where(deliveries.c.row_id == row.row_id)
                .values(state="superseded", reason="superseded", superseded_by=99)
            )
            assert not await _claim(store)
        assert not await _claim(store)


async def test_on_postgresql_a_failure_waits_for_the_fan_out_that_may_supersede_it(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(ordered=False)
    async with outpost.store() as store:
        await _queue(outpost, store, P)
        claimed = await _claim_one(store)
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
        await _queue(outpost, store, P)
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
        assert await _states(outpost) == [("sending", None), ("pending", None)]
        assert len(await _claim(store)) == (0 if ordered else 1)
        await other.record([finished(first, Outcome.RETRY, at=clock.now())])
        assert (await _states(outpost))[0] == ("superseded", 2)
        assert len(await _claim(store)) == (1 if ordered else 0)
