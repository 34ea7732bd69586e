"""(h) Publishing over HTTP: one event a request while the same cores deliver them, and batches, accepted."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.drain import Rate, raw_loop, typical
from benchmarks.publisher import ADMIN_KEY
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker

CONNECTIONS = 64
#: Connections and events of a batch.
BATCHES = 8
BATCH = 100


@dataclass(frozen=True, slots=True)
class Ingested:
    """The rounds of a run; the n-th of each belong together."""

    raw: list[Rate]
    #: From the first request to the last arrival.
    delivered: list[Rate]

    @property
    def ratios(self) -> list[float]:
        """Of each round: published and delivered, to the bare loop's POSTs."""
        return [ours.events_per_s / raw.events_per_s for ours, raw in zip(self.delivered, self.raw, strict=True)]


async def measure(databases: Databases, quickest: Receiver, dialect: str, *, events: int, rounds: int) -> Ingested:
    """Runs the bare loop and `dispatcher serve` in turns."""
    result = Ingested([], [])
    for _ in range(rounds):
        result.raw.append(await raw_loop(quickest, events))
        result.delivered.append(await _while_delivering(databases, dialect, events))
    return result


async def _while_delivering(databases: Databases, dialect: str, events: int) -> Rate:
    async with receiver() as there, databases.scene(dialect) as scene:
        await scene.endpoint(there.url, max_in_flight=100)
        scene.environment["DISPATCHER_ADMIN_KEY"] = ADMIN_KEY
        async with worker(scene, "--port", "0", command="serve") as working:
            url = await working.served_at()
            await _publish(url, CONNECTIONS, CONNECTIONS, 1)
            await there.reach(CONNECTIONS)
            used_s, started = working.cpu_s(), time.perf_counter()
            await _publish(url, CONNECTIONS, events, 1)
            await there.reach(CONNECTIONS + events)
            return Rate(events / (time.perf_counter() - started), (working.cpu_s() - used_s) / events * 1e6)


async def batches(databases: Databases, dialect: str, *, events: int, rounds: int) -> Rate:
    """Events a second that are accepted in batches. Nobody subscribes; the dispatcher fans them out meanwhile."""
    rates = []
    for _ in range(rounds):
        async with databases.scene(dialect) as scene:
            scene.environment["DISPATCHER_ADMIN_KEY"] = ADMIN_KEY
            async with worker(scene, "--port", "0", command="serve") as working:
                url = await working.served_at()
                await _publish(url, BATCHES, BATCHES, BATCH)
                used_s = working.cpu_s()
                took_s = await _publish(url, BATCHES, events // BATCH, BATCH)
                rates.append(Rate(events / took_s, (working.cpu_s() - used_s) / events * 1e6))
    return Rate(median(rate.events_per_s for rate in rates), median(rate.cpu_us_per_event for rate in rates))


async def _publish(url: str, connections: int, requests: int, events: int) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.publisher", url, str(connections), str(requests), str(events),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the publisher failed")
    seconds: float = json.loads(output)
    return seconds


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on publishing over HTTP."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    events = plan.events // 3
    found = await measure(databases, receiver, dialect, events=events, rounds=plan.rounds)
    ours = typical(found.delivered)
    batched = await batches(databases, dialect, events=plan.events, rounds=plan.rounds)
    return [
        Row(
            f"published one by one over {CONNECTIONS} connections and delivered meanwhile, on {NAMES[dialect]},"
            " to the bare loop",
            f"{median(found.ratios):.2f} ({min(found.ratios):.2f}–{max(found.ratios):.2f});"
            f" {ours.events_per_s:,.0f} events/s, {ours.cpu_us_per_event:.0f} µs CPU each",
            "≥ 0.30",
            median(found.ratios) >= 0.3,
        ),
        Row(
            f"accepted in batches of {BATCH} on {NAMES[dialect]}",
            f"{batched.events_per_s:,.0f} events/s, {batched.cpu_us_per_event:.0f} µs CPU each",
            "≥ 20,000",
            batched.events_per_s >= 20_000,
        ),
    ]
