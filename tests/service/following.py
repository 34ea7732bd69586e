"""What tests of a job's readers share: events of a job, its end, and the statements that reading it took."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import event

from dispatcher.service.job_readers import JobReaders
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from tests.service.scene import Scene

#: For what a hint brings within milliseconds; the floor alone would take longer than tests have.
PATIENCE_S = 20.0


@asynccontextmanager
async def readers_of(deployment: Deployment) -> AsyncIterator[JobReaders]:
    """The readers of a process."""
    readers = JobReaders(deployment)
    try:
        yield readers
    finally:
        await readers.close()


async def numbered(scene: Scene, readers: JobReaders | None = None) -> None:
    """Fans out all that was published, and tells the readers as a dispatcher in their process does."""
    while (fanned := await scene.store.fan_out(1000)).events:
        if readers is not None and fanned.jobs:
            readers.numbered(fanned.jobs)


async def settle(database: Database, job_id: str = "job_1", tenant: str = "default") -> None:
    """The job has settled, as a terminal event's fan-out notes it."""
    jobs = database.tables.jobs
    async with database.begin() as connection:
        await connection.execute(
            jobs.update().where(jobs.c.tenant == tenant, jobs.c.job_id == job_id).values(settled_at=database.now())
        )


async def until(holds: Callable[[], bool]) -> None:
    """Returns as soon as it holds; for what nothing tells of. Raises `TimeoutError`."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - the other tasks of this loop make it hold
            await asyncio.sleep(0)


async def watched(readers: JobReaders, count: int) -> None:
    """Returns when so many have read and wait for more."""
    await until(lambda: readers.waiting >= count)


@contextmanager
def statements(database: Database, containing: str) -> Iterator[list[str]]:
    """The statements with this text that the deployment's connections execute meanwhile."""
    seen: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if containing in statement:
            seen.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
