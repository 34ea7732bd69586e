"""Puts an application on a socket, and bounds what a client can take of it.

Long answers (long-polls, streams) last as long as they like. Everything else that a client can draw out has an end:
the head of its request, its silence between requests, what it sends, and how slowly it takes what it asked for.
What is no HTTP at all is answered with a problem too.
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from dispatcher.api.problem_kinds import MEDIA_TYPE, malformed

#: From the first byte of a request until its head is complete, in seconds.
HEAD_S = 15.0
#: The largest head, request line and headers together, in bytes; one line may have 8,190.
MOST_HEAD = 64 * 1024
#: The most headers of a request.
MOST_HEADERS = 100
#: How long a connection may be silent between requests, in seconds: longer than reverse proxies keep theirs.
IDLE_S = 75.0
#: How long a connection beyond the limit may last, whatever it does, in seconds.
BEYOND_S = 5.0
#: A client that takes less than `LEAST_TAKEN` bytes of its answer in so long is let go, in seconds.
STALLED_S = 60.0
LEAST_TAKEN = 16 * 1024


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_deadline", "_head_size", "_taking", "beyond_limit")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        #: It was opened when the process had as many as it takes: it is for probes, all else is refused.
        self.beyond_limit = False
        self._head_size = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        manager = self._manager
        if isinstance(manager, _Server) and len(manager.connections) > manager.most_connections:
            self.beyond_limit = True
            self._deadline = self._loop.call_later(BEYOND_S, self._let_go)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._deadline, self._taking):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiter is None or self._waiter.done():
            # A request is there; its body has a limit of its own.
            self._head_size = 0
            if self._deadline is not None and not self.beyond_limit:
                self._deadline.cancel()
                self._deadline = None
            return
        # It goes on waiting for a request: what came is a part of its head.
        self._head_size += len(data)
        if self._head_size > MOST_HEAD:
            self._let_go()
        elif self._deadline is None:
            self._deadline = self._loop.call_later(HEAD_S, self._let_go)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _watch_taking(self, left_before: int | None) -> None:
        if (transport := self.transport) is None:
            return
        left = transport.get_write_buffer_size()
        if left_before is not None and left > left_before - LEAST_TAKEN:
            transport.abort()
        else:
            self._taking = self._loop.call_later(STALLED_S, self._watch_taking, left)

    def _let_go(self) -> None:
        # Not `close`, which waits until what was written has been taken.
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return _plain(super().handle_error(request, status, exc, message))
        # The parser's own message quotes the request, whose URL and headers may hold somebody's key.
        if isinstance(exc, LineTooLong):
            detail = f"the request line or a header is longer than {exc.args[1]} bytes"
        else:
            detail = f"the request line or a header is malformed, or there are more than {MOST_HEADERS} headers"
        response = web.Response(status=status, body=malformed(detail, status), content_type=MEDIA_TYPE)
        response.force_close()
        return _plain(response)


def _plain(response: web.StreamResponse) -> web.StreamResponse:
    """Without saying what answers, in which version; and as what it is declared."""
    response.headers["Server"] = "dispatcher"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _on_prepare(request: web.BaseRequest, response: web.StreamResponse) -> None:
    _plain(response)


class _Server(web.Server):
    def __init__(self, made: web.Server, options: dict[str, Any], most_connections: int) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **options,
        )
        self._options = options
        self.most_connections = most_connections

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._options)


class ApiRunner(web.AppRunner):
    """An `AppRunner` for the API: `await setup()`, then `web.TCPSite(runner, host, port).start()`.

    Beyond `most_connections` at a time, `Connection.beyond_limit` is set on a request's `protocol`.
    """

    def __init__(self, app: web.Application, *, most_connections: int, **options: Any) -> None:
        # A refused body is read on for this long, so that its sender sees the refusal and not a reset.
        options.setdefault("lingering_time", 2.0)
        app.on_response_prepare.append(_on_prepare)
        super().__init__(app, keepalive_timeout=IDLE_S, max_headers=MOST_HEADERS, **options)
        self._most_connections = most_connections

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, made._kwargs, self._most_connections)
