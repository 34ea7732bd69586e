"""(i) CPU of a `dispatcher work` process that has nothing to do."""

import asyncio

from benchmarks.receivers import Receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker

_URL = "http://127.0.0.1:9009/hook"
_SETTLE_S = 5.0
#: The kernel counts CPU in hundredths of a second: less would tell nothing of one percent.
_LEAST_S = 15.0


async def measure(databases: Databases, dialect: str, *, seconds: float) -> float:
    """Its share of one core over so many seconds, in percent."""
    seconds = max(seconds, _LEAST_S)
    async with databases.scene(dialect) as scene:
        await scene.endpoint(_URL, max_in_flight=None)
        async with worker(scene) as working:
            await asyncio.sleep(_SETTLE_S)
            before = working.cpu_s()
            await asyncio.sleep(seconds)
            return (working.cpu_s() - before) / seconds * 100


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on a process that waits."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    share = await measure(databases, dialect, seconds=plan.seconds)
    return [
        Row(f"CPU of a process that waits, on {NAMES[dialect]}", f"{share:.2f} % of a core", "≤ 1 %", share <= 1),
    ]
