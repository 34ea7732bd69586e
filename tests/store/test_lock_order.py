"""Whoever locks several jobs or the state of several endpoints on PostgreSQL takes the rows in one order, so that no
two deadlock."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy import text

from dispatcher.rules.verdict import Outcome
from dispatcher.states import Reason
from dispatcher.store import transitions
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import Finished, HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

ENDPOINTS = 20
Started = Callable[[], Awaitable[object]]
Work = Callable[[HotStore, Outpost], Awaitable[Started]]


async def _claimed(store: HotStore, outpost: Outpost) -> Sequence[Claimed]:
    await outpost.publish()
    await store.fan_out(10)
    return (await store.claim(10 * ENDPOINTS)).deliveries


async def _claim(store: HotStore, outpost: Outpost) -> Started:
    await outpost.publish()
    await store.fan_out(10)
    return lambda: store.claim(10 * ENDPOINTS)


def _record(*outcomes: Outcome, watched: bool = True) -> Work:
    async def prepare(store: HotStore, outpost: Outpost) -> Started:
        if not watched:
            # Once verified, what all went well is recorded in one statement.
            now = outpost.clock.now()
            await store.record([finished(one, at=now) for one in await _claimed(store, outpost)])
            for row in await outpost.rows("endpoint_state", "endpoint_row"):
                await outpost.change("endpoint_state", row.endpoint_row, last_success_at=None)
        claimed = await _claimed(store, outpost)
        assert len(claimed) == ENDPOINTS
        assert {one.watched for one in claimed} == {watched}
        ends: list[Finished] = []
        # Not in the order of their rows.
        for n, one in enumerate(sorted(claimed, key=lambda one: -one.endpoint_row)):
            ends.append(finished(one, outcomes[n % len(outcomes)], at=outpost.clock.now()))
        return lambda: store.record(ends)

    return prepare


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(_claim, id="a claim of limited endpoints"),
        pytest.param(_record(Outcome.DELIVERED, watched=False), id="a record of successes"),
        pytest.param(_record(Outcome.RETRY), id="a record of failures"),
        pytest.param(_record(Outcome.DELIVERED, Outcome.RETRY), id="a record of both"),
    ],
)
async def test_who_waits_for_the_first_holds_none_of_the_others(
    postgres_outpost: Outpost, clock: FakeClock, prepare: Work
) -> None:
    outpost = postgres_outpost
    rows = sorted([(await outpost.endpoint(rate_limit=100.0, ordered=False)).row for _ in range(ENDPOINTS)])
    lock = "SELECT endpoint_row FROM endpoint_state WHERE endpoint_row"
    async with outpost.store() as store:
        work = await prepare(store, outpost)
        async with outpost.database.begin() as connection:
            await connection.execute(text(f"{lock} = :row FOR NO KEY UPDATE"), {"row": rows[0]})
            working = asyncio.ensure_future(work())
            async with asyncio.timeout(20), outpost.database.read() as watching:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not (await watching.execute(waits)).scalar_one():
                    assert not working.done()
            others = await connection.execute(text(f"{lock} > :row FOR NO KEY UPDATE NOWAIT"), {"row": rows[0]})
            assert len(others.all()) == ENDPOINTS - 1
        await working


async def _fan_out_again(store: HotStore, outpost: Outpost) -> Started:
    for n in range(ENDPOINTS + 1):
        await outpost.publish(job_id=f"job_{n:02}")
    return lambda: store.fan_out(ENDPOINTS + 1)


def _end(*outcomes: Outcome) -> Work:
    async def prepare(store: HotStore, outpost: Outpost) -> Started:
        claimed = (await store.claim(10 * ENDPOINTS)).deliveries
        assert len(claimed) == ENDPOINTS
        ends = [finished(one, outcomes[n % len(outcomes)], at=outpost.clock.now()) for n, one in enumerate(claimed)]
        return lambda: store.record(ends)

    return prepare


async def _give_back(store: HotStore, outpost: Outpost) -> Started:
    claimed = (await store.claim(10 * ENDPOINTS)).deliveries
    return lambda: store.release(claimed)


async def _cancel_all(store: HotStore, outpost: Outpost) -> Started:
    endpoint_row = (await outpost.rows("endpoints"))[0].row_id

    async def cancel() -> None:
        async with outpost.database.begin() as connection:
            await transitions.cancel_endpoint(connection, outpost.database, endpoint_row, Reason.OPERATOR)

    return cancel


async def _put_all_back(store: HotStore, outpost: Outpost) -> Started:
    rows = await outpost.deliveries()
    return lambda: outpost.put_back(*rows)


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(_fan_out_again, id="fan-out"),
        pytest.param(_end(Outcome.DELIVERED), id="a record of successes"),
        pytest.param(_end(Outcome.DELIVERED, Outcome.RETRY), id="a record of both"),
        pytest.param(_give_back, id="a release"),
        pytest.param(_cancel_all, id="a cancellation"),
        pytest.param(_put_all_back, id="a redelivery"),
    ],
)
async def test_who_waits_for_the_first_job_holds_none_of_the_others(
    postgres_outpost: Outpost, clock: FakeClock, prepare: Work
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(max_in_flight=ENDPOINTS)
    # Neither limited nor new, so that successes are recorded in one statement.
    await outpost.change("destinations", 1, verified_at=clock.now())
    async with outpost.store() as store:
        # The later a job begins, the earlier its name.
        for n in reversed(range(1, ENDPOINTS + 1)):
            await outpost.publish(job_id=f"job_{n:02}")
            await store.fan_out(1)
        work = await prepare(store, outpost)
        async with outpost.database.begin() as connection:
            await connection.execute(text("SELECT row_id FROM jobs WHERE job_id = 'job_01' FOR NO KEY UPDATE"))
            working = asyncio.ensure_future(work())
            async with asyncio.timeout(20), outpost.database.read() as watching:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not (await watching.execute(waits)).scalar_one():
                    assert not working.done()
            others = text("SELECT row_id FROM jobs WHERE job_id > 'job_01' FOR NO KEY UPDATE NOWAIT")
            assert len((await connection.execute(others)).all()) == ENDPOINTS - 1
        await working
