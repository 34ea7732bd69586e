"""Born in flight on PostgreSQL: what goes straight by one statement, and what does not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import text

from dispatcher.outbox.events import new_event
from dispatcher.rules.new_events import NewEvent
from dispatcher.rules.verdict import Outcome
from dispatcher.states import Profile
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from dispatcher.store.ingest import Ingested, Straight
from dispatcher.store.postgres.connection import Role
from tests.outpost import Outpost, finished
from tests.store.steps import verified

GO = Straight(50, ())
_OTHER = 99
_TABLES = ("events", "fanout_queue", "jobs", "job_events", "deliveries", "endpoint_state", "destinations", "endpoints")

Bear = Callable[..., Awaitable[Ingested | None]]


def event(**given: Any) -> NewEvent:
    return new_event("job.step", "{}", max_payload=10_000, **given)


def claimed(done: Ingested) -> Sequence[Claimed]:
    return done.claimed.deliveries if done.claimed is not None else ()


async def test_what_is_plain_is_stored_and_claimed_and_never_queued(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    outpost = postgres_outpost
    endpoint = await verified(outpost, profile=Profile.CLOUDEVENTS)
    given = event(id="a", timestamp="2020-01-02T03:04:05.678901+02:00")
    async with outpost.store() as store:
        done = await store.ingest([[given], [event(id="b")]], GO)
        assert born == [True]
        assert not done.queued
        assert done.fanned_out is not None
        assert (done.fanned_out.events, done.fanned_out.deliveries) == (2, 2)
        first, second = claimed(done)
        assert (first.event_id, second.event_id, first.attempt) == ("a", "b", 1)
        assert first.timestamp.tzinfo is UTC
        assert first.timestamp == given.timestamp
        assert await outpost.count("fanout_queue") == 0
        rows = await outpost.deliveries()
        assert [(row.state, row.attempts, row.dispatcher_row) for row in rows] == [("sending", 1, 1)] * 2
        assert [row.body_profile for row in rows] == [one.body_profile for one in (first, second)]
        # What comes of it is recorded as of any claim, and what is due again is claimed by the ordinary one.
        await store.record([finished(first, at=outpost.clock.now())])
        await store.record([finished(second, Outcome.INTERRUPTED, at=outpost.clock.now())])
        (again,) = (await store.claim(10)).deliveries
        assert (again.event_id, again.attempt, again.interruptions) == ("b", 2, 1)
        assert again.body_profile == second.body_profile
        assert again.endpoint_row == endpoint


async def test_an_event_that_nobody_wants_is_stored_and_never_queued(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    async with postgres_outpost.store() as store:
        done = await store.ingest([[event(id="a")]], GO)
    assert born == [True]
    assert not done.queued
    assert await postgres_outpost.count("events") == 1
    assert await postgres_outpost.count("fanout_queue") == 0


async def test_what_an_event_repeats_is_answered_beside_what_is_born(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    await verified(postgres_outpost)
    async with postgres_outpost.store() as store:
        (before,) = (await store.ingest([[event(id="a")]], GO)).answers
        done = await store.ingest([[event(id="a")], [event(id="b")]], GO)
        assert born == [True, True]
        assert [one.event_id for one in claimed(done)] == ["b"]
        assert done.answers[0] == before
        assert len(done.new) == 1


async def test_what_one_session_is_told_not_to_queue_is_queued_for_the_next_statement(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    # The same connection stores both: what tells the trigger so must not outlive the statement.
    endpoint = await verified(postgres_outpost)
    async with postgres_outpost.store() as store:
        await store.ingest([[event(id="a")]], GO)
        await postgres_outpost.change("endpoints", endpoint, status="paused")
        done = await store.ingest([[event(id="b")]], GO)
    assert born == [True, False]
    assert done.fanned_out is not None
    assert [row.state for row in await postgres_outpost.deliveries()] == ["sending", "pending"]


async def test_caps_hold_over_processes_that_bear_at_once(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost = postgres_outpost
    await verified(outpost, max_in_flight=3)
    async with outpost.store() as one, outpost.store(name="two") as two, outpost.store(name="three") as three:
        for _ in range(5):
            await asyncio.gather(*(store.ingest([[event()]], GO) for store in (one, two, three)))
    states = [row.state for row in await outpost.deliveries()]
    assert states.count("sending") == 3
    assert len(states) + await outpost.count("fanout_queue") == 15
    assert True in born
    assert False in born


async def test_what_an_endpoint_was_sent_before_is_not_read(postgres_outpost: Outpost, born: list[bool]) -> None:
    outpost, history = postgres_outpost, 20_000
    endpoint = await verified(outpost)
    async with outpost.database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO deliveries (event_row, endpoint_row, tenant, state)"
                " SELECT -n, :endpoint, 'default', 'delivered' FROM generate_series(1, :history) AS n"
            ),
            {"endpoint": endpoint, "history": history},
        )
        await connection.execute(text("ANALYZE"))
    async with outpost.store() as store:
        before = await _read(outpost, store)
        for _ in range(10):
            await store.ingest([[event()]], GO)
        read = await _read(outpost, store) - before
    assert born == [True] * 10
    assert read < 500


async def _read(outpost: Outpost, store: HotStore) -> int:
    """Rows of `deliveries` that were looked at so far, by an index or without."""
    role: Role = store._going_straight  # type: ignore[attr-defined]
    await role.run(lambda driver: driver.execute("SELECT pg_stat_force_next_flush()"))
    asked = text(
        "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'deliveries')"
        " + (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'deliveries')"
    )
    async with outpost.database.read() as connection:
        return int((await connection.execute(asked)).scalar_one())


async def test_there_must_be_room_for_all_and_what_has_ended_takes_none(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    endpoint = await verified(postgres_outpost, max_in_flight=3)
    async with postgres_outpost.store() as store:
        (first,) = claimed(await store.ingest([[event()]], GO))
        await postgres_outpost.change("endpoint_state", endpoint, takes=1.5)
        over = Straight(50, [(first.delivery_row, first.attempt)])
        (second,) = claimed(await store.ingest([[event()]], over))
        assert not claimed(await store.ingest([[event()]], over))
        assert born == [True, True, False]
        await postgres_outpost.change("endpoint_state", endpoint, takes=None)
        (third,) = claimed(await store.ingest([[event()]], Straight(1, [(first.delivery_row, first.attempt)])))
        assert len({first.delivery_row, second.delivery_row, third.delivery_row}) == 3


async def test_there_must_be_room_at_a_destination_for_all_of_its_endpoints(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    for url in ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/b", "http://127.0.0.2:8000/"):
        await verified(postgres_outpost, url)
    async with postgres_outpost.store(max_in_flight_per_destination=3) as store:
        assert len(claimed(await store.ingest([[event()]], GO))) == 3
        # One more has room at the destination of two.
        assert len(claimed(await store.ingest([[event()]], GO))) == 2
    assert born == [True, False]


async def test_what_waits_in_the_queue_is_taken_along_by_an_event_that_nobody_wants(
    postgres_outpost: Outpost, born: list[bool]
) -> None:
    await verified(postgres_outpost, event_types=("waits",))
    await postgres_outpost.publish("waits")
    async with postgres_outpost.store() as store:
        assert len(claimed(await store.ingest([[event()]], GO))) == 1
    assert born == [False]


async def test_no_more_are_born_than_may_be_claimed(postgres_outpost: Outpost, born: list[bool]) -> None:
    await verified(postgres_outpost)
    async with postgres_outpost.store() as store:
        done = await store.ingest([[event(), event()]], Straight(1, ()))
    assert born == [False]
    assert len(claimed(done)) == 1
