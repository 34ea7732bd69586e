"""Rows that nobody of ours wrote: the one is ended or rejected, with a reason and an alarm; its neighbours are sent."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from dispatcher import metrics
from dispatcher.service import dead_letters, deliveries, endpoints, events, job_status, jobs, redeliveries
from dispatcher.service.doctor import examine
from dispatcher.service.models import DeadLetterRedeliver
from dispatcher.states import DeliveryState, Profile, Reason
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


@dataclass(frozen=True)
class Damage:
    """Statements that spoil a row: of the event or delivery `:row`, of the endpoint `:endpoint`."""

    name: str
    sqlite: str = ""
    postgresql: str = ""


def both(name: str, statement: str) -> Damage:
    return Damage(name, statement, statement)


def on_sqlite(name: str, statement: str) -> Damage:
    """What PostgreSQL's types refuse."""
    return Damage(name, sqlite=statement)


#: To one delivery or its event, after it was fanned out.
DELIVERIES = [
    both("the event is gone", "DELETE FROM events WHERE row_id = :row"),
    both("data is empty", "UPDATE events SET data = '' WHERE row_id = :row"),
    both("data is no JSON", "UPDATE events SET data = '{\"a\":' WHERE row_id = :row"),
    both("data breaks off in a string", "UPDATE events SET data = '\"\\' WHERE row_id = :row"),
    both("data has half a character", "UPDATE events SET data = '\"\\ud800\"' WHERE row_id = :row"),
    on_sqlite("data has a NUL", "UPDATE events SET data = '{\"a\":1}' || char(0) WHERE row_id = :row"),
    on_sqlite(
        "data has what stands between texts", "UPDATE events SET data = '\"a' || char(30) || 'b\"' WHERE row_id = :row"
    ),
    on_sqlite("data is a blob", "UPDATE events SET data = x'ff00' WHERE row_id = :row"),
    on_sqlite("data is a number beyond all", "UPDATE events SET data = 9e999 WHERE row_id = :row"),
    on_sqlite("the type is a blob", "UPDATE events SET type = x'00ff' WHERE row_id = :row"),
    on_sqlite("the timestamp is text", "UPDATE events SET timestamp = 'last week' WHERE row_id = :row"),
    both(
        "the timestamp is beyond every calendar",
        "UPDATE events SET timestamp = {beyond} WHERE row_id = :row",
    ),
    both("it was created beyond every calendar", "UPDATE events SET created_at = {beyond} WHERE row_id = :row"),
    both("the id breaks a line", "UPDATE events SET id = 'evt_1' || {line_feed} || 'x: y' WHERE row_id = :row"),
    both("the profile is unknown", "UPDATE deliveries SET body_profile = 'xml-3' WHERE row_id = :row"),
    both("attempts are negative", "UPDATE deliveries SET attempts = -7 WHERE row_id = :row"),
    Damage("attempts are all used up", postgresql="UPDATE deliveries SET attempts = 2147483647 WHERE row_id = :row"),
    on_sqlite("attempts are a number with a point", "UPDATE deliveries SET attempts = 2.5 WHERE row_id = :row"),
    both("failures are negative", "UPDATE deliveries SET failures = -7 WHERE row_id = :row"),
    both("interruptions are negative", "UPDATE deliveries SET interruptions = -1 WHERE row_id = :row"),
    both("the state is unknown", "UPDATE deliveries SET state = 'thinking' WHERE row_id = :row"),
    both("it is another tenant's", "UPDATE deliveries SET tenant = 'another' WHERE row_id = :row"),
    on_sqlite("its tenant is a blob", "UPDATE deliveries SET tenant = x'00ff' WHERE row_id = :row"),
    on_sqlite("due at some text", "UPDATE deliveries SET due_at = 'tomorrow' WHERE row_id = :row"),
]

#: To the endpoint of one delivery.
ENDPOINTS = [
    both("the endpoint is gone", "DELETE FROM endpoints WHERE row_id = :endpoint"),
    both("the secret is gone", "DELETE FROM endpoint_secrets WHERE endpoint_row = :endpoint"),
    both("the secret is garbage", "UPDATE endpoint_secrets SET sealed = {garbage} WHERE endpoint_row = :endpoint"),
    both("the URL is garbage", "UPDATE endpoints SET url_sealed = {garbage} WHERE row_id = :endpoint"),
    both("the headers are garbage", "UPDATE endpoints SET headers_sealed = {garbage} WHERE row_id = :endpoint"),
    both(
        "the certificate is garbage", "UPDATE endpoints SET client_identity_sealed = {garbage} WHERE row_id = :endpoint"
    ),
    both("the client secret is garbage", "UPDATE endpoints SET oauth2_sealed = {garbage} WHERE row_id = :endpoint"),
    both("the schedule is no JSON", "UPDATE endpoints SET retry_schedule = '5s,5m' WHERE row_id = :endpoint"),
    both("the schedule is a number", "UPDATE endpoints SET retry_schedule = '5' WHERE row_id = :endpoint"),
    both("the schedule goes back in time", "UPDATE endpoints SET retry_schedule = '[-5]' WHERE row_id = :endpoint"),
    both("the schedule never comes", "UPDATE endpoints SET retry_schedule = '[NaN]' WHERE row_id = :endpoint"),
    both("the profile is of a later version", "UPDATE endpoints SET profile = 'b2b-7' WHERE row_id = :endpoint"),
    on_sqlite("the timeout is text", "UPDATE endpoints SET timeout_s = 'long' WHERE row_id = :endpoint"),
    on_sqlite("its profile is a blob", "UPDATE endpoints SET profile = x'00ff' WHERE row_id = :endpoint"),
    on_sqlite("its cap is text", "UPDATE endpoints SET max_in_flight = 'many' WHERE row_id = :endpoint"),
    on_sqlite("its secret is text", "UPDATE endpoint_secrets SET sealed = 'text' WHERE endpoint_row = :endpoint"),
]

#: To one event that was not fanned out yet.
EVENTS = [
    both("its kind is of a later version", "UPDATE events SET kind = 'milestone' WHERE row_id = :row"),
    on_sqlite("its kind is a blob", "UPDATE events SET kind = x'00ff' WHERE row_id = :row"),
    on_sqlite("its type is a blob", "UPDATE events SET type = x'00ff' WHERE row_id = :row"),
    on_sqlite("its job is a blob", "UPDATE events SET job_id = x'00ff' WHERE row_id = :row"),
]


async def _spoil(outpost: Outpost, damages: Sequence[Damage], rows: Sequence[dict[str, int]]) -> None:
    """Does what no statement of ours does, past the checks: each damage to the rows of its place."""
    file = outpost.database.url.file
    if file:
        words = {"beyond": "9000000000000000000", "garbage": "x'0102'", "line_feed": "char(10)"}
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for damage, row in zip(damages, rows, strict=True):
                connection.execute(_filled(damage.sqlite, words), row)
        return
    words = {"beyond": "'20000-01-01'", "garbage": "'\\\\x0102'", "line_feed": "chr(10)"}
    async with outpost.database.begin() as connection:
        checks = await connection.execute(
            text("SELECT conname FROM pg_constraint WHERE conrelid = CAST('events' AS regclass) AND contype = 'c'")
        )
        for name in checks.scalars().all():
            await connection.execute(text(f"ALTER TABLE events DROP CONSTRAINT {name}"))
        for damage, row in zip(damages, rows, strict=True):
            await connection.execute(text(_filled(damage.postgresql, words)), row)


def _possible(outpost: Outpost, damages: Sequence[Damage]) -> list[Damage]:
    return [damage for damage in damages if getattr(damage, outpost.database.dialect)]


def _filled(statement: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        statement = statement.replace(f"{{{word}}}", meaning)
    return statement


def _alarms(what: str) -> float:
    counted: float = metrics.unreadable.labels(what)._value.get()
    return counted


async def _work(outpost: Outpost, clock: FakeClock) -> None:
    """A dispatcher until nothing is due, periodic duties included."""
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        clock.advance(11)
        await dispatcher.run_duties()
        await dispatcher.until_idle()


@pytest.mark.parametrize("ordered", [False, True], ids=["loose", "lanes"])
async def test_a_delivery_that_cannot_be_read_is_dead_and_all_others_are_delivered(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, ordered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    damages = _possible(outpost, DELIVERIES)
    await outpost.endpoint(receiver.url("/hook"), ordered=ordered)
    for number in range(len(damages)):
        await outpost.publish("job.step", "job.done", job_id=f"job-{number}")
    async with outpost.store() as store:
        await store.fan_out(100)
    before = _alarms("delivery")
    # Each job's first: in a lane its second waits for it.
    rows = await outpost.deliveries()
    spoilt = {row.row_id: damage.name for row, damage in zip(rows[::2], damages, strict=True)}
    await _spoil(outpost, damages, [{"row": row} for row in spoilt])
    await _work(outpost, clock)

    became = {row.row_id: (row.state, row.reason) for row in await outpost.deliveries()}
    dead = (DeliveryState.DEAD, Reason.UNREADABLE)
    assert {name: became.pop(row) for row, name in spoilt.items()} == dict.fromkeys(spoilt.values(), dead)
    assert set(became.values()) == {(DeliveryState.DELIVERED, None)}
    assert len(receiver.received("/hook")) == len(damages)
    assert _alarms("delivery") == before + len(damages)
    assert "part_failed" not in caplog.text
    letters = await outpost.letters()
    assert sorted(letter.delivery_row for letter in letters) == sorted(spoilt)


async def test_what_cannot_be_read_can_be_looked_at(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    names = ("the event is gone", "attempts are negative", "it was created beyond every calendar")
    damages = [damage for damage in DELIVERIES if damage.name in names]
    damages.append(both("last error unknown", "UPDATE deliveries SET last_error = 'gremlins' WHERE row_id = :row"))
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["job.step"] * len(damages))
    async with outpost.store() as store:
        await store.fan_out(100)
    await _spoil(outpost, damages, [{"row": row.row_id} for row in await outpost.deliveries()])
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(100)
    await outpost.change("deliveries", 5, state="thinking")
    listed = (await deliveries.list_page(outpost.deployment, tenant=None)).data
    assert len(listed) == 5
    assert (listed[0].state, listed[0].reason) == (DeliveryState.DEAD, Reason.UNREADABLE)
    await _work(outpost, clock)
    letters = (await dead_letters.list_page(outpost.deployment, tenant=None)).data
    assert {letter.reason for letter in letters} == {Reason.UNREADABLE}
    for letter in letters:
        shown = await deliveries.get(outpost.deployment, letter.delivery_id, tenant=None)
        assert (shown.state, shown.event_id) == (DeliveryState.DEAD, letter.event_id)


#: To whatever there is, where it is only looked at.
SHOWN = [
    both("the data is no JSON", "UPDATE events SET data = '{\"a\":' WHERE row_id = :row"),
    on_sqlite("the data is a blob", "UPDATE events SET data = x'00ff' WHERE row_id = :row"),
    on_sqlite("the type is a blob", "UPDATE events SET type = x'00ff' WHERE row_id = :row"),
    on_sqlite("the job is a blob", "UPDATE events SET job_id = x'00ff' WHERE row_id = :row"),
    both("a later version's reason", "UPDATE deliveries SET reason = 'bored' WHERE row_id = :row"),
    both("a later version's state", "UPDATE deliveries SET state = 'thinking' WHERE row_id = :row"),
    both("a later version's error", "UPDATE deliveries SET last_error = 'gremlins' WHERE row_id = :row"),
    both("a later version's dead letter", "UPDATE dead_letters SET reason = 'bored', last_error = 'gremlins'"),
    both("a later version's run", "UPDATE redeliveries SET state = 'dreaming'"),
    both("a later version's endpoint", "UPDATE endpoints SET status = 'asleep', profile = 'b2b-7', event_types = '{}'"),
    both("the endpoint's reason", "UPDATE endpoints SET status = 'disabled', disabled_reason = 'bored'"),
    both("the endpoint's JSON", "UPDATE endpoints SET metadata = '[1]', header_names = '', retry_schedule = '5s'"),
    both("where its tokens come from", "UPDATE endpoints SET oauth2_shown = '{}'"),
    both(
        "its certificate",
        "UPDATE endpoints SET client_certificate_shown = '{}', client_certificate_expires_at = created_at",
    ),
    on_sqlite("the endpoint's description", "UPDATE endpoints SET description = x'00ff'"),
]


async def test_no_list_is_kept_from_being_read(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    receiver.answers("/hook", 400)
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=())
    await outpost.publish(job_id="job-1")
    await _work(outpost, clock)
    deployment = outpost.deployment
    everything = DeadLetterRedeliver(reason=Reason.EXHAUSTED)
    run = await dead_letters.redeliver(deployment, everything, tenant=None)

    # One on top of the other: what could be read once may be spoilt no further.
    for damage in _possible(outpost, SHOWN):
        await _spoil(outpost, [damage], [{"row": 1} if ":row" in damage.sqlite else {}])
        [event] = (await events.list_page(deployment, tenant=None)).data
        [delivery] = (await deliveries.list_page(deployment, tenant=None)).data
        shown = await deliveries.get(deployment, delivery.id, tenant=None)
        [letter] = (await dead_letters.list_page(deployment, tenant=None)).data
        [endpoint] = (await endpoints.list_page(deployment, tenant=None)).data
        job = await job_status.status(deployment, "job-1", tenant="default")
        followed = await jobs.events_after(deployment, "job-1", tenant="default")
        redelivery = await redeliveries.get(deployment, run.id or "", tenant=None)
        for answer in (event, delivery, shown, letter, endpoint, job, followed, redelivery):
            json.loads(answer.json_bytes())


async def test_what_waits_for_an_endpoint_that_was_disabled_for_an_unknown_reason_is_cancelled_with_its_neighbours(
    outpost: Outpost, clock: FakeClock
) -> None:
    for _ in range(2):
        await outpost.endpoint()
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(100)
    first, second = [row.endpoint_row for row in await outpost.deliveries()]
    await outpost.change("endpoints", first, status="disabled", disabled_reason="bored")
    await outpost.change("endpoints", second, status="disabled", disabled_reason=None)
    await _work(outpost, clock)
    became = {row.endpoint_row: (row.state, row.reason) for row in await outpost.deliveries()}
    assert became == {
        first: (DeliveryState.CANCELLED, Reason.UNREADABLE),
        second: (DeliveryState.CANCELLED, Reason.OPERATOR),
    }


async def test_what_waits_for_an_endpoint_that_cannot_be_read_is_dead_and_other_endpoints_are_sent_to(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    damages = _possible(outpost, ENDPOINTS)
    spoilt = {
        (await outpost.endpoint(receiver.url("/spoilt"), headers={"x-key": "secret"})).row: damage.name
        for damage in damages
    }
    for number in range(3):
        await outpost.endpoint(receiver.url(f"/hook/{number}"))
    await outpost.publish("job.step", "job.step")
    async with outpost.store() as store:
        await store.fan_out(100)
    await _spoil(outpost, damages, [{"endpoint": row} for row in spoilt])
    await _work(outpost, clock)
    dead, delivered = (DeliveryState.DEAD, Reason.UNREADABLE), (DeliveryState.DELIVERED, None)
    became = {(spoilt.get(row.endpoint_row), row.state, row.reason) for row in await outpost.deliveries()}
    assert became == {(None, *delivered)} | {(name, *dead) for name in spoilt.values()}
    assert not receiver.received("/spoilt")
    assert len(receiver.received()) == 2 * 3
    assert "part_failed" not in caplog.text
    assert await outpost.count("dead_letters") == 2 * len(damages)


async def test_an_event_that_cannot_be_fanned_out_is_rejected_and_its_neighbours_are_delivered(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    damages = _possible(outpost, EVENTS)
    await outpost.endpoint(receiver.url("/hook"))
    for _ in damages:
        await outpost.publish("job.step", "job.step", job_id="job-1")
    await outpost.publish(*["job.step"] * 2, job_id="job-1")
    await outpost.publish(*["job.step"] * 2, tenant="other")
    before = _alarms("event")
    spoilt = list(range(1, 2 * len(damages), 2))
    await _spoil(outpost, damages, [{"row": row} for row in spoilt])
    await _work(outpost, clock)
    rejected = await outpost.rows("rejected_events", "event_row")
    assert [row.event_row for row in rejected] == spoilt
    assert all(row.reason for row in rejected)
    assert await outpost.count("fanout_queue") == 0
    delivered = await outpost.deliveries()
    # Places are given without gaps, or the job's readers would wait.
    assert [row.sequence for row in delivered] == list(range(1, len(damages) + 3))
    assert {row.state for row in delivered} == {DeliveryState.DELIVERED}
    assert _alarms("event") == before + len(damages)
    assert "part_failed" not in caplog.text
    newest = (await events.list_page(outpost.deployment, tenant="default", limit=2)).data
    assert [event.rejected for event in newest] == [None, None]


async def test_a_rejected_event_says_why(outpost: Outpost, clock: FakeClock) -> None:
    await outpost.publish(job_id="job-1")
    await _spoil(outpost, EVENTS[:1], [{"row": 1}])
    await _work(outpost, clock)
    found = {finding.check: finding for finding in await examine(outpost.settings)}["rows"]
    assert (found.ok, found.detail) == (False, "0 deliveries and 1 events could not be read")
    [event] = (await events.list_page(outpost.deployment, tenant=None)).data
    assert "milestone" in (event.rejected or "")


async def test_numbers_in_the_queue_without_an_event_are_dropped_and_those_behind_them_are_fanned_out(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["job.step"] * 20)
    await outpost.publish("job.done")
    before = _alarms("event")
    async with outpost.database.begin() as connection:
        await connection.execute(text("DELETE FROM events WHERE type = 'job.step'"))
    await _work(outpost, clock)
    assert [row.state for row in await outpost.deliveries()] == [DeliveryState.DELIVERED]
    assert await outpost.count("fanout_queue") == 0
    assert _alarms("event") == before + 20


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET last_sequence = 1 WHERE job_id = 'job-1'",
        "UPDATE jobs SET last_sequence = -5 WHERE job_id = 'job-1'",
        "DELETE FROM jobs WHERE job_id = 'job-1'",
    ],
    ids=["behind", "negative", "gone"],
)
async def test_a_job_whose_counter_was_set_back_goes_on_behind_what_was_numbered(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, statement: str
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(*["job.step"] * 3, job_id="job-1")
    async with outpost.store() as store:
        await store.fan_out(100)
    async with outpost.database.begin() as connection:
        await connection.execute(text(statement))
    await outpost.publish("job.step", "job.step", job_id="job-1")
    await outpost.publish("job.step", job_id="job-2")
    await _work(outpost, clock)
    rows = await outpost.deliveries()
    assert {row.state for row in rows} == {DeliveryState.DELIVERED}
    last = [1, 2] if statement.startswith("DELETE") else [4, 5]
    assert [row.sequence for row in rows if row.event_row <= 5] == [1, 2, 3, *last]
    assert await outpost.count("rejected_events") == 0


async def test_odd_data_that_is_json_is_delivered_as_it_is(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/hook"), profile=Profile.RAW)
    odd = ['"\\ud83d\\ude00"', "1" * 4000, "1e400000", '{"a":1,"a":2}', f'"{"x" * 10_000_000}"', "[" * 200 + "]" * 200]
    for data in odd:
        await outpost.publish(data=data)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert sorted(request.body.decode() for request in receiver.received("/hook")) == sorted(odd)
