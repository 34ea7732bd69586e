"""Destinations that nobody has verified by a 2xx: few callbacks at once and slowly, over the whole deployment."""

import asyncio
from typing import Any

from aiohttp import web

from dispatcher.rules.verdict import Outcome
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.receiver import Received, Receiver


class _Crowd:
    """Answers with a status, and knows how many were there at once."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.here = self.most = 0

    async def __call__(self, _: Received) -> web.Response:
        self.here += 1
        self.most = max(self.most, self.here)
        for _turn in range(50):
            await asyncio.sleep(0)
        self.here -= 1
        return web.Response(status=self.status)


async def _callbacks(outpost: Outpost, receiver: Receiver, crowd: _Crowd, count: int, **fields: Any) -> None:
    receiver.answers("/callback", crowd)
    for n in range(count):
        await outpost.endpoint(receiver.url("/callback"), job_id=f"job_{n}", **{"retry_schedule": (), **fields})


async def _publish_to(outpost: Outpost, count: int) -> None:
    for n in range(count):
        await outpost.publish("job.started", job_id=f"job_{n}")


async def test_a_host_that_answers_no_2xx_is_not_flooded_by_callbacks(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    crowd = _Crowd(404)
    await _callbacks(outpost, receiver, crowd, 34)
    async with outpost.dispatcher() as dispatcher:
        await _publish_to(outpost, 34)
        for requests in (10, 20, 30, 34, 34):
            await dispatcher.until_idle()
            assert len(receiver.received("/callback")) == requests
            clock.advance(1)
    assert crowd.most <= 5
    assert (await outpost.destination()).verified_at is None
    assert {row.attempts for row in await outpost.deliveries()} == {1}


async def test_the_limits_of_the_unverified_are_settings(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    crowd = _Crowd(404)
    await _callbacks(outpost, receiver, crowd, 12)
    async with outpost.dispatcher(max_in_flight_per_unverified_destination=2, unverified_rate=3.0) as dispatcher:
        await _publish_to(outpost, 12)
        for requests in (3, 6, 9, 12):
            await dispatcher.until_idle()
            assert len(receiver.received("/callback")) == requests
            clock.advance(1)
    assert crowd.most <= 2


async def test_endpoints_that_were_registered_are_not_held_by_the_limits_of_callbacks(
    outpost: Outpost, receiver: Receiver
) -> None:
    together = asyncio.Event()

    async def all_at_once(_: Received) -> web.Response:
        if len(receiver.received("/registered")) == 20:
            together.set()
        async with asyncio.timeout(20):
            await together.wait()
        return web.Response(status=404)

    crowd = _Crowd(404)
    receiver.answers("/registered", all_at_once)
    await _callbacks(outpost, receiver, crowd, 20)
    await outpost.endpoint(receiver.url("/registered"), retry_schedule=())
    async with outpost.dispatcher() as dispatcher:
        await _publish_to(outpost, 20)
        await dispatcher.until_idle()
    assert together.is_set()
    assert {row.last_status for row in await outpost.deliveries() if row.attempts} == {404}
    assert (len(receiver.received("/registered")), len(receiver.received("/callback"))) == (20, 10)
    assert crowd.most <= 5


async def test_as_many_callbacks_are_in_flight_as_the_limit_says_and_each_that_ends_makes_room(
    outpost: Outpost, clock: FakeClock
) -> None:
    for n in range(20):
        await outpost.endpoint(job_id=f"job_{n}")
    await _publish_to(outpost, 20)
    async with outpost.store() as store:
        while (await store.fan_out(100)).events:
            pass
        first = (await store.claim(100)).deliveries
        assert len(first) == 5
        await store.record([finished(one, Outcome.DEAD, at=clock.now(), status=404) for one in first[:2]])
        assert [len((await store.claim(100)).deliveries) for _ in range(2)] == [2, 0]
        await store.record([finished(one, Outcome.DEAD, at=clock.now(), status=404) for one in first[2:]])
        second = (await store.claim(100)).deliveries
        # Ten in a second: two and five and these three.
        assert len(second) == 3
        await store.record([finished(one, Outcome.DEAD, at=clock.now(), status=404) for one in second])
        assert not (await store.claim(100)).deliveries
        clock.advance(0.1)
        assert len((await store.claim(100)).deliveries) == 1


async def test_the_first_2xx_verifies_a_destination_for_good(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    crowd = _Crowd(200)
    await _callbacks(outpost, receiver, crowd, 40)
    async with outpost.dispatcher() as dispatcher:
        await _publish_to(outpost, 40)
        await dispatcher.until_idle()
        assert len(receiver.received("/callback")) == 40
        verified_at = (await outpost.destination()).verified_at
        assert verified_at == clock.now()
        clock.advance(3600)
        crowd.status = 404
        await _publish_to(outpost, 40)
        await dispatcher.until_idle()
    assert len(receiver.received("/callback")) == 80
    assert (await outpost.destination()).verified_at == verified_at


async def test_a_registered_endpoints_2xx_verifies_its_neighbours(outpost: Outpost, receiver: Receiver) -> None:
    await _callbacks(outpost, receiver, _Crowd(404), 20)
    await outpost.endpoint(receiver.url("/registered"), event_types=("hello",))
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("hello")
        await dispatcher.until_idle()
        await _publish_to(outpost, 20)
        await dispatcher.until_idle()
    assert len(receiver.received("/callback")) == 20


async def test_what_is_verified_and_well_is_not_watched_and_its_row_not_written(
    outpost: Outpost, clock: FakeClock
) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish("a", "b", "c")
    async with outpost.store() as store:
        await store.fan_out(10)
        (first,) = (await store.claim(1)).deliveries
        assert first.watched
        await store.record([finished(first, at=clock.now())])
        before = await outpost.destination()
        clock.advance(120)
        for _ in range(2):
            (later,) = (await store.claim(1)).deliveries
            assert not later.watched
            await store.record([finished(later, at=clock.now())])
    assert await outpost.destination() == before


async def test_the_limits_hold_over_several_dispatchers(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    for n in range(20):
        await outpost.endpoint(job_id=f"job_{n}")
    await _publish_to(outpost, 20)
    async with outpost.store() as one, outpost.store(name="two") as two:
        while (await one.fan_out(100)).events:
            pass
        taken = [len((await store.claim(3)).deliveries) for store in (one, two, one, two)]
    assert taken == [3, 2, 0, 0]
