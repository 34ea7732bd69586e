"""Recording outcomes on PostgreSQL: fenced, in sets, with the lanes and endpoints they touch."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from dispatcher.rules.verdict import Outcome
from dispatcher.store.hot import (
    BACKOFF_AFTER,
    BACKOFF_FIRST_S,
    BACKOFF_LONGEST_S,
    FAILING_AFTER,
    FAILING_AFTER_S,
    Finished,
    Recorded,
    Tally,
)
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.tables import Tables


class Record:
    """The statements of the record, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        now = "COALESCE($1, clock_timestamp())"
        fence = (
            "d.row_id = r.row_id AND d.state = 'sending' AND d.attempts = r.attempt"
            " AND d.dispatcher_row = r.dispatcher_row"
        )
        self._lock_jobs = f"SELECT FROM {name('jobs')} WHERE row_id = ANY($1) ORDER BY row_id FOR NO KEY UPDATE"
        healthy = f"""
            UPDATE {name("endpoint_state")} s
            SET failures_in_row = 0, backoff_failures = 0, backoff_delivery = NULL, backoff_several = false,
                first_failure_at = NULL, last_success_at = {now},
                ramp = CASE WHEN s.ramp * 2 < 64 THEN s.ramp * 2 END
            WHERE (s.failures_in_row > 0 OR s.backoff_failures > 0 OR s.ramp IS NOT NULL OR s.last_success_at IS NULL
                   OR s.last_success_at < {now} - interval '1 minute')
        """
        self._healthy = f"{healthy} AND s.endpoint_row = ANY($2::bigint[])"
        delivered = f"""
            WITH r AS (
                SELECT * FROM unnest($2::bigint[], $3::int[], $4::bigint[], $5::int[], $6::timestamptz[], $7::float8[],
                                     $8::text[])
                AS r(row_id, attempt, dispatcher_row, status, started_at, duration_ms, excerpt)
            ),
            done AS (
                UPDATE {name("deliveries")} d
                SET state = 'delivered', reason = NULL, due_at = NULL, dispatcher_row = NULL, failures = 0,
                    interruptions = 0, last_status = r.status, last_error = NULL, updated_at = {now}
                FROM r WHERE {fence}
                RETURNING d.row_id, d.endpoint_row
            ),
            logged AS (
                INSERT INTO {name("attempts")}
                    (delivery_row, number, started_at, duration_ms, status, response_excerpt)
                SELECT r.row_id, r.attempt, r.started_at, r.duration_ms, r.status, r.excerpt
                FROM done JOIN r USING (row_id)
            )
        """
        self._delivered = f"{delivered} SELECT row_id FROM done"
        self._all_delivered = f"""
            {delivered}, healthy AS ({healthy} AND s.endpoint_row IN (SELECT endpoint_row FROM done))
            SELECT row_id FROM done
        """
        self._failed = f"""
            WITH r AS (
                SELECT * FROM unnest($2::bigint[], $3::int[], $4::bigint[], $5::int[], $6::timestamptz[], $7::float8[],
                                     $8::text[], $9::text[], $10::text[], $11::text[], $12::int[], $13::int[],
                                     $14::float8[], $15::float8[])
                AS r(row_id, attempt, dispatcher_row, status, started_at, duration_ms, excerpt, error, state, reason,
                     failures, interruptions, delay_s, hold_s)
            ),
            -- What would be retried ends here when its endpoint was disabled or deleted meanwhile.
            verdict AS (
                SELECT r.*, r.state = 'pending' AND (e.row_id IS NULL OR e.deleted_at IS NOT NULL
                                                     OR e.status = 'disabled') AS cancelled,
                       CASE WHEN e.deleted_at IS NOT NULL OR e.row_id IS NULL THEN 'endpoint_deleted'
                            ELSE e.disabled_reason END AS cancelled_reason
                FROM r JOIN {name("deliveries")} d ON d.row_id = r.row_id
                LEFT JOIN {name("endpoints")} e ON e.row_id = d.endpoint_row
            ),
            done AS (
                UPDATE {name("deliveries")} d
                SET state = CASE WHEN r.cancelled THEN 'cancelled' ELSE r.state END,
                    reason = CASE WHEN r.cancelled THEN r.cancelled_reason ELSE r.reason END,
                    due_at = CASE WHEN r.state = 'pending' AND NOT r.cancelled AND r.delay_s > 0
                                  THEN {now} + r.delay_s * interval '1 second' END,
                    hold_until = CASE WHEN d.lane IS NOT NULL AND r.state = 'pending' AND NOT r.cancelled
                                           AND r.failures > 0
                                      THEN COALESCE(d.hold_until, {now} + r.hold_s * interval '1 second')
                                      ELSE d.hold_until END,
                    dispatcher_row = NULL, failures = r.failures, interruptions = r.interruptions,
                    last_status = r.status, last_error = r.error, updated_at = {now}
                FROM verdict r WHERE {fence}
                RETURNING d.row_id, d.event_row, d.endpoint_row, d.tenant, d.state, d.reason, d.attempts, d.last_status,
                          d.last_error
            ),
            logged AS (
                INSERT INTO {name("attempts")}
                    (delivery_row, number, started_at, duration_ms, status, error, response_excerpt)
                SELECT r.row_id, r.attempt, r.started_at, r.duration_ms, r.status, r.error, r.excerpt
                FROM done JOIN r USING (row_id)
            ),
            buried AS (
                INSERT INTO {name("dead_letters")} (delivery_row, event_row, endpoint_row, tenant, type, job_id, reason,
                                                    attempts, last_status, last_error, created_at)
                SELECT done.row_id, done.event_row, done.endpoint_row, done.tenant, e.type, e.job_id, done.reason,
                       done.attempts, done.last_status, done.last_error, {now}
                FROM done JOIN {name("events")} e ON e.row_id = done.event_row WHERE done.state = 'dead'
            )
            SELECT row_id FROM done
        """
        live = "AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late ORDER BY h.sequence LIMIT 1"
        # The head of a lane is the first of it that lives and was not passed: it may go, everything behind it waits.
        self._free_heads = f"""
            UPDATE {name("deliveries")} d SET waiting = false
            FROM (SELECT DISTINCT lane, endpoint_row FROM unnest($1::bigint[], $2::bigint[]) AS l(lane, endpoint_row)) l
            CROSS JOIN LATERAL (
                SELECT h.row_id FROM {name("deliveries")} h
                WHERE h.lane = l.lane AND h.endpoint_row = l.endpoint_row {live}
            ) head
            WHERE d.row_id = head.row_id AND d.waiting
        """
        self._hold_back = f"""
            UPDATE {name("deliveries")} d SET waiting = true
            WHERE d.row_id = ANY($1) AND d.state = 'pending' AND NOT d.late AND NOT d.waiting AND EXISTS (
                SELECT FROM {name("deliveries")} h WHERE h.lane = d.lane AND h.endpoint_row = d.endpoint_row
                AND h.sequence < d.sequence AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late
            )
        """
        self._troubled = f"""
            WITH r AS (
                SELECT * FROM unnest($2::bigint[], $3::bool[], $4::int[], $5::int[], $6::bigint[], $7::bool[],
                                     $8::float8[])
                AS r(endpoint_row, succeeded, failures, backoffs, delivery, several, pause_s)
            ),
            known AS (
                SELECT s.*, r.succeeded, r.failures, r.backoffs, r.delivery, r.several, r.pause_s,
                       NOT r.succeeded AND s.backoff_several AND s.backoff_failures >= {BACKOFF_AFTER} AS was_open
                FROM r JOIN {name("endpoint_state")} s ON s.endpoint_row = r.endpoint_row
            ),
            changed AS (
                SELECT k.endpoint_row, k.pause_s, k.delivery,
                       CASE WHEN k.succeeded THEN 0 ELSE k.failures_in_row END + k.failures AS failures_in_row,
                       k.backoffs > 0 AND NOT (k.was_open AND COALESCE(k.paused_until > {now}, false)) AS counts,
                       k.was_open, k.backoffs,
                       CASE WHEN k.succeeded THEN 0 ELSE k.backoff_failures END AS backoff_failures,
                       COALESCE(k.several OR (NOT k.succeeded AND (k.backoff_several
                                                                   OR k.backoff_delivery <> k.delivery)), false)
                           AS several,
                       CASE WHEN k.succeeded THEN {now} ELSE k.last_success_at END AS last_success_at,
                       CASE WHEN k.succeeded THEN NULL ELSE k.first_failure_at END AS first_failure_at,
                       CASE WHEN k.succeeded AND k.ramp * 2 >= 64 THEN NULL
                            WHEN k.succeeded THEN k.ramp * 2 ELSE k.ramp END AS ramp
                FROM known k
            ),
            counted AS (
                SELECT c.endpoint_row, c.pause_s, c.delivery, c.counts, c.several, c.failures_in_row,
                       c.last_success_at, c.first_failure_at, c.ramp,
                       CASE WHEN NOT c.counts THEN c.backoff_failures
                            WHEN c.was_open THEN c.backoff_failures + 1
                            WHEN c.several THEN LEAST(c.backoff_failures + c.backoffs, {BACKOFF_AFTER})
                            ELSE c.backoff_failures + c.backoffs END AS backoff_failures
                FROM changed c
            ),
            opened AS (
                SELECT c.*, c.counts AND c.backoff_failures >= {BACKOFF_AFTER} AND c.several AS opens FROM counted c
            )
            UPDATE {name("endpoint_state")} s
            SET failures_in_row = o.failures_in_row, backoff_failures = o.backoff_failures,
                backoff_delivery = COALESCE(o.delivery, s.backoff_delivery),
                backoff_several = o.several, last_success_at = o.last_success_at,
                first_failure_at = CASE WHEN o.failures_in_row > 0 THEN COALESCE(o.first_failure_at, {now}) END,
                ramp = CASE WHEN o.opens THEN 1 ELSE o.ramp END,
                paused_until = GREATEST(
                    s.paused_until, {now} + o.pause_s * interval '1 second',
                    CASE WHEN o.opens THEN {now} + interval '1 second' * LEAST(
                        {BACKOFF_LONGEST_S},
                        {BACKOFF_FIRST_S} * 2 ^ LEAST(o.backoff_failures - {BACKOFF_AFTER}, 20)) END)
            FROM opened o WHERE s.endpoint_row = o.endpoint_row
            RETURNING s.endpoint_row, s.failures_in_row >= {FAILING_AFTER}
                AND s.first_failure_at < {now} - {FAILING_AFTER_S} * interval '1 second'
        """

    async def all_delivered(self, driver: Driver, batch: Sequence[Finished], now: datetime | None) -> Recorded:
        """One batch that is `all_well`, in one statement and round trip."""
        done = {row[0] for row in await driver.fetch(self._all_delivered, now, *_common(batch))}
        return Recorded(_lost(batch, done), freed=False)

    async def run(self, driver: Driver, batch: Sequence[Finished], now: datetime | None) -> Recorded:
        """One batch, inside the caller's transaction."""
        jobs = {finished.lane for finished in batch if finished.lane is not None}
        if jobs:
            await self.lock_jobs(driver, jobs)
        good = [finished for finished in batch if finished.outcome is Outcome.DELIVERED]
        bad = [finished for finished in batch if finished.outcome is not Outcome.DELIVERED]
        done: set[int] = set()
        if good:
            done.update(row[0] for row in await driver.fetch(self._delivered, now, *_common(good)))
        if bad:
            done.update(
                row[0]
                for row in await driver.fetch(
                    self._failed,
                    now,
                    *_common(bad),
                    [finished.error for finished in bad],
                    [finished.state for finished in bad],
                    [finished.reason for finished in bad],
                    [finished.failures for finished in bad],
                    [finished.interruptions for finished in bad],
                    [finished.delay_s for finished in bad],
                    [finished.hold_s for finished in bad],
                )
            )
        kept = [finished for finished in batch if finished.delivery_row in done]
        freed = await self.settle_lanes(driver, kept) if jobs else False
        failing = await self._tally(driver, kept, now)
        return Recorded(_lost(batch, done), freed, failing)

    async def lock_jobs(self, driver: Driver, jobs: Iterable[int]) -> None:
        """Takes the lanes of these jobs: fan-out holds the same rows while it decides who waits behind whom."""
        await driver.execute(self._lock_jobs, sorted(jobs))

    async def free_heads(self, driver: Driver, lanes: Sequence[tuple[int, int]]) -> bool:
        """Lets the heads of these lanes go; whether one had been waiting."""
        freed: str = await driver.execute(self._free_heads, [lane for lane, _ in lanes], [row for _, row in lanes])
        return not freed.endswith(" 0")

    async def hold_back(self, driver: Driver, rows: Sequence[int]) -> None:
        """Lets what came back to its lane wait if a redelivery went before it meanwhile."""
        if rows:
            await driver.execute(self._hold_back, rows)

    async def settle_lanes(self, driver: Driver, batch: Sequence[Finished]) -> bool:
        """Lets the heads of the batch's lanes go, and holds back what is no head any more."""
        in_lane = [finished for finished in batch if finished.lane is not None]
        if not in_lane:
            return False
        await self.hold_back(driver, [finished.delivery_row for finished in in_lane if finished.state == "pending"])
        return await self.free_heads(
            driver, [(finished.lane, finished.endpoint_row) for finished in batch if finished.lane is not None]
        )

    async def _tally(self, driver: Driver, batch: Sequence[Finished], now: datetime | None) -> list[int]:
        endpoints = Tally.of(batch).endpoints
        healthy = [row for row, entry in endpoints.items() if not entry.failures and entry.pause_s is None]
        if healthy:
            await driver.execute(self._healthy, now, healthy)
        troubled = [(row, entry) for row, entry in endpoints.items() if entry.failures or entry.pause_s is not None]
        if not troubled:
            return []
        rows = await driver.fetch(
            self._troubled,
            now,
            [row for row, _ in troubled],
            [entry.succeeded for _, entry in troubled],
            [entry.failures for _, entry in troubled],
            [entry.backoffs for _, entry in troubled],
            [entry.backoff_delivery for _, entry in troubled],
            [entry.backoff_several for _, entry in troubled],
            [entry.pause_s for _, entry in troubled],
        )
        return [row for row, failing in rows if failing]


def all_well(batch: Sequence[Finished]) -> bool:
    """Whether everything was delivered, nothing is in a lane and nobody asked for a pause."""
    return all(
        finished.outcome is Outcome.DELIVERED and finished.lane is None and finished.pause_endpoint_s is None
        for finished in batch
    )


def _lost(batch: Sequence[Finished], done: set[int]) -> frozenset[int]:
    return frozenset(finished.delivery_row for finished in batch) - done if len(done) < len(batch) else frozenset()


def _common(batch: Sequence[Finished]) -> tuple[list[object], ...]:
    return (
        [finished.delivery_row for finished in batch],
        [finished.attempt for finished in batch],
        [finished.dispatcher_row for finished in batch],
        [finished.status for finished in batch],
        [finished.started_at for finished in batch],
        [finished.duration_ms for finished in batch],
        [finished.excerpt or None for finished in batch],
    )
