"""Progress at an endpoint with an interval: spaced out, the last one sent, and the end at once, on both databases."""

from datetime import timedelta

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.store.progress import DONE, STEP, P, states
from tests.store.steps import claim, claim_one, queue


async def test_an_interval_spaces_out_what_is_attempted_and_the_last_one_is_sent(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    assert not (await queue(outpost, store, P)).held
    first_at = clock.now()
    first = await claim_one(store)
    clock.advance(2)
    assert not (await queue(outpost, store, P)).held
    assert (await store.record([finished(first, at=clock.now())])).held
    clock.advance(3)
    assert (await queue(outpost, store, P)).held
    assert not await claim(store)
    last = (await outpost.deliveries())[-1]
    assert (last.state, last.due_at) == ("pending", first_at + timedelta(seconds=10))
    assert await store.make_due(10) == (0, 5.0)
    clock.advance(5)
    assert (await store.make_due(10))[0] == 1
    assert (await claim_one(store)).sequence == 3
    assert await states(outpost) == [("delivered", None), ("superseded", 3), ("sending", None)]


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_interval_counts_from_the_last_attempt_even_of_what_was_superseded_since(
    outpost: Outpost, store: HotStore, clock: FakeClock, ordered: bool
) -> None:
    await outpost.endpoint(progress_interval_s=10.0, ordered=ordered)
    await queue(outpost, store, P)
    attempted_at = clock.now()
    await store.record([finished(await claim_one(store), Outcome.RETRY, at=clock.now(), delay_s=300.0)])
    clock.advance(6)
    await queue(outpost, store, P)
    assert (await outpost.deliveries())[-1].due_at == attempted_at + timedelta(seconds=10)
    clock.advance(100)
    await store.make_due(10)
    await queue(outpost, store, P)
    assert (await outpost.deliveries())[-1].due_at is None
    assert (await claim_one(store)).sequence == 3


async def test_the_end_of_the_job_does_not_wait_for_the_interval(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=3600.0)
    await queue(outpost, store, P)
    await store.record([finished(await claim_one(store), at=clock.now())])
    await queue(outpost, store, P, STEP)
    assert not await claim(store)
    await queue(outpost, store, DONE)
    assert (await claim_one(store)).event_type == STEP


async def test_an_interval_holds_for_each_job_and_for_progress_only(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=3600.0)
    for job_id in ("job_1", "job_2"):
        await queue(outpost, store, P, STEP, STEP, job_id=job_id)
    sent = []
    while batch := await claim(store):
        sent += [(claimed.job_id, claimed.sequence) for claimed in batch]
        await store.record([finished(claimed, at=clock.now()) for claimed in batch])
    assert sorted(sent) == [(job, n) for job in ("job_1", "job_2") for n in (1, 2, 3)]


async def test_progress_that_becomes_its_lanes_head_waits_for_the_interval_too(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    await queue(outpost, store, P)
    first = await claim_one(store)
    await store.record([finished(first, at=clock.now())])
    await queue(outpost, store, STEP, P)
    clock.advance(4)
    assert (await store.record([finished(await claim_one(store), at=clock.now())])).held
    assert (await outpost.deliveries())[-1].due_at == clock.now() + timedelta(seconds=6)
    await queue(outpost, store, STEP, P)
    assert (await outpost.deliveries())[-1].waiting


async def test_progress_that_a_cancelled_head_lets_go_waits_for_the_interval_too(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(progress_interval_s=10.0)
    await queue(outpost, store, P)
    await store.record([finished(await claim_one(store), at=clock.now())])
    await queue(outpost, store, STEP, P)
    assert await outpost.cancel((await outpost.deliveries())[1])
    assert (await outpost.deliveries())[-1].due_at == clock.now() + timedelta(seconds=10)
