"""The claim: what may be sent now, as much as there is room for, each delivery to one dispatcher, on both databases."""

import asyncio
from collections import Counter

import pytest
from sqlalchemy import text

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, EndpointStatus
from dispatcher.store.claimed import Claimed
from dispatcher.store.hot import HotStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished


async def _claim_all(store: HotStore, limit: int = 1000) -> list[Claimed]:
    claimed: list[Claimed] = []
    while batch := (await store.claim(limit)).deliveries:
        claimed += batch
    return claimed


async def test_a_claim_begins_an_attempt_with_all_that_it_needs(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await outpost.publish("job.completed", job_id="job_1", data='{"n": 1.50}')
    await store.fan_out(10)
    (claimed,) = (await store.claim(10)).deliveries
    row = await outpost.delivery()
    assert (row.state, row.attempts, row.dispatcher_row) == (DeliveryState.SENDING, 1, store.dispatcher_row)
    (event,) = await outpost.rows("events")
    assert claimed == Claimed(
        delivery_row=row.row_id,
        endpoint_row=endpoint.row,
        endpoint_version=1,
        dispatcher_row=store.dispatcher_row,
        attempt=1,
        failures=0,
        interruptions=0,
        lane=row.lane,
        sequence=1,
        previous_sequence=0,
        late=False,
        replay=False,
        body_profile="standard",
        event_id=event.id,
        event_type="job.completed",
        job_id="job_1",
        timestamp=clock.now(),
        created_at=clock.now(),
        traceparent=None,
        data='{"n": 1.50}',
        destination_row=1,
        watched=True,
    )


async def test_what_is_claimed_is_not_claimed_again(outpost: Outpost, store: HotStore) -> None:
    await outpost.endpoint()
    await outpost.publish(*["a"] * 20)
    await store.fan_out(100)
    assert len(await _claim_all(store, 7)) == 20
    assert (await store.claim(100)).deliveries in ([], ())


@pytest.mark.parametrize("status", [EndpointStatus.PAUSED, EndpointStatus.DISABLED])
async def test_an_endpoint_that_is_not_enabled_is_not_claimed_for(
    outpost: Outpost, store: HotStore, status: EndpointStatus
) -> None:
    endpoint = await outpost.endpoint()
    await outpost.publish()
    await store.fan_out(10)
    await outpost.change("endpoints", endpoint.row, status=status)
    assert not await _claim_all(store)
    await outpost.change("endpoints", endpoint.row, status=EndpointStatus.ENABLED)
    assert len(await _claim_all(store)) == 1


async def test_an_endpoint_that_asked_to_be_left_alone_is_claimed_for_when_that_time_is_over(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await outpost.publish("first")
    await store.fan_out(10)
    (claimed,) = await _claim_all(store)
    await store.record([finished(claimed, Outcome.DELIVERED, at=clock.now(), pause_endpoint_s=30.0)])
    await outpost.publish("second")
    await store.fan_out(10)
    clock.advance(29.9)
    assert not await _claim_all(store)
    clock.advance(0.2)
    assert [claimed.event_type for claimed in await _claim_all(store)] == ["second"]
    assert (await outpost.endpoint_now(endpoint)).failures_in_row == 0


async def test_an_endpoints_own_cap_holds_over_claims(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint(max_in_flight=3)
    await outpost.publish(*["a"] * 10)
    await store.fan_out(100)
    claimed = await _claim_all(store)
    assert len(claimed) == 3
    await store.record([finished(claimed[0], at=clock.now()), finished(claimed[1], at=clock.now())])
    assert len(await _claim_all(store)) == 2


async def test_attempts_that_have_ended_take_no_room_though_they_are_not_on_record(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(max_in_flight=3)
    await outpost.publish(*["a"] * 10)
    await store.fan_out(100)
    first = await _claim_all(store)
    assert not (await store.claim(10)).deliveries
    ended = [(claimed.delivery_row, claimed.attempt) for claimed in first[:2]]
    second = (await store.claim(10, ended)).deliveries
    assert len(second) == 2
    # Recorded meanwhile or not, what has ended is counted once.
    await store.record([finished(claimed, at=clock.now()) for claimed in first[:2]])
    assert not (await store.claim(10, ended)).deliveries
    # An earlier attempt's end says nothing about a later one that is in flight.
    earlier = [(claimed.delivery_row, claimed.attempt - 1) for claimed in second]
    assert not (await store.claim(10, earlier)).deliveries


async def test_the_deployments_caps_per_endpoint_and_per_destination_hold(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight_per_endpoint=4, max_in_flight_per_destination=6) as store:
        here = [await outpost.endpoint("http://127.0.0.1:8001/a"), await outpost.endpoint("http://127.0.0.1:8001/b")]
        there = await outpost.endpoint("http://127.0.0.1:8002/")
        await outpost.publish(*["a"] * 10)
        await store.fan_out(100)
        counts = Counter(claimed.endpoint_row for claimed in await _claim_all(store))
    assert counts[there.row] == 4
    assert sum(counts[endpoint.row] for endpoint in here) == 6
    assert max(counts.values()) == 4


async def test_a_full_endpoint_does_not_keep_its_neighbours_waiting(outpost: Outpost, store: HotStore) -> None:
    full = await outpost.endpoint(max_in_flight=1)
    free = await outpost.endpoint()
    await outpost.publish(*["a"] * 30)
    await store.fan_out(100)
    counts = Counter(claimed.endpoint_row for claimed in await _claim_all(store, 10))
    assert counts == {full.row: 1, free.row: 30}


async def test_a_rate_limit_gives_a_seconds_worth_and_then_as_much_as_time_passes(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(rate_limit=5.0)
    await outpost.publish(*["a"] * 30)
    await store.fan_out(100)
    taken = []
    for seconds in (0, 0, 1, 0.4, 60):
        clock.advance(seconds)
        taken.append(len(await _claim_all(store)))
    assert taken == [5, 0, 5, 2, 5]


async def test_a_rate_limit_below_one_a_second_lets_one_go_at_a_time(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(rate_limit=0.5)
    await outpost.publish(*["a"] * 5)
    await store.fan_out(100)
    taken = []
    for seconds in (0, 1, 1, 2):
        clock.advance(seconds)
        taken.append(len(await _claim_all(store)))
    assert taken == [1, 0, 1, 1]


async def test_more_endpoints_than_one_claim_looks_at_are_all_served(
    outpost: Outpost, store: HotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = [await outpost.endpoint(f"http://127.0.0.1:8001/{n}") for n in range(12)]
    monkeypatch.setattr("dispatcher.store.sqlite.window.WINDOW", 5)
    monkeypatch.setattr("dispatcher.store.postgres.window.WINDOW", 5)
    async with outpost.store() as narrow:
        await outpost.publish("a", "b")
        await narrow.fan_out(100)
        counts: Counter[int] = Counter()
        for _ in range(10):
            batch = await narrow.claim(100)
            counts.update(claimed.endpoint_row for claimed in batch.deliveries)
            if not batch.deliveries and not batch.limited:
                break
    assert counts == {endpoint.row: 2 for endpoint in endpoints}


async def test_a_claim_of_a_dispatcher_whose_lease_has_ended_takes_nothing(outpost: Outpost, clock: FakeClock) -> None:
    async with outpost.store(lease_s=10.0) as store:
        await outpost.endpoint()
        await outpost.publish()
        await store.fan_out(10)
        clock.advance(11)
        assert not (await store.claim(10)).deliveries
        assert (await outpost.delivery()).state == DeliveryState.PENDING


async def test_the_body_is_the_first_attempts_whatever_the_endpoint_becomes(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await outpost.publish()
    await store.fan_out(10)
    (claimed,) = await _claim_all(store)
    await outpost.change("endpoints", endpoint.row, profile="flat", version=2)
    await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=None)])
    (again,) = await _claim_all(store)
    assert (again.body_profile, again.endpoint_version) == ("standard", 2)


async def test_two_dispatchers_share_the_work_and_no_delivery_is_claimed_twice(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    for n in range(8):
        await outpost.endpoint(f"http://127.0.0.1:800{n}/", max_in_flight=20)
    await outpost.publish(*["a"] * 40)
    async with outpost.store() as one, outpost.store() as other:
        await one.fan_out(1000)

        async def work(store: HotStore) -> list[int]:
            rows: list[int] = []
            idle = 0
            while idle < 3:
                batch = await store.claim(10)
                idle = 0 if batch.deliveries or batch.contended else idle + 1
                rows += [claimed.delivery_row for claimed in batch.deliveries]
            return rows

        # Both are connected before they start.
        assert not [*(await one.claim(0)).deliveries, *(await other.claim(0)).deliveries]
        mine, others = await asyncio.gather(work(one), work(other))
    assert mine
    assert others
    assert len(mine + others) == len(set(mine + others)) == 8 * 20
    sending = Counter(row.endpoint_row for row in await outpost.deliveries() if row.state == DeliveryState.SENDING)
    assert set(sending.values()) == {20}


async def test_no_more_destinations_are_locked_than_may_be_sent_to(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    for number in range(30):
        await outpost.endpoint(f"http://127.0.1.{number}/")
    await outpost.publish("a", "b")
    async with outpost.store() as store:
        await store.fan_out(100)
        before = await _lockers(outpost)
        assert len((await store.claim(10)).deliveries) == 10
        assert len(await _lockers(outpost) - before) == 10


async def _lockers(outpost: Outpost) -> set[tuple[int, str]]:
    """Each destination, with the transaction that locked it last."""
    async with outpost.database.read() as connection:
        rows = await connection.execute(text("SELECT row_id, xmax::text FROM destinations"))
        return {(row[0], row[1]) for row in rows}


async def test_what_waits_behind_many_that_are_full_is_claimed(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    for number in range(20):
        await outpost.endpoint(f"http://127.0.1.{number}/", max_in_flight=1)
    await outpost.publish("a", "b")
    async with outpost.store() as store:
        await store.fan_out(100)
        assert len((await store.claim(100)).deliveries) == 20
        free = await outpost.endpoint("http://127.0.2.1/", event_types=("new",))
        await outpost.publish("new")
        await store.fan_out(100)
        assert free.row in [one.endpoint_row for one in (await store.claim(3)).deliveries]


async def test_an_endpoint_of_which_nothing_is_known_is_sent_to(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint(rate_limit=5.0, max_in_flight=1)
    await outpost.publish("a", "b")
    await store.fan_out(10)
    async with outpost.database.begin() as connection:
        await connection.execute(outpost.tables.endpoint_state.delete())
    for _ in range(2):
        (claimed,) = (await store.claim(10)).deliveries
        await store.record([finished(claimed, at=clock.now())])
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}
