"""What a claim on SQLite has taken: the deliveries with their events, ready to be attempted."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dispatcher.store.claimed import Claimed
from dispatcher.store.columns import from_microseconds
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.sqlite.room import Open
from dispatcher.store.sqlite_engine import is_outage
from dispatcher.store.tables import Tables

#: Between the data of one event and the next: no JSON text holds it.
_SEPARATOR = "\x1e"

#: A row, as the dispatcher and the outbox write it: the columns of `Taken._together`.
_Row = tuple[
    int, int, int, int, int,
    int | None, int | None, int | None, int, int,
    str, str, str, str | None, int, int, str | None, int | None, int,
]  # fmt: skip
_rows = msgspec.json.Decoder(list[_Row]).decode


class Taken:
    """The statements that read it, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        # The events' data as one text and not in the JSON, where each of its quotes would be escaped and unescaped.
        self._together = f"""
            SELECT '[' || group_concat(json_array(
                       d.row_id, d.endpoint_row, d.attempts, d.failures, d.interruptions,
                       d.lane, d.sequence, d.previous_sequence, d.late, d.replay,
                       d.body_profile, e.id, e.type, e.job_id, e.timestamp, e.created_at, e.traceparent, d.progress_of,
                       typeof(e.data) = 'text'), ',') || ']',
                   group_concat(COALESCE(e.data, ''), char({ord(_SEPARATOR)}))
            FROM {name("deliveries")} d LEFT JOIN {name("events")} e ON e.row_id = d.event_row
            WHERE d.row_id IN (SELECT value FROM json_each(?1)) AND d.state = 'sending' AND d.dispatcher_row = ?2
        """
        self._alone = f"""
            SELECT json_array(d.row_id, d.endpoint_row, ?3, d.dispatcher_row, d.attempts,
                              d.failures, d.interruptions, d.lane, d.sequence, d.previous_sequence, d.late, d.replay,
                              d.body_profile, e.id, e.type, e.job_id, e.timestamp, e.created_at, e.traceparent,
                              e.data, d.progress_of, ?4, ?5) AS j
            FROM {name("deliveries")} d LEFT JOIN {name("events")} e ON e.row_id = d.event_row
            WHERE d.row_id = ?1 AND d.state = 'sending' AND d.dispatcher_row = ?2
        """
        self._bare = f"""
            SELECT json_array(d.row_id, d.endpoint_row, d.dispatcher_row, d.attempts, d.lane, d.progress_of) AS j
            FROM {name("deliveries")} d WHERE d.row_id = ?1 AND d.state = 'sending' AND d.dispatcher_row = ?2
        """

    def read(self, connection: Connection, chosen: Sequence[tuple[Open, int]], dispatcher_row: int) -> list[Claimed]:
        """What of the chosen was taken; where they cannot be read together each is read alone, and marked if not so."""
        try:
            return self._read_together(connection, chosen, dispatcher_row)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if isinstance(error, sqlite3.Error) and is_outage(error):
                raise
            return [claimed for one in chosen for claimed in self._read_alone(connection, *one, dispatcher_row)]

    def _read_together(
        self, connection: Connection, chosen: Sequence[tuple[Open, int]], dispatcher_row: int
    ) -> list[Claimed]:
        """Raises `ValueError` or `OverflowError` where a row is not what is written there."""
        found, data = connection.row(self._together, (as_json(row for _, row in chosen), dispatcher_row))
        if data is None:
            # The lease has ended, and nothing was taken.
            return []
        rows = {row[0]: (row, text) for row, text in zip(_rows(found), data.split(_SEPARATOR), strict=True)}
        if any(row[2] < 1 or row[3] < 0 or row[4] < 0 or not row[18] for row, _ in rows.values()):
            raise ValueError("a row counts no attempts, or its event's data is no text")
        return [_claimed(*rows[row], one, dispatcher_row) for one, row in chosen if row in rows]

    def _read_alone(
        self, connection: Connection, one: Open, delivery_row: int, dispatcher_row: int
    ) -> Iterable[Claimed]:
        known = (one.version, one.destination, one.watched)
        try:
            return [
                Claimed.of(_told_moments(row))
                for row in connection.rows(self._alone, (delivery_row, dispatcher_row, *known))
            ]
        except (sqlite3.Error, ValueError) as error:
            if isinstance(error, sqlite3.Error) and is_outage(error):
                raise
            defect = f"its row or its event's cannot be read ({error})"
            return [
                Claimed.unreadable(delivery, endpoint, dispatcher, attempt, lane, progress_of, defect)
                for delivery, endpoint, dispatcher, attempt, lane, progress_of in connection.rows(
                    self._bare, (delivery_row, dispatcher_row)
                )
            ]


def _claimed(row: _Row, data: str, one: Open, dispatcher_row: int) -> Claimed:
    created_at = from_microseconds(row[15])
    return Claimed(
        row[0],
        row[1],
        one.version,
        dispatcher_row,
        row[2],
        row[3],
        row[4],
        row[5],
        row[6],
        row[7],
        row[8] != 0,
        row[9] != 0,
        row[10],
        row[11],
        row[12],
        row[13],
        # Mostly the same: what was published without one happened when it was published.
        created_at if row[14] == row[15] else from_microseconds(row[14]),
        created_at,
        row[16],
        data,
        row[17],
        one.destination,
        one.watched,
    )


def _told_moments(row: list[Any]) -> list[Any]:
    row[10], row[11] = bool(row[10]), bool(row[11])
    row[22] = bool(row[22])
    try:
        row[16], row[17] = from_microseconds(row[16]), from_microseconds(row[17])
    except (TypeError, OverflowError):
        row[16] = None
    return row
