"""Watching a SQLite file: a number in its header changes with every commit of another connection than the writer's.

Where the system tells of writes (Linux), the number is read only after one; elsewhere every few milliseconds.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.store.sqlite.connection import version_of
from dispatcher.store.sqlite.inotify import Writes
from dispatcher.store.sqlite.writer import Writer

log = logger("dispatcher.store")

#: How often the number is read where nobody tells of writes, in seconds; one read costs some microseconds, but waking
#: for it two hundred times a second costs an idle process percents of a core.
INTERVAL_S = 0.005
#: After so many times that the writer was at work the read waits for it.
MISSES = 4
#: How long after a write the number is read first: a commit is written, and can be seen once the disk has it.
FIRST_S = 0.003
#: How often it is read at least; in between the pauses grow.
FLOOR_S = 1.0


async def watch(writer: Writer, wake: Callable[[], None]) -> None:
    """Calls `wake` after each commit that somebody else made; until it is cancelled.

    The writer's own connection is asked: its own commits, hundreds a second under load, tell nothing new.
    """
    with _writes(writer.file) or nullcontext() as writes:
        seen, missed = None, 0
        pause_s = FIRST_S
        while True:
            # Before the number is read: what is written after that is heard.
            listens = writes is not None and writes.listen()
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
            if writes is None or not listens or version is None:
                await asyncio.sleep(INTERVAL_S)
            elif await writes.next(pause_s):
                await asyncio.sleep(FIRST_S)
                pause_s = FIRST_S
            else:
                pause_s = min(FLOOR_S, 2 * pause_s)


def _writes(file: Path) -> Writes | None:
    """Hears of writes to the log that commits go to first; null where the system does not tell."""
    # SQLite puts it beside the file itself, not beside a link to it.
    real = file.resolve()
    try:
        return Writes(real.with_name(f"{real.name}-wal"))
    except OSError as error:
        log.debug("store.watched_by_polling", error=str(error))
        return None
