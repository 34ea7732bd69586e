"""Born in flight out of the queue: few plain events that wait there are taken with their deliveries claimed.

One statement looks, another does it all, and is its own transaction; whatever is not plain goes the ordinary way.
"""

from datetime import datetime

from dispatcher.rules.new_events import NewEvent
from dispatcher.store.hot import FannedOut, Limits
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres.bearer import Bearer
from dispatcher.store.postgres.bearing import Events
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.marks import Rest
from dispatcher.store.postgres.taking import within_years
from dispatcher.store.tables import Tables

#: So many passes at the most go the ordinary way without a look, where the last looks were in vain.
MOST_PASSED_OVER = 64


class BornOfQueue:
    """The statements, for one set of tables."""

    def __init__(self, tables: Tables, limits: Limits, *, source: str) -> None:
        name = tables.name
        # Passes that go by without a look after one in vain, and those that are still to go by.
        self._in_vain = 0
        self._pass_over = 0
        self._rest = Rest()
        self._look = f"""
            SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8, f.flagged, e.*
            FROM (SELECT EXISTS (SELECT FROM {name("endpoints")} WHERE catch_up) AS flagged) f
            LEFT JOIN (
                SELECT q.event_row, e.plain, e.id, e.tenant, e.type, e.timestamp, e.created_at, e.traceparent,
                       CASE WHEN e.plain THEN e.data END
                FROM (
                    SELECT tenant, event_row FROM {name("fanout_queue")} ORDER BY tenant, event_row LIMIT $1
                ) q
                LEFT JOIN LATERAL (
                    SELECT id, tenant, type, data, traceparent, {within_years("timestamp")} AS timestamp,
                           {within_years("created_at")} AS created_at, job_id IS NULL AS plain
                    FROM {name("events")} WHERE row_id = q.event_row LIMIT 1
                ) e ON true
            ) e ON true
        """
        # Nobody else takes anything out of the queue meanwhile.
        take = f"""
            DELETE FROM {name("fanout_queue")} q
            WHERE q.tenant = ANY(tenants) AND q.event_row = ANY(event_rows)
              AND EXISTS (SELECT FROM {name("dispatchers")} me
                          WHERE me.row_id = claimer AND me.leased_until > at_time)
            RETURNING q.event_row AS row_id
        """
        self._bearer = Bearer(
            tables,
            limits,
            Events(
                function="dispatcher_bear_queued",
                given=("event_rows bigint[]", "tenants text[]"),
                alone="true",
                first=f"EXIT plainly WHEN NOT pg_try_advisory_xact_lock({tables.fan_out_lock});",
                before="",
                keep=take,
                number="array_position(event_rows, found_one.row_id)",
            ),
            source=source,
        )
        self.setup = self._bearer.setup

    async def run(
        self, driver: Driver, limit: int, straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> FannedOut | None:
        """Takes what waits, with its deliveries, in a transaction of its own; null, and nothing has changed, where that
        is more than `limit` events or not plain: of a job, for an endpoint that is to wait, or in somebody's hands.
        """
        if self._rest.now or self._bearer.rest.now:
            return None
        if self._pass_over:
            self._pass_over -= 1
            return None
        rows = await driver.fetch(self._look, limit + 1)
        self._rest.took(rows[0][0])
        flagged, first = rows[0][1:3]
        if first is None:
            return FannedOut(0, 0, catch_up=flagged)
        brought = None
        if not flagged and len(rows) <= limit and all(row[3] and row[7] and row[8] for row in rows):
            brought = await self._bearer.run(
                driver,
                [_event(*row[4:8], *row[9:]) for row in rows],
                ([row[2] for row in rows], list({row[5] for row in rows})),
                straight,
                dispatcher_row,
                now,
                [row[8] for row in rows],
            )
        if brought is None:
            self._in_vain = self._pass_over = min(MOST_PASSED_OVER, 2 * self._in_vain or 1)
            return None
        self._in_vain = 0
        return brought.fanned_out()


def _event(
    event_id: str, tenant: str, event_type: str, timestamp: datetime, traceparent: str | None, data: str
) -> NewEvent:
    return NewEvent(
        id=event_id,
        tenant=tenant,
        type=event_type,
        data=data,
        job_id=None,
        kind=None,
        timestamp=timestamp,
        traceparent=traceparent,
        repeatable=None,
    )
