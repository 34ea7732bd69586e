"""On a real terminal: questions, progress, and Ctrl-C that leaves the work going."""

import asyncio
import os
import pty
import signal
import sys
from contextlib import suppress
from typing import Self

from tests.cli.conftest import PATIENCE_S, Started
from tests.cli.test_serve import LOCAL, address
from tests.fork_server import ForkedProcess, fork
from tests.receiver import Receiver


class Terminal:
    """A pseudo-terminal with a command on it."""

    def __init__(self, descriptor: int, process: ForkedProcess) -> None:
        self._descriptor = descriptor
        self.process = process
        self.said = ""

    @classmethod
    async def start(cls, *arguments: str, **settings: str) -> Self:
        """Runs `dispatcher` with these arguments and settings on one."""
        environment = {f"DISPATCHER_{name.upper()}": value for name, value in settings.items()}
        within = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", **environment}
        descriptor, theirs = pty.openpty()
        try:
            process = await fork("-m", "dispatcher", *arguments, environment=within, stdin=theirs, stdout=theirs)
        finally:
            os.close(theirs)
        return cls(descriptor, process)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def until(self, text: str) -> None:
        """Reads until it has said `text`."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.said:
                read = await asyncio.to_thread(self._read)
                assert read, f"it ended without {text!r}: {self.said}"

    async def end(self) -> int:
        """Its exit code, after all of its output."""
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(self._read):
                pass
            code = await self.process.wait()
        os.close(self._descriptor)
        return code

    def _read(self) -> bool:
        # Linux ends a terminal whose other side is closed with an error.
        with suppress(OSError):
            read = os.read(self._descriptor, 65536)
            self.said += read.decode("utf-8", "replace")
            return bool(read)
        return False


async def test_a_bulk_redelivery_asks_shows_progress_and_goes_on_after_ctrl_c(
    started: Started, empty_sqlite_url: str, receiver: Receiver
) -> None:
    receiver.answers("/hook", 500)
    settings = {"database_url": empty_sqlite_url, **LOCAL}
    async with started("endpoints", "create", receiver.url("/hook"), "--retry-schedule", "", **settings) as made:
        assert await made.end() == 0
    async with started("serve", **settings) as serving:
        await address(serving)
        async with started("events", "publish", "job.completed", "--data", "{}", **settings) as published:
            assert await published.end() == 0
        await serving.line('"verdict":"dead"')
        refused = await Terminal.start("dead-letters", "redeliver", "--all", **settings)
        await refused.until("Redeliver 1 dead letter? [y/N]")
        refused.type("n\n")
        assert await refused.end() == 1
        assert "Nothing was done." in refused.said
        # One in a thousand seconds: the run cannot end while it is watched.
        watched = await Terminal.start("dead-letters", "redeliver", "--all", "--rate-per-s", "0.001", **settings)
        await watched.until("Redeliver 1 dead letter? [y/N]")
        watched.type("y\n")
        await watched.until("0/1")
        watched.process.send_signal(signal.SIGINT)
        assert await watched.end() == 130
        assert "It goes on without you" in watched.said
        assert "dead-letters cancel-redelivery rdl_" in watched.said
        assert "Traceback" not in watched.said
