"""An egress proxy: answers CONNECT as a test says, and makes tunnels to this machine."""

import asyncio
from typing import Self

GRANTED = b"HTTP/1.1 200 Connection established\r\nX-Proxy: ours\r\n\r\n"


class ConnectProxy:
    """The server; an async context manager. Every name it is asked for is 127.0.0.1.

    `answer`: what it says to a request; None is silence, and empty hangs up. What does not begin like a 2xx makes no
    tunnel.
    """

    def __init__(self, answer: bytes | None = GRANTED) -> None:
        self.answer = answer
        #: Each request for a tunnel, its head.
        self.requests: list[str] = []
        #: Set when there was one.
        self.asked = asyncio.Event()
        self.tunnels = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            self.asked.set()
            if self.answer is None:
                await reader.read()
            elif not self.answer.startswith(b"HTTP/1.1 2"):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self._tunnel(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _tunnel(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.answer is not None
        port = int(head.split()[1].rpartition(":")[2])
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        self.tunnels += 1
        writer.write(self.answer)
        try:
            await asyncio.gather(_pass_on(reader, their_writer), _pass_on(their_reader, writer))
        finally:
            their_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
