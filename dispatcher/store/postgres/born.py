"""Born in flight: events stored by one statement with their deliveries claimed, where nothing speaks against it.

What it makes is what storing, fanning out and claiming would have made; whatever is not plain goes that way.
"""

from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any

from dispatcher.rules.bodies import SOURCE_MARK, WITH_SOURCE
from dispatcher.rules.event_types import patterns_for
from dispatcher.rules.new_events import NewEvent
from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store.hot import Claimed, ClaimedBatch, FannedOut, Limits
from dispatcher.store.ingest import Group, Ingested, Straight, in_order, independent
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.ingest import Ingest
from dispatcher.store.postgres.looking import CLAIMABLE
from dispatcher.store.postgres.marks import DEAR_S, REST
from dispatcher.store.tables import FANNED_OUT, QUIET, Tables

#: The years whose moments every driver reads, with a day to spare at either end.
_YEARS = range(2, 9999)

_RESULT = """well boolean, looked_s float8, tenant text, id text, event_row bigint, created_at timestamptz,
             "timestamp" timestamptz, row_id bigint, endpoint_row bigint, version int, body_profile text,
             destination_row bigint"""


class Born:
    """The statement, for one set of tables."""

    def __init__(self, tables: Tables, limits: Limits, ingest: Ingest, *, source: str) -> None:
        name = tables.name
        self._limits = limits
        self._ingest = ingest
        self._source = source
        self._rests_until = 0.0
        # The same as `frozen_profile`.
        with_source = ", ".join(f"'{profile}'" for profile in WITH_SOURCE)
        frozen = f"""CASE WHEN e.profile IN ({with_source})
                            THEN e.profile || '{SOURCE_MARK}' || event_source ELSE e.profile END"""
        # By its own index, in whose order what waits comes first: never through all that an endpoint was sent.
        waits = f"""
            SELECT FROM {name("deliveries")} d
            WHERE {CLAIMABLE} AND d.endpoint_row >= e.row_id AND d.endpoint_row <= e.row_id
            ORDER BY d.endpoint_row, d.fresh, d.row_id LIMIT 1
        """
        match = f"""
            SELECT DISTINCT p.id, e.row_id, e.destination_row,
                   e.status = 'enabled' AND e.rate_limit IS NULL AND NOT EXISTS ({waits}) AS plain
            FROM unnest(of_ids, of_tenants, patterns) AS p(id, tenant, pattern)
            JOIN {name("subscriptions")} s ON s.tenant = p.tenant AND s.pattern = p.pattern AND s.job_id = ''
            JOIN {name("endpoints")} e ON e.row_id = s.endpoint_row
            WHERE e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL
              AND (e.expires_at IS NULL OR e.expires_at > at_time)
        """
        # In the order of its index, which lets go of what is dead as soon as nobody can see it.
        queued = f"SELECT FROM {name('fanout_queue')} ORDER BY tenant, event_row LIMIT 1"
        # One that is well, so that what comes of an attempt needs no note.
        lock = f"""
            SELECT FROM {name("destinations")}
            WHERE row_id = ANY(homes) AND verified_at IS NOT NULL AND ramp IS NULL AND failures_in_row = 0
              AND (paused_until IS NULL OR paused_until <= at_time)
            FOR NO KEY UPDATE SKIP LOCKED
        """
        flight = f"""
            SELECT d.endpoint_row, count(*)::int AS n, (count(*) FILTER (WHERE d.dispatcher_row = claimer))::int AS mine
            FROM {name("deliveries")} d
            WHERE d.state = 'sending'
              AND ended_attempts[array_position(ended_rows, d.row_id)] IS DISTINCT FROM d.attempts
            GROUP BY d.endpoint_row
        """
        crowded = f"""
            SELECT FROM (
                SELECT row_id, n FROM unnest(flying, flying_n) AS f(row_id, n)
                UNION ALL SELECT row_id, 1 FROM unnest(sent_to) AS s(row_id)
            ) f JOIN {name("endpoints")} e ON e.row_id = f.row_id
            WHERE e.destination_row = ANY(homes) GROUP BY e.destination_row HAVING sum(f.n) > destination_cap
        """
        # All or nothing: where one endpoint has no room, or our lease has ended, no event is stored.
        store = f"""
            WITH open AS MATERIALIZED (
                SELECT e.row_id, e.tenant, e.version, {frozen} AS profile, e.destination_row
                FROM (SELECT row_id, count(*)::int AS n FROM unnest(sent_to) AS c(row_id) GROUP BY row_id) c
                JOIN {name("endpoints")} e ON e.row_id = c.row_id
                LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = e.row_id
                WHERE e.status = 'enabled' AND e.deleted_at IS NULL AND e.rate_limit IS NULL
                  AND e.destination_row = ANY(homes) AND (s.paused_until IS NULL OR s.paused_until <= at_time)
                  AND c.n <= LEAST(COALESCE(e.max_in_flight, endpoint_cap), s.ramp, floor(s.takes)::int)
                             - COALESCE(flying_n[array_position(flying, e.row_id)], 0)
            ),
            good AS MATERIALIZED (
                SELECT true FROM open
                HAVING count(*) = (SELECT count(DISTINCT row_id) FROM unnest(sent_to) AS c(row_id))
                   AND EXISTS (SELECT FROM {name("dispatchers")} me
                               WHERE me.row_id = claimer AND me.leased_until > at_time)
            ),
            stored AS (
                INSERT INTO {name("events")} (id, tenant, type, data, kind, timestamp, traceparent, created_at)
                SELECT e.id, e.tenant, e.type, e.data, e.kind, COALESCE(e.at, at_time), e.traceparent, at_time
                FROM good CROSS JOIN unnest(ids, tenants, types, datas, kinds, moments, traceparents)
                     AS e(id, tenant, type, data, kind, at, traceparent)
                ON CONFLICT (tenant, id) DO NOTHING RETURNING tenant, id, row_id, created_at, timestamp
            ),
            born AS (
                INSERT INTO {name("deliveries")}
                    (event_row, endpoint_row, tenant, state, attempts, dispatcher_row, body_profile, created_at,
                     updated_at)
                SELECT stored.row_id, open.row_id, stored.tenant, 'sending', 1, claimer, open.profile, at_time, at_time
                FROM stored JOIN unnest(sent_ids, sent_to) AS s(id, row_id) ON s.id = stored.id
                JOIN open ON open.row_id = s.row_id AND open.tenant = stored.tenant
                ORDER BY stored.row_id
                RETURNING row_id, event_row, endpoint_row
            )
            SELECT true, looked_s, stored.tenant, stored.id, stored.row_id, stored.created_at, stored.timestamp,
                   born.row_id, born.endpoint_row, open.version, open.profile, open.destination_row
            FROM good LEFT JOIN stored ON true
            LEFT JOIN born ON born.event_row = stored.row_id
            LEFT JOIN open ON open.row_id = born.endpoint_row
            ORDER BY stored.row_id, born.row_id
        """
        # The destinations are locked as by a claim, and what is in flight is counted when they are. Before that nothing
        # is written, so what is not plain costs these looks alone.
        self.setup = f"""
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_bear(
                ids text[], tenants text[], types text[], datas text[], kinds text[], moments timestamptz[],
                traceparents text[], given_time timestamptz, of_ids text[], of_tenants text[], patterns text[],
                most int, endpoint_cap int, destination_cap int, slots int, claimer bigint,
                ended_rows bigint[], ended_attempts int[], event_source text)
            RETURNS SETOF record LANGUAGE plpgsql AS $body$
            DECLARE
                began timestamptz := clock_timestamp(); at_time timestamptz := COALESCE(given_time, began);
                sent_ids text[]; sent_to bigint[]; homes bigint[]; plain boolean; looked_s float8;
                flying bigint[]; flying_n int[]; flying_all int; flying_mine int;
            BEGIN
                <<plainly>> BEGIN
                    SELECT COALESCE(array_agg(m.id), '{{}}'), COALESCE(array_agg(m.row_id), '{{}}'),
                           COALESCE(array_agg(DISTINCT m.destination_row), '{{}}'),
                           COALESCE(bool_and(m.plain), true) AND count(*) <= most AND NOT EXISTS ({queued})
                           AND NOT EXISTS (SELECT FROM {name("endpoints")} WHERE catch_up)
                    INTO sent_ids, sent_to, homes, plain FROM ({match}) m;
                    looked_s := extract(epoch FROM clock_timestamp() - began);
                    EXIT plainly WHEN NOT plain;
                    IF cardinality(homes) > 0 THEN
                        SELECT count(*) = cardinality(homes) INTO plain FROM ({lock}) held;
                        EXIT plainly WHEN NOT plain;
                        began := clock_timestamp(); at_time := COALESCE(given_time, began);
                        SELECT array_agg(f.endpoint_row), array_agg(f.n), COALESCE(sum(f.n), 0),
                               COALESCE(sum(f.mine), 0)
                        INTO flying, flying_n, flying_all, flying_mine FROM ({flight}) f;
                        looked_s := looked_s + extract(epoch FROM clock_timestamp() - began);
                        EXIT plainly WHEN slots - flying_mine - cardinality(sent_to) < slots / {KEPT_ONE_IN};
                        IF flying_all + cardinality(sent_to) > destination_cap THEN
                            EXIT plainly WHEN EXISTS ({crowded});
                        END IF;
                    END IF;
                    PERFORM set_config('{QUIET}', '{FANNED_OUT}', true);
                    RETURN QUERY {store};
                    IF FOUND THEN
                        RETURN;
                    END IF;
                END;
                RETURN QUERY SELECT false, looked_s, NULL::text, NULL::text, NULL::bigint, NULL::timestamptz,
                                    NULL::timestamptz, NULL::bigint, NULL::bigint, NULL::int, NULL::text, NULL::bigint;
            END $body$
        """
        self._bear = f"""
            SELECT * FROM pg_temp.dispatcher_bear(
                $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) AS t({_RESULT})
        """

    async def run(
        self, driver: Driver, groups: Sequence[Group], straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> Ingested | None:
        """Stores the events with their deliveries in a transaction of its own; null, and nothing is stored, where they
        are not plain: of a job, not independent, or for an endpoint that is to wait.

        Raises what a bad event makes of all.
        """
        events = in_order(groups)
        if monotonic() < self._rests_until or not _plain(events) or not independent(groups):
            return None
        wanted = [(event, pattern) for event in events for pattern in patterns_for(event.type)]
        rows = await driver.fetch(
            self._bear,
            [event.id for event in events],
            [event.tenant for event in events],
            [event.type for event in events],
            [event.data for event in events],
            [event.kind for event in events],
            [event.timestamp for event in events],
            [event.traceparent for event in events],
            now,
            [event.id for event, _ in wanted],
            [event.tenant for event, _ in wanted],
            [pattern for _, pattern in wanted],
            straight.most,
            self._limits.per_endpoint,
            self._limits.per_destination,
            self._limits.per_process,
            dispatcher_row,
            [row for row, _ in straight.ended],
            [attempt for _, attempt in straight.ended],
            self._source,
        )
        well, looked_s = rows[0][:2]
        if looked_s >= DEAR_S:
            # A claim can begin behind what is dead there.
            self._rests_until = monotonic() + REST * looked_s
        if not well:
            return None
        sent = {event.key: event for event in events}
        stored = {(row[2], row[3]): row for row in rows if row[4] is not None}
        new = [row[4] for row in stored.values()]
        claimed = [_claimed(row, sent[row[2], row[3]], dispatcher_row) for row in rows if row[7] is not None]
        return Ingested(
            await self._ingest.answers(driver, groups, {key: row[5] for key, row in stored.items()}),
            new,
            FannedOut(len(new), len(claimed), rows=frozenset(new)),
            ClaimedBatch(claimed) if claimed else None,
        )


def _plain(events: Sequence[NewEvent]) -> bool:
    """Whether these may be born in flight, for all that can be said without the database."""
    return len({event.key for event in events}) == len(events) and all(
        event.job_id is None and (event.timestamp is None or event.timestamp.year in _YEARS) for event in events
    )


def _claimed(row: Sequence[Any], event: NewEvent, dispatcher_row: int) -> Claimed:
    return Claimed(
        delivery_row=row[7],
        endpoint_row=row[8],
        endpoint_version=row[9],
        dispatcher_row=dispatcher_row,
        attempt=1,
        failures=0,
        interruptions=0,
        lane=None,
        sequence=None,
        previous_sequence=None,
        late=False,
        replay=False,
        body_profile=row[10],
        event_id=event.id,
        event_type=event.type,
        job_id=None,
        timestamp=row[6],
        created_at=row[5],
        traceparent=event.traceparent,
        data=event.data,
        destination_row=row[11],
    )
