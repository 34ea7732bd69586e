"""Checkpoints of a SQLite file beside its writer: what the log holds is copied into the file in a thread of its own.

Else the commit that makes the log long enough does it, and all that wait for the writer wait for two more flushes.
"""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dispatcher.logs import logger
from dispatcher.store.sqlite_engine import BUSY_TIMEOUT_MS

log = logger("dispatcher.store")

#: Pages in the log that are worth a checkpoint; with twice as many a commit does it, of whichever connection.
PAGES = 500
#: Commits between two of them at the most.
MOST_COMMITS = 1000


class Checkpoints:
    """A connection that only checkpoints."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dispatcher-checkpoint")
        self._connection: sqlite3.Connection | None = None
        self._under_way = False
        self._commits = 0
        #: Nobody but a checkpoint tells how long the log is: so many commits are taken to fill as much as is worth one.
        self._enough = 10
        self._kept = 0

    def committed(self) -> None:
        """The writer has committed; told in its thread. Checkpoints, elsewhere, where that may be worth it."""
        self._commits += 1
        if self._commits >= self._enough and not self._under_way:
            self._under_way = True
            self._thread.submit(self._checkpoint, self._commits)
            self._commits = 0

    def close(self) -> None:
        """Waits for the one under way, and closes the connection."""
        self._thread.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _checkpoint(self, commits: int) -> None:
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
                self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
                self._connection.execute("PRAGMA synchronous = FULL")
            # Passive: it waits for nobody, and nobody for it.
            _, pages, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            filled = pages - self._kept if pages > self._kept else pages
            # A log that was copied in full begins anew.
            self._kept = 0 if copied == pages else pages
            self._enough = max(1, min(MOST_COMMITS, commits * PAGES // max(1, filled)))
        except sqlite3.Error as error:
            # The writer's own commits do it where the log gets long.
            log.debug("store.not_checkpointed", error=str(error))
        finally:
            self._under_way = False
