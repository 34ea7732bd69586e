"""Fan-out on SQLite, where the write transaction is the sequencer."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from dispatcher.rules.event_types import patterns_for
from dispatcher.rules.kinds import EventKinds
from dispatcher.rules.numbering import Numbered, Queued, count_jobs, number
from dispatcher.rules.superseding import superseding
from dispatcher.states import EventKind
from dispatcher.store.hot import NO_EVENT, FannedOut, Rejected
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.sqlite.delivering import of_jobs, plain
from dispatcher.store.sqlite.record import Record
from dispatcher.store.sqlite_engine import is_outage
from dispatcher.store.tables import Tables

_patterns = lru_cache(maxsize=4096)(patterns_for)


class FanOut:
    """The statements of the fan-out, for one set of tables."""

    def __init__(self, tables: Tables, kinds: EventKinds, record: Record) -> None:
        self._kinds = kinds
        self._record = record
        self._last_tenant = ""
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
        self._flagged = f"SELECT EXISTS (SELECT 1 FROM {name('endpoints')} WHERE catch_up)"
        self._batch = f"""
            SELECT json_array(q.event_row, e.tenant, e.type, e.job_id, e.kind, e.row_id IS NULL, e.id) AS j
            FROM (SELECT event_row FROM {name("fanout_queue")} WHERE tenant = ? ORDER BY event_row LIMIT ?) q
            LEFT JOIN {name("events")} e ON e.row_id = q.event_row ORDER BY q.event_row
        """
        self._next = f"SELECT min(event_row) FROM {name('fanout_queue')} WHERE tenant = ?"
        self._reject = f"""
            INSERT INTO {name("rejected_events")} (event_row, reason, rejected_at) VALUES (?1, ?2, ?3)
            ON CONFLICT (event_row) DO UPDATE SET reason = excluded.reason, rejected_at = excluded.rejected_at
        """
        self._lift_counter = f"""
            UPDATE {name("jobs")} AS j SET last_sequence = max(j.last_sequence, COALESCE((
                SELECT max(n.sequence) FROM {name("job_events")} n WHERE n.job_row = j.row_id), 0))
            WHERE EXISTS (SELECT 1 FROM {name("events")} e
                          WHERE e.row_id = ? AND e.tenant = j.tenant AND e.job_id = j.job_id)
        """
        self._take = f"DELETE FROM {name('fanout_queue')} WHERE tenant = ? AND event_row <= ?"
        self._number = f"""
            INSERT INTO {name("jobs")} AS j (tenant, job_id, last_sequence, settled_by, settled_at, updated_at)
            SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                   json_extract(value, '$[3]'), CASE WHEN json_extract(value, '$[3]') IS NOT NULL THEN ?2 END, ?2
            FROM json_each(?1) WHERE true
            ON CONFLICT (tenant, job_id) DO UPDATE
            SET last_sequence = j.last_sequence + excluded.last_sequence, updated_at = excluded.updated_at,
                settled_by = COALESCE(j.settled_by, excluded.settled_by),
                settled_at = COALESCE(j.settled_at, excluded.settled_at)
        """
        self._jobs = f"""
            SELECT json_array(j.tenant, j.job_id, j.row_id, j.last_sequence, j.settled_by) AS j
            FROM json_each(?) w CROSS JOIN {name("jobs")} j
            ON j.tenant = json_extract(w.value, '$[0]') AND j.job_id = json_extract(w.value, '$[1]')
        """
        self._keep_sequence = f"""
            INSERT INTO {name("job_events")} (job_row, sequence, event_row, kind)
            SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                   json_extract(value, '$[3]')
            FROM json_each(?)
        """
        self._deliver_plain = plain(name)
        self._deliver = of_jobs(name, progress=False)
        self._deliver_progress = of_jobs(name, progress=True)
        # Newer progress takes the place of older progress only where it is delivered itself.
        self._obsolete = f"""
            SELECT json_array(row_id, event_row, lane, endpoint_row) AS j FROM (
                SELECT d.row_id, json_extract(s.value, '$[2]') AS event_row, d.lane, d.endpoint_row,
                       min(json_extract(s.value, '$[3]'))
                FROM json_each(?) s
                CROSS JOIN {name("deliveries")} d ON d.progress_of = json_extract(s.value, '$[0]')
                    AND d.sequence < json_extract(s.value, '$[3]') AND d.state = 'pending'
                    AND d.progress_of IS NOT NULL
                CROSS JOIN {name("events")} e ON e.row_id = d.event_row
                WHERE json_extract(s.value, '$[1]') IS NULL OR (json_extract(s.value, '$[1]') = e.type AND EXISTS (
                    SELECT 1 FROM {name("deliveries")} n
                    WHERE n.event_row = json_extract(s.value, '$[2]') AND n.endpoint_row = d.endpoint_row))
                GROUP BY d.row_id
            )
        """
        self._supersede = f"""
            UPDATE {name("deliveries")} AS d
            SET state = 'superseded', reason = 'superseded', superseded_by = o.event_row, due_at = NULL, updated_at = ?2
            FROM (SELECT json_extract(value, '$[0]') AS row_id, json_extract(value, '$[1]') AS event_row
                  FROM json_each(?1)) AS o
            WHERE d.row_id = o.row_id
        """
        self._stillborn = f"""
            SELECT count(*) FROM json_each(?) s
            CROSS JOIN {name("deliveries")} d ON d.event_row = s.value WHERE d.state = 'superseded'
        """
        self._held = f"""
            SELECT EXISTS (SELECT 1 FROM json_each(?) s CROSS JOIN {name("deliveries")} d ON d.event_row = s.value
                           WHERE d.state = 'pending' AND d.due_at IS NOT NULL)
        """

    def waiting(self, connection: Connection) -> list[str]:
        """The tenants whose events wait; asked before a write transaction is opened for nothing."""
        return [row[0] for row in connection.rows(self._tenants)]

    def flagged(self, connection: Connection) -> bool:
        """Whether callbacks were registered since it was last looked whether their jobs have settled."""
        return bool(connection.one(self._flagged))

    def run(self, connection: Connection, tenants: list[str], limit: int, now: int) -> FannedOut:
        """One batch, inside the caller's transaction. Tenants take turns: each gets an equal share of it; where they
        are more than it holds, those come first that the last one ended before."""
        events: list[Queued] = []
        gone: list[Rejected] = []
        taken: list[int] = []
        ids: list[str] = []
        turns = sorted(tenants, key=lambda tenant: (tenant <= self._last_tenant, tenant))[:limit]
        self._last_tenant = turns[-1]
        for tenant in turns:
            batch = connection.rows(self._batch, (tenant, max(1, limit // len(tenants))))
            if batch:
                connection.run(self._take, (tenant, batch[-1][0]))
                events += self._queued(batch)
                gone += [Rejected(row[0], NO_EVENT) for row in batch if row[5]]
                taken += [row[0] for row in batch]
                ids += [row[6] for row in batch if not row[5]]
        done = self._fan_out(connection, events, now) if events else FannedOut(0, 0)
        return replace(done, events=len(taken), rejected=tuple(gone), rows=frozenset(taken), ids=ids)

    def run_one(self, connection: Connection, tenants: list[str], now: int) -> FannedOut:
        """The event whose turn it is, alone; rejected where it cannot be fanned out."""
        tenant = min(tenants, key=lambda tenant: (tenant <= self._last_tenant, tenant))
        self._last_tenant = tenant
        event_row = connection.one(self._next, (tenant,))
        if event_row is None:
            return FannedOut(0, 0)
        connection.run("SAVEPOINT one_event")
        try:
            connection.run(self._lift_counter, (event_row,))
            done = self.run(connection, [tenant], 1, now)
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) and is_outage(error):
                raise
            connection.run("ROLLBACK TO one_event")
            connection.run(self._take, (tenant, event_row))
            reason = f"{type(error).__name__}: {error}"
            connection.run(self._reject, (event_row, reason, now))
            done = FannedOut(1, 0, rejected=(Rejected(event_row, reason),))
        connection.run("RELEASE one_event")
        return done

    def _queued(self, batch: Sequence[Sequence[Any]]) -> list[Queued]:
        return [
            Queued(row_id, owner, event_type, job_id, self._kinds.of(event_type, kind, job_id))
            for row_id, owner, event_type, job_id, kind, gone, _ in batch
            if not gone
        ]

    def _fan_out(self, connection: Connection, events: Sequence[Queued], now: int) -> FannedOut:
        if all(event.job_id is None for event in events):
            return FannedOut(len(events), self._fan_out_plain(connection, events, now))
        numbered, settled_by = self._number_jobs(connection, events, now)
        superseded, found = superseding(list(numbered.values()), settled_by)
        rows = []
        for event in events:
            row = [event.event_row, event.tenant, event.event_type, event.job_id]
            place = numbered.get(event.event_row)
            if place is not None:
                row += [place.job_row, place.sequence]
                if place.kind is EventKind.PROGRESS:
                    row += [place.job_row, superseded.get(event.event_row)]
            rows.append(row)
        pairs = [
            [event_type, pattern]
            for event_type in {event.event_type for event in events}
            for pattern in _patterns(event_type)
        ]
        # Whatever ends up in a row costs its share of the writer's time, so most batches get the shorter statement.
        progress = [place.event_row for place in numbered.values() if place.kind is EventKind.PROGRESS]
        deliver = self._deliver_progress if progress else self._deliver
        made = connection.run(deliver, (as_json(rows), as_json(pairs), now))
        count = connection.one(self._stillborn, (as_json(superseded),)) if superseded else 0
        held = False
        if found:
            newer = as_json([s.job_row, s.event_type, s.event_row, s.sequence] for s in found)
            obsolete = connection.rows(self._obsolete, (newer,))
            if obsolete:
                count += connection.run(self._supersede, (as_json(obsolete), now))
                lanes = {(lane, endpoint_row) for _, _, lane, endpoint_row in obsolete if lane is not None}
                _, held = self._record.free_heads(connection, lanes, now)
        if progress and not held:
            held = bool(connection.one(self._held, (as_json(progress),)))
        jobs = frozenset(place.job_row for place in numbered.values())
        return FannedOut(len(events), made, superseded=count, held=held, jobs=jobs)

    def _fan_out_plain(self, connection: Connection, events: Sequence[Queued], now: int) -> int:
        """Events without jobs: who gets them follows from their tenant and type, in most batches one and the same."""
        alike: dict[tuple[str, str], list[int]] = {}
        for event in events:
            alike.setdefault((event.tenant, event.event_type), []).append(event.event_row)
        kinds = as_json([tenant, _patterns(event_type)] for tenant, event_type in alike)
        return connection.run(self._deliver_plain, (as_json(alike.values()), kinds, now))

    def _number_jobs(
        self, connection: Connection, events: Sequence[Queued], now: int
    ) -> tuple[dict[int, Numbered], dict[int, int]]:
        """Gives the events of jobs their places, by event; and by job the event that has settled it, if one has."""
        counts, settling = count_jobs(events)
        if not counts:
            return {}, {}
        numbers = as_json([*job, count, settling.get(job)] for job, count in counts.items())
        connection.run(self._number, (numbers, now))
        jobs = connection.rows(self._jobs, (numbers,))
        numbered = number(events, counts, {(row[0], row[1]): (row[2], row[3]) for row in jobs})
        connection.run(
            self._keep_sequence,
            (
                as_json(
                    [p.job_row, p.sequence, p.event_row, None if p.kind is EventKind.STATE else p.kind]
                    for p in numbered
                ),
            ),
        )
        return (
            {place.event_row: place for place in numbered},
            {row[2]: row[4] for row in jobs if row[4] is not None},
        )
