"""The database as the cold paths see it: an engine, short transactions, and foreign errors made ours."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.expression import ColumnElement, literal
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from dispatcher.clock import Clock
from dispatcher.errors import ConfigurationError, StoreUnavailable
from dispatcher.settings import Settings
from dispatcher.store.columns import UtcTime
from dispatcher.store.sqlite_engine import is_outage, prepare_sqlite
from dispatcher.store.tables import DatabaseNow, Tables, tables
from dispatcher.store.urls import DatabaseUrl, parse_database_url

#: How long a call waits for a database that restarts or fails over, in seconds.
OUTAGE_PATIENCE_S = 5.0

#: How long a transaction of a cold path may take, in seconds. Where the network swallows everything, as after a host
#: is gone for good, the driver alone would wait until the kernel gives up, a quarter of an hour later.
COLD_LIMIT_S = 30.0
#: How long a server that says nothing is waited for when connections are closed, in seconds.
CLOSING_PATIENCE_S = 2.0

#: The shortest and the longest time that a transaction may stand still, in seconds.
SHORTEST_IDLE_S = 2.0
LONGEST_IDLE_S = 600.0
#: How many times as long one may last in all.
TRANSACTION_IDLES = 3

#: PostgreSQL 17 and later. Stopped between preparing a statement and running it, a client is not idle to the server,
#: and no other timeout ends that.
LIMIT_TRANSACTIONS = (
    "SELECT set_config('transaction_timeout', '{}', {}) WHERE current_setting('server_version_num')::int >= 170000"
)

#: A right that the role lacks: whoever took it away will have to give it back.
_NO_RIGHT = "42501"
#: Connection lost, resources used up, server going down or starting, its disk in trouble, lock, statement or
#: transaction timed out, standby, collision.
_SQLSTATE_OUTAGES = ("08", "53", "57", "58", "55P03", "25006", "25P03", "25P04", "40001", "40P01", _NO_RIGHT)


class Database:
    """An engine on the deployment's database, with its tables and clock."""

    def __init__(self, url: DatabaseUrl, engine: AsyncEngine, declared: Tables, clock: Clock) -> None:
        self.url = url
        self.engine = engine
        self.tables = declared
        self.clock = clock
        self.dialect = url.dialect
        self._let_us_in = False
        # Without a transaction on PostgreSQL, where it would promise nothing: each statement sees what is committed.
        reading = {"isolation_level": "AUTOCOMMIT"} if url.dialect == "postgresql" else {"dispatcher_read_only": True}
        self._reading = engine.execution_options(**reading)

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
    async def begin(self, *, limited: bool = True) -> AsyncIterator[AsyncConnection]:
        """A connection in a write transaction: committed at the end, rolled back by an error.

        Waits some seconds for a database that restarts. A transaction is short; one that people ask for and that goes
        over as much as there is may last (not `limited`). Raises `StoreUnavailable`.
        """
        async with self._lent(await self.connect(), limited=limited) as connection:
            transaction = await connection.begin()
            if not limited and self.dialect == "postgresql":
                await connection.execute(text(LIMIT_TRANSACTIONS.format(0, "true")))
            # An error leaves it to be rolled back when the connection is given back.
            yield connection
            await transaction.commit()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading only. Raises `StoreUnavailable`."""
        async with self._lent(await self.connect(readonly=True)) as connection:
            yield connection

    @asynccontextmanager
    async def _lent(self, connection: AsyncConnection, *, limited: bool = True) -> AsyncIterator[AsyncConnection]:
        limit = asyncio.timeout(COLD_LIMIT_S if limited else None)
        try:
            async with limit:
                try:
                    yield connection
                except asyncio.CancelledError:
                    if self.dialect == "postgresql":
                        # In the middle of a statement: a rollback would wait for its answer, which may never come.
                        await connection.invalidate()
                    raise
                finally:
                    await connection.close()
        except TimeoutError as error:
            if limit.expired():
                raise _unavailable(error) from error
            raise
        except DBAPIError as error:
            if _is_outage(error):
                raise _unavailable(error) from error
            raise

    async def connect(self, *, readonly: bool = False) -> AsyncConnection:
        """A connection of the pool; waits some seconds for a database that restarts. Raises `StoreUnavailable`."""
        engine = self._reading if readonly else self.engine
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_pass),
                stop=stop_after_delay(OUTAGE_PATIENCE_S),
                wait=wait_random_exponential(multiplier=0.05, max=1),
                reraise=True,
            ):
                with attempt:
                    # A pooled connection is asked first whether it lives, and may never answer.
                    async with asyncio.timeout(OUTAGE_PATIENCE_S):
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
        """Closes every connection of the pool; leaves them to the end of the process where nobody answers."""
        try:
            async with asyncio.timeout(CLOSING_PATIENCE_S):
                await self.engine.dispose()
        except TimeoutError:
            await self.engine.dispose(close=False)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, OSError) or (isinstance(error, DBAPIError) and _is_outage(error))


def _is_outage(error: DBAPIError) -> bool:
    """Whether the database could not be asked, or not now; else the statement was wrong."""
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return is_outage(cause)
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, InternalError) and not sqlstate:
        # The driver's own: a connection that was interrupted in the middle of a statement.
        return True
    return sqlstate.startswith(_SQLSTATE_OUTAGES)


def _unavailable(error: BaseException) -> StoreUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return StoreUnavailable(
            f"the database file cannot be used ({cause}); see that DISPATCHER_DATABASE_URL names it, that this user may"
            " write it, and that nobody else keeps it locked"
        )
    if getattr(cause, "sqlstate", None) == _NO_RIGHT:
        return StoreUnavailable(f"the database refuses ({str(cause).splitlines()[0]}); grant its role that right")
    return StoreUnavailable(f"the database did not answer ({type(cause).__name__}); try again when it is back")


def _end_abandoned_transactions(engine: AsyncEngine, after_s: float) -> None:
    """Has the server end transactions that stand still or do not end: their process was paused, or its host is gone.

    Else the rows that it holds, such as a duty's, would stop all others for as long as its connection seems to live.
    """

    def on_connect(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        milliseconds = int(after_s * 1000)
        cursor.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
        cursor.execute(LIMIT_TRANSACTIONS.format(milliseconds * TRANSACTION_IDLES, "false"))
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
        arguments = {"timeout": OUTAGE_PATIENCE_S, **url.connect_args}
        try:
            # Only here: the driver is an extra.
            from dispatcher.store.postgres.hosts import Hosts
            from dispatcher.store.postgres.liveness import ask_before_lending

            if url.several_hosts:
                arguments = {"async_creator_fn": Hosts(OUTAGE_PATIENCE_S).connect, **url.connect_args}
            engine = create_async_engine(
                url.url,
                connect_args=arguments,
                pool_size=pool_size,
                max_overflow=5,
                hide_parameters=True,
                pool_recycle=1800,
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "PostgreSQL needs the asyncpg driver: pip install 'outbox-dispatcher[postgres]'"
            ) from error
        ask_before_lending(engine)
        _end_abandoned_transactions(engine, min(max(SHORTEST_IDLE_S, settings.lease.total_seconds()), LONGEST_IDLE_S))
    return Database(url, engine, tables(settings.schema_name, settings.table_prefix), clock)
