"""Faults of a SQLite file: no room for it, locked by somebody else, read by somebody who does not end."""

import asyncio
import os
import resource
import sqlite3
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from sqlalchemy.engine import make_url

from tests.chaos.faults import SQLITE, Fault
from tests.chaos.scene import Scene

#: How large the log of a file gets before SQLite empties it by itself, in bytes, and what goes beyond in a strike.
CHECKPOINTED_AT = 1000 * 4096
GROWTH = 1 << 18
LARGEST_DISK = 256 << 20
UNLIMITED = resource.RLIM_INFINITY


def _file(at: Scene) -> Path:
    database = make_url(at.settings["database_url"]).database
    assert database is not None
    return Path(database)


async def _noticed(at: Scene) -> None:
    """Every dispatcher has found that the file cannot be written, twice."""
    for worker in at.workers:
        await worker.logs("store.unavailable", len(worker.logged("store.unavailable")) + 2)


class NoRoomForDispatcher(Fault):
    """The dispatcher may not write to files any more, while producers still do: to it the disk is full."""

    name = "sqlite-no-room-for-dispatcher"
    dialects = SQLITE

    async def strike(self, at: Scene, random: Random) -> None:
        for worker in at.workers:
            await worker.up()
        # A file may be written up to there: the log, as it begins anew, for a while; checkpoints in their middle.
        most = random.choice((0, 64 * 1024, 512 * 1024))
        for worker in at.workers:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (most, UNLIMITED))
        try:
            await _noticed(at)
        finally:
            for worker in at.workers:
                resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        at.struck(interrupts=False)


class DiskFull(Fault):
    """The file system is full for all: producers are refused, dispatchers wait."""

    name = "sqlite-disk-full"
    dialects = SQLITE
    small_disk = True
    disturbs_producers = True

    async def strike(self, at: Scene, random: Random) -> None:
        for worker in at.workers:
            await worker.up()
        directory = _file(at).parent
        whole = os.statvfs(directory)
        assert whole.f_blocks * whole.f_frsize <= LARGEST_DISK, "this would fill somebody's disk"
        with tempfile.TemporaryFile(dir=directory, buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        ballast.write(b"\0" * size)
            assert os.statvfs(directory).f_bavail == 0
            await _noticed(at)
        at.struck(interrupts=False)


class Locked(Fault):
    """Somebody else holds a write transaction for a while: longer than the lease, or than the busy timeout."""

    name = "sqlite-locked"
    dialects = SQLITE
    disturbs_producers = True

    def __init__(self, hold_s: float = 12.0) -> None:
        self._hold_s = hold_s

    async def strike(self, at: Scene, random: Random) -> None:
        await asyncio.to_thread(self._hold, _file(at), random.choice(("IMMEDIATE", "EXCLUSIVE")))
        at.struck(interrupts=False)

    def _hold(self, file: Path, how: str) -> None:
        connection = sqlite3.connect(file, isolation_level=None, timeout=30)
        try:
            connection.execute(f"BEGIN {how}")
            connection.execute("UPDATE endpoints SET description = 'held' WHERE row_id < 0")
            # How long it lasts is what this fault is about.
            time.sleep(self._hold_s)
            connection.execute("ROLLBACK")
        finally:
            connection.close()


class HeldByReader(Fault):
    """Somebody reads in one transaction through all of it: nothing is checkpointed, and the log of the file grows."""

    name = "sqlite-held-by-reader"
    dialects = SQLITE

    async def strike(self, at: Scene, random: Random) -> None:
        log = _file(at).with_name(_file(at).name + "-wal")
        connection = sqlite3.connect(_file(at), isolation_level=None)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM events").fetchone()
            goal = max(log.stat().st_size, CHECKPOINTED_AT) + GROWTH
            await at.witness.until(lambda: log.stat().st_size > goal, "the log of a file that is read grows")
        finally:
            connection.close()
        at.struck(interrupts=False)


FAULTS: tuple[Fault, ...] = (NoRoomForDispatcher(), DiskFull(), Locked(), HeldByReader())
