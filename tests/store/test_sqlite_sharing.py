"""What waits for the writer of a SQLite file together shares a transaction; its log is copied beside it."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.store.sqlite.checkpoints import Checkpoints
from dispatcher.store.sqlite.connection import Connection
from dispatcher.store.sqlite.writer import SHARED_ROWS, Writer
from tests.outpost import PATIENCE_S


class Scene:
    """A writer whose thread is held up, so that works wait; and somebody else who looks at the file."""

    def __init__(self, file: Path) -> None:
        self.writer = Writer(file)
        self._other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._other.execute("PRAGMA journal_mode = WAL")
        self._other.execute("CREATE TABLE t (n)")
        #: What others saw when each work began.
        self.seen: list[int] = []

    def committed(self) -> int:
        """Rows that others see."""
        count: int = self._other.execute("SELECT count(*) FROM t").fetchone()[0]
        return count

    def insert(self, connection: Connection) -> int:
        """A work that inserts a row."""
        self.seen.append(self.committed())
        return connection.run("INSERT INTO t VALUES (1)")

    async def together(self, *works: tuple[Callable[[Connection], Any], int], given_up: int | None = None) -> list[Any]:
        """What the works come to, each with its rows, which have all waited for the thread; one is given up then."""
        held, go_on = threading.Event(), threading.Event()

        def hold(connection: Connection) -> None:
            held.set()
            go_on.wait()

        holding = asyncio.create_task(self.writer.read(hold))
        await asyncio.to_thread(held.wait)
        waiting = [asyncio.create_task(self.writer.transact(work, rows=rows)) for work, rows in works]
        # Each is begun, up to where it waits.
        await asyncio.sleep(0)
        if given_up is not None:
            waiting[given_up].cancel()
            await asyncio.sleep(0)
        go_on.set()
        await holding
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        await self.writer.close()
        self._other.close()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "outbox.db")


async def test_what_waits_shares_a_commit(scene: Scene) -> None:
    assert await scene.together((scene.insert, 1), (scene.insert, 50), (scene.insert, 1)) == [1, 1, 1]
    assert scene.seen == [0, 0, 0]
    assert scene.committed() == 3
    await scene.close()


async def test_what_was_given_up_while_it_waited_is_not_begun(scene: Scene) -> None:
    first, gone, last = await scene.together((scene.insert, 1), (scene.insert, 1), (scene.insert, 1), given_up=1)
    assert (first, last) == (1, 1)
    assert isinstance(gone, asyncio.CancelledError)
    assert scene.committed() == 2
    await scene.close()


async def test_nobody_waits_for_much_work_of_somebody_else(scene: Scene) -> None:
    await scene.together((scene.insert, 1), (scene.insert, SHARED_ROWS), (scene.insert, 1))
    assert scene.seen == [0, 1, 2]
    await scene.close()


async def test_who_lingers_shares_the_next_commit_and_is_in_nobodys_way(scene: Scene) -> None:
    lingering = asyncio.create_task(scene.writer.transact(scene.insert, rows=1, linger_s=PATIENCE_S))
    await asyncio.sleep(0)
    # A look and much work take nobody along.
    assert await scene.writer.read(lambda connection: connection.one("SELECT count(*) FROM t")) == 0
    await scene.writer.transact(scene.insert, rows=SHARED_ROWS)
    assert scene.seen == [0]
    assert not lingering.done()
    assert await scene.writer.transact(scene.insert, rows=1) == 1
    assert await lingering == 1
    assert scene.seen == [0, 1, 1]
    assert scene.committed() == 3
    await scene.close()


async def test_who_lingers_in_vain_goes_alone(scene: Scene) -> None:
    assert await scene.writer.transact(scene.insert, rows=1, linger_s=0.001) == 1
    assert scene.committed() == 1
    # What it would have been taken along by finds nobody.
    assert await scene.writer.transact(scene.insert, rows=1) == 1
    assert scene.seen == [0, 1]
    await scene.close()


async def test_who_lingers_and_is_cancelled_again_and_again_leaves_no_trace(scene: Scene) -> None:
    lingering = asyncio.create_task(scene.writer.transact(scene.insert, rows=1, linger_s=0.001))
    for _ in range(2):
        await asyncio.sleep(0)
        lingering.cancel()
    await asyncio.wait([lingering])
    # Its time has come by then.
    assert await scene.writer.transact(scene.insert, rows=1, linger_s=0.002) == 1
    assert scene.committed() == 1
    assert scene.writer.version() is not None
    await scene.close()


async def test_others_are_told_apart_from_the_writer_while_somebody_lingers(scene: Scene) -> None:
    await scene.writer.transact(scene.insert, rows=1)
    lingering = asyncio.create_task(scene.writer.transact(scene.insert, rows=1, linger_s=PATIENCE_S))
    await asyncio.sleep(0)
    assert scene.writer.version() is not None
    await scene.writer.transact(scene.insert, rows=1)
    await lingering
    assert scene.writer.version() is not None
    await scene.close()


async def test_what_fails_fails_alone(scene: Scene) -> None:
    def fail(connection: Connection) -> int:
        scene.insert(connection)
        raise ValueError("not this one")

    first, second, third = await scene.together((scene.insert, 1), (fail, 1), (scene.insert, 1))
    assert (first, third) == (1, 1)
    assert isinstance(second, ValueError)
    assert scene.committed() == 2
    await scene.close()


async def test_a_transaction_for_nothing_waits_for_no_producer(scene: Scene, tmp_path: Path) -> None:
    producer = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    producer.execute("BEGIN IMMEDIATE")
    async with asyncio.timeout(5):
        assert await scene.writer.transact_if(lambda connection: False, scene.insert, rows=1) is None
    producer.execute("COMMIT")
    assert await scene.writer.transact_if(lambda connection: True, scene.insert, rows=1) == 1
    producer.close()
    await scene.close()


async def test_the_log_is_copied_beside_the_writer(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "outbox.db"
    # No commit does it, of the writer's.
    await scene.writer.read(lambda connection: connection.one("PRAGMA wal_autocheckpoint = 0"))
    before = file.stat().st_size
    for _ in range(20):
        await scene.writer.transact(lambda connection: connection.run("INSERT INTO t VALUES (zeroblob(100000))"))
    await scene.writer.read(lambda connection: None)
    # What is under way is waited for; a file that is still open was not checkpointed by being closed.
    scene.writer._checkpoints.close()
    assert file.stat().st_size > before + 500_000
    await scene.close()


def _commit_often(checkpoints: Checkpoints, connection: sqlite3.Connection) -> None:
    for _ in range(10):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        checkpoints.committed()


def test_a_file_that_cannot_be_opened_is_checkpointed_once_it_can(tmp_path: Path) -> None:
    elsewhere, file = tmp_path / "elsewhere.db", tmp_path / "not yet" / "outbox.db"
    connection = sqlite3.connect(elsewhere, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE t (n)")
    checkpoints = Checkpoints(file)
    _commit_often(checkpoints, connection)
    checkpoints._thread.submit(lambda: None).result()
    file.parent.symlink_to(tmp_path)
    (tmp_path / "outbox.db").symlink_to(elsewhere)
    before = elsewhere.stat().st_size
    _commit_often(checkpoints, connection)
    checkpoints.close()
    assert elsewhere.stat().st_size > before + 500_000
    connection.close()
