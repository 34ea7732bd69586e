"""The cold paths' database: what a lost connection or a held lock looks like to whoever asked."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import InternalError

from dispatcher.clock import SystemClock
from dispatcher.errors import ConfigurationError, StoreUnavailable
from dispatcher.settings import load
from dispatcher.store import database as database_module
from dispatcher.store.database import Database, open_database
from dispatcher.store.postgres.connection import driver_of
from tests.outpost import Outpost

_TERMINATE_OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> :mine"
)


async def _terminate(outpost: Outpost) -> None:
    async with outpost.database.begin() as connection:
        me = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await connection.execute(_TERMINATE_OTHERS, {"mine": me})


async def test_a_connection_that_breaks_in_a_transaction_means_that_the_store_is_unavailable(
    postgres_outpost: Outpost,
) -> None:
    async def work() -> None:
        async with postgres_outpost.database.begin() as connection:
            await connection.execute(text("SELECT 1"))
            await _terminate(postgres_outpost)
            await connection.execute(text("SELECT 1"))

    with pytest.raises(StoreUnavailable, match="did not answer"):
        await work()


async def test_a_server_that_ends_the_connection_during_a_statement_is_unavailable(
    postgres_outpost: Outpost,
) -> None:
    async def sleep_in_the_database() -> None:
        async with postgres_outpost.database.read() as connection:
            asleep.set()
            await connection.execute(text("SELECT pg_sleep(20)"))

    asleep = asyncio.Event()
    task = asyncio.create_task(sleep_in_the_database())
    await asleep.wait()
    while not task.done():
        await _terminate(postgres_outpost)
    with pytest.raises(StoreUnavailable):
        await task


async def test_the_server_ends_a_transaction_that_its_process_has_left_standing(postgres_url: str) -> None:
    opened = open_database(load(database_url=postgres_url, lease="100ms"), SystemClock())
    left, other = opened.begin(), opened.begin()
    try:
        connection = await left.__aenter__()
        await connection.execute(text("LOCK TABLE duties"))
        async with asyncio.timeout(10), other as waiting:
            # Gets the lock when the server has ended the other transaction, and not before.
            await waiting.execute(text("LOCK TABLE duties"))
        with pytest.raises(StoreUnavailable):
            await left.__aexit__(None, None, None)
    finally:
        await opened.close()


async def test_the_server_ends_a_transaction_whose_process_stands_still_between_preparing_a_statement_and_running_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "SHORTEST_IDLE_S", 0.2)
    opened = open_database(load(database_url=postgres_url, lease="100ms"), SystemClock())
    # The limit is the left one's: the other begins hardly later, and would come to its own while it commits.
    left, other = opened.begin(), opened.begin(limited=False)
    try:
        connection = await left.__aenter__()
        await connection.execute(text("LOCK TABLE duties"))
        driver = await driver_of(connection)
        if driver.get_server_version().major < 17:
            pytest.skip("PostgreSQL 17 and later can")
        # To the server it is not idle: it waits for the rest of what the client began.
        await driver.prepare("SELECT count(*) FROM duties")
        async with asyncio.timeout(20), other as waiting:
            await waiting.execute(text("LOCK TABLE duties"))
        with pytest.raises(StoreUnavailable):
            await left.__aexit__(None, None, None)
    finally:
        await opened.close()


async def test_a_connection_that_cannot_even_be_rolled_back_is_unavailable_and_given_up(
    postgres_outpost: Outpost,
) -> None:
    database = postgres_outpost.database

    def fail(connection: Connection) -> None:
        # As asyncpg does on a connection that was interrupted in the middle of a statement.
        raise InternalError("ROLLBACK", None, RuntimeError("another operation is in progress"))

    async def read() -> None:
        async with database.read() as connection:
            await connection.execute(text("SELECT 1"))
            event.listen(database.engine.sync_engine, "rollback", fail, once=True)

    with pytest.raises(StoreUnavailable):
        await read()
    assert "Current Checked out connections: 0" in database.engine.pool.status()
    await read_one(database)


async def read_one(database: Database) -> None:
    async with database.read() as connection:
        await connection.execute(text("SELECT 1"))


async def test_the_pool_recovers_from_connections_that_the_server_has_ended(postgres_outpost: Outpost) -> None:
    async with postgres_outpost.database.read() as connection:
        await connection.execute(text("SELECT 1"))
    await _terminate(postgres_outpost)
    async with postgres_outpost.database.read() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_statement_that_is_wrong_is_no_outage(outpost: Outpost) -> None:
    with pytest.raises(Exception, match="no_such_table") as caught:
        async with outpost.database.read() as connection:
            await connection.execute(text("SELECT * FROM no_such_table"))
    assert not isinstance(caught.value, StoreUnavailable)


async def test_a_file_that_somebody_has_locked_is_waited_for_and_then_unavailable(
    sqlite_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.sqlite_engine.BUSY_TIMEOUT_MS", 50)
    assert sqlite_outpost.database.url.file is not None
    hog = sqlite3.connect(sqlite_outpost.database.url.file, isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        async with sqlite_outpost.database.begin() as connection:
            await connection.execute(text("SELECT 1"))
    hog.execute("ROLLBACK")
    hog.close()
    async with sqlite_outpost.database.begin() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_server_that_nobody_hears_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.store.database.OUTAGE_PATIENCE_S", 0.2)
    database = open_database(load(database_url="postgresql://postgres@127.0.0.1:1/nowhere"), SystemClock())
    with pytest.raises(StoreUnavailable):
        async with database.begin():
            pass
    await database.close()


def test_sqlite_knows_no_schemas(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="DISPATCHER_TABLE_PREFIX"):
        open_database(load(database_url=f"sqlite:///{tmp_path}/x.db", schema="mine"), SystemClock())


async def test_a_database_that_does_not_exist_is_a_matter_of_configuration(postgres_server: str) -> None:
    url = make_url(postgres_server).set(database="no_such_database").render_as_string(hide_password=False)
    database = open_database(load(database_url=url), SystemClock())
    with pytest.raises(ConfigurationError, match=r"no_such_database.*DISPATCHER_DATABASE_URL"):
        async with database.begin():
            pass
    await database.close()


async def test_a_database_that_let_us_in_and_now_refuses_is_unavailable_and_not_misconfigured(
    postgres_outpost: Outpost,
) -> None:
    url = make_url(postgres_outpost.settings.database_url)
    elsewhere = open_database(
        load(database_url=url.set(database="postgres").render_as_string(hide_password=False)), SystemClock()
    )
    async with postgres_outpost.database.read() as connection:
        await connection.execute(text("SELECT 1"))
    try:
        async with elsewhere.begin() as connection:
            await connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'))
            await connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": url.database},
            )
        with pytest.raises(StoreUnavailable):
            async with postgres_outpost.database.read():
                pass
    finally:
        async with elsewhere.begin() as connection:
            await connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true'))
        await elsewhere.close()


async def test_a_transaction_over_as_much_as_there_is_may_last(
    postgres_outpost: Outpost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.database.COLD_LIMIT_S", 0.1)
    database = postgres_outpost.database
    with pytest.raises(StoreUnavailable):
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(20)"))
    async with database.begin(limited=False) as connection:
        await connection.execute(text("SELECT pg_sleep(0.3)"))
        assert (await connection.execute(text("SELECT current_setting('transaction_timeout', true)"))).scalar_one() in (
            "0",
            None,
        )
    async with database.begin() as connection:
        limit = (await connection.execute(text("SELECT current_setting('transaction_timeout', true)"))).scalar_one()
        assert limit != "0"
