"""A job's events as Server-Sent Events: the messages, and the stream of them that a browser's EventSource follows."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec

from dispatcher.service.models import JobEvent, JobEvents

MEDIA_TYPE = "text/event-stream"
#: How long a client waits before it connects again, in milliseconds.
RETRY_MS = 2000
#: How often a silent stream says that it lives, in seconds: proxies close what says nothing.
HEARTBEAT_S = 15.0

_LINE_END = re.compile(rb"\r\n|\r|\n")


async def stream(
    parts: AsyncGenerator[JobEvents], *, named: bool, check: Callable[[], Awaitable[object]]
) -> AsyncGenerator[bytes]:
    """The bytes of the stream: each part as soon as it is there, a comment for an empty one, at the end `settled`.

    Before each part, asks by `check` whether the client still may; what that raises ends the stream.
    """
    async with aclosing(parts):
        yield b"retry: %d\n\n" % RETRY_MS
        async for part in parts:
            await check()
            silent = not part.data
            while part.data:
                # Taken out: a page may be megabytes, and what comes behind it may be hours away.
                yield message(part.data.pop(0), named=named)
            if part.settled:
                yield b'id: %d\nevent: settled\ndata: {"after":%d,"settled":true}\n\n' % (part.after, part.after)
            elif silent:
                yield b":\n\n"


def message(event: JobEvent, *, named: bool) -> bytes:
    """One event: its `sequence` as id, and the object that the API answers as data.

    Without `named` it has no name: EventSource hands a named message only to who listens for that very name.
    """
    name = f"event: {event.type}\n".encode() if named else b""
    # A producer's own JSON may have line ends, which may stand only between its words; the client joins them again.
    data = b"\ndata: ".join(_LINE_END.split(msgspec.json.encode(event.model_dump())))
    return b"id: %d\n%bdata: %b\n\n" % (event.sequence, name, data)
