"""Deadlines of many requests under one timer: `asyncio.timeout` sets and cancels one each, which costs as much as
signing a request.
"""

import asyncio
from typing import Any

#: How late a deadline may be noticed, in seconds.
RESOLUTION_S = 0.05


class Deadlines:
    """What `asyncio.timeout` does, for tasks that have one deadline at a time."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[Any], float] = {}
        self._passed: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> "asyncio.Task[Any]":
        """From now on the current task, which is returned, is cancelled after so long, until `lift` is called."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._due[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(min(seconds, RESOLUTION_S), self._look)
        return task

    def lift(self, task: "asyncio.Task[Any]") -> bool:
        """Ends the task's deadline; whether it had passed, and nobody else cancelled the task meanwhile."""
        self._due.pop(task, None)
        if task not in self._passed:
            return False
        self._passed.discard(task)
        return task.uncancel() == 0

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task in [task for task, at in self._due.items() if at <= now]:
            del self._due[task]
            self._passed.add(task)
            task.cancel()
        self._timer = loop.call_later(RESOLUTION_S, self._look) if self._due else None
