"""Receivers as processes of their own, so that what answers is not what is measured."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ {listen} location / {{ return 200 "ok"; }}
              location = /status {{ stub_status; }} }}
}}
"""

#: Each is a destination of its own.
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 101)]

_LOOK_EVERY_S = 0.02
_PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that listens."""

    port: int
    #: Its process.
    pid: int

    @property
    def url(self) -> str:
        """Where it takes POSTs."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def count(self) -> int:
        """How many came."""
        count: int = await self._get("/count")
        return count

    async def reach(self, count: int) -> None:
        """Returns when so many have come; raises `RuntimeError` when that takes minutes."""
        for _ in range(int(_PATIENCE_S / _LOOK_EVERY_S)):
            if await self.count() >= count:
                return
            await asyncio.sleep(_LOOK_EVERY_S)
        raise RuntimeError(f"{await self.count()} of {count} arrived in {_PATIENCE_S:.0f} s")

    async def arrivals(self) -> dict[str, float]:
        """When each id came last, in seconds of the monotonic clock."""
        arrivals: dict[str, float] = await self._get("/arrivals")
        return arrivals

    async def _get(self, path: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            return json.loads(await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0])))
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Nginx(Receiver):
    """nginx counts, and notes nothing else."""

    #: One for each time that it was asked, since that is a request, too.
    asked: list[int] = field(default_factory=list)

    async def count(self) -> int:
        """How many requests came, this one not included."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /status HTTP/1.0\r\n\r\n")
            told = (await reader.read()).decode()
        finally:
            writer.close()
        # "server accepts handled requests", and below it the numbers.
        self.asked.append(1)
        return int(told.split("requests", 1)[1].split()[2]) - len(self.asked)


@asynccontextmanager
async def receiver(*, delay_s: float = 0.0) -> AsyncIterator[Receiver]:
    """The receiver of this package: runs everywhere, notes arrivals, answers after `delay_s`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.receiver", "--delay-s", str(delay_s),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Receiver(int(await process.stdout.readline()), process.pid)
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def nginx() -> AsyncIterator[Receiver]:
    """nginx with one worker: costs least, so that two cores go far. Notes nothing. Listens on all `ADDRESSES`."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as directory:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        listen = " ".join(f"listen {address}:{port} backlog=1024;" for address in ADDRESSES)
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(_NGINX.format(directory=directory, listen=listen))
        process = await asyncio.create_subprocess_exec(
            "nginx", "-p", directory, "-c", configuration, stderr=subprocess.DEVNULL
        )
        try:
            await _listening(port)
            yield Nginx(port, process.pid)
        finally:
            process.terminate()
            await process.wait()


def has_nginx() -> bool:
    """Whether nginx is installed here."""
    return shutil.which("nginx") is not None


async def _listening(port: int) -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise RuntimeError("nginx did not start to listen")
