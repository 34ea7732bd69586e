"""A load that goes on: a dispatcher on PostgreSQL, and events for it as fast as it takes them, or at a rate."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text

from benchmarks.events import DATA, TYPE
from benchmarks.receivers import Receiver
from benchmarks.scene import Databases, Scene
from benchmarks.worker import Worker, worker

#: Events that wait at full load: the dispatcher never runs dry, and no backlog grows.
WAITING = 5000
_CHUNK = 1000
_LOOK_EVERY_S = 0.05


class Load:
    """Publishes beside a dispatcher that works, and tells how fast it delivers."""

    def __init__(self, scene: Scene, working: Worker, receiver: Receiver, before: int) -> None:
        self.scene = scene
        self.worker = working
        self.published = 0
        self._receiver = receiver
        self._before = before

    async def arrived(self) -> int:
        """How many were delivered so far."""
        return await self._receiver.count() - self._before

    async def publish(self, count: int) -> None:
        """Publishes so many events in one transaction."""
        async with self.scene.deployment.database.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO events (type, data) SELECT :type, :data FROM generate_series(1, CAST(:count AS int))"
                ),
                {"type": TYPE, "data": DATA, "count": count},
            )
        self.published += count

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Inside it there is always something to deliver."""
        async with _beside(self._feed()):
            yield

    @asynccontextmanager
    async def at(self, per_s: float) -> AsyncIterator[None]:
        """Inside it events come at this rate, whatever becomes of them."""
        async with _beside(self._pour(per_s)):
            yield

    async def rate(self, seconds: float) -> float:
        """Deliveries per second, over the next so many seconds."""
        # Hours of lines would fill the disk.
        self.worker.forget_output()
        before, began_at = await self.arrived(), time.monotonic()
        await asyncio.sleep(seconds)
        return (await self.arrived() - before) / (time.monotonic() - began_at)

    async def drained(self, patience_s: float) -> bool:
        """Waits until all that was published has arrived; false when that takes longer."""
        ends_at = time.monotonic() + patience_s
        while time.monotonic() < ends_at:
            if await self.arrived() >= self.published:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False

    async def _feed(self) -> None:
        while True:
            if self.published - await self.arrived() < WAITING:
                await self.publish(_CHUNK)
            else:
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _pour(self, per_s: float) -> None:
        began_at, before = time.monotonic(), self.published
        while True:
            owed = int((time.monotonic() - began_at) * per_s) - (self.published - before)
            if owed >= 1:
                await self.publish(owed)
            await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def load(databases: Databases, receiver: Receiver) -> AsyncIterator[Load]:
    """A dispatcher with one endpoint, 100 in flight."""
    async with databases.scene("postgresql") as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        async with worker(scene) as working:
            yield Load(scene, working, receiver, await receiver.count())


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        failed = task.done() and task.exception()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if failed:
            raise RuntimeError("the load broke off") from failed
