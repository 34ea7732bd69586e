"""A receiver that costs little: answers 200 to kept-alive POSTs after a fixed delay, and notes when each arrived.

`python -m benchmarks.receiver [--delay-s N]` prints its port and serves until its standard input ends.
`GET /count` tells how many came, `GET /arrivals` by id when (seconds of the machine's monotonic clock).
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import cast

from benchmarks.receivers import ADDRESSES

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@dataclass(slots=True)
class Notes:
    """What came."""

    count: int = 0
    arrivals: dict[str, float] = field(default_factory=dict)


class Connection(asyncio.Protocol):
    """One client's connection; understands just enough HTTP for requests that state their length."""

    def __init__(self, notes: Notes, delay_s: float) -> None:
        self._notes = notes
        self._delay_s = delay_s
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            whole = end + 4 + int(_value(head, b"content-length") or 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            self._answer(head)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def _answer(self, head: bytes) -> None:
        if head.startswith(b"get /arrivals"):
            self._write(_json(self._notes.arrivals))
        elif head.startswith(b"get /count"):
            self._write(_json(self._notes.count))
        else:
            self._notes.count += 1
            self._notes.arrivals[_value(head, b"webhook-id").decode()] = time.monotonic()
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._write, _OK)
            else:
                self._write(_OK)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


def _value(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _json(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def serve(delay_s: float) -> None:
    """Prints the port and serves until standard input ends."""
    loop, notes = asyncio.get_running_loop(), Notes()
    server = await loop.create_server(lambda: Connection(notes, delay_s), "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    others = await loop.create_server(lambda: Connection(notes, delay_s), ADDRESSES[1:], port, backlog=1024)
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    others.close()
    server.close()


def main() -> None:
    """The command."""
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m benchmarks.receiver")
    parser.add_argument("--delay-s", type=float, default=0.0, help="how long an answer takes, in seconds")
    uvloop.run(serve(parser.parse_args().delay_s))


if __name__ == "__main__":
    main()
