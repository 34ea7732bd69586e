"""Fan-out on PostgreSQL: one sequencer at a time numbers a job's events and makes the deliveries."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from dispatcher.rules.event_types import patterns_for
from dispatcher.store.hot import FannedOut
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.tables import Tables

_patterns = lru_cache(maxsize=4096)(patterns_for)


class FanOut:
    """The statements of the fan-out, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        self._lock = f"SELECT pg_try_advisory_xact_lock(hashtext('{tables.schema or ''}.{tables.prefix}fan out'))"
        # Tenants take turns: each gets an equal share of the batch, found by skipping from tenant to tenant.
        self._take = f"""
            WITH RECURSIVE tenants AS (
                (SELECT tenant FROM {name("fanout_queue")} ORDER BY tenant LIMIT 1)
                UNION ALL
                SELECT (SELECT q.tenant FROM {name("fanout_queue")} q WHERE q.tenant > t.tenant
                        ORDER BY q.tenant LIMIT 1)
                FROM tenants t WHERE t.tenant IS NOT NULL
            ),
            counted AS MATERIALIZED (SELECT tenant, count(*) OVER () AS n FROM tenants WHERE tenant IS NOT NULL),
            batch AS MATERIALIZED (
                SELECT c.tenant, q.event_row FROM counted c CROSS JOIN LATERAL (
                    SELECT event_row FROM {name("fanout_queue")} q WHERE q.tenant = c.tenant
                    ORDER BY event_row LIMIT greatest(1, $1 / c.n)
                ) q LIMIT $1
            ),
            taken AS (
                DELETE FROM {name("fanout_queue")} q USING batch b
                WHERE q.tenant = b.tenant AND q.event_row = b.event_row
                RETURNING q.event_row
            )
            SELECT e.row_id, e.tenant, e.type, e.job_id FROM taken
            JOIN {name("events")} e ON e.row_id = taken.event_row ORDER BY e.row_id
        """
        self._number = f"""
            INSERT INTO {name("jobs")} AS j (tenant, job_id, last_sequence, updated_at)
            SELECT tenant, job_id, n, COALESCE($4, clock_timestamp())
            FROM unnest($1::text[], $2::text[], $3::bigint[]) AS added(tenant, job_id, n)
            ORDER BY tenant, job_id
            ON CONFLICT (tenant, job_id) DO UPDATE
            SET last_sequence = j.last_sequence + excluded.last_sequence, updated_at = excluded.updated_at
            RETURNING tenant, job_id, row_id, last_sequence
        """
        self._keep_sequence = f"""
            INSERT INTO {name("job_events")} (job_row, sequence, event_row)
            SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
        """
        self._deliver = f"""
            WITH event AS (
                SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
                AS event(event_row, tenant, type, job_id, lane, sequence)
            ),
            match AS (
                SELECT DISTINCT event.event_row, e.row_id AS endpoint_row, event.tenant, event.sequence,
                       CASE WHEN e.ordered THEN event.lane END AS lane
                FROM event
                JOIN unnest($7::text[], $8::text[]) AS matching(type, pattern) ON matching.type = event.type
                JOIN {name("subscriptions")} s ON s.tenant = event.tenant AND s.pattern = matching.pattern
                    AND s.job_id IN ('', event.job_id)
                JOIN {name("endpoints")} e ON e.row_id = s.endpoint_row
                WHERE e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL
                    AND (e.expires_at IS NULL OR e.expires_at > COALESCE($9, clock_timestamp()))
            )
            INSERT INTO {name("deliveries")}
                (event_row, endpoint_row, tenant, lane, sequence, waiting, created_at, updated_at)
            SELECT event_row, endpoint_row, tenant, lane, sequence,
                   lane IS NOT NULL AND (
                       row_number() OVER (PARTITION BY endpoint_row, lane ORDER BY sequence) > 1
                       OR EXISTS (
                           SELECT FROM {name("deliveries")} d
                           WHERE d.lane = match.lane AND d.endpoint_row = match.endpoint_row
                             AND d.lane IS NOT NULL AND d.state IN ('pending', 'sending') AND NOT d.late
                       )
                   ),
                   COALESCE($9, clock_timestamp()), COALESCE($9, clock_timestamp())
            FROM match ORDER BY event_row
        """

    async def run(self, driver: Driver, limit: int, now: datetime | None) -> FannedOut:
        """One batch, inside the caller's transaction."""
        if not await driver.fetchval(self._lock):
            return FannedOut(0, 0)
        events = await driver.fetch(self._take, limit)
        if not events:
            return FannedOut(0, 0)
        lanes, sequences = await self._sequence(driver, events, now)
        types = {event[2] for event in events}
        pairs = [(event_type, pattern) for event_type in types for pattern in _patterns(event_type)]
        made = await driver.execute(
            self._deliver,
            [event[0] for event in events],
            [event[1] for event in events],
            [event[2] for event in events],
            [event[3] for event in events],
            lanes,
            sequences,
            [event_type for event_type, _ in pairs],
            [pattern for _, pattern in pairs],
            now,
        )
        return FannedOut(len(events), int(made.rsplit(" ", 1)[1]))

    async def _sequence(
        self, driver: Driver, events: Sequence[tuple[int, str, str, str | None]], now: datetime | None
    ) -> tuple[list[int | None], list[int | None]]:
        counts: dict[tuple[str, str], int] = {}
        for _, tenant, _, job_id in events:
            if job_id is not None:
                counts[tenant, job_id] = counts.get((tenant, job_id), 0) + 1
        if not counts:
            return [None] * len(events), [None] * len(events)
        # Also the lock of these jobs' lanes: whoever records an outcome of theirs waits here, or we for them,
        # and the next statement sees what the other did.
        numbered = await driver.fetch(
            self._number,
            [tenant for tenant, _ in counts],
            [job_id for _, job_id in counts],
            list(counts.values()),
            now,
        )
        jobs = {(tenant, job_id): row for tenant, job_id, row, _ in numbered}
        following = {(tenant, job_id): last - counts[tenant, job_id] + 1 for tenant, job_id, _, last in numbered}
        lanes: list[int | None] = []
        sequences: list[int | None] = []
        kept: list[tuple[int, int, int]] = []
        for event_row, tenant, _, job_id in events:
            if job_id is None:
                lanes.append(None)
                sequences.append(None)
                continue
            job_row, sequence = jobs[tenant, job_id], following[tenant, job_id]
            following[tenant, job_id] = sequence + 1
            lanes.append(job_row)
            sequences.append(sequence)
            kept.append((job_row, sequence, event_row))
        await driver.execute(
            self._keep_sequence,
            [job_row for job_row, _, _ in kept],
            [sequence for _, sequence, _ in kept],
            [event_row for _, _, event_row in kept],
        )
        return lanes, sequences
