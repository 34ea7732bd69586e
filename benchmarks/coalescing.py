"""(f) Progress to a receiver 100 times slower than its producer: how much of it is sent, and how old that is."""

import asyncio
import time
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.events import DATA_VALUE
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker
from dispatcher.outbox.publish import publish

JOBS = 10
#: Progress events of each job per second, and how long the receiver takes for each, in seconds.
PER_S = 50
DELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Coalesced:
    """What became of a stream of progress; the rest of it was superseded."""

    published: int
    sent: int
    #: From the commit of a progress event to its arrival, in seconds.
    age_p50_s: float
    age_p99_s: float
    #: From the commit of the slowest job's terminal event to its arrival, in seconds.
    last_s: float


async def measure(databases: Databases, dialect: str, *, seconds: float) -> Coalesced:
    """Every job publishes its progress at a steady rate and ends with a terminal event."""
    committed: dict[str, float] = {}
    async with receiver(delay_s=DELAY_S) as there, databases.scene(dialect) as scene:
        await scene.endpoint(there.url, max_in_flight=100)

        async def commit(event_type: str) -> list[str]:
            async with AsyncSession(scene.deployment.database.engine) as session:
                ids = [publish(session, event_type, DATA_VALUE, job_id=f"job_{number}") for number in range(JOBS)]
                await session.commit()
            committed.update(dict.fromkeys(ids, time.monotonic()))
            return ids

        async with worker(scene):
            started = time.monotonic()
            for number in range(int(seconds * PER_S)):
                await asyncio.sleep(max(0.0, started + number / PER_S - time.monotonic()))
                await commit("job.progress")
            progress = set(committed)
            ends = await commit("job.completed")
            arrivals = await there.arrivals()
            while not arrivals.keys() >= set(ends):
                await asyncio.sleep(0.05)
                arrivals = await there.arrivals()
    ages = sorted(arrivals[event_id] - committed[event_id] for event_id in progress & arrivals.keys())
    return Coalesced(
        published=len(progress),
        sent=len(ages),
        age_p50_s=ages[len(ages) // 2],
        age_p99_s=ages[len(ages) * 99 // 100],
        last_s=max(arrivals[event_id] - committed[event_id] for event_id in ends),
    )


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on coalescing."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, dialect, seconds=plan.seconds)
    most = JOBS * (plan.seconds / DELAY_S + 2)
    what = f"progress of {JOBS} jobs, {PER_S}/s each, to a receiver that takes"
    return [
        Row(
            f"{what} {DELAY_S:g} s, on {NAMES[dialect]}: sent of published",
            f"{found.sent:,} of {found.published:,}; the last word after {found.last_s:.1f} s",
            f"≤ {most:.0f}",
            found.sent <= most,
        ),
        Row(
            "the same: age of what is sent, p50 and p99",
            f"{found.age_p50_s * 1000:.0f} ms, {found.age_p99_s * 1000:.0f} ms",
            f"p99 ≤ {DELAY_S * 100:.0f} ms",
            found.age_p99_s <= DELAY_S / 10,
        ),
    ]
