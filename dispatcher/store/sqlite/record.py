"""Recording outcomes on SQLite: the same transitions as on PostgreSQL, in one write transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState, Reason
from dispatcher.store.columns import to_microseconds
from dispatcher.store.hot import Finished, Limits, Recorded
from dispatcher.store.own_events import to_tell
from dispatcher.store.sqlite.connection import Connection, as_json, from_json
from dispatcher.store.sqlite.learnt import Learnt
from dispatcher.store.sqlite.progress import due_as_head, took_its_place
from dispatcher.store.tables import Tables
from dispatcher.store.tally import Tally


class Record:
    """The statements of the record, for one set of tables."""

    def __init__(self, tables: Tables, limits: Limits) -> None:
        name = tables.name
        # `+ 0`: whatever somebody wrote there reads as a number, and is not the attempt's.
        self._live = f"""
            SELECT json_group_array(row_id), json_group_array(attempts + 0), json_group_array(dispatcher_row + 0)
            FROM {name("deliveries")} WHERE row_id IN (SELECT value FROM json_each(?)) AND state = 'sending'
        """
        self._cancelled = f"""
            SELECT json_array(d.row_id, CASE WHEN e.deleted_at IS NOT NULL OR e.row_id IS NULL THEN 'endpoint_deleted'
                                             ELSE e.disabled_reason END) AS j
            FROM {name("deliveries")} d LEFT JOIN {name("endpoints")} e ON e.row_id = d.endpoint_row
            WHERE d.row_id IN (SELECT value FROM json_each(?))
              AND (e.status = 'disabled' OR e.deleted_at IS NOT NULL OR e.row_id IS NULL)
        """
        self._delivered = f"""
            UPDATE {name("deliveries")}
            SET state = 'delivered', reason = NULL, due_at = NULL, dispatcher_row = NULL, failures = 0,
                interruptions = 0, last_status = ?2, last_error = NULL, updated_at = ?3
            WHERE row_id IN (SELECT value FROM json_each(?1))
        """
        self._failed = f"""
            UPDATE {name("deliveries")}
            SET state = ?2, reason = ?3, due_at = ?4,
                hold_until = CASE WHEN lane IS NOT NULL AND ?5 THEN COALESCE(hold_until, ?6) ELSE hold_until END,
                dispatcher_row = NULL, failures = ?7, interruptions = ?8, last_status = ?9, last_error = ?10,
                fresh = fresh AND ?7 = 0,
                updated_at = ?11, superseded_by = ?12
            WHERE row_id = ?1
        """
        self._took_its_place = f"""
            SELECT {took_its_place(name, "d")} FROM {name("deliveries")} d WHERE d.row_id = ?
        """
        self._log = f"""
            INSERT INTO {name("attempts")}
                (delivery_row, number, started_at, duration_ms, status, error, response_excerpt)
        """
        self._bury = f"""
            INSERT INTO {name("dead_letters")} (delivery_row, event_row, endpoint_row, tenant, type, job_id, reason,
                                                attempts, last_status, last_error, created_at, untold)
            SELECT d.row_id, d.event_row, d.endpoint_row, d.tenant, COALESCE(e.type, ''), e.job_id, d.reason,
                   d.attempts, d.last_status, d.last_error, ?2,
                   {to_tell(name, "d.tenant", "d.endpoint_row", "COALESCE(e.type, '')")}
            FROM {name("deliveries")} d LEFT JOIN {name("events")} e ON e.row_id = d.event_row WHERE d.row_id = ?1
        """
        self._free_heads = f"""
            UPDATE {name("deliveries")} AS d SET waiting = false, due_at = {due_as_head(name, "d", "?2", "d.due_at")}
            FROM (
                SELECT (
                    SELECT h.row_id FROM {name("deliveries")} h WHERE h.lane = json_extract(value, '$[0]')
                    AND h.endpoint_row = json_extract(value, '$[1]') AND h.lane IS NOT NULL
                    AND h.state IN ('pending', 'sending') AND NOT h.late ORDER BY h.sequence LIMIT 1
                ) AS row_id FROM json_each(?1)
            ) AS head
            WHERE d.row_id = head.row_id AND d.waiting RETURNING due_at IS NOT NULL
        """
        self._hold_back = f"""
            UPDATE {name("deliveries")} AS d SET waiting = true
            WHERE d.row_id = ? AND d.state = 'pending' AND NOT d.late AND NOT d.waiting AND EXISTS (
                SELECT 1 FROM {name("deliveries")} h WHERE h.lane = d.lane AND h.endpoint_row = d.endpoint_row
                AND h.sequence < d.sequence AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late
            )
        """
        self._endpoint = Learnt(
            name("endpoint_state"),
            "endpoint_row",
            f"COALESCE((SELECT max_in_flight FROM {name('endpoints')} e WHERE e.row_id = endpoint_row),"
            f" {limits.per_endpoint})",
        )
        self._destination = Learnt(name("destinations"), "row_id")
        self._verify = f"UPDATE {name('destinations')} SET verified_at = ?2 WHERE row_id = ?1 AND verified_at IS NULL"

    def run(self, connection: Connection, batch: Sequence[Finished], now: int) -> Recorded:
        """One batch, inside the caller's transaction."""
        live = self._still_sending(connection, batch)
        kept = [f for f in batch if (f.delivery_row, f.attempt, f.dispatcher_row) in live]
        connection.insert(self._log, [_log_row(finished) for finished in kept])
        delivered: dict[int | None, list[int]] = {}
        failed: list[Finished] = []
        for finished in kept:
            if finished.outcome is Outcome.DELIVERED:
                delivered.setdefault(finished.status, []).append(finished.delivery_row)
            else:
                failed.append(finished)
        for status, rows in delivered.items():
            connection.run(self._delivered, (as_json(rows), status, now))
        superseded: set[int] = set()
        if failed:
            theirs = as_json(finished.delivery_row for finished in failed)
            cancelled: dict[int, str | None] = dict(connection.rows(self._cancelled, (theirs,)))
            for finished in failed:
                state = self._fail(connection, finished, cancelled, now)
                if state is DeliveryState.SUPERSEDED:
                    superseded.add(finished.delivery_row)
        lanes = {(f.lane, f.endpoint_row): None for f in kept if f.lane is not None}
        self.hold_back(
            connection, [f.delivery_row for f in failed if f.lane is not None and f.state is DeliveryState.PENDING]
        )
        freed, held = self.free_heads(connection, lanes, now)
        tally = Tally.of(kept)
        self._destination.note(connection, tally.destinations, now)
        for destination_row in tally.verified:
            connection.run(self._verify, (destination_row, now))
        failing = self._endpoint.note(connection, tally.endpoints, now)
        lost = frozenset(f.delivery_row for f in batch) - {f.delivery_row for f in kept}
        return Recorded(lost, freed, failing, frozenset(superseded), held)

    def _still_sending(self, connection: Connection, batch: Sequence[Finished]) -> set[tuple[int, int, int]]:
        """Delivery, attempt and dispatcher of what of the batch is in flight, whoever has it there."""
        found = connection.row(self._live, (as_json(finished.delivery_row for finished in batch),))
        return set(zip(*map(from_json, found), strict=True))

    def hold_back(self, connection: Connection, rows: Iterable[int]) -> None:
        """Lets what came back to its lane wait if a redelivery went before it meanwhile."""
        connection.run_many(self._hold_back, [(row,) for row in rows])

    def free_heads(self, connection: Connection, lanes: Iterable[tuple[int, int]], now: int) -> tuple[bool, bool]:
        """Lets the heads of these lanes go; whether one had been waiting, and whether one is due later only."""
        heads = as_json(lanes)
        freed = connection.column(self._free_heads, (heads, now)) if heads != "[]" else []
        return bool(freed), any(freed)

    def took_its_place(self, connection: Connection, delivery_row: int) -> int | None:
        """The event that took the place of progress that is under way, if one did."""
        event_row: int | None = connection.one(self._took_its_place, (delivery_row,))
        return event_row

    def _fail(
        self, connection: Connection, finished: Finished, cancelled: dict[int, str | None], now: int
    ) -> DeliveryState:
        state, reason = finished.state, finished.reason and str(finished.reason)
        newer = None if finished.progress_of is None else self.took_its_place(connection, finished.delivery_row)
        if newer is not None:
            state, reason = DeliveryState.SUPERSEDED, str(Reason.SUPERSEDED)
        elif state is DeliveryState.PENDING and finished.delivery_row in cancelled:
            state, reason = DeliveryState.CANCELLED, cancelled[finished.delivery_row]
        retried = state is DeliveryState.PENDING
        connection.run(
            self._failed,
            (
                finished.delivery_row,
                str(state),
                reason,
                now + int(finished.delay_s * 1_000_000) if retried and finished.delay_s else None,
                retried and finished.failures > 0,
                None if finished.hold_s is None else now + int(finished.hold_s * 1_000_000),
                finished.failures,
                finished.interruptions,
                finished.status,
                finished.error and str(finished.error),
                now,
                newer,
            ),
        )
        if state is DeliveryState.DEAD:
            connection.run(self._bury, (finished.delivery_row, now))
        return state


def _log_row(finished: Finished) -> list[Any]:
    return [
        finished.delivery_row,
        finished.attempt,
        to_microseconds(finished.started_at),
        finished.duration_ms,
        finished.status,
        finished.error,
        finished.excerpt or None,
    ]
