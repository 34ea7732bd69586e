"""Order as stories: a job's events stay in it, whoever publishes them and however many dispatchers there are."""

import asyncio
import json
import os
from collections import Counter

import pytest
from aiohttp import web
from sqlalchemy import insert

from dispatcher import AlreadyRunning
from dispatcher.states import DeliveryState
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Received, Receiver


async def test_a_jobs_events_arrive_in_order_while_other_jobs_go_on_and_a_stuck_head_is_passed_in_the_end(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"), order_hold_s=900.0, retry_schedule=(600.0, 600.0, 600.0))
    stuck = [True]
    receiver.answers("/hook", lambda r: web.Response(status=500 if stuck[0] and b"first" in r.body else 200))
    await outpost.publish("stuck.first", "stuck.second", "stuck.third", job_id="stuck")
    await outpost.publish("free.one", "free.two", job_id="free")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert sorted(request.type for request in receiver.received()) == ["free.one", "free.two", "stuck.first"]
        clock.advance(899)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
        assert [r.type for r in receiver.received() if r.type.startswith("stuck")] == ["stuck.first"] * 2
        clock.advance(1)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
        stuck[0] = False
        clock.advance(600)
        await dispatcher.until_idle()
    of_job = [r for r in receiver.received() if b"stuck" in r.body]
    assert [r.type for r in of_job] == [
        "stuck.first",
        "stuck.first",
        "stuck.second",
        "stuck.third",
        "stuck.first",
    ]
    assert [r.headers["x-job-previous"] for r in of_job] == ["0", "0", "1", "2", "0"]
    assert [json.loads(r.body)["sequence"] for r in of_job] == [1, 1, 2, 3, 1]
    assert [r.headers.get("x-delivery-late") for r in of_job] == [None, None, None, None, "true"]
    free = [r for r in receiver.received() if b"free" in r.body]
    assert [r.headers["x-job-previous"] for r in free] == ["0", "1"]


async def test_concurrent_producers_of_a_job_get_one_sequence_without_gaps_and_in_arrival_order(
    outpost: Outpost, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/hook"))

    async def produce(number: int) -> None:
        for n in range(8):
            await outpost.publish(f"p{number}.n{n}", job_id="shared")

    async with outpost.dispatcher() as dispatcher:
        await asyncio.gather(*(produce(number) for number in range(5)))
        await dispatcher.until_idle()
    arrived = [json.loads(request.body) for request in receiver.received()]
    assert [body["sequence"] for body in arrived] == list(range(1, 41))
    for number in range(5):
        own = [body["type"] for body in arrived if body["type"].startswith(f"p{number}.")]
        assert own == [f"p{number}.n{n}" for n in range(8)]


async def test_two_dispatchers_on_postgresql_share_the_work_and_caps_and_order_hold(
    postgres_outpost: Outpost, receiver: Receiver
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/capped"), max_in_flight=3, event_types=("one.*",))
    await outpost.endpoint(receiver.url("/ordered"), event_types=("job.*",))
    now, most = Counter[str](), Counter[str]()
    full = asyncio.Event()

    async def answer(request: Received) -> web.Response:
        now[request.path] += 1
        most[request.path] = max(most[request.path], now[request.path])
        # The first wait for each other: so the cap is filled, and what went beyond it would be seen.
        if now["/capped"] >= 3 and now["/ordered"] >= 4:
            full.set()
        async with asyncio.timeout(15):
            await full.wait()
        now[request.path] -= 1
        return web.Response()

    receiver.answers("/capped", answer)
    receiver.answers("/ordered", answer)
    async with outpost.dispatcher() as one, outpost.dispatcher() as other:
        async with outpost.database.begin() as connection:
            events = outpost.tables.events
            rows = [{"type": "one.off", "data": str(n)} for n in range(40)]
            await connection.execute(insert(events), rows)
            jobs = [{"type": "job.step", "data": str(n), "job_id": f"j{n % 4}"} for n in range(40)]
            await connection.execute(insert(events), jobs)
        while {row.state for row in await outpost.deliveries()} != {DeliveryState.DELIVERED}:
            await one.until_idle()
            await other.until_idle()
    assert most["/capped"] == 3
    assert most["/ordered"] == 4
    assert len({request.headers["webhook-id"] for request in receiver.received()}) == 80
    assert len(receiver.received()) == 80
    by_job: dict[str, list[int]] = {}
    for request in receiver.received("/ordered"):
        body = json.loads(request.body)
        by_job.setdefault(body["job_id"], []).append(body["sequence"])
    assert by_job == {f"j{n}": list(range(1, 11)) for n in range(4)}


async def test_a_second_dispatcher_on_a_sqlite_file_is_refused_and_told_who_holds_it(
    sqlite_outpost: Outpost,
) -> None:
    async with sqlite_outpost.dispatcher():
        with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}\b"):
            await sqlite_outpost.dispatcher().start()
    async with sqlite_outpost.dispatcher():
        pass
