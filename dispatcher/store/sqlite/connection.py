"""The connection of the dispatcher's one writer on a SQLite file, as a piece of work is given it.

Sets travel as JSON, in one parameter and in one row of the answer: each row that sqlite3 steps through hands the
interpreter's lock over twice, which costs more than the row while the event loop is busy.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import msgspec

from dispatcher.store.sqlite_engine import BUSY_TIMEOUT_MS

#: How long to wait while somebody else writes, before another try, in seconds.
_BUSY_PAUSE_S = 0.001

#: So many rows at once are inserted; fewer by a statement for as many or more, so that few statements are prepared.
_AT_ONCE = (1, 4, 16, 64)

#: What the log of the file may keep when it was emptied, in bytes.
LARGEST_LOG = 64 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
#: What such a set in an answer holds.
from_json: Callable[[str], list[Any]] = msgspec.json.Decoder(list[Any]).decode


def as_json(values: Iterable[Any]) -> str:
    """A set as the one parameter that `json_each` takes."""
    return _encode(list(values)).decode()


def as_object(values: Mapping[Any, Any]) -> str:
    """The same of values with keys, which are texts then."""
    return _encode(values).decode()


class Connection:
    """What a piece of work is given, inside the thread."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, cached_statements=256)
        # Other languages can store what is no UTF-8; one such text must not stop everything that is read with it.
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA cache_size = -16000")
        # A reader that does not end makes the log grow; once it is gone the disk gets that back.
        self._connection.execute(f"PRAGMA journal_size_limit = {LARGEST_LOG}")
        # From here on `begin` waits by itself.
        self._connection.execute("PRAGMA busy_timeout = 0")

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Executes; answers how many rows changed."""
        # Not `rowcount`, which knows nothing of statements that begin with WITH.
        before = self._connection.total_changes
        self._connection.execute(sql, parameters)
        return self._connection.total_changes - before

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Executes once per row."""
        if rows:
            self._connection.executemany(sql, rows)

    def insert(self, into: str, rows: Sequence[Sequence[Any]], conflict: str = "") -> None:
        """`INSERT INTO …` of these rows, whose first column is never null; `conflict` is what follows them."""
        most = _AT_ONCE[-1]
        for start in range(0, len(rows), most):
            taken = rows[start : start + most]
            size = next(size for size in _AT_ONCE if size >= len(taken))
            width = len(taken[0])
            marks = ",".join(["(" + ",".join("?" * width) + ")"] * size)
            values = [*chain.from_iterable(taken), *repeat(None, width * (size - len(taken)))]
            # What is left over is null.
            self._connection.execute(
                f"{into} SELECT * FROM (VALUES {marks}) WHERE column1 IS NOT NULL {conflict}", values
            )

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row; null when there is none."""
        row = self._connection.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row; null when there is none."""
        return self._connection.execute(sql, parameters).fetchone()

    def column(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The first column of all rows, of a statement that may change them."""
        return [row[0] for row in self._connection.execute(sql, parameters).fetchall()]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[list[Any]]:
        """All rows, of a statement that selects `json_array(…)` as its only column, named `j`."""
        # Each `j` is JSON already, and `json_group_array` would parse it again.
        text = self.one(f"SELECT '[' || COALESCE(group_concat(j, ','), '') || ']' FROM ({sql})", parameters)
        return from_json(text)

    def begin(self, wanted: Callable[[], bool]) -> None:
        """Begins to write, as soon as nobody else does.

        Raises `sqlite3.OperationalError` after the busy timeout, or as soon as it is not `wanted` any more.
        """
        give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                # The low byte: a lock that recovery or a checkpoint holds has an extended code.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > give_up_at or not wanted():
                    raise
                # SQLite's own wait grows to 100 ms, in which one producer after another would go first.
                time.sleep(_BUSY_PAUSE_S)
            else:
                return

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


def version_of(connection: Connection) -> int:
    """A number that changes with every commit of another connection than this one."""
    version: int = connection.one("PRAGMA data_version")
    return version
