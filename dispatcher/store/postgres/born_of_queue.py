"""Born in flight out of the queue: few plain events that wait there are taken with their deliveries claimed.

One statement looks, another does it all, and is its own transaction; whatever is not plain goes the ordinary way.
"""

from dataclasses import replace
from datetime import datetime

from dispatcher.rules.new_events import NewEvent
from dispatcher.store.hot import FannedOut, Limits
from dispatcher.store.ingest import Straight
from dispatcher.store.postgres.bearer import Bearer, InTheWay
from dispatcher.store.postgres.bearing import Events
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.looking import CLAIMABLE
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
        # The first row comes when all have been found, so that its time says what was dead between them. The data comes
        # of what may be born in flight only.
        self._look = f"""
            SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8, f.flagged, f.others, e.*
            FROM (
                SELECT EXISTS (SELECT FROM {name("endpoints")} WHERE catch_up) AS flagged,
                       (SELECT row_id FROM {name("deliveries")} d WHERE {CLAIMABLE}
                        ORDER BY d.tenant, d.endpoint_row, d.fresh, d.row_id LIMIT 1) IS NOT NULL AS others
            ) f LEFT JOIN (
                SELECT q.event_row, e.id, e.tenant, e.type, e.timestamp, e.created_at, e.traceparent,
                       CASE WHEN q.n < $1 THEN e.data END
                FROM (
                    SELECT tenant, event_row, count(*) OVER () AS n FROM (
                        SELECT tenant, event_row FROM {name("fanout_queue")} ORDER BY tenant, event_row LIMIT $1
                    ) waiting
                ) q
                LEFT JOIN LATERAL (
                    SELECT id, tenant, type, CASE WHEN job_id IS NULL THEN data END AS data, traceparent,
                           {within_years("timestamp")} AS timestamp, {within_years("created_at")} AS created_at
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
                first=f"IF NOT pg_try_advisory_xact_lock({tables.fan_out_lock}) THEN RETURN; END IF;",
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
        looked_s, flagged, others, first = rows[0][:4]
        self._rest.took(looked_s)
        if first is None:
            return FannedOut(0, 0, catch_up=flagged)
        waiting = [row[3:] for row in rows]
        in_vain = self._in_vain
        # Until it has come about: it may fail.
        self._in_vain = self._pass_over = min(MOST_PASSED_OVER, 2 * in_vain or 1)
        # Of a job, too many, or without what it must have, where it can be read.
        if flagged or any(None in (*row[1:6], row[7]) for row in waiting):
            return None
        try:
            brought = await self._bearer.run(
                driver,
                [_event(*row[1:5], *row[6:]) for row in waiting],
                ([row[0] for row in waiting], list({row[2] for row in waiting})),
                straight,
                dispatcher_row,
                now,
                [row[5] for row in waiting],
            )
        except InTheWay:
            self._in_vain, self._pass_over = in_vain, 0
            return FannedOut(0, 0, contended=True)
        if brought is None:
            return None
        self._in_vain = self._pass_over = 0
        # What of these another process has taken meanwhile may wait for who has room for it.
        return replace(brought.fanned_out(), others=others or len(brought.kept) < len(waiting))


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
