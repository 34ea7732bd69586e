"""Ingest on SQLite, in the writer's transaction."""

import sqlite3
from collections.abc import Sequence

from dispatcher.rules.new_events import NewEvent
from dispatcher.store.columns import from_microseconds, to_microseconds
from dispatcher.store.ingest import Answer, Apart, Group, Key, Stored, answers, in_order, refused
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.tables import Tables


class Ingest:
    """The statements of the ingest, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name("events")
        self._insert = f"INSERT INTO {name} (id, tenant, type, data, job_id, kind, timestamp, traceparent, created_at)"
        self._last = f"SELECT max(row_id) FROM {name}"
        self._new = f"SELECT json_array(e.tenant, e.id, e.row_id) AS j FROM {name} e WHERE e.row_id > ?"
        self._there = f"""
            SELECT json_array(e.tenant, e.id, e.type, e.job_id, e.kind, e.data, e.timestamp, e.created_at) AS j
            FROM json_each(?) k CROSS JOIN {name} e
            ON e.tenant = json_extract(k.value, '$[0]') AND e.id = json_extract(k.value, '$[1]')
        """

    def run(self, connection: Connection, groups: Sequence[Group], now: int) -> tuple[list[Answer], list[int]]:
        """All groups, inside the caller's transaction, with the rows of the events that are new."""
        connection.run("SAVEPOINT ingest")
        try:
            found, new = self._together(connection, groups, now)
        except (Apart, sqlite3.IntegrityError):
            connection.run("ROLLBACK TO ingest")
            found, new = self._apart(connection, groups, now)
        connection.run("RELEASE ingest")
        return found, new

    def _apart(self, connection: Connection, groups: Sequence[Group], now: int) -> tuple[list[Answer], list[int]]:
        result: list[Answer] = []
        new: list[int] = []
        for group in groups:
            connection.run("SAVEPOINT one_group")
            try:
                made, rows = self._together(connection, [group], now)
                result += made
                new += rows
            except (Apart, sqlite3.IntegrityError) as error:
                connection.run("ROLLBACK TO one_group")
                result.append(error.conflict if isinstance(error, Apart) else refused(error))
            connection.run("RELEASE one_group")
        return result, new

    def _together(self, connection: Connection, groups: Sequence[Group], now: int) -> tuple[list[Answer], list[int]]:
        events = in_order(groups)
        last = connection.one(self._last) or 0
        rows = [_row(event, now) for event in events]
        connection.insert(self._insert, rows, "ON CONFLICT (tenant, id) DO NOTHING")
        new = {(tenant, event_id): row for tenant, event_id, row in connection.rows(self._new, (last,))}
        there: dict[Key, Stored] = {}
        if len(new) < len(events):
            # Of a repeated id something else may be stored, or be among these very events.
            keys = {event.key for event in events if event.repeatable or event.key not in new}
            there = {
                (tenant, event_id): Stored(
                    type_, job_id, kind, data, from_microseconds(at), from_microseconds(created_at)
                )
                for tenant, event_id, type_, job_id, kind, data, at, created_at in connection.rows(
                    self._there, (as_json(keys),)
                )
            }
        created_at = from_microseconds(now)
        return answers(groups, dict.fromkeys(new, created_at), there), list(new.values())


def _row(event: NewEvent, now: int) -> tuple[object, ...]:
    happened_at = now if event.timestamp is None else to_microseconds(event.timestamp)
    return (
        event.id,
        event.tenant,
        event.type,
        event.data,
        event.job_id,
        event.kind,
        happened_at,
        event.traceparent,
        now,
    )
