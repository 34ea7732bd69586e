"""(i) From the first byte of `POST /v1/events` to the event's arrival, API and dispatcher in one process."""

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

from benchmarks.latency import Latency
from benchmarks.publisher import ADMIN_KEY, Line, one_event, request
from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import worker

#: Connections that take turns, so that a slow commit delays nobody else's.
CONNECTIONS = 8
_WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The rounds of a run; the n-th of each belong together."""

    bare: list[Latency]
    ours: list[Latency]

    def ratio(self, which: str) -> float:
        """The median ratio of `p50_ms` or `p99_ms`."""
        ratios: list[float] = [
            getattr(ours, which) / getattr(bare, which) for ours, bare in zip(self.ours, self.bare, strict=True)
        ]
        return median(ratios)


async def measure(databases: Databases, dialect: str, *, per_s: int, seconds: float, rounds: int) -> HandedOver:
    """The bare handler and `dispatcher serve` in turns, at the same steady rate."""
    result = HandedOver([], [])
    for _ in range(rounds):
        async with receiver() as there, databases.scene(dialect) as scene:
            url = scene.environment["DISPATCHER_DATABASE_URL"]
            async with _bare_handler(url, there.url) as bare:
                result.bare.append(await _measure(bare, there, per_s, seconds))
        async with receiver() as there, databases.scene(dialect) as scene:
            await scene.endpoint(there.url, max_in_flight=100)
            scene.environment["DISPATCHER_ADMIN_KEY"] = ADMIN_KEY
            async with worker(scene, "--port", "0", command="serve") as working:
                result.ours.append(await _measure(await working.served_at(), there, per_s, seconds))
    return result


async def _measure(url: str, there: Receiver, per_s: int, seconds: float) -> Latency:
    lines = [await Line.open(url) for _ in range(CONNECTIONS)]
    warm_up = await _publish(url, lines, per_s, _WARM_UP_S)
    sent = await _publish(url, lines, per_s, seconds)
    await there.reach(len(warm_up) + len(sent))
    return Latency.of(sent, await there.arrivals())


async def _publish(url: str, lines: list[Line], per_s: int, seconds: float) -> dict[str, float]:
    """Ids, and when their request was sent, on the machine's monotonic clock."""
    sent: dict[str, float] = {}
    total, started = int(per_s * seconds), time.monotonic()

    async def produce(first: int) -> None:
        for number in range(first, total, CONNECTIONS):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            event_id = f"evt_{secrets.token_hex(16)}"
            body = request(url, "/v1/events", one_event(event_id))
            sent[event_id] = time.monotonic()
            await lines[first].send(body)

    await asyncio.gather(*(produce(first) for first in range(CONNECTIONS)))
    return sent


@asynccontextmanager
async def _bare_handler(database_url: str, receiver_url: str) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_handler", database_url, receiver_url,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on hand-over."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, dialect, per_s=200, seconds=0.75 * plan.seconds, rounds=plan.rounds)
    rows = []
    for which, bar in (("p50_ms", 1.6), ("p99_ms", 2.4)):
        ours, bare = (median(getattr(one, which) for one in several) for several in (found.ours, found.bare))
        ratio = found.ratio(which)
        rows.append(
            Row(
                f"`POST /v1/events` to arrival at 200/s on {NAMES[dialect]}, to a bare handler, {which[:3]}",
                f"{ratio:.2f} ({ours:.1f} to {bare:.1f} ms)",
                f"≤ {bar}",
                ratio <= bar,
            )
        )
    return rows
