"""Born in flight out of the queue on PostgreSQL: what one statement takes with its deliveries, and what it does not."""

from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import pytest
from asyncpg import QueryCanceledError
from asyncpg.connection import LoggedQuery
from sqlalchemy import insert, text

from dispatcher.states import Profile
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import FannedOut
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres import born_of_queue, marks
from dispatcher.store.postgres.bearer import Bearer
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.straight import GoingStraight
from tests.outpost import Outpost
from tests.store.reads import rows_read
from tests.store.steps import verified

GO = Straight(50, ())


def _claimed(done: FannedOut) -> list[Claimed]:
    return list(done.claimed.deliveries) if done.claimed is not None else []


async def test_what_is_plain_is_taken_with_its_deliveries_claimed(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost, events = postgres_outpost, postgres_outpost.tables.events
    happened_at = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    created_at = outpost.clock.now() - timedelta(minutes=1)
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    endpoints = {
        tenant: await verified(outpost, tenant=tenant, profile=profile)
        for tenant, profile in (("acme", Profile.STANDARD), ("default", Profile.CLOUDEVENTS))
    }
    async with outpost.database.begin() as connection:
        # Two tenants may give the same id.
        for tenant in endpoints:
            await connection.execute(
                insert(events).values(
                    id="a", tenant=tenant, type="job.step", data=f'{{"of": "{tenant}"}}', timestamp=happened_at,
                    created_at=created_at, traceparent=traceparent,
                )
            )  # fmt: skip
    async with outpost.store() as store:
        done = await store.fan_out(10, GO)
        assert born == [True]
        assert (done.events, done.deliveries, sorted(done.rows), list(done.ids)) == (2, 2, [1, 2], ["a", "a"])
        assert {one.endpoint_row: one.data for one in _claimed(done)} == {
            row: f'{{"of": "{tenant}"}}' for tenant, row in endpoints.items()
        }
        for one in _claimed(done):
            assert (one.timestamp, one.created_at, one.traceparent) == (happened_at, created_at, traceparent)
            assert (one.event_id, one.attempt, one.dispatcher_row) == ("a", 1, store.dispatcher_row)
        assert not await outpost.count("fanout_queue")
        assert {(row.state, row.attempts) for row in await outpost.deliveries()} == {("sending", 1)}
        # What nobody wants has left the queue, too; and of nothing nothing is claimed.
        await outpost.publish(tenant="nobody")
        assert (await store.fan_out(10, GO)).claimed is None
        assert await store.fan_out(10, GO) == FannedOut(0, 0)
    assert born == [True, True, True]


async def test_more_than_one_pass_may_take_goes_the_ordinary_way(postgres_outpost: Outpost, born: list[bool]) -> None:
    await verified(postgres_outpost)
    await postgres_outpost.publish(*["job.step"] * 4)
    async with postgres_outpost.store() as store:
        assert (await store.fan_out(3, GO)).events == 3
        assert (await store.fan_out(3, GO)).events == 1
    assert born == [False, False]


async def test_where_looks_were_in_vain_passes_go_by_without_one(
    postgres_outpost: Outpost, born: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost, looks = postgres_outpost, 0
    monkeypatch.setattr(born_of_queue, "MOST_PASSED_OVER", 4)
    await verified(outpost)

    def seen(query: LoggedQuery) -> None:
        nonlocal looks
        looks += "AS flagged" in query.query

    async def listen(driver: Driver) -> None:
        driver.add_query_logger(seen)

    async with outpost.store() as store:
        await store._going_straight.run(listen)  # type: ignore[attr-defined]
        for _ in range(15):
            await outpost.publish(job_id="job_1")
            assert (await store.fan_out(10, GO)).events == 1
        # After the first, the third, the sixth and the eleventh.
        assert looks == 4
        for _ in range(3):
            await outpost.publish()
            await store.fan_out(10, GO)
        # From what is plain on each pass takes a look.
        assert looks == 7
    assert born == [False] * 15 + [True] * 3


async def test_who_fans_out_just_now_keeps_all_others_from_it(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost = postgres_outpost
    await verified(outpost)
    await outpost.publish()
    async with outpost.store() as store, outpost.database.engine.connect() as other:
        await other.execute(text(f"SELECT pg_advisory_xact_lock({outpost.tables.fan_out_lock})"))
        assert (await store.fan_out(10, GO)).contended
        await other.rollback()
        assert await outpost.count("fanout_queue") == 1
        assert len(_claimed(await store.fan_out(10, GO))) == 1
    assert born == [True, True]


@pytest.mark.parametrize(
    "odd",
    [
        "UPDATE events SET timestamp = 'infinity'",
        "UPDATE events SET created_at = '9999-12-31 12:00+00'",
        "DELETE FROM events",
        "UPDATE endpoints SET catch_up = true",
        "UPDATE dispatchers SET leased_until = 'epoch'",
        "UPDATE events SET data = NULL",
        "UPDATE endpoints SET rate_limit = 5",
    ],
)
async def test_what_is_odd_goes_the_ordinary_way(postgres_outpost: Outpost, born: list[bool], odd: str) -> None:
    outpost = postgres_outpost
    await verified(outpost)
    async with outpost.store() as store:
        await outpost.publish()
        async with outpost.database.begin() as connection:
            await connection.execute(text("ALTER TABLE events DROP CONSTRAINT ck_events_timestamp"))
            await connection.execute(text("ALTER TABLE events DROP CONSTRAINT ck_events_created_at"))
            await connection.execute(
                text("ALTER TABLE events DROP CONSTRAINT ck_events_data, ALTER data DROP NOT NULL")
            )
            await connection.execute(text(odd))
        assert (await store.fan_out(10, GO)).events == 1
        assert not await outpost.count("fanout_queue")
    assert born == [False]


@pytest.mark.parametrize("looks", ["_rest", "_bearer.rest"])
async def test_what_has_become_dear_has_its_rest(
    postgres_outpost: Outpost, born: list[bool], monkeypatch: pytest.MonkeyPatch, looks: str
) -> None:
    outpost = postgres_outpost
    await verified(outpost)
    monkeypatch.setattr(marks, "REST", 1e9)
    # So that no real look is.
    monkeypatch.setattr(marks, "DEAR_S", 1e6)
    async with outpost.store() as store:
        rest: marks.Rest = attrgetter(looks)(store._straight._born_of_queue)  # type: ignore[attr-defined]
        for dear in (0, 1, 2):
            for _ in range(dear):
                rest.took(marks.DEAR_S)
            await outpost.publish()
            assert (await store.fan_out(10, GO)).events == 1
    # Dear twice running, which is not by chance.
    assert born == [True, True, False]


async def test_what_there_was_before_is_not_read(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost, history = postgres_outpost, 20_000
    endpoint = await verified(outpost)
    async with outpost.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO events (type, data) SELECT 'job.step', '{}' FROM generate_series(1, :n)"), {"n": history}
        )
        await connection.execute(
            text(
                "INSERT INTO deliveries (event_row, endpoint_row, tenant, state)"
                " SELECT row_id, :endpoint, 'default', 'delivered' FROM events"
            ),
            {"endpoint": endpoint},
        )
        await connection.execute(text("TRUNCATE fanout_queue"))
        await connection.execute(text("ANALYZE"))
    async with outpost.store() as store:
        before = await rows_read(outpost, store)
        for _ in range(10):
            await outpost.publish()
            await store.fan_out(10, GO)
        read = {name: count - before[name] for name, count in (await rows_read(outpost, store)).items()}
    assert born == [True] * 10
    assert max(read.values()) < 200


async def test_what_lies_dead_between_the_first_that_waits_and_the_end_is_part_of_the_looks_time(
    postgres_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = postgres_outpost
    told: list[float] = []
    await verified(outpost, tenant="a")
    async with outpost.store() as store, outpost.database.engine.connect() as open_for_long:
        straight: GoingStraight = store._straight  # type: ignore[attr-defined]
        monkeypatch.setattr(straight._born_of_queue._rest, "took", told.append)
        for _ in range(5):
            await outpost.publish(tenant="a")
            await store.fan_out(10, GO)
        await open_for_long.execute(text("SELECT pg_current_xact_id()"))
        async with outpost.database.begin() as connection:
            await connection.execute(
                text("INSERT INTO fanout_queue (tenant, event_row) SELECT 'z', -n FROM generate_series(1, 300000) AS n")
            )
        async with outpost.database.begin() as connection:
            await connection.execute(text("DELETE FROM fanout_queue"))
        await outpost.publish(tenant="a")
        await store.fan_out(10, GO)
    # 300,000 dead entries are nearly all of it, whatever the machine.
    assert told[-1] > 5 * min(told[:-1])


async def test_what_another_process_took_since_the_look_is_left_to_it_and_told(
    postgres_outpost: Outpost, born: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost, bear = postgres_outpost, Bearer.run
    await verified(outpost)
    async with outpost.store() as store, outpost.store(name="other") as other:

        async def later(*given: Any) -> Any:
            if given[0] is straight._born_of_queue._bearer:
                # One of the two that were seen: it waited for nobody.
                assert (await other.fan_out(1, GO)).events == 1
            return await bear(*given)

        straight: GoingStraight = store._straight  # type: ignore[attr-defined]
        monkeypatch.setattr(Bearer, "run", later)
        await outpost.publish("a", "b")
        done = await store.fan_out(10, GO)
    assert ([one.event_type for one in _claimed(done)], done.events, done.others) == (["b"], 1, True)
    # The other one takes one of several, which goes the ordinary way.
    assert born == [False, True]


async def test_what_is_for_many_endpoints_is_given_up_at_once(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost, many = postgres_outpost, 500
    for number in range(many):
        await verified(outpost, f"http://127.0.0.1:8000/{number}")
    await outpost.publish()
    async with outpost.store() as store:
        straight: GoingStraight = store._straight  # type: ignore[attr-defined]
        before = await rows_read(outpost, store)
        assert not await straight.role.run(
            lambda driver: straight._born_of_queue.run(driver, 10, GO, store.dispatcher_row, None)
        )
        read = {name: count - before[name] for name, count in (await rows_read(outpost, store)).items()}
    assert born == [False]
    assert read["pk_endpoints"] < many / 2


async def test_a_look_that_fails_is_one_in_vain(
    postgres_outpost: Outpost, born: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def fails(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise QueryCanceledError

    monkeypatch.setattr(Bearer, "run", fails)
    await verified(postgres_outpost)
    async with postgres_outpost.store() as store:
        for _ in range(10):
            await postgres_outpost.publish()
            assert (await store.fan_out(10, GO)).events == 1
    # The first, the third and the sixth pass.
    assert tries == 3


async def test_what_else_there_is_to_claim_is_told(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost = postgres_outpost
    await verified(outpost, event_types=("waits",))
    await verified(outpost, event_types=("comes",))
    async with outpost.store() as full, outpost.store(name="other") as other:
        await outpost.publish("waits")
        await full.fan_out(10)
        await outpost.publish("comes")
        done = await other.fan_out(10, GO)
        assert (len(_claimed(done)), done.others, done.left) == (1, True, False)
        await other.claim(10)
        await outpost.publish("comes")
        done = await other.fan_out(10, GO)
        assert (len(_claimed(done)), done.others) == (1, False)
    assert born == [True, True]
