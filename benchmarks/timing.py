"""What signed POSTs without a database cost the process that makes them, whichever client it has."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.events import bodies

#: POSTs at once.
IN_FLIGHT = 100

#: Events' ids and bodies that are still to be sent, shared by those who send.
Waiting = Iterator[tuple[str, bytes]]


def cpu_s() -> float:
    """CPU seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def timed(count: int, post_all: Callable[[Waiting], Awaitable[None]]) -> dict[str, float]:
    """The seconds and CPU seconds of `count` events' POSTs, `IN_FLIGHT` at once; `post_all` is one who makes them."""
    made = list(bodies(count))
    await post_all(iter(made[:100]))
    waiting = iter(made)
    used, started = cpu_s(), time.perf_counter()
    await asyncio.gather(*(post_all(waiting) for _ in range(IN_FLIGHT)))
    return {"seconds": time.perf_counter() - started, "cpu_s": cpu_s() - used}
