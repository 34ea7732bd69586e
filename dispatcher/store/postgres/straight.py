"""Straight to the sender on PostgreSQL: what is stored is fanned out and claimed by the same transaction."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import asyncpg

from dispatcher.logs import logger
from dispatcher.rules.kinds import EventKinds
from dispatcher.settings import Settings
from dispatcher.store.claimed import ClaimedBatch
from dispatcher.store.database import COLD_LIMIT_S, Database
from dispatcher.store.hot import FannedOut, Limits, statement_limit_s
from dispatcher.store.ingest import STRAIGHT_BEHIND, Apart, Group, Held, Ingested, Straight
from dispatcher.store.postgres.born import Born
from dispatcher.store.postgres.born_of_queue import BornOfQueue
from dispatcher.store.postgres.claim import Claim
from dispatcher.store.postgres.connection import OUTAGES, TRANSACTION_STATEMENTS, Driver, Role, committed
from dispatcher.store.postgres.fan_out import FanOut
from dispatcher.store.postgres.ingest import REFUSALS, Ingest
from dispatcher.store.postgres.marks import CameBack
from dispatcher.store.postgres.record import Record
from dispatcher.store.tables import QUIET

log = logger("dispatcher.ingest")
T = TypeVar("T")

#: How long what is stored may wait for a lock on its way straight to the sender; then it is only stored.
_LOCK_MS = 100
#: What keeps it from going straight and says nothing about it: it is stored by itself.
_IN_THE_WAY = (
    Apart,
    Held,
    *REFUSALS,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
)


class GoingStraight:
    """Its connection, and the statements on it: the fan-out and the claim are the ordinary ones."""

    def __init__(self, database: Database, settings: Settings, record: Record, ingest: Ingest) -> None:
        tables, limits = database.tables, Limits.of(settings)
        self._ingest = ingest
        self._fan_out = FanOut(tables, EventKinds(settings.event_kinds), record)
        self._claim = Claim(tables, limits, source=settings.source)
        self._born = Born(tables, limits, ingest, source=settings.source)
        self._born_of_queue = BornOfQueue(tables, limits, source=settings.source)
        self._fan_out_patience_s = statement_limit_s(settings) * TRANSACTION_STATEMENTS
        self.role = Role(
            database,
            statement_timeout_s=statement_limit_s(settings),
            patience_s=COLD_LIMIT_S,
            awaits_restart=True,
            setup=f"SET lock_timeout = {_LOCK_MS}; SET {QUIET} = on;"
            f"{self._fan_out.setup}; {ingest.setup}; {self._claim.setup}; {self._born.setup};"
            f"{self._born_of_queue.setup}",
        )
        self._tell_others = f"SELECT pg_notify('{tables.channel}', '')"

    async def run(
        self, groups: Sequence[Group], straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> tuple[Ingested, CameBack] | None:
        """All in one transaction, with what it lets be claimed again; null, and nothing is stored, where that did not
        come about.
        """

        async def work(driver: Driver) -> Ingested:
            taking = (STRAIGHT_BEHIND, *self._fan_out.begin())
            found, new, taken = await self._ingest.together_and_take(driver, groups, now, taking)
            fanned = await self._fan_out.go_on(driver, taken, now)
            return Ingested(found, new, await self._claim_too(driver, fanned, straight, dispatcher_row, now))

        async def born_or_stored(driver: Driver) -> tuple[Ingested, CameBack]:
            born = await self._born.run(driver, groups, straight, dispatcher_row, now)
            if born is not None:
                self._seen_off(born.claimed)
                return born, ()
            return await committed(driver, work), self._fan_out.committed()

        return await self._unless_in_the_way(born_or_stored)

    async def fan_out(
        self, limit: int, straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> tuple[FannedOut, CameBack] | None:
        """What waits in the queue is fanned out and claimed in one transaction; else as `run`."""

        async def work(driver: Driver) -> FannedOut:
            fanned = await self._fan_out.run(driver, limit, now)
            return await self._claim_too(driver, fanned, straight, dispatcher_row, now)

        async def fanned_out(driver: Driver) -> tuple[FannedOut, CameBack]:
            born = await self._born_of_queue.run(driver, limit, straight, dispatcher_row, now)
            if born is not None:
                self._fan_out.left(born.events)
                self._seen_off(born.claimed)
                return born, ()
            return await committed(driver, work), self._fan_out.committed()

        # Nobody but the loop waits for it, which looks again: on a new connection, where this one is dead.
        return await self._unless_in_the_way(fanned_out, self._fan_out_patience_s)

    def _seen_off(self, claimed: ClaimedBatch | None) -> None:
        """What is in flight was no less seen off for being born so."""
        if claimed is not None:
            self._claim.looks.left(len(claimed.deliveries))

    async def _claim_too(
        self, driver: Driver, fanned: FannedOut, straight: Straight, dispatcher_row: int, now: datetime | None
    ) -> FannedOut:
        if not fanned.deliveries:
            return fanned
        claimed = await self._claim.run(driver, straight.most, dispatcher_row, now, straight.ended)
        if len(claimed.deliveries) >= straight.most:
            # There may be more than this process has room for, and nobody else has heard of them.
            await driver.execute(self._tell_others)
        return replace(fanned, claimed=claimed)

    async def _unless_in_the_way(
        self, work: Callable[[Driver], Awaitable[T]], patience_s: float | None = None
    ) -> T | None:
        async def tried(driver: Driver) -> T | None:
            try:
                return await work(driver)
            except _IN_THE_WAY:
                return None
            except OUTAGES:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked for where it is no publisher's
                log.warning("ingest.not_straight", error=type(error).__name__)
                return None

        return await self.role.run(tried, patience_s=patience_s)

    def came_back(self, rows: CameBack) -> None:
        """What was committed lets these be claimed (again)."""
        self._claim.marks.came_back(rows)
