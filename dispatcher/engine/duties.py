"""The periodic duties: what keeps deliveries going where nobody works at them, and the tables small."""

import asyncio
from collections.abc import Callable, Container, Sequence
from datetime import datetime, timedelta

from dispatcher import metrics
from dispatcher.engine.attempt import conclude
from dispatcher.engine.burial import Burial
from dispatcher.engine.challenge import challenge_all
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.schedule import Duty, Schedule
from dispatcher.errors import StoreUnavailable
from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.retry import RetryPolicy
from dispatcher.rules.verdict import Exchange, judge
from dispatcher.states import AttemptError, DeliveryState, Reason
from dispatcher.store import (
    endpoint_status,
    gauges,
    heartbeats,
    job_callbacks,
    own_events,
    redelivery_runs,
    retention,
    transitions,
    verification,
)
from dispatcher.store.deployment import Deployment
from dispatcher.store.hot import HotStore, Orphan
from dispatcher.store.keyring import Unreadable
from dispatcher.store.partitions import create_partitions

log = logger("dispatcher.duties")

#: How long an expired callback can still be looked at.
CALLBACKS_KEPT = timedelta(days=1)
#: For how long after it was disabled an endpoint may get a delivery by a fan-out that saw it enabled, at the most.
LATELY = timedelta(minutes=10)
#: Rows in one step of a duty.
BATCH = 500
#: Endpoints whose deaths are told of in one step.
TOLD_OF = 50
#: Steps of a duty before the others have their turn.
STEPS = 20
#: Between two counts of all that waits passes so many times what the last one took: while a transaction is left open
#: somewhere, a count reads all that was settled since.
MEASURE_REST = 100
#: Between two counts at the least, in seconds.
MEASURE_EVERY_S = 15.0
#: So many challenges wait for their answer at once: receivers that take their time hold no more connections than that.
CHALLENGED_AT_ONCE = 200


class Duties(Schedule):
    """Does the duties of one dispatcher's deployment when it is this one's turn."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        book: EndpointBook,
        burial: Burial,
        work_made: Callable[[], None],
        held: Callable[[], Container[tuple[int, int]]],
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._book = book
        self._burial = burial
        self._work_made = work_made
        self._held = held
        self._settings = deployment.settings
        lease_s = self._settings.lease.total_seconds()
        duties = (
            Duty("reclaim", min(1.0, lease_s / 3), self.reclaim),
            Duty("pass lanes", 1.0, self.pass_lanes),
            Duty("redeliver", 1.0, self.redeliver),
            Duty("own events", 1.0, self.send_own_events),
            Duty("challenge", 1.0, self.challenge),
            Duty("expire callbacks", 10.0, self.expire_callbacks),
            Duty("expire endpoints", 10.0, self.expire_endpoints),
            Duty("cancel waiting", 10.0, self.cancel_waiting),
            Duty("bury unknown", 10.0, self.bury_unknown),
            Duty("retire secrets", 60.0, self.retire_secrets),
            Duty("retention", 60.0, self.retain),
            Duty("partitions", 3600.0, self.make_partitions),
        )
        super().__init__(
            deployment.database, duties, tick_s=min(1.0, lease_s / 3), beside=[(self.measure, MEASURE_EVERY_S)]
        )
        #: Endpoints whose challenge has not been answered yet.
        self._challenged = 0
        self._retention_cursor = 0
        self._callbacks_cursor = 0
        self._disabled_since: datetime | None = None
        self._measure_again_s = 0.0

    async def reclaim(self, steps: int = STEPS) -> None:
        """sending → pending for deliveries whose dispatcher's lease has ended; their attempts end as interrupted.

        At most `steps` batches of them.
        """
        for _ in range(steps):
            found = await self._store.orphans(BATCH)
            # After an outage this process's own lease may have ended too: what it still holds has an outcome to come.
            # Asked for now, since a slow statement may have found what was claimed after it was sent.
            held = self._held()
            orphans = [orphan for orphan in found if (orphan.delivery_row, orphan.attempt) not in held]
            if not orphans:
                return
            await self._take_back(orphans)

    async def take_back_unanswered(self) -> None:
        """Gives up what a claim took whose answer was lost: it is this dispatcher's, which knows nothing of it."""
        claimed, held = await self._store.claimed(), self._held()
        unknown = [orphan for orphan in claimed if (orphan.delivery_row, orphan.attempt) not in held]
        if unknown:
            await self._take_back(unknown)

    async def _take_back(self, orphans: Sequence[Orphan]) -> None:
        """sending → pending for deliveries that nobody works at; their attempts end as interrupted."""
        now = self._deployment.clock.now()
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

    async def send_own_events(self) -> None:
        """Tells of deliveries that died, and sends the heartbeats that are due."""
        database = self._database
        async with database.read() as connection:
            untold, beats = await own_events.untold(connection, database), await heartbeats.due(connection, database)
        for _ in range(STEPS if untold else 0):
            async with database.begin() as connection:
                told = await own_events.tell_of_deaths(connection, database, TOLD_OF)
            if told:
                self._work_made()
            if told < TOLD_OF:
                break
        for _ in range(STEPS if beats else 0):
            async with database.begin() as connection:
                looked_at, made = await heartbeats.send_due(connection, database, BATCH)
            if made:
                self._work_made()
            if looked_at < BATCH:
                break

    async def challenge(self) -> None:
        """Lets endpoints prove that they want what is sent to them; callbacks that never did are disabled."""
        room = CHALLENGED_AT_ONCE - self._challenged
        if room <= 0:
            return
        async with self._database.read() as connection:
            if not await verification.due(connection, self._database):
                return
        async with self._database.begin() as connection:
            found = await verification.take_due(
                connection, self._database, self._settings.unverified_rate, min(room, verification.AT_ONCE)
            )
        for row in found.given_up:
            await self.disable(row, Reason.EXPIRED)
        if found.challenge and not self._stopping:
            # Beside the duties, which would wait for receivers.
            task = asyncio.ensure_future(self._challenge(found.challenge))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def _challenge(self, rows: Sequence[int]) -> None:
        self._challenged += len(rows)
        try:
            if await challenge_all(self._deployment, rows):
                self._work_made()
        finally:
            self._challenged -= len(rows)

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
            # Others may be told of it.
            self._work_made()
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

    async def bury_unknown(self) -> None:
        """Ends deliveries in a state that there is not."""
        await self._burial.of_unknown()

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
        """Refreshes this process's gauges of the whole deployment; seldom where counting takes long."""
        began_s = self._deployment.clock.monotonic()
        if began_s < self._measure_again_s:
            return
        try:
            async with self._database.read() as connection:
                measured = await gauges.measure(connection, self._database)
        except StoreUnavailable:
            metrics.store_outages.labels("gauges").inc()
            return
        ended_s = self._deployment.clock.monotonic()
        self._measure_again_s = ended_s + MEASURE_REST * (ended_s - began_s)
        for state, count in measured.deliveries.items():
            metrics.backlog.labels(state).set(count)
        metrics.queued.set(measured.queued)
        metrics.dead_letters.set(measured.dead_letters)
        metrics.oldest_waiting_seconds.set(measured.oldest_waiting_s)
