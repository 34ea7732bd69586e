"""Born in flight: events stored by one statement with their deliveries claimed, where nothing speaks against it.

What it makes is what storing, fanning out and claiming would have made; whatever is not plain goes that way.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from dispatcher.rules.event_types import patterns_for
from dispatcher.rules.new_events import NewEvent
from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store.hot import Claimed, ClaimedBatch, FannedOut, Limits
from dispatcher.store.ingest import Group, Ingested, Straight, in_order, independent
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.ingest import Ingest
from dispatcher.store.postgres.looking import CLAIMABLE, FROZEN
from dispatcher.store.postgres.marks import DEAR_S, REST
from dispatcher.store.tables import FANNED_OUT, QUIET, Tables

#: The years whose moments every driver reads, with a day to spare at either end.
_YEARS = range(2, 9999)

_RESULT = """looked_s float8, stored_at timestamptz, new_ids text[], new_rows bigint[], row_id bigint, event_row bigint,
             endpoint_row bigint, version int, body_profile text, destination_row bigint"""


class Born:
    """The statement, for one set of tables."""

    def __init__(self, tables: Tables, limits: Limits, ingest: Ingest, *, source: str) -> None:
        name = tables.name
        self._limits = limits
        self._ingest = ingest
        self._source = source
        self._dear = False
        self._rests_until = 0.0
        # What waits for the endpoint, or in the queue, goes first. Each is looked for by its own index, since its
        # order is asked for: not through all that the endpoint was ever sent, nor through all that is dead.
        waits = f"""
            SELECT d.row_id FROM {name("deliveries")} d
            WHERE {CLAIMABLE} AND d.endpoint_row >= e.row_id AND d.endpoint_row <= e.row_id
            ORDER BY d.endpoint_row, d.fresh, d.row_id LIMIT 1
        """
        queued = f"SELECT event_row FROM {name('fanout_queue')} ORDER BY tenant, event_row LIMIT 1"
        match = f"""
            SELECT p.no, e.row_id, e.tenant, e.version, {FROZEN} AS profile, e.destination_row,
                   LEAST(COALESCE(e.max_in_flight, endpoint_cap), s.ramp, floor(s.takes)::int) AS room,
                   e.status = 'enabled' AND e.rate_limit IS NULL
                   AND (s.paused_until IS NULL OR s.paused_until <= at_time) AND ({waits}) IS NULL
                   AND ({queued}) IS NULL AS plain
            FROM unnest(of_events, of_tenants, patterns) AS p(no, tenant, pattern)
            JOIN {name("subscriptions")} b ON b.tenant = p.tenant AND b.pattern = p.pattern AND b.job_id = ''
            JOIN {name("endpoints")} e ON e.row_id = b.endpoint_row
            LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = e.row_id
            WHERE e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL
              AND (e.expires_at IS NULL OR e.expires_at > at_time)
        """
        # Those that are well, so that what comes of an attempt needs no note.
        lock = f"""
            {name("destinations")}
            WHERE row_id = homes[i] AND verified_at IS NOT NULL AND ramp IS NULL AND failures_in_row = 0
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
                UNION ALL SELECT row_id, n FROM unnest(endpoints, wanted) AS w(row_id, n)
            ) f JOIN {name("endpoints")} e ON e.row_id = f.row_id
            WHERE e.destination_row = ANY(homes) GROUP BY e.destination_row HAVING sum(f.n) > destination_cap
        """
        ended = f"""
            SELECT FROM {name("endpoints")} e LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = e.row_id
            WHERE e.row_id = ANY(endpoints)
              AND (e.status <> 'enabled' OR e.deleted_at IS NOT NULL OR s.paused_until > at_time)
        """
        store = f"""
            INSERT INTO {name("events")} (id, tenant, type, data, kind, timestamp, traceparent, created_at)
            SELECT e.id, e.tenant, e.type, e.data, e.kind, COALESCE(e.at, at_time), e.traceparent, at_time
            FROM unnest(ids, tenants, types, datas, kinds, moments, traceparents)
                 AS e(id, tenant, type, data, kind, at, traceparent)
            WHERE EXISTS (SELECT FROM {name("dispatchers")} me
                          WHERE me.row_id = claimer AND me.leased_until > at_time)
            ON CONFLICT (tenant, id) DO NOTHING RETURNING row_id, id
        """
        bear = f"""
            INSERT INTO {name("deliveries")}
                (event_row, endpoint_row, tenant, state, attempts, dispatcher_row, body_profile, created_at, updated_at)
            SELECT b.event_row, endpoints[b.place], in_tenants[b.place], 'sending', 1, claimer, profiles[b.place],
                   at_time, at_time
            FROM unnest(born_of, born_for) AS b(event_row, place)
            RETURNING looked_s, at_time, new_ids, new_rows, row_id, event_row, endpoint_row,
                      versions[array_position(endpoints, endpoint_row)], body_profile,
                      homes[array_position(endpoints, endpoint_row)]
        """
        # The destinations are locked as by a claim, and what is in flight is counted when they are. Before that nothing
        # is written, so what is not plain costs these looks alone. Small statements and loops: for the few rows that
        # there are, setting up the plan of a statement costs more than running it. Each is planned once, perhaps while
        # the tables are small.
        self.setup = f"""
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_bear(
                ids text[], tenants text[], types text[], datas text[], kinds text[], moments timestamptz[],
                traceparents text[], given_time timestamptz, of_events int[], of_tenants text[], patterns text[],
                most int, endpoint_cap int, destination_cap int, slots int, claimer bigint,
                ended_rows bigint[], ended_attempts int[], event_source text)
            RETURNS SETOF record LANGUAGE plpgsql
            SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $body$
            DECLARE
                began timestamptz := clock_timestamp(); at_time timestamptz := COALESCE(given_time, began);
                seen_at text := pg_current_snapshot()::text; looked_s float8; found_one record; place int; number int;
                -- By place: an endpoint, its fields, and how many it is sent.
                endpoints bigint[] := '{{}}'; in_tenants text[]; versions int[]; profiles text[]; homes bigint[];
                rooms int[]; wanted int[];
                -- What is sent: an event, by its number, to an endpoint, by its place.
                sent int[] := '{{}}'; sent_to int[] := '{{}}';
                flying bigint[]; flying_n int[]; flying_all int := 0; flying_mine int := 0;
                new_ids text[] := '{{}}'; new_rows bigint[] := '{{}}'; born_of bigint[]; born_for int[];
            BEGIN
                <<plainly>> BEGIN
                    FOR found_one IN {match} LOOP
                        EXIT plainly WHEN NOT found_one.plain;
                        place := array_position(endpoints, found_one.row_id);
                        IF place IS NULL THEN
                            endpoints := endpoints || found_one.row_id;
                            in_tenants := in_tenants || found_one.tenant;
                            versions := versions || found_one.version;
                            profiles := profiles || found_one.profile;
                            homes := homes || found_one.destination_row;
                            rooms := rooms || found_one.room;
                            wanted := wanted || 0;
                            place := cardinality(endpoints);
                        ELSE
                            -- It may match by several patterns.
                            FOR i IN 1..cardinality(sent) LOOP
                                IF sent[i] = found_one.no AND sent_to[i] = place THEN
                                    place := NULL;
                                    EXIT;
                                END IF;
                            END LOOP;
                            CONTINUE WHEN place IS NULL;
                        END IF;
                        wanted[place] := wanted[place] + 1;
                        sent := sent || found_one.no;
                        sent_to := sent_to || place;
                    END LOOP;
                    looked_s := extract(epoch FROM clock_timestamp() - began);
                    EXIT plainly WHEN cardinality(sent) > most;
                    IF cardinality(endpoints) > 0 THEN
                        FOR i IN 1..cardinality(homes) LOOP
                            CONTINUE WHEN homes[i] = ANY(homes[:i - 1]);
                            PERFORM FROM {lock};
                            EXIT plainly WHEN NOT FOUND;
                        END LOOP;
                        began := clock_timestamp();
                        at_time := COALESCE(given_time, began);
                        FOR found_one IN {flight} LOOP
                            flying := flying || found_one.endpoint_row;
                            flying_n := flying_n || found_one.n;
                            flying_all := flying_all + found_one.n;
                            flying_mine := flying_mine + found_one.mine;
                            place := array_position(endpoints, found_one.endpoint_row);
                            IF place IS NOT NULL THEN
                                rooms[place] := rooms[place] - found_one.n;
                            END IF;
                        END LOOP;
                        looked_s := looked_s + extract(epoch FROM clock_timestamp() - began);
                        IF pg_current_snapshot()::text <> seen_at THEN
                            -- Whose outcome has made room may have asked to be left alone.
                            EXIT plainly WHEN EXISTS ({ended});
                        END IF;
                        FOR i IN 1..cardinality(endpoints) LOOP
                            EXIT plainly WHEN wanted[i] > rooms[i];
                        END LOOP;
                        EXIT plainly WHEN slots - flying_mine - cardinality(sent) < slots / {KEPT_ONE_IN};
                        IF flying_all + cardinality(sent) > destination_cap THEN
                            EXIT plainly WHEN EXISTS ({crowded});
                        END IF;
                    ELSE
                        EXIT plainly WHEN ({queued}) IS NOT NULL;
                    END IF;
                    PERFORM set_config('{QUIET}', '{FANNED_OUT}', true);
                    FOR found_one IN {store} LOOP
                        new_ids := new_ids || found_one.id;
                        new_rows := new_rows || found_one.row_id;
                        number := array_position(ids, found_one.id);
                        FOR i IN 1..cardinality(sent) LOOP
                            IF sent[i] = number THEN
                                born_of := born_of || found_one.row_id;
                                born_for := born_for || sent_to[i];
                            END IF;
                        END LOOP;
                    END LOOP;
                    EXIT plainly WHEN cardinality(new_rows) = 0;
                    RETURN QUERY {bear};
                    IF FOUND THEN
                        RETURN;
                    END IF;
                END;
                looked_s := COALESCE(looked_s, extract(epoch FROM clock_timestamp() - began));
                RETURN QUERY SELECT looked_s, at_time, new_ids, new_rows, NULL::bigint, NULL::bigint, NULL::bigint,
                                    NULL::int, NULL::text, NULL::bigint;
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
        wanted = [
            (number, event.tenant, pattern)
            for number, event in enumerate(events, 1)
            for pattern in patterns_for(event.type)
        ]
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
            [number for number, _, _ in wanted],
            [tenant for _, tenant, _ in wanted],
            [pattern for _, _, pattern in wanted],
            straight.most,
            self._limits.per_endpoint,
            self._limits.per_destination,
            self._limits.per_process,
            dispatcher_row,
            [row for row, _ in straight.ended],
            [attempt for _, attempt in straight.ended],
            self._source,
        )
        looked_s, stored_at, new_ids, new = rows[0][:4]
        dear, self._dear = self._dear, looked_s >= DEAR_S
        if dear and self._dear:
            # Not once, by chance. The ordinary statements can begin behind what is dead there.
            self._rests_until = monotonic() + REST * looked_s
        if not new:
            return None
        by_id = {event.id: event for event in events}
        by_row = {row: by_id[event_id] for row, event_id in zip(new, new_ids, strict=True)}
        claimed = [_claimed(row[4:], by_row[row[5]], dispatcher_row, stored_at) for row in rows if row[4] is not None]
        return Ingested(
            await self._ingest.answers(driver, groups, {event.key: stored_at for event in by_row.values()}),
            new,
            FannedOut(
                len(new),
                len(claimed),
                rows=frozenset(new),
                ids=new_ids,
                claimed=ClaimedBatch(claimed) if claimed else None,
            ),
        )


def _plain(events: Sequence[NewEvent]) -> bool:
    """Whether these may be born in flight, for all that can be said without the database."""
    return len({event.id for event in events}) == len(events) and all(
        event.job_id is None and (event.timestamp is None or event.timestamp.year in _YEARS) for event in events
    )


def _claimed(row: Sequence[Any], event: NewEvent, dispatcher_row: int, stored_at: datetime) -> Claimed:
    delivery_row, _, endpoint_row, version, body_profile, destination_row = row
    return Claimed(
        delivery_row=delivery_row,
        endpoint_row=endpoint_row,
        endpoint_version=version,
        dispatcher_row=dispatcher_row,
        attempt=1,
        failures=0,
        interruptions=0,
        lane=None,
        sequence=None,
        previous_sequence=None,
        late=False,
        replay=False,
        body_profile=body_profile,
        event_id=event.id,
        event_type=event.type,
        job_id=None,
        # As the database would say it.
        timestamp=stored_at if event.timestamp is None else event.timestamp.astimezone(UTC),
        created_at=stored_at,
        traceparent=event.traceparent,
        data=event.data,
        destination_row=destination_row,
    )
