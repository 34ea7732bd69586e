"""A client that costs little and publishes over HTTP: one request at a time on each of its connections, kept alive.

`python -m benchmarks.publisher URL CONNECTIONS REQUESTS EVENTS` sends so many requests of so many events each as fast
as they are answered, and prints the seconds that took. It reads as much HTTP as answers that state their length need.
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import uvloop

from benchmarks.events import DATA, TYPE

#: The key of the servers under measurement.
ADMIN_KEY = "the-key-of-the-benchmarks"


def request(url: str, path: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def one_event(event_id: str | None = None) -> bytes:
    """The body that publishes one."""
    given = f'"id":"{event_id}",' if event_id else ""
    return f'{{{given}"type":"{TYPE}","data":{DATA}}}'.encode()


def batch(count: int) -> bytes:
    """The body that publishes so many."""
    return b'{"events":[' + b",".join([one_event()] * count) + b"]}"


class Line:
    """A connection that is kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Line":
        """Connects."""
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def send(self, sent: bytes) -> None:
        """Sends a request and reads its answer; raises `RuntimeError` for any other than 202."""
        self._writer.write(sent)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        await self._reader.readexactly(int(head.partition(b"content-length:")[2].split(None, 1)[0]))
        if not head.startswith(b"http/1.1 202"):
            raise RuntimeError(f"the server answered {head[:200]!r}")

    def close(self) -> None:
        """Hangs up."""
        self._writer.close()


async def publish(url: str, connections: int, requests: int, events: int) -> float:
    """Sends them all; answers the seconds that took."""
    path, body = ("/v1/events", one_event()) if events == 1 else ("/v1/events/batch", batch(events))
    sent = request(url, path, body)
    lines = [await Line.open(url) for _ in range(connections)]
    left = iter(range(requests))

    async def work(line: Line) -> None:
        for _ in left:
            await line.send(sent)

    started = time.perf_counter()
    await asyncio.gather(*(work(line) for line in lines))
    took_s = time.perf_counter() - started
    for line in lines:
        line.close()
    return took_s


if __name__ == "__main__":
    print(json.dumps(uvloop.run(publish(sys.argv[1], *map(int, sys.argv[2:5])))))
