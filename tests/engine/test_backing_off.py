"""An endpoint in trouble, end to end: back-off, probe and slow start, and when it is given up as failing."""

import asyncio
from datetime import timedelta

import pytest
from aiohttp import web

from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store.tally import BACKOFF_AFTER, BACKOFF_FIRST_S, BACKOFF_LONGEST_S
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver

DAY_S = 86400.0
PATIENT = (1.0,) * 50


async def test_an_endpoint_that_is_overloaded_is_left_alone_probed_and_started_slowly(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    alone = []

    async def probed(_: Received) -> web.Response:
        before = len(receiver.received())
        for _turn in range(50):
            await asyncio.sleep(0)
        alone.append(len(receiver.received()) == before)
        return web.Response()

    endpoint = await outpost.endpoint(receiver.url("/hook"), max_in_flight=1, retry_schedule=PATIENT)
    receiver.answers("/hook", *[503] * (BACKOFF_AFTER + 1), probed, 200)
    await outpost.publish(*["a"] * 40)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert len(receiver.received()) == BACKOFF_AFTER
        known = await outpost.endpoint_now(endpoint)
        assert (known.paused_until, known.ramp) == (clock.now() + timedelta(seconds=BACKOFF_FIRST_S), 1)
        await outpost.change("endpoints", endpoint.row, max_in_flight=None)
        clock.advance(BACKOFF_FIRST_S - 0.1)
        await dispatcher.until_idle()
        assert len(receiver.received()) == BACKOFF_AFTER
        # One probe; it fails too, so the pause is twice as long.
        clock.advance(0.1)
        await dispatcher.until_idle()
        assert len(receiver.received()) == BACKOFF_AFTER + 1
        paused_until = (await outpost.endpoint_now(endpoint)).paused_until
        assert paused_until == clock.now() + timedelta(seconds=2 * BACKOFF_FIRST_S)
        clock.advance(2 * BACKOFF_FIRST_S)
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}
    assert len(receiver.received()) == BACKOFF_AFTER + 1 + 40
    known = await outpost.endpoint_now(endpoint)
    assert (known.backoff_failures, known.ramp) == (0, None)
    assert alone == [True]


async def test_what_was_in_flight_when_the_pause_began_does_not_lengthen_it(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    arrived = asyncio.Event()

    async def all_at_once(_: Received) -> web.Response:
        if len(receiver.received()) == 40:
            arrived.set()
        await arrived.wait()
        return web.Response(status=503)

    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(300.0,))
    receiver.answers("/hook", all_at_once)
    await outpost.publish(*["a"] * 40)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert len(receiver.received()) == 40
    known = await outpost.endpoint_now(endpoint)
    assert known.failures_in_row == 40
    assert known.paused_until == clock.now() + timedelta(seconds=BACKOFF_FIRST_S)


async def test_each_failing_probe_doubles_the_pause_until_the_longest(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint(receiver.url("/hook"), max_in_flight=1, retry_schedule=PATIENT)
    receiver.answers("/hook", 503)
    await outpost.publish("a", "b")
    pauses: list[float] = []
    async with outpost.dispatcher() as dispatcher:
        while len(pauses) < 9:
            requests = len(receiver.received())
            await dispatcher.until_idle()
            known = await outpost.endpoint_now(endpoint)
            if known.paused_until is None:
                clock.advance(1)
                continue
            assert not pauses or len(receiver.received()) == requests + 1
            pauses.append((known.paused_until - clock.now()).total_seconds())
            clock.advance(pauses[-1])
    assert pauses == [5, 10, 20, 40, 80, 160, BACKOFF_LONGEST_S, BACKOFF_LONGEST_S, BACKOFF_LONGEST_S]
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.PENDING}


async def test_failures_that_are_no_overload_leave_each_delivery_its_own_schedule(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(60.0,))
    receiver.answers("/hook", *[500] * 30, 200)
    await outpost.publish(*["a"] * 30)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        known = await outpost.endpoint_now(endpoint)
        assert (known.failures_in_row, known.backoff_failures, known.paused_until) == (30, 0, None)
        clock.advance(60)
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}


async def test_a_blocked_endpoint_blocks_no_other(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/down"), retry_schedule=PATIENT)
    await outpost.endpoint(receiver.url("/up"))
    receiver.answers("/down", 503)
    await outpost.publish(*["a"] * 30)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert len(receiver.received("/up")) == 30


@pytest.mark.parametrize(("failures", "days"), [(19, 6.0), (40, 4.9)])
async def test_few_failures_or_a_short_time_are_no_reason_to_disable(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock, failures: int, days: float
) -> None:
    outpost = sqlite_outpost
    schedule = (days * DAY_S / (failures - 1),) * (failures + 1)
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=schedule)
    receiver.answers("/hook", 500)
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        for n in range(1, failures + 1):
            await dispatcher.until_idle()
            assert len(receiver.received()) == n
            clock.advance(schedule[0])
    known = await outpost.endpoint_now(endpoint)
    assert (known.status, known.failures_in_row) == (EndpointStatus.ENABLED, failures)


async def test_a_success_in_between_begins_the_count_anew(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(DAY_S / 4,) * 100)
    receiver.answers("/hook", lambda r: web.Response(status=200 if b'"good"' in r.body else 500))
    await outpost.publish("bad")
    async with outpost.dispatcher(lease=timedelta(days=100)) as dispatcher:
        for quarter in range(40):
            if quarter % 18 == 17:
                await outpost.publish("good")
            await dispatcher.until_idle()
            clock.advance(DAY_S / 4)
        assert (await outpost.endpoint_now(endpoint)).status == EndpointStatus.ENABLED
        for _ in range(21):
            await dispatcher.until_idle()
            clock.advance(DAY_S / 4)
        known = await outpost.endpoint_now(endpoint)
        assert (known.status, known.disabled_reason) == (EndpointStatus.DISABLED, Reason.FAILING)


async def test_faults_of_ours_are_never_the_endpoints_failures(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher() as dispatcher:
        async with outpost.database.begin() as connection:
            await connection.execute(outpost.tables.endpoint_secrets.update().values(sealed=b"\x01garbage"))
        await outpost.publish(*["a"] * 20)
        await dispatcher.until_idle()
        clock.advance(6 * DAY_S)
        await outpost.publish("a")
        await dispatcher.until_idle()
    known = await outpost.endpoint_now(endpoint)
    assert (known.status, known.failures_in_row) == (EndpointStatus.ENABLED, 0)
    assert {letter.reason for letter in await outpost.letters()} == {Reason.UNREADABLE}
