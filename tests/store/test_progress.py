"""Progress that waits: the newest wins, and a job's end ends it, on both databases."""

from dispatcher.states import EventKind, Reason
from dispatcher.store import endpoint_status, transitions
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.progress import DONE, STEP, P, states
from tests.store.steps import claim, claim_one, queue


async def test_progress_that_waits_is_superseded_by_newer_progress_of_its_type(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.endpoint()
    assert (await queue(outpost, store, STEP, P)).superseded == 0
    assert (await queue(outpost, store, P)).superseded == 1
    await queue(outpost, store, "job.log", kind="progress")
    await queue(outpost, store, P, job_id="job_2")
    assert await states(outpost) == [
        *(("pending", None), ("superseded", 3), ("pending", None), ("pending", None), ("pending", None))
    ]


async def test_within_a_batch_only_the_last_progress_of_a_type_waits_and_every_event_has_its_row(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.endpoint()
    await outpost.endpoint(ordered=False)
    result = await queue(outpost, store, P, P, STEP, P)
    assert (result.events, result.deliveries, result.superseded) == (4, 8, 4)
    assert await states(outpost) == [
        *[("superseded", 2)] * 2,
        *[("superseded", 4)] * 2,
        *[("pending", None)] * 4,
    ]
    assert sorted(claimed.event_type for claimed in await claim(store)) == [P, STEP, STEP]


async def test_superseding_the_head_frees_its_lane(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P, STEP)
    assert (await queue(outpost, store, P)).superseded == 1
    order = []
    while batch := await claim(store):
        order += [claimed.event_type for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert order == [STEP, P]
    assert (await outpost.deliveries())[0].attempts == 0


async def test_a_terminal_event_supersedes_the_progress_of_its_job_at_every_endpoint(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    everything, progress_only = await outpost.endpoint(), await outpost.endpoint(event_types=("job.progress",))
    await queue(outpost, store, P)
    await queue(outpost, store, DONE)
    rows = await outpost.deliveries()
    assert {row.endpoint_row for row in rows if row.state == "superseded"} == {everything.row, progress_only.row}
    (job,) = await outpost.rows("jobs")
    assert (job.settled_by, job.settled_at) == (2, clock.now())
    assert (await claim_one(store)).event_type == DONE


async def test_the_first_terminal_event_settles_for_good(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    settled_at = clock.now()
    await queue(outpost, store, STEP, DONE, DONE)
    clock.advance(60)
    await queue(outpost, store, DONE, P)
    (job,) = await outpost.rows("jobs")
    assert (job.settled_by, job.settled_at, job.last_sequence) == (2, settled_at, 5)


async def test_progress_after_the_end_is_superseded_by_it_also_in_the_same_batch(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P, DONE, P, STEP)
    await queue(outpost, store, P, STEP)
    assert await states(outpost) == [
        *(("superseded", 2), ("pending", None), ("superseded", 2), ("pending", None)),
        *(("superseded", 2), ("pending", None)),
    ]
    order = []
    while batch := await claim(store):
        order += [claimed.sequence for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert order == [2, 4, 6]


async def test_newer_progress_supersedes_only_where_it_is_delivered_itself(outpost: Outpost, store: HotStore) -> None:
    staying, leaving = await outpost.endpoint(), await outpost.endpoint()
    await queue(outpost, store, P)
    async with outpost.database.begin() as connection:
        subscriptions = outpost.tables.subscriptions
        await connection.execute(subscriptions.delete().where(subscriptions.c.endpoint_row == leaving.row))
    await queue(outpost, store, P)
    assert {(row.endpoint_row, row.event_row): row.state for row in await outpost.deliveries()} == {
        (staying.row, 1): "superseded",
        (staying.row, 2): "pending",
        (leaving.row, 1): "pending",
    }


async def test_without_a_job_nothing_is_superseded(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish(P, P, DONE, P)
    await store.fan_out(100)
    assert await states(outpost) == [("pending", None)] * 4


async def test_a_kind_that_an_event_names_and_one_of_the_settings_count(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint()
    async with outpost.store(event_kinds={"tick.*": EventKind.PROGRESS, "over": EventKind.TERMINAL}) as store:
        await queue(outpost, store, "tick.a", "tick.a", "tick.b")
        await queue(outpost, store, P, P, kind="state")
        await queue(outpost, store, "over")
    assert await states(outpost) == [
        *(("superseded", 2), ("superseded", 6), ("superseded", 6)),
        *[("pending", None)] * 3,
    ]
    assert [row.kind for row in await outpost.rows("job_events", "sequence")] == [
        *("progress", "progress", "progress", None, None, "terminal")
    ]


async def test_a_progress_head_that_was_cancelled_or_whose_endpoint_ended_is_not_superseded(
    outpost: Outpost, store: HotStore
) -> None:
    endpoint = await outpost.endpoint()
    await queue(outpost, store, P)
    assert await outpost.cancel(await outpost.delivery())
    await queue(outpost, store, P)
    async with outpost.database.begin() as connection:
        await endpoint_status.disable(connection, outpost.database, endpoint.row, Reason.OPERATOR)
        await transitions.cancel_endpoint(connection, outpost.database, endpoint.row, Reason.OPERATOR)
    await queue(outpost, store, DONE)
    assert await states(outpost) == [("cancelled", None), ("cancelled", None)]
