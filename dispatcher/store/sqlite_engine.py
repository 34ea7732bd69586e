"""SQLite as producers and cold paths need it: a real BEGIN, a busy timeout, write-ahead logging.

Plain drivers make phantoms: a first statement inside a savepoint outlives a rollback, since no BEGIN was
sent; and a deferred transaction that reads first fails at once when another has written meanwhile.
"""

import sqlite3
import time
from typing import Any
from weakref import WeakSet

from sqlalchemy import Dialect, Engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from dispatcher.errors import ConfigurationError

#: How long a writer waits for another one, in milliseconds.
BUSY_TIMEOUT_MS = 10_000

#: SQLite's own wait grows to 100 ms between two looks: beside a writer that is seldom idle it rarely looks when it
#: could begin. So it begins its wait anew so often, in milliseconds.
_LOOK_AGAIN_MS = 30
_BEGIN = f"PRAGMA busy_timeout = {_LOOK_AGAIN_MS}; BEGIN IMMEDIATE; PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}"

#: The file cannot be used, or not now; any other error is about a statement or a row.
_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)

#: An engine's copies with `execution_options` share its dialect and its listeners.
_PREPARED: WeakSet[Dialect] = WeakSet()


def is_outage(error: sqlite3.Error) -> bool:
    """Whether the file could not be used, or not now; else the statement or a row was wrong."""
    # The primary code; the extended one says where.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _OUTAGES


def prepare_sqlite(engine: Engine | AsyncEngine) -> None:
    """Makes a producer's SQLite engine safe to publish with; call it once, right after `create_engine`.

    Each transaction then starts with `BEGIN IMMEDIATE`, so that a rollback undoes everything and writers wait
    for each other (10 s) instead of failing. Does nothing on another database. Raises `ConfigurationError`
    for what is no engine.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if not isinstance(target, Engine):
        raise ConfigurationError(f"prepare_sqlite takes an Engine or AsyncEngine, not {type(engine).__name__}")
    if target.dialect.name != "sqlite" or is_prepared(target):
        return
    event.listen(target, "connect", _on_connect)
    event.listen(target, "begin", _on_begin)
    _PREPARED.add(target.dialect)
    # The first connection may be in the pool already, opened before these listeners.
    target.dispose(close=False)


def is_prepared(engine: Engine) -> bool:
    """Whether `prepare_sqlite` was called for this engine, or for the one that it is an optioned copy of."""
    return engine.dialect in _PREPARED


def _on_connect(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("dispatcher_read_only", False):
        connection.exec_driver_sql("BEGIN")
        return
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while time.monotonic() < give_up_at:
        try:
            _run(connection.connection, _BEGIN)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                break
        else:
            return
    # Once more, for an error of SQLAlchemy's.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _run(connection: PoolProxiedConnection, script: str) -> None:
    driver = connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.executescript(script)
    else:
        connection.run_async(lambda driver: driver.executescript(script))
