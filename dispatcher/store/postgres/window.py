"""Which endpoints a claim on PostgreSQL looks at: a window of all that have something to claim, by tenant, and where
few tenants fill it some of others.

Parts of the claim's function, which use its variables. The looks may begin at low marks (`marks`).
"""

from collections.abc import Callable, Iterator, Sequence

from dispatcher.store.other_tenants import OTHERS, OTHERS_HEADS
from dispatcher.store.postgres.looking import CAP, CLAIMABLE, FROZEN, OPEN, TOKENS, from_on
from dispatcher.store.postgres.marks import Place

#: Endpoints looked at in one claim; the next claim goes on behind them.
WINDOW = 200

#: The arrays in which the function keeps what the scan says of the endpoints: by column, with its type.
CHOSEN = {
    "chosen": ("endpoint_row", "bigint"),
    "fresh_froms": ("fresh_from", "bigint"),
    "again_froms": ("again_from", "bigint"),
    "homes": ("destination_row", "bigint"),
    "versions": ("version", "int"),
    "profiles": ("profile", "text"),
    "tenants": ("tenant", "text"),
    "callbacks": ("callback", "boolean"),
    "caps": ("cap", "int"),
    "allowances": ("tokens", "float8"),
}

#: Deliveries in the order of the claim's index.
_ORDER = "d.tenant, d.endpoint_row, d.fresh, d.row_id"
_KEY = "(d.tenant, d.endpoint_row, d.fresh)"

#: What else is kept of them, whether they may be sent anything or not.
_SEEN = {
    "homeless": ("endpoint_row", "s.live AND s.destination_row IS NULL"),
    # A mark is its endpoint's, so what another tenant has there is none of it.
    "seen": ("endpoint_row", "s.live AND s.destination_row IS NOT NULL"),
    "seen_fresh": ("fresh_from", "s.live AND s.destination_row IS NOT NULL"),
    "seen_again": ("again_from", "s.live AND s.destination_row IS NOT NULL"),
}
_KEPT = {array: f"array_agg(s.{column}) FILTER (WHERE {of})" for array, (column, of) in _SEEN.items()} | {
    array: f"array_agg(s.{column}) FILTER (WHERE s.open)" for array, (column, _) in CHOSEN.items()
}
_LIMITED = "COALESCE(bool_or(s.tokens IS NOT NULL) FILTER (WHERE s.open), false)"
_AGAIN = "COALESCE(bool_or(s.again_from IS NOT NULL) FILTER (WHERE s.open), false)"
_RESUMES = "FILTER (WHERE s.resumes)"


def look_around(name: Callable[[str], str]) -> str:
    """Fills the arrays; says where the next look goes on, `next_of` and `next_behind`, and which `others` were looked
    at, up to which endpoint each, `others_at`."""

    def look(*, marked: bool) -> str:
        return f"""
            SELECT max(s.of) {_RESUMES}, max(s.endpoint_row) {_RESUMES}, min(s.of), max(s.of), count(DISTINCT s.of),
                   {_LIMITED}, {_AGAIN}, {", ".join(_KEPT.values())}
            INTO next_of, next_behind, first_of, last_of, tenants_seen, limited, again, {", ".join(_KEPT)}
            FROM ({_scan(name, marked=marked)}) s;
        """

    return f"""
        IF cardinality(marked) > 0 THEN
            SELECT array_agg(m.of), array_agg(m.at), array_agg(m.fresh), array_agg(m.first)
            INTO marked_of, marked, marked_fresh, marks
            FROM (
                SELECT e.tenant AS of, m.* FROM unnest(marked, marked_fresh, marks) AS m(at, fresh, first)
                CROSS JOIN LATERAL (SELECT tenant FROM {name("endpoints")} e WHERE e.row_id = m.at LIMIT 1) e
                WHERE (e.tenant, m.at, m.fresh) > (behind_of, behind, true)
                ORDER BY e.tenant, m.at, m.fresh LIMIT {WINDOW}
            ) m;
        END IF;
        IF cardinality(marked) > 0 THEN
            {look(marked=True)}
        ELSE
            {look(marked=False)}
            IF tenants_seen < {OTHERS} AND (next_of IS NOT NULL OR behind >= 0) AND NOT from_marks THEN
                others := ARRAY({_other_tenants(name)});
                SELECT array_agg(s.of) {_RESUMES}, array_agg(s.endpoint_row) {_RESUMES},
                       limited OR {_LIMITED}, again OR {_AGAIN},
                       {", ".join(f"{array} || {more}" for array, more in _KEPT.items())}
                INTO resumed, resumed_at, limited, again, {", ".join(_KEPT)}
                FROM ({_others_scan(name)}) s;
                others_at := ARRAY(SELECT resumed_at[array_position(resumed, o.of)] FROM unnest(others) AS o(of));
            END IF;
        END IF;
    """


def _scan(name: Callable[[str], str], *, marked: bool) -> str:
    """The endpoints that have something to claim behind `behind_of` and `behind`, `WINDOW` of them at most, by tenant,
    each with the first of its fresh deliveries and of its others, null where it has none; `more` where they may not be
    all.

    With them comes what they may be sent at most, by themselves: `cap` in flight, and `tokens` where their rate is
    limited. Nothing that can be claimed is before the first, unless it is below a mark, where it is `marked`.
    """
    # A skip scan over the claim index, from endpoint and class to the next. How many it finds the planner cannot know:
    # without the limits it would read all endpoints to join a few.
    next_ = f"""
        (SELECT d.tenant, d.endpoint_row, d.fresh, h.mark, d.row_id FROM {name("deliveries")} d
         WHERE {CLAIMABLE} AND {_KEY} > (h.of, h.at, h.fresh)
         ORDER BY {_ORDER} LIMIT 1)
    """
    # Between the marked ones it looks from each to the next, at a marked one from its mark on.
    next_marked = f"""
        (SELECT d.tenant, d.endpoint_row, d.fresh, h.mark, d.row_id FROM {name("deliveries")} d
         WHERE h.mark > cardinality(marked) AND {CLAIMABLE} AND {_KEY} > (h.of, h.at, h.fresh)
         ORDER BY {_ORDER} LIMIT 1)
        UNION ALL
        (SELECT d.tenant, d.endpoint_row, d.fresh, h.mark, d.row_id FROM {name("deliveries")} d
         WHERE h.mark <= cardinality(marked) AND {CLAIMABLE} AND {_KEY} > (h.of, h.at, h.fresh)
           AND {_KEY} < (marked_of[h.mark], marked[h.mark], marked_fresh[h.mark])
         ORDER BY {_ORDER} LIMIT 1)
        UNION ALL
        (SELECT marked_of[h.mark], marked[h.mark], marked_fresh[h.mark], h.mark + 1, (
            SELECT d.row_id FROM {name("deliveries")} d
            WHERE {CLAIMABLE} AND d.tenant = marked_of[h.mark] AND d.endpoint_row = marked[h.mark]
              AND {from_on("marked_fresh[h.mark]", "marks[h.mark]")}
            ORDER BY d.fresh, d.row_id LIMIT 1)
         WHERE h.mark <= cardinality(marked))
        LIMIT 1
    """
    return f"""
        WITH RECURSIVE heads AS (
            SELECT behind_of AS of, behind AS at, true AS fresh, 1 AS mark, NULL::bigint AS first
            UNION ALL
            SELECT next.* FROM heads h CROSS JOIN LATERAL ({next_marked if marked else next_}) next
        )
        {_described(name, f"SELECT of, at, fresh, first FROM heads OFFSET 1 LIMIT {WINDOW + 1}", str(WINDOW))}
    """


def _other_tenants(name: Callable[[str], str]) -> str:
    """Tenants that have something to claim behind `others_behind`, `OTHERS` of them at most: others than those from
    `first_of` to `last_of`, whom the scan has found; of these one may be among them.
    """
    return f"""
        WITH RECURSIVE walk AS (
            SELECT others_behind AS of
            UNION ALL
            SELECT next.tenant FROM walk w CROSS JOIN LATERAL (
                SELECT d.tenant FROM {name("deliveries")} d
                WHERE {CLAIMABLE} AND d.tenant > GREATEST(w.of, CASE WHEN w.of >= first_of THEN last_of END)
                ORDER BY {_ORDER} LIMIT 1
            ) next
        )
        SELECT of FROM walk OFFSET 1 LIMIT {OTHERS}
    """


def _others_scan(name: Callable[[str], str]) -> str:
    """As `_scan`, of the tenants `others`: the endpoints of each behind where it was looked at last, and of all of them
    about `OTHERS_HEADS`; `resumes` says of the last of a tenant that there may be more.
    """
    return f"""
        WITH RECURSIVE heads AS (
            SELECT o.of, COALESCE(left_at[array_position(left_of, o.of)], -1) AS at, true AS fresh,
                   NULL::bigint AS first, 0 AS n, {OTHERS_HEADS} / cardinality(others) AS most_each
            FROM unnest(others) AS o(of) WHERE (o.of BETWEEN first_of AND last_of) IS NOT TRUE
            UNION ALL
            SELECT h.of, next.endpoint_row, next.fresh, next.row_id, h.n + 1, h.most_each
            FROM heads h CROSS JOIN LATERAL (
                SELECT d.endpoint_row, d.fresh, d.row_id FROM {name("deliveries")} d
                WHERE {CLAIMABLE} AND d.tenant = h.of AND (d.endpoint_row, d.fresh) > (h.at, h.fresh)
                ORDER BY {_ORDER} LIMIT 1
            ) next WHERE h.n <= h.most_each
        )
        {_described(name, "SELECT of, at, fresh, first, most_each FROM heads WHERE n > 0", "min(most_each)", each=True)}
    """


def _described(name: Callable[[str], str], heads: str, most: str, *, each: bool = False) -> str:
    """What is known of the endpoints of these heads; where they are more than `most`, of all or of `each` tenant, the
    last endpoint is left out: one class of it may be missing, so it is left for the next look.
    """
    within = "PARTITION BY of" if each else ""
    return f"""
        SELECT h.of, h.at AS endpoint_row, h.fresh_from, h.again_from, h.more, h.more AND h.from_last = 2 AS resumes,
               e.destination_row, e.version, e.tenant, {FROZEN} AS profile, e.job_id IS NOT NULL AS callback,
               {CAP} AS cap, {TOKENS} AS tokens, h.live, h.live AND {OPEN} AS open
        FROM (
            SELECT of, at, min(first) FILTER (WHERE fresh) AS fresh_from,
                   min(first) FILTER (WHERE NOT fresh) AS again_from, count(first) > 0 AS live,
                   sum(count(*)) OVER ({within}) > {most} AS more,
                   row_number() OVER ({within} ORDER BY of DESC, at DESC) AS from_last
            FROM ({heads}) found GROUP BY of, at
        ) h
        LEFT JOIN LATERAL (
            SELECT e.destination_row, e.status, e.deleted_at, e.rate_limit, e.version, e.tenant, e.profile, e.job_id,
                   e.max_in_flight
            FROM {name("endpoints")} e WHERE e.row_id = h.at AND e.tenant = h.of LIMIT 1) e ON true
        LEFT JOIN LATERAL (
            SELECT s.paused_until, s.ramp, s.takes, s.tokens, s.tokens_at FROM {name("endpoint_state")} s
            WHERE s.endpoint_row = h.at LIMIT 1) s ON true
        WHERE NOT (h.more AND h.from_last = 1)
    """


def firsts(
    endpoint_rows: Sequence[int], fresh_from: Sequence[int | None], again_from: Sequence[int | None]
) -> Iterator[tuple[Place, int]]:
    """What the scan says of the endpoints, as marks."""
    for endpoint_row, fresh, again in zip(endpoint_rows, fresh_from, again_from, strict=True):
        if again is not None:
            yield (endpoint_row, False), again
        if fresh is not None:
            yield (endpoint_row, True), fresh
