"""The command line with a weak spot: once armed, the next passing of the step that CHAOS_DOOM names is a kill -9,
or the signal that CHAOS_DOOM_SIGNAL names.

`python -m tests.chaos.doomed work …` is armed by SIGUSR1; CHAOS_DOOM_AT arms it from the start, for that passing. The
steps are wrapped from outside, so that the code under test knows nothing of them.
"""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.cli.main import main
from dispatcher.store import redelivery_runs
from dispatcher.store.database import Database
from dispatcher.store.postgres import fan_out as postgres_fan_out
from dispatcher.store.postgres import record as postgres_record
from dispatcher.store.postgres.store import PostgresStore
from dispatcher.store.sqlite import fan_out as sqlite_fan_out
from dispatcher.store.sqlite import record as sqlite_record
from dispatcher.store.sqlite.store import SqliteStore
from dispatcher.transport.client import HttpClient

STORES: tuple[Any, ...] = (PostgresStore, SqliteStore)


class _Doom:
    """Counts the passings of one step; the last one is the process's."""

    def __init__(self) -> None:
        #: Null until it is armed.
        self.left: int | None = None

    def passed(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.Signals[os.environ.get("CHAOS_DOOM_SIGNAL", "SIGKILL")])

    def arm(self, *_: object) -> None:
        self.left = 1


doom = _Doom()


def _put(owner: Any, wrapped: object, name: str) -> None:
    setattr(owner, name, wrapped)


def _before(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def doomed(*args: Any, **kwargs: Any) -> Any:
        doom.passed()
        return original(*args, **kwargs)

    _put(owner, doomed, name)


def _after(owner: Any, name: str, when: Callable[[Any], object] = lambda result: True) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(original)
    async def doomed(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if when(result):
            doom.passed()
        return result

    _put(owner, doomed, name)


def _stores(name: str, when: Callable[[Any], object]) -> None:
    for store in STORES:
        _after(store, name, when)


def _after_claim() -> None:
    _stores("claim", lambda batch: batch.deliveries)


def _before_post() -> None:
    _before(HttpClient, "post")


def _after_post() -> None:
    _after(HttpClient, "post")


def _within_record() -> None:
    # Its log is written, its rows are not changed (SQLite); all of that is, and no lane moved on (PostgreSQL).
    original = sqlite_record.Record.run

    @wraps(original)
    def run(self: Any, connection: Any, *args: Any) -> Any:
        execute = connection.run

        def watched(sql: str, *parameters: Any) -> Any:
            if sql is self._delivered:
                doom.passed()
            return execute(sql, *parameters)

        connection.run = watched
        try:
            return original(self, connection, *args)
        finally:
            del connection.run

    _put(sqlite_record.Record, run, "run")
    _before(postgres_record.Record, "settle_lanes")


def _after_record() -> None:
    _stores("record", lambda recorded: True)


def _within_fan_out() -> None:
    # Its jobs have counted on, its deliveries are not made.
    original = sqlite_fan_out.FanOut._number_jobs

    @wraps(original)
    def number_jobs(*args: Any) -> Any:
        result = original(*args)
        doom.passed()
        return result

    _put(sqlite_fan_out.FanOut, number_jobs, "_number_jobs")
    _after(postgres_fan_out.FanOut, "_number_jobs")


def _after_fan_out() -> None:
    _stores("fan_out", lambda result: result.events)


def _within_redelivery() -> None:
    # The deliveries are pending again, the run does not know it yet.
    _after(redelivery_runs, "put_back")


def _after_redelivery() -> None:
    stepped: list[AsyncConnection] = []
    step, begin = redelivery_runs.step, Database.begin

    @wraps(step)
    async def watched(connection: AsyncConnection, *args: Any) -> Any:
        result = await step(connection, *args)
        if result.put_back:
            stepped.append(connection)
        return result

    @asynccontextmanager
    async def committed(self: Database, **options: Any) -> AsyncIterator[AsyncConnection]:
        async with begin(self, **options) as connection:
            yield connection
        if connection in stepped:
            doom.passed()

    _put(redelivery_runs, watched, "step")
    _put(Database, committed, "begin")


def _within_reclaim() -> None:
    _stores("orphans", lambda orphans: orphans)


def _within_migration() -> None:
    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("CREATE", "ALTER", "INSERT", "UPDATE")):
            doom.passed()

    event.listen(Engine, "before_cursor_execute", before)


STEPS: dict[str, Callable[[], None]] = {
    "after-claim": _after_claim,
    "before-post": _before_post,
    "after-post": _after_post,
    "within-record": _within_record,
    "after-record": _after_record,
    "within-fan-out": _within_fan_out,
    "after-fan-out": _after_fan_out,
    "within-redelivery": _within_redelivery,
    "after-redelivery": _after_redelivery,
    "within-reclaim": _within_reclaim,
    "within-migration": _within_migration,
}

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, doom.arm)
    STEPS[os.environ["CHAOS_DOOM"]]()
    if "CHAOS_DOOM_AT" in os.environ:
        doom.left = int(os.environ["CHAOS_DOOM_AT"])
    main()
