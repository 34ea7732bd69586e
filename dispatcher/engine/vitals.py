"""Whether the parts of a dispatcher get on: each is started again after a fault, and what does not help is told."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from dispatcher.clock import Clock
from dispatcher.logs import logger

log = logger("dispatcher.engine")

#: How long a part that failed waits before it starts again, in seconds.
RESTART_AFTER_S = 1.0
#: A part that fails so often, each time within `SOON_S` of the last, is failing.
FAILING_AFTER = 5
SOON_S = 30.0
#: One try at the database hangs when it takes longer than this and `HUNG_LEASES` leases, in seconds: it has timeouts of
#: its own, all of them shorter, so nothing but a restart ends that.
HUNG_AFTER_S = 120.0
HUNG_LEASES = 12


@dataclass(slots=True)
class Part:
    """One part, while it runs."""

    name: str
    clock: Clock
    failures: int = 0
    failed_at_s: float = 0.0
    #: Since when each try at the database lasts that it waits for.
    tries: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Condition:
    """What is wrong with a dispatcher, in words; nothing, when it is well."""

    #: It hangs or has ended: a restart helps.
    hung: tuple[str, ...] = ()
    #: It fails again and again: the log says why.
    failing: tuple[str, ...] = ()


_part: ContextVar[Part | None] = ContextVar("part", default=None)


class Vitals:
    """Watches over the parts of one dispatcher."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._hung_after_s = max(HUNG_AFTER_S, HUNG_LEASES * lease_s)
        self._parts: dict[str, Part] = {}

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs a part and starts it again after a fault of ours: one bad row must not end the rest."""
        part = self._parts[name] = Part(name, self._clock)
        _part.set(part)
        while True:
            try:
                await work()
            except Exception:
                log.exception("dispatcher.part_failed", part=name)
                now_s = self._clock.monotonic()
                part.failures = part.failures + 1 if now_s - part.failed_at_s < SOON_S else 1
                part.failed_at_s = now_s
                await asyncio.sleep(RESTART_AFTER_S)
            else:
                return

    def condition(self) -> Condition:
        """How the parts are now."""
        now_s = self._clock.monotonic()
        hung, failing = [], []
        for part in self._parts.values():
            waited_s = now_s - min(part.tries, default=now_s)
            if waited_s > self._hung_after_s:
                hung.append(f"{part.name} hangs at the database for {waited_s:.0f} s")
            if part.failures >= FAILING_AFTER and now_s - part.failed_at_s < SOON_S:
                failing.append(f"{part.name} has failed {part.failures} times in a row; the log says why")
        return Condition(tuple(hung), tuple(failing))


@contextmanager
def trying() -> Iterator[None]:
    """Meanwhile the part whose task this is waits for the database."""
    part = _part.get()
    if part is None:
        yield
        return
    since_s = part.clock.monotonic()
    part.tries.append(since_s)
    try:
        yield
    finally:
        part.tries.remove(since_s)
