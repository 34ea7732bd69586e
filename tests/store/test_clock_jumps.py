"""A wall clock that is set an hour forward or back between two statements: nothing waits for that hour, no lease is
lost by it. On PostgreSQL statements go by the database's clock, which the tests' stands for."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import insert

from dispatcher.rules.verdict import Outcome
from dispatcher.store import duty_rows, redelivery_runs
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

HOUR_S = 3600.0
BOTH_WAYS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])


async def claim(store: HotStore) -> Sequence[Claimed]:
    while (await store.fan_out(10)).events:
        pass
    return (await store.claim(10)).deliveries


@BOTH_WAYS
async def test_what_is_fresh_is_sent_at_once(outpost: Outpost, clock: FakeClock, jump_s: float) -> None:
    async with outpost.store() as store:
        await outpost.endpoint()
        await outpost.publish()
        clock.jump(jump_s)
        assert len(await claim(store)) == 1


@BOTH_WAYS
async def test_a_lease_on_sqlite_ends_by_time_and_not_by_a_jump(
    sqlite_outpost: Outpost, clock: FakeClock, jump_s: float
) -> None:
    async with sqlite_outpost.store(lease_s=10.0) as store:
        await sqlite_outpost.endpoint()
        clock.jump(jump_s)
        # Before the next heartbeat has noticed, too.
        await sqlite_outpost.publish()
        assert len(await claim(store)) == 1
        assert await store.orphans(10) == []
        clock.advance(9)
        assert await store.heartbeat(10.0)
        clock.advance(9)
        await sqlite_outpost.publish()
        (second,) = await claim(store)
        # The first one seems old after a jump forward; the dispatcher that has it in flight knows better.
        assert second.delivery_row not in [orphan.delivery_row for orphan in await store.orphans(10)]
        assert await store.heartbeat(10.0)
        clock.advance(10.5)
        assert not await store.heartbeat(10.0)
        assert len(await store.orphans(10)) == 2


@pytest.mark.parametrize("jump_s", [-HOUR_S, -30.0, -1.0, 0.0, 1.0, 30.0, HOUR_S])
async def test_a_retry_on_sqlite_waits_no_longer_for_a_jump(
    sqlite_outpost: Outpost, clock: FakeClock, jump_s: float
) -> None:
    outpost = sqlite_outpost
    async with outpost.store() as store:
        await outpost.endpoint()
        await outpost.publish()
        (claimed,) = await claim(store)
        await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=300.0)])
        clock.jump(jump_s)
        assert await store.heartbeat(1e8)
        made, waits_s = await store.make_due(10)
    # A second is what a clock may be slewed by: it is not told from time that passes.
    expected = {-HOUR_S: 300, -30.0: 300, -1.0: 301, 0.0: 300, 1.0: 299, 30.0: 270, HOUR_S: None}
    assert (made, waits_s) == (jump_s == HOUR_S, expected[jump_s])


@BOTH_WAYS
async def test_a_hold_of_a_lane_on_sqlite_is_as_long_for_a_jump(
    sqlite_outpost: Outpost, clock: FakeClock, jump_s: float
) -> None:
    async with sqlite_outpost.store() as store:
        await sqlite_outpost.endpoint()
        await sqlite_outpost.publish("a", "b", job_id="job_1")
        (head,) = await claim(store)
        await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=7200.0, hold_s=900.0)])
        clock.jump(jump_s)
        assert await store.pass_lanes(10) == 0
        assert await store.heartbeat(1e8)
        clock.advance(899)
        assert await store.pass_lanes(10) == 0
        clock.advance(1)
        assert await store.pass_lanes(10) == 1
        assert len(await claim(store)) == 1


@BOTH_WAYS
async def test_a_head_in_flight_during_a_jump_holds_its_lane_for_as_long(
    sqlite_outpost: Outpost, clock: FakeClock, jump_s: float
) -> None:
    async with sqlite_outpost.store() as store:
        await sqlite_outpost.endpoint()
        await sqlite_outpost.publish("a", "b", job_id="job_1")
        (head,) = await claim(store)
        await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=10.0, hold_s=900.0)])
        clock.advance(10)
        await store.make_due(10)
        (head,) = await claim(store)
        clock.jump(jump_s)
        assert await store.heartbeat(1e8)
        await store.record([finished(head, Outcome.RETRY, at=clock.now(), delay_s=7200.0, hold_s=900.0)])
        clock.advance(889)
        assert await store.pass_lanes(10) == 0
        clock.advance(1)
        assert await store.pass_lanes(10) == 1


async def test_a_pause_of_an_endpoint_on_sqlite_is_no_longer_for_a_jump(
    sqlite_outpost: Outpost, clock: FakeClock
) -> None:
    async with sqlite_outpost.store() as store:
        endpoint = await sqlite_outpost.endpoint()
        until = clock.now() + timedelta(seconds=60)
        await sqlite_outpost.change("endpoint_state", endpoint.row, paused_until=until)
        await sqlite_outpost.publish()
        assert not await claim(store)
        clock.jump(-HOUR_S)
        assert await store.heartbeat(1e8)
        assert not await claim(store)
        clock.advance(60)
        assert len(await claim(store)) == 1


@BOTH_WAYS
@pytest.mark.parametrize("rate", [0.5, 5.0])
async def test_a_rate_limit_is_not_kept_closed_by_a_jump(
    outpost: Outpost, clock: FakeClock, rate: float, jump_s: float
) -> None:
    async with outpost.store() as store:
        await outpost.endpoint(rate_limit=rate)
        await outpost.publish(*["a"] * 20)
        assert len(await claim(store)) == max(1, int(rate))
        assert not await claim(store)
        clock.jump(jump_s)
        assert await store.heartbeat(1e8)
        assert len(await claim(store)) == max(1, int(rate))
        assert not await claim(store)


@BOTH_WAYS
async def test_a_duty_is_not_put_off_by_a_jump(outpost: Outpost, clock: FakeClock, jump_s: float) -> None:
    database, every_s = outpost.database, {"retention": 60.0, "reclaim": 1.0}
    look = duty_rows.Look(database, {})
    async with database.begin() as connection:
        await duty_rows.ensure(connection, database, every_s)
        assert sorted(await look.needed(connection, every_s)) == ["reclaim", "retention"]
        assert sorted(await duty_rows.take(connection, database, every_s)) == ["reclaim", "retention"]
        assert await look.needed(connection, every_s) == []
    clock.jump(jump_s)
    async with database.begin() as connection:
        assert sorted(await look.needed(connection, every_s)) == ["reclaim", "retention"]
        for name, interval_s in every_s.items():
            assert await duty_rows.take(connection, database, {name: interval_s}) == [name]
            assert await duty_rows.take(connection, database, {name: interval_s}) == []


@BOTH_WAYS
@pytest.mark.parametrize("rate", [0.1, 2.0])
async def test_a_redelivery_at_a_rate_is_not_stopped_by_a_jump(
    outpost: Outpost, clock: FakeClock, rate: float, jump_s: float
) -> None:
    async with outpost.store() as store:
        await outpost.endpoint()
        await outpost.publish(*["a"] * 9)
        for claimed in await claim(store):
            await store.record([finished(claimed, at=clock.now())])
        run = await begin_redelivery(outpost, rate)
        clock.advance(1 / rate)
        assert await stepped(outpost, run) == 1
        assert await stepped(outpost, run) == 0
        clock.jump(jump_s)
        assert await stepped(outpost, run) >= 1
        assert await stepped(outpost, run) == 0


async def begin_redelivery(outpost: Outpost, rate: float) -> int:
    """A run of all deliveries that there are."""
    tables = outpost.tables
    deliveries = await outpost.deliveries()
    async with outpost.database.begin() as connection:
        made = await connection.execute(
            insert(tables.redeliveries)
            .values(matched=len(deliveries), state="running", rate_per_s=rate, created_at=outpost.clock.now())
            .returning(tables.redeliveries.c.row_id)
        )
        run: int = made.scalar_one()
        for row in deliveries:
            await connection.execute(
                insert(tables.redelivery_items).values(
                    redelivery_row=run, event_row=row.event_row, endpoint_row=row.endpoint_row
                )
            )
    return run


async def stepped(outpost: Outpost, run: int) -> int:
    """How many deliveries a step puts back."""
    async with outpost.database.begin() as connection:
        return (await redelivery_runs.step(connection, outpost.database, run)).put_back
