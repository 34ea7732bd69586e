"""A job's progress as stories, on both databases: few and the newest at a slow receiver, and nothing after the end."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import text

from dispatcher.clock import SystemClock
from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.errors import Conflict
from dispatcher.ids import Kind, public_id
from dispatcher.service import dead_letters, deliveries, endpoint_changes, endpoints, events, redeliveries
from dispatcher.service.models import DeadLetterRedeliver, Recover
from dispatcher.states import DeliveryState, EventKind, RunState
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Received, Receiver

P, DONE, STEP = "job.progress", "job.completed", "job.step"


async def _answer_to(outpost: Outpost, receiver: Receiver, **fields: Any) -> Registered:
    return await outpost.endpoint(receiver.url("/hook"), **fields)


async def _report(outpost: Outpost, *percentages: int, job_id: str = "job_1") -> None:
    for percentage in percentages:
        await outpost.publish(P, job_id=job_id, data=json.dumps({"percentage": percentage}))


def _told(requests: list[Received]) -> list[str | int]:
    """What a receiver was told, in order: types, and of progress its percentage."""
    bodies = [json.loads(request.body) for request in requests]
    return [body["data"].get("percentage", body["type"]) for body in bodies]


class Gate:
    """A receiver that answers when it is let, and tells that somebody waits."""

    def __init__(self) -> None:
        self.somebody_waits = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, _: Received) -> web.Response:
        self.somebody_waits.set()
        async with asyncio.timeout(10):
            await self.open.wait()
        return web.Response()


async def _fanned_out(dispatcher: Dispatcher, outpost: Outpost, count: int) -> None:
    """Waits until so many events have left the outbox, while attempts may be in flight."""
    async with asyncio.timeout(10):
        while await outpost.count("fanout_queue") or await outpost.count("job_events") < count:
            dispatcher.wake()
            await asyncio.sleep(0)


async def test_a_slow_receiver_gets_few_of_a_burst_always_the_last_and_the_end_at_the_end(
    outpost: Outpost, receiver: Receiver
) -> None:
    await _answer_to(outpost, receiver)
    gate = Gate()
    receiver.answers("/hook", gate, 200)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 1)
        dispatcher.wake()
        await gate.somebody_waits.wait()
        await _report(outpost, *range(2, 31))
        await _fanned_out(dispatcher, outpost, 30)
        gate.open.set()
        await dispatcher.until_idle()
        assert _told(receiver.received()) == [1, 30]
        gate.somebody_waits.clear()
        gate.open.clear()
        receiver.answers("/hook", gate, 200)
        await _report(outpost, 31)
        dispatcher.wake()
        await gate.somebody_waits.wait()
        await _report(outpost, 32, 33)
        await outpost.publish(DONE, job_id="job_1")
        await _report(outpost, 34)
        await _fanned_out(dispatcher, outpost, 35)
        gate.open.set()
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [1, 30, 31, DONE]
    assert [request.headers["x-job-previous"] for request in receiver.received()] == ["0", "1", "30", "31"]
    rows = await outpost.deliveries()
    assert len(rows) == 35
    assert {row.state for row in rows} == {DeliveryState.DELIVERED, DeliveryState.SUPERSEDED}


async def test_failing_progress_is_not_tried_again_once_there_is_newer(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, retry_schedule=(60.0,))
    receiver.answers("/hook", 500, 200)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 10)
        await dispatcher.until_idle()
        assert [row.state for row in await outpost.deliveries()] == [DeliveryState.PENDING]
        await _report(outpost, 20)
        await dispatcher.until_idle()
        clock.advance(3600)
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [10, 20]
    assert not await outpost.letters()
    page = await deliveries.list_page(outpost.deployment, tenant=None)
    newest, oldest = page.data
    assert (newest.state, newest.superseded_by) == (DeliveryState.DELIVERED, None)
    assert (oldest.state, oldest.reason, oldest.superseded_by) == ("superseded", "superseded", newest.event_id)


async def test_a_terminal_event_is_tried_for_its_whole_schedule_and_dies_with_a_dead_letter(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, retry_schedule=(60.0, 60.0))
    receiver.answers("/hook", 500)
    await outpost.publish(DONE, job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        for _ in range(3):
            await dispatcher.until_idle()
            await outpost.publish(P, DONE, STEP, job_id="job_1")
            clock.advance(60)
        await dispatcher.until_idle()
    first = (await outpost.deliveries())[0]
    assert (first.state, first.attempts) == (DeliveryState.DEAD, 3)


async def test_what_comes_after_the_end_is_delivered_in_order_if_it_is_state(
    outpost: Outpost, receiver: Receiver
) -> None:
    await _answer_to(outpost, receiver)
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish(P, STEP, P, DONE, P, "job.billed", job_id="job_1")
        await dispatcher.until_idle()
        await outpost.publish("job.archived", P, "job.failed", job_id="job_1")
        await dispatcher.until_idle()
    types = [request.type for request in receiver.received()]
    assert types == [STEP, DONE, "job.billed", "job.archived", "job.failed"]


async def test_state_in_between_stays_in_its_place(outpost: Outpost, receiver: Receiver) -> None:
    await _answer_to(outpost, receiver)
    await _report(outpost, 10)
    await outpost.publish("step.one", job_id="job_1")
    await _report(outpost, 20, 30)
    await outpost.publish("step.two", job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert _told(receiver.received()) == ["step.one", 30, "step.two"]


async def test_an_unordered_endpoint_gets_the_newest_too_and_nothing_after_the_end(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, ordered=False, retry_schedule=(60.0,))
    receiver.answers("/hook", 500, 500, 200)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 10)
        await dispatcher.until_idle()
        await _report(outpost, 20)
        await dispatcher.until_idle()
        await outpost.publish(DONE, job_id="job_1")
        await dispatcher.until_idle()
        clock.advance(600)
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [10, 20, DONE]


async def test_a_paused_endpoint_is_sent_only_the_newest_when_it_resumes(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await _answer_to(outpost, receiver)
    async with outpost.dispatcher() as dispatcher:
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "pause", tenant=None)
        await _report(outpost, *range(10))
        await outpost.publish(STEP, job_id="job_1")
        await dispatcher.until_idle()
        await _report(outpost, 10)
        await _report(outpost, 55, job_id="job_2")
        await outpost.publish(DONE, job_id="job_2")
        await dispatcher.until_idle()
        assert not receiver.received()
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "resume", tenant=None)
        await dispatcher.until_idle()
    by_job = {
        job_id: _told([r for r in receiver.received() if json.loads(r.body)["job_id"] == job_id])
        for job_id in ("job_1", "job_2")
    }
    assert by_job == {"job_1": [STEP, 10], "job_2": [DONE]}


async def test_an_interval_lets_through_one_at_a_time_and_the_last_in_the_end(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, progress_interval_s=10.0)
    async with outpost.dispatcher() as dispatcher:
        for second in range(25):
            await _report(outpost, second)
            await dispatcher.until_idle()
            clock.advance(1)
            await dispatcher.until_idle()
        assert _told(receiver.received()) == [0, 9, 19]
        clock.advance(4)
        await dispatcher.until_idle()
        assert _told(receiver.received()) == [0, 9, 19]
        clock.advance(1)
        await dispatcher.until_idle()
        assert _told(receiver.received()) == [0, 9, 19, 24]
        await _report(outpost, 98)
        await outpost.publish(DONE, job_id="job_1")
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [0, 9, 19, 24, DONE]


async def test_the_flush_comes_in_time_though_nobody_polls(outpost: Outpost, receiver: Receiver) -> None:
    # In real time: the dispatcher wakes by itself for what it has put off.
    real = Outpost(outpost.settings.database_url, SystemClock(), poll_interval="1h")
    await _answer_to(real, receiver, progress_interval_s=0.5)
    async with real.dispatcher() as dispatcher:
        began_s = asyncio.get_running_loop().time()
        for percentage in (1, 2, 3):
            await _report(real, percentage)
            dispatcher.wake()
            await receiver.wait_for(min(percentage, 1))
            await _fanned_out(dispatcher, real, percentage)
        first, last = await receiver.wait_for(2)
    await real.close()
    assert _told([first, last]) in ([1, 3], [1, 2])
    # The interval counts from the first one's attempt; how long that was under way is the machine's matter.
    assert last.arrived_s - began_s >= 0.49


async def test_progress_of_a_settled_job_is_not_redelivered(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, retry_schedule=())
    receiver.answers("/hook", 500, 500, 200)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 10)
        await dispatcher.until_idle()
        await outpost.publish("job.failed", job_id="job_1")
        await dispatcher.until_idle()
        progress, terminal = await outpost.deliveries()
        with pytest.raises(Conflict, match="settled"):
            await deliveries.redeliver(outpost.deployment, public_id(Kind.DELIVERY, progress.row_id), tenant=None)
        run = await dead_letters.redeliver(outpost.deployment, DeadLetterRedeliver(all=True), tenant=None)
        clock.advance(1)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
    assert run.id is not None
    seen = await redeliveries.get(outpost.deployment, run.id, tenant=None)
    assert (seen.state, seen.matched, seen.done, seen.skipped, seen.delivered) == (RunState.DONE, 2, 1, 1, 1)
    assert _told(receiver.received()) == [10, "job.failed", "job.failed"]
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DEAD, DeliveryState.DELIVERED]
    assert terminal.state == DeliveryState.DEAD


async def test_redelivered_progress_gives_way_to_newer(outpost: Outpost, receiver: Receiver) -> None:
    endpoint = await _answer_to(outpost, receiver)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 10)
        await dispatcher.until_idle()
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "pause", tenant=None)
        await _report(outpost, 20)
        await dispatcher.until_idle()
        delivered = public_id(Kind.DELIVERY, (await outpost.deliveries())[0].row_id)
        with pytest.raises(Conflict, match="newer progress"):
            await deliveries.redeliver(outpost.deployment, delivered, tenant=None)
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "resume", tenant=None)
        await dispatcher.until_idle()
        redelivered = await deliveries.redeliver(outpost.deployment, delivered, tenant=None)
        assert redelivered.state == DeliveryState.PENDING
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [10, 20, 10]


async def test_recover_sends_of_each_job_the_newest_progress_and_of_a_settled_one_none(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await _answer_to(outpost, receiver)
    since = clock.now()
    await endpoint_changes.set_status(outpost.deployment, endpoint.id, "disable", tenant=None)
    async with outpost.dispatcher() as dispatcher:
        await _report(outpost, 10, 20)
        await outpost.publish(STEP, job_id="job_1")
        await _report(outpost, 30, 40)
        await _report(outpost, 77, job_id="job_2")
        await outpost.publish(DONE, job_id="job_2")
        await dispatcher.until_idle()
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "enable", tenant=None)
        run = await endpoints.recover(outpost.deployment, endpoint.id, Recover(since=since), tenant=None)
        clock.advance(1)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
    assert run.id is not None
    seen = await redeliveries.get(outpost.deployment, run.id, tenant=None)
    assert (seen.matched, seen.done, seen.skipped) == (7, 3, 4)
    by_job = {
        job_id: _told([r for r in receiver.received() if json.loads(r.body)["job_id"] == job_id])
        for job_id in ("job_1", "job_2")
    }
    assert by_job == {"job_1": [STEP, 40], "job_2": [DONE]}


async def test_an_event_shows_what_it_was_fanned_out_as(outpost: Outpost) -> None:
    await outpost.publish(P, job_id="job_1")
    await outpost.publish(P, DONE)
    await outpost.publish("my.type", job_id="job_1", kind="terminal")

    async def kinds() -> list[EventKind]:
        return [event.kind for event in (await events.list_page(outpost.deployment, tenant=None)).data][::-1]

    expected = [EventKind.PROGRESS, EventKind.STATE, EventKind.STATE, EventKind.TERMINAL]
    assert await kinds() == expected
    async with outpost.store() as store:
        await store.fan_out(10)
    assert await kinds() == expected
    first = (await outpost.rows("events"))[0]
    assert (await events.get(outpost.deployment, first.id, tenant=None)).kind is EventKind.PROGRESS
    # Whatever the settings say by now: what it was fanned out as stands.
    changed = Outpost(outpost.settings.database_url, outpost.clock, event_kinds='{"job.progress": "state"}')
    try:
        assert (await events.get(changed.deployment, first.id, tenant=None)).kind is EventKind.PROGRESS
        await outpost.publish(P, job_id="job_1")
        assert (await events.list_page(changed.deployment, tenant=None)).data[0].kind is EventKind.STATE
    finally:
        await changed.close()


async def test_plain_sql_names_a_kind_and_a_wrong_one_is_refused(outpost: Outpost, receiver: Receiver) -> None:
    await _answer_to(outpost, receiver)
    insert = "INSERT INTO events (type, data, job_id, kind) VALUES ('tick', '{}', 'job_1', :kind)"
    for _ in range(3):
        async with outpost.database.begin() as connection:
            await connection.execute(text(insert), {"kind": "progress"})
    with pytest.raises(Exception, match="events_kind"):
        async with outpost.database.begin() as connection:
            await connection.execute(text(insert), {"kind": "over"})
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert [json.loads(request.body)["sequence"] for request in receiver.received()] == [3]
