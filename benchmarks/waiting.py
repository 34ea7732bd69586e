"""(g) CPU of a `dispatcher serve` process while readers wait for jobs' events: streams, and long-polls that renew."""

import asyncio
import resource
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp

from benchmarks.receivers import Receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases
from benchmarks.worker import Worker, worker

READERS = 1000
_ADMIN_KEY = "the-key-of-the-benchmarks"
_SETTLE_S = 3.0
#: Sockets of the readers, and what a process needs beside them.
_FILES = READERS + 256


@dataclass(frozen=True, slots=True)
class Waiting:
    """Shares of one core, in percent."""

    nobody: float
    streams: float
    long_polls: float


async def measure(databases: Databases, dialect: str, *, seconds: float) -> Waiting:
    """Looks at one process without readers, with streams, and with long-polls of 30 s, each of a job of its own."""
    _allow_files()
    async with databases.scene(dialect) as scene:
        scene.environment["DISPATCHER_ADMIN_KEY"] = _ADMIN_KEY
        async with worker(scene, "--port", "0", command="serve") as working:
            url = await working.served_at()
            connector = aiohttp.TCPConnector(limit=0)
            headers = {"Authorization": f"Bearer {_ADMIN_KEY}"}
            async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
                await _mention_jobs(session)
                nobody = await _share(working, seconds)
                async with AsyncExitStack() as streams:
                    for number in range(READERS):
                        stream = session.get(
                            f"/v1/jobs/job_{number}/events?after=1",
                            headers={"Accept": "text/event-stream"},
                            timeout=aiohttp.ClientTimeout(total=None),
                        )
                        answer = await streams.enter_async_context(stream)
                        answer.raise_for_status()
                    with_streams = await _share(working, seconds)
                polls = [asyncio.create_task(_poll(session, number)) for number in range(READERS)]
                # Their renewals spread over the whole wait, as those of real clients do.
                with_polls = await _share(working, max(seconds, 30.0))
                for poll in polls:
                    if poll.done():
                        raise RuntimeError("a long-poll ended before the measurement did") from poll.exception()
                    poll.cancel()
                await asyncio.wait(polls)
    return Waiting(nobody, with_streams, with_polls)


async def _poll(session: aiohttp.ClientSession, number: int) -> None:
    wait_s = 1.0 + 29.0 * number / READERS
    while True:
        path = f"/v1/jobs/job_{number}/events?after=1&wait={wait_s:.3f}"
        async with session.get(path, timeout=aiohttp.ClientTimeout(total=60)) as answer:
            answer.raise_for_status()
            await answer.read()
        wait_s = 30.0


async def _mention_jobs(session: aiohttp.ClientSession) -> None:
    events = [{"type": "job.started", "job_id": f"job_{number}", "data": {}} for number in range(READERS)]
    async with session.post("/v1/events/batch", json={"events": events}) as answer:
        answer.raise_for_status()


async def _share(working: Worker, seconds: float) -> float:
    await asyncio.sleep(_SETTLE_S)
    before = working.cpu_s()
    await asyncio.sleep(seconds)
    return (working.cpu_s() - before) / seconds * 100


def _allow_files() -> None:
    """For this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on readers who wait."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, dialect, seconds=plan.seconds)
    shares = {"streams of jobs' events": found.streams, "long-polls of 30 s": found.long_polls}
    return [
        Row(
            f"CPU that {READERS:,} idle {what} cost one process on {NAMES[dialect]}",
            f"{share - found.nobody:.1f} % of a core, beside {found.nobody:.1f} % with none",
            "≤ 5 %",
            share - found.nobody <= 5,
        )
        for what, share in shares.items()
    ]
