"""Which endpoints a claim on SQLite looks at: a window of all that have something to claim, by tenant, and where few
tenants fill it some of others.
"""

from typing import Any

from dispatcher.store.other_tenants import OTHERS, OTHERS_HEADS, START, OtherTenants
from dispatcher.store.sqlite.connection import Connection, as_object, from_json
from dispatcher.store.tables import Tables

#: Endpoints looked at in one claim; the next claim goes on behind them.
WINDOW = 200

CLAIMABLE = "d.state = 'pending' AND d.due_at IS NULL AND NOT d.waiting"
#: Where a row of an endpoint has what.
_ROW, _GONE, _OPEN, _TENANT = 0, 1, 2, 6


class Window:
    """The statements of the look, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        self._cursor: tuple[str, int] = START
        self._others = OtherTenants()
        deliveries = f"""{name("deliveries")} d INDEXED BY "ix_{tables.prefix}deliveries_claim\""""
        # SQLite keeps in a column whatever it is given, and in JSON texts only.
        described = f"""
            SELECT json_array(h.endpoint_row, e.row_id IS NULL,
                              e.status = 'enabled' AND e.deleted_at IS NULL
                              AND (s.paused_until IS NULL OR s.paused_until <= ?1)
                              AND (home.paused_until IS NULL OR home.paused_until <= ?1),
                              e.version, e.profile, e.destination_row,
                              CASE WHEN typeof(h.tenant) = 'text' THEN h.tenant END,
                              e.max_in_flight, s.ramp, s.takes,
                              e.rate_limit, s.tokens,
                              s.tokens_at, CASE
                                  WHEN home.verified_at IS NULL OR home.ramp IS NOT NULL OR home.failures_in_row > 0
                                  THEN json_array(e.job_id IS NOT NULL AND home.verified_at IS NULL, home.ramp,
                                                  home.tokens, home.tokens_at) END) AS j
            FROM heads h
            -- By its number: statistics may know of few endpoints that a tenant has.
            LEFT JOIN {name("endpoints")} e ON e.row_id = h.endpoint_row AND +e.tenant = h.tenant
            LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = h.endpoint_row
            LEFT JOIN {name("destinations")} home ON home.row_id = e.destination_row
        """
        self._scan = f"""
            WITH RECURSIVE heads(tenant, endpoint_row) AS (
                SELECT ?2, ?3
                UNION ALL
                SELECT next.tenant, next.endpoint_row FROM heads h CROSS JOIN {name("deliveries")} next
                ON next.row_id = (SELECT d.row_id FROM {deliveries}
                                  WHERE {CLAIMABLE} AND (d.tenant, d.endpoint_row) > (h.tenant, h.endpoint_row)
                                  ORDER BY d.tenant, d.endpoint_row LIMIT 1)
                LIMIT {WINDOW + 2}
            )
            {described} LIMIT -1 OFFSET 1
        """
        # Past those whom the scan has found, which are all from ?2 to ?3; of these one may be among them.
        self._other_tenants = f"""
            WITH RECURSIVE walk(tenant) AS (
                SELECT ?1
                UNION ALL
                SELECT (SELECT d.tenant FROM {deliveries}
                        WHERE {CLAIMABLE}
                          AND d.tenant > CASE WHEN w.tenant >= ?2 AND w.tenant < ?3 THEN ?3 ELSE w.tenant END
                        ORDER BY d.tenant LIMIT 1)
                FROM walk w WHERE typeof(w.tenant) = 'text' LIMIT {OTHERS + 1}
            )
            SELECT json_group_array(tenant) FROM (SELECT tenant FROM walk LIMIT -1 OFFSET 1)
            WHERE typeof(tenant) = 'text'
        """
        # Of each the endpoints behind where it was looked at last.
        self._others_scan = f"""
            WITH RECURSIVE each_(tenant, endpoint_row, n) AS (
                SELECT key, value, 0 FROM json_each(?2)
                UNION ALL
                SELECT h.tenant, (SELECT d.endpoint_row FROM {deliveries}
                                  WHERE {CLAIMABLE} AND d.tenant = h.tenant AND d.endpoint_row > h.endpoint_row
                                  ORDER BY d.endpoint_row LIMIT 1), h.n + 1
                FROM each_ h WHERE h.endpoint_row IS NOT NULL AND h.n <= ?3
            ),
            heads AS (SELECT tenant, endpoint_row FROM each_ WHERE endpoint_row IS NOT NULL AND n > 0)
            {described}
        """

    def look(self, connection: Connection, now: int) -> tuple[list[list[Any]], list[int], bool]:
        """The endpoints that may be sent to, those that have no row, and whether there are others beside these."""
        since = self._cursor
        rows = connection.rows(self._scan, (now, *since))
        whole = len(rows) > WINDOW
        rows = rows[:WINDOW]
        self._cursor = (rows[-1][_TENANT] or "", rows[-1][_ROW]) if whole else START
        if START == since == self._cursor or len({row[_TENANT] for row in rows}) >= OTHERS:
            self._others.looked_at(None, ())
        else:
            rows += self._look_at_others(connection, now, rows)
        open_, gone = [row for row in rows if row[_OPEN]], [row[_ROW] for row in rows if row[_GONE]]
        return open_, gone, self._cursor != START

    def _look_at_others(self, connection: Connection, now: int, window: list[list[Any]]) -> list[list[Any]]:
        # What is no text is behind all that is.
        its = [row[_TENANT] for row in window if row[_TENANT] is not None]
        first, last = (its[0], its[-1]) if its else (None, None)
        tenants: list[str] = from_json(connection.one(self._other_tenants, (self._others.behind, first, last)))
        others = [tenant for tenant in tenants if first is None or last is None or not first <= tenant <= last]
        if not others:
            self._others.looked_at(tenants, [None] * len(tenants))
            return []
        most = OTHERS_HEADS // len(others)
        behind = {tenant: self._others.left.get(tenant, START[1]) for tenant in others}
        found: dict[str, list[list[Any]]] = {tenant: [] for tenant in tenants}
        for row in connection.rows(self._others_scan, (now, as_object(behind), most)):
            found[row[_TENANT]].append(row)
        self._others.looked_at(tenants, [rows[most - 1][_ROW] if len(rows) > most else None for rows in found.values()])
        return [row for rows in found.values() for row in rows[:most]]
