"""A receiver that breaks every promise of HTTP, one way per path."""

import asyncio
import gzip
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from functools import cache
from typing import Self


class Misbehaviour(StrEnum):
    """What can be asked for, as the first segment of the URL's path."""

    #: Reads the request and never answers.
    HANG = "hang"
    #: Answers a byte at a time, for ever.
    DRIP = "drip"
    #: Breaks the connection with a RST after the request.
    RESET = "reset"
    #: Closes the connection without a byte of answer.
    CLOSE = "close"
    #: Promises 1,000 bytes of body, sends ten and closes.
    LIE_ABOUT_LENGTH = "lie_about_length"
    #: 200, with a body that never ends.
    HUGE = "huge"
    #: 200, with a few kB of gzip that are 1 GiB.
    BOMB = "bomb"
    #: Answers, but not in HTTP.
    GARBAGE = "garbage"
    #: Headers without end.
    ENDLESS_HEADERS = "endless_headers"


class BadReceiver:
    """The server; an async context manager. `hits` counts the requests that came whole."""

    def __init__(self) -> None:
        self.hits: Counter[Misbehaviour] = Counter()
        self._hit = asyncio.Condition()
        #: Bytes written in the longest answer, to see what a sender swallowed.
        self.longest_answer = 0
        self._port = 0
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self._port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_for(self, count: int, *, patience_s: float = 20.0) -> None:
        """Returns as soon as so many requests came. Raises `TimeoutError` when they don't."""
        async with asyncio.timeout(patience_s), self._hit:
            await self._hit.wait_for(lambda: self.hits.total() >= count)

    def url(self, misbehaviour: Misbehaviour | str) -> str:
        """The address at which the receiver does this. Raises `ValueError` for an unknown one."""
        if misbehaviour == Misbehaviour.BOMB:
            # Before it is asked for: making it takes longer than some wait for an answer.
            _bomb_body()
        return f"http://127.0.0.1:{self._port}/{Misbehaviour(misbehaviour).value}"

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                misbehaviour = await _read_request(reader)
                async with self._hit:
                    self.hits[misbehaviour] += 1
                    self._hit.notify_all()
                await _BEHAVIOURS[misbehaviour](self, writer)
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, *chunks: bytes) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    async def _send_for_ever(self, writer: asyncio.StreamWriter, chunk: bytes, pause_s: float = 0) -> None:
        sent = 0
        while True:
            await self._send(writer, chunk)
            sent += len(chunk)
            self.longest_answer = max(self.longest_answer, sent)
            await asyncio.sleep(pause_s)

    async def _hang(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        await self._send_for_ever(writer, b".", pause_s=0.05)

    async def _reset(self, writer: asyncio.StreamWriter) -> None:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def _lie_about_length(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")

    async def _huge(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._send_for_ever(writer, b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    async def _bomb(self, writer: asyncio.StreamWriter) -> None:
        body = _bomb_body()
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        await self._send(writer, head.encode(), body)

    async def _garbage(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, b"SSH-2.0-OpenSSH_9.9\r\n\x00\x01\xff not HTTP at all\r\n\r\n")

    async def _endless_headers(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, b"HTTP/1.1 200 OK\r\n")
        await self._send_for_ever(writer, b"X-More: " + b"y" * 1000 + b"\r\n")


@cache
def _bomb_body() -> bytes:
    # gzip members may be concatenated: 64 times 16 MiB of zeros.
    return gzip.compress(bytes(16 * 1024 * 1024), mtime=0) * 64


async def _read_request(reader: asyncio.StreamReader) -> Misbehaviour:
    head = await reader.readuntil(b"\r\n\r\n")
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return Misbehaviour(request_line.split(" ")[1].split("?")[0].strip("/").split("/")[0])


_BEHAVIOURS: dict[Misbehaviour, Callable[[BadReceiver, asyncio.StreamWriter], Awaitable[None]]] = {
    Misbehaviour.HANG: BadReceiver._hang,
    Misbehaviour.DRIP: BadReceiver._drip,
    Misbehaviour.RESET: BadReceiver._reset,
    Misbehaviour.CLOSE: BadReceiver._close,
    Misbehaviour.LIE_ABOUT_LENGTH: BadReceiver._lie_about_length,
    Misbehaviour.HUGE: BadReceiver._huge,
    Misbehaviour.BOMB: BadReceiver._bomb,
    Misbehaviour.GARBAGE: BadReceiver._garbage,
    Misbehaviour.ENDLESS_HEADERS: BadReceiver._endless_headers,
}
