"""A real `dispatcher` process under measurement: its log in a file, its CPU and memory as the kernel says."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.scene import Scene

_ROOT = Path(__file__).resolve().parent.parent
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STARTED = b'"event":"dispatcher.started"'


class Worker:
    """The process, from its start on; `started` has returned when it works."""

    def __init__(self, process: asyncio.subprocess.Process, scene: Scene, log: Path) -> None:
        self.process = process
        self._scene = scene
        self._log = log
        self._cpu_at_start_s = 0.0
        self._started_at = 0.0

    async def started(self) -> None:
        """Returns when it works; what it used until then does not count."""
        while not await self._works():
            if self.process.returncode is not None:
                raise RuntimeError(f"the dispatcher ended with code {self.process.returncode}: {self._log.read_text()}")
            await asyncio.sleep(0.005)
        self._cpu_at_start_s = self._cpu_s()

    async def _works(self) -> bool:
        if self._scene.log_level == "info":
            return _STARTED in self._log.read_bytes()
        # At `warning` it says nothing; but it has taken a lease.
        if not await self._scene.scalar("SELECT count(*) FROM dispatchers"):
            return False
        self._started_at = time.time()
        return True

    async def ended(self) -> tuple[float, float]:
        """Waits until it has ended by itself; seconds from its line `dispatcher.started` until the last attempt was on
        record, and the CPU seconds it used meanwhile.
        """
        cpu_s = self._cpu_at_start_s
        while self.process.returncode is None:
            cpu_s = self._cpu_s(otherwise=cpu_s)
            await asyncio.sleep(0.005)
        if self.process.returncode:
            raise RuntimeError(f"the dispatcher ended with code {self.process.returncode}")
        started_at = self._started_at or self._logged_at(_STARTED)
        return await self._scene.last_recorded_at() - started_at, cpu_s - self._cpu_at_start_s

    @property
    def started_at_monotonic(self) -> float:
        """When it began to work, on the machine's monotonic clock, which receivers note arrivals by."""
        return self._logged_at(_STARTED) - time.time() + time.monotonic()

    def _logged_at(self, mark: bytes) -> float:
        """The Unix time of the log's line that contains the mark."""
        with self._log.open("rb") as lines:
            for line in lines:
                if mark in line:
                    return datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        raise RuntimeError(f"the dispatcher's log has no line with {mark!r}")

    async def served_at(self) -> str:
        """The URL of a `serve`, as soon as it says so."""
        for _ in range(2000):
            found = re.search(r"Serving on (http://\S+)", self.output())
            if found:
                return found[1]
            await asyncio.sleep(0.005)
        raise RuntimeError("the server does not say where it listens")

    def resident_mb(self) -> float:
        """Its resident memory, in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the process has no resident memory any more")

    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def forget_output(self) -> None:
        """Gives the disk back what it has written so far."""
        os.truncate(self._log, 0)

    def cpu_s(self) -> float:
        """The CPU seconds that it has used since it was started."""
        return self._cpu_s() - self._cpu_at_start_s

    def _cpu_s(self, otherwise: float = 0.0) -> float:
        return cpu_s(self.process.pid) or otherwise


def cpu_s(pid: int) -> float:
    """The CPU seconds that a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def machine_cpu_s() -> float:
    """The CPU seconds that all processes of this machine have used."""
    user, nice, system, _, _, interrupts, softirqs, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, interrupts, softirqs))) / _TICKS_PER_S


@asynccontextmanager
async def worker(
    scene: Scene, *arguments: str, command: str = "work", module: str = "dispatcher"
) -> AsyncIterator[Worker]:
    """Starts `dispatcher work` (or `serve`) on the scene, and kills what is left of it at the end."""
    log = scene.new_log()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, command, *arguments,
            env={**scene.environment, "PYTHONPATH": str(_ROOT)},
            # Where no `.env` of anybody's is read.
            cwd=scene.directory,
            stdout=output,
        )  # fmt: skip
    try:
        working = Worker(process, scene, log)
        await working.started()
        yield working
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
