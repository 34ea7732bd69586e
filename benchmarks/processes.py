"""(i) Two dispatcher processes on two cores against one, on PostgreSQL: 100 endpoints, whose caps do not bind.

The receiver and the database work on the same cores, so what they use of them is measured, too.
"""

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks.receivers import ADDRESSES, Receiver
from benchmarks.rows import Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import cpu_s, machine_cpu_s, worker

ENDPOINTS = 100
#: Events that are drained before it counts, so that every process has started.
_WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Shared:
    """What so many processes did together; CPU in µs for each event."""

    events_per_s: float
    dispatchers_us: float
    receiver_us: float
    #: The database's, mostly: the rest of the machine's.
    rest_us: float


@dataclass(frozen=True, slots=True)
class Processes:
    """The rounds of a run; the n-th of each belong together."""

    one: list[Shared]
    two: list[Shared]

    @property
    def ratios(self) -> list[float]:
        """Of each round: the rate of two to the rate of one."""
        return [two.events_per_s / one.events_per_s for one, two in zip(self.one, self.two, strict=True)]


async def measure(databases: Databases, receiver: Receiver, *, events: int, rounds: int) -> Processes:
    """Drains the same backlog in turns with one process and with two. The receiver listens on all `ADDRESSES`."""
    found = Processes([], [])
    for _ in range(rounds):
        found.one.append(await _drained(databases, receiver, events, 1))
        found.two.append(await _drained(databases, receiver, events, 2))
    return found


def typical(found: list[Shared]) -> Shared:
    """The medians."""
    return Shared(
        median(one.events_per_s for one in found),
        median(one.dispatchers_us for one in found),
        median(one.receiver_us for one in found),
        median(one.rest_us for one in found),
    )


async def _drained(databases: Databases, receiver: Receiver, events: int, processes: int) -> Shared:
    types = [f"bench.event_{number}" for number in range(ENDPOINTS)]
    async with databases.scene("postgresql") as scene, AsyncExitStack() as stack:
        for event_type, address in zip(types, ADDRESSES, strict=True):
            # Each a destination of its own: of one, a single process claims at a time.
            url = f"http://{address}:{receiver.port}/hook"
            await scene.endpoint(url, event_types=(event_type,), max_in_flight=100)
        await scene.backlog(events, types)
        there, machine = cpu_s(receiver.pid), machine_cpu_s()
        working = [await stack.enter_async_context(worker(scene, "--until-idle")) for _ in range(processes)]
        used = [cpu for _, cpu in await asyncio.gather(*(one.ended() for one in working))]
        there, machine = cpu_s(receiver.pid) - there, machine_cpu_s() - machine
        await scene.check_recorded(events)
        per_s = await scene.recorded_per_s(skip=int(_WARM_UP * events))
        return Shared(
            per_s,
            sum(used) / events * 1e6,
            there / events * 1e6,
            (machine - there - sum(used)) / events * 1e6,
        )


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on two processes."""
    # So many that the start of a process, which the rate leaves out, leaves enough to measure.
    found = await measure(databases, receiver, events=2 * plan.events, rounds=plan.rounds)
    one, two, ratios = typical(found.one), typical(found.two), found.ratios
    return [
        Row(
            f"two processes to one on {os.cpu_count()} cores, {ENDPOINTS} endpoints, on PostgreSQL",
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f});"
            f" {two.events_per_s:,.0f} to {one.events_per_s:,.0f} events/s",
            "≥ 1.25",
            median(ratios) >= 1.25,
        ),
        Row(
            "the same: CPU for an event of dispatchers, receiver, and database with all else",
            f"{two.dispatchers_us:.0f}, {two.receiver_us:.0f}, {two.rest_us:.0f} µs;"
            f" with one {one.dispatchers_us:.0f}, {one.receiver_us:.0f}, {one.rest_us:.0f} µs",
        ),
    ]
