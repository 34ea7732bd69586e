"""(b) From a producer's commit, in another process than the dispatcher, to the event's arrival at the receiver."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import bare_listener
from benchmarks.events import DATA, DATA_VALUE, TYPE
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker
from dispatcher.ids import new_event_id
from dispatcher.outbox.publish import publish

#: Producers that take turns, so that a slow commit delays nobody else's.
PRODUCERS = 8
_WARM_UP_S = 1.0
_MOST_ROUNDS = 2

#: Commits one event and answers its id.
Commit = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from commit to arrival."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, sent: Mapping[str, float], arrivals: Mapping[str, float]) -> "Latency":
        """From these moments to those, by event, in seconds of the same clock."""
        waited = sorted(arrivals[event_id] - moment for event_id, moment in sent.items())
        return cls(waited[len(waited) // 2] * 1000, waited[len(waited) * 99 // 100] * 1000)


async def measure(databases: Databases, dialect: str, *, per_s: int, seconds: float) -> Latency:
    """Publishes at a steady rate, each event in its own transaction, through the product's own `publish`."""
    async with receiver() as there, databases.scene(dialect) as scene:
        await scene.endpoint(there.url, max_in_flight=100)

        async def commit() -> str:
            async with AsyncSession(scene.deployment.database.engine) as session:
                event_id = publish(session, TYPE, DATA_VALUE)
                await session.commit()
            return event_id

        async with worker(scene):
            return await _measure(commit, there, per_s, seconds)


async def measure_bare(databases: Databases, *, per_s: int, seconds: float) -> Latency:
    """The same through the bare chain, on PostgreSQL."""
    async with (
        receiver() as there,
        databases.scene("postgresql") as scene,
        _bare_listener(scene, there.url) as url,
        asyncpg.create_pool(url, min_size=PRODUCERS, max_size=PRODUCERS) as pool,
    ):

        async def commit() -> str:
            event_id = new_event_id()
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(bare_listener.INSERT, event_id, DATA)
                await connection.execute(bare_listener.NOTIFY)
            return event_id

        return await _measure(commit, there, per_s, seconds)


async def _measure(commit: Commit, there: Receiver, per_s: int, seconds: float) -> Latency:
    warm_up = await _publish(commit, per_s, _WARM_UP_S)
    committed = await _publish(commit, per_s, seconds)
    await there.reach(len(warm_up) + len(committed))
    return Latency.of(committed, await there.arrivals())


async def _publish(commit: Commit, per_s: int, seconds: float) -> dict[str, float]:
    """Ids, and when their commit had returned, on the machine's monotonic clock."""
    committed: dict[str, float] = {}
    total = int(per_s * seconds)
    started = time.monotonic()

    async def produce(first: int) -> None:
        for number in range(first, total, PRODUCERS):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            event_id = await commit()
            committed[event_id] = time.monotonic()

    await asyncio.gather(*(produce(first) for first in range(PRODUCERS)))
    return committed


@asynccontextmanager
async def _bare_listener(scene: Scene, receiver_url: str) -> AsyncIterator[str]:
    url = scene.environment["DISPATCHER_DATABASE_URL"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_listener", url, receiver_url,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield url
    finally:
        process.stdin.close()
        await process.wait()


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on latency."""
    bare, ours, rounds = [], [], min(plan.rounds, _MOST_ROUNDS)
    for _ in range(rounds):
        bare.append(await measure_bare(databases, per_s=200, seconds=plan.seconds))
        ours.append(await measure(databases, "postgresql", per_s=200, seconds=plan.seconds))
    found = [_to_bare(bare, ours, which, bar) for which, bar in (("p50_ms", 2.0), ("p99_ms", 3.0))]
    alone = [await measure(databases, "sqlite", per_s=200, seconds=plan.seconds) for _ in range(rounds)]
    for which, bar in (("p50_ms", 5.0), ("p99_ms", 25.0)):
        reached = median(getattr(one, which) for one in alone)
        what = f"commit to arrival at 200 events/s on {NAMES['sqlite']}, {which[:3]}"
        found.append(Row(what, f"{reached:.1f} ms", f"≤ {bar:.0f} ms", reached <= bar))
    return found


def _to_bare(bare: list[Latency], ours: list[Latency], which: str, bar: float) -> Row:
    ratio = median(getattr(one, which) / getattr(other, which) for one, other in zip(ours, bare, strict=True))
    reached, usual = (median(getattr(one, which) for one in several) for several in (ours, bare))
    return Row(
        f"commit to arrival at 200 events/s on {NAMES['postgresql']}, to a bare chain of LISTEN, SELECT and POST,"
        f" {which[:3]}",
        f"{ratio:.2f} ({reached:.1f} to {usual:.1f} ms)",
        f"≤ {bar:.0f}",
        ratio <= bar,
    )
