"""The claim on SQLite: the same choice as on PostgreSQL, made endpoint by endpoint in one write transaction."""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dispatcher.rules.bodies import frozen_profile
from dispatcher.store.columns import from_microseconds
from dispatcher.store.hot import CLOCK_SLACK_S, Claimed, ClaimedBatch, Limits
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.sqlite_engine import is_outage
from dispatcher.store.tables import Tables

#: Endpoints looked at in one claim; the next claim goes on behind them.
WINDOW = 200


class Claim:
    """The statements of the claim, for one set of tables, and where the last one stopped."""

    def __init__(self, tables: Tables, limits: Limits, *, source: str) -> None:
        name = tables.name
        self._limits = limits
        self._source = source
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
            SELECT json_array(h.endpoint_row, e.row_id IS NULL,
                              e.status = 'enabled' AND e.deleted_at IS NULL
                              AND (s.paused_until IS NULL OR s.paused_until <= ?2)
                              AND (home.paused_until IS NULL OR home.paused_until <= ?2),
                              e.version, e.profile, e.destination_row, e.max_in_flight, s.ramp, e.rate_limit, s.tokens,
                              s.tokens_at, CASE
                                  WHEN home.verified_at IS NULL OR home.ramp IS NOT NULL OR home.failures_in_row > 0
                                  THEN json_array(e.job_id IS NOT NULL AND home.verified_at IS NULL, home.ramp,
                                                  home.tokens, home.tokens_at) END) AS j
            FROM heads h
            LEFT JOIN {name("endpoints")} e ON e.row_id = h.endpoint_row
            LEFT JOIN {name("endpoint_state")} s ON s.endpoint_row = h.endpoint_row
            LEFT JOIN {name("destinations")} home ON home.row_id = e.destination_row
            WHERE h.endpoint_row IS NOT NULL
        """
        self._flight = f"""
            SELECT json_array(d.endpoint_row, e.destination_row, count(*), e.job_id IS NOT NULL) AS j
            FROM {name("deliveries")} d
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
                  AND busy.endpoint_row = d.endpoint_row AND busy.state = 'sending'))
            ORDER BY d.row_id LIMIT ?
        """
        self._spend = f"UPDATE {name('endpoint_state')} SET tokens = ?, tokens_at = ? WHERE endpoint_row = ?"
        self._spend_as_guest = f"UPDATE {name('destinations')} SET tokens = ?, tokens_at = ? WHERE row_id = ?"
        self._take = f"""
            UPDATE {name("deliveries")} AS d
            SET state = 'sending', attempts = d.attempts + 1, dispatcher_row = ?2, updated_at = ?3,
                attempted_at = CASE WHEN d.progress_of IS NOT NULL THEN ?3 END,
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
                              e.data, d.progress_of, json_extract(p.value, '$[3]'), json_extract(p.value, '$[4]')) AS j
            FROM json_each(?1) p
            CROSS JOIN {name("deliveries")} d ON d.row_id = json_extract(p.value, '$[0]')
            LEFT JOIN {name("events")} e ON e.row_id = d.event_row
            WHERE d.state = 'sending' AND d.dispatcher_row = ?2
        """
        self._taken_bare = f"""
            SELECT json_array(d.row_id, d.endpoint_row, d.dispatcher_row, d.attempts, d.lane, d.progress_of) AS j
            FROM {name("deliveries")} d WHERE d.row_id = ?1 AND d.state = 'sending' AND d.dispatcher_row = ?2
        """

    def anything(self, connection: Connection) -> bool:
        """Whether there is something to claim at all; asked before a write transaction is opened for nothing."""
        return bool(connection.one(self._any))

    def _look(self, connection: Connection, now: int) -> tuple[list[list[Any]], list[int]]:
        """The endpoints of the window that may be sent to, and those that have no row."""
        rows = connection.rows(self._scan, (self._cursor, now))
        whole = len(rows) > WINDOW
        rows = rows[:WINDOW]
        self._cursor = rows[-1][0] if whole else -1
        return [row for row in rows if row[2]], [row[0] for row in rows if row[1]]

    def run(
        self, connection: Connection, limit: int, dispatcher_row: int, now: int, ended: Sequence[tuple[int, int]]
    ) -> ClaimedBatch:
        """Claims for a window of endpoints, inside the caller's transaction; the next claim looks behind it."""
        endpoints, homeless = self._look(connection, now)
        unseen = self._cursor != -1
        if not endpoints:
            return ClaimedBatch((), limited=unseen, homeless=homeless)
        in_flight: dict[int, int] = {}
        crowd: dict[int, int] = {}
        guests = _Guests(self._limits, now)
        for endpoint_row, destination, count, callback in connection.rows(self._flight, (as_json(ended),)):
            in_flight[endpoint_row] = count
            crowd[destination] = crowd.get(destination, 0) + count
            if callback:
                guests.present(destination, count)
        share = max(1, -(-limit // len(endpoints)))
        picked: list[list[Any]] = []
        for endpoint_row, _, _, version, profile, destination, cap, ramp, rate, tokens, tokens_at, home in endpoints:
            room = (self._limits.per_endpoint if cap is None else cap) - in_flight.get(endpoint_row, 0)
            if ramp is not None:
                room = min(room, ramp - in_flight.get(endpoint_row, 0))
            most_here, guest = self._limits.per_destination, False
            if home is not None:
                guest, slow_start, *bucket = home
                most_here = most_here if slow_start is None else min(most_here, slow_start)
                if guest:
                    room = min(room, guests.room(destination, bucket))
            room = min(room, share, limit - len(picked), most_here - crowd.get(destination, 0))
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
            profile = frozen_profile(profile, self._source)
            picked += [[candidate[0], version, profile, destination, home is not None] for candidate in lanes.values()]
            crowd[destination] = crowd.get(destination, 0) + len(lanes)
            if guest:
                guests.take(destination, len(lanes))
            if available is not None and lanes:
                connection.run(self._spend, (available - len(lanes), now, endpoint_row))
        if not picked:
            return ClaimedBatch((), limited=unseen, starved=True, homeless=homeless)
        for destination, left in guests.spent():
            connection.run(self._spend_as_guest, (left, now, destination))
        connection.run(self._take, (as_json(picked), dispatcher_row, now))
        claimed = self._read(connection, picked, dispatcher_row)
        limited = unseen or len(claimed) >= min(limit, share)
        return ClaimedBatch(claimed, limited=limited, starved=True, homeless=homeless)

    def _read(self, connection: Connection, picked: Sequence[Sequence[Any]], dispatcher_row: int) -> list[Claimed]:
        """What was taken; where the rows cannot be read together each is read alone, and marked if it cannot be."""
        try:
            return [_claimed(row) for row in connection.rows(self._taken, (as_json(picked), dispatcher_row))]
        except (sqlite3.Error, ValueError) as error:
            if isinstance(error, sqlite3.Error) and is_outage(error):
                raise
            if len(picked) > 1:
                return [claimed for one in picked for claimed in self._read(connection, [one], dispatcher_row)]
            defect = f"its row or its event's cannot be read ({error})"
            return [
                Claimed.unreadable(delivery, endpoint, dispatcher, attempt, lane, progress_of, defect)
                for delivery, endpoint, dispatcher, attempt, lane, progress_of in connection.rows(
                    self._taken_bare, (picked[0][0], dispatcher_row)
                )
            ]


class _Guests:
    """Callbacks at destinations that nobody has verified: what the limits leave them, in one claim."""

    def __init__(self, limits: Limits, now: int) -> None:
        self._limits = limits
        self._now = now
        self._in_flight: Counter[int] = Counter()
        self._taken: Counter[int] = Counter()
        self._tokens: dict[int, float] = {}

    def present(self, destination: int, count: int) -> None:
        """So many attempts of callbacks are in flight there."""
        self._in_flight[destination] += count

    def room(self, destination: int, bucket: Sequence[Any]) -> int:
        """How many may begin there; `bucket`: the tokens that were left, and when."""
        if destination not in self._tokens:
            left, left_at = bucket
            self._tokens[destination] = _available(self._limits.unverified_rate, left, left_at, self._now)
        taken = self._taken[destination]
        return min(
            self._limits.per_unverified - self._in_flight[destination] - taken,
            math.floor(self._tokens[destination] - taken),
        )

    def take(self, destination: int, count: int) -> None:
        """So many begin there."""
        self._taken[destination] += count

    def spent(self) -> Iterable[tuple[int, float]]:
        """Each destination where some begin, and the tokens that they leave."""
        return [(destination, self._tokens[destination] - count) for destination, count in self._taken.items() if count]


def _tokens(rate: float | None, tokens: float | None, tokens_at: int | None, now: int) -> float | None:
    """What the rate limit leaves; null: there is none."""
    return None if rate is None else _available(rate, tokens, tokens_at, now)


def _available(rate: float, tokens: float | None, tokens_at: int | None, now: int) -> float:
    """Tokens by now; at most a second's worth (and at least one) is saved up."""
    most = max(rate, 1.0)
    if tokens is None or tokens_at is None:
        return most
    if tokens_at > now + CLOCK_SLACK_S * 1_000_000:
        # The clock was set back: nobody waits until it is again as late as it was.
        return most
    return min(most, tokens + rate * max(0, now - tokens_at) / 1_000_000)


def _claimed(row: list[Any]) -> Claimed:
    row[10], row[11] = bool(row[10]), bool(row[11])
    row[22] = bool(row[22])
    try:
        row[16], row[17] = from_microseconds(row[16]), from_microseconds(row[17])
    except (TypeError, OverflowError):
        row[16] = None
    return Claimed.of(row)
