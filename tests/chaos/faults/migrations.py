"""Kills during a migration: whatever is left of it, the next one brings the schema up to date."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from sqlalchemy import inspect

from dispatcher.clock import SystemClock
from dispatcher.settings import load
from dispatcher.store.database import open_database
from tests.chaos.faults import Fault
from tests.chaos.scene import SETTINGS, Scene
from tests.chaos.worker import PATIENCE_S, Worker
from tests.programs import running_python

#: Kills before the first dispatcher works, and how many statements each migration has at least.
KILLS = 10
STATEMENTS = 45


class KilledMigrating(Fault):
    """kill -9 between two statements of `dispatcher migrate`, on SQLite of a dispatcher's start."""

    name = "kill-within-migration"
    empty = True

    def __init__(self, kills: int = KILLS) -> None:
        self._kills = kills
        self._open = 0

    @asynccontextmanager
    async def arranged(self, url: str) -> AsyncIterator[dict[str, str]]:
        random = Random(url)
        for _ in range(self._kills):
            passing = random.randint(1, STATEMENTS)
            assert await _migrate(url, CHAOS_DOOM="within-migration", CHAOS_DOOM_AT=str(passing)) == -signal.SIGKILL
            assert await _tables(url) == [], f"killed at statement {passing}"
        assert await _migrate(url) == 0
        self._open = self._kills
        yield {}

    async def strike(self, at: Scene, random: Random) -> None:
        """Tells of one of the kills: they came before anything else."""
        if self._open:
            self._open -= 1
            at.struck(interrupts=False)


async def _migrate(url: str, **doom: str) -> int:
    """Runs the migrations as people do on this database; the exit code."""
    entry = "tests.chaos.doomed" if doom else "dispatcher"
    settings = {**SETTINGS, "database_url": url}
    if url.startswith("sqlite"):
        worker = await Worker.start(settings, entry, doom)
        if doom:
            return await worker.ended()
        await worker.up()
        return await worker.end(signal.SIGTERM)
    environment = {f"DISPATCHER_{name.upper()}": value for name, value in settings.items()}
    async with running_python("-m", entry, "migrate", **environment, **doom) as migrating:
        return await migrating.done(PATIENCE_S)


async def _tables(url: str) -> list[str]:
    database = open_database(load(database_url=url), SystemClock())
    try:
        async with database.read() as connection:
            return await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    finally:
        await database.close()


FAULTS: tuple[Fault, ...] = (KilledMigrating(),)
