"""The scene of the crash tests: a database, two endpoints at a witness, and workers that come and go."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType

from sqlalchemy import select, text

from dispatcher.clock import SystemClock
from tests.asking import until
from tests.bad_receiver import Misbehaviour
from tests.chaos.producers import DOOMED
from tests.chaos.witness import PATIENCE_S, Answer, Arrival, Witness
from tests.chaos.worker import Worker
from tests.outpost import SECRET_KEY, Outpost

#: The endpoint with lanes, and the one without.
ORDERED, LOOSE = "/ordered", "/loose"

RETRIES = 5
GRACE_S = 5

#: What a witness does instead of accepting. Silence is a fault of its own: it takes as long as a timeout.
FAILURES: Sequence[Answer] = (
    500,
    502,
    503,
    429,
    Misbehaviour.RESET,
    Misbehaviour.LIE_ABOUT_LENGTH,
    Misbehaviour.GARBAGE,
)

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
class Strike:
    """One fault, and what it interrupted."""

    at_s: float
    #: Null where that cannot be known: then the attempt log says it.
    in_flight: frozenset[InFlight] | None


@dataclass(slots=True)
class Scene:
    """What is there, and what was done to it."""

    outpost: Outpost
    witness: Witness
    paths: dict[int, str]
    settings: dict[str, str]
    #: The module that runs the command line.
    entry: str = "dispatcher"
    #: What each worker's environment holds besides its settings.
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    #: All that ever ran.
    crew: list[Worker] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    #: When a worker was asked to end, in seconds of the loop's clock.
    stops_s: list[float] = field(default_factory=list)

    async def start(self, **environment: str) -> Worker:
        """One worker more, with environment variables of its own."""
        worker = await Worker.start(self.settings, self.entry, {**self.environment, **environment})
        self.workers.append(worker)
        self.crew.append(worker)
        return worker

    async def kill(self, worker: Worker) -> frozenset[InFlight]:
        """kill -9, and what that interrupted."""
        self.workers.remove(worker)
        await worker.end(signal.SIGKILL)
        return await self.struck_down(worker)

    async def pause(self, worker: Worker) -> frozenset[InFlight]:
        """SIGSTOP, and what that interrupts once the lease has ended."""
        await worker.pause()
        return await self.struck_down(worker)

    async def taken_over(self, worker: Worker) -> None:
        """Returns as soon as nothing is in the name of a worker that was paused."""

        async def holds_nothing() -> bool:
            return not await self._in_flight(worker.pid)

        await until(holds_nothing, patience_s=PATIENCE_S)

    async def terminate(self, worker: Worker) -> int:
        """SIGTERM; the exit code."""
        self.stops_s.append(asyncio.get_running_loop().time())
        self.workers.remove(worker)
        return await worker.end(signal.SIGTERM)

    async def struck_down(self, worker: Worker) -> frozenset[InFlight]:
        """Notes a strike against a worker that does nothing any more, and what that interrupted."""
        at_s = asyncio.get_running_loop().time()
        in_flight = await self._in_flight(worker.pid, settled=True)
        self.strikes.append(Strike(at_s, in_flight))
        return in_flight

    async def dies(self, worker: Worker) -> frozenset[InFlight]:
        """Returns when a worker has killed itself, with what that interrupted."""
        assert await worker.ended() == -signal.SIGKILL
        self.workers.remove(worker)
        return await self.struck_down(worker)

    def struck(self, *, interrupts: bool = True) -> None:
        """Notes a strike whose cause is gone now; it may have interrupted anything, or nothing."""
        self.strikes.append(Strike(asyncio.get_running_loop().time(), None if interrupts else frozenset()))

    async def _in_flight(self, pid: int, *, settled: bool = False) -> frozenset[InFlight]:
        t, database = self.outpost.tables, self.outpost.database
        async with database.begin() as connection:
            if settled and database.dialect == "postgresql":
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
async def scene(
    url: str,
    witness: Witness,
    *,
    entry: str = "dispatcher",
    environment: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float | None = None,
    **settings: str,
) -> AsyncIterator[Scene]:
    """Two endpoints on a migrated database, no worker yet; what still runs at the end is killed."""
    outpost = Outpost(url, SystemClock())
    try:
        ordered = await outpost.endpoint(witness.url(ORDERED), timeout_s=timeout_s)
        loose = await outpost.endpoint(witness.url(LOOSE), ordered=False, timeout_s=timeout_s)
        paths = {ordered.row: ORDERED, loose.row: LOOSE}
        opened = Scene(outpost, witness, paths, {**SETTINGS, "database_url": url, **settings}, entry, environment)
        try:
            yield opened
        finally:
            for worker in opened.workers:
                await worker.end(signal.SIGKILL)
    finally:
        await outpost.close()


def moody(random: Random) -> Witness:
    """A witness that takes its time, fails now and then in every way it can, and accepts nothing that is doomed."""

    async def answer(arrival: Arrival) -> Answer:
        await asyncio.sleep(random.uniform(0, 0.03))
        if arrival.data == DOOMED:
            return 500
        return 200 if random.random() > 0.04 else random.choice(FAILURES)

    return Witness(answer)
