"""Faults of the wall clock: set an hour forward or back under a dispatcher that works.

On SQLite that is the clock of everything. On PostgreSQL it is the dispatcher's host alone; the database's, by which
leases and retries go there, cannot be set without setting this machine's.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.chaos.adrift import set_off
from tests.chaos.faults import Fault
from tests.chaos.scene import Scene

HOUR_S = 3600.0


class Set(Fault):
    """The clock jumps by an hour, forward or back, and stays there; nothing may be interrupted by it."""

    name = "clock-set"
    entry = "tests.chaos.adrift"

    def __init__(self) -> None:
        self._file: Path | None = None
        self._off_s = 0.0

    @asynccontextmanager
    async def arranged(self, url: str) -> AsyncIterator[dict[str, str]]:
        with tempfile.TemporaryDirectory(prefix="adrift-") as directory:
            self._file, self._off_s = Path(directory) / "off", 0.0
            set_off(self._file, 0.0)
            yield {"adrift": str(self._file)}

    async def strike(self, at: Scene, random: Random) -> None:
        assert self._file is not None
        for worker in at.workers:
            await worker.up()
        jump_s = random.choice((HOUR_S, -HOUR_S))
        self._off_s += jump_s
        set_off(self._file, self._off_s)
        # Retries of before the jump come in their time: what fails now and then goes on being answered.
        goal = at.witness.arrived + 100
        await at.witness.until(lambda: at.witness.arrived >= goal, f"the clock was set by {jump_s:+g} s")
        at.struck(interrupts=False)


FAULTS: tuple[Fault, ...] = (Set(),)
