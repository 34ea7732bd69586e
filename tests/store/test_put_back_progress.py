"""Progress that is asked for again: only what is not stale, and never of a job that has settled."""

from dispatcher.rules.verdict import Outcome
from dispatcher.store import transitions
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.progress import DONE, P, states
from tests.store.steps import claim_one, queue


async def test_progress_of_a_settled_job_is_not_put_back(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await queue(outpost, store, P)
    await store.record([finished(await claim_one(store), Outcome.DEAD, at=clock.now())])
    await queue(outpost, store, DONE, P)
    await store.record([finished(await claim_one(store), at=clock.now())])
    results = await outpost.put_back(*await outpost.deliveries())
    assert [result.outcome for result in results] == ["settled", "put_back", "settled"]
    assert await states(outpost) == [("dead", None), ("pending", None), ("superseded", 2)]
    (letter,) = await outpost.letters()
    assert letter.redelivered_at is None


async def test_put_back_progress_gives_way_to_newer_and_takes_the_place_of_older(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    for _ in range(3):
        await queue(outpost, store, P)
        await store.record([finished(await claim_one(store), Outcome.DEAD, at=clock.now())])
    first, second, third = await outpost.deliveries()
    assert [r.outcome for r in await outpost.put_back(first, second)] == ["stale", "put_back"]
    assert [r.outcome for r in await outpost.put_back(first)] == ["stale"]
    assert [r.outcome for r in await outpost.put_back(third)] == ["put_back"]
    assert await states(outpost) == [("dead", None), ("superseded", 3), ("pending", None)]
    claimed = await claim_one(store)
    assert (claimed.sequence, claimed.replay) == (3, True)
    assert [r.outcome for r in await outpost.put_back(second)] == ["stale"]
    await store.record([finished(claimed, at=clock.now())])
    assert [r.outcome for r in await outpost.put_back(first)] == ["put_back"]
    assert (await claim_one(store)).sequence == 1


async def test_in_bulk_only_the_newest_progress_is_made_or_put_back(outpost: Outpost, store: HotStore) -> None:
    await queue(outpost, store, P, "job.log", P)
    await queue(outpost, store, P, DONE, job_id="job_2")
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
    await queue(outpost, store, P, P)
    await store.record([finished(await claim_one(store), at=clock.now())])
    assert [r.outcome for r in await outpost.put_back((await outpost.deliveries())[0])] == ["put_back"]
    assert await states(outpost) == [("pending", None), ("delivered", None)]
    # Newer progress was sent already: one that fails now is not worth another attempt.
    await store.record([finished(await claim_one(store), Outcome.RETRY, at=clock.now())])
    assert await states(outpost) == [("superseded", 2), ("delivered", None)]
