"""The database as the cold paths see it: an engine, short transactions, and foreign errors made ours."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.expression import ColumnElement, literal
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from dispatcher.clock import Clock
from dispatcher.errors import ConfigurationError, StoreUnavailable
from dispatcher.settings import Settings
from dispatcher.store.columns import UtcTime
from dispatcher.store.sqlite_engine import prepare_sqlite
from dispatcher.store.tables import DatabaseNow, Tables, tables
from dispatcher.store.urls import DatabaseUrl, parse_database_url

#: How long a call waits for a database that restarts or fails over, in seconds.
OUTAGE_PATIENCE_S = 5.0

#: The shortest and the longest time that a transaction may stand still, in seconds.
SHORTEST_IDLE_S = 2.0
LONGEST_IDLE_S = 600.0

_SQLITE_OUTAGES = frozenset(
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
#: Connection lost, resources used up, server going down or starting, lock or statement timed out, standby, collision.
_SQLSTATE_OUTAGES = ("08", "53", "57", "55P03", "25006", "40001", "40P01")


class Database:
    """An engine on the deployment's database, with its tables and clock."""

    def __init__(self, url: DatabaseUrl, engine: AsyncEngine, declared: Tables, clock: Clock) -> None:
        self.url = url
        self.engine = engine
        self.tables = declared
        self.clock = clock
        self.dialect = url.dialect
        self._let_us_in = False

    def now(self) -> ColumnElement[Any]:
        """*Now* in a statement: the clock's literal, or the database's own time."""
        moment = self.literal_now()
        return DatabaseNow() if moment is None else literal(moment, UtcTime())

    def literal_now(self) -> datetime | None:
        """*Now* as a value, also for hot statements; `None` where PostgreSQL's own time counts."""
        if self.dialect == "sqlite":
            return self.clock.now()
        return self.clock.literal_now()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a short write transaction: committed at the end, rolled back by an error.

        Waits some seconds for a database that restarts. Raises `StoreUnavailable`.
        """
        async with self._lent(await self._connect()) as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading only. Raises `StoreUnavailable`."""
        async with self._lent(await self._connect(readonly=True)) as connection:
            yield connection

    @asynccontextmanager
    async def _lent(self, connection: AsyncConnection) -> AsyncIterator[AsyncConnection]:
        try:
            try:
                yield connection
            finally:
                await connection.close()
        except DBAPIError as error:
            if _is_outage(error):
                raise _unavailable(error) from error
            raise

    async def _connect(self, *, readonly: bool = False) -> AsyncConnection:
        engine = self.engine.execution_options(dispatcher_read_only=True) if readonly else self.engine
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_pass),
                stop=stop_after_delay(OUTAGE_PATIENCE_S),
                wait=wait_random_exponential(multiplier=0.05, max=1),
                reraise=True,
            ):
                with attempt:
                    connection = await engine.connect()
                    self._let_us_in = True
                    return connection
        except (DBAPIError, OSError) as error:
            if self._let_us_in or _may_pass(error):
                # Refused now, and not before: it is being moved, restored or locked, and nothing here is to be changed.
                raise _unavailable(error) from error
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise ConfigurationError(
                f"the database refuses the connection ({cause}); check DISPATCHER_DATABASE_URL"
            ) from error
        raise StoreUnavailable("the database did not answer")

    async def close(self) -> None:
        """Closes every connection of the pool."""
        await self.engine.dispose()


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, OSError) or (isinstance(error, DBAPIError) and _is_outage(error))


def _is_outage(error: DBAPIError) -> bool:
    """Whether the database could not be asked, or not now; else the statement was wrong."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        # The primary code; the extended one says where.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUTAGES
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, InternalError) and not sqlstate:
        # The driver's own: a connection that was interrupted in the middle of a statement.
        return True
    return sqlstate.startswith(_SQLSTATE_OUTAGES)


def _unavailable(error: BaseException) -> StoreUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return StoreUnavailable(f"the database did not answer ({type(cause).__name__}); try again when it is back")


def _end_abandoned_transactions(engine: AsyncEngine, after_s: float) -> None:
    """Has the server end transactions in which nothing happens: their process was paused, or its host is gone.

    Else the rows that it holds, such as a duty's, would stop all others for as long as its connection seems to live.
    """

    def on_connect(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET idle_in_transaction_session_timeout = {int(after_s * 1000)}")
        cursor.close()
        connection.commit()

    event.listen(engine.sync_engine, "connect", on_connect)


def open_database(settings: Settings, clock: Clock, *, pool_size: int = 10) -> Database:
    """The deployment's database; nothing is connected yet. Raises `ConfigurationError`."""
    url = parse_database_url(settings.database_url)
    if url.dialect == "sqlite":
        if settings.schema_name:
            raise ConfigurationError(
                "DISPATCHER_SCHEMA is for PostgreSQL; with SQLite set DISPATCHER_TABLE_PREFIX, or nothing"
            )
        engine = create_async_engine(url.url, connect_args={"timeout": 0}, hide_parameters=True)
        prepare_sqlite(engine)
    else:
        try:
            engine = create_async_engine(
                url.url,
                connect_args={"timeout": OUTAGE_PATIENCE_S, **url.connect_args},
                pool_size=pool_size,
                max_overflow=5,
                pool_pre_ping=True,
                hide_parameters=True,
                pool_recycle=1800,
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "PostgreSQL needs the asyncpg driver: pip install 'outbox-dispatcher[postgres]'"
            ) from error
        _end_abandoned_transactions(engine, min(max(SHORTEST_IDLE_S, settings.lease.total_seconds()), LONGEST_IDLE_S))
    return Database(url, engine, tables(settings.schema_name, settings.table_prefix), clock)
