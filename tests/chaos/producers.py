"""Producers under load: transactions that commit and roll back, and a ledger of which did what."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import asyncpg
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from dispatcher import prepare_sqlite, publish
from dispatcher.rules.kinds import EventKinds
from dispatcher.states import EventKind
from tests.chaos.witness import Witness
from tests.outpost import Outpost

#: The data of an event that no attempt succeeds with.
DOOMED = "doomed"
#: Jobs of a producer that go on at the same time, and roughly how many events each has.
JOBS = 4
JOB_LENGTH = 25
#: What a job's events are of, by weight. An end does not stop a producer: what comes after it is audited too.
TYPES = {"job.step": 60, "job.progress": 25, "job.completed": 3}
KINDS = EventKinds({})
#: The most events that are committed and were not answered yet.
BACKLOG = 400
#: The longest wait for that, in seconds.
BREATHER_S = 5.0
#: What a transaction ends with when its database is disturbed, and how long the producer then waits, in seconds.
DISTURBANCES = (DBAPIError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
RETRY_S = 0.05


class Undone(Exception):
    """Rolls a transaction back."""


@dataclass(frozen=True, slots=True)
class Published:
    """An event as it was published."""

    id: str
    type: str
    job_id: str | None
    data: str

    @property
    def kind(self) -> EventKind:
        return KINDS.of(self.type, None, self.job_id)


class Ledger:
    """What was committed and what was rolled back, as the producers know it."""

    def __init__(self) -> None:
        #: Committed events by id.
        self.committed: dict[str, Published] = {}
        #: How many of them nothing can supersede.
        self.lasting = 0
        self.undone: set[str] = set()
        #: The ids of each job's events in the order in which they were published.
        self.jobs: defaultdict[str, list[str]] = defaultdict(list)
        #: Transactions whose end the producer was not told.
        self.doubtful: list[list[Published]] = []

    def commit(self, events: list[Published]) -> None:
        for event in events:
            self.committed[event.id] = event
            self.lasting += event.kind is not EventKind.PROGRESS
            if event.job_id is not None:
                self.jobs[event.job_id].append(event.id)

    def undo(self, events: list[Published]) -> None:
        self.undone.update(event.id for event in events)

    def settled_by(self, job_id: str) -> str | None:
        """The first event of a job that ended it."""
        return next((i for i in self.jobs[job_id] if self.committed[i].kind is EventKind.TERMINAL), None)

    def doubt(self, events: list[Published]) -> None:
        """The connection was lost: they are taken for committed until `resolve` has looked."""
        self.doubtful.append(events)
        self.commit(events)

    async def resolve(self, outpost: Outpost) -> None:
        """Finds out what became of the doubtful transactions, once no producer works any more."""
        if not self.doubtful:
            return
        events, database = outpost.tables.events, outpost.database
        async with database.begin() as connection:
            if database.dialect == "postgresql":
                # The server may still be busy with a commit whose producer is gone.
                await connection.execute(text(f"LOCK TABLE {events.name} IN SHARE MODE"))
            stored = set((await connection.execute(select(events.c.id))).scalars())
        for transaction in self.doubtful:
            if stored.isdisjoint(event.id for event in transaction):
                self.undo(transaction)
                for event in transaction:
                    del self.committed[event.id]
                    if event.job_id is not None:
                        self.jobs[event.job_id].remove(event.id)
        self.doubtful.clear()


class Producer:
    """One producer with jobs of its own, which publishes one transaction after the other."""

    def __init__(self, number: int, engine: AsyncEngine, ledger: Ledger, random: Random, *, disturbed: bool) -> None:
        self._number = number
        self._engine = engine
        self._ledger = ledger
        self._random = random
        self._disturbed = disturbed
        self._published = 0

    async def transact(self) -> None:
        """One transaction: it commits, rolls back, or commits after rolling a savepoint back."""
        kept: list[Published] = []
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
            self._ledger.undo(kept)
        except DISTURBANCES:
            if not self._disturbed:
                raise
            self._ledger.doubt(kept)
            await asyncio.sleep(RETRY_S)
        else:
            self._ledger.commit(kept)

    async def _undo_savepoint(self, session: AsyncSession) -> None:
        lost: list[Published] = []
        try:
            async with session.begin_nested():
                lost += self._publish(session)
                await session.flush()
                raise Undone
        except Undone:
            self._ledger.undo(lost)

    def _publish(self, session: AsyncSession) -> list[Published]:
        published = []
        for _ in range(self._random.randint(1, 4)):
            self._published += 1
            generation = self._published // (JOB_LENGTH * JOBS)
            of_a_job = self._random.random() < 0.7
            job_id = f"job-{self._number}-{generation}-{self._random.randrange(JOBS)}" if of_a_job else None
            event_type = self._random.choices(*zip(*TYPES.items(), strict=True))[0] if of_a_job else "note"
            data = DOOMED if self._random.random() < 0.01 else f"{self._number}.{self._published}"
            event_id = publish(session, event_type, data, job_id=job_id)
            published.append(Published(event_id, event_type, job_id, data))
        return published


@asynccontextmanager
async def producing(
    url: str, witness: Witness, random: Random, *, disturbed: bool = False, count: int = 3
) -> AsyncIterator[Ledger]:
    """`count` producers publish meanwhile, and have ended afterwards; a backlog makes them wait.

    Where they are `disturbed`, they go on after errors of the database; else such an error is raised here.
    """
    ledger = Ledger()
    engine = create_async_engine(url)
    prepare_sqlite(engine)
    stop = asyncio.Event()

    async def work(producer: Producer) -> None:
        while not stop.is_set():
            await producer.transact()
            # Not for long: what a restart of the server rolled back unseen is waited for in vain.
            with suppress(TimeoutError):
                async with asyncio.timeout(BREATHER_S):
                    await witness.until(lambda: stop.is_set() or wanted(), "room for more events")

    def wanted() -> bool:
        # Each of it is answered at two endpoints. Progress may never be sent, so the rest says how far it is.
        return ledger.lasting - len(witness.lasting) / 2 < BACKLOG

    tasks = [
        asyncio.create_task(work(Producer(number, engine, ledger, Random(random.random()), disturbed=disturbed)))
        for number in range(count)
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
