"""A job's callbacks: what a late one is still told, and how they expire when the job has settled."""

import asyncio
import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import func, select, text

from dispatcher.engine import expiry
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.fanning import CALLBACKS_LINGER_S, Fanning
from dispatcher.engine.pulse import Pulse
from dispatcher.ids import Kind, public_id
from dispatcher.service import endpoints
from dispatcher.service.models import CallbackCreate
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import job_callbacks
from dispatcher.store.hot import FannedOut
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres.store import PostgresStore
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered
from tests.receiver import Received, Receiver

DAY_S = 86400.0
HOUR_S = 3600.0


async def _catch_up(outpost: Outpost) -> tuple[int, int]:
    async with outpost.database.begin() as connection:
        return await job_callbacks.catch_up(connection, outpost.database, 100)


async def _settled(outpost: Outpost, job_id: str = "job_1") -> None:
    """A job that is over, and nobody was told."""
    await outpost.publish("job.started", "job.completed", job_id=job_id)
    async with outpost.store() as store:
        await store.fan_out(10)


def _told(requests: list[Received]) -> list[tuple[str, int]]:
    return [(body["type"], body["sequence"]) for body in (json.loads(request.body) for request in requests)]


async def test_a_callback_of_a_job_that_has_settled_is_told_the_end_at_once_and_then_what_comes_after(
    outpost: Outpost, receiver: Receiver
) -> None:
    await _settled(outpost)
    await _settled(outpost, "job_2")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        await outpost.endpoint(receiver.url("/late"), job_id="job_1")
        await dispatcher.until_idle()
        assert _told(receiver.received()) == [("job.completed", 2)]
        await outpost.publish("job.archived", job_id="job_1")
        await dispatcher.until_idle()
    assert _told(receiver.received("/late")) == [("job.completed", 2), ("job.archived", 3)]
    assert [request.headers["x-job-previous"] for request in receiver.received()] == ["0", "2"]
    assert not any(row.catch_up for row in await outpost.rows("endpoints"))


async def test_a_late_callback_is_noticed_though_nothing_is_published(outpost: Outpost, receiver: Receiver) -> None:
    await _settled(outpost)
    async with outpost.dispatcher(poll_interval=timedelta(milliseconds=50)) as dispatcher:
        await dispatcher.until_idle()
        await outpost.endpoint(receiver.url("/late"), job_id="job_1")
        await receiver.wait_for(1)


@pytest.mark.parametrize("garbage", ["job.*", "5", "[5]"])
async def test_a_late_callback_that_cannot_be_read_is_told_nothing_and_the_others_are(
    outpost: Outpost, receiver: Receiver, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    await _settled(outpost)
    spoilt = await outpost.endpoint(receiver.url("/spoilt"), job_id="job_1")
    await outpost.change("endpoints", spoilt.row, event_types=garbage)
    await outpost.endpoint(receiver.url("/late"), job_id="job_1")
    assert await _catch_up(outpost) == (2, 1)
    (told,) = await outpost.deliveries()
    assert told.endpoint_row != spoilt.row
    assert await _catch_up(outpost) == (0, 0)
    assert public_id(Kind.ENDPOINT, spoilt.row) in caplog.text


async def test_a_late_callback_is_told_nothing_that_it_did_not_ask_for(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _settled(outpost)
    await outpost.endpoint(receiver.url("/types"), job_id="job_1", event_types=("job.started", "other.*"))
    await outpost.endpoint(receiver.url("/expired"), job_id="job_1", expires_at=clock.now())
    disabled = await outpost.endpoint(receiver.url("/disabled"), job_id="job_1")
    await outpost.change("endpoints", disabled.row, status=EndpointStatus.DISABLED, disabled_reason=Reason.OPERATOR)
    await outpost.endpoint(receiver.url("/other-tenant"), job_id="job_1", tenant="acme")
    await outpost.endpoint(receiver.url("/other-job"), job_id="job_2")
    assert await _catch_up(outpost) == (5, 0)
    assert await _catch_up(outpost) == (0, 0)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert not receiver.received()


async def test_a_late_callback_that_is_paused_keeps_the_end_for_later(outpost: Outpost, receiver: Receiver) -> None:
    await _settled(outpost)
    endpoint = await outpost.endpoint(receiver.url("/late"), job_id="job_1")
    await outpost.change("endpoints", endpoint.row, status=EndpointStatus.PAUSED)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        assert (await outpost.delivery()).state == DeliveryState.PENDING
        await outpost.change("endpoints", endpoint.row, status=EndpointStatus.ENABLED)
        await dispatcher.until_idle()
    assert _told(receiver.received()) == [("job.completed", 2)]


async def test_a_callback_that_was_in_time_is_not_told_twice(outpost: Outpost, receiver: Receiver) -> None:
    await outpost.endpoint(receiver.url("/hook"), job_id="job_1")
    await outpost.publish("job.completed", job_id="job_1")
    async with outpost.store() as store:
        assert await store.fan_out(10) == FannedOut(events=1, deliveries=1, catch_up=True, jobs=frozenset({1}))
        assert await _catch_up(outpost) == (1, 0)
        assert await store.fan_out(10) == FannedOut(events=0, deliveries=0)
    assert await outpost.count("deliveries") == 1


@pytest.mark.parametrize("wanted", [("*",), ("job.archived",)])
async def test_what_comes_after_the_end_does_not_overtake_it(outpost: Outpost, wanted: tuple[str, ...]) -> None:
    await _settled(outpost)
    await outpost.endpoint(job_id="job_1", event_types=wanted)
    await outpost.publish("job.archived", "job.archived", job_id="job_1")
    async with outpost.store() as store:
        assert (await store.fan_out(10)).deliveries == 2
        assert not (await store.claim(10)).deliveries
        told_the_end = wanted == ("*",)
        assert await _catch_up(outpost) == (1, int(told_the_end))
        (claimed,) = (await store.claim(10)).deliveries
    assert claimed.sequence == (2 if told_the_end else 3)


async def test_a_short_job_s_callback_waits_for_nothing(outpost: Outpost) -> None:
    await outpost.endpoint(job_id="job_1")
    await outpost.publish("job.started", "job.completed", job_id="job_1")
    async with outpost.store() as store:
        await store.fan_out(10)
        (claimed,) = (await store.claim(10)).deliveries
    assert claimed.sequence == 1


async def test_the_end_takes_its_place_before_what_came_after_it(outpost: Outpost) -> None:
    await _settled(outpost)
    await outpost.endpoint(job_id="job_1")
    await outpost.publish("job.archived", job_id="job_1")
    async with outpost.store() as store:
        await store.fan_out(10)
        await outpost.change("jobs", 1, settled_by=2)
        assert await _catch_up(outpost) == (1, 1)
        (claimed,) = (await store.claim(10)).deliveries
    assert (claimed.event_type, claimed.sequence) == ("job.completed", 2)
    assert {(row.sequence, row.state, row.waiting) for row in await outpost.deliveries()} == {
        (2, DeliveryState.SENDING, False),
        (3, DeliveryState.PENDING, True),
    }


async def test_a_callback_that_commits_while_its_jobs_end_is_fanned_out_is_told(
    postgres_outpost: Outpost, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.publish("job.completed", job_id="job_1")
    matched, commit = asyncio.Event(), asyncio.Event()
    async with outpost.store() as store, outpost.store(name="other") as other:
        assert isinstance(store, PostgresStore)

        async def slowly(driver: Any) -> FannedOut:
            done = await store._fan_out.run(driver, 10, clock.now())
            matched.set()
            await commit.wait()
            return done

        fanning = asyncio.create_task(store._fanning.transact(slowly))
        await matched.wait()
        late = await outpost.endpoint(job_id="job_1")
        assert await other.fan_out(10) == FannedOut(0, 0, contended=True)
        catching_up = asyncio.create_task(_catch_up(outpost))
        # It must wait for the fan-out, or it would find a job that has not settled.
        async with asyncio.timeout(20), outpost.database.read() as connection:
            waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            while not (await connection.execute(waits)).scalar_one():
                assert not catching_up.done()
        commit.set()
        assert await fanning == FannedOut(1, 0, jobs=frozenset({1}))
        assert await catching_up == (1, 1)
    row = await outpost.delivery()
    assert (row.endpoint_row, row.event_row, row.state) == (late.row, 1, DeliveryState.PENDING)


async def test_a_callback_expires_a_grace_after_its_job_has_settled_and_nothing_waits(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    callback = await outpost.endpoint(receiver.url("/hook"), job_id="job_1", retry_schedule=(60.0,))
    open_one = await outpost.endpoint(receiver.url("/open"), job_id="job_2")
    receiver.answers("/hook", 500, 200)
    await outpost.publish("job.completed", job_id="job_1")
    await outpost.publish("job.started", job_id="job_2")

    async def expiry(endpoint: Registered) -> Any:
        return (await outpost.endpoint_now(endpoint)).expires_at

    async with outpost.dispatcher() as dispatcher:

        async def pass_time(seconds: float) -> None:
            clock.advance(seconds)
            await dispatcher.until_idle()
            await dispatcher.run_duties()

        await dispatcher.until_idle()
        await pass_time(30)
        assert await expiry(callback) is None
        await pass_time(30)
        assert (await outpost.delivery_to(callback)).state == DeliveryState.DELIVERED
        await pass_time(10)
        expires_at = clock.now() + timedelta(hours=1)
        assert await expiry(callback) in (expires_at, expires_at - timedelta(seconds=10))
        expires_at = await expiry(callback)
        # What comes within the grace is delivered, and moves nothing.
        await outpost.publish("job.archived", job_id="job_1")
        await pass_time(HOUR_S / 2)
        assert _told(receiver.received("/hook")) == [("job.completed", 1)] * 2 + [("job.archived", 2)]
        assert await expiry(callback) == expires_at
        await pass_time(HOUR_S / 2 + 20)
        known = await outpost.endpoint_now(callback)
        assert (known.status, known.disabled_reason) == (EndpointStatus.DISABLED, Reason.EXPIRED)
        await outpost.publish("job.reopened", job_id="job_1")
        await pass_time(DAY_S - 60)
        assert (await outpost.endpoint_now(callback)).deleted_at is None
        await pass_time(120)
    known = await outpost.endpoint_now(callback)
    assert (known.deleted_at is None, known.url_sealed) == (False, b"")
    assert len(receiver.received("/hook")) == 3
    known = await outpost.endpoint_now(open_one)
    assert (known.status, known.expires_at) == (EndpointStatus.ENABLED, None)


async def test_the_grace_is_a_setting_and_a_time_of_its_own_stands(outpost: Outpost, clock: FakeClock) -> None:
    own = clock.now() + timedelta(days=3)
    with_own = await outpost.endpoint(job_id="job_1", expires_at=own, event_types=("nothing",))
    plain = await outpost.endpoint(job_id="job_1", event_types=("nothing",))
    await _settled(outpost)
    async with outpost.dispatcher(callback_grace=timedelta(minutes=5)) as dispatcher:
        await dispatcher.until_idle()
        clock.advance(10)
        await dispatcher.run_duties()
    assert (await outpost.endpoint_now(with_own)).expires_at == own
    expires_at = (await outpost.endpoint_now(plain)).expires_at
    assert clock.now() - timedelta(seconds=10) <= expires_at - timedelta(minutes=5) <= clock.now()


async def test_a_callback_that_was_not_caught_up_yet_does_not_expire(outpost: Outpost, clock: FakeClock) -> None:
    await _settled(outpost)
    callback = await outpost.endpoint(job_id="job_1")
    grace = timedelta(hours=1)

    async def expire() -> Any:
        async with outpost.database.begin() as connection:
            assert await job_callbacks.expire_settled(connection, outpost.database, 0, 10, grace) == 0
        return (await outpost.endpoint_now(callback)).expires_at

    assert await expire() is None
    await _catch_up(outpost)
    assert await expire() is None
    await outpost.change("deliveries", (await outpost.delivery()).row_id, state=DeliveryState.DEAD)
    assert await expire() == clock.now() + grace


async def test_callbacks_are_looked_at_in_turn_a_few_at_a_time(
    sqlite_outpost: Outpost, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outpost = sqlite_outpost
    monkeypatch.setattr(expiry, "BATCH", 2)
    monkeypatch.setattr(expiry, "STEPS", 1)
    for n in range(5):
        await outpost.endpoint(job_id=f"job_{n}", event_types=("nothing",))
        await _settled(outpost, f"job_{n}")
    await _catch_up(outpost)
    e = outpost.tables.endpoints.c
    counts = []
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        for _ in range(5):
            clock.advance(10)
            await dispatcher.run_duties()
            async with outpost.database.read() as connection:
                expiring = select(func.count()).where(e.expires_at.is_not(None))
                counts.append((await connection.execute(expiring)).scalar_one())
    assert all(later - before <= 2 for before, later in pairwise(counts))
    assert counts[-1] == 5


async def test_a_callback_of_the_api_wakes_the_dispatcher_of_its_process(outpost: Outpost, receiver: Receiver) -> None:
    await _settled(outpost)
    body = CallbackCreate.read({"url": receiver.url("/late")})
    async with outpost.dispatcher(poll_interval=timedelta(hours=1)) as dispatcher:
        await dispatcher.until_idle()
        made, is_new = await endpoints.create_callback(outpost.deployment, "job_1", body, tenant="default")
        dispatcher.wake()
        await receiver.wait_for(1)
    assert is_new
    row = await outpost.delivery()
    assert public_id(Kind.ENDPOINT, row.endpoint_row) == made.id


class LendsNothing(Claiming):
    """As much of a claim loop as a fan-out asks for that is lent nothing."""

    def __init__(self) -> None:
        """Without a store."""

    async def lend_between(self) -> Straight | None:
        return None


async def test_while_events_come_new_callbacks_are_looked_at_together(outpost: Outpost, clock: FakeClock) -> None:
    async def flagged() -> int:
        return sum(row.catch_up for row in await outpost.rows("endpoints"))

    async with outpost.store() as store:
        fanning = Fanning(store, outpost.database, Pulse(), Pulse(), 1.0, LendsNothing(), numbered=lambda jobs: None)
        seen: list[int] = []
        for seconds in (0, 0, CALLBACKS_LINGER_S, 0):
            clock.advance(seconds)
            await outpost.endpoint(job_id=f"job_{len(seen)}")
            await outpost.publish()
            await fanning.once()
            seen.append(await flagged())
        await fanning.once()
        assert [*seen, await flagged()] == [0, 1, 0, 1, 0]
