"""One POST over a pooled connection: aiohttp's connector and parser, without the session above them.

A session's request costs about as much again as the connection's own work: a request, a response and a timer object,
cookies, redirects, and until Python 3.12 a task that writes the body. A webhook needs none of that. What stays is
aiohttp's: resolving, connecting, TLS, keep-alive and the parser.
"""

from collections.abc import Mapping

import aiohttp
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from msgspec import Struct
from multidict import CIMultiDictProxy
from yarl import URL

from dispatcher.errors import InvalidField

#: What belongs to one URL is kept for so many of them.
ROUTES = 1024
#: Idle connections that are passed over in one POST; a server that speaks first spoils new ones, too.
SPOILT = 8


class Answer(Struct, frozen=True, gc=False):
    """A receiver's answer and the beginning of its body."""

    status: int
    headers: CIMultiDictProxy[str]
    beginning: bytes


class _Route(Struct, frozen=True):
    """What every POST to one URL has in common."""

    #: Never sent: it tells the connector where to connect to, and which connections fit.
    target: aiohttp.ClientRequest
    head: str


class Wire:
    """A connection pool that POSTs. Use it in the event loop that runs it; close it at the end."""

    def __init__(self, connector: aiohttp.TCPConnector, *, connect_timeout_s: float, read_limit: int) -> None:
        self._connector = connector
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._read_limit = read_limit
        self._routes: dict[URL, _Route] = {}

    async def post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends the body and reads the answer's beginning. Raises what aiohttp raises, and `InvalidField` for a header
        of more than one line.
        """
        if self._connector.closed:
            raise RuntimeError("the connection pool was closed")
        route = self._routes.get(url) or self._route(url)
        message = _serialize(route.head, headers, body)
        connection = await self._connect(route)
        for _ in range(SPOILT):
            if connection.protocol is not None and not connection.protocol.should_close:
                break
            # It said something while nobody had asked, which would be taken for our answer.
            connection.close()
            connection = await self._connect(route)
        try:
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None or transport.is_closing() or protocol.should_close:
                raise aiohttp.ClientConnectionResetError("the connection was not fit to be written to")
            protocol.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=self._read_limit)
            transport.write(message)
            while True:
                head, stream = await protocol.read()
                # 1xx come before the answer, except the switch to another protocol, which nothing follows.
                if not 100 <= head.code <= 199 or head.code == 101:
                    break
            beginning = await _beginning(stream, self._read_limit)
            if transport.get_write_buffer_size():
                # Answered before it had read all: what it has not read it would take for the next request.
                _abort(connection)
            else:
                # Closed, too, unless the whole answer was read.
                connection.release()
        except BaseException:
            _abort(connection)
            raise
        return Answer(head.code, head.headers, beginning)

    async def close(self) -> None:
        """Closes every connection."""
        await self._connector.close()

    async def _connect(self, route: _Route) -> Connection:
        try:
            return await self._connector.connect(route.target, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error

    def _route(self, url: URL) -> _Route:
        while len(self._routes) >= ROUTES:
            del self._routes[next(iter(self._routes))]
        bare = url if url.raw_user is None and url.raw_password is None else url.with_user(None)
        target = aiohttp.ClientRequest("POST", bare)
        lines = [f"POST {bare.raw_path_qs} HTTP/1.1", f"Host: {target.headers['Host']}"]
        if bare is not url:
            lines.append(f"Authorization: {aiohttp.encode_basic_auth(url.user or '', url.password or '')}")
        route = self._routes[url] = _Route(target, "\r\n".join(lines))
        return route


def _abort(connection: Connection) -> None:
    # Closing would first send what waits to be sent, and wait without end for a receiver that takes none of it.
    if connection.protocol is not None:
        connection.protocol.abort()
    connection.close()


def _serialize(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [head, *[f"{name}: {value}" for name, value in headers.items()], f"Content-Length: {len(body)}\r\n\r\n"]
    text = "\r\n".join(lines)
    # Whoever let a line break into a header let its author write our requests.
    breaks = head.count("\n") + len(headers) + 3
    if text.count("\n") != breaks or text.count("\r") != breaks or "\0" in text:
        raise InvalidField("headers", "one of them has more than one line")
    return text.encode() + body


async def _beginning(stream: StreamReader, limit: int) -> bytes:
    if stream.is_eof():
        # All of it is here already, as nearly always.
        return stream.read_nowait(limit)
    read = b""
    while len(read) < limit and not stream.at_eof():
        chunk = await stream.readany()
        if not chunk:
            break
        read += chunk
    return read
