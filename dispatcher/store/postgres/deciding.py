"""Who may be sent how many in one claim on PostgreSQL: what caps, rates and the process's slots leave, and whose turn
it is.

Parts of the claim's function, which use its variables. The same rules as in `rules.sharing`, in SQL.
"""

from collections.abc import Callable

from dispatcher.rules.sharing import KEPT_ONE_IN
from dispatcher.store.postgres.looking import CLAIMABLE, from_on

#: Slots that are kept for who holds fewer than are left.
KEPT = f"slots / {KEPT_ONE_IN}"

#: Of an endpoint that is open: that the limits leave it something.
_ROOM = "LEAST(room, room_there, guests) > 0"

# Without the numbers beside them the planner would take unnested arrays for ten rows, and compare each with each.
_ABLE = """
    flight AS MATERIALIZED (
        SELECT * FROM ROWS FROM (unnest(flying, flying_at, flying_of, flying_n, flying_mine, flying_callback),
                                 generate_series(1, cardinality(flying)))
        AS flight(endpoint_row, destination_row, tenant, n, mine, callback, number)
    ),
    crowd AS (
        SELECT destination_row, sum(n)::int AS n, (sum(n) FILTER (WHERE callback))::int AS callbacks
        FROM flight GROUP BY destination_row
    ),
    held AS (SELECT tenant, sum(mine)::int AS n FROM flight WHERE mine > 0 GROUP BY tenant),
    home AS (
        SELECT * FROM ROWS FROM (unnest(watched, ramps, unverified, home_tokens),
                                 generate_series(1, cardinality(watched)))
        AS home(row_id, ramp, unverified, tokens, number)
    ),
    open AS (
        SELECT c.i, c.destination_row, c.tenant, c.lot, c.oldest,
               COALESCE(f.mine, 0) AS mine, COALESCE(held.n, 0) AS held,
               LEAST(c.cap - COALESCE(f.n, 0), floor(c.tokens)::int) AS room,
               LEAST(destination_cap, home.ramp) - COALESCE(crowd.n, 0) AS room_there,
               -- A callback at a destination that nobody has verified, so perhaps at somebody's expense.
               c.callback AND COALESCE(home.unverified, false) AS guest,
               CASE WHEN c.callback AND home.unverified
                    THEN LEAST(guest_cap - COALESCE(crowd.callbacks, 0), floor(home.tokens)::int) END AS guests
        FROM (
            SELECT i, chosen[i] AS endpoint_row, chosen[i] # spin AS lot,
                   LEAST(fresh_froms[i], again_froms[i]) AS oldest, homes[i] AS destination_row,
                   tenants[i] AS tenant, callbacks[i] AS callback, caps[i] AS cap, allowances[i] AS tokens
            FROM (SELECT considered[k] AS i FROM generate_series(1, cardinality(considered)) k) one
        ) c
        LEFT JOIN flight f ON f.endpoint_row = c.endpoint_row
        LEFT JOIN crowd ON crowd.destination_row = c.destination_row
        LEFT JOIN held ON held.tenant = c.tenant
        LEFT JOIN home ON home.row_id = c.destination_row
    )
"""


def cut() -> str:
    """Of the endpoints `considered` (places in `chosen`) those whose turn it is, as many as may be claimed: `i`."""
    return f"""
        WITH {_ABLE}
        SELECT t.i FROM (
            SELECT open.*, mine + 1 AS place, row_number() OVER (PARTITION BY tenant ORDER BY mine, lot) + held AS turn
            FROM open WHERE {_ROOM}
        ) t
        WHERE {_goes("slots_left")} ORDER BY t.turn, t.mine, t.lot LIMIT most
    """


def decide(name: Callable[[str], str]) -> str:
    """Of the endpoints `considered` those that may be sent something, `i`, and how many, `n`, of what waits for each;
    `share` is what each was given at most, `could` what this one would have been if it were alone; of so many as are
    `able`.
    """

    def waiting(fresh: bool) -> str:
        return f"""
            SELECT FROM {name("deliveries")} d
            WHERE {CLAIMABLE} AND d.tenant = able.tenant AND d.endpoint_row = chosen[able.i]
              AND {from_on(str(fresh), "fresh_froms[able.i]" if fresh else "again_froms[able.i]")}
            ORDER BY d.fresh, d.row_id LIMIT able.most_here
        """

    # Else one would take turns of others for what it has not got. That there is one the scan has seen.
    tickets = f"""
        CASE WHEN able.most_here = 1 THEN 1
             ELSE LEAST(able.most_here, (SELECT count(*) FROM (({waiting(True)}) UNION ALL ({waiting(False)})) w)) END
    """
    return f"""
        WITH {_ABLE},
        able AS (
            SELECT e.*, LEAST(room, room_there, guests, GREATEST(share, of_tenants)) AS most_here
            FROM (
                -- A tenant's share, where it has few endpoints beside others' many.
                SELECT open.*, count(*) OVER () AS able, ceil(most::float8 / count(*) OVER ())::int AS share,
                       ceil(most::float8 / (SELECT count(DISTINCT tenant) FROM open WHERE {_ROOM})
                            / count(*) OVER (PARTITION BY tenant))::int AS of_tenants
                FROM open WHERE {_ROOM}
            ) e
        ),
        ticket AS (
            SELECT able.*, mine + k AS place, row_number() OVER there AS nth_there,
                   count(*) FILTER (WHERE guest) OVER there AS nth_guest
            FROM able CROSS JOIN LATERAL generate_series(1, ({tickets})::int) k
            WINDOW there AS (PARTITION BY destination_row ORDER BY guest, mine + k, oldest)
        ),
        -- Tenants first, then endpoints; and some slots are kept.
        turns AS (
            SELECT ticket.*, row_number() OVER (PARTITION BY tenant ORDER BY place, oldest) + held AS turn
            FROM ticket WHERE nth_there <= room_there AND (NOT guest OR nth_guest <= guests)
        ),
        queue AS (
            SELECT turns.*, slots_left - row_number() OVER (ORDER BY turn, place, oldest) + 1 AS free
            FROM turns WHERE {_goes("slots_left")}
        )
        SELECT i, count(*)::int AS n, min(share) AS share, min(most_here) AS could,
               min(able) AS able
        FROM (SELECT q.* FROM queue q WHERE {_goes("q.free")} ORDER BY q.free DESC LIMIT most) picked GROUP BY i
    """


def _goes(left: str) -> str:
    # As `in_turn` has it.
    return f"({left} > kept OR (place <= {left} AND ({left} > kept / 2 OR turn <= {left})))"
