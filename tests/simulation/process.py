"""A dispatcher's process: the real engine on a loop, a store and a client of the simulation."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from dispatcher.engine.duties import Duties
from dispatcher.engine.expiry import Expiry
from dispatcher.engine.running import Running
from dispatcher.errors import StoreUnavailable
from dispatcher.rules.new_events import NewEvent
from dispatcher.settings import Settings, load
from dispatcher.states import Reason
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.keyring import KeyRing
from dispatcher.transport.client import HttpClient
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Loop, World
from tests.simulation.model import Model
from tests.simulation.outside import Call, ModelBook, ModelClient, ModelStore, ask
from tests.simulation.rows import moment
from tests.simulation.weather import STATEMENT_TIMEOUT_S, Weather

LEASE_S = 6.0
GRACE_S = 8.0
POLL_S = 15.0
TICK_S = 2.0
SCHEDULE = (2.0, 4.0, 8.0, 16.0)
MAX_IN_FLIGHT = 6
#: A process without trouble for so long before its stop has nothing that excuses it, in seconds.
UNTROUBLED_S = 4.0
#: What a stop may take: the duty's turn, the grace, the records' least, the lease's statement, and a breath. Without
#: any trouble: the grace.
STOP_S = 2.0 + GRACE_S + 2.0 + STATEMENT_TIMEOUT_S + 1.0
UNTROUBLED_STOP_S = GRACE_S + 0.5


@lru_cache
def settings() -> Settings:
    """The settings of every simulated dispatcher."""
    return load(
        database_url="sqlite:///simulated.db",
        lease=LEASE_S,
        shutdown_grace=GRACE_S,
        poll_interval=POLL_S,
        retry_schedule=",".join(f"{delay}s" for delay in SCHEDULE),
        retry_jitter=0.0,
        retry_after_max=60.0,
        max_in_flight=MAX_IN_FLIGHT,
    )


@dataclass(slots=True)
class SimulatedClock:
    """A process's clock: its wall may be wrong, its monotonic time is the world's."""

    world: World
    offset_s: float

    def now(self) -> datetime:
        return moment(self.world.time + self.offset_s)

    def monotonic(self) -> float:
        return self.world.time

    def literal_now(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _NoDatabase:
    """What the engine's parts take from the database without a statement."""

    clock: SimulatedClock
    dialect: str = "sqlite"


class Process:
    """One life of a dispatcher, from start to exit or death."""

    def __init__(
        self, name: str, world: World, model: Model, ledger: Ledger, weather: Weather, offset_s: float
    ) -> None:
        self.name = name
        self.world = world
        self.model = model
        self.ledger = ledger
        self.weather = weather
        self.loop = Loop(world, name)  # type: ignore[abstract] # as much of one as is used here
        #: Statements under way, and the tasks that wait for one.
        self.calls: dict[Call, None] = {}
        self.asking: dict[asyncio.Task[Any] | None, None] = {}
        self.wake: Callable[[], None] = lambda: None
        self._requests: set[asyncio.Task[None]] = set()
        self.stopping_at: float | None = None
        #: Until when something was in its way that was not its fault.
        self.troubled_at = float("-inf")
        self.started = self.exited = False
        clock = SimulatedClock(world, offset_s)
        self.deployment = Deployment(settings(), cast(Database, _NoDatabase(clock)), cast(KeyRing, None), clock)
        self._stop = asyncio.Event()
        asyncio._set_running_loop(self.loop)
        try:
            self.running = Running(
                self.deployment,
                ModelStore(self, model),
                cast(HttpClient, ModelClient(self)),
                ModelBook(self, model),
                lambda jobs: None,
                duties=self._duties,  # type: ignore[arg-type]
            )
        finally:
            asyncio._set_running_loop(None)
        world.loops.append(self.loop)
        world.note(name, "starts")
        self._work = self.loop.create_task(self._main())

    @property
    def up(self) -> bool:
        """Whether it runs, or will again."""
        return not self.exited and not self.loop.dead

    @property
    def troubled(self) -> bool:
        """Whether something was in its way when it stopped, or just before."""
        return self.troubled_at > (self.stopping_at or 0.0) - UNTROUBLED_S

    @property
    def in_grace(self) -> bool:
        """Whether it is stopping, and its attempts may still end."""
        return self.stopping_at is not None and self.world.time < self.stopping_at + GRACE_S

    def _duties(self, *given: Any) -> Duties:
        return SimulatedDuties(self, *given)

    async def _main(self) -> None:
        try:
            await self.running.start()
        except StoreUnavailable:
            # Whoever runs it starts it again.
            self._gone("failed to start")
            return
        self.started = True
        try:
            await self.running.run_until(self._stop)
            await self.running.stop()
        except Exception as error:  # noqa: BLE001 - whatever it is, a stop raises nothing
            self.ledger.fail("a stop is clean", f"{self.name}: {error!r}")
        took_s = self.world.time - (self.stopping_at or 0.0)
        if took_s > (STOP_S if self.troubled else UNTROUBLED_STOP_S):
            self.ledger.fail("a stop ends in time", f"{self.name} took {took_s:.1f} s")
        if self.asking:
            self.ledger.fail("a stop is clean", f"{self.name} has left {len(self.asking)} statements")
        self._gone("exits")

    def publish(self, event: NewEvent) -> None:
        """Somebody publishes through this process, and learns what becomes of it, or not."""

        async def request() -> None:
            try:
                await self.running.ingest.publish([event])
            except StoreUnavailable:
                self.world.note(self.name, "answers 503", event.id)

        self.loop.call_soon(lambda: self._requests.add(self.loop.create_task(request())))

    def terminate(self) -> None:
        """SIGTERM."""
        if self.up and self.stopping_at is None:
            self.stopping_at = self.world.time
            self.world.note(self.name, "SIGTERM")
            self.loop.call_soon(self._stop.set)

    def crash(self) -> None:
        """kill -9."""
        if self.up:
            self._gone("SIGKILL")
            for call in self.calls:
                call.drop()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.up and self.stopping_at is None:
            self.loop.pause()
            self.world.note(self.name, "SIGSTOP")

    def go_on(self) -> None:
        """SIGCONT."""
        if self.loop.paused:
            self.loop.go_on()
            self.troubled_at = self.world.time
            self.world.note(self.name, "SIGCONT")

    def _gone(self, how: str) -> None:
        self.exited = True
        self.loop.dead = True
        self.world.loops.remove(self.loop)
        self.world.note(self.name, how)
        for attempt in list(self.ledger.flying):
            if attempt.process is self:
                self.ledger.posted(attempt, attempt.exchange)


class SimulatedDuties(Duties):
    """The duties that keep deliveries going, at the ticks of the simulation, in every process."""

    def __init__(self, process: Process, *given: Any) -> None:
        super().__init__(*given)
        self._process = process
        self.expiry = SimulatedExpiry(process)

    async def start(self) -> None:
        self._scheduler = _Ticks(self._process.loop, self._on_tick)

    async def _do_what_is_due(self) -> None:
        for name in ("reclaim", "pass lanes"):
            # A database that refuses one is away, and refuses all.
            if self._stopping or not await self._do(self._duties[name]):
                return
        # What a stop has released to an endpoint that was disabled meanwhile.
        self._process.model.cancel_waiting(Reason.GONE)


class SimulatedExpiry(Expiry):
    """As much of it as a record asks for: an endpoint is disabled in the model."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def disable(self, endpoint_row: int, reason: Reason) -> None:
        process = self._process
        await ask(process, "disable", lambda: process.model.disable(endpoint_row, reason))


class _Ticks:
    """Stands for the scheduler: as much of it as a stop asks for."""

    def __init__(self, loop: Loop, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = loop
        self._paused = False
        self._turn: asyncio.Task[None] | None = None
        self._task = loop.create_task(self._run(work))

    async def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self._paused:
            # A task for each, as the scheduler has it: a stop waits for the one that works.
            self._turn = self._loop.create_task(work())
            await asyncio.wait({self._turn})
            await asyncio.sleep(TICK_S)

    def pause(self) -> None:
        self._paused = True

    def shutdown(self, *, wait: bool) -> None:
        for task in (self._task, self._turn):
            if task is not None:
                task.cancel()
