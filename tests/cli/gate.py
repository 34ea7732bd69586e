"""A gate before a server: passes what is said, or lets nobody through, or swallows everything, as a network may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class Gate:
    """A TCP proxy on a port of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._there = host, port
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        #: Somebody has connected.
        self.tried = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def before(cls, host: str, port: int) -> AsyncIterator[Self]:
        """Opened before a server."""
        gate = cls(host, port)
        gate._server = await asyncio.start_server(gate._let_in, "127.0.0.1", 0)
        gate.port = gate._server.sockets[0].getsockname()[1]
        try:
            yield gate
        finally:
            gate.close()
            for task in gate._tasks:
                task.cancel()
            await asyncio.gather(*gate._tasks, return_exceptions=True)

    def swallow(self) -> None:
        """From now on nothing that is said on either side arrives, on old connections and new ones."""
        self._passing.clear()

    def close(self) -> None:
        """Breaks what is open; from now on connections are refused."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tried.set()
        self._writers.append(writer)
        self._tasks.append(asyncio.create_task(self._pass(reader, writer)))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        their_reader, their_writer = await asyncio.open_connection(*self._there)
        self._writers.append(their_writer)
        await asyncio.gather(self._pump(reader, their_writer), self._pump(their_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while said := await reader.read(65536):
                await self._passing.wait()
                writer.write(said)
                await writer.drain()
        writer.close()
