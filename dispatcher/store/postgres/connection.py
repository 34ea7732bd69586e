"""A driver connection per role, kept open; what PostgreSQL says when it goes away is made ours here."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
from msgspec.json import Encoder
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import StoreUnavailable
from dispatcher.store.database import LIMIT_TRANSACTIONS, Database

T = TypeVar("T")

#: A driver connection. asyncpg's own types are not generic at run time.
Driver = Any

#: What means that the connection or the server is gone, or busy with something else, not that the statement was wrong.
OUTAGES = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # Interrupted in the middle of a statement, a connection's own state is unknown to the driver.
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    # No more connections, disk, memory or locks: somebody will have to make room, and then it goes on.
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    # Of a statement by itself: with a migration, which locks whole tables. Transactions try again by themselves.
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    # Whoever took the right away will have to give it back.
    asyncpg.InsufficientPrivilegeError,
    ConnectionError,
    TimeoutError,
    OSError,
)

#: Two transactions met; the whole transaction is simply tried again.
COLLISIONS_BORNE = 5
COLLISIONS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)


#: How many times the limit of a statement a transaction may last.
TRANSACTION_STATEMENTS = 3


async def driver_of(connection: AsyncConnection) -> Driver:
    """The asyncpg connection under an engine's."""
    return (await connection.get_raw_connection()).driver_connection


async def committed(driver: Driver, work: Callable[[Driver], Awaitable[T]]) -> T:
    """Runs `work` in a transaction, or in a savepoint of the one that it is in; an error rolls it back."""
    transaction = driver.transaction()
    await transaction.start()
    try:
        result = await work(driver)
    except asyncio.CancelledError:
        # The connection is given up. A rollback would wait for the answer to what was cancelled, which may never come.
        raise
    except BaseException:
        await transaction.rollback()
        raise
    await transaction.commit()
    return result


_encode = Encoder().encode


def integers(values: Sequence[int | None]) -> str:
    """What `$n::text::bigint[]` reads as these. As an array the driver takes a microsecond for each of them, since it
    asks whether it is an array itself.

    Where all are null it is empty: beside other arrays `unnest` fills it up.
    """
    return f"{{{_encode(values)[1:-1].decode()}}}" if any(value is not None for value in values) else "{}"


def texts(values: Sequence[str | None]) -> str:
    """As `integers`, for `$n::text::text[]`: what is short."""
    there = [value for value in values if value is not None]
    if not there:
        return "{}"
    joined = '","'.join(there)
    if len(there) < len(values) or "\\" in joined or joined.count('"') > 2 * (len(there) - 1):
        return f"{{{','.join(map(_quoted, values))}}}"
    return f'{{"{joined}"}}'


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Role:
    """One kept connection, used by one caller at a time; replaced when it breaks. `setup` prepares each.

    A caller waits `patience_s` at most: as long as the server may take for a transaction, unless it is given. Who
    `awaits_restart` waits some seconds for a server that is about to come back, where others are told at once.
    """

    def __init__(
        self,
        database: Database,
        *,
        statement_timeout_s: float,
        patience_s: float | None = None,
        setup: str = "",
        awaits_restart: bool = False,
    ) -> None:
        self._database = database
        self._statement_timeout_s = statement_timeout_s
        self._patience_s = patience_s or statement_timeout_s * TRANSACTION_STATEMENTS
        self._setup = setup
        self._awaits_restart = awaits_restart
        self._connection: AsyncConnection | None = None
        self._driver: Driver = None
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[Driver], Awaitable[T]], *, patience_s: float | None = None) -> T:
        """Runs `work` on the connection, with a patience of its own. Raises `StoreUnavailable` when the database does
        not answer.
        """
        async with self._lock:
            try:
                # The server's own limit is shorter; this one is for a network that swallows everything.
                async with asyncio.timeout(patience_s or self._patience_s):
                    if self._driver is not None and self._driver.is_closed():
                        # Since its last use: nothing was asked of it that could be lost.
                        await self.discard()
                    driver = self._driver or await self._open()
                    return await work(driver)
            except (*OUTAGES, DBAPIError) as error:
                await self.discard()
                if isinstance(error, asyncpg.InsufficientPrivilegeError):
                    raise StoreUnavailable(f"the database refuses ({error}); grant its role that right") from error
                raise StoreUnavailable(f"the database did not answer ({type(error).__name__})") from error
            except asyncio.CancelledError:
                # The statement may still run on the server; such a connection is not reused.
                await self.discard()
                raise

    async def transact(self, work: Callable[[Driver], Awaitable[T]], *, one_statement: bool = False) -> T:
        """Runs `work` in a transaction, which `one_statement` is by itself; tries again where two transactions met."""

        async def in_transaction(driver: Driver) -> T:
            tries = 0
            while True:
                try:
                    return await (work(driver) if one_statement else committed(driver, work))
                except COLLISIONS as error:
                    tries += 1
                    if tries == COLLISIONS_BORNE:
                        if isinstance(error, asyncpg.UniqueViolationError):
                            # Not two transactions that met: a row is where none should be, and will be next time.
                            raise
                        raise StoreUnavailable(f"transactions kept colliding ({type(error).__name__})") from error

        return await self.run(in_transaction)

    async def _open(self) -> Driver:
        connection = await (self._database.connect() if self._awaits_restart else self._database.engine.connect())
        self._connection = connection
        driver = await driver_of(connection)
        milliseconds = int(self._statement_timeout_s * 1000)
        limit = LIMIT_TRANSACTIONS.format(milliseconds * TRANSACTION_STATEMENTS, "false")
        # A dispatcher that is stopped in the middle of a transaction must not hold its locks for ever.
        await driver.execute(
            f"SET statement_timeout = {milliseconds}; SET idle_in_transaction_session_timeout = {milliseconds};"
            f" SET jit = off; {limit}; {self._setup}"
        )
        self._driver = driver
        return driver

    async def discard(self) -> None:
        """Closes the connection for good; the next use opens another."""
        connection, driver = self._connection, self._driver
        self._connection = self._driver = None
        if connection is not None:
            try:
                if driver is not None:
                    # At once: a goodbye would wait for an answer.
                    driver.terminate()
                await connection.invalidate()
                await connection.close()
            except (*OUTAGES, DBAPIError):
                return
