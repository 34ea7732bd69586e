"""(d) Resident memory of one process: at rest, and with 100 and 2,000 attempts in flight."""

import asyncio
from dataclasses import dataclass

from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker

IN_FLIGHT = (100, 2000)
#: How long the receiver keeps them in flight, and how long a process settles before it counts as at rest, in seconds.
_HOLD_S = 20.0
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory, in MB."""

    at_rest_mb: float
    #: By how many were in flight.
    in_flight_mb: dict[int, float]


async def measure(databases: Databases, dialect: str) -> Memory:
    """Looks at a process that waits, publishes what fills its slots, and looks again while they are full."""
    async with receiver(delay_s=_HOLD_S) as holding, databases.scene(dialect) as scene:
        scene.environment["DISPATCHER_MAX_IN_FLIGHT"] = str(IN_FLIGHT[-1])
        scene.environment["DISPATCHER_MAX_IN_FLIGHT_PER_DESTINATION"] = str(IN_FLIGHT[-1])
        await scene.endpoint(holding.url, max_in_flight=IN_FLIGHT[-1], timeout_s=2 * _HOLD_S)
        async with worker(scene) as working:
            await asyncio.sleep(_SETTLE_S)
            at_rest_mb, in_flight_mb, sent = working.resident_mb(), {}, 0
            for count in IN_FLIGHT:
                await scene.backlog(count - sent)
                await holding.reach(count)
                in_flight_mb[count] = working.resident_mb()
                sent = count
    return Memory(at_rest_mb, in_flight_mb)


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on memory."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, dialect)
    return [
        Row(
            f"resident memory at rest on {NAMES[dialect]}",
            f"{found.at_rest_mb:.0f} MB",
            "≤ 100 MB",
            found.at_rest_mb <= 100,
        ),
        *(
            Row(
                f"resident memory with {count:,} in flight on {NAMES[dialect]}",
                f"{mb:.0f} MB, {mb - found.at_rest_mb:.0f} more",
                f"≤ {more} MB more",
                mb - found.at_rest_mb <= more,
            )
            for (count, mb), more in zip(found.in_flight_mb.items(), (15, 60), strict=True)
        ),
    ]
