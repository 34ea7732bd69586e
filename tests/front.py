"""What stands in front of a receiver, as a load balancer does: passes requests on byte for byte, or is down itself."""

import asyncio
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

PATIENCE_S = 20.0

_OWN_HEADERS = {"host", "connection", "content-length", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Passed:
    """One request, and the answer that the sender got."""

    id: str
    attempt: int
    replay: bool
    body: bytes
    status: int
    #: The receiver's own words; empty where the front answered itself.
    said: str
    by_front: bool


class Front:
    """A real server on a port of its own; an async context manager."""

    def __init__(self) -> None:
        self.passed: list[Passed] = []
        self._failures: list[int] = []
        self._target = ""
        self._arrival = asyncio.Condition()
        application = web.Application()
        application.router.add_route("POST", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        self._url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def url(self, path: str) -> str:
        """The address to register."""
        return self._url + path

    def leads_to(self, url: str) -> None:
        """Where requests go from now on, with path and query as they came."""
        self._target = url

    def fails(self, *statuses: int) -> None:
        """The answers to the next requests, which the receiver does not get to see."""
        self._failures += statuses

    async def wait_for(self, count: int) -> list[Passed]:
        """All requests, as soon as `count` were answered. Raises `AssertionError` when they don't come."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._arrival:
                await self._arrival.wait_for(lambda: len(self.passed) >= count)
        except TimeoutError:
            raise AssertionError(f"{len(self.passed)} of {count} requests came: {self.passed}") from None
        return self.passed

    async def _pass(self, request: web.Request) -> web.Response:
        body = await request.read()
        by_front = bool(self._failures)
        if by_front:
            status, said = self._failures.pop(0), b""
        else:
            status, said = await self._asked(request, body)
        async with self._arrival:
            self.passed.append(
                Passed(
                    id=request.headers["webhook-id"],
                    attempt=int(request.headers["x-delivery-attempt"]),
                    replay=request.headers.get("x-delivery-replay") == "true",
                    body=body,
                    status=status,
                    said=said.decode(errors="replace"),
                    by_front=by_front,
                )
            )
            self._arrival.notify_all()
        return web.Response(status=status, body=said)

    async def _asked(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS]
        url = URL(self._target + request.raw_path, encoded=True)
        async with self._session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.read()
