"""What is learnt about endpoints and destinations on SQLite: failures in a row, pauses, slow start."""

from collections.abc import Mapping
from typing import Any

from dispatcher.store.sqlite.connection import Connection, as_json, from_json
from dispatcher.store.tally import (
    BACKOFF_AFTER,
    BACKOFF_FIRST_S,
    BACKOFF_LONGEST_S,
    BREATH_S,
    FAILING_AFTER,
    FAILING_AFTER_S,
    RECENTLY_S,
    SUCCESSES_FOR_ONE,
    TargetTally,
)


class Learnt:
    """The statements for endpoints, or for destinations, which have the same columns."""

    def __init__(self, table: str, key: str, cap: str | None = None) -> None:
        """`cap`: what is at most sent at once to the one of this row, in SQL, where it is learnt how much it takes."""
        self._learns = cap is not None
        more = f"takes + CAST(?3 AS REAL) / {SUCCESSES_FOR_ONE}"
        # Up to what it may be sent at most: then nothing is learnt of it any more.
        takes = f", takes = CASE WHEN {more} < {cap} THEN {more} END" if cap else ""
        news = f"""(failures_in_row > 0 OR backoff_failures > 0 OR ramp IS NOT NULL OR last_success_at IS NULL
                    OR last_success_at < ?2 - 60000000 {"OR takes IS NOT NULL" if cap else ""})"""
        self._healthy = f"""
            UPDATE {table}
            SET failures_in_row = 0, backoff_failures = 0, backoff_delivery = NULL, backoff_several = false,
                first_failure_at = NULL, last_success_at = ?2, ramp = CASE WHEN ramp * 2 < 64 THEN ramp * 2 END{takes}
            WHERE {key} = ?1 AND {news}
        """
        self._with_news = f"""
            SELECT json_group_array({key}) FROM {table} WHERE {key} IN (SELECT value FROM json_each(?1)) AND {news}
        """
        self._overloaded = f"""
            UPDATE {table}
            SET takes = max(1, min({cap}, COALESCE(CASE WHEN paused_until > ?2 THEN NULL ELSE ramp END, {cap}),
                                   COALESCE(takes, {cap})) - ?3
                               + CAST(?4 AS REAL) / {SUCCESSES_FOR_ONE}),
                paused_until = CASE
                    WHEN takes - ?3 < 1 AND (?4 OR last_success_at > ?2 - {int(RECENTLY_S * 1_000_000)})
                    THEN max(COALESCE(paused_until, 0), ?2 + {int(BREATH_S * 1_000_000)}) ELSE paused_until END
            WHERE {key} = ?1
        """
        self._state = f"""
            SELECT json_array(failures_in_row, backoff_failures, backoff_delivery, backoff_several, paused_until, ramp,
                              last_success_at, first_failure_at) AS j
            FROM {table} WHERE {key} = ?
        """
        self._troubled = f"""
            UPDATE {table}
            SET failures_in_row = ?2, backoff_failures = ?3, backoff_delivery = ?4, backoff_several = ?5,
                paused_until = ?6, ramp = ?7, last_success_at = ?8, first_failure_at = ?9
            WHERE {key} = ?1
        """

    def note(self, connection: Connection, entries: Mapping[int, TargetTally], now: int) -> list[int]:
        """Updates what is known; answers which failed for so long that an endpoint is to be disabled."""
        well = [row for row, entry in entries.items() if _well(entry)]
        if len(well) > 1:
            # Of most there is nothing new to say, and one look at all costs less than a statement for each.
            (with_news,) = connection.row(self._with_news, (as_json(well), now))
            nothing_new = set(well).difference(from_json(with_news))
            entries = {row: entry for row, entry in entries.items() if row not in nothing_new}
        return [row for row, entry in entries.items() if self._note(connection, row, entry, now)]

    def _note(self, connection: Connection, row: int, entry: TargetTally, now: int) -> bool:
        if entry.overloads and self._learns:
            connection.run(self._overloaded, (row, now, entry.overloads, entry.successes))
        if not entry.failures and entry.pause_s is None:
            connection.run(self._healthy, (row, now, *([entry.untold] if self._learns else ())))
            return False
        known = connection.rows(self._state, (row,))
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
            row,
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


def _well(entry: TargetTally) -> bool:
    """Whether it only did what it should."""
    return not entry.overloads and not entry.failures and entry.pause_s is None
