"""The dispatcher: what one process runs, put together, started and stopped cleanly."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dispatcher.clock import Clock
from dispatcher.engine.attempt import Attempts, Ended
from dispatcher.engine.burial import Burial
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.duties import Duties
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.fanning import Fanning
from dispatcher.engine.ingest import Ingest
from dispatcher.engine.lease import Lease
from dispatcher.engine.pulse import Pulse
from dispatcher.engine.recorder import Recorder
from dispatcher.engine.role import Role
from dispatcher.engine.straight import StraightWay
from dispatcher.engine.vitals import Condition, Vitals
from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.settings import Settings, load
from dispatcher.store import migrate
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.endpoint_policies import check_keyring
from dispatcher.store.hot import HotStore, Recorded, statement_limit_s
from dispatcher.store.reencryption import announce
from dispatcher.store.sqlite.store import SqliteStore
from dispatcher.transport.client import HttpClient

log = logger("dispatcher.engine")

#: How long the database has to take the last outcomes when the grace is over, and the lease back, in seconds each.
LAST_S = 1.5


class Dispatcher:
    """Delivers what the outbox holds, in the event loop of whoever starts it.

    `async with Dispatcher(database_url="sqlite:///app.db"): ...` runs it inside any asyncio app; any setting can
    be given by its name, and the environment gives the rest. On SQLite one dispatcher at a time works on a file;
    on PostgreSQL any number. Raises `ConfigurationError`, `SchemaError`, `AlreadyRunning`, `StoreUnavailable`.
    """

    def __init__(self, *, settings: Settings | None = None, clock: Clock | None = None, **given: Any) -> None:
        self.settings = settings if settings is not None else load(**given)
        self.deployment: Deployment = open_deployment(self.settings, clock)
        self._running: Running | None = None
        self._role: Role | None = None
        self._on_numbered: Callable[[Collection[int]], None] | None = None

    def on_numbered(self, tell: Callable[[Collection[int]], None]) -> None:
        """From its start on, `tell` is called with the rows of jobs whose events this dispatcher has just numbered."""
        self._on_numbered = tell

    async def start(self) -> None:
        """Takes the role, brings a SQLite schema up to date, takes a lease and starts to work."""
        database = self.deployment.database
        log.debug("dispatcher.starting", database=database.url.shown)
        try:
            if database.url.file is not None:
                role = Role(database.url.file)
                role.take()
                self._role = role
                await migrate.upgrade(database)
            else:
                await migrate.check(database)
            await check_keyring(database, self.deployment.keyring)
            self._running = Running(
                self.deployment,
                open_store(database, self.settings),
                HttpClient(
                    self.deployment.egress,
                    connect_timeout_s=self.settings.connect_timeout.total_seconds(),
                    kind=self.settings.client,
                    ca_file=self.settings.ca_file,
                ),
                EndpointBook(self.deployment),
                self._numbered,
                enrolled=lambda row: announce(database, row, self.deployment.keyring),
            )
            await self._running.start()
        except BaseException:
            await self.stop()
            raise
        log.info("dispatcher.started", database=database.url.shown)

    async def stop(self) -> None:
        """Claims nothing more, lets attempts in flight end within the grace, records them, gives the lease back."""
        running = self._running
        try:
            if running is not None:
                await running.stop()
                log.info("dispatcher.stopped")
        finally:
            self._running = None
            if self._role is not None:
                self._role.give_back()
                self._role = None
            await self.deployment.database.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def hurry(self) -> None:
        """A stop that is under way waits for nobody any more: attempts in flight are interrupted, and recorded so."""
        if self._running is not None:
            self._running.hurry()

    @property
    def ingest(self) -> Ingest:
        """What publishes in this process while it dispatches."""
        if self._running is None:
            raise RuntimeError("the dispatcher was not started")
        return self._running.ingest

    def wake(self) -> None:
        """Something was published in this process: look at once."""
        if self._running is not None:
            self._running.wake()

    def _numbered(self, jobs: Collection[int]) -> None:
        if self._on_numbered is not None:
            self._on_numbered(jobs)

    def condition(self) -> Condition:
        """What is wrong with it, where something is; of one that does not run, nothing."""
        return Condition() if self._running is None else self._running.condition()

    async def until_idle(self) -> None:
        """Returns when nothing is due now: the queue is empty and every attempt that was begun is on record."""
        if self._running is None:
            raise RuntimeError("the dispatcher was not started")
        await self._running.until_idle()

    async def run_duties(self) -> None:
        """Does the periodic duties that are due, now."""
        if self._running is None:
            raise RuntimeError("the dispatcher was not started")
        await self._running.duties.tick()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; raises what ended a part of it that must not end."""
        if self._running is None:
            raise RuntimeError("the dispatcher was not started")
        await self._running.run_until(stop)


class Running:
    """The parts of a dispatcher while it runs: they meet the world in the deployment's clock, `store`, `client` and
    `book`, and in what else the duties touch."""

    def __init__(
        self,
        deployment: Deployment,
        store: HotStore,
        client: HttpClient,
        book: EndpointBook,
        numbered: Callable[[Collection[int]], None],
        *,
        duties: type[Duties] = Duties,
        enrolled: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        settings = deployment.settings
        self._deployment = deployment
        self._grace_s = settings.shutdown_grace.total_seconds()
        self._store = store
        self._client = client
        self._lease = Lease(self._store, deployment.clock, settings.lease.total_seconds(), enrolled)
        self._queued, self._claimable = Pulse(), Pulse()
        attempts = Attempts(deployment, self._client, book, covers=self._lease.covers)
        burial = Burial(deployment.database, self._claimable.ring)
        self.duties = duties(deployment, self._store, book, burial, self._claimable.ring, self._held)
        self._recorder = Recorder(self._store, recorded=self._on_recorded, disable=self.duties.expiry.disable)
        poll_interval_s = settings.poll_interval.total_seconds()
        self._claiming = Claiming(
            self._store,
            deployment.clock,
            attempts,
            self._claimable,
            ended=self._on_ended,
            unrecorded=lambda: self._recorder.making_room,
            take_back_unanswered=self.duties.reclaiming.take_back_unanswered,
            doubt_s=statement_limit_s(settings),
            burial=burial,
            max_in_flight=settings.max_in_flight,
            poll_interval_s=poll_interval_s,
        )
        self._fanning = Fanning(
            self._store,
            deployment.database,
            self._queued,
            self._claimable,
            poll_interval_s,
            held=self._claiming.look_for_due,
            numbered=numbered,
        )
        self.ingest = Ingest(self._store, StraightWay(self._fanning, self._claiming, self._queued))
        self._vitals = Vitals(deployment.clock, settings.lease.total_seconds())
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: By the monotonic clock; null until it is asked to stop.
        self._stop_by: float | None = None

    async def start(self) -> None:
        await self._lease.take()
        await self.duties.retaining.make_partitions()
        # What one process left in flight; of more the duty takes care, while everything else goes on.
        await self.duties.reclaiming.reclaim(steps=2)
        loop = asyncio.get_running_loop()
        for name, work in (
            ("fan out", self._fanning.run),
            ("claim", self._claiming.run),
            ("record", self._recorder.run),
            ("lease", self._lease.keep),
            ("watch", lambda: self._store.watch(self.wake)),
        ):
            self._tasks[name] = loop.create_task(self._vitals.keep(name, work), name=f"dispatcher {name}")
        await self.duties.start()

    def condition(self) -> Condition:
        condition = self._vitals.condition()
        ended = [task.get_name() for task in self._tasks.values() if task.done()]
        return replace(condition, hung=(*condition.hung, *(f"{name} has ended" for name in ended)))

    def _held(self) -> set[tuple[int, int]]:
        return self._claiming.held | set(self._recorder.unrecorded)

    def wake(self) -> None:
        self._queued.ring()
        self._claimable.ring()

    async def until_idle(self) -> None:
        while True:
            await self._queued.next_idle_pass()
            batches = self._recorder.batches
            self._claiming.look_for_due()
            await self._claimable.next_idle_pass()
            # What was recorded during the idle pass may have made room or freed a lane that the pass did not see.
            if self._recorder.idle and self._recorder.batches == batches and not self._claiming.in_flight:
                return

    async def run_until(self, stop: asyncio.Event) -> None:
        waiting = asyncio.get_running_loop().create_task(stop.wait())
        done, _ = await asyncio.wait({waiting, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if stop.is_set():
            self.ask_to_stop()
        for task in done - {waiting}:
            task.result()
            raise RuntimeError(f"{task.get_name()} ended")

    def ask_to_stop(self) -> None:
        """Claims nothing more from now on; the grace begins, once."""
        if self._stop_by is None:
            self._stop_by = self._deployment.clock.monotonic() + self._grace_s
            log.info("dispatcher.stopping", in_flight=self._claiming.in_flight, grace_s=self._grace_s)
            self._claiming.stop()

    def hurry(self) -> None:
        if self._stop_by is not None:
            self._stop_by = self._deployment.clock.monotonic()
            self._claiming.interrupt()

    async def stop(self) -> None:
        self.ask_to_stop()
        # All at once: each may have to give a connection up that does not answer, which takes its time.
        others = asyncio.gather(self.duties.stop(), self._cancel("fan out", "watch"))
        await self._join("claim", self._left_s())
        # What it claims from now on, it gives back.
        await self.ingest.finish(max(LAST_S, self._left_s()))
        await self._claiming.finish(self._left_s())
        self._recorder.close()
        # The lease is kept until the last outcome is on record.
        recorded = await self._join("record", max(LAST_S, self._left_s()))
        await asyncio.gather(others, self._cancel("lease"))
        try:
            if recorded:
                async with asyncio.timeout(LAST_S):
                    await self._store.retire()
        except (StoreUnavailable, TimeoutError) as error:
            # Then the lease ends by itself, and what was not recorded is reclaimed by another.
            log.warning("store.unavailable", stage="stop", error=str(error))
        finally:
            await self._store.close()
            await self._client.close()

    def _left_s(self) -> float:
        by = self._deployment.clock.monotonic() if self._stop_by is None else self._stop_by
        return max(0.0, by - self._deployment.clock.monotonic())

    async def _join(self, name: str, seconds: float) -> bool:
        """Lets a part end by itself, for so long; false when it did not."""
        task = self._tasks.pop(name, None)
        if task is None:
            return True
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return True
        log.warning("dispatcher.stopped_unrecorded", part=name)
        task.cancel()
        await asyncio.wait({task})
        return False

    async def _cancel(self, *names: str) -> None:
        tasks = [task for name in names if (task := self._tasks.pop(name, None)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _on_ended(self, ended: Ended) -> None:
        self._recorder.put(ended)
        if ended.finished.delay_s is not None:
            self._claiming.retry_at(ended.finished.delay_s)
        if ended.frees_room:
            self._claiming.room_made(1)

    def _on_recorded(self, recorded: Recorded, room: int) -> None:
        if recorded.held:
            self._claiming.look_for_due()
        self._claiming.recorded(freed=recorded.freed)
        self._claiming.room_made(room)


def open_store(database: Database, settings: Settings) -> HotStore:
    """The hot store of the database."""
    if database.url.file is not None:
        return SqliteStore(database, settings, database.url.file)
    # Only here: the driver is an extra, and SQLite needs none of it.
    from dispatcher.store.postgres.store import PostgresStore

    return PostgresStore(database, settings)
