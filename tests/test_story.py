"""The main job as stories, on both databases: from a producer's transaction to a signed POST, a retry, a dead letter
and its redelivery."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from standardwebhooks.webhooks import Webhook as StandardWebhook
from svix.webhooks import Webhook as SvixWebhook

from dispatcher import AlreadyRunning, prepare_sqlite, publish, register_callback, verify
from dispatcher.ids import Kind, public_id
from dispatcher.service import dead_letters, deliveries, endpoint_changes, endpoints, redeliveries, secret_rotation
from dispatcher.service.models import DeadLetterRedeliver, RotateSecret
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason, RunState
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Received, Receiver


@pytest.fixture
def clock() -> FakeClock:
    """Begins now, since the published libraries compare a signature's time with the present."""
    return FakeClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
async def producer(outpost: Outpost) -> AsyncIterator[AsyncEngine]:
    """A producer's own engine, with a table of its own in the same database."""
    engine = create_async_engine(outpost.settings.database_url)
    prepare_sqlite(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE my_jobs (id TEXT PRIMARY KEY, status TEXT)"))
    yield engine
    await engine.dispose()


async def _answer_to(outpost: Outpost, receiver: Receiver, path: str = "/hook", **fields: Any) -> Registered:
    return await outpost.endpoint(receiver.url(path), **fields)


def _types(requests: list[Received]) -> list[str]:
    return [json.loads(request.body)["type"] for request in requests]


async def test_an_event_of_a_committed_transaction_arrives_signed_and_published_libraries_accept_it(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver
) -> None:
    endpoint = await _answer_to(outpost, receiver, "/hook?token=a%20b")
    async with outpost.dispatcher() as dispatcher:
        async with AsyncSession(producer) as session, session.begin():
            await session.execute(text("INSERT INTO my_jobs VALUES ('job_1', 'done')"))
            event_id = publish(session, "job.completed", {"status": "success", "größe": 1.50}, job_id="job_1")
        dispatcher.wake()
        (request,) = await receiver.wait_for(1)
        await dispatcher.until_idle()
    assert (request.method, request.path, request.query) == ("POST", "/hook", "token=a%20b")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == event_id
    assert request.headers["x-delivery-attempt"] == "1"
    assert "x-delivery-replay" not in request.headers
    body = json.loads(request.body)
    assert list(body) == ["type", "id", "timestamp", "job_id", "sequence", "data"]
    assert body["data"] == {"status": "success", "größe": 1.5}
    for library in (StandardWebhook(endpoint.secret), SvixWebhook(endpoint.secret)):
        library.verify(request.body, dict(request.headers))
    verify(request.body, request.headers, endpoint.secret)
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED


async def test_an_event_of_a_rolled_back_transaction_never_was(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver
) -> None:
    await _answer_to(outpost, receiver)
    async with outpost.dispatcher() as dispatcher:
        async with AsyncSession(producer) as session:
            publish(session, "job.completed", {}, job_id="job_1")
            await session.flush()
            await session.rollback()
            publish(session, "job.failed", {}, job_id="job_1")
            await session.commit()
        await dispatcher.until_idle()
    assert _types(receiver.received()) == ["job.failed"]
    assert await outpost.count("events") == 1


async def test_what_fails_twice_is_delivered_by_the_third_attempt_whatever_restarts_in_between(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await _answer_to(outpost, receiver, retry_schedule=(5.0, 60.0))
    receiver.answers("/hook", 500, 503, 200)
    await outpost.publish("job.completed", job_id="job_1", data='{"n": 1.50}')
    for pause_s in (5, 60, 0):
        async with outpost.dispatcher() as dispatcher:
            await dispatcher.until_idle()
        row = await outpost.delivery()
        if row.state != DeliveryState.DELIVERED:
            assert row.due_at == clock.now() + timedelta(seconds=pause_s)
        clock.advance(pause_s)
    requests = receiver.received()
    assert [request.headers["x-delivery-attempt"] for request in requests] == ["1", "2", "3"]
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert len({sha256(request.body).digest() for request in requests}) == 1
    assert b'"data":{"n":1.50}' in requests[0].body
    stamps = [int(request.headers["webhook-timestamp"]) for request in requests]
    assert [later - stamps[0] for later in stamps] == [0, 5, 65]
    for request in requests:
        StandardWebhook(endpoint.secret).verify(request.body, dict(request.headers))
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    assert [(row.number, row.status) for row in await outpost.attempts()] == [(1, 500), (2, 503), (3, 200)]


async def test_what_dies_is_a_dead_letter_and_its_redelivery_carries_the_same_id_and_bytes(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await _answer_to(outpost, receiver, retry_schedule=(5.0,))
    receiver.answers("/hook", 404, 404, 200)
    await outpost.publish("job.completed", job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        clock.advance(5)
        await dispatcher.until_idle()
        row, (letter,) = await outpost.delivery(), await outpost.letters()
        assert (row.state, row.reason) == (DeliveryState.DEAD, Reason.EXHAUSTED)
        assert (letter.reason, letter.attempts, letter.last_status, letter.last_error) == (
            Reason.EXHAUSTED,
            2,
            404,
            AttemptError.HTTP_STATUS,
        )
        clock.advance(30)
        await deliveries.redeliver(outpost.deployment, public_id(Kind.DELIVERY, row.row_id), tenant=None)
        await dispatcher.until_idle()
    first, _, again = receiver.received()
    assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
    assert again.headers["x-delivery-replay"] == "true"
    assert again.headers["x-delivery-attempt"] == "3"
    assert int(again.headers["webhook-timestamp"]) == int(first.headers["webhook-timestamp"]) + 35
    SvixWebhook(endpoint.secret).verify(again.body, dict(again.headers))
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    (letter,) = await outpost.letters()
    assert letter.redelivered_at == clock.now()


async def test_a_second_death_is_a_second_dead_letter(outpost: Outpost, receiver: Receiver, clock: FakeClock) -> None:
    await _answer_to(outpost, receiver, retry_schedule=(5.0,))
    receiver.answers("/hook", 500)
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        clock.advance(5)
        await dispatcher.until_idle()
        await outpost.put_back(await outpost.delivery())
        await dispatcher.until_idle()
        assert (await outpost.delivery()).state == DeliveryState.PENDING
        clock.advance(5)
        await dispatcher.until_idle()
    assert [letter.attempts for letter in await outpost.letters()] == [2, 4]


async def test_a_bulk_redelivery_keeps_its_rate_survives_a_restart_and_can_be_stopped(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await _answer_to(outpost, receiver, retry_schedule=())
    receiver.answers("/hook", *[500] * 30, 200)
    await outpost.publish(*["job.completed"] * 30)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert await outpost.count("dead_letters") == 30
    wanted = {"endpoint_id": endpoint.id, "rate_per_s": 5.0}
    counted = await dead_letters.redeliver(
        outpost.deployment, DeadLetterRedeliver.read({**wanted, "dry_run": True}), tenant=None
    )
    assert (counted.matched, counted.dry_run) == (30, True)
    run = await dead_letters.redeliver(outpost.deployment, DeadLetterRedeliver.read(wanted), tenant=None)
    assert run.id is not None
    for expected in (5, 10, 15):
        clock.advance(1)
        async with outpost.dispatcher() as dispatcher:
            await dispatcher.run_duties()
            await dispatcher.until_idle()
        assert len(receiver.received()) == 30 + expected
        progress = await redeliveries.get(outpost.deployment, run.id, tenant=None)
        assert (progress.state, progress.done, progress.delivered) == (RunState.RUNNING, expected, expected)
    await redeliveries.cancel(outpost.deployment, run.id, tenant=None)
    clock.advance(10)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.run_duties()
        await dispatcher.until_idle()
    assert len(receiver.received()) == 45
    assert len([letter for letter in await outpost.letters() if letter.redelivered_at is None]) == 15


async def test_during_a_rotation_both_secrets_sign_and_afterwards_only_the_new_one(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    old = await _answer_to(outpost, receiver, signature_header="X-Agent-Signature")
    body = RotateSecret.read({"overlap_s": 60})
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("before")
        await dispatcher.until_idle()
        new = await secret_rotation.rotate_secret(outpost.deployment, old.id, body, tenant=None)
        await outpost.publish("during")
        await dispatcher.until_idle()
        clock.advance(60)
        await outpost.publish("after")
        await dispatcher.until_idle()
    before, during, after = receiver.received()
    assert [len(r.headers["webhook-signature"].split(" ")) for r in (before, during, after)] == [1, 2, 1]
    for request, secret in ((before, old.secret), (during, old.secret), (during, new.secret), (after, new.secret)):
        StandardWebhook(secret).verify(request.body, dict(request.headers))
    for request, secret in ((before, old.secret), (during, old.secret), (after, new.secret)):
        verify(request.body, request.headers, secret, header="X-Agent-Signature")
    newest_first = during.headers["webhook-signature"].split(" ")[0]
    StandardWebhook(new.secret).verify(during.body, {**dict(during.headers), "webhook-signature": newest_first})


async def test_a_paused_endpoint_keeps_its_events_and_a_disabled_one_loses_them(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await _answer_to(outpost, receiver)

    async def set_status(action: endpoint_changes.Action) -> None:
        await endpoint_changes.set_status(outpost.deployment, endpoint.id, action, tenant=None)

    async with outpost.dispatcher() as dispatcher:
        await set_status("pause")
        await outpost.publish("while.paused")
        await dispatcher.until_idle()
        assert not receiver.received()
        await set_status("resume")
        await dispatcher.until_idle()
        assert _types(receiver.received()) == ["while.paused"]
        await set_status("pause")
        await outpost.publish("kept", "kept")
        await dispatcher.until_idle()
        await set_status("disable")
        await outpost.publish("while.disabled")
        await dispatcher.until_idle()
        await set_status("enable")
        await outpost.publish("enabled.again")
        await dispatcher.until_idle()
    assert _types(receiver.received()) == ["while.paused", "enabled.again"]
    ended = [(row.state, row.reason) for row in await outpost.deliveries()]
    assert ended == [
        (DeliveryState.DELIVERED, None),
        (DeliveryState.CANCELLED, Reason.OPERATOR),
        (DeliveryState.CANCELLED, Reason.OPERATOR),
        (DeliveryState.DELIVERED, None),
    ]


async def test_a_jobs_events_arrive_in_order_while_other_jobs_go_on_and_a_stuck_head_is_passed_in_the_end(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _answer_to(outpost, receiver, order_hold_s=900.0, retry_schedule=(600.0, 600.0, 600.0))
    stuck = [True]
    receiver.answers("/hook", lambda r: web.Response(status=500 if stuck[0] and b"first" in r.body else 200))
    await outpost.publish("stuck.first", "stuck.second", "stuck.third", job_id="stuck")
    await outpost.publish("free.one", "free.two", job_id="free")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert sorted(_types(receiver.received())) == ["free.one", "free.two", "stuck.first"]
        clock.advance(899)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
        assert [t for t in _types(receiver.received()) if t.startswith("stuck")] == ["stuck.first"] * 2
        clock.advance(1)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
        stuck[0] = False
        clock.advance(600)
        await dispatcher.until_idle()
    of_job = [r for r in receiver.received() if b"stuck" in r.body]
    assert _types(of_job) == ["stuck.first", "stuck.first", "stuck.second", "stuck.third", "stuck.first"]
    assert [r.headers["x-job-previous"] for r in of_job] == ["0", "0", "1", "2", "0"]
    assert [json.loads(r.body)["sequence"] for r in of_job] == [1, 1, 2, 3, 1]
    assert [r.headers.get("x-delivery-late") for r in of_job] == [None, None, None, None, "true"]
    free = [r for r in receiver.received() if b"free" in r.body]
    assert [r.headers["x-job-previous"] for r in free] == ["0", "1"]


async def test_concurrent_producers_of_a_job_get_one_sequence_without_gaps_and_in_arrival_order(
    outpost: Outpost, receiver: Receiver
) -> None:
    await _answer_to(outpost, receiver)

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


async def test_an_endpoint_that_answers_410_is_disabled_and_what_waits_for_it_cancelled(
    outpost: Outpost, receiver: Receiver
) -> None:
    endpoint = await _answer_to(outpost, receiver, max_in_flight=1)
    receiver.answers("/hook", 410)
    await outpost.publish("a", "b", "c")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        await outpost.publish("later")
        await dispatcher.until_idle()
    assert len(receiver.received()) == 1
    known = await outpost.endpoint_now(endpoint)
    assert (known.status, known.disabled_reason) == (EndpointStatus.DISABLED, Reason.GONE)
    rows = await outpost.deliveries()
    assert [(row.state, row.reason) for row in rows] == [(DeliveryState.DEAD, Reason.GONE)] + [
        (DeliveryState.CANCELLED, Reason.GONE)
    ] * 2
    (letter,) = await outpost.letters()
    assert (letter.reason, letter.last_status) == (Reason.GONE, 410)
    shown = await endpoints.get(outpost.deployment, endpoint.id, tenant=None)
    assert shown.event_types == ["*"]


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_leaves_the_whole_endpoint_alone_for_so_long(
    outpost: Outpost, receiver: Receiver, clock: FakeClock, form: str
) -> None:
    await _answer_to(outpost, receiver, retry_schedule=(5.0,), max_in_flight=1)
    value = "120" if form == "seconds" else format_datetime(clock.now() + timedelta(seconds=120), usegmt=True)
    receiver.answers("/hook", lambda _: web.Response(status=503, headers={"Retry-After": value}), 200)
    await outpost.publish("first", "second")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert _types(receiver.received()) == ["first"]
        for seconds, count in ((119, 1), (1, 3)):
            clock.advance(seconds)
            await dispatcher.until_idle()
            assert len(receiver.received()) == count
    assert sorted(_types(receiver.received())) == ["first", "first", "second"]


async def test_a_job_with_a_callback_url_of_its_own_is_reported_there_and_nowhere_else(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    async with outpost.dispatcher() as dispatcher:
        async with AsyncSession(producer) as session, session.begin():
            callback = register_callback(session, job_id="job_1", url=receiver.url("/mine"))
            publish(session, "job.accepted", {}, job_id="job_1")
        async with AsyncSession(producer) as session, session.begin():
            again = register_callback(session, job_id="job_1", url=receiver.url("/mine"))
            publish(session, "job.accepted", {}, job_id="job_2")
            publish(session, "job.completed", {}, job_id="job_1")
        await dispatcher.until_idle()
    assert (again.endpoint_id, again.secret) == (callback.endpoint_id, callback.secret)
    assert [(r.path, json.loads(r.body)["type"]) for r in receiver.received()] == [
        ("/mine", "job.accepted"),
        ("/mine", "job.completed"),
    ]
    for request in receiver.received():
        StandardWebhook(callback.secret).verify(request.body, dict(request.headers))


async def test_a_callback_of_a_transaction_that_rolls_back_does_not_exist(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver, producer_environment: pytest.MonkeyPatch
) -> None:
    async with AsyncSession(producer) as session:
        register_callback(session, job_id="job_1", url=receiver.url("/mine"))
        await session.flush()
        await session.rollback()
    assert await outpost.count("endpoints") == 0


async def test_plain_sql_in_any_language_is_enough_and_wakes_the_dispatcher(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver
) -> None:
    await _answer_to(outpost, receiver, event_types=("job.*",))
    async with outpost.dispatcher(poll_interval=timedelta(hours=1)) as dispatcher:
        await dispatcher.until_idle()
        async with producer.begin() as connection:
            await connection.execute(
                text("""INSERT INTO events (type, data, job_id) VALUES ('job.done', '{"n": 1}', 'job_1')""")
            )
        (request,) = await receiver.wait_for(1)
    async with outpost.database.read() as connection:
        event = (await connection.execute(select(outpost.tables.events))).one()
    assert (event.tenant, event.type, event.job_id) == ("default", "job.done", "job_1")
    assert request.headers["webhook-id"] == event.id
    assert len(event.id) == len("evt_") + 32
    assert abs(datetime.now(UTC) - event.timestamp) < timedelta(minutes=1)


async def test_two_dispatchers_on_postgresql_share_the_work_and_caps_and_order_hold(
    postgres_outpost: Outpost, receiver: Receiver
) -> None:
    outpost = postgres_outpost
    await _answer_to(outpost, receiver, "/capped", max_in_flight=3, event_types=("one.*",))
    await _answer_to(outpost, receiver, "/ordered", event_types=("job.*",))
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
