"""(d) Resident memory of one process: at rest, and with 100 attempts in flight."""

import asyncio
from dataclasses import dataclass

from benchmarks.receivers import receiver
from benchmarks.scene import Databases
from benchmarks.worker import worker

IN_FLIGHT = 100
#: How long the receiver keeps them in flight, and how long a process settles before it counts as at rest, in seconds.
_HOLD_S = 10.0
_SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory, in MB."""

    at_rest_mb: float
    in_flight_mb: float


async def measure(databases: Databases, dialect: str) -> Memory:
    """Looks at a process that waits, publishes what fills its slots, and looks again while they are full."""
    async with receiver(delay_s=_HOLD_S) as holding, databases.scene(dialect) as scene:
        await scene.endpoint(holding.url, max_in_flight=IN_FLIGHT)
        async with worker(scene) as working:
            await asyncio.sleep(_SETTLE_S)
            at_rest_mb = working.resident_mb()
            await scene.backlog(IN_FLIGHT)
            await holding.reach(IN_FLIGHT)
            return Memory(at_rest_mb, working.resident_mb())
