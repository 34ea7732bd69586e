"""When duties are done: by apscheduler's clock, each by whichever process moves its row's time on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import select, true

from dispatcher import metrics
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.store import duty_rows
from dispatcher.store.database import Database

log = logger("dispatcher.duties")

#: Duties with such an interval or a shorter one, in seconds, are taken together.
OFTEN_S = 10.0
#: Rows in one step of a duty.
BATCH = 500
#: Steps of a duty before the others have their turn.
STEPS = 20
#: How long a stop waits for the duty that runs, in seconds.
STOP_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to be done every so often, once per deployment."""

    name: str
    interval_s: float
    work: Callable[[], Awaitable[object]]
    #: The condition without which there is nothing to do; null: it is always done.
    wanted: duty_rows.Condition | None = None


class _Scheduler(AsyncIOScheduler):  # type: ignore[misc]
    """apscheduler's, which goes by the wall clock, and would stand still for as long as that was set back by."""

    def _process_jobs(self) -> float | None:
        now = datetime.now(self.timezone)
        for job in self.get_jobs():
            if job.next_run_time > now + 2 * job.trigger.interval:
                job.modify(next_run_time=now)
        wait_s: float | None = super()._process_jobs()
        return wait_s


def scheduler_of(jobs: Iterable[tuple[Callable[[], Awaitable[None]], float]]) -> AsyncIOScheduler:
    """Calls each now and then every so many seconds, one call at a time and late rather than never; already started."""
    scheduler = _Scheduler(
        timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    for work, interval_s in jobs:
        scheduler.add_job(work, "interval", seconds=interval_s, next_run_time=datetime.now(UTC))
    scheduler.start()
    return scheduler


class Schedule:
    """Does duties when they are due and it is this process's turn.

    `beside`: what every process does for itself, each with its interval in seconds.
    """

    def __init__(
        self,
        database: Database,
        duties: Iterable[Duty],
        *,
        tick_s: float,
        beside: Sequence[tuple[Callable[[], Awaitable[None]], float]] = (),
    ) -> None:
        self._database = database
        self._duties = {duty.name: duty for duty in duties}
        self._intervals_s = {duty.name: duty.interval_s for duty in self._duties.values()}
        self._tick_s = tick_s
        self._beside = beside
        self._at_work: set[asyncio.Future[None]] = set()
        self._turn = asyncio.Lock()
        self._stopping = False
        self._scheduler: AsyncIOScheduler | None = None

    @cached_property
    def _look(self) -> duty_rows.Look:
        conditions = {duty.name: duty.wanted for duty in self._duties.values() if duty.wanted is not None}
        return duty_rows.Look(self._database, conditions)

    async def start(self) -> None:
        """Makes the duties' rows and starts the clock."""
        async with self._database.begin() as connection:
            await duty_rows.ensure(connection, self._database, self._duties)
        self._scheduler = scheduler_of(
            [(self._on_tick, self._tick_s), *((partial(self._work, work), every_s) for work, every_s in self._beside)]
        )

    async def stop(self) -> None:
        """Stops the clock and lets the duty that runs come to the end of its step."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is None:
            return
        scheduler.pause()
        self._stopping = True
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=STOP_PATIENCE_S)
        for task in list(self._at_work):
            # Its database does not answer.
            task.cancel()
        if self._at_work:
            await asyncio.wait(self._at_work)
        scheduler.shutdown(wait=False)

    async def _on_tick(self) -> None:
        await self._work(self.tick)

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._stopping:
            return
        # A task of ours: the scheduler's own shutdown would cancel what runs in the middle of a transaction.
        task = asyncio.ensure_future(work())
        self._keep(task)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def leave(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begins what the duties do not wait for but a stop does; nothing once that has begun."""
        if not self._stopping:
            self._keep(asyncio.ensure_future(work()))

    def _keep(self, task: asyncio.Future[None]) -> None:
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def tick(self) -> None:
        """Does what is due now and nobody else has taken; waits for a tick that is under way."""
        async with self._turn:
            await self._do_what_is_due()

    async def _do_what_is_due(self) -> None:
        try:
            often, seldom = await self._needed()
            # What a stop leaves undone of the first is put off by seconds; the others are taken in their turn.
            for together in (often, *([duty] for duty in seldom)):
                if self._stopping:
                    return
                for place, duty in enumerate(await self._taken(together)):
                    # What was taken by itself would be put off by an hour.
                    if place and self._stopping:
                        return
                    if not await self._do(duty):
                        await self._ask()
        except StoreUnavailable as error:
            _unavailable(error)

    async def _needed(self) -> tuple[Sequence[Duty], Sequence[Duty]]:
        """What is due and has anything to do: of what is done often, and of the others.

        Only read: this is most of what an idle process does.
        """
        async with self._database.read() as connection:
            names = await self._look.needed(connection, self._intervals_s)
        # The most frequent first.
        needed = sorted((self._duties[name] for name in names), key=lambda duty: duty.interval_s)
        often = [duty for duty in needed if duty.interval_s <= OFTEN_S]
        return often, [duty for duty in needed if duty not in often]

    async def _taken(self, duties: Sequence[Duty]) -> Sequence[Duty]:
        if not duties:
            return ()
        async with self._database.begin() as connection:
            wanted = {duty.name: duty.interval_s for duty in duties}
            taken = await duty_rows.take(connection, self._database, wanted)
        return [duty for duty in duties if duty.name in taken]

    async def _ask(self) -> None:
        """Raises `StoreUnavailable` where the database answers nothing at all."""
        async with self._database.read() as connection:
            await connection.execute(select(true()))

    async def _do(self, duty: Duty) -> bool:
        """Does it; answers whether the database let it."""
        # One that fails at each turn must not take the others theirs: those behind it would never come about.
        try:
            await duty.work()
        except StoreUnavailable as error:
            _unavailable(error, duty=duty.name)
            return False
        except Exception:
            log.exception("duty.failed", duty=duty.name)
        return True


def _unavailable(error: StoreUnavailable, **about: str) -> None:
    metrics.store_outages.labels("duties").inc()
    log.warning("store.unavailable", stage="duties", error=str(error), **about)
