"""How a long-running command lives: on uvloop where it is installed, until a signal asks it to stop."""

import asyncio
import gc
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

#: Allocations between two looks of the garbage collector at the youngest objects.
_GC_THRESHOLD = 50_000


def run(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Runs `main` to its end on the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second SIGINT interrupts at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return stop


def make_collections_rare() -> None:
    """Takes what was made at start out of the garbage collector's sight, and lets it look more rarely.

    Modules and tables live as long as the process, yet each full collection would walk all of them: pauses of tens
    of milliseconds in the middle of deliveries.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 50, 100)
