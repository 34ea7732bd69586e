"""The periodic duties, by apscheduler's clock; each is done by whichever process moves its row's time on."""

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from datetime import datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dispatcher import metrics
from dispatcher.engine.attempt import conclude
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange, judge
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store import duty_rows, endpoint_status, gauges, job_callbacks, redelivery_runs, retention, transitions
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import HotStore
from dispatcher.store.keyring import Unreadable
from dispatcher.store.partitions import create_partitions

log = logger("dispatcher.duties")

#: How long an expired callback can still be looked at.
CALLBACKS_KEPT = timedelta(days=1)
#: For how long after it was disabled an endpoint may get a delivery by a fan-out that saw it enabled, at the most.
LATELY = timedelta(minutes=10)
#: Rows in one step of a duty.
BATCH = 500
#: Steps of a duty before the others have their turn.
STEPS = 20
#: How long a stop waits for the duty that runs, in seconds.
STOP_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to be done every so often, once per deployment."""

    name: str
    interval_s: float
    work: Callable[[], Awaitable[None]]


class Duties:
    """Does the duties of one dispatcher's deployment when it is this one's turn."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        book: EndpointBook,
        work_made: Callable[[], None],
        held: Callable[[], Container[tuple[int, int]]],
    ) -> None:
        self._deployment = deployment
        self._database = deployment.database
        self._store = store
        self._book = book
        self._work_made = work_made
        self._held = held
        self._settings = deployment.settings
        lease_s = self._settings.lease.total_seconds()
        self._duties = {
            duty.name: duty
            for duty in (
                Duty("reclaim", min(1.0, lease_s / 3), self.reclaim),
                Duty("pass lanes", 1.0, self.pass_lanes),
                Duty("redeliver", 1.0, self.redeliver),
                Duty("expire callbacks", 10.0, self.expire_callbacks),
                Duty("expire endpoints", 10.0, self.expire_endpoints),
                Duty("cancel waiting", 10.0, self.cancel_waiting),
                Duty("retire secrets", 60.0, self.retire_secrets),
                Duty("retention", 60.0, self.retain),
                Duty("partitions", 3600.0, self.make_partitions),
            )
        }
        self._retention_cursor = 0
        self._callbacks_cursor = 0
        self._disabled_since: datetime | None = None
        self._at_work: set[asyncio.Task[object]] = set()
        self._turn = asyncio.Lock()
        self._stopping = False
        self._scheduler: AsyncIOScheduler | None = None

    async def start(self) -> None:
        """Makes the duties' rows and starts the clock."""
        async with self._database.begin() as connection:
            await duty_rows.ensure(connection, self._database, {duty.name: 0.0 for duty in self._duties.values()})
        scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1})
        tick_s = min(1.0, self._settings.lease.total_seconds() / 3)
        scheduler.add_job(self._on_tick, "interval", seconds=tick_s, next_run_time=datetime.now().astimezone())
        scheduler.add_job(self._on_measure, "interval", seconds=15, next_run_time=datetime.now().astimezone())
        scheduler.start()
        self._scheduler = scheduler

    async def stop(self) -> None:
        """Stops the clock and lets the duty that runs come to the end of its step."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is None:
            return
        scheduler.pause()
        self._stopping = True
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=STOP_PATIENCE_S)
        scheduler.shutdown(wait=False)

    async def _on_tick(self) -> None:
        await self._work(self.tick)

    async def _on_measure(self) -> None:
        await self._work(self.measure)

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        # The scheduler's own shutdown would cancel what runs in the middle of a transaction.
        task = asyncio.current_task()
        if task is None or self._stopping:
            return
        self._at_work.add(task)
        try:
            await work()
        finally:
            self._at_work.discard(task)

    async def tick(self) -> None:
        """Does what is due now and nobody else has taken; waits for a tick that is under way."""
        async with self._turn:
            await self._do_what_is_due()

    async def _do_what_is_due(self) -> None:
        try:
            async with self._database.read() as connection:
                due = await duty_rows.due(connection, self._database)
            for name in due:
                if self._stopping:
                    return
                duty = self._duties.get(name)
                if duty is None:
                    continue
                async with self._database.begin() as connection:
                    taken = await duty_rows.take(connection, self._database, name, duty.interval_s)
                if taken:
                    await self._do(duty)
        except StoreUnavailable as error:
            metrics.store_outages.labels("duties").inc()
            log.warning("store.unavailable", stage="duties", error=str(error))

    async def _do(self, duty: Duty) -> None:
        try:
            await duty.work()
        except StoreUnavailable:
            raise
        except Exception:
            # One that fails at each turn must not take the others theirs: those behind it would never come about.
            log.exception("duty.failed", duty=duty.name)

    async def reclaim(self) -> None:
        """sending → pending for deliveries whose dispatcher's lease has ended; their attempts end as interrupted."""
        now = self._deployment.clock.now()
        for _ in range(STEPS):
            # After an outage this process's own lease may have ended too: what it still holds has an outcome to come.
            held = self._held()
            found = await self._store.orphans(BATCH)
            orphans = [orphan for orphan in found if (orphan.delivery_row, orphan.attempt) not in held]
            if not orphans:
                return
            batch = []
            for orphan in orphans:
                exchange = Exchange(status=None, error=AttemptError.INTERRUPTED)
                retry, hold_s = await self._policy(orphan.endpoint_row)
                verdict = judge(
                    exchange,
                    failures=orphan.failures,
                    interruptions=orphan.interruptions,
                    policy=retry,
                    retry_after_max_s=self._settings.retry_after_max.total_seconds(),
                )
                duration_ms = max(0.0, (now - orphan.claimed_at).total_seconds() * 1000)
                batch.append(conclude(orphan, exchange, verdict, hold_s, orphan.claimed_at, duration_ms))
            result = await self._store.record(batch)
            if result.superseded:
                metrics.settled.labels(DeliveryState.SUPERSEDED, Reason.SUPERSEDED).inc(len(result.superseded))
            for finished in batch:
                if finished.delivery_row not in result.lost:
                    metrics.attempts.labels(finished.outcome, AttemptError.INTERRUPTED).inc()
                    log.warning(
                        "delivery.reclaimed",
                        delivery_id=public_id(Kind.DELIVERY, finished.delivery_row),
                        attempt=finished.attempt,
                        verdict=finished.outcome,
                    )
            self._work_made()

    async def _policy(self, endpoint_row: int) -> tuple[RetryPolicy, float | None]:
        try:
            policy = self._book.known(endpoint_row, 0) or await self._book.read(endpoint_row)
        except Unreadable:
            policy = None
        if policy is None:
            return RetryPolicy(self._settings.retry_schedule, self._settings.retry_jitter), None
        return policy.retry, policy.hold_s

    async def pass_lanes(self) -> None:
        """Lets lanes pass heads that have failed for longer than their endpoint's `order_hold_s`."""
        if await self._store.pass_lanes(BATCH):
            self._work_made()

    async def redeliver(self) -> None:
        """Steps the bulk redeliveries."""
        async with self._database.read() as connection:
            runs = await redelivery_runs.running(connection, self._database)
        for run in runs:
            for _ in range(STEPS):
                async with self._database.begin() as connection:
                    step = await redelivery_runs.step(connection, self._database, run)
                if step.put_back:
                    self._work_made()
                if step.finished or step.throttled:
                    break

    async def expire_callbacks(self) -> None:
        """Gives callbacks whose job has settled their `expires_at`, once nothing waits for them."""
        for _ in range(STEPS):
            async with self._database.begin() as connection:
                self._callbacks_cursor = await job_callbacks.expire_settled(
                    connection, self._database, self._callbacks_cursor, BATCH, self._settings.callback_grace
                )
            if not self._callbacks_cursor:
                return

    async def expire_endpoints(self) -> None:
        """enabled | paused → disabled (`expired`) where `expires_at` has passed; callbacks are gone a day later."""
        async with self._database.read() as connection:
            rows = await endpoint_status.expired(connection, self._database, BATCH)
        for row in rows:
            await self.disable(row, Reason.EXPIRED)
        before = self._deployment.clock.now() - CALLBACKS_KEPT
        async with self._database.begin() as connection:
            await endpoint_status.forget_expired_callbacks(connection, self._database, before, BATCH)

    async def disable(self, endpoint_row: int, reason: Reason) -> None:
        """Disables an endpoint and cancels what waits for it."""
        async with self._database.begin() as connection:
            changed = await endpoint_status.disable(connection, self._database, endpoint_row, reason)
        if changed:
            log.warning("endpoint.disabled", endpoint_id=public_id(Kind.ENDPOINT, endpoint_row), reason=reason)
        await self._cancel(endpoint_row, reason)

    async def cancel_waiting(self) -> None:
        """Cancels what waits for disabled or deleted endpoints and was left by a process that ended in the middle.

        The first time it looks at all that are disabled, later at those that were lately: the others are many.
        """
        now = self._deployment.clock.now()
        async with self._database.read() as connection:
            left = await endpoint_status.to_cancel(connection, self._database, self._disabled_since, BATCH)
        if len(left) < BATCH:
            self._disabled_since = now - LATELY
        for endpoint_row, reason in left:
            await self._cancel(endpoint_row, reason)

    async def _cancel(self, endpoint_row: int, reason: Reason) -> None:
        count = BATCH
        while count == BATCH:
            async with self._database.begin() as connection:
                count = await transitions.cancel_endpoint(connection, self._database, endpoint_row, reason, BATCH)

    async def retire_secrets(self) -> None:
        """Forgets secrets whose overlap has ended."""
        async with self._database.begin() as connection:
            await retention.drop_retired_secrets(connection, self._database)

    async def retain(self) -> None:
        """Deletes what is older than the retention, a few batches at a time."""
        database, now = self._database, self._deployment.clock.now()
        before = now - self._settings.retention
        for _ in range(STEPS):
            async with database.begin() as connection:
                self._retention_cursor = await retention.drop_events(
                    connection, database, before, self._retention_cursor
                )
            if not self._retention_cursor:
                break
        async with database.begin() as connection:
            await retention.drop_dead_letters(connection, database, now - self._settings.dead_letter_retention)
            await retention.drop_jobs(connection, database, before)
            await retention.drop_endpoints(connection, database, before)
            await retention.drop_runs(connection, database, before)
            if database.dialect == "postgresql":
                await connection.run_sync(
                    lambda sync: retention.drop_attempts(sync, database.tables, (before - timedelta(days=1)).date())
                )

    async def make_partitions(self) -> None:
        """PostgreSQL: makes the attempt log's partitions of the days to come."""
        if self._database.dialect == "postgresql":
            async with self._database.begin() as connection:
                await connection.run_sync(
                    lambda sync: create_partitions(sync, self._database.tables, self._deployment.clock.now().date())
                )

    async def measure(self) -> None:
        """Refreshes this process's gauges of the whole deployment."""
        try:
            async with self._database.read() as connection:
                measured = await gauges.measure(connection, self._database)
        except StoreUnavailable:
            metrics.store_outages.labels("gauges").inc()
            return
        for state, count in measured.deliveries.items():
            metrics.backlog.labels(state).set(count)
        metrics.queued.set(measured.queued)
        metrics.dead_letters.set(measured.dead_letters)
        metrics.oldest_waiting_seconds.set(measured.oldest_waiting_s)
