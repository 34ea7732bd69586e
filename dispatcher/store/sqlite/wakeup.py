"""Watching a SQLite file: a number in its header changes with every commit of another connection than the writer's."""

import asyncio
from collections.abc import Callable

from dispatcher.errors import StoreUnavailable
from dispatcher.store.sqlite.connection import Writer, version_of

#: How often the number is read, in seconds; one read costs some microseconds.
INTERVAL_S = 0.005
#: After so many times that the writer was at work the read waits for it.
MISSES = 4


async def watch(writer: Writer, wake: Callable[[], None]) -> None:
    """Calls `wake` after each commit that somebody else made; until it is cancelled.

    The writer's own connection is asked: its own commits, hundreds a second under load, tell nothing new.
    """
    seen, missed = None, 0
    while True:
        version = writer.version()
        missed = missed + 1 if version is None else 0
        if missed >= MISSES:
            try:
                version, missed = await writer.read(version_of), 0
            except StoreUnavailable:
                # Busy for a moment; the poll is the floor under this hint.
                version = None
        if version is not None and version != seen:
            seen = version
            wake()
        await asyncio.sleep(INTERVAL_S)
