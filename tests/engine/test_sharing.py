"""No endpoint and no tenant pays for another, end to end: bursts, slow receivers, and receivers with little room."""

import asyncio

from aiohttp import web

from dispatcher.states import DeliveryState
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver


async def test_a_tenants_burst_at_a_receiver_that_hangs_leaves_slots_for_other_tenants(
    outpost: Outpost, receiver: Receiver
) -> None:
    release = asyncio.Event()

    async def hangs(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/burst", hangs)
    for _ in range(30):
        await outpost.endpoint(receiver.url("/burst"), tenant="burst")
    await outpost.publish("a", "b", tenant="burst")
    async with outpost.dispatcher(max_in_flight=40, max_in_flight_per_destination=100) as dispatcher:
        # All but those that are kept: four for endpoints with few, two of these for other tenants.
        await receiver.wait_for(38, "/burst")
        for number in range(3):
            await outpost.endpoint(receiver.url(f"/other_{number}"), tenant=f"other_{number}")
            await outpost.publish("a", "b", tenant=f"other_{number}")
            assert len(await receiver.wait_for(2, f"/other_{number}")) == 2
        assert len(receiver.received("/burst")) == 38
        release.set()
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}


async def test_an_event_comes_at_once_though_many_slow_endpoints_could_fill_all_slots(
    outpost: Outpost, receiver: Receiver
) -> None:
    release = asyncio.Event()

    async def hangs(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/slow", hangs)
    for _ in range(4):
        await outpost.endpoint(receiver.url("/slow"), event_types=("slow",))
    await outpost.endpoint(receiver.url("/quick"), event_types=("quick",))
    await outpost.publish(*["slow"] * 40)
    async with outpost.dispatcher(max_in_flight=40) as dispatcher:
        # Together they could have 160 in flight.
        await receiver.wait_for(36, "/slow")
        await outpost.publish(*["quick"] * 20)
        assert len(await receiver.wait_for(20, "/quick")) == 20
        release.set()
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}


async def test_a_receiver_with_little_capacity_is_sent_about_what_it_takes(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    capacity, events = 4, 200
    busy = 0

    async def limited(_: Received) -> web.Response:
        nonlocal busy
        if busy == capacity:
            return web.Response(status=503)
        busy += 1
        for _turn in range(50):
            await asyncio.sleep(0)
        busy -= 1
        return web.Response()

    receiver.answers("/hook", limited)
    await outpost.endpoint(receiver.url("/hook"), max_in_flight=20, retry_schedule=(1.0,) * 40)
    await outpost.publish(*["a"] * events)
    async with outpost.dispatcher() as dispatcher:
        for _ in range(60):
            await dispatcher.until_idle()
            clock.advance(5)
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}
    # What twenty at once are too much at first, and then one in about 25.
    assert len(receiver.received()) < 1.4 * events
