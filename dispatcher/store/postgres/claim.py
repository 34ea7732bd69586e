"""The claim on PostgreSQL: from what is pending to the endpoints that have room, never the other way round."""

from collections.abc import Sequence
from datetime import datetime

from dispatcher.rules.bodies import SOURCE_MARK, WITH_SOURCE
from dispatcher.store.hot import CLOCK_SLACK_S, Claimed, ClaimedBatch, Limits
from dispatcher.store.postgres.connection import Driver
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
        claimable = "d.state = 'pending' AND d.due_at IS NULL AND NOT d.waiting"
        # The same as `frozen_profile`.
        with_source = ", ".join(f"'{profile}'" for profile in WITH_SOURCE)
        frozen = f"""CASE WHEN e.profile IN ({with_source})
                            THEN e.profile || '{SOURCE_MARK}' || event_source ELSE e.profile END"""
        # A skip scan over the claim index. How many it finds the planner cannot know: without the limits it would read
        # all endpoints to join a few.
        scan = f"""
            WITH RECURSIVE heads AS (
                (SELECT d.endpoint_row FROM {name("deliveries")} d
                 WHERE {claimable} AND d.endpoint_row > behind ORDER BY d.endpoint_row LIMIT 1)
                UNION ALL
                SELECT (SELECT d.endpoint_row FROM {name("deliveries")} d
                        WHERE {claimable} AND d.endpoint_row > h.endpoint_row ORDER BY d.endpoint_row LIMIT 1)
                FROM heads h WHERE h.endpoint_row IS NOT NULL
            )
            SELECT h.endpoint_row, e.destination_row, e.rate_limit IS NOT NULL AS rated,
                   e.status = 'enabled' AND e.deleted_at IS NULL
                   AND (s.paused_until IS NULL OR s.paused_until <= at_time) AS open
            FROM (SELECT endpoint_row FROM heads WHERE endpoint_row IS NOT NULL LIMIT {WINDOW}) h
            LEFT JOIN LATERAL (
                SELECT e.destination_row, e.status, e.deleted_at, e.rate_limit FROM {name("endpoints")} e
                WHERE e.row_id = h.endpoint_row LIMIT 1) e ON true
            LEFT JOIN LATERAL (
                SELECT s.paused_until FROM {name("endpoint_state")} s
                WHERE s.endpoint_row = h.endpoint_row LIMIT 1) s ON true
        """
        take = f"""
            WITH flight AS MATERIALIZED (
                SELECT d.endpoint_row, count(*)::int AS n FROM {name("deliveries")} d
                WHERE d.state = 'sending' AND NOT EXISTS (
                    SELECT FROM unnest(ended_rows, ended_attempts) AS ended(row_id, attempt)
                    WHERE ended.row_id = d.row_id AND ended.attempt = d.attempts)
                GROUP BY d.endpoint_row
            ),
            crowd AS MATERIALIZED (
                SELECT e.destination_row, sum(f.n)::int AS n,
                       (sum(f.n) FILTER (WHERE e.job_id IS NOT NULL))::int AS callbacks FROM flight f
                JOIN {name("endpoints")} e ON e.row_id = f.endpoint_row GROUP BY e.destination_row
            ),
            home AS MATERIALIZED (
                SELECT h.row_id, h.ramp, h.verified_at IS NULL AS unverified,
                       LEAST(GREATEST(guest_rate, 1),
                             COALESCE(h.tokens, GREATEST(guest_rate, 1))
                                 + guest_rate * {_elapsed_s("h.tokens_at")}) AS tokens
                FROM {name("destinations")} h WHERE h.row_id = ANY(watched)
            ),
            endpoint AS MATERIALIZED (
                SELECT e.row_id AS endpoint_row, e.version, {frozen} AS profile, e.destination_row, e.rate_limit,
                       home.row_id IS NOT NULL AS watched,
                       -- A callback at a destination that nobody has verified, so perhaps at somebody's expense.
                       COALESCE(home.unverified AND e.job_id IS NOT NULL, false) AS guest,
                       LEAST(COALESCE(e.max_in_flight, endpoint_cap), COALESCE(s.ramp, 2147483647))
                           - COALESCE(f.n, 0) AS room,
                       -- LEAST and GREATEST pass over nulls, so an endpoint without a limit is told apart first.
                       CASE WHEN e.rate_limit IS NOT NULL THEN LEAST(
                           GREATEST(e.rate_limit, 1),
                           COALESCE(s.tokens, GREATEST(e.rate_limit, 1)) + e.rate_limit * {_elapsed_s("s.tokens_at")}
                       ) END AS tokens
                FROM unnest(chosen) AS c(row_id)
                JOIN {name("endpoints")} e ON e.row_id = c.row_id
                LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = e.row_id
                LEFT JOIN flight f ON f.endpoint_row = e.row_id
                LEFT JOIN home ON home.row_id = e.destination_row
                WHERE e.status = 'enabled' AND e.deleted_at IS NULL
                  AND (s.paused_until IS NULL OR s.paused_until <= at_time)
            ),
            candidate AS MATERIALIZED (
                SELECT endpoint.*, c.row_id, c.lane, c.sequence FROM endpoint CROSS JOIN LATERAL (
                    SELECT d.row_id, d.lane, d.sequence FROM {name("deliveries")} d
                    WHERE d.endpoint_row = endpoint.endpoint_row AND {claimable}
                      AND (d.lane IS NULL OR NOT EXISTS (
                          SELECT FROM {name("deliveries")} busy WHERE busy.lane = d.lane
                          AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending'))
                    ORDER BY d.row_id
                    LIMIT LEAST(endpoint.room, share, COALESCE(floor(endpoint.tokens), 2147483647)::int)
                    FOR NO KEY UPDATE SKIP LOCKED
                ) c WHERE endpoint.room > 0 AND (endpoint.tokens IS NULL OR endpoint.tokens >= 1)
            ),
            ranked AS (
                SELECT candidate.*,
                       row_number() OVER (PARTITION BY endpoint_row, COALESCE(lane, -row_id)
                                          ORDER BY sequence) AS in_lane,
                       row_number() OVER (PARTITION BY destination_row ORDER BY guest, row_id) AS at_destination,
                       count(*) FILTER (WHERE guest)
                           OVER (PARTITION BY destination_row ORDER BY guest, row_id) AS guests
                FROM candidate
            ),
            picked AS MATERIALIZED (
                SELECT r.row_id, r.endpoint_row, r.version, r.profile, r.tokens, r.destination_row, r.watched, r.guest
                FROM ranked r
                LEFT JOIN crowd ON crowd.destination_row = r.destination_row
                LEFT JOIN home ON home.row_id = r.destination_row
                WHERE r.in_lane = 1
                  AND r.at_destination <= LEAST(destination_cap, home.ramp) - COALESCE(crowd.n, 0)
                  AND (NOT r.guest
                       OR r.guests <= LEAST(guest_cap - COALESCE(crowd.callbacks, 0), floor(home.tokens)))
                LIMIT most
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
            SELECT next_behind, cardinality(chosen), contended, homeless, c.*
            FROM (SELECT) always LEFT JOIN (
                SELECT c.row_id, c.endpoint_row, c.version, c.dispatcher_row, c.attempts, c.failures, c.interruptions,
                       c.lane, c.sequence, c.previous_sequence, c.late, c.replay, c.body_profile,
                       e.id, e.type, e.job_id, {_within_years("e.timestamp")}, {_within_years("e.created_at")},
                       e.traceparent, e.data, c.progress_of, c.destination_row, c.watched
                FROM claimed c LEFT JOIN {name("events")} e ON e.row_id = c.event_row
            ) c ON true
            ORDER BY c.row_id
        """

        # One round trip, though three statements: each has its own snapshot, and the last must see what the former
        # holders of the locks did. The destinations' rows are the locks: whoever holds one is alone in claiming for
        # its endpoints, so caps and lanes hold over all processes. A destination that another process claims for
        # just now is skipped; of the others every endpoint gets a share first, and who could take more gets it with
        # the next claim, at once.
        self.setup = f"""
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_claim(
                behind bigint, at_time timestamptz, most int, endpoint_cap int, destination_cap int, claimer bigint,
                ended_rows bigint[], ended_attempts int[], guest_cap int, guest_rate float8,
                event_source text)
            RETURNS SETOF record LANGUAGE plpgsql AS $body$
            DECLARE
                next_behind bigint; chosen bigint[]; homes bigint[]; spending bigint[]; locked bigint[];
                paused bigint[]; watched bigint[]; homeless bigint[]; contended boolean; share int;
            BEGIN
                SELECT CASE WHEN count(*) = {WINDOW} THEN max(endpoint_row) ELSE -1 END,
                       COALESCE(array_agg(endpoint_row ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       COALESCE(array_agg(destination_row ORDER BY endpoint_row) FILTER (WHERE open), '{{}}'),
                       array_agg(endpoint_row) FILTER (WHERE open AND rated),
                       array_agg(endpoint_row) FILTER (WHERE destination_row IS NULL)
                INTO next_behind, chosen, homes, spending, homeless FROM ({scan}) scan;

                SELECT COALESCE(array_agg(row_id), '{{}}'),
                       COALESCE(array_agg(row_id) FILTER (WHERE paused_until > at_time), '{{}}'),
                       COALESCE(array_agg(row_id) FILTER (
                           WHERE verified_at IS NULL OR ramp IS NOT NULL OR failures_in_row > 0), '{{}}')
                INTO locked, paused, watched FROM (
                    SELECT * FROM {name("destinations")} WHERE row_id = ANY(homes)
                    FOR NO KEY UPDATE SKIP LOCKED) held;
                contended := NOT locked @> homes;
                IF contended OR cardinality(paused) > 0 THEN
                    SELECT COALESCE(array_agg(c.row_id), '{{}}') INTO chosen
                    FROM unnest(chosen, homes) AS c(row_id, home)
                    WHERE c.home = ANY(locked) AND NOT c.home = ANY(paused);
                END IF;
                IF spending IS NOT NULL THEN
                    -- Their tokens are spent below. In the order in which outcomes are recorded there, or each would
                    -- wait for the other.
                    PERFORM FROM {name("endpoint_state")}
                    WHERE endpoint_row = ANY(spending) AND endpoint_row = ANY(chosen)
                    ORDER BY endpoint_row FOR NO KEY UPDATE;
                END IF;
                share := GREATEST(1, ceil(most::float8 / GREATEST(1, cardinality(chosen))));

                RETURN QUERY {take};
            END $body$
        """
        self._call = """
            SELECT * FROM pg_temp.dispatcher_claim(
                $1, COALESCE($2, clock_timestamp()), $3, $4, $5, $6, $7, $8, $9, $10, $11
            ) AS c(
                next_behind bigint, chosen int, contended boolean, homeless bigint[], row_id bigint,
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
        )
        self._cursor, chosen, contended, homeless = rows[0][:4]
        deliveries = [Claimed.of(row[4:]) for row in rows] if rows[0][4] is not None else []
        share = max(1, -(-limit // max(1, chosen)))
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
