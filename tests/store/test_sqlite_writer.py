"""The dispatcher's writer on a SQLite file: waits for producers, and hears of others' commits only."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from dispatcher.errors import StoreUnavailable
from dispatcher.store.sqlite import connection as writing
from dispatcher.store.sqlite.connection import Connection, Writer
from dispatcher.store.sqlite.wakeup import watch


def _insert(connection: Connection) -> int:
    return connection.run("INSERT INTO t VALUES (1)")


async def _writer(file: Path) -> Writer:
    writer = Writer(file)
    await writer.transact(lambda connection: connection.run("CREATE TABLE t (n)"))
    return writer


async def test_a_transaction_waits_until_a_producer_has_committed(tmp_path: Path) -> None:
    writer = await _writer(tmp_path / "outbox.db")
    producer = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None, check_same_thread=False)
    producer.execute("BEGIN IMMEDIATE")
    producer.execute("INSERT INTO t VALUES (0)")
    threading.Timer(0.05, lambda: producer.execute("COMMIT")).start()
    assert await writer.transact(_insert) == 1
    assert producer.execute("SELECT count(*) FROM t").fetchone() == (2,)
    producer.close()
    await writer.close()


async def test_a_file_that_stays_locked_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BUSY_TIMEOUT_MS", 20)
    writer = await _writer(tmp_path / "outbox.db")
    producer = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    producer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await writer.transact(_insert)
    producer.close()
    await writer.close()


async def test_a_producers_commit_wakes_and_the_writers_own_does_not(tmp_path: Path) -> None:
    writer = await _writer(tmp_path / "outbox.db")
    woken = asyncio.Semaphore(0)
    watching = asyncio.create_task(watch(writer, woken.release))
    # The first look tells that there is a file.
    await woken.acquire()
    before = writer.version()
    await writer.transact(_insert)
    assert writer.version() == before
    assert woken.locked()
    producer = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    producer.execute("INSERT INTO t VALUES (2)")
    producer.close()
    async with asyncio.timeout(10):
        await woken.acquire()
    watching.cancel()
    await writer.close()
