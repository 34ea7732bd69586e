"""The receiver of the crash tests: a journal of what arrived and what it was answered, in one order."""

import asyncio
import json
import socket
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from aiohttp import web

from tests.bad_receiver import Misbehaviour

PATIENCE_S = 60.0
#: The one type of the producers that newer events take the place of.
PROGRESS = "job.progress"

#: A status, or what was done instead of answering.
Answer = int | Misbehaviour


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request."""

    path: str
    event_id: str
    type: str
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
    status: Answer


class Witness:
    """A fast server that asks `answer` for each status; an async context manager."""

    def __init__(self, answer: Callable[[Arrival], Awaitable[Answer]]) -> None:
        self.journal: list[Arrival | Answered] = []
        self.arrived = 0
        #: By path and event id: what each attempt was answered.
        self.answers: defaultdict[tuple[str, str], dict[int, Answer]] = defaultdict(dict)
        #: Of these, what nothing can supersede.
        self.lasting: set[tuple[str, str]] = set()
        #: Asked for each answer; a fault may put another in its place for a while.
        self.answer = answer
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

    async def more(self, count: int) -> None:
        """Returns after so many more requests, however long that takes."""
        goal = self.arrived + count
        async with self._changed:
            await self._changed.wait_for(lambda: self.arrived >= goal)

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        sent = json.loads(body)
        previous = request.headers.get("x-job-previous")
        arrival = Arrival(
            request.path,
            request.headers["webhook-id"],
            sent["type"],
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
        answer = await self.answer(arrival)
        self.answers[arrival.path, arrival.event_id][arrival.attempt] = answer
        if arrival.type != PROGRESS:
            self.lasting.add((arrival.path, arrival.event_id))
        await self._note(Answered(arrival, answer))
        return await _misbehave(request, answer) if isinstance(answer, Misbehaviour) else web.Response(status=answer)

    async def _note(self, entry: Arrival | Answered) -> None:
        self.journal.append(entry)
        async with self._changed:
            self._changed.notify_all()


class _Hanging(asyncio.Protocol):
    """Listens on a connection for its end alone; `left` is set by that."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.left = asyncio.Event()
        self._before = transport.get_protocol()
        transport.set_protocol(self)
        if transport.is_closing():
            self.left.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self.left.set()


async def _misbehave(request: web.BaseRequest, how: Misbehaviour) -> web.StreamResponse:
    response = web.StreamResponse()
    transport = request.transport
    if transport is None:
        return response
    assert isinstance(transport, asyncio.Transport)
    match how:
        case Misbehaviour.HANG:
            await _Hanging(transport).left.wait()
        case Misbehaviour.RESET:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        case Misbehaviour.LIE_ABOUT_LENGTH:
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")
            transport.close()
        case Misbehaviour.GARBAGE:
            transport.write(b"SSH-2.0-OpenSSH_9.9\r\n\x00\x01\xff not HTTP at all\r\n\r\n")
            transport.close()
        case _:
            raise NotImplementedError(how)
    return response
