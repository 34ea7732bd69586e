"""What the service tells its users by itself: an endpoint was disabled, a delivery died. Once, to who asked for it."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.ids import Kind, public_id
from dispatcher.rules.own_events import DEATHS_AT_ONCE, DELIVERY_DEAD, ENDPOINT_DISABLED
from dispatcher.rules.verdict import Outcome
from dispatcher.service import endpoint_changes, endpoints, events
from dispatcher.service.models import Recover
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import endpoint_status, own_events
from dispatcher.store.own_events import tell_of_deaths
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, Outpost, Registered, finished
from tests.receiver import Received, Receiver

DAY_S = 86400.0


def _told(requests: list[Received]) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in requests]


async def _run(outpost: Outpost) -> None:
    """Everything that is due now is sent, and what that brings about told."""
    assert isinstance(outpost.clock, FakeClock)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        async with asyncio.timeout(PATIENCE_S):
            untold = True
            while untold:
                # Its turn at the start may be over already; and a database that is slow just now puts it off.
                outpost.clock.advance(1)
                await dispatcher.run_duties()
                untold = await outpost.holds(own_events.untold)
        await dispatcher.until_idle()


async def _die(outpost: Outpost, count: int, endpoint: Registered) -> None:
    """So many deliveries to an endpoint end dead; to others everything is delivered."""
    await outpost.publish(*["job.step"] * count)
    async with outpost.store() as store:
        await store.fan_out(count)
        while batch := (await store.claim(1000)).deliveries:
            await store.record(
                [
                    finished(
                        claimed,
                        Outcome.DEAD if claimed.endpoint_row == endpoint.row else Outcome.DELIVERED,
                        at=outpost.clock.now(),
                    )
                    for claimed in batch
                ]
            )


async def _tell(outpost: Outpost) -> int:
    async with outpost.database.begin() as connection:
        return await tell_of_deaths(connection, outpost.database, 50)


async def _deaths_told(outpost: Outpost) -> list[dict[str, Any]]:
    return [json.loads(row.data) for row in await outpost.rows("events") if row.type == DELIVERY_DEAD]


async def test_who_subscribes_is_told_of_a_delivery_that_died(outpost: Outpost, receiver: Receiver) -> None:
    dying = await outpost.endpoint(receiver.url("/dying?token=s3cret"), event_types=("job.*",), retry_schedule=())
    receiver.answers("/dying", 500)
    exact = await outpost.endpoint(receiver.url("/exact"), event_types=(DELIVERY_DEAD,))
    await outpost.endpoint(receiver.url("/all-ours"), event_types=("webhook.*", "x"))
    await outpost.endpoint(receiver.url("/another-tenant"), event_types=("webhook.*",), tenant="other")
    await outpost.endpoint(receiver.url("/callback"), event_types=("webhook.*",), job_id="job_1")
    await outpost.publish("job.step", job_id="job_1")
    await _run(outpost)

    (dead,) = [row for row in await outpost.deliveries() if row.endpoint_row == dying.row]
    (letter,) = await outpost.letters()
    (event,) = [row for row in await outpost.rows("events") if row.type == "job.step"]
    (told,) = _told(receiver.received("/exact"))
    assert told["type"] == "webhook.delivery_dead"
    assert told["data"] == {
        "endpoint_id": dying.id,
        "url": receiver.url("/dying?token=***"),
        "dead_letter_id": public_id(Kind.DEAD_LETTER, letter.row_id),
        "delivery_id": public_id(Kind.DELIVERY, dead.row_id),
        "event_id": event.id,
        "type": "job.step",
        "job_id": "job_1",
        "reason": "exhausted",
        "attempts": 1,
        "last_status": 500,
        "last_error": "http_status",
        "more": 0,
    }
    assert [one["id"] for one in _told(receiver.received("/all-ours"))] == [told["id"]]
    assert not receiver.received("/another-tenant") + receiver.received("/callback")
    assert (await outpost.delivery_to(exact)).state == DeliveryState.DELIVERED
    assert not await outpost.count("fanout_queue")


async def test_an_endpoint_is_not_told_of_itself(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/dying"), event_types=("job.*", "webhook.*"), retry_schedule=())
    receiver.answers("/dying", 500)
    await outpost.publish()
    await _run(outpost)
    assert len(await outpost.letters()) == 1
    # Nobody else asked for it, so nothing is made or remembered.
    assert [row.type for row in await outpost.rows("events")] == ["job.step"]
    assert not (await outpost.letters())[0].untold


async def test_a_star_does_not_ask_for_what_the_service_says_itself(outpost: Outpost, receiver: Receiver) -> None:
    dying = await outpost.endpoint(receiver.url("/dying"), event_types=("job.*",), retry_schedule=())
    receiver.answers("/dying", 410)
    await outpost.endpoint(receiver.url("/everything"))
    await outpost.publish()
    await _run(outpost)
    assert (await outpost.endpoint_now(dying)).status == EndpointStatus.DISABLED
    assert [one["type"] for one in _told(receiver.received("/everything"))] == ["job.step"]
    assert await outpost.count("events") == 1


async def test_the_death_of_an_own_event_makes_no_other(outpost: Outpost, receiver: Receiver) -> None:
    for name in ("dying", "deaf", "deaf-too"):
        types = ("job.*",) if name == "dying" else ("webhook.*",)
        await outpost.endpoint(receiver.url(name), event_types=types, retry_schedule=())
        receiver.answers(name, 500)
    await outpost.publish()
    await _run(outpost)
    await _run(outpost)
    assert [row.type for row in await outpost.letters()] == ["job.step", DELIVERY_DEAD, DELIVERY_DEAD]
    assert [row.type for row in await outpost.rows("events")] == ["job.step", DELIVERY_DEAD]


@pytest.mark.parametrize("reason", [Reason.GONE, Reason.FAILING])
async def test_who_subscribes_is_told_of_an_endpoint_that_was_disabled(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, reason: Reason
) -> None:
    ending = await outpost.endpoint(receiver.url("/ending?key=k"), event_types=("job.*", "webhook.*"))
    if reason is Reason.GONE:
        receiver.answers("/ending", 410)
    else:
        receiver.answers("/ending", 500)
        first = clock.now() - timedelta(days=6)
        await outpost.change("endpoint_state", ending.row, failures_in_row=19, first_failure_at=first)
    await outpost.endpoint(receiver.url("/told"), event_types=(ENDPOINT_DISABLED,))
    paused = await outpost.endpoint(receiver.url("/paused"), event_types=("webhook.*",))
    await endpoint_changes.set_status(outpost.deployment, paused.id, "pause", tenant=None)
    await outpost.publish()
    await _run(outpost)
    assert (await outpost.endpoint_now(ending)).disabled_reason == reason
    (told,) = _told(receiver.received("/told"))
    assert (told["type"], told["data"]) == (
        "webhook.endpoint_disabled",
        {"endpoint_id": ending.id, "url": receiver.url("/ending?key=***"), "job_id": None, "reason": str(reason)},
    )
    # Paused: kept, as every event is.
    kept = [row for row in await outpost.deliveries() if row.endpoint_row == paused.row]
    assert {row.state for row in kept} == {DeliveryState.PENDING}
    assert len(kept) == (2 if reason is Reason.GONE else 1)


@pytest.mark.parametrize("reason", [Reason.OPERATOR, Reason.EXPIRED])
async def test_what_was_asked_for_is_nobody_told_of(outpost: Outpost, receiver: Receiver, reason: Reason) -> None:
    ending = await outpost.endpoint(receiver.url("/ending"), event_types=("job.*",))
    await outpost.endpoint(receiver.url("/told"), event_types=("webhook.*",))
    if reason is Reason.OPERATOR:
        await endpoint_changes.set_status(outpost.deployment, ending.id, "disable", tenant=None)
    else:
        await outpost.change("endpoints", ending.row, expires_at=outpost.clock.now())
        await _run(outpost)
    assert (await outpost.endpoint_now(ending)).disabled_reason == reason
    assert not await outpost.count("events")


async def test_being_disabled_and_telling_of_it_are_one_transaction(outpost: Outpost) -> None:
    ending = await outpost.endpoint(event_types=("job.*",))
    await outpost.endpoint(event_types=("webhook.*",))
    database = outpost.database

    async def killed_while_disabling() -> None:
        async with database.begin() as connection:
            assert await endpoint_status.disable(connection, database, ending.row, Reason.FAILING)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        await killed_while_disabling()
    assert (await outpost.endpoint_now(ending)).status == EndpointStatus.ENABLED
    assert not await outpost.count("events")
    for _ in range(2):
        async with database.begin() as connection:
            await endpoint_status.disable(connection, database, ending.row, Reason.FAILING)
    assert [row.type for row in await outpost.rows("events")] == [ENDPOINT_DISABLED]
    assert await outpost.count("deliveries") == 1


async def test_what_waits_for_an_endpoint_that_is_disabled_ends_cancelled_and_is_no_death(
    outpost: Outpost, receiver: Receiver
) -> None:
    await outpost.endpoint(receiver.url("/ending"), event_types=("job.*",), max_in_flight=1)
    receiver.answers("/ending", 410)
    await outpost.endpoint(receiver.url("/told"), event_types=("webhook.*",))
    await outpost.publish(*["job.step"] * 30)
    await _run(outpost)
    told = [one["type"] for one in _told(receiver.received("/told"))]
    assert sorted(told) == [DELIVERY_DEAD, ENDPOINT_DISABLED]


async def test_a_death_is_told_of_however_often_the_telling_is_cut_off(outpost: Outpost) -> None:
    dying = await outpost.endpoint(event_types=("job.*",))
    await outpost.endpoint(event_types=("webhook.*",))
    await _die(outpost, 2, dying)

    async def killed_while_telling() -> None:
        async with outpost.database.begin() as connection:
            assert await tell_of_deaths(connection, outpost.database, 50) == 1
            raise RuntimeError("killed")

    for _ in range(3):
        with pytest.raises(RuntimeError, match="killed"):
            await killed_while_telling()
    assert not await _deaths_told(outpost)
    assert await _tell(outpost) == 1
    assert await _tell(outpost) == 0
    letters = [public_id(Kind.DEAD_LETTER, row.row_id) for row in await outpost.letters()]
    assert [told["dead_letter_id"] for told in await _deaths_told(outpost)] == letters


async def test_two_dispatchers_tell_of_each_death_once(postgres_outpost: Outpost) -> None:
    outpost = postgres_outpost
    dying = await outpost.endpoint(event_types=("job.*",))
    await outpost.endpoint(event_types=("webhook.*",))
    await _die(outpost, 5, dying)
    await asyncio.gather(*(_tell(outpost) for _ in range(5)))
    assert len({told["dead_letter_id"] for told in await _deaths_told(outpost)}) == 5
    assert len(await _deaths_told(outpost)) == 5


async def test_many_deaths_at_once_are_few_events_and_each_is_counted(outpost: Outpost, clock: FakeClock) -> None:
    dying = await outpost.endpoint(event_types=("job.*",))
    await outpost.endpoint(event_types=("webhook.*",))
    await _die(outpost, 300, dying)
    await _tell(outpost)
    told = await _deaths_told(outpost)
    assert [one["more"] for one in told] == [0] * (DEATHS_AT_ONCE - 1) + [290]
    # From now on one each six seconds, in which the others are counted.
    await _die(outpost, 3, dying)
    assert await _tell(outpost) == 0
    clock.advance(6)
    assert await _tell(outpost) == 1
    assert [one["more"] for one in await _deaths_told(outpost)][10:] == [2]
    clock.advance(60)
    await _die(outpost, 10, dying)
    await _tell(outpost)
    told = await _deaths_told(outpost)
    assert [one["more"] for one in told][11:] == [0] * 10
    assert len(told) + sum(one["more"] for one in told) == 313


async def test_a_death_that_no_attempt_brought_about_is_told_of_too(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/unreadable"), event_types=("job.*",))
    await outpost.endpoint(receiver.url("/told"), event_types=("webhook.*",))
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(1)
    (row,) = await outpost.deliveries()
    await outpost.change("deliveries", row.row_id, state="no such state")
    assert not await outpost.holds(own_events.untold)
    await _run(outpost)
    await _run(outpost)
    (told,) = _told(receiver.received("/told"))
    assert (told["data"]["reason"], told["data"]["attempts"]) == ("unreadable", 0)


async def test_recovering_brings_what_others_died_of_and_nothing_about_oneself(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    since = clock.now()
    dying = await outpost.endpoint(event_types=("job.*", "webhook.*"))
    watching = await outpost.endpoint(receiver.url("/watching"), event_types=("webhook.*",))
    everything = await outpost.endpoint(event_types=("*",))
    await endpoint_changes.set_status(outpost.deployment, everything.id, "disable", tenant=None)
    await _die(outpost, 1, dying)
    await _tell(outpost)
    await endpoint_changes.set_status(outpost.deployment, watching.id, "disable", tenant=None)
    for endpoint, matched in ((watching, 1), (dying, 1), (everything, 1)):
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, "enable", tenant=None)
        run = await endpoints.recover(outpost.deployment, endpoint.id, Recover(since=since), tenant=None)
        assert run.matched == matched, endpoint
    listed = await events.list_page(outpost.deployment, tenant=None)
    assert [one.type for one in listed.data] == [DELIVERY_DEAD, "job.step"]
