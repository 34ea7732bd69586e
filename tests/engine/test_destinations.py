"""Scheme, host and port as a whole: a circuit where nobody can be reached."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
from aiohttp import web
from msgspec.structs import replace

from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus
from dispatcher.store.hot import Finished, HotStore
from dispatcher.store.tally import BACKOFF_AFTER, BACKOFF_FIRST_S, BACKOFF_LONGEST_S
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.receiver import Receiver

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
        destination = await outpost.destination()
        assert destination.paused_until == clock.now() + timedelta(seconds=BACKOFF_FIRST_S)
        assert (destination.ramp, destination.failures_in_row) == (1, ENDPOINTS)
        assert await attempts_after(BACKOFF_FIRST_S - 0.1) == ENDPOINTS
        # One probe, whichever endpoint's; each that fails doubles the pause.
        pauses: list[float] = []
        probes = 0
        while (await outpost.destination()).paused_until is not None and len(pauses) < 8:
            paused_until = (await outpost.destination()).paused_until
            probes += 1
            assert await attempts_after((paused_until - clock.now()).total_seconds()) == ENDPOINTS + probes
            pauses.append(((await outpost.destination()).paused_until - clock.now()).total_seconds())
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
    destination = await outpost.destination()
    assert (destination.failures_in_row, destination.backoff_failures, destination.ramp) == (0, 0, None)


async def test_one_paths_errors_do_not_stop_its_neighbours(outpost: Outpost, receiver: Receiver) -> None:
    for n in range(BACKOFF_AFTER + 5):
        await outpost.endpoint(receiver.url(f"/bad/{n}"), event_types=("bad",), retry_schedule=())
        receiver.answers(f"/bad/{n}", 500 + n % 5)
    await outpost.endpoint(receiver.url("/good"))
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("bad", "bad")
        await dispatcher.until_idle()
        destination = await outpost.destination()
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
        assert (await outpost.destination()).paused_until is None
        await store.record(ends[-1:])
        assert (await outpost.destination()).paused_until == clock.now() + timedelta(seconds=BACKOFF_FIRST_S)
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
    destination = await outpost.destination()
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
    destination = await outpost.destination()
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
    destination = await outpost.destination()
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
    destination = await outpost.destination()
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
