"""A real webhook receiver on a port of its own: records what it is sent, answers as told, and can be awaited."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from aiohttp import web
from multidict import CIMultiDictProxy

#: A status, or a function that makes the answer.
Answer = int | Callable[["Received"], web.StreamResponse | Awaitable[web.StreamResponse]]

PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it came."""

    method: str
    path: str
    #: As on the wire, encoded.
    query: str
    headers: CIMultiDictProxy[str]
    body: bytes
    arrived_at: datetime
    #: Seconds of the loop's clock, to measure between requests.
    arrived_s: float

    @property
    def type(self) -> str:
        """The event's type, as the body of the standard profile says it."""
        said: str = json.loads(self.body)["type"]
        return said


class Receiver:
    """The server; an async context manager. A path that was told nothing answers 200."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._answers: dict[str, list[Answer]] = {}
        self._arrival = asyncio.Condition()
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "/") -> str:
        """The address of a path (with its query, if any)."""
        return f"http://127.0.0.1:{self._port}/{path.removeprefix('/')}"

    def answers(self, path: str, *answers: Answer) -> None:
        """What the next requests to `path` get, in this order; the last one repeats."""
        if not answers:
            raise ValueError("name at least one answer: a status, or a function of the request")
        self._answers[f"/{path.removeprefix('/')}"] = list(answers)

    def received(self, path: str | None = None) -> list[Received]:
        """The requests so far, to `path` only if given."""
        wanted = None if path is None else f"/{path.removeprefix('/')}"
        return [request for request in self.requests if wanted in (None, request.path)]

    async def wait_for(self, count: int, path: str | None = None, *, patience_s: float = PATIENCE_S) -> list[Received]:
        """The requests, as soon as there are `count` of them. Raises `AssertionError` when they don't come."""
        try:
            async with asyncio.timeout(patience_s), self._arrival:
                await self._arrival.wait_for(lambda: len(self.received(path)) >= count)
        except TimeoutError:
            log = [f"{request.method} {request.path} {request.body[:200]!r}" for request in self.requests]
            raise AssertionError(
                f"{len(self.received(path))} of {count} requests to {path or 'any path'} came in {patience_s:g} s;"
                f" all requests: {log}"
            ) from None
        return self.received(path)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        received = Received(
            request.method,
            request.path,
            request.rel_url.raw_query_string,
            request.headers,
            await request.read(),
            datetime.now(UTC),
            asyncio.get_running_loop().time(),
        )
        scripted = self._answers.get(received.path, [200])
        answer = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        async with self._arrival:
            self.requests.append(received)
            self._arrival.notify_all()
        if isinstance(answer, int):
            return web.Response(status=answer)
        response = answer(received)
        return await response if inspect.isawaitable(response) else response
