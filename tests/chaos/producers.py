"""Producers under load: transactions that commit and roll back, and a ledger of which did what."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from dispatcher import prepare_sqlite, publish
from tests.chaos.witness import Witness

#: The data of an event that no attempt succeeds with.
DOOMED = "doomed"
#: Jobs of a producer that go on at the same time, and roughly how many events each has.
JOBS = 4
JOB_LENGTH = 25
#: The most events that are committed and were not answered yet.
BACKLOG = 400


class Undone(Exception):
    """Rolls a transaction back."""


class Ledger:
    """What was committed and what was rolled back, as the producers know it."""

    def __init__(self) -> None:
        #: Ids of committed events, with their data.
        self.committed: dict[str, str] = {}
        self.undone: set[str] = set()
        #: The ids of each job's events in the order in which they were published.
        self.jobs: defaultdict[str, list[str]] = defaultdict(list)

    def commit(self, events: list[tuple[str, str | None, str]]) -> None:
        for event_id, job_id, data in events:
            self.committed[event_id] = data
            if job_id is not None:
                self.jobs[job_id].append(event_id)


class Producer:
    """One producer with jobs of its own, which publishes one transaction after the other."""

    def __init__(self, number: int, engine: AsyncEngine, ledger: Ledger, random: Random) -> None:
        self._number = number
        self._engine = engine
        self._ledger = ledger
        self._random = random
        self._published = 0

    async def transact(self) -> None:
        """One transaction: it commits, rolls back, or commits after rolling a savepoint back."""
        kept: list[tuple[str, str | None, str]] = []
        fate = self._random.random()
        try:
            async with AsyncSession(self._engine) as session, session.begin():
                kept += self._publish(session)
                if fate < 0.15:
                    await self._undo_savepoint(session)
                    kept += self._publish(session)
                elif fate < 0.3:
                    await session.flush()
                    raise Undone
        except Undone:
            self._ledger.undone.update(event_id for event_id, _, _ in kept)
        else:
            self._ledger.commit(kept)

    async def _undo_savepoint(self, session: AsyncSession) -> None:
        lost: list[tuple[str, str | None, str]] = []
        try:
            async with session.begin_nested():
                lost += self._publish(session)
                await session.flush()
                raise Undone
        except Undone:
            self._ledger.undone.update(event_id for event_id, _, _ in lost)

    def _publish(self, session: AsyncSession) -> list[tuple[str, str | None, str]]:
        published = []
        for _ in range(self._random.randint(1, 4)):
            self._published += 1
            generation = self._published // (JOB_LENGTH * JOBS)
            of_a_job = self._random.random() < 0.7
            job_id = f"job-{self._number}-{generation}-{self._random.randrange(JOBS)}" if of_a_job else None
            data = DOOMED if self._random.random() < 0.01 else f"{self._number}.{self._published}"
            event_id = publish(session, "job.step" if of_a_job else "note", data, job_id=job_id)
            published.append((event_id, job_id, data))
        return published


@asynccontextmanager
async def producing(url: str, witness: Witness, random: Random, count: int = 3) -> AsyncIterator[Ledger]:
    """`count` producers publish meanwhile, and have ended afterwards; a backlog makes them wait."""
    ledger = Ledger()
    engine = create_async_engine(url)
    prepare_sqlite(engine)
    stop = asyncio.Event()

    async def work(producer: Producer) -> None:
        while not stop.is_set():
            await producer.transact()
            await witness.until(lambda: stop.is_set() or wanted(), "room for more events")

    def wanted() -> bool:
        return len(ledger.committed) - len(witness.answers) / 2 < BACKLOG

    tasks = [
        asyncio.create_task(work(Producer(number, engine, ledger, Random(random.random())))) for number in range(count)
    ]
    try:
        yield ledger
        stop.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.dispose()
