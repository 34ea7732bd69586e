"""The recorder: outcomes in batches, each fenced by its own attempt."""

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import delete

from dispatcher import metrics
from dispatcher.engine.attempt import Ended
from dispatcher.engine.recorder import Recorder
from dispatcher.errors import StoreUnavailable
from dispatcher.rules.verdict import Outcome
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store.hot import Finished, Recorded
from dispatcher.store.sqlite.store import SqliteStore
from tests.clock import FakeClock
from tests.outpost import Outpost, finished
from tests.receiver import Receiver


async def _nothing(row: int, reason: Reason) -> None:
    raise AssertionError(f"endpoint {row} was to be disabled: {reason}")


async def test_a_late_outcome_beside_that_of_the_next_attempt_overwrites_nothing_and_is_not_logged(
    outpost: Outpost, clock: FakeClock
) -> None:
    results: list[Recorded] = []
    await outpost.endpoint()
    await outpost.publish()
    async with outpost.store() as store:
        await store.fan_out(1)
        [first] = (await store.claim(1)).deliveries
        await store.record([finished(first, Outcome.INTERRUPTED, at=clock.now())])
        [second] = (await store.claim(1)).deliveries
        recorder = Recorder(store, recorded=lambda recorded, room: results.append(recorded), disable=_nothing)
        clock.advance(1)
        recorder.put(Ended(finished(first, Outcome.RETRY, at=clock.now()), None))
        recorder.put(Ended(finished(second, at=clock.now()), None))
        recorder.close()
        await recorder.run()
    row = await outpost.delivery()
    assert (row.state, row.attempts, row.failures, row.due_at) == (DeliveryState.DELIVERED, 2, 0, None)
    assert [(log.number, log.error) for log in await outpost.attempts()] == [(1, "interrupted"), (2, None)]
    assert [result.lost for result in results] == [{first.delivery_row}, frozenset()]


async def test_a_failure_that_the_database_cannot_take_yet_is_held_and_is_no_interruption(
    sqlite_outpost: Outpost, clock: FakeClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends meanwhile, and what nobody holds then is reclaimed as interrupted."""
    outpost, record, away = sqlite_outpost, SqliteStore.record, True
    tried = asyncio.Event()

    async def record_once_it_is_back(store: SqliteStore, batch: Sequence[Finished]) -> Recorded:
        if away and batch[0].error is AttemptError.HTTP_STATUS:
            tried.set()
            raise StoreUnavailable("it is away")
        return await record(store, batch)

    monkeypatch.setattr(SqliteStore, "record", record_once_it_is_back)
    receiver.answers("/hook", 500, 200)
    await outpost.endpoint(receiver.url("/hook"))
    await outpost.publish()
    async with outpost.dispatcher() as dispatcher, asyncio.timeout(30):
        await tried.wait()
        async with outpost.database.begin() as connection:
            await connection.execute(delete(outpost.tables.dispatchers))
        clock.advance(60)
        await dispatcher.run_duties()
        away = False
        await dispatcher.until_idle()
    assert [(log.number, log.error, log.status) for log in await outpost.attempts()] == [(1, "http_status", 500)]


def _counted() -> list[float]:
    found = metrics.registry.get_sample_value
    return [
        found("dispatcher_attempts_total", {"outcome": "delivered", "error": ""}) or 0.0,
        found("dispatcher_attempts_total", {"outcome": "retry", "error": "http_status"}) or 0.0,
        found("dispatcher_requests_refused_total") or 0.0,
        found("dispatcher_attempt_duration_seconds_count") or 0.0,
        found("dispatcher_time_to_deliver_seconds_sum") or 0.0,
    ]


async def test_what_is_recorded_is_counted_once(sqlite_outpost: Outpost, clock: FakeClock) -> None:
    await sqlite_outpost.endpoint()
    await sqlite_outpost.publish()
    await sqlite_outpost.publish()
    async with sqlite_outpost.store() as store:
        await store.fan_out(2)
        [good, bad] = (await store.claim(2)).deliveries
        before = _counted()
        recorder = Recorder(store, recorded=lambda recorded, room: None, disable=_nothing)
        recorder.put(Ended(finished(good, at=clock.now()), None, 1.5))
        refused = finished(bad, Outcome.RETRY, at=clock.now(), error=AttemptError.HTTP_STATUS, status=401, delay_s=5.0)
        recorder.put(Ended(refused, None))
        recorder.close()
        await recorder.run()
    assert [after - had for after, had in zip(_counted(), before, strict=True)] == [1, 1, 1, 2, 1.5]
