"""The function of a connection that bears deliveries in flight on PostgreSQL: inserted as claimed ones, where nothing
speaks against it.

It is the same for events that are just being stored and for those that wait in the queue (`Events`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store.postgres.looking import CLAIMABLE, FROZEN

#: What it answers: how long its looks took, its time, the events that were kept, and each delivery.
RESULT = """looked_s float8, at_time timestamptz, kept int[], kept_rows bigint[], row_id bigint, event_row bigint,
            endpoint_row bigint, version int, body_profile text, destination_row bigint"""
#: Its parameters behind those that stand for the events.
PARAMETERS = (
    "given_time timestamptz",
    "of_events int[]",
    "of_tenants text[]",
    "patterns text[]",
    "most int",
    "endpoint_cap int",
    "destination_cap int",
    "slots int",
    "claimer bigint",
    "ended_rows bigint[]",
    "ended_attempts int[]",
    "event_source text",
)


@dataclass(frozen=True, slots=True)
class Events:
    """Where the events come from, in SQL."""

    #: The function's name, and the parameters that stand for them.
    function: str
    given: tuple[str, ...]
    #: The condition that nothing waits in the queue before them.
    alone: str
    #: Statements before anything is looked at, which may return where somebody is in the way, and before anything is
    #: written.
    first: str
    before: str
    #: What keeps them, unless the dispatcher's lease has ended; it answers the `row_id` of each and what `number`, its
    #: place among those given, is found by.
    keep: str
    number: str


def bearing(name: Callable[[str], str], events: Events) -> str:
    """Makes the function. `patterns` are those of the events, with the number and tenant of the event of each."""
    # What waits for the endpoint goes first. It is looked for by its own index, since its order is asked for: not
    # through all that the endpoint was ever sent.
    waits = f"""
        SELECT d.row_id FROM {name("deliveries")} d
        WHERE {CLAIMABLE} AND d.tenant = e.tenant AND d.endpoint_row >= e.row_id AND d.endpoint_row <= e.row_id
        ORDER BY d.tenant, d.endpoint_row, d.fresh, d.row_id LIMIT 1
    """
    match = f"""
        SELECT p.no, e.row_id, e.tenant, e.version, {FROZEN} AS profile, e.destination_row,
               LEAST(COALESCE(e.max_in_flight, endpoint_cap), s.ramp, floor(s.takes)::int) AS room,
               e.status = 'enabled' AND e.rate_limit IS NULL
               AND (s.paused_until IS NULL OR s.paused_until <= at_time) AND ({waits}) IS NULL
               AND {events.alone} AS plain
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
    bear = f"""
        INSERT INTO {name("deliveries")}
            (event_row, endpoint_row, tenant, state, attempts, dispatcher_row, body_profile, created_at, updated_at)
        SELECT b.event_row, endpoints[b.place], in_tenants[b.place], 'sending', 1, claimer, profiles[b.place],
               at_time, at_time
        FROM unnest(born_of, born_for) AS b(event_row, place)
        RETURNING looked_s, at_time, kept, kept_rows, row_id, event_row, endpoint_row,
                  versions[array_position(endpoints, endpoint_row)], body_profile,
                  homes[array_position(endpoints, endpoint_row)]
    """
    # The destinations are locked as by a claim, and what is in flight is counted when they are. Before that nothing
    # is written, so what is not plain costs these looks alone. Small statements and loops: for the few rows that
    # there are, setting up the plan of a statement costs more than running it. Each is planned once, perhaps while
    # the tables are small.
    return f"""
        CREATE OR REPLACE FUNCTION pg_temp.{events.function}(
            {", ".join((*events.given, *PARAMETERS))})
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
            kept int[] := '{{}}'; kept_rows bigint[] := '{{}}'; born_of bigint[]; born_for int[];
        BEGIN
            <<plainly>> BEGIN
                {events.first}
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
                    -- At once: an event may go to ten thousand endpoints.
                    EXIT plainly WHEN cardinality(sent) > most;
                END LOOP;
                looked_s := extract(epoch FROM clock_timestamp() - began);
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
                    EXIT plainly WHEN NOT {events.alone};
                END IF;
                {events.before}
                FOR found_one IN {events.keep} LOOP
                    number := {events.number};
                    kept := kept || number;
                    kept_rows := kept_rows || found_one.row_id;
                    FOR i IN 1..cardinality(sent) LOOP
                        IF sent[i] = number THEN
                            born_of := born_of || found_one.row_id;
                            born_for := born_for || sent_to[i];
                        END IF;
                    END LOOP;
                END LOOP;
                EXIT plainly WHEN cardinality(kept_rows) = 0;
                RETURN QUERY {bear};
                IF FOUND THEN
                    RETURN;
                END IF;
            END;
            looked_s := COALESCE(looked_s, extract(epoch FROM clock_timestamp() - began));
            RETURN QUERY SELECT looked_s, at_time, kept, kept_rows, NULL::bigint, NULL::bigint, NULL::bigint,
                                NULL::int, NULL::text, NULL::bigint;
        END $body$
    """
