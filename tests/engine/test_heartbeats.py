"""Heartbeats: an endpoint that asked for them is sent something at least every so often, whatever happens."""

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from dispatcher.engine.dispatcher import Dispatcher
from dispatcher.rules.own_events import HEARTBEAT
from dispatcher.rules.verifying import verify
from dispatcher.service import deliveries, endpoint_changes, events
from dispatcher.service.models import EndpointUpdate
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import heartbeats
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered, finished
from tests.receiver import Receiver


async def _beat(dispatcher: Dispatcher) -> None:
    await dispatcher.run_duties()
    await dispatcher.until_idle()


async def _after(clock: FakeClock, dispatcher: Dispatcher, *seconds: float) -> None:
    for pause_s in seconds:
        clock.advance(pause_s)
        await _beat(dispatcher)


async def _send_due(outpost: Outpost) -> tuple[int, int]:
    async with outpost.database.begin() as connection:
        return await heartbeats.send_due(connection, outpost.database, 500)


def _types(receiver: Receiver, path: str = "/hook") -> list[str]:
    return [request.type for request in receiver.received(path)]


async def _heartbeats(outpost: Outpost) -> Sequence[Any]:
    return [row for row in await outpost.rows("events") if row.type == HEARTBEAT]


async def test_silence_is_broken_by_a_signed_heartbeat(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), event_types=("job.*",), heartbeat_s=60.0)
    await outpost.endpoint(receiver.url("/other"), event_types=("*", "webhook.*"))
    async with outpost.dispatcher() as dispatcher:
        await _beat(dispatcher)
        await _after(clock, dispatcher, 30, 29)
        assert not receiver.requests
        await _after(clock, dispatcher, 1)
        (beat,) = receiver.received("/hook")
        await _after(clock, dispatcher, 59)
        assert len(receiver.requests) == 1
        await _after(clock, dispatcher, 1)
    assert _types(receiver) == [HEARTBEAT] * 2
    assert json.loads(beat.body)["data"] == {"endpoint_id": endpoint.id, "heartbeat_s": 60.0}
    assert not receiver.received("/other")
    verify(beat.body, beat.headers, endpoint.secret, now=float(beat.headers["webhook-timestamp"]))
    first, second = (request.headers["webhook-id"] for request in receiver.received("/hook"))
    assert first != second


async def test_what_is_sent_anyway_puts_the_heartbeat_off(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"), heartbeat_s=60.0, retry_schedule=(50.0,))
    receiver.answers("/hook", 200, 500, 500, 200)
    async with outpost.dispatcher() as dispatcher:
        await _beat(dispatcher)
        clock.advance(40)
        await outpost.publish("a")
        await dispatcher.until_idle()
        await _after(clock, dispatcher, 20, 20)
        await outpost.publish("b")
        await dispatcher.until_idle()
        # A failed attempt has reached the receiver too, or it would have been heard of as a failure.
        await _after(clock, dispatcher, 50, 9)
        assert _types(receiver) == ["a", "b", "b"]
        await _after(clock, dispatcher, 50)
        assert _types(receiver) == ["a", "b", "b"]
        await _after(clock, dispatcher, 1)
        assert _types(receiver) == ["a", "b", "b", HEARTBEAT]


async def test_a_heartbeat_that_fails_is_dropped_and_speaks_against_its_endpoint(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), heartbeat_s=10.0)
    await outpost.endpoint(receiver.url("/told"), event_types=("webhook.*",))
    receiver.answers("/hook", 500, 500, 200)
    async with outpost.dispatcher() as dispatcher:
        await _beat(dispatcher)
        await _after(clock, dispatcher, 10)
        row = await outpost.delivery()
        assert (row.state, row.reason, row.due_at, row.attempts) == (
            DeliveryState.SUPERSEDED,
            Reason.SUPERSEDED,
            None,
            1,
        )
        await _after(clock, dispatcher, 10)
        assert (await outpost.endpoint_now(endpoint)).failures_in_row == 2
        assert not await outpost.letters()
        await _after(clock, dispatcher, 10)
        assert (await outpost.endpoint_now(endpoint)).failures_in_row == 0
    assert _types(receiver) == [HEARTBEAT] * 3
    assert not receiver.received("/told")


async def test_a_heartbeat_answered_410_disables_the_endpoint(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), heartbeat_s=10.0)
    receiver.answers("/hook", 410)
    async with outpost.dispatcher() as dispatcher:
        await _beat(dispatcher)
        await _after(clock, dispatcher, 10, 10)
    now = await outpost.endpoint_now(endpoint)
    assert (now.status, now.disabled_reason) == (EndpointStatus.DISABLED, Reason.GONE)
    assert len(receiver.requests) == 1
    assert not await outpost.letters()


async def test_of_each_endpoint_the_last_heartbeat_is_kept(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), heartbeat_s=10.0)
    await outpost.publish("a")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        await _beat(dispatcher)
        await _after(clock, dispatcher, *[10.0] * 3)
    assert _types(receiver) == ["a", *[HEARTBEAT] * 3]
    (kept,) = await _heartbeats(outpost)
    assert kept.id == receiver.requests[-1].headers["webhook-id"]
    assert len(await outpost.deliveries()) == 2
    assert not await outpost.count("fanout_queue")
    # In lists it stands only where it is asked for.
    listed = await events.list_page(outpost.deployment, tenant=None)
    assert [event.type for event in listed.data] == ["a"]
    assert len((await events.list_page(outpost.deployment, tenant=None, type=HEARTBEAT)).data) == 1
    assert len((await deliveries.list_page(outpost.deployment, tenant=None)).data) == 1
    assert len((await deliveries.list_page(outpost.deployment, tenant=None, endpoint_id=endpoint.id)).data) == 2


async def test_one_waits_at_most_however_long_the_endpoint_is_left_alone(outpost: Outpost, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint(heartbeat_s=10.0)
    until = clock.now() + timedelta(hours=1)
    await outpost.change("endpoint_state", endpoint.row, paused_until=until)
    for _ in range(20):
        clock.advance(10)
        await _send_due(outpost)
    assert (await outpost.delivery()).state == DeliveryState.PENDING
    async with outpost.store() as store:
        assert not (await store.claim(10)).deliveries
        clock.advance(3600)
        (claimed,) = (await store.claim(10)).deliveries
        # Nor beside one that is on its way.
        await _send_due(outpost)
        assert claimed.event_type == HEARTBEAT
    assert await outpost.count("deliveries") == 1


async def test_who_is_paused_disabled_or_expired_gets_none(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    paused, disabled = [
        await outpost.endpoint(receiver.url(path), heartbeat_s=10.0) for path in ("/paused", "/disabled")
    ]
    await outpost.endpoint(
        receiver.url("/callback"), heartbeat_s=10.0, job_id="job_1", expires_at=clock.now() + timedelta(seconds=25)
    )
    await endpoint_changes.set_status(outpost.deployment, paused.id, "pause", tenant=None)
    await endpoint_changes.set_status(outpost.deployment, disabled.id, "disable", tenant=None)
    async with outpost.dispatcher() as dispatcher:
        await _beat(dispatcher)
        await _after(clock, dispatcher, *[10.0] * 3)
        assert [request.path for request in receiver.requests] == ["/callback"] * 2
        await endpoint_changes.set_status(outpost.deployment, paused.id, "resume", tenant=None)
        # It was silent for long enough by then.
        await _after(clock, dispatcher, 1)
    assert _types(receiver, "/paused") == [HEARTBEAT]


async def test_heartbeats_come_and_go_with_the_field(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"))

    async def ask_for(heartbeat_s: float | None) -> None:
        body = EndpointUpdate.read({"heartbeat_s": heartbeat_s})
        assert (await endpoint_changes.update(outpost.deployment, endpoint.id, body, tenant=None)).heartbeat_s == (
            heartbeat_s
        )

    async with outpost.dispatcher() as dispatcher:
        await _after(clock, dispatcher, 100)
        assert not receiver.requests
        await ask_for(30.0)
        await _after(clock, dispatcher, 1)
        assert len(receiver.requests) == 1
        await ask_for(20.0)
        await _after(clock, dispatcher, 19)
        assert len(receiver.requests) == 1
        await _after(clock, dispatcher, 1)
        assert len(receiver.requests) == 2
        await ask_for(None)
        await _after(clock, dispatcher, 100)
        assert len(receiver.requests) == 2


async def test_a_heartbeat_is_made_whole_or_not_at_all(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint(heartbeat_s=10.0)
    clock.advance(10)

    async def killed_while_sending() -> None:
        async with outpost.database.begin() as connection:
            assert await heartbeats.send_due(connection, outpost.database, 500) == (1, 1)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        await killed_while_sending()
    assert not await outpost.count("events") + await outpost.count("deliveries")
    assert await _send_due(outpost) == (1, 1)
    assert await _send_due(outpost) == (0, 0)
    assert await outpost.count("events") == await outpost.count("deliveries") == 1


async def test_several_dispatchers_send_one(postgres_outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    outpost = postgres_outpost
    made: list[Registered] = [
        await outpost.endpoint(receiver.url(f"/{number}"), heartbeat_s=10.0) for number in range(5)
    ]
    async with outpost.dispatcher() as one, outpost.dispatcher() as other:
        await asyncio.gather(_beat(one), _beat(other))
        for _ in range(2):
            clock.advance(10)
            await asyncio.gather(*(_send_due(outpost) for _ in range(4)), _beat(one), _beat(other))
            async with asyncio.timeout(25):
                while {row.state for row in await outpost.deliveries()} != {DeliveryState.DELIVERED}:
                    await asyncio.gather(_beat(one), _beat(other))
    assert [len(receiver.received(f"/{number}")) for number in range(len(made))] == [2] * len(made)


async def test_a_clock_that_was_set_back_holds_no_heartbeat_up(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint(heartbeat_s=10.0)
    await outpost.publish("a")
    async with outpost.store() as store:
        await store.fan_out(1)
        (claimed,) = (await store.claim(1)).deliveries
        await store.record([finished(claimed, at=clock.now())])
    await outpost.change("deliveries", claimed.delivery_row, updated_at=clock.now() + timedelta(hours=1))
    assert await _send_due(outpost) == (1, 0)
    clock.advance(10)
    assert await _send_due(outpost) == (1, 1)


async def test_endpoints_whose_time_has_come_are_found_by_their_index(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.endpoint(heartbeat_s=10.0)
    clock.advance(10)
    asked: list[tuple[str, Any]] = []

    @event.listens_for(outpost.database.engine.sync_engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if re.match(r"SELECT.*heartbeat_due_at", statement, re.DOTALL):
            asked.append((statement, parameters))

    assert await outpost.holds(heartbeats.due)
    await _send_due(outpost)
    event.remove(outpost.database.engine.sync_engine, "before_cursor_execute", note)
    assert len(asked) == 2
    explain = "EXPLAIN QUERY PLAN" if outpost.database.dialect == "sqlite" else "EXPLAIN"
    async with outpost.database.begin() as connection:
        if outpost.database.dialect == "postgresql":
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for statement, parameters in asked:
            plan = "\n".join(map(str, await connection.exec_driver_sql(f"{explain} {statement}", parameters)))
            assert "ix_endpoints_heartbeat" in plan
            if "sending" in statement:
                assert {"ix_deliveries_claim", "ix_deliveries_sending"} <= set(re.findall(r"ix_\w+", plan))
