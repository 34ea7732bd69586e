"""A dispatcher as a whole: its start, its clean stop, what interrupts it and what it survives."""

import asyncio
import logging
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy import text

from dispatcher import AlreadyRunning, ConfigurationError, Dispatcher, SchemaError
from dispatcher.engine.role import Role
from dispatcher.service import deliveries
from dispatcher.service.models import DeliveryWithLog
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store import migrate
from tests.bad_receiver import BadReceiver, Misbehaviour
from tests.clock import FakeClock
from tests.outpost import PATIENCE_S, SECRET_KEY, Outpost
from tests.receiver import Received, Receiver


async def test_a_stop_lets_what_is_in_flight_end_and_begins_nothing_new(outpost: Outpost, receiver: Receiver) -> None:
    release = asyncio.Event()

    async def answer(_: Received) -> web.Response:
        await release.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"), max_in_flight=2)
    await outpost.publish(*["a"] * 5)
    dispatcher = outpost.dispatcher()
    await dispatcher.start()
    await receiver.wait_for(2)
    stopping = asyncio.create_task(dispatcher.stop())
    await asyncio.sleep(0)
    release.set()
    await stopping
    assert len(receiver.received()) == 2
    states = [row.state for row in await outpost.deliveries()]
    assert states == [DeliveryState.DELIVERED] * 2 + [DeliveryState.PENDING] * 3
    assert [row.attempts for row in await outpost.deliveries()] == [1, 1, 0, 0, 0]
    assert await outpost.count("dispatchers") == 0


async def test_what_outlasts_the_grace_is_interrupted_logged_and_due_again_at_once(
    outpost: Outpost, bad_receiver: BadReceiver
) -> None:
    await outpost.endpoint(bad_receiver.url(Misbehaviour.HANG), retry_schedule=())
    await outpost.publish()
    dispatcher = outpost.dispatcher(shutdown_grace=timedelta(milliseconds=50))
    await dispatcher.start()
    await bad_receiver.wait_for(1)
    async with asyncio.timeout(PATIENCE_S):
        await dispatcher.stop()
    row = await outpost.delivery()
    assert (row.state, row.due_at, row.attempts, row.failures, row.interruptions) == (
        DeliveryState.PENDING,
        None,
        1,
        0,
        1,
    )
    (attempt,) = await outpost.attempts()
    assert (attempt.number, attempt.error, attempt.status) == (1, AttemptError.INTERRUPTED, None)
    assert not await outpost.letters()


async def test_the_fifth_interruption_in_a_row_is_a_failure(outpost: Outpost, bad_receiver: BadReceiver) -> None:
    await outpost.endpoint(bad_receiver.url(Misbehaviour.HANG), retry_schedule=())
    await outpost.publish()
    for number in range(1, 6):
        dispatcher = outpost.dispatcher(shutdown_grace=timedelta(0))
        await dispatcher.start()
        await bad_receiver.wait_for(number)
        await dispatcher.stop()
    row = await outpost.delivery()
    assert (row.state, row.reason, row.attempts) == (DeliveryState.DEAD, Reason.EXHAUSTED, 5)
    assert [attempt.error for attempt in await outpost.attempts()] == [AttemptError.INTERRUPTED] * 5


async def test_what_a_dead_dispatcher_left_is_taken_back_as_an_interrupted_attempt(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish(job_id="job_1")
    async with outpost.store(lease_s=5.0) as dead:
        await dead.fan_out(10)
        await dead.claim(10)
    started_at = clock.now()
    clock.advance(6)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    (request,) = receiver.received()
    assert request.headers["x-delivery-attempt"] == "2"
    assert [(row.number, row.error, row.started_at) for row in await outpost.attempts()] == [
        (1, AttemptError.INTERRUPTED, started_at),
        (2, None, clock.now()),
    ]


async def test_a_lost_lease_is_taken_anew_and_work_goes_on(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher(lease=timedelta(milliseconds=300)) as dispatcher:
        (before,) = await outpost.rows("dispatchers")
        clock.advance(3600)
        await outpost.publish()
        await receiver.wait_for(1)
        await dispatcher.until_idle()
        after = await outpost.rows("dispatchers")
    assert before.row_id not in {row.row_id for row in after if row.leased_until > clock.now()}
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED


async def test_an_outcome_after_the_lease_was_lost_and_taken_over_is_void(
    postgres_outpost: Outpost, receiver: Receiver, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    outpost = postgres_outpost
    stalled, release = asyncio.Event(), asyncio.Event()

    async def answer(request: Received) -> web.Response:
        if request.headers["x-delivery-attempt"] == "1":
            stalled.set()
            await release.wait()
            return web.Response(status=500)
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish()
    slow = outpost.dispatcher()
    await slow.start()
    await stalled.wait()
    (row,) = await outpost.rows("dispatchers")
    await outpost.change("dispatchers", row.row_id, leased_until=clock.now() - timedelta(seconds=1))
    async with outpost.dispatcher() as other:
        await receiver.wait_for(2)
        await other.until_idle()
    with caplog.at_level(logging.WARNING, logger="dispatcher"):
        release.set()
        await slow.stop()
    assert "delivery.lease_lost" in caplog.text
    row = await outpost.delivery()
    assert (row.state, row.attempts, row.failures) == (DeliveryState.DELIVERED, 2, 0)
    assert [(a.number, a.error) for a in await outpost.attempts()] == [(1, AttemptError.INTERRUPTED), (2, None)]


async def test_a_secret_that_cannot_be_read_is_a_dead_letter_and_the_others_go_on(
    outpost: Outpost, receiver: Receiver
) -> None:
    broken = await outpost.endpoint(receiver.url("/broken"))
    await outpost.endpoint(receiver.url("/fine"))
    secrets = outpost.tables.endpoint_secrets
    async with outpost.database.begin() as connection:
        await connection.execute(
            secrets.update().where(secrets.c.endpoint_row == broken.row).values(sealed=b"\x01garbage")
        )
    await outpost.publish("a", "b")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert [request.path for request in receiver.received()] == ["/fine"] * 2
    assert [letter.reason for letter in await outpost.letters()] == [Reason.UNREADABLE] * 2
    assert {letter.endpoint_row for letter in await outpost.letters()} == {broken.row}


async def test_an_endpoint_that_keeps_failing_is_disabled_and_says_why(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=(86400.0,) * 40, order_hold_s=None)
    receiver.answers("/hook", 500)
    await outpost.publish(*["a"] * 5)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        for day in range(1, 7):
            clock.advance(86401)
            await dispatcher.until_idle()
            assert (await outpost.endpoint_now(endpoint)).status == ("enabled" if day < 5 else "disabled")
    known = await outpost.endpoint_now(endpoint)
    assert known.disabled_reason == Reason.FAILING
    assert {(row.state, row.reason) for row in await outpost.deliveries()} == {
        (DeliveryState.CANCELLED, Reason.FAILING)
    }


async def test_backends_that_the_server_ends_cost_nothing(postgres_outpost: Outpost, receiver: Receiver) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/hook"))
    async with outpost.dispatcher() as dispatcher:
        for n in range(5):
            await outpost.publish(*[f"n{n}"] * 20, job_id=f"job_{n}")
            async with outpost.database.begin() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        await receiver.wait_for(100)
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}
    assert await outpost.count("deliveries") == 100


class Refusals:
    """A log that can be waited for."""

    def __init__(self) -> None:
        self._count = 0
        self._more = asyncio.Event()

    def warning(self, event: str, **fields: object) -> None:
        self._count += event == "store.unavailable" and fields["stage"] == "record"
        self._more.set()

    async def wait_for(self, count: int) -> None:
        while self._count < count:
            await self._more.wait()
            self._more.clear()


async def test_a_locked_file_is_waited_for(
    sqlite_outpost: Outpost, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.sqlite.connection.BUSY_TIMEOUT_MS", 20)
    refusals = Refusals()
    monkeypatch.setattr("dispatcher.engine.patience.log", refusals)
    outpost = sqlite_outpost
    await outpost.endpoint(receiver.url("/hook"))
    answered, release = asyncio.Event(), asyncio.Event()

    async def answer(_: Received) -> web.Response:
        answered.set()
        await release.wait()
        return web.Response()

    receiver.answers("/hook", answer)
    await outpost.publish("a")
    assert outpost.database.url.file is not None
    async with outpost.dispatcher() as dispatcher:
        await answered.wait()
        hog = sqlite3.connect(outpost.database.url.file, isolation_level=None, check_same_thread=False)
        await asyncio.to_thread(hog.execute, "BEGIN IMMEDIATE")
        release.set()
        await refusals.wait_for(3)
        hog.execute("ROLLBACK")
        hog.close()
        await dispatcher.until_idle()
    assert (await outpost.delivery()).state == DeliveryState.DELIVERED
    assert len(receiver.received()) == 1


async def test_a_postgresql_with_an_old_schema_is_refused_with_what_to_do(empty_postgres_url: str) -> None:
    with pytest.raises(SchemaError, match="dispatcher migrate"):
        await Dispatcher(database_url=empty_postgres_url, secret_key=SECRET_KEY).start()


async def test_a_sqlite_file_is_made_and_migrated_at_the_start(tmp_path: Path) -> None:
    odd = tmp_path / "a #1?%20 b"
    odd.mkdir()
    async with Dispatcher(database_url=f"sqlite:///{odd}/new.db") as dispatcher:
        await dispatcher.until_idle()
        async with dispatcher.deployment.database.read() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM events"))).scalar_one() == 0


async def test_another_key_than_the_one_that_sealed_is_refused_at_the_start(outpost: Outpost) -> None:
    await outpost.endpoint()
    other = Dispatcher(
        database_url=outpost.settings.database_url, secret_key="QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
    )
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        await other.start()
    async with outpost.dispatcher():
        pass


async def test_the_role_is_given_back_when_the_start_fails(sqlite_outpost: Outpost) -> None:
    file = sqlite_outpost.database.url.file
    assert file is not None
    async with sqlite_outpost.database.begin() as connection:
        await connection.execute(text("DROP TABLE dispatchers"))
    with pytest.raises(Exception, match="dispatchers"):
        async with asyncio.timeout(PATIENCE_S):
            await sqlite_outpost.dispatcher().start()
    role = Role(file)
    role.take()
    with pytest.raises(AlreadyRunning):
        Role(file).take()
    role.give_back()


async def test_it_runs_with_a_prefix_and_in_a_schema(
    empty_postgres_url: str, empty_sqlite_url: str, receiver: Receiver, clock: FakeClock
) -> None:
    for url, given in (
        (empty_postgres_url, {"schema": "s" * 40, "table_prefix": "p" * 29}),
        (empty_sqlite_url, {"table_prefix": "outbox_"}),
    ):
        outpost = Outpost(url, clock, **given)
        await migrate.upgrade(outpost.database)
        await outpost.endpoint(receiver.url("/hook"))
        async with outpost.dispatcher() as dispatcher:
            await outpost.publish("a", job_id="job_1")
            await dispatcher.until_idle()
            await dispatcher.run_duties()
        assert (await outpost.delivery()).state == DeliveryState.DELIVERED
        await outpost.close()
    assert len(receiver.received()) == 2


async def test_it_tells_which_jobs_it_has_just_numbered(outpost: Outpost) -> None:
    told: list[int] = []
    dispatcher = outpost.dispatcher()
    dispatcher.on_numbered(told.extend)
    async with dispatcher:
        await outpost.publish("job.step", "job.step", job_id="job_1")
        await outpost.publish("job.step")
        await dispatcher.until_idle()
    (job,) = await outpost.rows("jobs")
    assert set(told) == {job.row_id}


async def test_that_an_attempt_began_is_on_record_before_its_post_and_stays_there_when_nobody_sees_its_end(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    seen: list[DeliveryWithLog] = []

    async def look(_: Received) -> web.StreamResponse:
        [listed] = (await deliveries.list_page(outpost.deployment, tenant=None)).data
        seen.append(await deliveries.get(outpost.deployment, listed.id, tenant=None))
        return web.Response()

    receiver.answers("/hook", look)
    await outpost.endpoint(receiver.url("/hook"))
    began_at = clock.now()
    await outpost.publish("job.done", job_id="job-1")
    async with outpost.store(lease_s=10.0, name="dies") as store:
        await store.fan_out(10)
        [_] = (await store.claim(10)).deliveries
    clock.advance(60)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    [during] = seen
    assert (during.state, during.attempts, during.updated_at) == (DeliveryState.SENDING, 2, clock.now())
    [interrupted] = during.attempt_log
    assert (interrupted.number, interrupted.error, interrupted.started_at) == (1, "interrupted", began_at)
    [first, second] = (await deliveries.get(outpost.deployment, during.id, tenant=None)).attempt_log
    assert (first, second.number, second.status) == (interrupted, 2, 200)
    assert [request.headers["x-delivery-attempt"] for request in receiver.received()] == ["2"]
