"""(a) A backlog drained by one process, fan-out included, against the bare loop on the same receiver."""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from statistics import median

from benchmarks.receivers import Receiver
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast, and at what cost to the measured process."""

    events_per_s: float
    cpu_us_per_event: float


@dataclass(frozen=True, slots=True)
class Drained:
    """The rounds of a run; the n-th of each belong together."""

    raw: list[Rate]
    by_dialect: dict[str, list[Rate]]

    def ratios(self, dialect: str) -> list[float]:
        """Of each round: the dispatcher's rate to the bare loop's."""
        return [
            ours.events_per_s / raw.events_per_s for ours, raw in zip(self.by_dialect[dialect], self.raw, strict=True)
        ]


async def measure(databases: Databases, receiver: Receiver, *, events: int, rounds: int) -> Drained:
    """Runs the bare loop and a drain on each database in turns."""
    result = Drained([], {"postgresql": [], "sqlite": []})
    for _ in range(rounds):
        result.raw.append(await raw_loop(receiver, events))
        for dialect, rates in result.by_dialect.items():
            rates.append(await drain(databases, receiver, dialect, events))
    return result


async def raw_loop(receiver: Receiver, events: int) -> Rate:
    """The bare loop, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.raw_loop", receiver.url, str(events), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the bare loop failed")
    used = json.loads(output)
    return Rate(events / used["seconds"], used["cpu_s"] / events * 1e6)


async def drain(databases: Databases, receiver: Receiver, dialect: str, events: int) -> Rate:
    """A backlog for one endpoint."""
    async with databases.scene(dialect) as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        await scene.backlog(events)
        return await drained(scene, events)


async def drained(scene: Scene, events: int) -> Rate:
    """A process that works until it is idle; it is done when every delivery has its attempt on record."""
    async with worker(scene, "--until-idle") as working:
        seconds, cpu_s = await working.ended()
    recorded = await scene.scalar(
        "SELECT count(*) FROM attempts a JOIN deliveries d ON d.row_id = a.delivery_row"
        " WHERE d.state = 'delivered' AND a.status = 200"
    )
    if recorded != events:
        raise RuntimeError(f"{recorded} of {events} deliveries have their attempt on record")
    return Rate(events / seconds, cpu_s / events * 1e6)


def typical(rates: list[Rate]) -> Rate:
    """The medians."""
    return Rate(median(rate.events_per_s for rate in rates), median(rate.cpu_us_per_event for rate in rates))
