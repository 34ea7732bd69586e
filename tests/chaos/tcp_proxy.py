"""A TCP proxy that misbehaves on demand: the network between a process and its database."""

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from typing import Self

from sqlalchemy.engine import make_url

#: Close with RST instead of FIN.
_ABRUPTLY = struct.pack("ii", 1, 0)
_CHUNK = 65536


class TcpProxy:
    """Forwards one port of loopback to another address; an async context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._asking, self._answering = asyncio.Event(), asyncio.Event()
        self._asking.set()
        self._answering.set()
        self._delay_s = 0.0
        #: Connections that it has accepted so far, and chunks that it has forwarded.
        self.accepted = 0
        self.forwarded = 0

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy before the one server that a database URL names."""
        parsed = make_url(url)
        assert parsed.host is not None
        return cls(parsed.host, parsed.port or 5432)

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def url(self, url: str) -> str:
        """The same database, through the proxy."""
        through = make_url(url).set(host="127.0.0.1", port=self._port)
        return through.render_as_string(hide_password=False)

    def cut(self) -> None:
        """Resets every connection there is; new ones are forwarded as before."""
        for writer in list(self._open):
            if writer.transport.is_closing():
                continue
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPTLY)
            writer.transport.abort()

    async def refuse(self) -> None:
        """Resets every connection there is, and refuses new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.cut()

    def swallow(self) -> None:
        """Accepts everything and forwards nothing, in either direction; not even the end of a connection.

        What is on its way arrives after `restore`, as it does after a partition of a real network.
        """
        self._asking.clear()
        self._answering.clear()

    def swallow_answers(self) -> None:
        """Forwards what is asked, and not what is answered."""
        self._answering.clear()

    def abandon(self) -> None:
        """Forwards nothing of the connections that there are, for ever; new ones are forwarded.

        So it is when a host is gone and another has taken its address: nobody says goodbye.
        """
        self.swallow()
        self._asking, self._answering = asyncio.Event(), asyncio.Event()
        self._asking.set()
        self._answering.set()

    def slow_down(self, delay_s: float) -> None:
        """Forwards each chunk only after so many seconds, in each direction."""
        self._delay_s = delay_s

    async def restore(self) -> None:
        """Forwards as at first."""
        self._delay_s = 0.0
        self._asking.set()
        self._answering.set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, from_client: StreamReader, to_client: StreamWriter) -> None:
        self._open.add(to_client)
        to_server = None
        try:
            await self._asking.wait()
            from_server, to_server = await asyncio.open_connection(*self._target)
            self._open.add(to_server)
            directions = [
                asyncio.ensure_future(self._pump(from_client, to_server, self._asking)),
                asyncio.ensure_future(self._pump(from_server, to_client, self._answering)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        except OSError:
            # The server is down: then so is its proxy.
            return
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    self._open.discard(writer)
                    writer.close()

    async def _pump(self, reader: StreamReader, writer: StreamWriter, flowing: asyncio.Event) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await flowing.wait()
                writer.write(chunk)
                self.forwarded += 1
                await writer.drain()
        except OSError:
            pass
        # The end of a connection travels no better than the rest.
        await flowing.wait()
