"""Retention: what has settled long ago goes; what waits, and what a dead letter needs, stays."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from dispatcher.rules.verdict import Outcome
from dispatcher.states import EndpointStatus
from dispatcher.store import partitions, retention
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished

DAY_S = 86400.0


async def _drop_events(outpost: Outpost, days: float) -> None:
    before = outpost.clock.now() - timedelta(days=days)
    cursor = 0
    while True:
        async with outpost.database.begin() as connection:
            cursor = await retention.drop_events(connection, outpost.database, before, cursor)
        if not cursor:
            return


async def _publish_and_end(outpost: Outpost, store: HotStore, event_type: str, outcome: Outcome | None) -> None:
    await outpost.publish(event_type, job_id=f"job_{event_type}")
    await store.fan_out(10)
    if outcome is not None:
        claimed = (await store.claim(10)).deliveries
        await store.record([finished(one, outcome, at=outpost.clock.now()) for one in claimed])


async def test_old_events_go_with_all_that_is_theirs_and_what_is_needed_stays(
    outpost: Outpost, store: HotStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    await outpost.endpoint()
    await _publish_and_end(outpost, store, "dead", Outcome.DEAD)
    await _publish_and_end(outpost, store, "delivered", Outcome.DELIVERED)
    await _publish_and_end(outpost, store, "delivered.too", Outcome.DELIVERED)
    await _publish_and_end(outpost, store, "waits", Outcome.RETRY)
    clock.advance(DAY_S)
    await _publish_and_end(outpost, store, "young", Outcome.DELIVERED)
    clock.advance(-DAY_S)
    await outpost.publish("queued")
    clock.advance(30.5 * DAY_S)
    await _drop_events(outpost, 30)
    kept = {row.row_id: row.type for row in await outpost.rows("events")}
    assert sorted(kept.values()) == ["dead", "queued", "waits", "young"]
    assert {row.event_row for row in await outpost.rows("deliveries")} <= kept.keys()
    assert {row.event_row for row in await outpost.rows("job_events", "event_row")} <= kept.keys()
    if outpost.database.dialect == "sqlite":
        left = {row.row_id for row in await outpost.deliveries()}
        assert {row.delivery_row for row in await outpost.attempts()} <= left


async def test_a_dead_letter_goes_later_and_its_event_with_the_next_round(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await _publish_and_end(outpost, store, "dead", Outcome.DEAD)
    clock.advance(89 * DAY_S)

    async def drop_letters() -> int:
        async with outpost.database.begin() as connection:
            return await retention.drop_dead_letters(connection, outpost.database, clock.now() - timedelta(days=90))

    assert await drop_letters() == 0
    clock.advance(2 * DAY_S)
    assert await drop_letters() == 1
    await _drop_events(outpost, 30)
    assert await outpost.count("events") == 0
    assert await outpost.count("deliveries") == 0


async def test_jobs_go_when_none_of_their_events_is_left(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await _publish_and_end(outpost, store, "delivered", Outcome.DELIVERED)
    await _publish_and_end(outpost, store, "dead", Outcome.DEAD)
    clock.advance(31 * DAY_S)
    await _drop_events(outpost, 30)
    async with outpost.database.begin() as connection:
        await retention.drop_jobs(connection, outpost.database, clock.now() - timedelta(days=30))
    assert [row.job_id for row in await outpost.rows("jobs")] == ["job_dead"]


async def test_a_job_that_goes_on_while_it_is_to_be_deleted_stays(postgres_outpost: Outpost, clock: FakeClock) -> None:
    outpost = postgres_outpost
    async with outpost.store() as store:
        await _publish_and_end(outpost, store, "delivered", Outcome.DELIVERED)
        clock.advance(31 * DAY_S)
        await _drop_events(outpost, 30)
        async with outpost.database.begin() as fanning_out:
            jobs = outpost.tables.jobs
            await fanning_out.execute(update(jobs).values(last_sequence=2, updated_at=clock.now()))

            async def drop() -> None:
                async with outpost.database.begin() as connection:
                    await retention.drop_jobs(connection, outpost.database, clock.now() - timedelta(days=30))

            dropping = asyncio.ensure_future(drop())
            async with asyncio.timeout(20), outpost.database.read() as watching:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not (await watching.execute(waits)).scalar_one():
                    assert not dropping.done()
        await dropping
    assert [row.last_sequence for row in await outpost.rows("jobs")] == [2]


async def test_deleted_endpoints_go_when_no_delivery_names_them(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    named, unnamed, alive = await outpost.endpoint(), await outpost.endpoint(tenant="acme"), await outpost.endpoint()
    await _publish_and_end(outpost, store, "delivered", Outcome.DELIVERED)
    for endpoint in (named, unnamed):
        await outpost.change("endpoints", endpoint.row, status=EndpointStatus.DISABLED, deleted_at=clock.now())
    clock.advance(31 * DAY_S)
    async with outpost.database.begin() as connection:
        before = clock.now() - timedelta(days=30)
        assert await retention.drop_endpoints(connection, outpost.database, before) == 1
    assert {row.row_id for row in await outpost.rows("endpoints")} == {named.row, alive.row}


async def test_the_attempt_logs_old_days_are_dropped_whole(postgres_outpost: Outpost, clock: FakeClock) -> None:
    database = postgres_outpost.database
    async with database.begin() as connection:
        await connection.run_sync(partitions.create_partitions, database.tables, clock.now().date())
    clock.advance(10 * DAY_S)
    async with database.begin() as connection:
        await connection.run_sync(partitions.create_partitions, database.tables, clock.now().date())
        days = await connection.run_sync(partitions.list_partitions, database.tables)
        before = (clock.now() - timedelta(days=3)).date()
        dropped = await connection.run_sync(retention.drop_attempts, database.tables, before)
        left = await connection.run_sync(partitions.list_partitions, database.tables)
    assert dropped == len([day for day, _ in days if day < before]) > 0
    assert [day for day, _ in left] == [day for day, _ in days if day >= before]


async def test_an_attempt_of_a_day_without_a_partition_is_kept_all_the_same(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    async with outpost.store() as store:
        await outpost.endpoint()
        clock.advance(-400 * DAY_S)
        await _publish_and_end(outpost, store, "a", Outcome.DELIVERED)
        assert len(await outpost.attempts()) == 1
        async with outpost.database.begin() as connection:
            await connection.run_sync(partitions.create_partitions, outpost.tables, clock.now().date())
        assert len(await outpost.attempts()) == 1
