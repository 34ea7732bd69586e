"""The command line on a database of its own, called in this process or as a real one."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from dispatcher.cli.main import run
from tests.fork_server import ForkedProcess, fork
from tests.process import process_as_before

#: Long enough for the slowest machine; a test that needs it fails anyway.
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Cli = Callable[..., Outcome]


@pytest.fixture
def bare_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs a command in this process, on the settings' default: a new SQLite file in the test's directory."""

    def call(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    with process_as_before():
        yield call


@pytest.fixture
def cli(bare_cli: Cli, monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> Cli:
    """Runs a command in this process, on a migrated SQLite database."""
    monkeypatch.setenv("DISPATCHER_DATABASE_URL", sqlite_url)
    return bare_cli


class Process:
    """A real `dispatcher` process, whose output can be awaited."""

    def __init__(self, process: ForkedProcess | asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._arrival = asyncio.Condition()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._arrival:
                self.lines.append(line.decode().rstrip("\n"))
                self._arrival.notify_all()
        async with self._arrival:
            self._arrival.notify_all()

    async def line(self, containing: str, count: int = 1) -> str:
        """The `count`th line that contains a text, as soon as it is there."""

        def found() -> list[str]:
            return [line for line in self.lines if containing in line]

        try:
            async with asyncio.timeout(PATIENCE_S), self._arrival:
                await self._arrival.wait_for(lambda: len(found()) >= count or self._reading.done())
        except TimeoutError:
            pass
        assert len(found()) >= count, f"no {containing!r} in: {self.lines}"
        return found()[count - 1]

    async def end(self) -> int:
        """Its exit code, once it has ended and all of its output was read."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await self._reading
        return code


Started = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def started() -> Started:
    """Starts `dispatcher` with arguments and settings; what still runs at the end is killed."""

    @asynccontextmanager
    async def start(*arguments: str, **settings: str) -> AsyncIterator[Process]:
        environment = {f"DISPATCHER_{name.upper()}": value for name, value in settings.items()}
        within = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        process = Process(await fork("-m", "dispatcher", *arguments, environment=within))
        try:
            yield process
        finally:
            if process.process.returncode is None:
                process.process.kill()
            await process.end()

    return start
