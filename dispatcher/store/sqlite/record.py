"""Recording outcomes on SQLite: the same transitions as on PostgreSQL, in one write transaction."""

from collections.abc import Iterable, Sequence
from typing import Any

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.columns import to_microseconds
from dispatcher.store.hot import (
    BACKOFF_AFTER,
    BACKOFF_FIRST_S,
    BACKOFF_LONGEST_S,
    FAILING_AFTER,
    FAILING_AFTER_S,
    EndpointTally,
    Finished,
    Recorded,
    Tally,
)
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.tables import Tables


class Record:
    """The statements of the record, for one set of tables."""

    def __init__(self, tables: Tables) -> None:
        name = tables.name
        self._live = f"""
            SELECT json_array(d.row_id, e.status = 'disabled' OR e.deleted_at IS NOT NULL OR e.row_id IS NULL,
                              CASE WHEN e.deleted_at IS NOT NULL OR e.row_id IS NULL THEN 'endpoint_deleted'
                                   ELSE e.disabled_reason END) AS j
            FROM json_each(?) r
            CROSS JOIN {name("deliveries")} d ON d.row_id = json_extract(r.value, '$[0]')
            LEFT JOIN {name("endpoints")} e ON e.row_id = d.endpoint_row
            WHERE d.state = 'sending' AND d.attempts = json_extract(r.value, '$[1]')
              AND d.dispatcher_row = json_extract(r.value, '$[2]')
        """
        self._delivered = f"""
            UPDATE {name("deliveries")} AS d
            SET state = 'delivered', reason = NULL, due_at = NULL, dispatcher_row = NULL, failures = 0,
                interruptions = 0, last_status = r.status, last_error = NULL, updated_at = ?2
            FROM (SELECT json_extract(value, '$[0]') AS row_id, json_extract(value, '$[4]') AS status
                  FROM json_each(?1)) AS r
            WHERE d.row_id = r.row_id
        """
        self._failed = f"""
            UPDATE {name("deliveries")}
            SET state = ?2, reason = ?3, due_at = ?4,
                hold_until = CASE WHEN lane IS NOT NULL AND ?5 THEN COALESCE(hold_until, ?6) ELSE hold_until END,
                dispatcher_row = NULL, failures = ?7, interruptions = ?8, last_status = ?9, last_error = ?10,
                updated_at = ?11
            WHERE row_id = ?1
        """
        self._log = f"""
            INSERT INTO {name("attempts")}
                (delivery_row, number, started_at, duration_ms, status, error, response_excerpt)
            SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                   json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
                   json_extract(value, '$[6]')
            FROM json_each(?)
        """
        self._bury = f"""
            INSERT INTO {name("dead_letters")} (delivery_row, event_row, endpoint_row, tenant, type, job_id, reason,
                                                attempts, last_status, last_error, created_at)
            SELECT d.row_id, d.event_row, d.endpoint_row, d.tenant, e.type, e.job_id, d.reason, d.attempts,
                   d.last_status, d.last_error, ?2
            FROM {name("deliveries")} d JOIN {name("events")} e ON e.row_id = d.event_row WHERE d.row_id = ?1
        """
        self._free_head = f"""
            UPDATE {name("deliveries")} SET waiting = false WHERE waiting AND row_id = (
                SELECT h.row_id FROM {name("deliveries")} h WHERE h.lane = ?1 AND h.endpoint_row = ?2
                AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late ORDER BY h.sequence LIMIT 1
            )
        """
        self._hold_back = f"""
            UPDATE {name("deliveries")} AS d SET waiting = true
            WHERE d.row_id = ? AND d.state = 'pending' AND NOT d.late AND NOT d.waiting AND EXISTS (
                SELECT 1 FROM {name("deliveries")} h WHERE h.lane = d.lane AND h.endpoint_row = d.endpoint_row
                AND h.sequence < d.sequence AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late
            )
        """
        self._healthy = f"""
            UPDATE {name("endpoint_state")}
            SET failures_in_row = 0, backoff_failures = 0, backoff_delivery = NULL, backoff_several = false,
                first_failure_at = NULL, last_success_at = ?2, ramp = CASE WHEN ramp * 2 < 64 THEN ramp * 2 END
            WHERE endpoint_row = ?1
              AND (failures_in_row > 0 OR backoff_failures > 0 OR ramp IS NOT NULL OR last_success_at IS NULL
                   OR last_success_at < ?2 - 60000000)
        """
        self._state = f"""
            SELECT json_array(failures_in_row, backoff_failures, backoff_delivery, backoff_several, paused_until, ramp,
                              last_success_at, first_failure_at) AS j
            FROM {name("endpoint_state")} WHERE endpoint_row = ?
        """
        self._troubled = f"""
            UPDATE {name("endpoint_state")}
            SET failures_in_row = ?2, backoff_failures = ?3, backoff_delivery = ?4, backoff_several = ?5,
                paused_until = ?6, ramp = ?7, last_success_at = ?8, first_failure_at = ?9
            WHERE endpoint_row = ?1
        """

    def run(self, connection: Connection, batch: Sequence[Finished], now: int) -> Recorded:
        """One batch, inside the caller's transaction."""
        fences = as_json([f.delivery_row, f.attempt, f.dispatcher_row] for f in batch)
        live = {row[0]: (row[1], row[2]) for row in connection.rows(self._live, (fences,))}
        kept = [finished for finished in batch if finished.delivery_row in live]
        if kept:
            logged = as_json(_log_row(finished) for finished in kept)
            good = [finished for finished in kept if finished.outcome is Outcome.DELIVERED]
            if len(good) == len(kept):
                connection.run(self._delivered, (logged, now))
            elif good:
                connection.run(self._delivered, (as_json(_log_row(finished) for finished in good), now))
            connection.run(self._log, (logged,))
            for finished in kept:
                if finished.outcome is not Outcome.DELIVERED:
                    cancelled, reason = live[finished.delivery_row]
                    self._fail(connection, finished, reason if cancelled else None, now)
        lanes = {(f.lane, f.endpoint_row): None for f in kept if f.lane is not None}
        self.hold_back(
            connection, [f.delivery_row for f in kept if f.lane is not None and f.state is DeliveryState.PENDING]
        )
        freed = self.free_heads(connection, lanes)
        failing = [
            endpoint_row
            for endpoint_row, entry in Tally.of(kept).endpoints.items()
            if self._tally(connection, endpoint_row, entry, now)
        ]
        return Recorded(frozenset(f.delivery_row for f in batch) - live.keys(), freed, failing)

    def hold_back(self, connection: Connection, rows: Iterable[int]) -> None:
        """Lets what came back to its lane wait if a redelivery went before it meanwhile."""
        connection.run_many(self._hold_back, [(row,) for row in rows])

    def free_heads(self, connection: Connection, lanes: Iterable[tuple[int, int]]) -> bool:
        """Lets the heads of these lanes go; whether one had been waiting."""
        return sum([connection.run(self._free_head, lane) for lane in lanes]) > 0

    def _fail(self, connection: Connection, finished: Finished, cancelled: str | None, now: int) -> None:
        state, reason = finished.state, finished.reason and str(finished.reason)
        if state is DeliveryState.PENDING and cancelled is not None:
            state, reason = DeliveryState.CANCELLED, cancelled
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
            ),
        )
        if state is DeliveryState.DEAD:
            connection.run(self._bury, (finished.delivery_row, now))

    def _tally(self, connection: Connection, endpoint_row: int, entry: EndpointTally, now: int) -> bool:
        """Updates what is known of an endpoint; whether it failed for so long that it is to be disabled."""
        if not entry.failures and entry.pause_s is None:
            connection.run(self._healthy, (endpoint_row, now))
            return False
        known = connection.rows(self._state, (endpoint_row,))
        if not known:
            return False
        failures, backoffs, delivery, several, paused_until, ramp, last_success_at, first_failure_at = known[0]
        if entry.succeeded:
            failures, backoffs, delivery, several, first_failure_at = 0, 0, None, False, None
            last_success_at, ramp = now, ramp * 2 if ramp is not None and ramp * 2 < 64 else None
        failures += entry.failures
        was_open = several and backoffs >= BACKOFF_AFTER
        pausing = was_open and paused_until is not None and paused_until > now
        if entry.backoff_delivery is not None:
            several = bool(several) or entry.backoff_several or delivery not in (None, entry.backoff_delivery)
            delivery = entry.backoff_delivery
        if entry.backoffs and not pausing:
            backoffs = backoffs + 1 if was_open else backoffs + entry.backoffs
            if several and not was_open:
                backoffs = min(backoffs, BACKOFF_AFTER)
        if failures:
            first_failure_at = first_failure_at or now
        pauses = [paused_until] if paused_until is not None else []
        if entry.pause_s is not None:
            pauses.append(now + int(entry.pause_s * 1_000_000))
        if entry.backoffs and not pausing and backoffs >= BACKOFF_AFTER and several:
            pause_s = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2 ** min(backoffs - BACKOFF_AFTER, 20))
            pauses.append(now + int(pause_s * 1_000_000))
            ramp = 1
        values: tuple[Any, ...] = (
            endpoint_row,
            failures,
            backoffs,
            delivery,
            bool(several),
            max(pauses, default=None),
            ramp,
            last_success_at,
            first_failure_at,
        )
        connection.run(self._troubled, values)
        # Not since the last success: an endpoint that nothing was sent to for days did not fail then.
        lasting = first_failure_at is not None and now - first_failure_at > FAILING_AFTER_S * 1_000_000
        return failures >= FAILING_AFTER and lasting


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
