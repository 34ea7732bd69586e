"""What a claim decides before it knows what waits: nobody gets what others could use, nor what was changed since."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.outbox.events import new_event
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Ingested, Straight
from dispatcher.store.postgres import straight as postgres_straight
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered, finished
from tests.store.steps import claim

DESTINATIONS = "LOCK TABLE destinations IN ACCESS EXCLUSIVE MODE"


async def _claimed_at_once(store: HotStore, limit: int = 100) -> Counter[int]:
    """By endpoint what a dispatcher claims before it waits for anything."""
    counts: Counter[int] = Counter()
    for _ in range(20):
        batch = await store.claim(limit)
        counts.update(one.endpoint_row for one in batch.deliveries)
        if not batch.limited:
            return counts
    raise AssertionError("it claims again and again")


async def _backlogs(outpost: Outpost, store: HotStore, waiting: Mapping[str, int]) -> None:
    for event_type, count in waiting.items():
        await outpost.publish(*[event_type] * count)
    await store.fan_out(1000)


async def test_who_could_not_take_what_is_left_takes_nobodys_turn(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight=40) as store:
        for tenant, count in (("more", 25), ("fewer", 11)):
            await outpost.endpoint(tenant=tenant, max_in_flight=100)
            await outpost.publish(*["slow"] * (count + 5), tenant=tenant)
            await store.fan_out(100)
            assert len(await claim(store, count)) == count
        # Four are left, which are kept. One at a time, of the three that have work only the new one may have them.
        new = await outpost.endpoint(tenant="more", event_types=("new",))
        await outpost.publish("new", tenant="more")
        await store.fan_out(100)
        assert [one.endpoint_row for one in await claim(store, 1)] == [new.row]


@pytest.mark.parametrize("waiting", [1, 2, 3])
async def test_what_one_endpoint_of_a_destination_does_not_need_another_gets_at_once(
    outpost: Outpost, waiting: int
) -> None:
    async with outpost.store(max_in_flight_per_destination=6) as store:
        few = await outpost.endpoint("http://127.0.0.1:8000/few", event_types=("few",))
        many = await outpost.endpoint("http://127.0.0.1:8000/many", event_types=("many",))
        await _backlogs(outpost, store, {"few": waiting, "many": 30})
        assert await _claimed_at_once(store, 10) == {few.row: waiting, many.row: 6 - waiting}


async def test_slots_that_one_endpoint_does_not_need_another_gets_at_once(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight=20) as store:
        many = await outpost.endpoint(event_types=("many",))
        await _backlogs(outpost, store, {"many": 30})
        assert len(await claim(store, 10)) == 10
        few = await outpost.endpoint("http://127.0.0.1:8001/", event_types=("few",))
        await _backlogs(outpost, store, {"few": 1})
        # Two are kept.
        assert await _claimed_at_once(store, 10) == {few.row: 1, many.row: 7}


@asynccontextmanager
async def _claiming(
    outpost: Outpost, store: HotStore, obstacle: str, *, limit: int = 1000
) -> AsyncIterator[tuple[AsyncConnection, "asyncio.Task[Counter[int]]"]]:
    """A claim that waits for what this session has locked; its answer by endpoint."""
    async with outpost.database.engine.connect() as session:
        await session.execute(text(obstacle))
        claiming = asyncio.create_task(_claimed_at_once(store, limit))
        await outpost.sees(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE '%dispatcher_claim%'"
        )
        yield session, claiming


@pytest.mark.parametrize("obstacle", ["SELECT FROM endpoint_state FOR UPDATE", DESTINATIONS])
async def test_whatever_a_claim_waits_for_an_endpoint_that_is_paused_meanwhile_is_not_claimed_for(
    postgres_outpost: Outpost, obstacle: str
) -> None:
    outpost = postgres_outpost
    limited = await outpost.endpoint(rate_limit=1000)
    others = [await outpost.endpoint() for _ in range(2)]
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(10)
        async with _claiming(outpost, store, obstacle) as (session, claiming):
            await outpost.change("endpoints", others[0].row, status="paused")
            await session.rollback()
            assert await claiming == {limited.row: 1, others[1].row: 1}


async def test_an_endpoint_that_asks_to_be_left_alone_while_its_tokens_are_waited_for_is_left_alone(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    endpoint = await outpost.endpoint(rate_limit=1000)
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(10)
        async with _claiming(outpost, store, "SELECT FROM endpoint_state FOR UPDATE") as (session, claiming):
            await session.execute(
                outpost.tables.endpoint_state.update().values(paused_until=clock.now() + timedelta(seconds=30))
            )
            await session.commit()
            assert not await claiming
        assert (await outpost.delivery_to(endpoint)).state == "pending"


async def _ends_and_asks_to_be_left_alone(outpost: Outpost, endpoint: Registered, delivery_row: int) -> None:
    """As an outcome does that another process records: it makes room, and nobody may use it."""
    later = outpost.clock.now() + timedelta(seconds=30)
    await outpost.change("deliveries", delivery_row, state="pending", dispatcher_row=None, due_at=later)
    await outpost.change("endpoint_state", endpoint.row, paused_until=later)


async def test_whose_outcome_makes_room_and_asks_to_be_left_alone_is_left_alone(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    endpoint = await outpost.endpoint(max_in_flight=1)
    await outpost.publish("a", "b")
    async with outpost.store() as store:
        await store.fan_out(10)
        (first,) = await claim(store, 10)
        async with _claiming(outpost, store, DESTINATIONS) as (session, claiming):
            await _ends_and_asks_to_be_left_alone(outpost, endpoint, first.delivery_row)
            await session.rollback()
            assert not await claiming


async def test_nothing_is_born_for_whose_outcome_makes_room_and_asks_to_be_left_alone(
    postgres_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    monkeypatch.setattr(postgres_straight, "_LOCK_MS", 60_000)
    endpoint = await outpost.endpoint(max_in_flight=1)
    # What was never reached is not born for.
    await outpost.change("destinations", 1, verified_at=outpost.clock.now())
    async with outpost.store() as store:

        def published() -> "asyncio.Task[Ingested]":
            event = new_event("job.step", "{}", max_payload=100)
            return asyncio.create_task(store.ingest([[event]], Straight(10, ())))

        first = (await published()).claimed
        assert first is not None
        async with outpost.database.engine.connect() as session:
            await session.execute(text(DESTINATIONS))
            publishing = published()
            await outpost.sees(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                " AND query LIKE '%dispatcher_bear%'"
            )
            await _ends_and_asks_to_be_left_alone(outpost, endpoint, first.deliveries[0].delivery_row)
            await session.rollback()
            claimed = (await publishing).claimed
            assert claimed is None or not claimed.deliveries


# The claim counts first what is in flight at the first that it considers, whichever of them that is.
@pytest.mark.parametrize("rows", [(1, 2), (2, 1)])
async def test_who_is_left_over_where_another_was_paused_meanwhile_has_its_own_cap(
    postgres_outpost: Outpost, rows: tuple[int, int]
) -> None:
    outpost = postgres_outpost
    paused, full = [await outpost.endpoint(row_id=row, max_in_flight=1) for row in rows]
    await outpost.publish("a")
    async with outpost.store() as store:
        await store.fan_out(10)
        for claimed in await claim(store, 10):
            if claimed.endpoint_row == paused.row:
                await store.record([finished(claimed, at=outpost.clock.now())])
        await outpost.publish("b")
        await store.fan_out(10)
        # So few that no slot is kept, and what one endpoint may be sent is an expression.
        async with _claiming(outpost, store, DESTINATIONS, limit=10) as (session, claiming):
            await outpost.change("endpoints", paused.row, status="paused")
            await session.rollback()
            assert not await claiming
        assert [row.endpoint_row for row in await outpost.deliveries() if row.state == "sending"] == [full.row]


async def test_how_much_an_endpoint_takes_is_what_is_known_once_its_tokens_were_waited_for(
    postgres_outpost: Outpost,
) -> None:
    outpost = postgres_outpost
    endpoint = await outpost.endpoint(rate_limit=1000)
    await outpost.publish(*["a"] * 20)
    async with outpost.store() as store:
        await store.fan_out(100)
        async with _claiming(outpost, store, "SELECT FROM endpoint_state FOR UPDATE") as (session, claiming):
            await session.execute(outpost.tables.endpoint_state.update().values(takes=2.5))
            await session.commit()
            assert await claiming == {endpoint.row: 2}


async def test_what_an_endpoint_is_that_was_changed_meanwhile_is_asked_again_in_a_moment(
    postgres_outpost: Outpost,
) -> None:
    outpost = postgres_outpost
    endpoint = await outpost.endpoint(rate_limit=1000)
    await outpost.publish()
    async with outpost.store() as store, outpost.database.engine.connect() as session:
        await store.fan_out(10)
        await session.execute(text("SELECT FROM endpoint_state FOR UPDATE"))
        claiming = asyncio.create_task(store.claim(10))
        await outpost.sees(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE '%dispatcher_claim%'"
        )
        await outpost.change("endpoints", endpoint.row, version=2)
        await session.rollback()
        batch = await claiming
        assert (len(batch.deliveries), batch.contended) == (0, True)
        assert [one.endpoint_version for one in await claim(store)] == [2]
