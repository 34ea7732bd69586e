"""The scene of the crash tests: a database, two endpoints at a witness, and workers that come and go."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from sqlalchemy import select, text

from dispatcher.clock import SystemClock
from tests.chaos.producers import DOOMED
from tests.chaos.witness import Arrival, Witness
from tests.chaos.worker import Worker
from tests.outpost import SECRET_KEY, Outpost

#: The endpoint with lanes, and the one without.
ORDERED, LOOSE = "/ordered", "/loose"

RETRIES = 5
GRACE_S = 5

SETTINGS = {
    "secret_key": SECRET_KEY,
    "allow_http": "true",
    "allow_networks": "127.0.0.0/8",
    "lease": "1s",
    "poll_interval": "200ms",
    "retry_schedule": "40ms,80ms,120ms,160ms,200ms",
    "shutdown_grace": f"{GRACE_S}s",
    "log_format": "json",
    "log_level": "warning",
}


@dataclass(frozen=True, slots=True)
class InFlight:
    """An attempt that had begun and was not on record when its process was killed or paused."""

    path: str
    event_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, or a pause longer than the lease, and what it interrupted."""

    at_s: float
    in_flight: frozenset[InFlight]


@dataclass(slots=True)
class Scene:
    """What is there, and what was done to it."""

    outpost: Outpost
    witness: Witness
    paths: dict[int, str]
    settings: dict[str, str]
    workers: list[Worker] = field(default_factory=list)
    #: All that ever ran.
    crew: list[Worker] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)

    async def start(self) -> Worker:
        """One worker more."""
        worker = await Worker.start(self.settings)
        self.workers.append(worker)
        self.crew.append(worker)
        return worker

    async def kill(self, worker: Worker) -> Kill:
        """kill -9, and what that interrupted."""
        self.workers.remove(worker)
        await worker.end(signal.SIGKILL)
        return await self._note_kill(worker)

    async def pause(self, worker: Worker) -> Kill:
        """SIGSTOP, and what that interrupts once the lease has ended."""
        worker.pause()
        return await self._note_kill(worker)

    async def terminate(self, worker: Worker) -> int:
        """SIGTERM; the exit code."""
        self.workers.remove(worker)
        return await worker.end(signal.SIGTERM)

    async def _note_kill(self, worker: Worker) -> Kill:
        kill = Kill(asyncio.get_running_loop().time(), await self._in_flight(worker.pid))
        self.kills.append(kill)
        return kill

    async def _in_flight(self, pid: int) -> frozenset[InFlight]:
        t, database = self.outpost.tables, self.outpost.database
        async with database.begin() as connection:
            if database.dialect == "postgresql":
                # The server still finishes the statement that the dead process was in.
                await connection.execute(text("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE"))
            its_rows = select(t.dispatchers.c.row_id).where(t.dispatchers.c.name.endswith(f":{pid}"))
            rows = await connection.execute(
                select(t.deliveries.c.endpoint_row, t.events.c.id, t.deliveries.c.attempts)
                .join(t.events, t.events.c.row_id == t.deliveries.c.event_row)
                .where(t.deliveries.c.state == "sending", t.deliveries.c.dispatcher_row.in_(its_rows))
            )
            return frozenset(InFlight(self.paths[row.endpoint_row], row.id, row.attempts) for row in rows)


@asynccontextmanager
async def scene(url: str, witness: Witness, **settings: str) -> AsyncIterator[Scene]:
    """Two endpoints on a migrated database, no worker yet; what still runs at the end is killed."""
    outpost = Outpost(url, SystemClock())
    try:
        ordered = await outpost.endpoint(witness.url(ORDERED))
        loose = await outpost.endpoint(witness.url(LOOSE), ordered=False)
        paths = {ordered.row: ORDERED, loose.row: LOOSE}
        opened = Scene(outpost, witness, paths, {**SETTINGS, "database_url": url, **settings})
        try:
            yield opened
        finally:
            for worker in opened.workers:
                await worker.end(signal.SIGKILL)
    finally:
        await outpost.close()


def moody(random: Random) -> Witness:
    """A witness that takes its time, fails now and then, and accepts nothing that is doomed."""

    async def answer(arrival: Arrival) -> int:
        await asyncio.sleep(random.uniform(0, 0.03))
        return 500 if arrival.data == DOOMED or random.random() < 0.04 else 200

    return Witness(answer)
