"""Fan-out on SQLite, where the write transaction is the sequencer."""

from collections import Counter
from functools import lru_cache

from dispatcher.rules.event_types import patterns_for
from dispatcher.store.hot import FannedOut
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.tables import Tables

_patterns = lru_cache(maxsize=4096)(patterns_for)


class FanOut:
    """The statements of the fan-out, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        self._tenants = f"""
            WITH RECURSIVE tenants(tenant) AS (
                SELECT * FROM (SELECT tenant FROM {name("fanout_queue")} ORDER BY tenant LIMIT 1)
                UNION ALL
                SELECT (SELECT q.tenant FROM {name("fanout_queue")} q WHERE q.tenant > t.tenant
                        ORDER BY q.tenant LIMIT 1)
                FROM tenants t WHERE t.tenant IS NOT NULL
            )
            SELECT json_array(tenant) AS j FROM tenants WHERE tenant IS NOT NULL
        """
        self._batch = f"""
            SELECT json_array(e.row_id, e.tenant, e.type, e.job_id) AS j
            FROM (SELECT event_row FROM {name("fanout_queue")} WHERE tenant = ? ORDER BY event_row LIMIT ?) q
            CROSS JOIN {name("events")} e ON e.row_id = q.event_row ORDER BY e.row_id
        """
        self._take = f"DELETE FROM {name('fanout_queue')} WHERE tenant = ? AND event_row <= ?"
        self._number = f"""
            INSERT INTO {name("jobs")} AS j (tenant, job_id, last_sequence, updated_at)
            SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), ?2
            FROM json_each(?1) WHERE true
            ON CONFLICT (tenant, job_id) DO UPDATE
            SET last_sequence = j.last_sequence + excluded.last_sequence, updated_at = excluded.updated_at
        """
        self._jobs = f"""
            SELECT json_array(j.tenant, j.job_id, j.row_id, j.last_sequence) AS j
            FROM json_each(?) w CROSS JOIN {name("jobs")} j
            ON j.tenant = json_extract(w.value, '$[0]') AND j.job_id = json_extract(w.value, '$[1]')
        """
        self._keep_sequence = f"""
            INSERT INTO {name("job_events")} (job_row, sequence, event_row)
            SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
            FROM json_each(?)
        """
        self._deliver = f"""
            WITH event AS MATERIALIZED (
                SELECT json_extract(value, '$[0]') AS event_row, json_extract(value, '$[1]') AS tenant,
                       json_extract(value, '$[2]') AS type, json_extract(value, '$[3]') AS job_id,
                       json_extract(value, '$[4]') AS lane, json_extract(value, '$[5]') AS sequence
                FROM json_each(?1)
            ),
            matching AS MATERIALIZED (
                SELECT json_extract(value, '$[0]') AS type, json_extract(value, '$[1]') AS pattern FROM json_each(?2)
            ),
            match AS MATERIALIZED (
                SELECT DISTINCT event.event_row, e.row_id AS endpoint_row, event.tenant, event.sequence,
                       CASE WHEN e.ordered THEN event.lane END AS lane
                FROM event
                CROSS JOIN matching ON matching.type = event.type
                CROSS JOIN {name("subscriptions")} s ON s.tenant = event.tenant AND s.pattern = matching.pattern
                    AND s.job_id IN ('', event.job_id)
                CROSS JOIN {name("endpoints")} e ON e.row_id = s.endpoint_row
                WHERE e.status IN ('enabled', 'paused') AND e.deleted_at IS NULL
                    AND (e.expires_at IS NULL OR e.expires_at > ?3)
            )
            INSERT INTO {name("deliveries")}
                (event_row, endpoint_row, tenant, lane, sequence, waiting, created_at, updated_at)
            SELECT event_row, endpoint_row, tenant, lane, sequence,
                   lane IS NOT NULL AND (
                       row_number() OVER (PARTITION BY endpoint_row, lane ORDER BY sequence) > 1
                       OR EXISTS (
                           SELECT 1 FROM {name("deliveries")} d
                           WHERE d.lane = match.lane AND d.endpoint_row = match.endpoint_row
                             AND d.lane IS NOT NULL AND d.state IN ('pending', 'sending') AND NOT d.late
                       )
                   ),
                   ?3, ?3
            FROM match ORDER BY event_row
        """

    def waiting(self, connection: Connection) -> list[str]:
        """The tenants whose events wait; asked before a write transaction is opened for nothing."""
        return [row[0] for row in connection.rows(self._tenants)]

    def run(self, connection: Connection, tenants: list[str], limit: int, now: int) -> FannedOut:
        """One batch, inside the caller's transaction. Tenants take turns: each gets an equal share of it."""
        events = []
        for tenant in tenants[:limit]:
            batch = connection.rows(self._batch, (tenant, max(1, limit // len(tenants))))
            if batch:
                connection.run(self._take, (tenant, batch[-1][0]))
                events += batch
        if not events:
            return FannedOut(0, 0)
        counts = Counter((event[1], event[3]) for event in events if event[3] is not None)
        for event in events:
            event += [None, None]
        if counts:
            numbers = as_json([tenant, job_id, count] for (tenant, job_id), count in counts.items())
            connection.run(self._number, (numbers, now))
            jobs = {(row[0], row[1]): (row[2], row[3]) for row in connection.rows(self._jobs, (numbers,))}
            following = {key: jobs[key][1] - count + 1 for key, count in counts.items()}
            for event in events:
                key = (event[1], event[3])
                if event[3] is not None:
                    event[4], event[5] = jobs[key][0], following[key]
                    following[key] += 1
            connection.run(
                self._keep_sequence, (as_json([event[4], event[5], event[0]] for event in events if event[4]),)
            )
        pairs = [
            [event_type, pattern] for event_type in {event[2] for event in events} for pattern in _patterns(event_type)
        ]
        made = connection.run(self._deliver, (as_json(events), as_json(pairs), now))
        return FannedOut(len(events), made)
