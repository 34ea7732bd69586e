"""A real `dispatcher` process under measurement: its log in a file, its CPU and memory as the kernel says."""

import asyncio
import json
import os
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
_STOPPED = b'"event":"dispatcher.stopped"'


class Worker:
    """The process, from its start on; `started` has returned when it works."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log
        self._cpu_at_start_s = 0.0

    async def started(self) -> None:
        """Returns when it works; what it used until then does not count."""
        while _STARTED not in self._log.read_bytes():
            if self.process.returncode is not None:
                raise RuntimeError(f"the dispatcher ended with code {self.process.returncode}: {self._log.read_text()}")
            await asyncio.sleep(0.005)
        self._cpu_at_start_s = self._cpu_s()

    async def ended(self) -> tuple[float, float]:
        """Waits until it has ended by itself; seconds from its line `dispatcher.started` to `dispatcher.stopped`,
        and the CPU seconds it used meanwhile.
        """
        cpu_s = self._cpu_at_start_s
        while self.process.returncode is None:
            cpu_s = self._cpu_s(otherwise=cpu_s)
            await asyncio.sleep(0.005)
        if self.process.returncode:
            raise RuntimeError(f"the dispatcher ended with code {self.process.returncode}")
        return self._logged_at(_STOPPED) - self._logged_at(_STARTED), cpu_s - self._cpu_at_start_s

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

    def resident_mb(self) -> float:
        """Its resident memory, in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the process has no resident memory any more")

    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    def cpu_s(self) -> float:
        """The CPU seconds that it has used since it was started."""
        return self._cpu_s() - self._cpu_at_start_s

    def _cpu_s(self, otherwise: float = 0.0) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return otherwise
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S or otherwise


@asynccontextmanager
async def worker(scene: Scene, *arguments: str, command: str = "work") -> AsyncIterator[Worker]:
    """Starts `dispatcher work` (or `serve`) on the scene, and kills what is left of it at the end."""
    log = scene.directory / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dispatcher", command, *arguments,
            env={**scene.environment, "PYTHONPATH": str(_ROOT)},
            # Where no `.env` of anybody's is read.
            cwd=scene.directory,
            stdout=output,
        )  # fmt: skip
    try:
        working = Worker(process, log)
        await working.started()
        yield working
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
