"""Leases: a dispatcher's right to what it claimed, renewed, lost and taken over, on both databases."""

import asyncio
from datetime import timedelta

from sqlalchemy import text

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState
from dispatcher.store import leftovers
from dispatcher.store.hot import LONGER_THAN_ANY_ATTEMPT_S, HotStore, Orphan
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost, finished


async def test_a_lease_is_renewed_while_it_lasts_and_not_afterwards(outpost: Outpost, clock: FakeClock) -> None:
    async with outpost.store(lease_s=10.0) as store:
        clock.advance(9)
        assert await store.heartbeat(10.0)
        clock.advance(9)
        assert await store.heartbeat(10.0)
        clock.advance(10.5)
        assert not await store.heartbeat(10.0)
        lost = store.dispatcher_row
        await store.enrol("again", 10.0)
        assert store.dispatcher_row != lost
        assert await store.heartbeat(10.0)


async def test_a_lease_is_renewed_while_other_housekeeping_waits_for_a_lock(postgres_outpost: Outpost) -> None:
    async with postgres_outpost.store(lease_s=10.0) as store:
        async with postgres_outpost.database.begin() as connection:
            await connection.execute(text("LOCK TABLE deliveries"))
            waiting = asyncio.create_task(store.make_due(10))
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE_S):
                assert await store.heartbeat(10.0)
            assert not waiting.done()
        await waiting


async def test_deliveries_of_a_dispatcher_whose_lease_lasts_are_no_orphans(outpost: Outpost, clock: FakeClock) -> None:
    async with outpost.store(lease_s=10.0) as store:
        endpoint = await outpost.endpoint()
        await outpost.publish(job_id="job_1")
        await store.fan_out(10)
        (claimed,) = (await store.claim(10)).deliveries
        claimed_at = clock.now()
        clock.advance(9)
        assert not await store.orphans(10)
        clock.advance(2)
        assert list(await store.orphans(10)) == [
            Orphan(
                delivery_row=claimed.delivery_row,
                endpoint_row=endpoint.row,
                dispatcher_row=store.dispatcher_row,
                attempt=1,
                failures=0,
                interruptions=0,
                lane=claimed.lane,
                claimed_at=claimed_at,
            )
        ]


async def test_what_stands_in_a_dispatchers_name_is_what_it_claimed_and_has_not_recorded(
    outpost: Outpost, clock: FakeClock
) -> None:
    async with outpost.store() as store:
        await outpost.endpoint()
        await outpost.publish(*["note"] * 3)
        await store.fan_out(10)
        first, second = (await store.claim(2)).deliveries
        await store.record([finished(first, at=clock.now())])
        assert [(orphan.delivery_row, orphan.attempt) for orphan in await store.claimed()] == [(second.delivery_row, 1)]
        await store.enrol("again", 10.0)
        assert not await store.claimed()


async def test_an_orphan_that_was_taken_over_is_out_of_reach_of_its_first_dispatcher(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    async with outpost.store(lease_s=10.0) as stalled, outpost.store() as other:
        await outpost.endpoint()
        await outpost.publish()
        await stalled.fan_out(10)
        (claimed,) = (await stalled.claim(10)).deliveries
        clock.advance(11)
        (orphan,) = await other.orphans(10)
        assert orphan.delivery_row == claimed.delivery_row
        interruption = finished(claimed, Outcome.INTERRUPTED, at=clock.now())
        assert not (await other.record([interruption])).lost
        (again,) = (await other.claim(10)).deliveries
        assert (again.attempt, again.interruptions, again.failures) == (2, 1, 0)
        assert (await stalled.record([finished(claimed, at=clock.now())])).lost == {claimed.delivery_row}
        assert not (await other.record([finished(again, at=clock.now())])).lost
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    assert [(row.number, row.error) for row in await outpost.attempts()] == [(1, AttemptError.INTERRUPTED), (2, None)]


async def test_a_retired_dispatchers_row_is_gone_and_others_stay(postgres_outpost: Outpost) -> None:
    async with postgres_outpost.store(name="one") as one, postgres_outpost.store(name="other"):
        await one.retire()
        assert [row.name for row in await postgres_outpost.rows("dispatchers")] == ["other"]


async def test_dispatchers_that_ended_long_ago_are_forgotten(postgres_outpost: Outpost, clock: FakeClock) -> None:
    async with postgres_outpost.store(name="gone", lease_s=10.0):
        clock.advance(timedelta(hours=2).total_seconds())
        async with postgres_outpost.store(name="new"):
            assert [row.name for row in await postgres_outpost.rows("dispatchers")] == ["new"]


async def test_on_sqlite_a_new_dispatcher_means_that_the_last_one_is_dead(sqlite_outpost: Outpost) -> None:
    async with sqlite_outpost.store(name="killed") as killed:
        await sqlite_outpost.endpoint()
        await sqlite_outpost.publish()
        await killed.fan_out(10)
        await killed.claim(10)
        async with sqlite_outpost.store(name="new") as new:
            assert len(await new.orphans(10)) == 1
            assert [row.name for row in await sqlite_outpost.rows("dispatchers")] == ["new"]


async def test_what_is_sending_for_longer_than_any_attempt_is_an_orphan_though_its_dispatcher_lives(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await outpost.publish()
    await store.fan_out(10)
    # The answer to this claim is lost: nobody will ever record an outcome.
    (claimed,) = (await store.claim(10)).deliveries
    clock.advance(LONGER_THAN_ANY_ATTEMPT_S - 1)
    assert not await store.orphans(10)
    clock.advance(2)
    assert [orphan.delivery_row for orphan in await store.orphans(10)] == [claimed.delivery_row]


async def test_what_a_dead_dispatcher_left_is_looked_for_at_once(outpost: Outpost, clock: FakeClock) -> None:
    async def looked_for() -> bool:
        return await outpost.holds(leftovers.nobodys)

    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store(lease_s=5.0) as dead:
        await dead.fan_out(1)
        await dead.claim(1)
        assert not await looked_for()
    clock.advance(6)
    # Whoever follows on SQLite forgets the row of the one before.
    async with outpost.store() as other:
        assert len(await other.orphans(10)) == 1
        assert await looked_for()
