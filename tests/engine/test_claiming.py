"""The claim loop as a dispatcher runs it: no more in flight than allowed, and each in its turn."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from dispatcher.clock import SystemClock
from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.burial import Burial
from dispatcher.engine.claiming import LASTING_S, LEAST_BATCH, Claiming
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.pulse import Pulse
from dispatcher.states import DeliveryState
from dispatcher.transport.client import HttpClient
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost
from tests.receiver import Received, Receiver


class Crowd:
    """Answers when so many are there at once, and a moment later, so that one too many would be seen."""

    def __init__(self, expected: int) -> None:
        self.now = self.most = 0
        self._expected = expected
        self._complete = asyncio.Event()

    async def __call__(self, _: Received) -> web.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._expected:
            self._complete.set()
        async with asyncio.timeout(PATIENCE_S):
            await self._complete.wait()
        for _turn in range(50):
            await asyncio.sleep(0)
        self.now -= 1
        return web.Response()


@pytest.mark.parametrize(
    ("settings", "fields", "most"),
    [
        ({"max_in_flight": 7}, {}, 7),
        ({"max_in_flight_per_endpoint": 4}, {}, 4),
        ({"max_in_flight_per_destination": 5}, {}, 5),
        ({"max_in_flight_per_endpoint": 9}, {"max_in_flight": 3}, 3),
    ],
)
async def test_no_more_are_in_flight_than_the_caps_allow_and_all_arrive(
    outpost: Outpost, receiver: Receiver, settings: dict[str, int], fields: dict[str, Any], most: int
) -> None:
    crowd = Crowd(most)
    receiver.answers("/hook", crowd)
    await outpost.endpoint(receiver.url("/hook"), **fields)
    await outpost.publish(*["a"] * 30)
    async with outpost.dispatcher(**settings) as dispatcher:
        await dispatcher.until_idle()
    assert crowd.most == most
    assert len(receiver.received()) == 30


async def test_a_rate_limit_is_kept_second_by_second(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    await outpost.endpoint(receiver.url("/hook"), rate_limit=4.0)
    await outpost.publish(*["a"] * 10)
    arrived = []
    async with outpost.dispatcher() as dispatcher:
        for _ in range(4):
            await dispatcher.until_idle()
            arrived.append(len(receiver.received()))
            clock.advance(1)
    assert arrived == [4, 8, 10, 10]


async def test_a_slow_endpoint_does_not_keep_the_others_waiting(outpost: Outpost, receiver: Receiver) -> None:
    release = asyncio.Event()

    async def slow(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/slow", slow)
    await outpost.endpoint(receiver.url("/slow"), max_in_flight=5)
    await outpost.endpoint(receiver.url("/quick"))
    await outpost.publish(*["a"] * 60)
    async with outpost.dispatcher(max_in_flight=20) as dispatcher:
        assert len(await receiver.wait_for(60, "/quick")) == 60
        assert len(receiver.received("/slow")) == 5
        release.set()
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}


async def test_a_retry_is_claimed_when_its_time_has_come_without_anybody_asking(
    sqlite_url: str, receiver: Receiver
) -> None:
    outpost = Outpost(sqlite_url, SystemClock(), lease="10s", poll_interval="1h")
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(0.05,))
    receiver.answers("/hook", 500, 200)
    await outpost.publish()
    async with outpost.dispatcher(poll_interval=timedelta(hours=1)):
        first, second = await receiver.wait_for(2)
    assert second.arrived_s - first.arrived_s >= 0.05
    await outpost.close()


async def test_a_retry_wakes_the_claim_in_time_however_long_the_poll_interval_is(
    outpost: Outpost, clock: FakeClock
) -> None:
    pulse = Pulse()
    client = HttpClient(outpost.deployment.egress, connect_timeout_s=1)
    attempts = Attempts(outpost.deployment, client, EndpointBook(outpost.deployment), covers=lambda row: True)
    async with outpost.store() as store:
        claiming = Claiming(
            store,
            clock,
            attempts,
            pulse,
            ended=lambda ended: None,
            unrecorded=list,
            take_back_unanswered=_nothing_unanswered,
            doubt_s=60.0,
            burial=Burial(outpost.database, pulse.ring),
            max_in_flight=10,
            poll_interval_s=3600.0,
        )
        assert await claiming.once() == 3600.0
        pulse.quiet()
        claiming.retry_at(5.0)
        # Else it sleeps on for an hour.
        assert pulse.rung
        assert await claiming.once() == 5.0
        pulse.quiet()
        claiming.retry_at(60.0)
        assert not pulse.rung
    await client.close()


async def test_what_hangs_at_a_slow_endpoint_makes_nobody_elses_claims_small(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    release = asyncio.Event()

    async def slow(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/slow", slow)
    await outpost.endpoint(receiver.url("/slow"), event_types=("slow",))
    for number in range(4):
        await outpost.endpoint(receiver.url(f"/quick/{number}"), event_types=("quick",))
    await outpost.publish(*["slow"] * LEAST_BATCH, *["quick"] * 100)
    pulse = Pulse()
    client = HttpClient(outpost.deployment.egress, connect_timeout_s=5)
    attempts = Attempts(outpost.deployment, client, EndpointBook(outpost.deployment), covers=lambda row: True)
    over: list[tuple[int, int]] = []
    one_more = asyncio.Event()

    def ended(end: Ended) -> None:
        over.append((end.finished.delivery_row, end.finished.attempt))
        one_more.set()

    async with outpost.store() as store:
        claiming = Claiming(
            store,
            clock,
            attempts,
            pulse,
            ended=ended,
            unrecorded=lambda: over,
            take_back_unanswered=_nothing_unanswered,
            doubt_s=60.0,
            burial=Burial(outpost.database, pulse.ring),
            max_in_flight=1000,
            poll_interval_s=3600.0,
        )

        async def claimed() -> int:
            """How many one claim begins of the quick ones; they have ended when this returns."""
            before = len(over)
            await claiming.once()
            begun = claiming.in_flight - LEAST_BATCH
            async with asyncio.timeout(30):
                while len(over) < before + begun:
                    one_more.clear()
                    await one_more.wait()
            # The last task ends with this turn of the loop.
            await asyncio.sleep(0)
            assert claiming.in_flight == LEAST_BATCH
            return begun

        await store.fan_out(LEAST_BATCH)
        assert await claimed() == 0
        for _ in range(2):
            clock.advance(LASTING_S)
            await claiming.once()
        await store.fan_out(100)
        # Whenever one returns nothing else is left to do, so the next takes more, up to the destination's cap.
        assert [await claimed() for _ in range(3)] == [LEAST_BATCH, 2 * LEAST_BATCH, 200 - LEAST_BATCH]
        release.set()
        await claiming.finish(30)
    await client.close()


async def _nothing_unanswered() -> None:
    raise AssertionError("every claim was answered")
