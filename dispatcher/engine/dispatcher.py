"""The dispatcher: what one process runs, with the role, schema and keys that it needs first."""

import asyncio
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from dispatcher.clock import Clock
from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.engine.ingest import Ingest
from dispatcher.engine.role import Role
from dispatcher.engine.running import Running
from dispatcher.engine.vitals import Condition
from dispatcher.logs import logger
from dispatcher.settings import Settings, load
from dispatcher.store import migrate
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment, open_deployment
from dispatcher.store.endpoint_policies import check_keyring
from dispatcher.store.hot import HotStore
from dispatcher.store.reencryption import announce
from dispatcher.store.sqlite.store import SqliteStore
from dispatcher.transport.client import HttpClient

log = logger("dispatcher.engine")


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


def open_store(database: Database, settings: Settings) -> HotStore:
    """The hot store of the database."""
    if database.url.file is not None:
        return SqliteStore(database, settings, database.url.file)
    # Only here: the driver is an extra, and SQLite needs none of it.
    from dispatcher.store.postgres.store import PostgresStore

    return PostgresStore(database, settings)
