"""Scheme, host and port as a whole: a circuit where nobody can be reached, limits where nobody has verified it."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus
from dispatcher.store.hot import Finished, HotStore
from dispatcher.store.tally import BACKOFF_AFTER, BACKOFF_FIRST_S, BACKOFF_LONGEST_S
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.receiver import Received, Receiver

PATIENT = (1.0,) * 50
ENDPOINTS = 30


@pytest.fixture
def closed_port() -> Iterator[socket.socket]:
    """A port that is ours and refuses connections, until somebody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def _url(bound: socket.socket, path: str = "/") -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}{path}"


async def _destination(outpost: Outpost) -> Any:
    (row,) = await outpost.rows("destinations")
    return row


async def test_a_destination_that_cannot_be_reached_is_left_alone_by_all_its_endpoints(
    outpost: Outpost, closed_port: socket.socket, clock: FakeClock
) -> None:
    for n in range(ENDPOINTS):
        await outpost.endpoint(_url(closed_port, f"/{n}"), retry_schedule=PATIENT)
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:

        async def attempts_after(seconds: float) -> int:
            clock.advance(seconds)
            await dispatcher.until_idle()
            return await outpost.count("attempts")

        # All were in flight when the first ten failed; from then on nobody is.
        assert await attempts_after(0) == ENDPOINTS
        destination = await _destination(outpost)
        assert destination.paused_until == clock.now() + timedelta(seconds=BACKOFF_FIRST_S)
        assert (destination.ramp, destination.failures_in_row) == (1, ENDPOINTS)
        assert await attempts_after(BACKOFF_FIRST_S - 0.1) == ENDPOINTS
        # One probe, whichever endpoint's; each that fails doubles the pause.
        pauses: list[float] = []
        probes = 0
        while (await _destination(outpost)).paused_until is not None and len(pauses) < 8:
            paused_until = (await _destination(outpost)).paused_until
            probes += 1
            assert await attempts_after((paused_until - clock.now()).total_seconds()) == ENDPOINTS + probes
            pauses.append(((await _destination(outpost)).paused_until - clock.now()).total_seconds())
        assert pauses == [10, 20, 40, 80, 160, *[BACKOFF_LONGEST_S] * 3]
        # To be held back costs no attempt: each made one, and one of them each probe.
        rows = await outpost.deliveries()
        assert {row.state for row in rows} == {DeliveryState.PENDING}
        assert sum(row.attempts for row in rows) == sum(row.failures for row in rows) == ENDPOINTS + probes
        known = [row for row in await outpost.rows("endpoint_state", "endpoint_row") if row.paused_until is not None]
        assert known == []
        # Any answer closes it, a 500 too; it starts slowly.
        answered: list[int] = []
        beside: list[int] = []
        in_flight = 0

        async def answer(request: web.Request) -> web.Response:
            nonlocal in_flight
            in_flight += 1
            beside.append(in_flight)
            for _ in range(20):
                await asyncio.sleep(0)
            in_flight -= 1
            answered.append(500 if not answered else 200)
            return web.Response(status=answered[-1])

        application = web.Application()
        application.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.SockSite(runner, closed_port).start()
        try:
            await attempts_after(BACKOFF_LONGEST_S)
            await attempts_after(1)
        finally:
            await runner.cleanup()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}
    assert len(answered) == ENDPOINTS + 1
    assert beside[0] == 1
    destination = await _destination(outpost)
    assert (destination.failures_in_row, destination.backoff_failures, destination.ramp) == (0, 0, None)


async def test_one_paths_errors_do_not_stop_its_neighbours(outpost: Outpost, receiver: Receiver) -> None:
    for n in range(BACKOFF_AFTER + 5):
        await outpost.endpoint(receiver.url(f"/bad/{n}"), event_types=("bad",), retry_schedule=())
        receiver.answers(f"/bad/{n}", 500 + n % 5)
    await outpost.endpoint(receiver.url("/good"))
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("bad", "bad")
        await dispatcher.until_idle()
        destination = await _destination(outpost)
        assert (destination.failures_in_row, destination.paused_until) == (0, None)
        await outpost.publish("fine")
        await dispatcher.until_idle()
    assert len(receiver.received("/good")) == 3


@pytest.mark.parametrize(
    "error", [AttemptError.CONNECTION_REFUSED, AttemptError.CONNECT_TIMEOUT, AttemptError.DNS, AttemptError.TLS]
)
async def test_every_way_not_to_connect_counts(outpost: Outpost, clock: FakeClock, error: AttemptError) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish(*["a"] * (BACKOFF_AFTER + 1))
    async with outpost.store() as store:
        await store.fan_out(100)
        claimed = (await store.claim(BACKOFF_AFTER)).deliveries
        ends = [finished(one, Outcome.RETRY, at=clock.now(), error=error) for one in claimed]
        await store.record(ends[:-1])
        assert (await _destination(outpost)).paused_until is None
        await store.record(ends[-1:])
        assert (await _destination(outpost)).paused_until == clock.now() + timedelta(seconds=BACKOFF_FIRST_S)
        assert (await store.claim(100)).deliveries in ([], ())
        clock.advance(BACKOFF_FIRST_S)
        assert len((await store.claim(100)).deliveries) == 1


@pytest.mark.parametrize(
    "error", [AttemptError.TIMEOUT, AttemptError.CONNECTION_RESET, AttemptError.PROTOCOL, AttemptError.BLOCKED]
)
async def test_what_fails_once_connected_or_before_is_no_destinations_fault(
    outpost: Outpost, clock: FakeClock, error: AttemptError
) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish(*["a"] * 2 * BACKOFF_AFTER)
    async with outpost.store() as store:
        await store.fan_out(100)
        claimed = (await store.claim(100)).deliveries
        await store.record([finished(one, Outcome.RETRY, at=clock.now(), error=error) for one in claimed])
    destination = await _destination(outpost)
    assert (destination.failures_in_row, destination.paused_until) == (0, None)


@pytest.mark.parametrize(
    "error", [AttemptError.TIMEOUT, AttemptError.CONNECTION_RESET, AttemptError.PROTOCOL, AttemptError.BODY_TOO_LARGE]
)
async def test_a_probe_that_connects_lets_the_neighbours_go_whatever_came_of_it(
    outpost: Outpost, clock: FakeClock, error: AttemptError
) -> None:
    first, second = [await outpost.endpoint(ordered=False) for _ in range(2)]
    # Whichever the claim looks at first.
    hangs, fine = sorted((first.row, second.row))
    await outpost.change("endpoints", fine, status=EndpointStatus.DISABLED)

    async def go_on(store: HotStore, count: int, error: AttemptError) -> set[int]:
        claimed = (await store.claim(count)).deliveries
        ends = [finished(one, Outcome.RETRY, at=clock.now(), error=error) for one in claimed]
        await store.record([replace(end, status=None) for end in ends])
        return {one.endpoint_row for one in claimed}

    async with outpost.store() as store:
        await outpost.publish(*["a"] * 2 * BACKOFF_AFTER)
        await store.fan_out(100)
        await go_on(store, BACKOFF_AFTER, AttemptError.CONNECTION_REFUSED)
        await outpost.change("endpoints", fine, status=EndpointStatus.ENABLED)
        await outpost.publish("b")
        await store.fan_out(100)
        assert await go_on(store, 100, error) == set()
        clock.advance(BACKOFF_FIRST_S)
        turns = [await go_on(store, 100, error)]
        assert turns == [{hangs}]
        while fine not in turns[-1]:
            turns.append(await go_on(store, 100, error))
    # One by one it would have its turn when all that hangs has had its time.
    assert len(turns) <= 4
    destination = await _destination(outpost)
    assert (destination.failures_in_row, destination.verified_at) == (0, None)


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_an_answer_in_between_begins_the_count_anew(
    outpost: Outpost, clock: FakeClock, in_one_batch: bool
) -> None:
    await outpost.endpoint(ordered=False)
    await outpost.publish(*["a"] * 2 * BACKOFF_AFTER)
    async with outpost.store() as store:
        await store.fan_out(100)

        async def end(count: int, outcome: Outcome, error: AttemptError | None = None) -> list[Finished]:
            claimed = (await store.claim(count)).deliveries
            ends = [finished(one, outcome, at=clock.now(), error=error) for one in claimed]
            assert len(ends) == count
            if not in_one_batch:
                await store.record(ends)
            return ends

        refused = AttemptError.CONNECTION_REFUSED
        ends = await end(1, Outcome.DELIVERED)
        ends += await end(BACKOFF_AFTER - 1, Outcome.RETRY, refused)
        # A 500 is an answer, too.
        ends += await end(1, Outcome.RETRY)
        ends += await end(BACKOFF_AFTER - 1, Outcome.RETRY, refused)
        if in_one_batch:
            await store.record(ends)
    destination = await _destination(outpost)
    assert (destination.failures_in_row, destination.paused_until) == (BACKOFF_AFTER - 1, None)


async def test_one_delivery_that_cannot_connect_is_not_enough(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(10)
        for _ in range(2 * BACKOFF_AFTER):
            (claimed,) = (await store.claim(10)).deliveries
            refused = finished(claimed, Outcome.RETRY, at=clock.now(), error=AttemptError.CONNECTION_REFUSED)
            await store.record([refused])
            clock.advance(5)
            await store.make_due(10)
    destination = await _destination(outpost)
    assert (destination.failures_in_row, destination.paused_until) == (2 * BACKOFF_AFTER, None)


async def test_another_destination_goes_on_beside_a_paused_one(
    outpost: Outpost, receiver: Receiver, closed_port: socket.socket
) -> None:
    for n in range(ENDPOINTS):
        await outpost.endpoint(_url(closed_port, f"/{n}"), retry_schedule=PATIENT)
    await outpost.endpoint(receiver.url("/up"))
    async with outpost.dispatcher() as dispatcher:
        for _ in range(3):
            await outpost.publish("a")
            await dispatcher.until_idle()
    assert len(receiver.received("/up")) == 3
    assert await outpost.count("attempts") == ENDPOINTS + 3


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
    assert (await _destination(outpost)).verified_at is None
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
        verified_at = (await _destination(outpost)).verified_at
        assert verified_at == clock.now()
        clock.advance(3600)
        crowd.status = 404
        await _publish_to(outpost, 40)
        await dispatcher.until_idle()
    assert len(receiver.received("/callback")) == 80
    assert (await _destination(outpost)).verified_at == verified_at


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
        before = await _destination(outpost)
        clock.advance(120)
        for _ in range(2):
            (later,) = (await store.claim(1)).deliveries
            assert not later.watched
            await store.record([finished(later, at=clock.now())])
    assert await _destination(outpost) == before


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
