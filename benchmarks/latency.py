"""(b) From a producer's commit, in another process than the dispatcher, to the event's arrival at the receiver."""

import asyncio
import time
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.events import DATA_VALUE, TYPE
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
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


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on latency."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, dialect, per_s=200, seconds=plan.seconds)
    what = f"commit to arrival at 200 events/s on {NAMES[dialect]}"
    bar, met = ("≤ 10 ms", found.p50_ms <= 10) if dialect == "postgresql" else ("", None)
    return [Row(f"{what}, p50", f"{found.p50_ms:.1f} ms", bar, met), Row(f"{what}, p99", f"{found.p99_ms:.1f} ms")]
