"""A wall clock that is set, under a process that goes by it: its lease does not notice, and nothing waits for longer.

SQLite has no clock of its own, so this process's is the deployment's. What the store notes and compares is counted by
monotonic time, from a base of wall time that is taken anew with each heartbeat. Where that is found far off, the clock
was set, and the times in the file that something waits for are moved with it. After a jump forward only the holds of
lanes are, which keep an order; all else goes earlier, for a host that has slept looks just the same, and its time has
passed.
"""

from dispatcher.clock import Clock
from dispatcher.logs import logger
from dispatcher.store.columns import to_microseconds
from dispatcher.store.sqlite.connection import Connection
from dispatcher.store.tables import Tables

log = logger("dispatcher.clock")

#: What NTP slews, and what a thread may be late by, is no jump; in seconds.
LEAST_JUMP_S = 5.0


class Base:
    """Wall time at one moment, and the monotonic time then."""

    def __init__(self, clock: Clock, tables: Tables) -> None:
        self._clock = clock
        self.take()
        name = tables.name
        holds, waits = (
            tuple(
                f"UPDATE {name(table)} SET {column} = {column} + ?1 WHERE {which} {column} > ?2"
                for table, column, which in columns
            )
            for columns in (
                (
                    ("deliveries", "hold_until", "state = 'pending' AND"),
                    # A head that is in flight just now holds its lane too.
                    ("deliveries", "hold_until", "state = 'sending' AND"),
                ),
                (
                    ("deliveries", "due_at", "state = 'pending' AND"),
                    ("deliveries", "attempted_at", "progress_of IS NOT NULL AND attempts > 0 AND"),
                    ("endpoints", "heartbeat_due_at", "status = 'enabled' AND heartbeat_due_at IS NOT NULL AND"),
                    ("endpoint_state", "paused_until", ""),
                    ("destinations", "paused_until", ""),
                ),
            )
        )
        self._back, self._forward = holds + waits, holds

    def take(self) -> None:
        """The base is now."""
        #: Wall time in microseconds, and the monotonic time then in seconds.
        self.taken = (to_microseconds(self._clock.now()), self._clock.monotonic())

    def now(self) -> int:
        """Wall time in microseconds, going on evenly from the base whatever happens to the clock."""
        wall, monotonic_s = self.taken
        return wall + round((self._clock.monotonic() - monotonic_s) * 1_000_000)

    def follow(self, connection: Connection) -> None:
        """Takes the base anew; moves what something waits for by as much as the clock was set, if that was far.

        In the writer's thread, as all that goes by the base: nothing of before the jump is written behind it.
        """
        before = self.now()
        self.take()
        after = self.now()
        if abs(after - before) < LEAST_JUMP_S * 1_000_000:
            return
        log.warning("clock.jumped", seconds=round((after - before) / 1_000_000, 3))
        for move in self._back if after < before else self._forward:
            # Whatever lies ahead by either time; the rest has come already.
            connection.run(move, (after - before, min(before, after)))
