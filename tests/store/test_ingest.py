"""Ingest: groups of events that share a transaction, and may be claimed by it; the same on both databases."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import text

from dispatcher.errors import IdempotencyConflict, InvalidField, StoreUnavailable
from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Ingested, Straight
from tests.outpost import Outpost

GO = Straight(50, ())


def event(data: str = "{}", **given: Any) -> NewEvent:
    return new_event("job.step", data, max_payload=10_000, **given)


def claimed(done: Ingested) -> list[Claimed]:
    assert done.claimed is not None
    return list(done.claimed.deliveries)


async def stored_ids(outpost: Outpost) -> list[str]:
    return [row.id for row in await outpost.rows("events")]


async def test_what_is_stored_is_answered_with_its_time(store: HotStore, outpost: Outpost) -> None:
    groups = [[event(id="a")], [event(id="b"), event(id="c", tenant="acme")]]
    done = await store.ingest(groups, None)
    rows = await outpost.rows("events")
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert list(done.new) == [row.row_id for row in rows]
    assert done.fanned_out is None
    assert list(done.answers) == [
        {("default", "a"): rows[0].created_at},
        {("default", "b"): rows[1].created_at, ("acme", "c"): rows[2].created_at},
    ]
    assert await outpost.count("fanout_queue") == 3


async def test_every_field_is_kept(store: HotStore, outpost: Outpost) -> None:
    given = event(
        '{"n":1.10,"n":"\\u0000é"}',
        id="a",
        job_id="job_1",
        kind="progress",
        timestamp="2020-01-02T03:04:05.678901Z",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    await store.ingest([[given]], None)
    (row,) = await outpost.rows("events")
    assert (row.type, row.data, row.job_id, row.kind) == ("job.step", given.data, "job_1", "progress")
    assert (row.timestamp, row.traceparent) == (given.timestamp, given.traceparent)


@pytest.mark.parametrize("straight", [None, GO])
async def test_one_group_s_conflict_leaves_the_others(
    store: HotStore, outpost: Outpost, straight: Straight | None
) -> None:
    await store.ingest([[event("1", id="taken")]], None)
    done = await store.ingest(
        [
            [event("2")],
            [event("2", id="taken")],
            [event("1", id="taken")],
            [event("3", id="x"), event("2", id="taken")],
            [event("3", id="x")],
            [event("4", id="twice")],
            [event("5", id="twice")],
            [event("4", id="twice")],
        ],
        straight,
    )
    kinds = [isinstance(answer, Mapping) for answer in done.answers]
    assert kinds == [True, False, True, False, True, True, False, True]
    assert all(isinstance(done.answers[place], IdempotencyConflict) for place in (1, 3, 6))
    assert done.answers[5] == done.answers[7]
    assert [row.data for row in await outpost.rows("events")] == ["1", "2", "3", "4"]


async def test_an_event_that_the_database_refuses_leaves_the_others(store: HotStore, outpost: Outpost) -> None:
    # Past the checks that every door makes.
    wrong = NewEvent("w", "default", "no type!", "{}", None, None, None, None, None)
    done = await store.ingest([[event(id="a")], [wrong], [event(id="b"), wrong], [event(id="c")]], GO)
    assert [isinstance(answer, InvalidField) for answer in done.answers] == [False, True, True, False]
    assert await stored_ids(outpost) == ["a", "c"]
    assert "no type!" not in str(done.answers[1])


async def test_what_goes_straight_is_claimed_by_the_same_transaction(store: HotStore, outpost: Outpost) -> None:
    endpoint = await outpost.endpoint()
    done = await store.ingest([[event(id="a", job_id="job_1")], [event(id="b")]], GO)
    assert done.fanned_out is not None
    assert (done.fanned_out.events, done.fanned_out.deliveries, len(done.fanned_out.jobs)) == (2, 2, 1)
    assert [(one.event_id, one.sequence, one.attempt, one.endpoint_row) for one in claimed(done)] == [
        ("a", 1, 1, endpoint.row),
        ("b", None, 1, endpoint.row),
    ]
    assert all(one.dispatcher_row == store.dispatcher_row for one in claimed(done))
    assert [row.state for row in await outpost.deliveries()] == ["sending", "sending"]
    assert await outpost.count("fanout_queue") == 0


async def test_what_waited_goes_first(store: HotStore, outpost: Outpost) -> None:
    await outpost.endpoint()
    await outpost.publish("job.step", job_id="job_1")
    done = await store.ingest([[event(id="later", job_id="job_1")]], GO)
    (first,) = claimed(done)
    assert (first.sequence, first.event_id != "later") == (1, True)
    assert [row.waiting for row in await outpost.deliveries()] == [False, True]


async def test_what_others_took_the_place_of_is_said_to_wait(store: HotStore, outpost: Outpost) -> None:
    await outpost.publish(*["job.step"] * 5, tenant="acme")
    done = await store.ingest([[event() for _ in range(20)]], GO)
    assert done.fanned_out is not None
    # Tenants take turns, so these are the five of another, and fifteen.
    assert done.fanned_out.events == len(done.new) == 20
    assert await outpost.count("fanout_queue") == 5
    assert done.queued
    assert not (await store.ingest([[event()]], GO)).queued


async def test_caps_pauses_and_a_lost_lease_hold(outpost: Outpost) -> None:
    await outpost.endpoint("http://127.0.0.1:8000/capped", max_in_flight=1)
    paused = await outpost.endpoint("http://127.0.0.1:8000/paused", event_types=("job.step",))
    await outpost.change("endpoints", paused.row, status="paused")
    async with outpost.store() as store:
        assert len(claimed(await store.ingest([[event()], [event()]], GO))) == 1
        assert not claimed(await store.ingest([[event()]], GO))
        await store.retire()
        assert not claimed(await store.ingest([[event()]], Straight(50, ())))
    assert [row.state for row in await outpost.deliveries()].count("sending") == 1
    assert await outpost.count("deliveries") == 8


async def test_a_terminal_event_supersedes_on_its_way(store: HotStore, outpost: Outpost) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish("job.progress", job_id="job_1")
    await store.fan_out(10)
    done = await store.ingest([[new_event("job.completed", "{}", max_payload=99, job_id="job_1")]], GO)
    assert done.fanned_out is not None
    assert done.fanned_out.superseded == 1
    assert [one.event_type for one in claimed(done)] == ["job.completed"]


async def test_what_cannot_be_fanned_out_is_stored_all_the_same(store: HotStore, outpost: Outpost) -> None:
    await outpost.endpoint()
    async with outpost.database.begin() as connection:
        await connection.execute(
            outpost.tables.jobs.insert().values(
                tenant="default", job_id="job_1", last_sequence=-5, updated_at=outpost.clock.now()
            )
        )
    done = await store.ingest([[event(id="a", job_id="job_1")], [event(id="b")]], GO)
    assert all(isinstance(answer, Mapping) for answer in done.answers)
    assert done.fanned_out is None
    assert await stored_ids(outpost) == ["a", "b"]
    assert await outpost.count("fanout_queue") == 2
    assert await outpost.count("deliveries") == 0


async def test_two_who_publish_the_same_id_at_once_agree(outpost: Outpost) -> None:
    await outpost.endpoint()
    async with outpost.store() as one, outpost.store(name="other") as other:
        answers = await asyncio.gather(
            *(one_of.ingest([[event("1", id=f"e{n}")]], GO) for n in range(5) for one_of in (one, other))
        )
    assert sum(len(done.new) for done in answers) == 5
    assert all(isinstance(done.answers[0], Mapping) for done in answers)
    assert sorted(await stored_ids(outpost)) == [f"e{n}" for n in range(5)]


async def test_an_id_that_a_producer_s_open_transaction_holds_keeps_nobody_else(postgres_outpost: Outpost) -> None:
    outpost, now = postgres_outpost, postgres_outpost.clock.now()
    async with outpost.store() as store:
        async with outpost.database.begin() as connection:
            await connection.execute(
                outpost.tables.events.insert().values(
                    id="held", tenant="default", type="job.step", data="{}", timestamp=now, created_at=now
                )
            )
            done = await store.ingest([[event(id="a")], [event(id="held")], [event(id="b")]], GO)
            assert [isinstance(answer, StoreUnavailable) for answer in done.answers] == [False, True, False]
            with pytest.raises(StoreUnavailable, match="has not ended"):
                await store.ingest([[event(id="held")]], None)
            assert len(done.new) == 2
        done = await store.ingest([[event(id="held")], [event(id="a")]], GO)
        assert all(isinstance(answer, Mapping) for answer in done.answers)
    assert sorted(await stored_ids(outpost)) == ["a", "b", "held"]


async def test_who_is_kept_from_the_fan_out_stores_and_says_so(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    await outpost.endpoint()
    async with outpost.store() as store:
        async with outpost.database.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({outpost.tables.fan_out_lock})"))
            done = await store.ingest([[event(id="a")]], GO)
            assert (await store.fan_out(10)).contended
        assert done.fanned_out is not None
        assert done.fanned_out.contended
        assert done.claimed is None
        assert (await store.fan_out(10)).deliveries == 1


async def test_a_lock_in_the_way_leaves_the_events_in_the_queue(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    await outpost.endpoint()
    async with outpost.store() as store:
        await store.ingest([[event(job_id="job_1")]], GO)
        async with outpost.database.begin() as connection:
            await connection.execute(text(f"SELECT FROM {outpost.tables.name('jobs')} FOR UPDATE"))
            done = await store.ingest([[event(id="a", job_id="job_1")]], GO)
        assert isinstance(done.answers[0], Mapping)
        assert done.fanned_out is None
        assert await outpost.count("fanout_queue") == 1
