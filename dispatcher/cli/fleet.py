"""Several dispatcher processes under one parent: spawned, started again when one dies, stopped together."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from dispatcher.logs import logger

log = logger("dispatcher.fleet")

#: The first and the longest wait before a dead process is started again, in seconds.
_RESTART_S = (0.5, 30.0)
#: A process that lived so long starts with the first wait again, in seconds.
_HEALTHY_S = 60.0
#: What a stop takes beside the grace for attempts in flight, in seconds.
_STOP_SLACK_S = 8.0


class Fleet:
    """`count` processes of `dispatcher work`; PostgreSQL is where they meet."""

    def __init__(
        self, count: int, *, until_idle: bool, grace_s: float, metrics_directory: str, pages_port: int | None
    ) -> None:
        self._count = count
        self._until_idle = until_idle
        self._grace_s = grace_s
        self._environment = {"PROMETHEUS_MULTIPROC_DIR": metrics_directory}
        if pages_port is not None:
            # Not for a page of their own: so that nothing is delivered to this one.
            self._environment["DISPATCHER_WORK_PORT"] = str(pages_port)
        self._metrics_directory = metrics_directory

    def registry(self) -> CollectorRegistry:
        """The metrics of all processes together; those of dead ones stay in the sums."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._metrics_directory)  # type: ignore[no-untyped-call]
        return registry

    async def run(self, stop: asyncio.Event) -> bool:
        """Keeps the processes running until `stop`, or until each found nothing due; false when one failed then."""
        loop = asyncio.get_running_loop()
        slots = [loop.create_task(self._keep(number, stop)) for number in range(self._count)]
        return all(await asyncio.gather(*slots))

    async def _keep(self, number: int, stop: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        wait_s = _RESTART_S[0]
        while True:
            process = await self._spawn()
            started_at = loop.time()
            log.info("fleet.process_started", slot=number, pid=process.pid)
            stopped = await self._ended_or_stopped(process, stop)
            mark_process_dead(process.pid, self._metrics_directory)  # type: ignore[no-untyped-call]
            if stopped:
                return True
            if self._until_idle:
                return process.returncode == 0
            wait_s = _RESTART_S[0] if loop.time() - started_at > _HEALTHY_S else wait_s
            log.error("fleet.process_died", slot=number, pid=process.pid, code=process.returncode, restart_in_s=wait_s)
            if await _set_within(stop, wait_s):
                return True
            wait_s = min(wait_s * 2, _RESTART_S[1])

    async def _spawn(self) -> Process:
        arguments = ["work", "--supervised", *(["--until-idle"] if self._until_idle else [])]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dispatcher",
            *arguments,
            # The pipe is never written to: it ends with this process, however that ends.
            stdin=PIPE,
            env={**os.environ, **self._environment},
        )

    async def _ended_or_stopped(self, process: Process, stop: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        ended = loop.create_task(process.wait())
        asked = loop.create_task(stop.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if ended.done():
            return stop.is_set()
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait({ended}, timeout=self._grace_s + _STOP_SLACK_S)
        if not ended.done():
            log.error("fleet.process_killed", pid=process.pid)
            process.kill()
            await ended
        return True


async def _set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
