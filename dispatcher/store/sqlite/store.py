"""The hot store on SQLite: the writer thread, and the statements that need no module of their own."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from dispatcher.errors import StoreUnavailable
from dispatcher.logs import logger
from dispatcher.rules.kinds import EventKinds
from dispatcher.settings import Settings
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.columns import from_microseconds, to_microseconds
from dispatcher.store.database import Database
from dispatcher.store.hot import LONGER_THAN_ANY_ATTEMPT_S, FannedOut, Finished, Limits, Orphan, Recorded
from dispatcher.store.ingest import STRAIGHT_BEHIND, Group, Ingested, Straight
from dispatcher.store.sqlite.claim import Claim
from dispatcher.store.sqlite.connection import Connection, as_json
from dispatcher.store.sqlite.fan_out import FanOut
from dispatcher.store.sqlite.ingest import Ingest
from dispatcher.store.sqlite.progress import took_its_place
from dispatcher.store.sqlite.rebase import Base
from dispatcher.store.sqlite.record import Record
from dispatcher.store.sqlite.wakeup import watch
from dispatcher.store.sqlite.writer import Writer
from dispatcher.store.sqlite_engine import is_outage

log = logger("dispatcher.ingest")
T = TypeVar("T")

#: How long outcomes wait for a transaction that stores or fans out events, to share its flush, in seconds, where those
#: come as often. A flush of their own would be under way when the next one comes.
RIDE_S = 0.01


class SqliteStore:
    """`HotStore` on SQLite, for the one process that holds the dispatching role on the file."""

    def __init__(self, database: Database, settings: Settings, file: Path) -> None:
        self._writer = Writer(file)
        tables = database.tables
        name = tables.name
        limits = Limits.of(settings)
        self._record = Record(tables, limits)
        self._fan_out = FanOut(tables, EventKinds(settings.event_kinds), self._record)
        self._claim = Claim(tables, limits, source=settings.source)
        self._ingest = Ingest(tables)
        self._clock = database.clock
        self._base = Base(database.clock, tables)
        self._row = 0
        #: When what brings new events came last, and how long after the one before, in seconds.
        self._came_at, self._came_after_s = 0.0, RIDE_S
        self._forget_all = f"DELETE FROM {name('dispatchers')}"
        self._enrol = (
            f"INSERT INTO {name('dispatchers')} (name, started_at, leased_until) VALUES (?1, ?2, ?3) RETURNING row_id"
        )
        self._renew = f"UPDATE {name('dispatchers')} SET leased_until = ?3 WHERE row_id = ?1 AND leased_until > ?2"
        self._retire = f"DELETE FROM {name('dispatchers')} WHERE row_id = ?"
        sending = f"""
            SELECT json_array(d.row_id, d.endpoint_row, d.dispatcher_row, d.attempts, d.failures, d.interruptions,
                              d.lane, d.updated_at, d.progress_of) AS j
            FROM {name("deliveries")} d
            WHERE d.state = 'sending'
        """
        self._claimed = f"{sending} AND d.dispatcher_row = ?1"
        self._orphans = f"""
            {sending} AND (
                NOT EXISTS (
                    SELECT 1 FROM {name("dispatchers")} o WHERE o.row_id = d.dispatcher_row AND o.leased_until > ?1
                )
                OR d.updated_at < ?1 - {int(LONGER_THAN_ANY_ATTEMPT_S * 1_000_000)}
            ) LIMIT ?2
        """
        self._release = f"""
            UPDATE {name("deliveries")}
            SET state = CASE WHEN r.superseded_by IS NULL THEN 'pending' ELSE 'superseded' END,
                reason = CASE WHEN r.superseded_by IS NOT NULL THEN 'superseded' END,
                superseded_by = r.superseded_by,
                attempts = attempts - 1, dispatcher_row = NULL, updated_at = ?3
            FROM (
                SELECT d.row_id AS released, {took_its_place(name, "d")} AS superseded_by
                FROM json_each(?1) c
                CROSS JOIN {name("deliveries")} d ON d.row_id = json_extract(c.value, '$[0]')
                WHERE d.state = 'sending' AND d.dispatcher_row = ?2 AND d.attempts = json_extract(c.value, '$[1]')
            ) r WHERE row_id = r.released
        """
        self._next_due = f"SELECT min(due_at) FROM {name('deliveries')} WHERE state = 'pending' AND due_at IS NOT NULL"
        self._make_due = f"""
            UPDATE {name("deliveries")} SET due_at = NULL WHERE row_id IN (
                SELECT row_id FROM {name("deliveries")}
                WHERE state = 'pending' AND due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?)
        """
        self._passable = f"""
            SELECT json_array(d.row_id, d.lane, d.endpoint_row) AS j FROM {name("deliveries")} d
            WHERE d.state = 'pending' AND d.hold_until IS NOT NULL AND NOT d.late AND d.hold_until <= ?
              AND EXISTS (
                  SELECT 1 FROM {name("deliveries")} b WHERE b.lane = d.lane AND b.endpoint_row = d.endpoint_row
                  AND b.lane IS NOT NULL AND b.state IN ('pending', 'sending') AND NOT b.late
                  AND b.sequence > d.sequence
              )
            ORDER BY d.hold_until LIMIT ?
        """
        self._pass = f"""
            UPDATE {name("deliveries")} SET late = true, waiting = false
            WHERE row_id IN (SELECT value FROM json_each(?)) AND state = 'pending' AND NOT late
        """

    def _now(self) -> int:
        return self._base.now()

    @property
    def dispatcher_row(self) -> int:
        return self._row

    async def enrol(self, name: str, lease_s: float) -> None:
        def work(connection: Connection) -> int:
            self._base.follow(connection)
            now = self._now()
            # The file lock says that no other dispatcher lives, so what is `sending` is nobody's.
            connection.run(self._forget_all)
            row: int = connection.one(self._enrol, (name, now, now + int(lease_s * 1_000_000)))
            return row

        self._row = await self._rebased(work)

    async def heartbeat(self, lease_s: float) -> bool:
        def work(connection: Connection) -> bool:
            before = self._now()
            self._base.follow(connection)
            return connection.run(self._renew, (self._row, before, self._now() + int(lease_s * 1_000_000))) > 0

        return await self._rebased(work)

    async def _rebased(self, work: Callable[[Connection], T]) -> T:
        base = self._base.taken
        try:
            return await self._writer.transact(work)
        except StoreUnavailable:
            # What was moved is where it was, and by the next heartbeat it is moved again.
            self._base.taken = base
            raise

    async def retire(self) -> None:
        await self._writer.transact(lambda connection: connection.run(self._retire, (self._row,)))

    async def fan_out(self, limit: int, straight: Straight | None = None) -> FannedOut:
        tenants, flagged = await self._writer.read(
            lambda connection: (self._fan_out.waiting(connection), self._fan_out.flagged(connection))
        )
        if not tenants:
            return FannedOut(0, 0, catch_up=flagged)

        def work(connection: Connection) -> FannedOut:
            done = self._fan_out.run(connection, tenants, limit, self._now())
            if straight is None:
                return done
            return self._unless_in_the_way(connection, done, lambda: self._claim_too(connection, done, straight))

        self._comes()
        return replace(await self._writer.transact(work, rows=limit), catch_up=flagged)

    async def fan_out_one(self) -> FannedOut:
        tenants = await self._writer.read(self._fan_out.waiting)
        if not tenants:
            return FannedOut(0, 0)
        return await self._writer.transact(lambda connection: self._fan_out.run_one(connection, tenants, self._now()))

    async def claim(self, limit: int, ended: Sequence[tuple[int, int]] = ()) -> ClaimedBatch:
        claimed = await self._writer.transact_if(
            self._claim.anything,
            lambda connection: self._claim.run(connection, limit, self._row, self._now(), ended),
            rows=limit,
        )
        return ClaimedBatch(()) if claimed is None else claimed

    async def record(self, batch: Sequence[Finished]) -> Recorded:
        # What is in a lane holds up what comes after it.
        rides = self._events_come() and all(finished.lane is None for finished in batch)
        return await self._writer.transact(
            lambda connection: self._record.run(connection, batch, self._now()),
            rows=len(batch),
            linger_s=RIDE_S if rides else 0.0,
        )

    def _comes(self) -> None:
        before, self._came_at = self._came_at, self._clock.monotonic()
        self._came_after_s = self._came_at - before

    def _events_come(self) -> bool:
        return max(self._clock.monotonic() - self._came_at, self._came_after_s) < RIDE_S

    async def ingest(self, groups: Sequence[Group], straight: Straight | None) -> Ingested:
        # An event's times are the clock's, also where no heartbeat follows it.
        created_at = to_microseconds(self._clock.now())
        self._comes()

        def work(connection: Connection) -> Ingested:
            found, new = self._ingest.run(connection, groups, created_at)
            done = Ingested(found, new)
            if not new or straight is None:
                return done
            return self._unless_in_the_way(connection, done, lambda: self._go_straight(connection, done, straight))

        return await self._writer.transact(work, rows=sum(map(len, groups)))

    def _go_straight(self, connection: Connection, done: Ingested, straight: Straight) -> Ingested:
        fanned = self._fan_out.run(
            connection, self._fan_out.waiting(connection), len(done.new) + STRAIGHT_BEHIND, self._now()
        )
        fanned = replace(fanned, catch_up=self._fan_out.flagged(connection))
        return replace(done, fanned_out=self._claim_too(connection, fanned, straight))

    def _unless_in_the_way(self, connection: Connection, done: T, work: Callable[[], T]) -> T:
        """What `work` comes to; where it fails, what is `done` without it."""
        connection.run("SAVEPOINT straight")
        try:
            done = work()
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) and is_outage(error):
                raise
            # Whatever it is, it is looked for where it is no publisher's.
            log.warning("ingest.not_straight", error=type(error).__name__)
            connection.run("ROLLBACK TO straight")
        connection.run("RELEASE straight")
        return done

    def _claim_too(self, connection: Connection, fanned: FannedOut, straight: Straight) -> FannedOut:
        if not fanned.deliveries:
            return fanned
        return replace(
            fanned, claimed=self._claim.run(connection, straight.most, self._row, self._now(), straight.ended)
        )

    async def release(self, batch: Sequence[Claimed]) -> None:
        fences = as_json([claimed.delivery_row, claimed.attempt] for claimed in batch)

        def work(connection: Connection) -> None:
            now = self._now()
            connection.run(self._release, (fences, self._row, now))
            self._record.hold_back(connection, [claimed.delivery_row for claimed in batch if claimed.lane is not None])
            lanes = {(claimed.lane, claimed.endpoint_row) for claimed in batch if claimed.lane is not None}
            self._record.free_heads(connection, lanes, now)

        await self._writer.transact(work)

    async def make_due(self, limit: int) -> tuple[int, float | None]:
        next_due, now = await self._writer.read(lambda connection: (connection.one(self._next_due), self._now()))
        made = 0
        if next_due is not None and next_due <= now:
            made = await self._writer.transact(lambda connection: connection.run(self._make_due, (self._now(), limit)))
            next_due, now = await self._writer.read(lambda connection: (connection.one(self._next_due), self._now()))
        return made, None if next_due is None else (next_due - now) / 1_000_000

    async def pass_lanes(self, limit: int) -> int:
        passable = await self._writer.read(lambda connection: connection.rows(self._passable, (self._now(), limit)))
        if not passable:
            return 0

        def work(connection: Connection) -> int:
            connection.run(self._pass, (as_json(row[0] for row in passable),))
            self._record.free_heads(connection, [(row[1], row[2]) for row in passable], self._now())
            return len(passable)

        return await self._writer.transact(work)

    async def orphans(self, limit: int) -> Sequence[Orphan]:
        return await self._sending(lambda: (self._orphans, (self._now(), limit)))

    async def claimed(self) -> Sequence[Orphan]:
        return await self._sending(lambda: (self._claimed, (self._row,)))

    async def _sending(self, query: Callable[[], tuple[str, tuple[int, ...]]]) -> Sequence[Orphan]:
        rows, now = await self._writer.read(lambda connection: (connection.rows(*query()), self._now()))
        return [
            Orphan(row[0], row[1], row[2], row[3], row[4], row[5], row[6], _claimed_at(row[7], now), row[8])
            for row in rows
        ]

    async def busy(self, seconds: float) -> None:
        """Nothing to tell: on SQLite nobody notifies, the dispatcher watches the file."""

    async def watch(self, queued: Callable[[], None], wake: Callable[[], None]) -> None:
        # The file does not tell what was committed.
        await watch(self._writer, wake)

    async def close(self) -> None:
        await self._writer.close()


def _claimed_at(updated_at: Any, now: int) -> datetime:
    # Written by hand: it is taken back all the same.
    return from_microseconds(updated_at if isinstance(updated_at, int) else now)
