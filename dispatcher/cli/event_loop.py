"""How a long-running command lives: on uvloop where it is installed, until a signal asks it to stop."""

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

_ASKS = (signal.SIGTERM, signal.SIGINT)

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
        return runner.run(_to_the_end(main))


def end_when_asked() -> None:
    """Until `stop_on_signals`, SIGTERM and SIGINT end the process at once, with exit code 0: nothing has begun."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in _ASKS:
        signal.signal(number, end)


def stop_on_signals(hurry: Callable[[], None] | None = None) -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets. A second SIGINT calls `hurry`; a third interrupts, whatever is lost."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    interrupts = 0

    def on_interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        stop.set()
        if interrupts > 1:
            loop.remove_signal_handler(signal.SIGINT)
            if hurry is not None:
                hurry()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, on_interrupt)
    return stop


async def unless_stopped(starting: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Runs `starting` to its end, or cancels it when it is asked to stop meanwhile: then false."""
    loop = asyncio.get_running_loop()
    task, asked = loop.create_task(starting), loop.create_task(stop.wait())
    await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        # Cancelled or failed: asked to stop, nobody wants to know any more what kept it from starting.
        return not task.cancelled() and task.exception() is None
    task.result()
    return True


async def _to_the_end(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    try:
        return await main
    finally:
        # It ends anyway; who asks again now must not make it look killed.
        loop = asyncio.get_running_loop()
        for number in _ASKS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def make_collections_rare() -> None:
    """Takes what was made at start out of the garbage collector's sight, and lets it look more rarely.

    Modules and tables live as long as the process, yet each full collection would walk all of them: pauses of tens
    of milliseconds in the middle of deliveries.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 50, 100)
