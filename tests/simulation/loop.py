"""Virtual time, and event loops on it: no selector, no thread, no wall clock; what runs next is a seed's choice."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Loop(asyncio.AbstractEventLoop):
    """One process's event loop. Within it everything runs in the order that asyncio promises."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self._world = world
        self._ready: deque[asyncio.Handle] = deque()
        self._late: list[asyncio.Handle] = []
        #: A paused process runs nothing while time goes on; a dead one never again.
        self.paused = False
        self.dead = False
        #: Handles until `then` is called: how a process ends or stops in the middle of what it does.
        self._countdown = 0
        self._then: Callable[[], None] | None = None

    @property
    def runnable(self) -> bool:
        """Whether something of it could run now."""
        return bool(self._ready) and not self.paused and not self.dead

    def due(self, handle: asyncio.Handle) -> None:
        """A timer of its has come."""
        if not handle.cancelled() and not self.dead:
            (self._late if self.paused else self._ready).append(handle)

    def pause(self) -> None:
        """Runs nothing, and hears no timer."""
        self.paused = True

    def go_on(self) -> None:
        """Runs again; the timers that came meanwhile are due now."""
        self.paused = False
        self._ready.extend(self._late)
        self._late.clear()

    def after(self, handles: int, then: Callable[[], None]) -> None:
        """Calls `then` when so many handles more have run."""
        self._countdown, self._then = handles, then

    def spare(self) -> None:
        """Forgets what was to be called after so many handles."""
        self._then = None

    def turn(self) -> None:
        """Runs what was ready at its beginning."""
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                if self._then is not None:
                    if not self._countdown:
                        then, self._then = self._then, None
                        then()
                        return
                    self._countdown -= 1
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._world.time

    def call_soon(  # type: ignore[override] # typeshed's TypeVarTuple says no more than this
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._world.at(when, lambda: self.due(handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._world.time + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a cancelled timer is passed over."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._world.tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead and context["message"].startswith("Exception in callback"):
            self._world.broken.append(f"{self.name}: {context['message']}: {context.get('exception')!r}")


class World:
    """Time, what happens outside of processes, and whose turn it is."""

    def __init__(self, rng: Random) -> None:
        self.time = 0.0
        self.rng = rng
        self.loops: list[Loop] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._events_made = 0
        #: Everything that was seen from outside, in order: time, who, what.
        self.trace: list[tuple[float, str, str, object]] = []
        #: Promises that were broken.
        self.broken: list[str] = []

    def note(self, who: str, what: str, detail: object = "") -> None:
        """Adds a line to the trace."""
        self.trace.append((self.time, who, what, detail))

    def lines(self) -> list[str]:
        """The trace, for people."""
        return [f"{at:10.4f}  {who:8} {what:14} {detail}" for at, who, what, detail in self.trace]

    def at(self, when: float, happening: Callable[[], None]) -> None:
        """Lets something happen outside of all processes."""
        self._events_made += 1
        heapq.heappush(self._events, (when, self._events_made, happening))

    def after(self, seconds: float, happening: Callable[[], None]) -> None:
        """The same, in so many seconds."""
        self.at(self.time + seconds, happening)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Lets the world go on until `done`, a broken promise, or `until`; whether it is `done`."""
        events = self._events
        while not self.broken:
            runnable = [loop for loop in self.loops if loop.runnable]
            if runnable:
                (runnable[0] if len(runnable) == 1 else self.rng.choice(runnable)).turn()
            elif done():
                return True
            elif not events or events[0][0] > until:
                self.time = max(self.time, until)
                return done()
            else:
                self.time = max(self.time, events[0][0])
                while events and events[0][0] <= self.time and not self.broken:
                    heapq.heappop(events)[2]()
        return False

    def close(self) -> None:
        """Forgets all tasks, quietly: processes that were killed left theirs in the middle."""
        for loop in self.loops:
            loop.dead = True
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(RuntimeError):
                    task.get_coro().close()
        self.tasks.clear()
