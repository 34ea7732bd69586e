"""The client that is used unless another is asked for: aiohttp's connector and parser, without the session above them.

A session's request costs about as much again as the connection's own work: a request, a response and a timer object,
cookies, redirects, and until Python 3.12 a task that writes the body. A webhook needs none of that. What stays is
aiohttp's: resolving, connecting, TLS, keep-alive and the parser.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from msgspec import Struct
from yarl import URL

from dispatcher.rules.egress import EgressRules
from dispatcher.states import AttemptError
from dispatcher.transport.dial import Dialer, Place
from dispatcher.transport.failures import Broken
from dispatcher.transport.guard import GuardedResolver, GuardedSockets, vet
from dispatcher.transport.message import ANSWER_LIMIT, INTERIM_LIMIT, Answer, Terms, request_head, serialize

#: What belongs to one URL is kept for so many of them.
ROUTES = 1024
#: Idle connections that are passed over in one POST; a server that speaks first spoils new ones, too.
SPOILT = 8


#: `super()` would cost each answer as much again as the limit does.
_take_in = ResponseHandler.data_received


class _Route(Struct, frozen=True):
    """What every POST to one URL has in common."""

    #: Never sent: it tells the connector where to connect to, and which connections fit.
    target: aiohttp.ClientRequest
    head: str

    def __repr__(self) -> str:
        # Its head has the URL's query, and its password.
        return "_Route()"


class _Protocol(ResponseHandler):
    """aiohttp's, and it stops listening to an answer that goes on and on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: Bytes that came since something was last asked.
        self.received = 0

    @property
    def flooded(self) -> bool:
        return self.received > ANSWER_LIMIT

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        _take_in(self, data)
        if (self.received > ANSWER_LIMIT or self._exception is not None) and self.transport is not None:
            # Closing would go on reading until the other end closes, too.
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        payload = self._payload
        super().connection_lost(exc)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            # Of a fault behind the body's beginning nobody told its reader.
            payload.set_exception(self.exception() or aiohttp.ClientPayloadError("the answer has no end"))


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, which would send plain requests to a proxy instead of through it, and vet the proxy's own address."""

    def __init__(self, rules: EgressRules, dialer: Dialer, **given: Any) -> None:
        super().__init__(**given)
        self._rules = rules
        self._dialer = dialer

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        host, port = req.url.raw_host, req.url.port
        if host is None or port is None or self._rules.proxied(host) is None:
            return await super()._create_connection(req, traces, timeout)
        return await self._dialer.dial(Place(host, port, req.is_ssl()), self._factory)


class AiohttpWire:
    """A connection pool that POSTs. Use it in the event loop that runs it; close it at the end."""

    def __init__(self, terms: Terms) -> None:
        self._rules = terms.rules
        self._dialer = Dialer(terms.rules, terms.resolver, terms.contexts, timeout_s=terms.connect_timeout_s)
        self._connector = _Connector(
            terms.rules,
            self._dialer,
            limit=0,
            resolver=GuardedResolver(terms.rules, terms.resolver),
            socket_factory=GuardedSockets(terms.rules),
            keepalive_timeout=terms.keep_alive_s,
            ttl_dns_cache=10,
        )
        # It takes it by no argument.
        protocol: type[ResponseHandler] = _Protocol
        self._connector._factory = partial(protocol, loop=asyncio.get_running_loop())
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=terms.connect_timeout_s)
        self._contexts = terms.contexts
        self._read_limit = terms.read_limit
        self._routes: dict[URL, _Route] = {}

    async def post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends the body and reads the answer's beginning. Raises what aiohttp raises, `Blocked`, `ProxyFailed`,
        `Broken`, and `InvalidField` for a header of more than one line.
        """
        if self._connector.closed:
            raise RuntimeError("the connection pool was closed")
        route = self._routes.get(url) or self._route(url)
        message = serialize(route.head, headers, body)
        connection = await self._connect(route)
        for _ in range(SPOILT):
            if connection.protocol is not None and not connection.protocol.should_close:
                break
            # It said something while nobody had asked, which would be taken for our answer.
            connection.close()
            connection = await self._connect(route)
        try:
            protocol, transport = connection.protocol, connection.transport
            if (
                not isinstance(protocol, _Protocol)
                or transport is None
                or transport.is_closing()
                or protocol.should_close
            ):
                raise aiohttp.ClientConnectionResetError("the connection was not fit to be written to")
            protocol.set_response_params(read_until_eof=True, auto_decompress=False, read_bufsize=self._read_limit)
            protocol.received = 0
            # Once, even if it breaks without a word: an attempt is one POST, and nobody knows what became of it.
            transport.write(message)
            head, stream = await _answer(protocol)
            beginning = await _beginning(protocol, stream, self._read_limit)
            said = head.headers
            answer = Answer(head.code, said.get("Retry-After"), said.get("Content-Encoding"), beginning)
            if transport.get_write_buffer_size() or answer.may_precede(message):
                # Answered before it had read all: what it has not read it would take for the next request.
                _abort(connection)
            else:
                # Closed, too, unless the whole answer was read.
                connection.release()
        except BaseException:
            _abort(connection)
            raise
        return answer

    async def close(self) -> None:
        """Closes every connection."""
        await self._dialer.close()
        await self._connector.close()

    async def _connect(self, route: _Route) -> Connection:
        try:
            return await self._connector.connect(route.target, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection in time") from error

    def _route(self, url: URL) -> _Route:
        vet(self._rules, url)
        while len(self._routes) >= ROUTES:
            del self._routes[next(iter(self._routes))]
        bare = url if url.raw_user is None and url.raw_password is None else url.with_user(None)
        target = aiohttp.ClientRequest("POST", bare, ssl=self._contexts() if url.scheme == "https" else True)
        route = self._routes[url] = _Route(target, request_head(url))
        return route


async def _answer(protocol: _Protocol) -> tuple[RawResponseMessage, StreamReader]:
    interim = 0
    try:
        head, stream = await protocol.read()
        # 1xx come before the answer, except the switch to another protocol, which nothing follows.
        while 100 <= head.code <= 199 and head.code != 101:
            interim += 1
            if interim > INTERIM_LIMIT:
                raise BadHttpMessage("too many interim answers")
            head, stream = await protocol.read()
    except aiohttp.ClientConnectionError:
        if protocol.flooded:
            raise Broken(AttemptError.BODY_TOO_LARGE) from None
        raise
    return head, stream


def _abort(connection: Connection) -> None:
    # Closing would first send what waits to be sent, and wait without end for a receiver that takes none of it.
    if connection.protocol is not None:
        connection.protocol.abort()
    connection.close()


async def _beginning(protocol: _Protocol, stream: StreamReader, limit: int) -> bytes:
    if stream.is_eof():
        # All of it is here already, as nearly always.
        return stream.read_nowait(limit)
    read = b""
    try:
        while len(read) < limit and not stream.at_eof():
            chunk = await stream.readany()
            if not chunk:
                break
            read += chunk
    except (aiohttp.ClientError, HttpProcessingError):
        if not protocol.flooded:
            raise
    return read
