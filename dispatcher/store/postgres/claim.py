"""The claim on PostgreSQL: from what is pending to the endpoints that have room, never the other way round."""

from collections.abc import Sequence
from datetime import datetime

from dispatcher.rules.bodies import SOURCE_MARK, WITH_SOURCE
from dispatcher.rules.sharing import AGAIN_SHARE, KEPT_ONE_IN, SPIN, dice
from dispatcher.store.hot import CLOCK_SLACK_S, Claimed, ClaimedBatch, Limits
from dispatcher.store.postgres.connection import Driver
from dispatcher.store.postgres.looking import CLAIMABLE, UNSEEN_S, firsts, flight, from_on, scan
from dispatcher.store.postgres.marks import Looks, Marks, Place
from dispatcher.store.tables import Tables

#: Endpoints looked at in one claim; the next claim goes on behind them.
WINDOW = 200


def _elapsed_s(tokens_at: str) -> str:
    """Seconds in which tokens were earned; more than enough of them where the clock was set back since."""
    return f"""CASE WHEN {tokens_at} > at_time + interval '{CLOCK_SLACK_S} s' THEN 1e9
                    ELSE GREATEST(0, extract(epoch FROM at_time - COALESCE({tokens_at}, 'epoch'))) END"""


class Claim:
    """The statement of the claim, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables, limits: Limits, *, source: str) -> None:
        name = tables.name
        self._limits = limits
        self._source = source
        self._cursor = -1
        self._claims = 0
        self.looks = Looks()
        self.marks: Marks[Place] = Marks()
        #: The earliest claim that may be in flight, as a Unix time; null: anything.
        self.flight_since: float | None = None
        # The same as `frozen_profile`.
        with_source = ", ".join(f"'{profile}'" for profile in WITH_SOURCE)
        frozen = f"""CASE WHEN e.profile IN ({with_source})
                            THEN e.profile || '{SOURCE_MARK}' || event_source ELSE e.profile END"""

        def waiting(fresh: bool) -> str:
            return f"""
                SELECT d.row_id, d.lane, d.sequence FROM {name("deliveries")} d
                WHERE {CLAIMABLE} AND d.endpoint_row = allowed.endpoint_row
                  AND {from_on(str(fresh), "allowed.fresh_from" if fresh else "allowed.again_from")}
                  AND (d.lane IS NULL OR NOT EXISTS (
                      SELECT FROM {name("deliveries")} busy WHERE busy.lane = d.lane
                      AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending'))
                ORDER BY d.fresh, d.row_id
            """

        # As `in_turn` has it.
        def goes(left: str) -> str:
            return f"({left} > kept OR (place <= {left} AND ({left} > kept / 2 OR turn <= {left})))"

        take = f"""
            WITH flight AS MATERIALIZED (
                SELECT f.*, e.destination_row, e.tenant, e.job_id IS NOT NULL AS callback
                FROM unnest(flying, flying_n, flying_mine) AS f(endpoint_row, n, mine)
                LEFT JOIN {name("endpoints")} e ON e.row_id = f.endpoint_row
            ),
            crowd AS MATERIALIZED (
                SELECT destination_row, sum(n)::int AS n, (sum(n) FILTER (WHERE callback))::int AS callbacks
                FROM flight GROUP BY destination_row
            ),
            held AS MATERIALIZED (SELECT tenant, sum(mine)::int AS n FROM flight WHERE mine > 0 GROUP BY tenant),
            vacant AS MATERIALIZED (SELECT slots - COALESCE(sum(mine), 0) AS slots_left FROM flight),
            home AS MATERIALIZED (
                SELECT h.row_id, h.ramp, h.verified_at IS NULL AS unverified,
                       LEAST(GREATEST(guest_rate, 1),
                             COALESCE(h.tokens, GREATEST(guest_rate, 1))
                                 + guest_rate * {_elapsed_s("h.tokens_at")}) AS tokens
                FROM {name("destinations")} h WHERE h.row_id = ANY(watched)
            ),
            endpoint AS MATERIALIZED (
                SELECT e.row_id AS endpoint_row, e.version, {frozen} AS profile, e.destination_row, e.tenant,
                       c.fresh_from, c.again_from, COALESCE(f.mine, 0) AS mine,
                       home.row_id IS NOT NULL AS watched,
                       -- A callback at a destination that nobody has verified, so perhaps at somebody's expense.
                       COALESCE(home.unverified AND e.job_id IS NOT NULL, false) AS guest,
                       LEAST(
                           LEAST(COALESCE(e.max_in_flight, endpoint_cap), s.ramp, floor(s.takes)::int)
                               - COALESCE(f.n, 0),
                           LEAST(destination_cap, home.ramp) - COALESCE(crowd.n, 0),
                           CASE WHEN home.unverified AND e.job_id IS NOT NULL
                                THEN LEAST(guest_cap - COALESCE(crowd.callbacks, 0), floor(home.tokens)::int) END
                       ) AS room,
                       -- LEAST and GREATEST pass over nulls, so an endpoint without a limit is told apart first.
                       CASE WHEN e.rate_limit IS NOT NULL THEN LEAST(
                           GREATEST(e.rate_limit, 1),
                           COALESCE(s.tokens, GREATEST(e.rate_limit, 1)) + e.rate_limit * {_elapsed_s("s.tokens_at")}
                       ) END AS tokens
                FROM unnest(chosen, fresh_froms, again_froms) AS c(row_id, fresh_from, again_from)
                JOIN {name("endpoints")} e ON e.row_id = c.row_id
                LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = e.row_id
                LEFT JOIN flight f ON f.endpoint_row = e.row_id
                LEFT JOIN home ON home.row_id = e.destination_row
                LEFT JOIN crowd ON crowd.destination_row = e.destination_row
                WHERE e.status = 'enabled' AND e.deleted_at IS NULL
                  AND (s.paused_until IS NULL OR s.paused_until <= at_time)
            ),
            portion AS MATERIALIZED (
                SELECT GREATEST(1, ceil(most::float8 / GREATEST(1, count(*))))::int AS share FROM endpoint
                WHERE room > 0 AND (tokens IS NULL OR tokens >= 1)
            ),
            -- Each of them gives one at least, so no more of them are looked at than may go: those whose turn it is.
            allowed AS MATERIALIZED (
                SELECT able.*, LEAST(room, share, floor(tokens)::int) AS count
                FROM vacant, portion, (
                    SELECT open.*, mine + 1 AS place,
                           row_number() OVER (PARTITION BY open.tenant ORDER BY mine, endpoint_row # spin)
                               + COALESCE(held.n, 0) AS turn
                    FROM endpoint open LEFT JOIN held ON held.tenant = open.tenant
                    WHERE room > 0 AND (tokens IS NULL OR tokens >= 1)
                ) able
                WHERE {goes("slots_left")}
                ORDER BY turn, mine, endpoint_row # spin LIMIT most
            ),
            candidate AS MATERIALIZED (
                SELECT allowed.endpoint_row, allowed.version, allowed.profile, allowed.destination_row, allowed.tenant,
                       allowed.watched, allowed.guest, allowed.tokens,
                       c.row_id, c.lane, c.sequence, allowed.mine + c.nth AS place
                FROM allowed CROSS JOIN LATERAL (
                    WITH fresh AS MATERIALIZED ({waiting(True)} LIMIT allowed.count FOR NO KEY UPDATE SKIP LOCKED),
                    again AS MATERIALIZED (
                        {waiting(False)}
                        LIMIT GREATEST(allowed.count - (SELECT count(*) FROM fresh),
                                       floor(allowed.count * {AGAIN_SHARE}::float8 + dice)::int)
                        FOR NO KEY UPDATE SKIP LOCKED
                    )
                    SELECT f.*, row_number() OVER (ORDER BY fresh, row_id) AS nth
                    FROM (SELECT again.*, false AS fresh FROM again UNION ALL SELECT fresh.*, true FROM fresh) f
                    ORDER BY nth LIMIT allowed.count
                ) c
            ),
            heads AS (
                SELECT candidate.*, row_number() OVER (PARTITION BY endpoint_row, COALESCE(lane, -row_id)
                                                       ORDER BY sequence) AS in_lane
                FROM candidate
            ),
            ranked AS (
                SELECT heads.*,
                       row_number() OVER (PARTITION BY destination_row ORDER BY guest, place, row_id) AS at_destination,
                       count(*) FILTER (WHERE guest)
                           OVER (PARTITION BY destination_row ORDER BY guest, place, row_id) AS guests
                FROM heads WHERE in_lane = 1
            ),
            -- Tenants first, then endpoints; and some slots are kept.
            turns AS (
                SELECT r.row_id, r.endpoint_row, r.version, r.profile, r.tokens, r.destination_row, r.watched, r.guest,
                       r.place, row_number() OVER (PARTITION BY r.tenant ORDER BY r.place, r.row_id)
                           + COALESCE(held.n, 0) AS turn
                FROM ranked r
                LEFT JOIN crowd ON crowd.destination_row = r.destination_row
                LEFT JOIN home ON home.row_id = r.destination_row
                LEFT JOIN held ON held.tenant = r.tenant
                WHERE r.at_destination <= LEAST(destination_cap, home.ramp) - COALESCE(crowd.n, 0)
                  AND (NOT r.guest
                       OR r.guests <= LEAST(guest_cap - COALESCE(crowd.callbacks, 0), floor(home.tokens)))
            ),
            queue AS (
                SELECT turns.*, slots_left - row_number() OVER (ORDER BY turn, place, row_id) + 1 AS free
                FROM vacant, turns WHERE {goes("slots_left")}
            ),
            picked AS MATERIALIZED (
                SELECT q.* FROM queue q WHERE {goes("q.free")} ORDER BY q.free DESC LIMIT most
            ),
            spent AS (
                UPDATE {name("endpoint_state")} s
                SET tokens = p.tokens - p.n, tokens_at = at_time
                FROM (SELECT endpoint_row, min(tokens) AS tokens, count(*) AS n FROM picked
                      WHERE tokens IS NOT NULL GROUP BY endpoint_row) p
                WHERE s.endpoint_row = p.endpoint_row
            ),
            spent_by_guests AS (
                UPDATE {name("destinations")} h
                SET tokens = home.tokens - p.n, tokens_at = at_time
                FROM (SELECT destination_row, count(*) AS n FROM picked WHERE guest GROUP BY destination_row) p
                JOIN home ON home.row_id = p.destination_row
                WHERE h.row_id = p.destination_row
            ),
            claimed AS (
                UPDATE {name("deliveries")} d
                SET state = 'sending', attempts = d.attempts + 1, dispatcher_row = claimer,
                    updated_at = at_time, attempted_at = CASE WHEN d.progress_of IS NOT NULL THEN at_time END,
                    body_profile = COALESCE(d.body_profile, p.profile),
                    previous_sequence = CASE WHEN d.lane IS NULL OR d.previous_sequence IS NOT NULL
                        THEN d.previous_sequence ELSE COALESCE((
                            SELECT b.sequence FROM {name("deliveries")} b
                            WHERE b.lane = d.lane AND b.endpoint_row = d.endpoint_row AND b.sequence < d.sequence
                              AND b.lane IS NOT NULL AND b.attempts > 0 ORDER BY b.sequence DESC LIMIT 1), 0) END
                FROM picked p WHERE d.row_id = p.row_id
                  AND EXISTS (SELECT FROM {name("dispatchers")} me
                              WHERE me.row_id = claimer AND me.leased_until > at_time)
                RETURNING d.row_id, d.endpoint_row, p.version, d.dispatcher_row, d.attempts, d.failures,
                          d.interruptions, d.lane, d.sequence, d.previous_sequence, d.late, d.replay,
                          d.body_profile, d.event_row, d.progress_of, p.destination_row,
                          p.watched
            )
            SELECT next_behind, cardinality(chosen), share, contended, homeless, looked_s,
                   extract(epoch FROM flight_since)::float8,
                   -- With the first row only: they are the same for all.
                   CASE WHEN row_number() OVER in_order = 1 THEN seen END,
                   CASE WHEN row_number() OVER in_order = 1 THEN seen_fresh END,
                   CASE WHEN row_number() OVER in_order = 1 THEN seen_again END, c.*
            FROM portion LEFT JOIN (
                SELECT c.row_id, c.endpoint_row, c.version, c.dispatcher_row, c.attempts, c.failures, c.interruptions,
                       c.lane, c.sequence, c.previous_sequence, c.late, c.replay, c.body_profile,
                       e.id, e.type, e.job_id, {_within_years("e.timestamp")}, {_within_years("e.created_at")},
                       e.traceparent, e.data, c.progress_of, c.destination_row, c.watched
                FROM claimed c LEFT JOIN {name("events")} e ON e.row_id = c.event_row
            ) c ON true
            WINDOW in_order AS (ORDER BY c.row_id) ORDER BY c.row_id
        """

        # One round trip, though several statements: each has its own snapshot, and the last must see what the former
        # holders of the locks did. The destinations' rows are the locks: whoever holds one is alone in claiming for
        # its endpoints, so caps and lanes hold over all processes. A destination that another process claims for
        # just now is skipped; of the others every endpoint gets a share first, and who could take more gets it with
        # the next claim, at once.
        self.setup = f"""
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_claim(
                behind bigint, at_time timestamptz, most int, endpoint_cap int, destination_cap int, claimer bigint,
                ended_rows bigint[], ended_attempts int[], guest_cap int, guest_rate float8,
                event_source text, slots int, dice float8,
                marked bigint[], marked_fresh boolean[], marks bigint[], flight_since timestamptz)
            RETURNS SETOF record LANGUAGE plpgsql AS $body$
            DECLARE
                next_behind bigint; chosen bigint[]; fresh_froms bigint[]; again_froms bigint[]; homes bigint[];
                spending bigint[]; locked bigint[]; paused bigint[]; watched bigint[]; homeless bigint[];
                seen bigint[]; seen_fresh bigint[]; seen_again bigint[]; contended boolean;
                flying bigint[]; flying_n int[]; flying_mine int[];
                began timestamptz := clock_timestamp(); looked_s float8;
                kept int := slots / {KEPT_ONE_IN}; spin bigint := trunc(dice * {SPIN}.0)::bigint;
            BEGIN
                SELECT CASE WHEN bool_or(more) THEN max(endpoint_row) ELSE -1 END,
                       COALESCE(array_agg(endpoint_row ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       COALESCE(array_agg(fresh_from ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       COALESCE(array_agg(again_from ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       COALESCE(array_agg(destination_row ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       array_agg(endpoint_row) FILTER (WHERE open AND rated),
                       array_agg(endpoint_row) FILTER (WHERE live AND destination_row IS NULL),
                       array_agg(endpoint_row ORDER BY endpoint_row) FILTER (WHERE live),
                       array_agg(fresh_from ORDER BY endpoint_row) FILTER (WHERE live),
                       array_agg(again_from ORDER BY endpoint_row) FILTER (WHERE live)
                INTO next_behind, chosen, fresh_froms, again_froms, homes, spending, homeless,
                     seen, seen_fresh, seen_again
                FROM ({scan(name, WINDOW)}) scan;
                looked_s := extract(epoch FROM clock_timestamp() - began);

                SELECT COALESCE(array_agg(row_id), '{{}}'),
                       COALESCE(array_agg(row_id) FILTER (WHERE paused_until > at_time), '{{}}'),
                       COALESCE(array_agg(row_id) FILTER (
                           WHERE verified_at IS NULL OR ramp IS NOT NULL OR failures_in_row > 0), '{{}}')
                INTO locked, paused, watched FROM (
                    SELECT * FROM {name("destinations")} WHERE row_id = ANY(homes)
                    FOR NO KEY UPDATE SKIP LOCKED) held;
                contended := NOT locked @> homes;
                IF contended OR cardinality(paused) > 0 THEN
                    SELECT COALESCE(array_agg(c.row_id), '{{}}'), COALESCE(array_agg(c.fresh_from), '{{}}'),
                           COALESCE(array_agg(c.again_from), '{{}}')
                    INTO chosen, fresh_froms, again_froms
                    FROM unnest(chosen, fresh_froms, again_froms, homes) AS c(row_id, fresh_from, again_from, home)
                    WHERE c.home = ANY(locked) AND NOT c.home = ANY(paused);
                END IF;
                IF spending IS NOT NULL THEN
                    -- Their tokens are spent below. In the order in which outcomes are recorded there, or each would
                    -- wait for the other.
                    PERFORM FROM {name("endpoint_state")}
                    WHERE endpoint_row = ANY(spending) AND endpoint_row = ANY(chosen)
                    ORDER BY endpoint_row FOR NO KEY UPDATE;
                END IF;
                began := clock_timestamp();
                SELECT array_agg(f.endpoint_row), array_agg(f.n), array_agg(f.mine),
                       LEAST(min(f.since), at_time) - interval '{UNSEEN_S} s'
                INTO flying, flying_n, flying_mine, flight_since FROM ({flight(name)}) f;
                looked_s := looked_s + extract(epoch FROM clock_timestamp() - began);

                RETURN QUERY {take};
            END $body$
        """
        self._call = """
            SELECT * FROM pg_temp.dispatcher_claim(
                $1, COALESCE($2, clock_timestamp()), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                COALESCE(to_timestamp($17::float8), '-infinity')
            ) AS c(
                next_behind bigint, chosen int, share int, contended boolean, homeless bigint[], looked_s float8,
                flight_since float8, seen bigint[], seen_fresh bigint[], seen_again bigint[], row_id bigint,
                endpoint_row bigint, version int, dispatcher_row bigint, attempts int, failures int, interruptions int,
                lane bigint, sequence bigint, previous_sequence bigint, late boolean, replay boolean, body_profile text,
                id text, type text, job_id text, "timestamp" timestamptz, created_at timestamptz, traceparent text,
                data text,
                progress_of bigint, destination_row bigint, watched boolean)
        """

    async def run(
        self,
        driver: Driver,
        limit: int,
        dispatcher_row: int,
        now: datetime | None,
        ended: Sequence[tuple[int, int]],
    ) -> ClaimedBatch:
        """Claims for a window of endpoints; the next claim looks behind it."""
        in_full = self.looks.in_full()
        marks = [] if in_full else self.marks.behind((self._cursor, True), WINDOW)
        self.marks.looking()
        rows = await driver.fetch(
            self._call,
            self._cursor,
            now,
            limit,
            self._limits.per_endpoint,
            self._limits.per_destination,
            dispatcher_row,
            [row for row, _ in ended],
            [attempt for _, attempt in ended],
            self._limits.per_unverified,
            self._limits.unverified_rate,
            self._source,
            self._limits.per_process,
            dice(self._claims + 1),
            [endpoint_row for (endpoint_row, _), _ in marks],
            [fresh for (_, fresh), _ in marks],
            [row for _, row in marks],
            None if in_full else self.flight_since,
        )
        self._cursor, chosen, share, contended, homeless, looked_s, self.flight_since, *seen = rows[0][:10]
        if in_full:
            self.looks.took(looked_s)
        if seen[0] is not None:
            self.marks.begin(firsts(*seen))
        # Of those only that had a choice.
        self._claims += chosen > 0
        deliveries = [Claimed.of(row[10:]) for row in rows] if rows[0][10] is not None else []
        self.looks.left(len(deliveries))
        return ClaimedBatch(
            deliveries,
            limited=self._cursor != -1 or len(deliveries) >= min(limit, share),
            starved=chosen > 0 or contended,
            contended=contended,
            homeless=homeless or (),
        )


def _within_years(moment: str) -> str:
    # The driver cannot read others, and their row would be lost with all that were claimed beside it.
    return f"CASE WHEN {moment} BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 00:00:00+00' THEN {moment} END"
