"""A real `dispatcher work` process, to be killed, stopped, and let go on."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Self

from tests.fork_server import ForkedProcess, fork

PATIENCE_S = 60.0


class Worker:
    """One process, whose log can be awaited."""

    def __init__(self, process: ForkedProcess) -> None:
        self._process = process
        #: Warnings and errors that it logged.
        self.log: list[dict[str, Any]] = []
        self._up = asyncio.Event()
        self._arrival = asyncio.Condition()
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def start(
        cls, settings: dict[str, str], entry: str = "dispatcher", environment: Mapping[str, str] | None = None
    ) -> Self:
        """Starts one with these settings, by their names without the prefix; `entry` is the module that is run."""
        given = {f"DISPATCHER_{name.upper()}": value for name, value in settings.items()}
        within = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **given, **(environment or {})}
        return cls(await fork("-m", entry, "work", "--port", "0", environment=within))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode().strip()
            if text.startswith("Health and metrics on"):
                self._up.set()
                continue
            async with self._arrival:
                self.log.append(json.loads(text) if text.startswith("{") else {"event": text, "level": "error"})
                self._arrival.notify_all()

    async def up(self) -> None:
        """Returns as soon as it works."""
        async with asyncio.timeout(PATIENCE_S):
            await self._up.wait()

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    @property
    def faults(self) -> list[dict[str, Any]]:
        """What a crash of a neighbour, or its own end, must not lead to."""
        return [line for line in self.log if line["level"] == "error"]

    async def logs(self, event: str, count: int) -> None:
        """Returns as soon as it has logged an event `count` times."""
        async with asyncio.timeout(PATIENCE_S), self._arrival:
            await self._arrival.wait_for(lambda: len(self.logged(event)) >= count)

    async def pause(self) -> None:
        """SIGSTOP; it stands still when this returns."""
        await self._process.stop()

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def arm(self) -> None:
        """Lets a worker of `tests.chaos.doomed`, which is up, kill itself when it next passes its step."""
        self._process.send_signal(signal.SIGUSR1)

    async def ended(self) -> int:
        """The exit code, as soon as the process has ended by itself and its log was read."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self._process.wait()
            await self._reading
        return code

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal; the exit code, as soon as the process has ended and its log was read."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self.ended()
