"""The periodic duties, as a running dispatcher does them: once per deployment, and none in another's way."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.engine.attempt import Ended
from dispatcher.engine.burial import Burial
from dispatcher.engine.duties import Duties
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.recorder import Recorder
from dispatcher.rules.verdict import Outcome
from dispatcher.service import dead_letters, redeliveries, secret_rotation
from dispatcher.service.models import DeadLetterRedeliver, RotateSecret
from dispatcher.states import AttemptError, DeliveryState, EndpointStatus, Reason, RunState
from dispatcher.store import endpoint_status, gauges
from dispatcher.store.claimed import Claimed
from dispatcher.store.database import Database
from dispatcher.store.gauges import Measured
from dispatcher.store.hot import HotStore, Orphan
from dispatcher.store.partitions import list_partitions
from tests.clock import FakeClock
from tests.outpost import Outpost, Registered, finished
from tests.receiver import Receiver

DAY_S = 86400.0


async def _one_dead_each(outpost: Outpost, receiver: Receiver, count: int) -> Registered:
    """An endpoint with so many dead letters, which accepts everything from now on."""
    endpoint = await outpost.endpoint(receiver.url("/hook"), retry_schedule=())
    receiver.answers("/hook", *[500] * count, 200)
    await outpost.publish(*["job.completed"] * count)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
    assert await outpost.count("dead_letters") == count
    return endpoint


async def _redeliver(outpost: Outpost, **wanted: object) -> str:
    run = await dead_letters.redeliver(
        outpost.deployment, DeadLetterRedeliver.read({**wanted, "all": True}), tenant=None
    )
    assert run.id is not None
    return run.id


async def test_a_bulk_redelivery_keeps_its_rate_however_many_dispatchers_there_are(
    postgres_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await _one_dead_each(outpost, receiver, 20)
    await _redeliver(outpost, rate_per_s=5.0)
    async with outpost.dispatcher() as one, outpost.dispatcher() as other:
        for expected in (5, 10, 15):
            clock.advance(1)
            await asyncio.gather(one.run_duties(), other.run_duties())
            await one.until_idle()
            await other.until_idle()
            while {row.state for row in await outpost.deliveries()} - {DeliveryState.DEAD, DeliveryState.DELIVERED}:
                await one.until_idle()
            assert len(receiver.received()) == 20 + expected


@pytest.mark.parametrize(("rate_per_s", "pause_s"), [(0.2, 5.0), (0.001, 1000.0)])
async def test_a_bulk_redelivery_of_less_than_one_a_second_gets_on_too(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock, rate_per_s: float, pause_s: float
) -> None:
    outpost = sqlite_outpost
    await _one_dead_each(outpost, receiver, 3)
    run_id = await _redeliver(outpost, rate_per_s=rate_per_s)
    async with outpost.dispatcher() as dispatcher:
        for done in range(3):
            clock.advance(pause_s - 1)
            await dispatcher.run_duties()
            assert (await redeliveries.get(outpost.deployment, run_id, tenant=None)).done == done
            clock.advance(1)
            await dispatcher.run_duties()
            assert (await redeliveries.get(outpost.deployment, run_id, tenant=None)).done == done + 1
        await dispatcher.until_idle()
    assert {row.state for row in await outpost.deliveries()} == {DeliveryState.DELIVERED}


async def test_the_slowest_rate_that_can_be_asked_for_stops_no_other_redelivery(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    await _one_dead_each(outpost, receiver, 3)
    await _redeliver(outpost, rate_per_s=1e-300)
    async with outpost.dispatcher() as dispatcher:
        clock.advance(1)
        await dispatcher.run_duties()
        run_id = await _redeliver(outpost)
        clock.advance(1)
        await dispatcher.run_duties()
        assert (await redeliveries.get(outpost.deployment, run_id, tenant=None)).done == 3


async def test_a_bulk_redelivery_makes_up_for_no_more_than_two_seconds(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    await _one_dead_each(outpost, receiver, 50)
    run_id = await _redeliver(outpost, rate_per_s=5.0)
    clock.advance(3600)
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.run_duties()
        assert 10 <= (await redeliveries.get(outpost.deployment, run_id, tenant=None)).done <= 11


async def test_a_bulk_redelivery_skips_and_counts_what_cannot_be_sent_any_more(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await _one_dead_each(outpost, receiver, 3)
    run_id = await _redeliver(outpost)
    first, _, third = await outpost.deliveries()
    await outpost.put_back(first)
    closed = await outpost.endpoint(receiver.url("/closed"))
    await outpost.change("endpoints", closed.row, status=EndpointStatus.DISABLED, disabled_reason=Reason.OPERATOR)
    await outpost.change("deliveries", third.row_id, endpoint_row=closed.row)
    items = outpost.tables.redelivery_items
    async with outpost.database.begin() as connection:
        await connection.execute(
            items.update().where(items.c.event_row == third.event_row).values(endpoint_row=closed.row)
        )
    async with outpost.dispatcher() as dispatcher:
        clock.advance(1)
        await dispatcher.run_duties()
        await dispatcher.until_idle()
    run = await redeliveries.get(outpost.deployment, run_id, tenant=None)
    assert (run.state, run.matched, run.done + run.skipped, run.finished_at) == (RunState.DONE, 3, 3, clock.now())
    assert run.skipped >= 1
    states = [row.state for row in await outpost.deliveries()]
    assert states == [DeliveryState.DELIVERED, DeliveryState.DELIVERED, DeliveryState.DEAD]


async def test_a_duty_that_fails_does_not_keep_the_others_from_their_turn(
    outpost: Outpost,
    receiver: Receiver,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("a fault of ours")

    await _one_dead_each(outpost, receiver, 1)
    # Every duty is due, and this one fails.
    monkeypatch.setattr(endpoint_status, "to_cancel", fail)
    run_id = await _redeliver(outpost)
    async with outpost.dispatcher() as dispatcher:
        for _ in range(2):
            clock.advance(DAY_S)
            await dispatcher.run_duties()
        assert (await redeliveries.get(outpost.deployment, run_id, tenant=None)).state == RunState.DONE
    assert "duty.failed" in caplog.text
    put_off = {row.name for row in await outpost.rows("duties", "name") if row.next_run_at > clock.now()}
    # The others, which have nothing to do, are not taken.
    assert put_off >= {"reclaim all", "bury unknown", "cancel waiting", "retire secrets", "retention", "partitions"}


async def test_what_settled_long_ago_is_deleted_and_a_dead_letter_stays_longer(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    await outpost.endpoint(receiver.url("/hook"), retry_schedule=(100 * DAY_S,))
    receiver.answers("/hook", 200, 413, 500)
    async with outpost.dispatcher(lease=timedelta(days=1000)) as dispatcher:
        for event_type in ("delivered", "dead", "waits"):
            await outpost.publish(event_type, job_id=f"job_{event_type}")
            await dispatcher.until_idle()
        kept = {}
        for days in (29, 2, 60, 1):
            clock.advance(days * DAY_S)
            await dispatcher.run_duties()
            kept[days] = [row.type for row in await outpost.rows("events")]
        assert kept == {
            29: ["delivered", "dead", "waits"],
            2: ["dead", "waits"],
            60: ["dead", "waits"],
            1: ["waits"],
        }
        assert await outpost.count("dead_letters") == 0
        assert [row.job_id for row in await outpost.rows("jobs")] == ["job_waits"]
        (row,) = await outpost.deliveries()
        assert row.state == DeliveryState.PENDING


async def test_an_endpoint_whose_time_is_over_is_disabled_once_nothing_waits_and_a_callback_is_forgotten_a_day_later(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    expires_at = clock.now() + timedelta(seconds=60)
    callback = await outpost.endpoint(
        receiver.url("/callback"),
        job_id="job_1",
        expires_at=expires_at,
        retry_schedule=(120.0,),
        headers={"x-key": "k3y"},
    )
    plain = await outpost.endpoint(receiver.url("/plain"), expires_at=expires_at)
    receiver.answers("/callback", 500, 200)

    async def seen(endpoint: Registered) -> tuple[str, str | None]:
        known = await outpost.endpoint_now(endpoint)
        return known.status, known.disabled_reason

    expired = (EndpointStatus.DISABLED, Reason.EXPIRED)
    async with outpost.dispatcher() as dispatcher:
        await outpost.publish("before", job_id="job_1")
        await dispatcher.until_idle()
        clock.advance(61)
        await outpost.publish("after", job_id="job_1")
        await dispatcher.until_idle()
        await dispatcher.run_duties()
        # What was made before is still delivered.
        assert await seen(callback) == (EndpointStatus.ENABLED, None)
        assert await seen(plain) == expired
        clock.advance(60)
        await dispatcher.until_idle()
        await dispatcher.run_duties()
        assert await seen(callback) == expired
        assert len(receiver.received("/callback")) == 2
        assert len(receiver.received("/plain")) == 1
        for endpoint in (callback, plain):
            assert (await outpost.endpoint_now(endpoint)).deleted_at is None
        clock.advance(DAY_S + 11)
        await dispatcher.run_duties()
    forgotten = await outpost.endpoint_now(callback)
    assert forgotten.deleted_at is not None
    assert (forgotten.url_sealed, forgotten.headers_sealed) == (b"", None)
    assert (await outpost.endpoint_now(plain)).deleted_at is None
    assert [row.endpoint_row for row in await outpost.rows("endpoint_secrets")] == [plain.row]


async def test_what_a_process_that_died_left_waiting_for_a_disabled_endpoint_is_cancelled(
    outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    disabled, deleted = [await outpost.endpoint(receiver.url("/hook")) for _ in range(2)]
    await outpost.publish("a", "b")
    async with outpost.store() as store:
        await store.fan_out(10)
    await outpost.change("endpoints", disabled.row, status=EndpointStatus.DISABLED, disabled_reason=Reason.GONE)
    await outpost.change("endpoints", deleted.row, status=EndpointStatus.DISABLED, deleted_at=clock.now())
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        clock.advance(10)
        await dispatcher.run_duties()
    assert {(row.endpoint_row, row.state, row.reason) for row in await outpost.deliveries()} == {
        (disabled.row, DeliveryState.CANCELLED, Reason.GONE),
        (deleted.row, DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED),
    }
    assert not receiver.received()


async def test_a_secret_is_forgotten_when_its_overlap_has_ended(outpost: Outpost, clock: FakeClock) -> None:
    endpoint = await outpost.endpoint()
    await secret_rotation.rotate_secret(
        outpost.deployment, endpoint.id, RotateSecret.read({"overlap_s": 100}), tenant=None
    )
    kept = []
    async with outpost.dispatcher() as dispatcher:
        for seconds in (99, 61):
            clock.advance(seconds)
            await dispatcher.run_duties()
            kept.append(await outpost.count("endpoint_secrets"))
    assert kept == [2, 1]
    (row,) = await outpost.rows("endpoint_secrets")
    assert row.retires_at is None


async def test_the_attempt_logs_partitions_are_made_ahead_and_dropped_when_they_are_old(
    postgres_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = postgres_outpost
    await outpost.endpoint(receiver.url("/hook"))

    async def days() -> list[int]:
        async with outpost.database.begin() as connection:
            listed = await connection.run_sync(list_partitions, outpost.tables)
        return [(day - clock.now().date()).days for day, _ in listed]

    async with outpost.dispatcher(lease=timedelta(days=1000)) as dispatcher:
        clock.advance(40 * DAY_S)
        await dispatcher.run_duties()
        await outpost.publish()
        await dispatcher.until_idle()
        assert {0, 1, 6} <= set(await days())
        assert await outpost.count("attempts") == 1
        clock.advance(32 * DAY_S)
        await dispatcher.run_duties()
        assert min(await days()) >= -31
        assert await outpost.count("attempts") == 0


async def test_the_lanes_of_heads_that_fail_for_too_long_are_passed(
    sqlite_outpost: Outpost, receiver: Receiver, clock: FakeClock
) -> None:
    outpost = sqlite_outpost
    await outpost.endpoint(receiver.url("/hook"), order_hold_s=30.0, retry_schedule=(3600.0,))
    receiver.answers("/hook", 500, 200)
    await outpost.publish("head", "next", job_id="job_1")
    async with outpost.dispatcher() as dispatcher:
        await dispatcher.until_idle()
        for seconds, requests in ((29, 1), (1, 2)):
            clock.advance(seconds)
            await dispatcher.run_duties()
            await dispatcher.until_idle()
            assert len(receiver.received()) == requests


async def test_what_a_process_knows_of_a_failed_attempt_is_recorded_though_its_lease_has_ended(
    outpost: Outpost, clock: FakeClock
) -> None:
    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store(lease_s=10.0) as store:
        await store.fan_out(1)
        [claimed] = (await store.claim(1)).deliveries
        recorder = Recorder(store, recorded=lambda recorded, room: None, disable=_disable_nothing)
        duties = _duties(outpost, store, lambda: set(recorder.unrecorded))
        # The database does not take it just now, and so the lease ends.
        recorder.put(Ended(finished(claimed, Outcome.RETRY, at=clock.now(), status=503, delay_s=30.0), None))
        clock.advance(11)
        await duties.reclaiming.reclaim()
        recorder.close()
        await recorder.run()
    row = await outpost.delivery()
    assert (row.state, row.failures, row.due_at) == (DeliveryState.PENDING, 1, clock.now() + timedelta(seconds=30))
    assert [(log.number, log.error, log.status) for log in await outpost.attempts()] == [
        (1, AttemptError.HTTP_STATUS, 503)
    ]
    assert not recorder.unrecorded


async def test_what_a_process_claims_while_it_looks_for_orphans_is_none_of_them(
    outpost: Outpost, clock: FakeClock
) -> None:
    held: set[tuple[int, int]] = set()

    class SlowStore:
        """Finds orphans so slowly that meanwhile something is claimed, and the lease ends behind it."""

        def __init__(self, store: HotStore) -> None:
            self._store = store
            self.record = store.record

        async def orphans(self, limit: int) -> Sequence[Orphan]:
            batch: Sequence[Claimed] = (await self._store.claim(1)).deliveries
            held.update((claimed.delivery_row, claimed.attempt) for claimed in batch)
            clock.advance(11)
            found = await self._store.orphans(limit)
            assert found
            return found

    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store(lease_s=10.0) as store:
        await store.fan_out(1)
        await _duties(outpost, SlowStore(store), lambda: set(held)).reclaiming.reclaim()  # type: ignore[arg-type]
    assert (await outpost.delivery()).state == DeliveryState.SENDING
    assert not await outpost.attempts()


def _duties(outpost: Outpost, store: HotStore, held: Callable[[], set[tuple[int, int]]]) -> Duties:
    burial = Burial(outpost.database, lambda: None)
    return Duties(outpost.deployment, store, EndpointBook(outpost.deployment), burial, lambda: None, held)


async def _disable_nothing(row: int, reason: Reason) -> None:
    raise AssertionError(f"endpoint {row} was to be disabled: {reason}")


async def test_what_waits_is_counted_seldom_where_that_takes_long(
    outpost: Outpost, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    async def slowly(connection: AsyncConnection, database: Database) -> Measured:
        counts.append(clock.monotonic())
        clock.advance(2)
        return await measure(connection, database)

    measure = gauges.measure
    monkeypatch.setattr(gauges, "measure", slowly)
    async with outpost.dispatcher() as dispatcher:
        duties = dispatcher._running.duties  # type: ignore[union-attr]
        await duties.measuring.measure()
        counts.clear()
        for _ in range(100):
            clock.advance(15)
            await duties.measuring.measure()
    # For 1 % of the time at the most.
    assert 6 <= len(counts) <= 9
