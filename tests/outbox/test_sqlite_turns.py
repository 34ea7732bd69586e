"""A producer beside a writer that is seldom idle: it comes to its turn."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from dispatcher import prepare_sqlite

#: How long the other writer holds the file, and lets it go, in seconds: as a dispatcher with a backlog, on a slow disk.
HELD_S, IDLE_S = 0.03, 0.001
TRANSACTIONS = 15
#: How many transactions of the other one those may have to wait for. With SQLite's own wait some 450 pass.
PATIENCE = 200


class Hog:
    """Writes again and again, in a thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ended = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.transactions = 0

    def start(self) -> None:
        self._thread.start()
        assert self._begun.wait(10)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        connection = sqlite3.connect(self._file, isolation_level=None, timeout=10)
        while not self._ended.wait(IDLE_S):
            connection.execute("BEGIN IMMEDIATE")
            self._begun.set()
            self._ended.wait(HELD_S)
            connection.execute("COMMIT")
            self.transactions += 1
        connection.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "jobs.db"
    connection = sqlite3.connect(file)
    connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE jobs (n)")
    connection.close()
    return file


@pytest.fixture
def hog(file: Path) -> Iterator[Hog]:
    hog = Hog(file)
    hog.start()
    yield hog
    hog.end()


async def test_an_async_producer_comes_to_its_turn(file: Path, hog: Hog) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    prepare_sqlite(engine)
    before = hog.transactions
    for _ in range(TRANSACTIONS):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO jobs VALUES (1)"))
    assert hog.transactions - before < PATIENCE
    await engine.dispose()


def test_a_producer_comes_to_its_turn(file: Path, hog: Hog) -> None:
    engine = create_engine(f"sqlite:///{file}")
    prepare_sqlite(engine)
    before = hog.transactions
    for _ in range(TRANSACTIONS):
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO jobs VALUES (1)"))
    assert hog.transactions - before < PATIENCE
    engine.dispose()
