"""Programs of other people, as real processes: examples and receivers, found by the URL that they print."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fork_server import ForkedProcess, fork

#: Long enough for the slowest machine; a test that needs it fails anyway.
PATIENCE_S = 30.0

_URL = re.compile(r"http://[\w.]+:\d+")


class Program:
    """A running program, whose output can be awaited."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        self._process = process
        self.lines: list[str] = []
        self._arrival = asyncio.Condition()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._arrival:
                self.lines.append(line.decode().rstrip("\n"))
                self._arrival.notify_all()
        async with self._arrival:
            self._arrival.notify_all()

    def said(self, text: str) -> list[str]:
        """The lines so far that contain a text."""
        return [line for line in self.lines if text in line]

    async def says(self, text: str, count: int = 1) -> list[str]:
        """The lines that contain a text, as soon as there are `count`. Raises `AssertionError` when they don't come."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._arrival:
                await self._arrival.wait_for(lambda: len(self.said(text)) >= count or self._reading.done())
        except TimeoutError:
            pass
        assert len(self.said(text)) >= count, f"no {count} lines with {text!r} in: {self.lines}"
        return self.said(text)

    async def url(self) -> str:
        """Where it serves, as soon as it says so."""
        [line, *_] = await self.says("http://")
        found = _URL.search(line)
        assert found, line
        return found[0]

    async def kill(self) -> None:
        """Ends it with SIGKILL: it has no time for anything."""
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def end(self) -> int:
        """Asks it to end; its exit code, once all of its output was read."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            code = await self._process.wait()
            await self._reading
        return code

    async def done(self, patience_s: float = PATIENCE_S) -> int:
        """Waits until it has ended by itself; its exit code, once all of its output was read."""
        async with asyncio.timeout(patience_s):
            code = await self._process.wait()
        await self._reading
        return code


@asynccontextmanager
async def running(*command: str | Path, **environment: str) -> AsyncIterator[Program]:
    """Runs a command meanwhile, on any free port."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_within(environment),
    )
    async with _ended(process) as program:
        yield program


@asynccontextmanager
async def running_python(*arguments: str | Path, **environment: str) -> AsyncIterator[Program]:
    """Runs a Python program meanwhile, with the tests' own packages: `-m module …`, `-c code …` or `file …`."""
    with_path = _within({"PYTHONPATH": os.pathsep.join(sys.path)} | environment)
    async with _ended(await fork(*arguments, environment=with_path)) as program:
        yield program


def _within(environment: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1", "PORT": "0"} | environment


@asynccontextmanager
async def _ended(process: asyncio.subprocess.Process | ForkedProcess) -> AsyncIterator[Program]:
    program = Program(process)
    try:
        yield program
    finally:
        await program.end()
