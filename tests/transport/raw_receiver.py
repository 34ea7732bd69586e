"""A receiver that answers with exactly the bytes it was given, and counts the connections it is asked over."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    """An answer with its length, and other lines of its head."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


class RawReceiver:
    """The server; an async context manager. The last answer repeats; one that is empty closes the connection, and None
    is silence.

    `by_bytes` sends each byte alone, `without_end` the last answer again and again, whether asked or not.
    """

    def __init__(
        self,
        *answers: bytes | None,
        tls: ssl.SSLContext | None = None,
        by_bytes: bool = False,
        without_end: bool = False,
    ) -> None:
        self.connections = 0
        #: Each request as it came, head and body.
        self.requests: list[bytes] = []
        #: For each request the name in the certificate that its connection showed, or none.
        self.clients: list[str | None] = []
        #: Set when a request has come.
        self.asked = asyncio.Event()
        #: Set when a connection was closed by the other side.
        self.left = asyncio.Event()
        #: Bytes that were sent, those in the sockets' buffers among them.
        self.written = 0
        self._piece = 1 if by_bytes else 2**16
        self._without_end = without_end
        self._answers: list[bytes | None] = list(answers or (OK,))
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        """The address of a path."""
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}{path}"

    async def say(self, message: bytes) -> None:
        """Sends this over every open connection, though nobody has asked."""
        for writer in self._writers:
            writer.write(message)
            await writer.drain()

    def answer_next(self, *answers: bytes | None) -> None:
        """Answers with these from now on."""
        self._answers = list(answers)

    def hang_up(self, *, reset: bool = False) -> None:
        """Ends every connection, after what was sent, or with a RST at once."""
        for writer in self._writers:
            if reset:
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(ssl.SSLError):
                while (answer := await self._answer_to(reader, _shown(writer))) != b"":
                    if answer is not None:
                        await self._send(writer, answer)
                    while self._without_end:
                        await self._send(writer, self._answers[-1] or b"")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        for start in range(0, len(message), self._piece):
            piece = message[start : start + self._piece]
            writer.write(piece)
            await writer.drain()
            self.written += len(piece)
            # Draining alone lets nobody else work while there is room.
            await asyncio.sleep(0)

    async def _answer_to(self, reader: asyncio.StreamReader, client: str | None) -> bytes | None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b""
        self.requests.append(head + body)
        self.clients.append(client)
        self.asked.set()
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def _shown(writer: asyncio.StreamWriter) -> str | None:
    certificate = writer.get_extra_info("peercert")
    return dict(part[0] for part in certificate["subject"])["commonName"] if certificate else None
