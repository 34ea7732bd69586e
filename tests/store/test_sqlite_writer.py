"""The dispatcher's writer on a SQLite file: waits for producers, and hears of others' commits only."""

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from dispatcher.errors import StoreUnavailable
from dispatcher.store.sqlite import connection as writing
from dispatcher.store.sqlite import wakeup
from dispatcher.store.sqlite.connection import Connection
from dispatcher.store.sqlite.inotify import Writes
from dispatcher.store.sqlite.wakeup import watch
from dispatcher.store.sqlite.writer import Writer


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


@pytest.fixture(params=["told of writes", "asking"])
def way_of_watching(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asking":
        monkeypatch.setattr(wakeup, "Writes", Mock(side_effect=OSError("no inotify")))
    elif sys.platform == "linux":
        monkeypatch.setattr(wakeup, "FLOOR_S", 3600.0)


@pytest.mark.usefixtures("way_of_watching")
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
    async with asyncio.timeout(10):
        await woken.acquire()
    assert woken.locked()
    producer.execute("INSERT INTO t VALUES (3)")
    producer.close()
    async with asyncio.timeout(10):
        await woken.acquire()
    watching.cancel()
    await writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
async def test_a_file_that_nobody_writes_to_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "outbox.db").symlink_to(tmp_path / "real" / "outbox.db")
    writer = await _writer(tmp_path / "outbox.db")
    woken, resting = asyncio.Semaphore(0), asyncio.Semaphore(0)
    hear = Writes.next

    async def next_write(writes: Writes, seconds: float) -> bool:
        resting.release()
        return await hear(writes, 3600.0)

    monkeypatch.setattr(Writes, "next", next_write)
    watching = asyncio.create_task(watch(writer, woken.release))
    async with asyncio.timeout(10):
        await woken.acquire()
        await resting.acquire()
        producer = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
        producer.execute("INSERT INTO t VALUES (2)")
        producer.close()
        await woken.acquire()
        await resting.acquire()
    watching.cancel()
    await writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
async def test_a_file_that_comes_back_is_listened_to_again(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with Writes(file) as writes:
        assert not writes.listen()
        file.write_text("1")
        assert writes.listen()
        assert not await writes.next(0.001)
        file.unlink()
        assert await writes.next(10)
        assert not writes.listen()
        file.write_text("2")
        assert writes.listen()
        file.write_text("3")
        assert await writes.next(10)


async def test_the_log_that_a_reader_made_large_is_small_again_once_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST_LOG", 256 * 1024)
    file, log = tmp_path / "outbox.db", tmp_path / "outbox.db-wal"
    writer = await _writer(file)
    await writer.transact(_insert)
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM t").fetchone()
    while log.stat().st_size < 6 * 1024 * 1024:
        await writer.transact(lambda connection: connection.run("INSERT INTO t VALUES (zeroblob(200000))"))
    reader.close()
    # One commit checkpoints, the next begins the log anew.
    await writer.transact(_insert)
    await writer.transact(_insert)
    assert log.stat().st_size <= writing.LARGEST_LOG
    await writer.close()


async def test_a_file_without_room_is_an_outage_that_ends_with_it(tmp_path: Path) -> None:
    writer = await _writer(tmp_path / "outbox.db")
    pages = await writer.read(lambda connection: connection.one("PRAGMA page_count"))
    await writer.read(lambda connection: connection.one(f"PRAGMA max_page_count = {pages}"))

    def fill(connection: Connection) -> int:
        _insert(connection)
        return connection.run("INSERT INTO t VALUES (zeroblob(100000))")

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await writer.transact(fill)
    await writer.read(lambda connection: connection.one("PRAGMA max_page_count = 1000000"))
    assert await writer.transact(fill) == 1
    # Nothing is left of what had no room.
    assert await writer.read(lambda connection: connection.one("SELECT count(*) FROM t")) == 2
    await writer.close()
