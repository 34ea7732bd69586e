"""(a) A backlog drained by one process, fan-out included, against the bare loop on the same receiver.

With production's log level, which writes a line for each attempt, and with `warning`.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from statistics import median

from benchmarks.receivers import Receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker

LEVELS = ("info", "warning")
_BARS = {
    ("postgresql", "info"): 0.75,
    ("sqlite", "info"): 0.70,
    ("postgresql", "warning"): 0.80,
    ("sqlite", "warning"): 0.75,
}


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast, and at what cost to the measured process."""

    events_per_s: float
    cpu_us_per_event: float


@dataclass(frozen=True, slots=True)
class Drained:
    """The rounds of a run; the n-th of each belong together."""

    raw: list[Rate]
    #: By dialect and log level.
    ours: dict[tuple[str, str], list[Rate]]

    def ratios(self, dialect: str, level: str) -> list[float]:
        """Of each round: the dispatcher's rate to the bare loop's."""
        rounds = zip(self.ours[dialect, level], self.raw, strict=True)
        return [ours.events_per_s / raw.events_per_s for ours, raw in rounds]


async def measure(databases: Databases, receiver: Receiver, *, events: int, rounds: int) -> Drained:
    """Runs the bare loop and a drain on each database in turns."""
    result = Drained([], {(dialect, level): [] for level in LEVELS for dialect in ("postgresql", "sqlite")})
    for _ in range(rounds):
        result.raw.append(await raw_loop(receiver, events))
        for (dialect, level), rates in result.ours.items():
            rates.append(await drain(databases, receiver, dialect, events, log_level=level))
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


async def drain(
    databases: Databases, receiver: Receiver, dialect: str, events: int, *, log_level: str = "info"
) -> Rate:
    """A backlog for one endpoint."""
    async with databases.scene(dialect, log_level=log_level) as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        await scene.backlog(events)
        return await drained(scene, events)


async def drained(scene: Scene, events: int, *, module: str = "dispatcher", before: int = 0) -> Rate:
    """A process that works until it is idle; it is done when every delivery has its attempt on record, those included
    that had one before.
    """
    async with worker(scene, "--until-idle", module=module) as working:
        seconds, cpu_s = await working.ended()
    await scene.check_recorded(before + events)
    return Rate(events / seconds, cpu_s / events * 1e6)


def typical(rates: list[Rate]) -> Rate:
    """The medians."""
    return Rate(median(rate.events_per_s for rate in rates), median(rate.cpu_us_per_event for rate in rates))


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on draining."""
    # So many that what a process does once, behind its start, weighs little.
    drained = await measure(databases, receiver, events=2 * plan.events, rounds=plan.rounds)
    raw = typical(drained.raw)
    rows = [
        Row(
            "bare aiohttp+uvloop loop, 100 in flight",
            f"{raw.events_per_s:,.0f} events/s, {raw.cpu_us_per_event:.0f} µs CPU each",
        )
    ]
    for (dialect, level), rates in drained.ours.items():
        ratio, ours, bar = drained.ratios(dialect, level), typical(rates), _BARS[dialect, level]
        rows.append(
            Row(
                f"backlog drained by one process on {NAMES[dialect]} at `{level}`, fan-out included, to that loop",
                f"{median(ratio):.2f} ({min(ratio):.2f}–{max(ratio):.2f}); {ours.events_per_s:,.0f} events/s,"
                f" {ours.cpu_us_per_event:.0f} µs CPU each",
                f"≥ {bar:.2f}",
                median(ratio) >= bar,
            )
        )
    return rows
