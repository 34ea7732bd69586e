"""The claim on SQLite: the same choice as on PostgreSQL, made endpoint by endpoint in one write transaction."""

import math
from collections.abc import Sequence
from typing import Any

from dispatcher.store.columns import from_microseconds
from dispatcher.store.hot import Claimed, ClaimedBatch
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.tables import Tables

#: Endpoints looked at in one claim; the next claim goes on behind them.
WINDOW = 200


class Claim:
    """The statements of the claim, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables, *, per_endpoint: int, per_destination: int) -> None:
        name = tables.name
        self._per_endpoint = per_endpoint
        self._per_destination = per_destination
        self._cursor = -1
        claimable = "d.state = 'pending' AND d.due_at IS NULL AND NOT d.waiting"
        self._any = f"SELECT EXISTS (SELECT 1 FROM {name('deliveries')} d WHERE {claimable})"
        self._scan = f"""
            WITH RECURSIVE heads(endpoint_row) AS (
                SELECT * FROM (SELECT d.endpoint_row FROM {name("deliveries")} d
                               WHERE {claimable} AND d.endpoint_row > ?1 ORDER BY d.endpoint_row LIMIT 1)
                UNION ALL
                SELECT (SELECT d.endpoint_row FROM {name("deliveries")} d
                        WHERE {claimable} AND d.endpoint_row > h.endpoint_row ORDER BY d.endpoint_row LIMIT 1)
                FROM heads h WHERE h.endpoint_row IS NOT NULL LIMIT {WINDOW + 1}
            )
            SELECT json_array(h.endpoint_row,
                              e.status = 'enabled' AND e.deleted_at IS NULL
                              AND (s.paused_until IS NULL OR s.paused_until <= ?2),
                              e.version, e.profile, e.destination_row, e.max_in_flight, s.ramp, e.rate_limit, s.tokens,
                              s.tokens_at) AS j
            FROM heads h
            LEFT JOIN {name("endpoints")} e ON e.row_id = h.endpoint_row
            LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = h.endpoint_row
            WHERE h.endpoint_row IS NOT NULL
        """
        self._flight = f"""
            SELECT json_array(d.endpoint_row, e.destination_row, count(*)) AS j FROM {name("deliveries")} d
            LEFT JOIN {name("endpoints")} e ON e.row_id = d.endpoint_row
            WHERE d.state = 'sending' AND (d.row_id, d.attempts) NOT IN (
                SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
            GROUP BY d.endpoint_row
        """
        self._candidates = f"""
            SELECT json_array(d.row_id, d.lane, d.sequence) AS j
            FROM {name("deliveries")} d INDEXED BY "ix_{tables.prefix}deliveries_claim"
            WHERE d.endpoint_row = ? AND {claimable}
              AND (d.lane IS NULL OR NOT EXISTS (
                  SELECT 1 FROM {name("deliveries")} busy WHERE busy.lane = d.lane
                  AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending' AND busy.lane IS NOT NULL))
            ORDER BY d.row_id LIMIT ?
        """
        self._spend = f"UPDATE {name('endpoint_state')} SET tokens = ?, tokens_at = ? WHERE endpoint_row = ?"
        self._take = f"""
            UPDATE {name("deliveries")} AS d
            SET state = 'sending', attempts = d.attempts + 1, dispatcher_row = ?2, updated_at = ?3,
                body_profile = COALESCE(d.body_profile, p.profile),
                previous_sequence = CASE WHEN d.lane IS NULL OR d.previous_sequence IS NOT NULL
                    THEN d.previous_sequence ELSE COALESCE((
                        SELECT b.sequence FROM {name("deliveries")} b
                        WHERE b.lane = d.lane AND b.endpoint_row = d.endpoint_row AND b.sequence < d.sequence
                          AND b.lane IS NOT NULL AND b.attempts > 0 ORDER BY b.sequence DESC LIMIT 1), 0) END
            FROM (SELECT json_extract(value, '$[0]') AS row_id, json_extract(value, '$[2]') AS profile
                  FROM json_each(?1)) AS p
            WHERE d.row_id = p.row_id
              AND EXISTS (SELECT 1 FROM {name("dispatchers")} me WHERE me.row_id = ?2 AND me.leased_until > ?3)
        """
        self._taken = f"""
            SELECT json_array(d.row_id, d.endpoint_row, json_extract(p.value, '$[1]'), d.dispatcher_row, d.attempts,
                              d.failures, d.interruptions, d.lane, d.sequence, d.previous_sequence, d.late, d.replay,
                              d.body_profile, e.id, e.type, e.job_id, e.timestamp, e.created_at, e.traceparent,
                              e.data) AS j
            FROM json_each(?1) p
            CROSS JOIN {name("deliveries")} d ON d.row_id = json_extract(p.value, '$[0]')
            CROSS JOIN {name("events")} e ON e.row_id = d.event_row
            WHERE d.state = 'sending' AND d.dispatcher_row = ?2
        """

    def anything(self, connection: Connection) -> bool:
        """Whether there is something to claim at all; asked before a write transaction is opened for nothing."""
        return bool(connection.one(self._any))

    def _look(self, connection: Connection, now: int) -> list[list[Any]]:
        rows = connection.rows(self._scan, (self._cursor, now))
        whole = len(rows) > WINDOW
        rows = rows[:WINDOW]
        self._cursor = rows[-1][0] if whole else -1
        return [row for row in rows if row[1]]

    def run(
        self, connection: Connection, limit: int, dispatcher_row: int, now: int, ended: Sequence[tuple[int, int]]
    ) -> ClaimedBatch:
        """Claims for a window of endpoints, inside the caller's transaction; the next claim looks behind it."""
        endpoints = self._look(connection, now)
        unseen = self._cursor != -1
        if not endpoints:
            return ClaimedBatch((), limited=unseen)
        in_flight: dict[int, int] = {}
        crowd: dict[int, int] = {}
        for endpoint_row, destination, count in connection.rows(self._flight, (as_json(ended),)):
            in_flight[endpoint_row] = count
            crowd[destination] = crowd.get(destination, 0) + count
        share = max(1, -(-limit // len(endpoints)))
        picked: list[list[Any]] = []
        for endpoint_row, _, version, profile, destination, cap, ramp, rate, tokens, tokens_at in endpoints:
            room = (self._per_endpoint if cap is None else cap) - in_flight.get(endpoint_row, 0)
            if ramp is not None:
                room = min(room, ramp - in_flight.get(endpoint_row, 0))
            room = min(room, share, limit - len(picked), self._per_destination - crowd.get(destination, 0))
            available = _tokens(rate, tokens, tokens_at, now)
            if available is not None:
                room = min(room, math.floor(available))
            if room <= 0:
                continue
            lanes: dict[Any, list[Any]] = {}
            for candidate in connection.rows(self._candidates, (endpoint_row, room)):
                row_id, lane, sequence = candidate
                key = ("alone", row_id) if lane is None else lane
                if key not in lanes or sequence < lanes[key][2]:
                    lanes[key] = candidate
            picked += [[candidate[0], version, profile] for candidate in lanes.values()]
            crowd[destination] = crowd.get(destination, 0) + len(lanes)
            if available is not None and lanes:
                connection.run(self._spend, (available - len(lanes), now, endpoint_row))
        if not picked:
            return ClaimedBatch((), limited=unseen, starved=True)
        chosen = as_json(picked)
        connection.run(self._take, (chosen, dispatcher_row, now))
        rows = connection.rows(self._taken, (chosen, dispatcher_row))
        limited = unseen or len(rows) >= min(limit, share)
        return ClaimedBatch([_claimed(row) for row in rows], limited=limited, starved=True)


def _tokens(rate: float | None, tokens: float | None, tokens_at: int | None, now: int) -> float | None:
    """What the rate limit leaves; at most a second's worth (and at least one) is saved up."""
    if rate is None:
        return None
    most = max(rate, 1.0)
    if tokens is None or tokens_at is None:
        return most
    return min(most, tokens + rate * max(0, now - tokens_at) / 1_000_000)


def _claimed(row: list[Any]) -> Claimed:
    row[10], row[11] = bool(row[10]), bool(row[11])
    row[16], row[17] = from_microseconds(row[16]), from_microseconds(row[17])
    return Claimed(*row)
