"""Fan-out on PostgreSQL: one sequencer at a time numbers a job's events and makes the deliveries."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from time import monotonic
from typing import Any

import asyncpg

from dispatcher.rules.event_types import patterns_for
from dispatcher.rules.kinds import EventKinds
from dispatcher.rules.numbering import Numbered, Queued, count_jobs, number
from dispatcher.rules.superseding import superseding
from dispatcher.states import EventKind
from dispatcher.store.hot import NO_EVENT, FannedOut, Rejected
from dispatcher.store.postgres.connection import COLLISIONS, OUTAGES, Driver, committed, integers, texts
from dispatcher.store.postgres.delivering import deliver, deliver_and_supersede
from dispatcher.store.postgres.marks import CameBack, Looks, Marks
from dispatcher.store.postgres.record import Record
from dispatcher.store.tables import Tables

#: PostgreSQL carries up to 7,999 bytes with a notification; more jobs than that stand for all.
LONGEST_PAYLOAD = 7900

#: What no event brings about: a table or column is not what it was. Then none is taken out of the queue.
_NOT_THE_EVENTS = (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)

#: How long a producer's transaction may take to be seen in turn where the queue is looked at from marks, in seconds:
#: an event's row has its number before its transaction commits.
LATE_S = 1.0

_patterns = lru_cache(maxsize=4096)(patterns_for)

#: The columns of what is taken from the queue; of an event whose row is gone `of` says the tenant.
TAKEN = """locked boolean, catch_up boolean, event_row bigint, tenant text, type text, job_id text, kind text,
           turn bigint, of text, gone boolean, found_s float8, id text"""


class FanOut:
    """The statements of the fan-out, for one set of tables."""

    def __init__(self, tables: Tables, kinds: EventKinds, record: Record) -> None:
        self._kinds = kinds
        self._record = record
        self._last_tenant = ""
        self._looks = Looks()
        self._marks: Marks[str] = Marks()
        self._marked_at = 0.0
        # By tenant the last event taken: by the transaction that is under way, lately, and before that.
        self._taken: dict[str, int] = {}
        self._lately: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._came_back: CameBack = ()
        # Of the look that is under way.
        self._in_full = False
        self._began_at = 0.0
        name = tables.name
        # Tenants take turns: each gets an equal share of the batch, found by skipping from tenant to tenant; where they
        # are more than it holds, those come first that the last one ended before.
        # Between the marked tenants it looks from each to the next, at a marked one from its mark on.
        take = f"""
            WITH RECURSIVE marked AS MATERIALIZED (
                SELECT COALESCE(array_agg(tenant ORDER BY tenant), '{{}}') AS tenants,
                       COALESCE(array_agg(event_row ORDER BY tenant), '{{}}') AS rows
                FROM unnest(marked_tenants, marked_rows) AS m(tenant, event_row)
            ),
            tenants AS (
                SELECT '' AS tenant, 1 AS mark, NULL::bigint AS first
                UNION ALL
                SELECT next.* FROM tenants t CROSS JOIN marked m CROSS JOIN LATERAL (
                    (SELECT q.tenant, t.mark, q.event_row FROM {name("fanout_queue")} q
                     WHERE t.mark > cardinality(m.tenants) AND q.tenant > t.tenant
                     ORDER BY q.tenant, q.event_row LIMIT 1)
                    UNION ALL
                    (SELECT q.tenant, t.mark, q.event_row FROM {name("fanout_queue")} q
                     WHERE t.mark <= cardinality(m.tenants) AND q.tenant > t.tenant AND q.tenant < m.tenants[t.mark]
                     ORDER BY q.tenant, q.event_row LIMIT 1)
                    UNION ALL
                    (SELECT m.tenants[t.mark], t.mark + 1, (
                        SELECT q.event_row FROM {name("fanout_queue")} q
                        WHERE q.tenant = m.tenants[t.mark] AND q.event_row >= m.rows[t.mark]
                        ORDER BY q.event_row LIMIT 1)
                     WHERE t.mark <= cardinality(m.tenants))
                    LIMIT 1
                ) next
            ),
            counted AS MATERIALIZED (
                SELECT tenant, first, count(*) OVER () AS n,
                       row_number() OVER (ORDER BY tenant <= last_tenant, tenant) AS turn
                FROM tenants WHERE first IS NOT NULL
            ),
            batch AS MATERIALIZED (
                SELECT c.tenant, c.turn, q.event_row
                FROM (SELECT * FROM counted ORDER BY turn LIMIT most) c CROSS JOIN LATERAL (
                    SELECT event_row FROM {name("fanout_queue")} q WHERE q.tenant = c.tenant
                      AND q.event_row >= c.first ORDER BY event_row LIMIT greatest(1, most / c.n)
                ) q
            ),
            taken AS (
                DELETE FROM {name("fanout_queue")} q USING batch b
                WHERE q.tenant = b.tenant AND q.event_row = b.event_row
                RETURNING q.event_row, b.turn, q.tenant, clock_timestamp() AS found_at
            )
            SELECT true, flagged, t.* FROM (VALUES (1)) AS once LEFT JOIN (
                SELECT taken.event_row, e.tenant, e.type, e.job_id, e.kind, taken.turn, taken.tenant AS of,
                       e.row_id IS NULL, extract(epoch FROM taken.found_at - began)::float8, e.id
                FROM taken LEFT JOIN {name("events")} e ON e.row_id = taken.event_row
            ) t ON true ORDER BY t.event_row
        """
        # One round trip, though several statements: what is taken must be what there is once the lock is held. What was
        # flagged is looked at by a later transaction, under the same lock.
        self.setup = f"""
            SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_take(
                most int, last_tenant text, marked_tenants text[], marked_rows bigint[])
            RETURNS SETOF record LANGUAGE plpgsql
            -- How much a batch holds no plan can know that is made for all: where very much waits it would take a tenth
            -- of that for it, and go through the whole queue, and all events, to join them.
            SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
            DECLARE flagged boolean; began timestamptz := clock_timestamp();
            BEGIN
                IF NOT pg_try_advisory_xact_lock({tables.fan_out_lock}) THEN
                    RETURN QUERY SELECT false, false, NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::text,
                                        NULL::bigint, NULL::text, NULL::boolean, NULL::float8, NULL::text;
                    RETURN;
                END IF;
                flagged := EXISTS (SELECT FROM {name("endpoints")} WHERE catch_up);
                RETURN QUERY {take};
            END $body$
        """
        self._take = f"SELECT * FROM pg_temp.dispatcher_take($1, $2, $3, $4) AS t({TAKEN})"
        self._reject = f"""
            INSERT INTO {name("rejected_events")} (event_row, reason, rejected_at)
            VALUES ($1, $2, COALESCE($3, clock_timestamp()))
            ON CONFLICT (event_row) DO UPDATE SET reason = excluded.reason, rejected_at = excluded.rejected_at
        """
        self._lift_counter = f"""
            UPDATE {name("jobs")} j SET last_sequence = numbered.last
            FROM {name("events")} e, {name("jobs")} its CROSS JOIN LATERAL (
                SELECT COALESCE(max(n.sequence), 0) AS last FROM {name("job_events")} n
                WHERE n.job_row = its.row_id) numbered
            WHERE e.row_id = $1 AND its.tenant = e.tenant AND its.job_id = e.job_id AND j.row_id = its.row_id
              AND j.last_sequence < numbered.last
        """
        self._number = f"""
            INSERT INTO {name("jobs")} AS j (tenant, job_id, last_sequence, settled_by, settled_at, updated_at)
            SELECT tenant, job_id, n, settled_by, CASE WHEN settled_by IS NOT NULL THEN at_time END, at_time
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS added(tenant, job_id, n, settled_by)
            CROSS JOIN (SELECT COALESCE($5, clock_timestamp()) AS at_time) clock
            ORDER BY tenant, job_id
            ON CONFLICT (tenant, job_id) DO UPDATE
            SET last_sequence = j.last_sequence + excluded.last_sequence, updated_at = excluded.updated_at,
                settled_by = COALESCE(j.settled_by, excluded.settled_by),
                settled_at = COALESCE(j.settled_at, excluded.settled_at)
            RETURNING tenant, job_id, row_id, last_sequence, settled_by
        """
        # Who waits for a job's events in another process hears of it when this commits. Only while somebody waits: a
        # notifying transaction takes a global lock at its commit.
        self._keep_sequence = f"""
            WITH kept AS (
                INSERT INTO {name("job_events")} (job_row, sequence, event_row, kind)
                SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])
            ),
            numbered AS (SELECT string_agg(DISTINCT job_row::text, ',') AS jobs FROM unnest($1) AS n(job_row))
            SELECT pg_notify('{tables.readers_channel}',
                             CASE WHEN length(jobs) <= {LONGEST_PAYLOAD} THEN jobs ELSE '' END)
            FROM numbered CROSS JOIN {name("wakeup")} WHERE readers_until > clock_timestamp()
        """
        self._deliver = deliver(name)
        self._deliver_and_supersede = deliver_and_supersede(name)

    async def run(self, driver: Driver, limit: int, now: datetime | None) -> FannedOut:
        """One batch, inside the caller's transaction."""
        return await self.go_on(driver, await driver.fetch(self._take, limit, *self.begin()), now)

    async def go_on(self, driver: Driver, found: Sequence[Any], now: datetime | None) -> FannedOut:
        """Fans out what `dispatcher_take`, called with what `begin` says, has `found`, in the same transaction."""
        locked, catch_up, taken = self._taken_of(found)
        if not locked:
            return FannedOut(0, 0, contended=True)
        if not taken:
            return FannedOut(0, 0, catch_up=catch_up)
        self._last_tenant = max((row[5], row[6]) for row in taken)[1]
        gone = [Rejected(row[0], NO_EVENT) for row in taken if row[7]]
        done = await self._fan_out(driver, taken, now) if len(gone) < len(taken) else FannedOut(0, 0)
        if gone:
            done = replace(done, events=len(taken), rejected=tuple(gone))
        ids = [row[9] for row in taken if not row[7]]
        return replace(done, catch_up=catch_up, rows=frozenset(row[0] for row in taken), ids=ids)

    async def run_one(self, driver: Driver, now: datetime | None) -> FannedOut:
        """The event whose turn it is, alone; rejected where it cannot be fanned out."""
        locked, _, taken = self._taken_of(await driver.fetch(self._take, 1, *self.begin()))
        if not locked:
            return FannedOut(0, 0, contended=True)
        if not taken:
            return FannedOut(0, 0)
        [(event_row, *_, tenant, gone, _, _)] = taken
        self._last_tenant = tenant
        if gone:
            return FannedOut(1, 0, rejected=(Rejected(event_row, NO_EVENT),))
        try:
            return await committed(driver, lambda driver: self._lift_and_fan_out(driver, taken, now))
        except (*OUTAGES, *COLLISIONS, *_NOT_THE_EVENTS) as error:
            if not isinstance(error, asyncpg.UniqueViolationError):
                raise
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this event's, and on record
            reason = f"{type(error).__name__}: {error}"
        await driver.execute(self._reject, event_row, reason, now)
        return FannedOut(1, 0, rejected=(Rejected(event_row, reason),))

    def committed(self) -> CameBack:
        """The transaction of the last `run` or `run_one` has committed; answers what it lets be claimed again."""
        for tenant, event_row in self._taken.items():
            self._lately[tenant] = max(event_row, self._lately.get(tenant, event_row))
        now = monotonic()
        if now >= self._marked_at + LATE_S:
            # What was taken just now sets no mark: who got an earlier number may still have to commit.
            self._marks.begin((tenant, event_row + 1) for tenant, event_row in self._before.items())
            self._before, self._lately, self._marked_at = self._lately, {}, now
        came_back, self._taken, self._came_back = self._came_back, {}, ()
        return came_back

    def left(self, events: int) -> None:
        """So many have left the queue by this process, and not by a statement of this one's."""
        self._looks.left(events)

    def begin(self) -> tuple[str, list[str], list[int]]:
        """From where on the queue is to be looked at: what `dispatcher_take` wants to know beside the most to take."""
        self._taken, self._came_back = {}, ()
        self._in_full, self._began_at = self._looks.in_full(), monotonic()
        marks = [] if self._in_full else self._marks.all()
        return self._last_tenant, [tenant for tenant, _ in marks], [row for _, row in marks]

    def _taken_of(self, found: Sequence[Any]) -> tuple[bool, bool, list[Any]]:
        locked, catch_up = found[0][:2]
        taken = [row[2:] for row in found] if found[0][2] is not None else []
        if locked:
            if self._in_full:
                self._looks.took(min((row[8] for row in taken), default=monotonic() - self._began_at))
            self._looks.left(len(taken))
        self._taken = {row[6]: row[0] for row in taken}
        return locked, catch_up, taken

    async def _lift_and_fan_out(self, driver: Driver, taken: Sequence[Any], now: datetime | None) -> FannedOut:
        await driver.execute(self._lift_counter, taken[0][0])
        return await self._fan_out(driver, taken, now)

    async def _fan_out(self, driver: Driver, taken: Sequence[Any], now: datetime | None) -> FannedOut:
        events = [
            Queued(row, tenant, type_, job_id, self._kinds.of(type_, kind, job_id))
            for row, tenant, type_, job_id, kind, _, _, gone, _, _ in taken
            if not gone
        ]
        numbered, settled_by = await self._number_jobs(driver, events, now)
        superseded, found = superseding(list(numbered.values()), settled_by)
        types = {event.event_type for event in events}
        pairs = [(event_type, pattern) for event_type in types for pattern in _patterns(event_type)]
        places = [numbered.get(event.event_row) for event in events]
        jobs = frozenset(place.job_row for place in numbered.values())
        values = (
            integers([event.event_row for event in events]),
            texts([event.tenant for event in events]),
            texts([event.event_type for event in events]),
            texts([event.job_id for event in events]),
            integers([None if place is None else place.job_row for place in places]),
            integers([None if place is None else place.sequence for place in places]),
            texts([event_type for event_type, _ in pairs]),
            texts([pattern for _, pattern in pairs]),
            now,
            integers([place.job_row if place and place.kind is EventKind.PROGRESS else None for place in places]),
            integers([superseded.get(event.event_row) for event in events]),
        )
        if not superseded and not found:
            made: str = await driver.execute(self._deliver, *values)
            return FannedOut(len(events), int(made.rsplit(" ", 1)[1]), jobs=jobs)
        deliveries, count, lanes, endpoints, held = await driver.fetchrow(
            self._deliver_and_supersede,
            *values,
            integers([newer.job_row for newer in found]),
            texts([newer.event_type for newer in found]),
            integers([newer.event_row for newer in found]),
            integers([newer.sequence for newer in found]),
        )
        if lanes:
            self._came_back, later = await self._record.free_heads(
                driver, list(zip(lanes, endpoints, strict=True)), now
            )
            held = held or later
        return FannedOut(len(events), deliveries, superseded=count, held=held, jobs=jobs)

    async def _number_jobs(
        self, driver: Driver, events: Sequence[Queued], now: datetime | None
    ) -> tuple[dict[int, Numbered], dict[int, int]]:
        """Gives the events of jobs their places, by event; and by job the event that has settled it, if one has."""
        counts, settling = count_jobs(events)
        if not counts:
            return {}, {}
        # Also the lock of these jobs' lanes: whoever records an outcome of theirs waits here, or we for them,
        # and the next statement sees what the other did.
        jobs = await driver.fetch(
            self._number,
            [tenant for tenant, _ in counts],
            [job_id for _, job_id in counts],
            list(counts.values()),
            [settling.get(job) for job in counts],
            now,
        )
        numbered = number(events, counts, {(tenant, job): (row, last) for tenant, job, row, last, _ in jobs})
        await driver.execute(
            self._keep_sequence,
            [place.job_row for place in numbered],
            [place.sequence for place in numbered],
            [place.event_row for place in numbered],
            [None if place.kind is EventKind.STATE else place.kind for place in numbered],
        )
        return (
            {place.event_row: place for place in numbered},
            {row: settled_by for _, _, row, _, settled_by in jobs if settled_by is not None},
        )
