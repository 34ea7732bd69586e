"""What the database said about each name: believed for a while, and asked for again before that is over.

However many want to know at once, one asks. So a process that uses a name all the time asks often enough never to wait,
and what somebody changed holds everywhere once it has been believed for as long as it may.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dispatcher.clock import Clock

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Said(Generic[ValueT]):
    """An answer, and for how many seconds it may be believed, counted from when it was asked for."""

    value: ValueT
    for_s: float


@dataclass(frozen=True, slots=True)
class _Known(Generic[ValueT]):
    value: ValueT
    until: float
    ask_again: float


class Remembered(Generic[ValueT]):
    """Answers about names, the latest `most` of them; what there is not is not remembered."""

    def __init__(self, clock: Clock, look_up: Callable[[str], Awaitable[Said[ValueT] | None]], *, most: int) -> None:
        self._clock = clock
        self._look_up = look_up
        self._most = most
        self._known: OrderedDict[str, _Known[ValueT]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Known[ValueT] | None]] = {}

    def at_hand(self, name: str) -> ValueT | None:
        """What may be believed without asking; null: nothing."""
        known = self._known.get(name)
        if known is None:
            return None
        now = self._clock.monotonic()
        if now >= known.until:
            return None
        if now >= known.ask_again and name not in self._asking:
            self._ask(name)
        return known.value

    async def ask(self, name: str) -> ValueT | None:
        """What the database says now; null: there is nothing of this name. Raises what the look-up raises."""
        came = self._clock.monotonic()
        known = None
        if name in self._asking:
            known = await self._answer(name)
        if known is None or came >= known.until:
            # What takes so long to say was read before it may be believed of who comes now.
            known = await self._answer(name)
        return None if known is None else known.value

    async def close(self) -> None:
        """Returns when nobody asks any more."""
        if self._asking:
            await asyncio.wait(self._asking.values())

    async def _answer(self, name: str) -> _Known[ValueT] | None:
        if name not in self._asking:
            self._ask(name)
        # Whoever gives up waiting does not end it for the others.
        return await asyncio.shield(self._asking[name])

    def _ask(self, name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._asked(name))
        self._asking[name] = task
        task.add_done_callback(lambda done: self._answered(name, done))

    async def _asked(self, name: str) -> _Known[ValueT] | None:
        began = self._clock.monotonic()
        said = await self._look_up(name)
        if said is None:
            self._known.pop(name, None)
            return None
        known = self._known[name] = _Known(said.value, began + said.for_s, began + said.for_s / 2)
        self._known.move_to_end(name)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return known

    def _answered(self, name: str, done: "asyncio.Task[_Known[ValueT] | None]") -> None:
        del self._asking[name]
        if not done.cancelled():
            # Whoever waits for it is told; who only asked ahead of time believes what was said before, for its time.
            done.exception()
