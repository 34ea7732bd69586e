"""The main job as stories, on both databases: from a producer's transaction to a signed POST, a retry, a dead letter
and its redelivery."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from standardwebhooks.webhooks import Webhook as StandardWebhook
from svix.webhooks import Webhook as SvixWebhook

from dispatcher import prepare_sqlite, publish, register_callback, verify
from dispatcher.ids import Kind, public_id
from dispatcher.service import dead_letters, deliveries, redeliveries
from dispatcher.service.models import DeadLetterRedeliver
from dispatcher.states import AttemptError, DeliveryState, Reason, RunState
from tests.clock import FakeClock
from tests.outpost import Outpost
from tests.receiver import Receiver


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock.of_today()


@pytest.fixture
async def producer(outpost: Outpost) -> AsyncIterator[AsyncEngine]:
    """A producer's own engine, with a table of its own in the same database."""
    engine = create_async_engine(outpost.settings.database_url)
    prepare_sqlite(engine)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE my_jobs (id TEXT PRIMARY KEY, status TEXT)"))
    yield engine
    await engine.dispose()


async def test_an_event_of_a_committed_transaction_arrives_signed_and_published_libraries_accept_it(
    outpost: Outpost, producer: AsyncEngine, receiver: Receiver
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook?token=a%20b"))
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
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher() as dispatcher:
        async with AsyncSession(producer) as session:
            publish(session, "job.completed", {}, job_id="job_1")
            await session.flush()
            await session.rollback()
            publish(session, "job.failed", {}, job_id="job_1")
            await session.commit()
        await dispatcher.until_idle()
    assert [request.type for request in receiver.received()] == ["job.failed"]
    assert await outpost.count("events") == 1


async def test_what_fails_twice_is_delivered_by_the_third_attempt_whatever_restarts_in_between(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(5.0, 60.0))
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
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(5.0,))
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
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(5.0,))
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
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=())
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
    assert [(r.path, r.type) for r in receiver.received()] == [
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
    await outpost.endpoint(receiver.url("/hook"), event_types=("job.*",))
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
