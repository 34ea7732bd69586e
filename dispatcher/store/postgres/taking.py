"""Taking what was decided on PostgreSQL: the deliveries of each endpoint that go, and what is sent of them.

Parts of the claim's function, which use its variables.
"""

from collections.abc import Callable

from dispatcher.rules.sharing import AGAIN_SHARE
from dispatcher.store.postgres.looking import CLAIMABLE, from_on

#: What the claim answers of itself, in its first row.
ABOUT = {
    "next_behind": "bigint",
    "next_of": "text",
    "others": "text[]",
    "others_at": "bigint[]",
    "hungry": "int",
    "portion": "int",
    "given": "int",
    "contended": "boolean",
    "homeless": "bigint[]",
    "looked_s": "float8",
    "flight_since": "float8",
    "seen": "bigint[]",
    "seen_fresh": "bigint[]",
    "seen_again": "bigint[]",
}
#: What it answers of each delivery, in the order of the fields of `Claimed`.
TAKEN = {
    "row_id": "bigint",
    "endpoint_row": "bigint",
    "version": "int",
    "dispatcher_row": "bigint",
    "attempts": "int",
    "failures": "int",
    "interruptions": "int",
    "lane": "bigint",
    "sequence": "bigint",
    "previous_sequence": "bigint",
    "late": "boolean",
    "replay": "boolean",
    "body_profile": "text",
    "id": "text",
    "type": "text",
    "job_id": "text",
    "timestamp": "timestamptz",
    "created_at": "timestamptz",
    "traceparent": "text",
    "data": "text",
    "progress_of": "bigint",
    "destination_row": "bigint",
    "watched": "boolean",
}


def about() -> str:
    """The first row alone."""
    itself = ", ".join("extract(epoch FROM flight_since)::float8" if one == "flight_since" else one for one in ABOUT)
    return f"SELECT {itself}, {', '.join(f'NULL::{column}' for column in TAKEN.values())}"


def take(name: Callable[[str], str], *, plain: bool = False) -> str:
    """The first row, and behind it what is claimed: of the endpoints at the places `going` so many each as `going_n`.

    `plain`: nothing goes again, and no tokens are taken, neither from an endpoint whose rate is limited nor from what
    callbacks may be sent at an unverified destination.
    """

    def waiting(fresh: bool) -> str:
        return f"""
            SELECT d.row_id, d.lane, d.sequence FROM {name("deliveries")} d
            WHERE {CLAIMABLE} AND d.tenant = allowed.tenant AND d.endpoint_row = allowed.endpoint_row
              AND {from_on(str(fresh), "allowed.fresh_from" if fresh else "allowed.again_from")}
              AND (d.lane IS NULL OR NOT EXISTS (
                  SELECT FROM {name("deliveries")} busy WHERE busy.lane = d.lane
                  AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending'))
            ORDER BY d.fresh, d.row_id
        """

    spent = f"""
        spent AS (
            UPDATE {name("endpoint_state")} s SET tokens = p.tokens - p.n, tokens_at = at_time
            FROM (SELECT endpoint_row, min(tokens) AS tokens, count(*) AS n FROM head
                  WHERE in_lane = 1 AND tokens IS NOT NULL GROUP BY endpoint_row) p
            WHERE s.endpoint_row = p.endpoint_row
        ),
        spent_by_guests AS (
            UPDATE {name("destinations")} h SET tokens = home.tokens - p.n, tokens_at = at_time
            FROM (SELECT destination_row, count(*) AS n FROM head
                  WHERE in_lane = 1 AND callback GROUP BY destination_row) p
            JOIN unnest(watched, unverified, home_tokens) AS home(row_id, unverified, tokens)
                ON home.row_id = p.destination_row AND home.unverified
            WHERE h.row_id = p.destination_row
        ),
    """
    fresh = f"{waiting(True)} LIMIT allowed.n FOR NO KEY UPDATE SKIP LOCKED"
    both = f"""
        WITH fresh AS MATERIALIZED ({fresh}),
        again AS MATERIALIZED (
            {waiting(False)}
            LIMIT GREATEST(allowed.n - (SELECT count(*) FROM fresh),
                           floor(allowed.n * {AGAIN_SHARE}::float8 + dice)::int)
            FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT * FROM again UNION ALL SELECT * FROM fresh LIMIT allowed.n
    """
    return f"""
        WITH allowed AS MATERIALIZED (
            SELECT chosen[a.i] AS endpoint_row, tenants[a.i] AS tenant, fresh_froms[a.i] AS fresh_from,
                   again_froms[a.i] AS again_from,
                   versions[a.i] AS version, profiles[a.i] AS profile, homes[a.i] AS destination_row,
                   homes[a.i] = ANY(watched) AS watched, callbacks[a.i] AS callback, allowances[a.i] AS tokens, a.n
            FROM unnest(going, going_n) AS a(i, n)
        ),
        candidate AS MATERIALIZED (
            SELECT allowed.endpoint_row, allowed.version, allowed.profile, allowed.destination_row, allowed.watched,
                   allowed.callback, allowed.tokens, c.row_id, c.lane, c.sequence
            FROM allowed CROSS JOIN LATERAL ({fresh if plain else both}) c
        ),
        head AS MATERIALIZED (
            SELECT candidate.*, row_number() OVER (PARTITION BY endpoint_row, COALESCE(lane, -row_id)
                                                   ORDER BY sequence) AS in_lane
            FROM candidate
        ),
        {"" if plain else spent}
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
            FROM head p WHERE p.in_lane = 1 AND d.row_id = p.row_id
              AND EXISTS (SELECT FROM {name("dispatchers")} me
                          WHERE me.row_id = claimer AND me.leased_until > at_time)
            RETURNING d.row_id, d.endpoint_row, p.version, d.dispatcher_row, d.attempts, d.failures,
                      d.interruptions, d.lane, d.sequence, d.previous_sequence, d.late, d.replay,
                      d.body_profile, d.event_row, d.progress_of, p.destination_row, p.watched
        )
        {about()}
        UNION ALL
        SELECT {", ".join(f"NULL::{column}" for column in ABOUT.values())},
               c.row_id, c.endpoint_row, c.version, c.dispatcher_row, c.attempts, c.failures, c.interruptions,
               c.lane, c.sequence, c.previous_sequence, c.late, c.replay, c.body_profile,
               e.id, e.type, e.job_id, {within_years("e.timestamp")}, {within_years("e.created_at")},
               e.traceparent, e.data, c.progress_of, c.destination_row, c.watched
        FROM claimed c LEFT JOIN {name("events")} e ON e.row_id = c.event_row
    """


def within_years(moment: str) -> str:
    """A moment of a producer's, or null where it is in a year that the driver cannot read."""
    # Else its row would be lost with all that were taken beside it.
    return f"CASE WHEN {moment} BETWEEN '0001-01-02 00:00:00+00' AND '9999-12-30 00:00:00+00' THEN {moment} END"
