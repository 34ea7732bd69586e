"""The receiver of the crash tests: a journal of what arrived and what it was answered, in one order."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from aiohttp import web

PATIENCE_S = 25.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    path: str
    event_id: str
    attempt: int
    job_id: str | None
    sequence: int | None
    #: x-job-previous.
    previous: int | None
    data: str
    body_sha256: str
    #: Seconds of the loop's clock.
    at_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a request, whether or not anybody was there to read it."""

    arrival: Arrival
    status: int


class Witness:
    """A fast server that asks `answer` for each status; an async context manager."""

    def __init__(self, answer: Callable[[Arrival], Awaitable[int]]) -> None:
        self.journal: list[Arrival | Answered] = []
        self.arrived = 0
        #: By path and event id: what each attempt was answered.
        self.answers: defaultdict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._answer = answer
        self._changed = asyncio.Condition()
        self._runner = web.ServerRunner(web.Server(self._receive, access_log=None), shutdown_timeout=0.1)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self._port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"

    @property
    def arrivals(self) -> list[Arrival]:
        return [entry for entry in self.journal if isinstance(entry, Arrival)]

    async def until(self, reached: Callable[[], bool], hoped_for: str) -> None:
        """Returns as soon as it is so. Raises `AssertionError` when it does not come about."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(reached)
        except TimeoutError:
            raise AssertionError(f"after {PATIENCE_S:g} s and {self.arrived} arrivals still not: {hoped_for}") from None

    async def _receive(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        sent = json.loads(body)
        previous = request.headers.get("x-job-previous")
        arrival = Arrival(
            request.path,
            request.headers["webhook-id"],
            int(request.headers["x-delivery-attempt"]),
            sent.get("job_id"),
            sent.get("sequence"),
            None if previous is None else int(previous),
            sent["data"],
            sha256(body).hexdigest(),
            asyncio.get_running_loop().time(),
        )
        self.arrived += 1
        await self._note(arrival)
        status = await self._answer(arrival)
        self.answers[arrival.path, arrival.event_id][arrival.attempt] = status
        await self._note(Answered(arrival, status))
        return web.Response(status=status)

    async def _note(self, entry: Arrival | Answered) -> None:
        self.journal.append(entry)
        async with self._changed:
            self._changed.notify_all()
