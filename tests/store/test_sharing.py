"""The claim among many: endpoints and tenants in turn, slots kept free, fresh first, and as much as one takes."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace

import pytest

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError
from dispatcher.store.claimed import Claimed
from dispatcher.store.endpoint_rows import callback_row
from dispatcher.store.hot import HotStore
from dispatcher.store.tally import BREATH_S, FAILING_AFTER, SUCCESSES_FOR_ONE
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered, finished
from tests.store.steps import claim


async def test_a_claim_that_takes_less_than_one_each_goes_on_with_those_it_left_out(
    outpost: Outpost, store: HotStore
) -> None:
    for _ in range(20):
        await outpost.endpoint()
    await outpost.publish("a", "b", "c")
    await store.fan_out(10)
    taken = Counter([one.endpoint_row for _ in range(4) for one in await claim(store, 5)])
    assert list(taken.values()) == [1] * 20


async def test_tenants_take_turns_at_the_claim_however_many_endpoints_one_has(
    outpost: Outpost, store: HotStore
) -> None:
    for _ in range(15):
        await outpost.endpoint(tenant="many")
    single = await outpost.endpoint(tenant="one")
    await outpost.publish("a", "b", tenant="many")
    await outpost.publish("a", "b", tenant="one")
    await store.fan_out(100)
    for _ in range(2):
        assert [one.endpoint_row == single.row for one in await claim(store, 2)].count(True) == 1


async def test_a_tenant_with_one_endpoint_gets_its_share_of_a_claim_beside_one_with_many(outpost: Outpost) -> None:
    single = await outpost.endpoint(tenant="one", max_in_flight=100)
    for number in range(20):
        await outpost.endpoint(f"http://127.0.0.1:8000/{number}", tenant="many", event_types=(f"t.{number}",))
    await outpost.publish(*["job.step"] * 15, tenant="one")
    await outpost.publish(*[f"t.{number}" for number in range(20)] * 3, tenant="many")
    async with outpost.store() as store:
        await store.fan_out(100)
        claimed = await store.claim(20)
        assert len(claimed.deliveries) == 20
        # Half of it, where an equal share of each endpoint would be one.
        assert sum(one.endpoint_row == single.row for one in claimed.deliveries) == 10
        assert claimed.limited


async def test_a_tenant_whose_endpoints_are_full_takes_no_tenants_share(outpost: Outpost) -> None:
    single = await outpost.endpoint(tenant="one", max_in_flight=100)
    await outpost.endpoint(tenant="full", max_in_flight=1)
    for number in range(12):
        await outpost.endpoint(f"http://127.0.0.1:8000/{number}", tenant="many", event_types=(f"t.{number}",))
    async with outpost.store() as store:
        await outpost.publish(*["job.step"] * 5, tenant="full")
        await store.fan_out(100)
        assert len(await claim(store)) == 1
        await outpost.publish(*["job.step"] * 15, tenant="one")
        await outpost.publish(*[f"t.{number}" for number in range(12)] * 3, tenant="many")
        await store.fan_out(100)
        claimed = await claim(store, 20)
        assert len(claimed) == 20
        assert sum(one.endpoint_row == single.row for one in claimed) == 10


async def test_the_last_slots_of_a_process_are_kept_for_endpoints_and_tenants_that_hold_few(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight=20) as store:
        await outpost.endpoint(event_types=("greedy",), max_in_flight=100)
        await outpost.publish(*["greedy"] * 30)
        await store.fan_out(100)
        assert len(await claim(store)) == 18
        # Another endpoint has one of the two, no more; and the tenant does not get the last.
        for event_type, count in (("second", 1), ("third", 0)):
            await outpost.endpoint(event_types=(event_type,))
            await outpost.publish(*[event_type] * 3)
            await store.fan_out(100)
            assert len(await claim(store)) == count
        other = await outpost.endpoint(tenant="other")
        await outpost.publish("a", tenant="other")
        await store.fan_out(100)
        assert [one.endpoint_row for one in await claim(store)] == [other.row]


async def test_the_only_one_that_has_work_leaves_the_last_slots_to_others(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight=20) as store:
        await outpost.endpoint(max_in_flight=100)
        await outpost.change("destinations", 1, verified_at=outpost.clock.now())
        await outpost.publish(*["a"] * 30)
        await store.fan_out(100)
        assert [len(await claim(store, limit)) for limit in (15, 5, 5)] == [15, 3, 0]


async def test_the_only_one_that_has_work_gets_what_its_neighbours_in_flight_leave(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight_per_destination=5) as store:
        for path in ("a", "b"):
            await outpost.endpoint(f"http://127.0.0.1:8000/{path}", event_types=(path,))
        await outpost.change("destinations", 1, verified_at=outpost.clock.now())
        for event_type, waiting, taken in (("a", 3, 3), ("b", 10, 2)):
            await outpost.publish(*[event_type] * waiting)
            await store.fan_out(100)
            assert len(await claim(store, 10)) == taken


async def test_the_slots_are_each_processs_own(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(max_in_flight=100)
    await outpost.publish(*["a"] * 60)
    async with outpost.store(max_in_flight=20) as one, outpost.store(max_in_flight=20) as other:
        await one.fan_out(100)
        assert [len(await claim(store)) for store in (one, other, one)] == [18, 18, 0]


async def _failed(outpost: Outpost, store: HotStore, clock: FakeClock, count: int) -> set[int]:
    """Deliveries that have failed once and may go again."""
    await outpost.publish(*["old"] * count)
    await store.fan_out(1000)
    claimed = await claim(store)
    await store.record([finished(one, Outcome.RETRY, at=clock.now(), delay_s=None) for one in claimed])
    assert len(claimed) == count
    return {one.delivery_row for one in claimed}


async def test_fresh_deliveries_go_before_retries_which_keep_a_share(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    old = await _failed(outpost, store, clock, 10)
    await outpost.publish(*["new"] * 10)
    await store.fan_out(100)
    retries = [[one.delivery_row in old for one in await claim(store, 10)].count(True) for _ in range(2)]
    assert retries == [2, 8]


async def test_retries_keep_their_share_where_one_at_a_time_goes(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.endpoint()
    old = await _failed(outpost, store, clock, 25)
    await outpost.publish(*["new"] * 25)
    await store.fan_out(100)
    went = [one.delivery_row in old for _ in range(25) for one in await claim(store, 1)]
    assert 4 <= went.count(True) <= 6


async def test_what_was_interrupted_is_as_fresh_as_before(outpost: Outpost, store: HotStore, clock: FakeClock) -> None:
    await outpost.endpoint()
    await outpost.publish("a")
    await store.fan_out(100)
    (interrupted,) = await claim(store)
    await store.record([finished(interrupted, Outcome.INTERRUPTED, at=clock.now())])
    await outpost.publish(*["b"] * 4)
    await store.fan_out(100)
    (first,) = await claim(store, 1)
    assert first.delivery_row == interrupted.delivery_row


async def test_redeliveries_go_beside_live_events_without_delaying_them(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    await outpost.publish(*["missed"] * 5)
    await store.fan_out(100)
    endpoint = await outpost.endpoint()
    await outpost.publish(*["delivered"] * 5)
    await store.fan_out(100)
    await store.record([finished(one, at=clock.now()) for one in await claim(store)])
    # Those that were delivered, and those from before the endpoint was registered, which get a new row.
    events = [row.row_id for row in await outpost.rows("events")]
    results = await outpost.put_back(*(SimpleNamespace(event_row=row, endpoint_row=endpoint.row) for row in events))
    assert {result.outcome for result in results} == {"put_back"}
    await outpost.publish(*["live"] * 10)
    await store.fan_out(100)
    types = [Counter(one.event_type == "live" for one in await claim(store, 10)) for _ in range(2)]
    assert types == [{True: 8, False: 2}, {True: 2, False: 8}]


async def _overload(store: HotStore, clock: FakeClock, claimed: Sequence[Claimed], well: int) -> None:
    """All of them get a 503, but for the last `well`, which are delivered."""
    much = len(claimed) - well
    await store.record(
        [finished(one, Outcome.RETRY, at=clock.now(), status=503, backs_off=True) for one in claimed[:much]]
        + [finished(one, at=clock.now()) for one in claimed[much:]]
    )


async def _backlog(outpost: Outpost, store: HotStore, count: int) -> None:
    await outpost.publish(*["a"] * count)
    await store.fan_out(1000)


async def _takes(outpost: Outpost, endpoint: Registered) -> float | None:
    takes: float | None = (await outpost.endpoint_now(endpoint)).takes
    return takes


async def test_an_endpoint_that_says_too_much_is_sent_as_much_as_it_took(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _backlog(outpost, store, 200)
    claimed = await claim(store)
    assert len(claimed) == 50
    await _overload(store, clock, claimed, well=5)
    assert await _takes(outpost, endpoint) == pytest.approx(5 + 5 / SUCCESSES_FOR_ONE)
    for count in (5, 5, 5, 5, 6):
        claimed = await claim(store)
        assert len(claimed) == count
        await store.record([finished(one, at=clock.now()) for one in claimed])
    assert not (await outpost.endpoint_now(endpoint)).failures_in_row


async def test_what_is_taken_again_in_full_is_not_watched_any_more(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(max_in_flight=3)
    await _backlog(outpost, store, 100)
    await _overload(store, clock, await claim(store), well=2)
    assert await _takes(outpost, endpoint) == pytest.approx(2 + 2 / SUCCESSES_FOR_ONE)
    delivered = 0
    while await _takes(outpost, endpoint) is not None:
        claimed = await claim(store)
        await store.record([finished(one, at=clock.now()) for one in claimed])
        delivered += len(claimed)
    assert SUCCESSES_FOR_ONE - 2 <= delivered <= SUCCESSES_FOR_ONE
    assert len(await claim(store)) == 3


async def test_where_nobody_listens_nothing_is_learnt_about_how_much_is_too_much(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _backlog(outpost, store, 3)
    refused = [
        finished(one, Outcome.RETRY, at=clock.now(), error=AttemptError.CONNECTION_REFUSED, backs_off=True)
        for one in await claim(store)
    ]
    await store.record(refused)
    assert await _takes(outpost, endpoint) is None


async def test_an_endpoint_for_which_one_at_once_is_too_much_gets_a_breath(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(max_in_flight=2)
    await _backlog(outpost, store, 20)
    await _overload(store, clock, await claim(store), well=0)
    assert ((await outpost.endpoint_now(endpoint)).paused_until, await _takes(outpost, endpoint)) == (None, 1)
    for well in (1, 0):
        claimed = await claim(store)
        assert len(claimed) == 1
        await _overload(store, clock, claimed, well=well)
    assert (await outpost.endpoint_now(endpoint)).paused_until == clock.now() + timedelta(seconds=BREATH_S)
    assert not await claim(store)
    clock.advance(BREATH_S)
    assert len(await claim(store)) == 1


async def test_nineteen_failures_are_no_reason_to_disable_however_long_ago_the_first_was(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint()
    await _backlog(outpost, store, 1)
    failing = []
    for _ in range(FAILING_AFTER):
        (claimed,) = await claim(store)
        clock.advance(86400)
        recorded = await store.record([finished(claimed, Outcome.RETRY, at=clock.now(), delay_s=None)])
        failing.append(list(recorded.failing))
    assert failing == [[]] * (FAILING_AFTER - 1) + [[endpoint.row]]


async def test_endpoints_at_a_destination_that_is_full_do_not_take_the_turns_of_others(outpost: Outpost) -> None:
    async with outpost.store(max_in_flight_per_destination=3) as store:
        for _ in range(30):
            await outpost.endpoint()
        await outpost.publish("a", "b")
        await store.fan_out(100)
        assert len(await claim(store)) == 3
        elsewhere = await outpost.endpoint("http://127.0.0.1:9000/")
        await outpost.publish("c", "d")
        await store.fan_out(100)
        for _ in range(2):
            assert [one.endpoint_row for one in await claim(store, 1)] == [elsewhere.row]


async def test_full_endpoints_take_no_share_of_a_claim(outpost: Outpost, store: HotStore) -> None:
    for _ in range(30):
        await outpost.endpoint(max_in_flight=1)
    await outpost.publish("a", "b")
    await store.fan_out(100)
    assert len(await claim(store)) == 30
    free = await outpost.endpoint(event_types=("c",))
    await outpost.publish(*["c"] * 12)
    await store.fan_out(100)
    batch = await store.claim(10)
    assert ([one.endpoint_row for one in batch.deliveries], batch.limited) == ([free.row] * 10, True)
    batch = await store.claim(10)
    assert ([one.endpoint_row for one in batch.deliveries], batch.limited) == ([free.row] * 2, False)


async def test_slots_that_are_kept_go_to_endpoints_that_hold_few_though_others_are_before_them(
    outpost: Outpost,
) -> None:
    async with outpost.store(max_in_flight=40) as store:
        # Of its two tenants the one that holds fewer would go first, but all that it has waits for one endpoint.
        for tenant, count in (("more", 25), ("fewer", 11)):
            await outpost.endpoint(tenant=tenant, max_in_flight=100)
            await outpost.publish(*["slow"] * (count + 5), tenant=tenant)
            await store.fan_out(100)
            assert len(await claim(store, count)) == count
        new = await outpost.endpoint(tenant="more", event_types=("new",))
        await outpost.publish("new", tenant="more")
        await store.fan_out(100)
        for limit in (4, 1):
            claimed = [one.endpoint_row for one in await claim(store, limit)]
            assert claimed == ([new.row] if limit == 4 else [])


async def test_the_callbacks_of_jobs_are_not_last_every_time(
    outpost: Outpost, store: HotStore, clock: FakeClock
) -> None:
    for _ in range(5):
        await outpost.endpoint(event_types=("a",))
    job = "job_1"
    row = callback_row("default", job, "http://127.0.0.1:8000/")
    await outpost.endpoint(row_id=row, job_id=job)
    await outpost.publish(*["a"] * 40)
    await outpost.publish(*["b"] * 40, job_id=job)
    await store.fan_out(100)
    went = []
    for _ in range(20):
        (one,) = await claim(store, 1)
        went.append(one.endpoint_row)
        await store.record([finished(one, at=clock.now())])
    assert row in went
