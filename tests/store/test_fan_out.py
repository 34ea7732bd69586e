"""Fan-out: events become numbered deliveries, one per endpoint that matches at that moment, on both databases."""

import asyncio
from datetime import timedelta

import pytest

from dispatcher.states import EndpointStatus
from dispatcher.store.hot import FannedOut, HotStore
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres import claim as postgres_claim
from dispatcher.store.sqlite import claim as sqlite_claim
from tests.outpost import Outpost


async def test_each_matching_endpoint_gets_a_delivery_and_no_other(outpost: Outpost, store: HotStore) -> None:
    exact = await outpost.endpoint(event_types=("job.completed",))
    below = await outpost.endpoint(event_types=("job.*",))
    both = await outpost.endpoint(event_types=("job.*", "*", "job.completed"))
    await outpost.endpoint(event_types=("job",))
    await outpost.endpoint(event_types=("job.completed.*",))
    await outpost.endpoint(event_types=("JOB.*",))
    await outpost.endpoint(tenant="acme")
    await outpost.publish("job.completed")
    assert await store.fan_out(100) == FannedOut(events=1, deliveries=3)
    assert {row.endpoint_row for row in await outpost.deliveries()} == {exact.row, below.row, both.row}


async def test_deliveries_are_made_in_publish_order_whatever_types_take_turns(
    outpost: Outpost, store: HotStore
) -> None:
    endpoint = await outpost.endpoint(event_types=("a", "b"))
    narrow = await outpost.endpoint(event_types=("b",))
    await outpost.publish("b", "a", "b", "c", "a")
    assert await store.fan_out(100) == FannedOut(events=5, deliveries=6)
    made = [(row.event_row, row.endpoint_row) for row in await outpost.deliveries()]
    assert [event_row for event_row, _ in made] == [1, 1, 2, 3, 3, 5]
    assert [event_row for event_row, endpoint_row in made if endpoint_row == narrow.row] == [1, 3]
    assert [event_row for event_row, endpoint_row in made if endpoint_row == endpoint.row] == [1, 2, 3, 5]


async def test_what_is_fanned_out_may_be_claimed_in_the_same_transaction(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    full = await outpost.endpoint(max_in_flight=1)
    await outpost.publish("a", "b")
    done = await store.fan_out(100, Straight(50, ()))
    assert done == FannedOut(events=2, deliveries=4, claimed=done.claimed)
    assert done.claimed is not None
    in_flight = [(one.event_type, one.endpoint_row == full.row) for one in done.claimed.deliveries]
    assert sorted(in_flight) == [("a", False), ("a", True), ("b", False)]
    assert [row.state for row in await outpost.deliveries()].count("sending") == 3
    assert await store.fan_out(100, Straight(50, ())) == FannedOut(events=0, deliveries=0)


async def test_no_more_is_claimed_along_than_was_lent(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish(*"abc")
    done = await store.fan_out(100, Straight(2, ()))
    assert done.claimed is not None
    assert len(done.claimed.deliveries) == 2
    assert done.deliveries == 3


async def test_what_cannot_be_claimed_along_is_fanned_out_all_the_same(
    outpost: Outpost, store: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outpost.endpoint()
    await outpost.publish()

    def fails(*_: object) -> None:
        raise ValueError("a row that cannot be read")

    for claim in (postgres_claim.Claim, sqlite_claim.Claim):
        monkeypatch.setattr(claim, "run", fails)
    done = await store.fan_out(100, Straight(50, ()))
    assert (done.events, done.deliveries, done.claimed) == (1, 1, None)
    assert [row.state for row in await outpost.deliveries()] == ["pending"]


async def test_an_event_that_matches_nobody_leaves_the_queue(outpost: Outpost, store: HotStore) -> None:
    await outpost.publish()
    assert await store.fan_out(100) == FannedOut(events=1, deliveries=0)
    assert await store.fan_out(100) == FannedOut(events=0, deliveries=0)


async def test_a_paused_endpoint_matches_and_a_disabled_deleted_or_expired_one_does_not(
    outpost: Outpost, store: HotStore
) -> None:
    now = outpost.clock.now()
    paused = await outpost.endpoint()
    await outpost.change("endpoints", paused.row, status=EndpointStatus.PAUSED)
    disabled = await outpost.endpoint()
    await outpost.change("endpoints", disabled.row, status=EndpointStatus.DISABLED)
    deleted = await outpost.endpoint()
    await outpost.change("endpoints", deleted.row, deleted_at=now)
    expired = await outpost.endpoint()
    await outpost.change("endpoints", expired.row, expires_at=now)
    lives = await outpost.endpoint()
    await outpost.change("endpoints", lives.row, expires_at=now + timedelta(seconds=1))
    await outpost.publish()
    await store.fan_out(100)
    assert {row.endpoint_row for row in await outpost.deliveries()} == {paused.row, lives.row}


async def test_a_jobs_callback_gets_that_jobs_events_only(outpost: Outpost, store: HotStore) -> None:
    callback = await outpost.endpoint(job_id="job_1")
    await outpost.publish(job_id="job_1")
    await outpost.publish(job_id="job_2")
    await outpost.publish()
    await store.fan_out(100)
    assert [row.endpoint_row for row in await outpost.deliveries()] == [callback.row]


async def test_a_jobs_events_are_numbered_from_1_in_publish_order_without_gaps(
    outpost: Outpost, store: HotStore
) -> None:
    await outpost.endpoint()
    for round_ in range(3):
        await outpost.publish(*[f"round.{round_}.{n}" for n in range(4)], job_id="job_1")
        await outpost.publish("other", job_id="job_2")
        await outpost.publish("none")
    while (await store.fan_out(5)).events:
        pass
    by_event = {row.row_id: row for row in await outpost.rows("events")}
    numbered = [(row.sequence, by_event[row.event_row]) for row in await outpost.deliveries()]
    job_1 = [(sequence, event.type) for sequence, event in numbered if event.job_id == "job_1"]
    assert job_1 == [(3 * 0 + n + 1, f"round.{(n // 4)}.{n % 4}") for n in range(12)]
    assert [sequence for sequence, event in numbered if event.job_id == "job_2"] == [1, 2, 3]
    assert [sequence for sequence, event in numbered if event.job_id is None] == [None, None, None]


async def test_the_same_job_id_of_two_tenants_is_two_jobs(outpost: Outpost, store: HotStore) -> None:
    for tenant in ("acme", "globex"):
        await outpost.endpoint(tenant=tenant)
        await outpost.publish(job_id="job_1", tenant=tenant)
    await store.fan_out(100)
    rows = await outpost.deliveries()
    assert [row.sequence for row in rows] == [1, 1]
    assert rows[0].lane != rows[1].lane


async def test_only_the_head_of_a_lane_can_be_claimed_at_first(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish("a", "b", job_id="job_1")
    await outpost.publish("c", job_id="job_2")
    await store.fan_out(100)
    await outpost.publish("d", job_id="job_1")
    await store.fan_out(100)
    assert [(row.sequence, row.waiting) for row in await outpost.deliveries()] == [
        (1, False),
        (2, True),
        (1, False),
        (3, True),
    ]


async def test_an_endpoint_without_order_has_no_lanes(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish("a", "b", job_id="job_1")
    await store.fan_out(100)
    assert [(row.lane, row.sequence, row.waiting) for row in await outpost.deliveries()] == [
        (None, 1, False),
        (None, 2, False),
    ]


async def test_tenants_take_turns_so_one_burst_does_not_keep_the_others_out(outpost: Outpost, store: HotStore) -> None:
    await outpost.publish(*["burst"] * 50, tenant="loud")
    await outpost.publish("quiet", tenant="silent")
    assert (await store.fan_out(10)).events <= 10
    left = await outpost.rows("fanout_queue", "event_row")
    assert {row.tenant for row in left} == {"loud"}


async def test_two_dispatchers_never_number_the_same_job_twice(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    await outpost.endpoint()
    async with outpost.store() as one, outpost.store() as other:

        async def produce(producer: int) -> None:
            for n in range(10):
                await outpost.publish(f"p{producer}.n{n}", job_id=f"job_{n % 2}")

        async def fan_out(store: HotStore) -> None:
            while sum(row.last_sequence for row in await outpost.rows("jobs")) < 40:
                await store.fan_out(7)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for producer in range(4):
                group.create_task(produce(producer))
            for store in (one, other):
                group.create_task(fan_out(store))
    events = {row.row_id: row.type for row in await outpost.rows("events")}
    lanes: dict[int, list[tuple[int, str]]] = {}
    for row in await outpost.deliveries():
        lanes.setdefault(row.lane, []).append((row.sequence, events[row.event_row]))
    assert len(lanes) == 2
    for lane in lanes.values():
        assert sorted(sequence for sequence, _ in lane) == list(range(1, 21))
        for producer in range(4):
            own = [name for _, name in sorted(lane) if name.startswith(f"p{producer}.")]
            assert own == sorted(own)


async def test_it_says_which_jobs_it_numbered(outpost: Outpost, store: HotStore) -> None:
    await outpost.publish("a", "b", job_id="job_1")
    await outpost.publish("a", job_id="job_2")
    await outpost.publish("a")
    told = (await store.fan_out(100)).jobs
    assert told == {row.row_id for row in await outpost.rows("jobs")}
    assert len(told) == 2
    await outpost.publish("a")
    assert (await store.fan_out(100)).jobs == frozenset()


async def test_where_a_batch_is_smaller_than_the_tenants_are_many_they_take_turns_too(
    outpost: Outpost, store: HotStore
) -> None:
    for tenant in ("a", "b", "c"):
        await outpost.publish(*["x"] * 3, tenant=tenant, job_id="job_1")
    turns = []
    for _ in range(9):
        assert (await store.fan_out(1)).events == 1
        turns.append({row.tenant: row.last_sequence for row in await outpost.rows("jobs")})
    assert turns[2] == {"a": 1, "b": 1, "c": 1}
    assert turns[5] == {"a": 2, "b": 2, "c": 2}
    assert turns[8] == {"a": 3, "b": 3, "c": 3}
    await outpost.publish("x", "x", tenant="b", job_id="job_1")
    await outpost.publish("x", tenant="a", job_id="job_1")
    assert (await store.fan_out(2)).events == 2
    assert sorted(row.last_sequence for row in await outpost.rows("jobs")) == [3, 4, 4]
