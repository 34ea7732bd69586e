"""What is learnt about endpoints and destinations on PostgreSQL: failures in a row, pauses, slow start."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from dispatcher.store.postgres.connection import Driver
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

#: The moment of the record, the first parameter of each statement.
NOW = "COALESCE($1, clock_timestamp())"


class Learnt:
    """The statements for endpoints, or for destinations, which have the same columns.

    `cap`: what is at most sent at once to the one of `s`, in SQL, where it is learnt how much of that it takes.
    """

    def __init__(self, table: str, key: str, cap: str | None = None) -> None:
        self._table = table
        self._key = key
        self._cap = cap
        self._lock = f"SELECT FROM {table} WHERE {key} = ANY($1) ORDER BY {key} FOR NO KEY UPDATE"
        self._well = self.healthy("SELECT * FROM unnest($2::bigint[], $3::int[]) AS well(target_row, successes)")
        self._ill = _troubled(table, key)
        self._overloaded = f"""
            UPDATE {table} s
            SET takes = GREATEST(1, LEAST({cap}, CASE WHEN s.paused_until > {NOW} THEN NULL ELSE s.ramp END, s.takes)
                                    - r.overloads
                                    + r.successes::float8 / {SUCCESSES_FOR_ONE}),
                paused_until = CASE
                    WHEN s.takes - r.overloads < 1
                         AND (r.successes > 0 OR s.last_success_at > {NOW} - {RECENTLY_S} * interval '1 second')
                    THEN GREATEST(s.paused_until, {NOW} + {BREATH_S} * interval '1 second')
                    ELSE s.paused_until END
            FROM unnest($2::bigint[], $3::int[], $4::int[]) AS r(row_id, overloads, successes)
            WHERE s.{key} = r.row_id
        """

    def healthy(self, well: str) -> str:
        """The statement that forgets the failures of what does well again; `well`: `target_row` and `successes`."""
        # Up to what it may be sent at most: then nothing is learnt of it any more.
        more = f"s.takes + held.successes::float8 / {SUCCESSES_FOR_ONE}"
        takes = f", takes = CASE WHEN s.takes IS NOT NULL AND {more} < {self._cap} THEN {more} END" if self._cap else ""
        # In one order, as everybody locks these rows who locks several: nobody waits for somebody who waits for them.
        return f"""
            UPDATE {self._table} s
            SET failures_in_row = 0, backoff_failures = 0, backoff_delivery = NULL, backoff_several = false,
                first_failure_at = NULL, last_success_at = {NOW},
                ramp = CASE WHEN s.ramp * 2 < 64 THEN s.ramp * 2 END{takes}
            FROM (
                SELECT k.{self._key} AS target_row, well.successes
                FROM ({well}) well JOIN {self._table} k ON k.{self._key} = well.target_row
                WHERE k.failures_in_row > 0 OR k.backoff_failures > 0 OR k.ramp IS NOT NULL
                      OR k.last_success_at IS NULL OR k.last_success_at < {NOW} - interval '1 minute'
                      {"OR k.takes IS NOT NULL" if self._cap else ""}
                ORDER BY k.{self._key} FOR NO KEY UPDATE OF k
            ) held
            WHERE s.{self._key} = held.target_row
        """

    async def lock(self, driver: Driver, rows: Iterable[int]) -> None:
        """Keeps others from these rows until the transaction ends; what follows sees what they did before."""
        await driver.execute(self._lock, list(rows))

    async def note(self, driver: Driver, entries: Mapping[int, TargetTally], now: datetime | None) -> list[int]:
        """Updates what is known; answers those that failed for so long that an endpoint is to be disabled."""
        well = [(row, e.untold) for row, e in entries.items() if not e.failures and e.pause_s is None]
        ill = [(row, entry) for row, entry in entries.items() if entry.failures or entry.pause_s is not None]
        overloaded = [(row, e.overloads, e.successes) for row, e in entries.items() if e.overloads and self._cap]
        if ill or overloaded:
            await self.lock(driver, entries)
        if overloaded:
            await driver.execute(self._overloaded, now, *(list(column) for column in zip(*overloaded, strict=True)))
        if well:
            await driver.execute(self._well, now, [row for row, _ in well], [untold for _, untold in well])
        if not ill:
            return []
        rows = await driver.fetch(
            self._ill,
            now,
            [row for row, _ in ill],
            [entry.succeeded for _, entry in ill],
            [entry.failures for _, entry in ill],
            [entry.backoffs for _, entry in ill],
            [entry.backoff_delivery for _, entry in ill],
            [entry.backoff_several for _, entry in ill],
            [entry.pause_s for _, entry in ill],
        )
        return [row for row, failing in rows if failing]


def _troubled(table: str, key: str) -> str:
    """Counts the failures of endpoints or destinations, and pauses those that have had too many."""
    return f"""
        WITH r AS (
            SELECT * FROM unnest($2::bigint[], $3::bool[], $4::int[], $5::int[], $6::bigint[], $7::bool[],
                                 $8::float8[])
            AS r(row_id, succeeded, failures, backoffs, delivery, several, pause_s)
        ),
        known AS (
            SELECT s.*, r.succeeded, r.failures, r.backoffs, r.delivery, r.several, r.pause_s,
                   NOT r.succeeded AND s.backoff_several AND s.backoff_failures >= {BACKOFF_AFTER} AS was_open
            FROM r JOIN {table} s ON s.{key} = r.row_id
        ),
        changed AS (
            SELECT k.{key} AS target_row, k.pause_s, k.delivery,
                   CASE WHEN k.succeeded THEN 0 ELSE k.failures_in_row END + k.failures AS failures_in_row,
                   k.backoffs > 0 AND NOT (k.was_open AND COALESCE(k.paused_until > {NOW}, false)) AS counts,
                   k.was_open, k.backoffs,
                   CASE WHEN k.succeeded THEN 0 ELSE k.backoff_failures END AS backoff_failures,
                   COALESCE(k.several OR (NOT k.succeeded AND (k.backoff_several
                                                               OR k.backoff_delivery <> k.delivery)), false)
                       AS several,
                   CASE WHEN k.succeeded THEN {NOW} ELSE k.last_success_at END AS last_success_at,
                   CASE WHEN k.succeeded THEN NULL ELSE k.first_failure_at END AS first_failure_at,
                   CASE WHEN k.succeeded AND k.ramp * 2 >= 64 THEN NULL
                        WHEN k.succeeded THEN k.ramp * 2 ELSE k.ramp END AS ramp
            FROM known k
        ),
        counted AS (
            SELECT c.target_row, c.pause_s, c.delivery, c.counts, c.several, c.failures_in_row,
                   c.last_success_at, c.first_failure_at, c.ramp,
                   CASE WHEN NOT c.counts THEN c.backoff_failures
                        WHEN c.was_open THEN c.backoff_failures + 1
                        WHEN c.several THEN LEAST(c.backoff_failures + c.backoffs, {BACKOFF_AFTER})
                        ELSE c.backoff_failures + c.backoffs END AS backoff_failures
            FROM changed c
        ),
        opened AS (
            SELECT c.*, c.counts AND c.backoff_failures >= {BACKOFF_AFTER} AND c.several AS opens FROM counted c
        )
        UPDATE {table} s
        SET failures_in_row = o.failures_in_row, backoff_failures = o.backoff_failures,
            backoff_delivery = COALESCE(o.delivery, s.backoff_delivery),
            backoff_several = o.several, last_success_at = o.last_success_at,
            first_failure_at = CASE WHEN o.failures_in_row > 0 THEN COALESCE(o.first_failure_at, {NOW}) END,
            ramp = CASE WHEN o.opens THEN 1 ELSE o.ramp END,
            paused_until = GREATEST(
                s.paused_until, {NOW} + o.pause_s * interval '1 second',
                CASE WHEN o.opens THEN {NOW} + interval '1 second' * LEAST(
                    {BACKOFF_LONGEST_S},
                    {BACKOFF_FIRST_S} * 2 ^ LEAST(o.backoff_failures - {BACKOFF_AFTER}, 20)) END)
        FROM opened o WHERE s.{key} = o.target_row
        RETURNING s.{key}, s.failures_in_row >= {FAILING_AFTER}
            AND s.first_failure_at < {NOW} - {FAILING_AFTER_S} * interval '1 second'
    """
