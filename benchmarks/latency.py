"""(b) From a producer's commit, in another process than the dispatcher, to the event's arrival at the receiver."""

import asyncio
import time
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.events import DATA_VALUE, TYPE
from benchmarks.receivers import receiver
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker
from dispatcher.outbox.publish import publish

#: Producers that take turns, so that a slow commit delays nobody else's.
PRODUCERS = 8
_WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from commit to arrival."""

    p50_ms: float
    p99_ms: float


async def measure(databases: Databases, dialect: str, *, per_s: int, seconds: float) -> Latency:
    """Publishes at a steady rate, each event in its own transaction, through the product's own `publish`."""
    async with receiver() as there, databases.scene(dialect) as scene:
        await scene.endpoint(there.url, max_in_flight=100)
        async with worker(scene):
            warm_up = await _publish(scene, per_s, _WARM_UP_S)
            committed = await _publish(scene, per_s, seconds)
            await there.reach(len(warm_up) + len(committed))
            arrivals = await there.arrivals()
    waited = sorted(arrivals[event_id] - moment for event_id, moment in committed.items())
    return Latency(waited[len(waited) // 2] * 1000, waited[len(waited) * 99 // 100] * 1000)


async def _publish(scene: Scene, per_s: int, seconds: float) -> dict[str, float]:
    """Ids, and when their commit had returned, on the machine's monotonic clock."""
    committed: dict[str, float] = {}
    total = int(per_s * seconds)
    started = time.monotonic()

    async def produce(first: int) -> None:
        for number in range(first, total, PRODUCERS):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            async with AsyncSession(scene.deployment.database.engine) as session:
                event_id = publish(session, TYPE, DATA_VALUE)
                await session.commit()
            committed[event_id] = time.monotonic()

    await asyncio.gather(*(produce(first) for first in range(PRODUCERS)))
    return committed
