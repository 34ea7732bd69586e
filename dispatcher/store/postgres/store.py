"""The hot store on PostgreSQL: which connection does what, and the statements that need no module of their own."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from dispatcher.rules.kinds import EventKinds
from dispatcher.settings import Settings
from dispatcher.store.claimed import Claimed, ClaimedBatch
from dispatcher.store.database import COLD_LIMIT_S, Database
from dispatcher.store.hot import (
    LONGER_THAN_ANY_ATTEMPT_S,
    FannedOut,
    Finished,
    Limits,
    Orphan,
    Recorded,
    statement_limit_s,
)
from dispatcher.store.ingest import Apart, Group, Held, Ingested, Straight, independent
from dispatcher.store.postgres.claim import Claim
from dispatcher.store.postgres.connection import Driver, Role
from dispatcher.store.postgres.fan_out import FanOut
from dispatcher.store.postgres.ingest import LOCK_MS, REFUSALS, Ingest
from dispatcher.store.postgres.looking import UNSEEN_S
from dispatcher.store.postgres.marks import CameBack, Looks
from dispatcher.store.postgres.progress import took_its_place
from dispatcher.store.postgres.record import Record, all_well
from dispatcher.store.postgres.straight import GoingStraight
from dispatcher.store.postgres.wakeup import listen
from dispatcher.store.tables import QUEUED

#: The least time that a heartbeat is waited for, its connection's set-up included, in seconds.
SHORTEST_HEARTBEAT_S = 1.0

#: Where statistics are missing or old, the planner takes what is due for a few rows, and would read and sort all of
#: them for each batch, instead of taking the first of an index.
_IN_ORDER = "SET enable_bitmapscan = off"


class PostgresStore:
    """`HotStore` on PostgreSQL. One connection each fans out, claims, records, keeps house and keeps the lease, so
    none waits: a lease must not end because a row was locked."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        tables = database.tables
        name = tables.name
        timeout_s = statement_limit_s(settings)
        self._housekeeping = Role(database, statement_timeout_s=timeout_s, setup=_IN_ORDER)
        # Given up early enough for another try on a new connection before the lease has ended.
        patience_s = max(SHORTEST_HEARTBEAT_S, settings.lease.total_seconds() / 3)
        self._leasing = Role(database, statement_timeout_s=timeout_s, patience_s=min(patience_s, timeout_s))
        limits = Limits.of(settings)
        self._record = Record(tables, limits)
        self._fan_out = FanOut(tables, EventKinds(settings.event_kinds), self._record)
        self._fanning = Role(database, statement_timeout_s=timeout_s, setup=self._fan_out.setup)
        self._claim = Claim(tables, limits, source=settings.source)
        self._looks_for_due = Looks()
        self._due_since: datetime | None = None
        self._claiming = Role(database, statement_timeout_s=timeout_s, setup=self._claim.setup)
        self._recording = Role(database, statement_timeout_s=timeout_s, setup=self._record.setup)
        # Two connections: what goes straight to the sender tells nobody and waits for nobody.
        self._ingest = Ingest(tables)
        self._ingesting = Role(
            database,
            statement_timeout_s=timeout_s,
            patience_s=COLD_LIMIT_S,
            awaits_restart=True,
            setup=f"SET lock_timeout = {LOCK_MS}",
        )
        self._straight = GoingStraight(database, settings, self._record, self._ingest)
        self._going_straight = self._straight.role
        self._row = 0
        now = "COALESCE($1, clock_timestamp())"
        self._enrol = (
            f"INSERT INTO {name('dispatchers')} (name, started_at, leased_until)"
            f" VALUES ($2, {now}, {now} + $3) RETURNING row_id"
        )
        self._renew = (
            f"UPDATE {name('dispatchers')} SET leased_until = {now} + $3"
            f" WHERE row_id = $2 AND leased_until > {now} RETURNING row_id"
        )
        self._retire = f"DELETE FROM {name('dispatchers')} WHERE row_id = $1"
        self._forget = f"DELETE FROM {name('dispatchers')} WHERE leased_until < {now} - interval '1 hour'"
        sending = f"""
            SELECT d.row_id, d.endpoint_row, d.dispatcher_row, d.attempts, d.failures, d.interruptions, d.lane,
                   d.updated_at, d.progress_of
            FROM {name("deliveries")} d
            WHERE d.state = 'sending'
        """
        self._claimed = f"{sending} AND d.dispatcher_row = $1"
        self._orphans = f"""
            {sending} AND d.updated_at >= COALESCE(to_timestamp($3::float8), '-infinity') AND (
                NOT EXISTS (
                    SELECT FROM {name("dispatchers")} o WHERE o.row_id = d.dispatcher_row AND o.leased_until > {now}
                )
                OR d.updated_at < {now} - {LONGER_THAN_ANY_ATTEMPT_S} * interval '1 second'
            ) LIMIT $2
        """
        self._release = f"""
            UPDATE {name("deliveries")} d
            SET state = CASE WHEN r.superseded_by IS NULL THEN 'pending' ELSE 'superseded' END,
                reason = CASE WHEN r.superseded_by IS NOT NULL THEN 'superseded' END,
                superseded_by = r.superseded_by,
                attempts = d.attempts - 1, dispatcher_row = NULL, updated_at = {now}
            FROM (
                SELECT r.*, {took_its_place(name, "c")} AS superseded_by
                FROM unnest($2::bigint[], $3::int[]) AS r(row_id, attempt)
                JOIN {name("deliveries")} c ON c.row_id = r.row_id
            ) r
            WHERE d.row_id = r.row_id AND d.state = 'sending' AND d.attempts = r.attempt AND d.dispatcher_row = $4
            RETURNING d.endpoint_row, d.fresh, d.row_id
        """
        self._make_due = f"""
            UPDATE {name("deliveries")} d SET due_at = NULL
            WHERE d.row_id = ANY(ARRAY(
                SELECT row_id FROM {name("deliveries")}
                WHERE state = 'pending' AND due_at IS NOT NULL AND due_at <= (SELECT {now})
                  AND due_at >= COALESCE($3::timestamptz, '-infinity')
                ORDER BY due_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
            )) RETURNING endpoint_row, fresh, row_id
        """
        self._next_due = f"""
            SELECT extract(epoch FROM due_at - {now})::float8, {now} - interval '{UNSEEN_S} s',
                   extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
            FROM (SELECT min(due_at) AS due_at FROM {name("deliveries")}
                  WHERE state = 'pending' AND due_at IS NOT NULL AND due_at >= COALESCE($2::timestamptz, '-infinity')
                  OFFSET 0) AS next
        """
        self._passable = f"""
            SELECT d.row_id, d.lane, d.endpoint_row FROM {name("deliveries")} d
            WHERE d.state = 'pending' AND d.hold_until IS NOT NULL AND NOT d.late AND d.hold_until <= (SELECT {now})
              AND EXISTS (
                  SELECT FROM {name("deliveries")} b WHERE b.lane = d.lane AND b.endpoint_row = d.endpoint_row
                  AND b.lane IS NOT NULL AND b.state IN ('pending', 'sending') AND NOT b.late
                  AND b.sequence > d.sequence
              )
            ORDER BY d.hold_until LIMIT $2
        """
        self._pass = f"""
            UPDATE {name("deliveries")} SET late = true, waiting = false
            WHERE row_id = ANY($1) AND state = 'pending' AND NOT late RETURNING lane, endpoint_row, fresh, row_id
        """
        self._busy = f"UPDATE {name('wakeup')} SET busy_until = clock_timestamp() + $1"

    @property
    def dispatcher_row(self) -> int:
        return self._row

    async def enrol(self, name: str, lease_s: float) -> None:
        now, lease = self._database.literal_now(), timedelta(seconds=lease_s)

        async def work(driver: Driver) -> int:
            await driver.execute(self._forget, now)
            row: int = await driver.fetchval(self._enrol, now, name, lease)
            return row

        self._row = await self._leasing.run(work)

    async def heartbeat(self, lease_s: float) -> bool:
        now = self._database.literal_now()
        renewed = await self._leasing.run(
            lambda driver: driver.fetchval(self._renew, now, self._row, timedelta(seconds=lease_s))
        )
        return renewed is not None

    async def retire(self) -> None:
        await self._leasing.run(lambda driver: driver.execute(self._retire, self._row))

    async def fan_out(self, limit: int, straight: Straight | None = None) -> FannedOut:
        now = self._database.literal_now()
        if straight is not None and (gone := await self._straight.fan_out(limit, straight, self._row, now)) is not None:
            done, came_back = gone
            self._came_back(came_back)
            return done
        fanned_out = await self._fanning.transact(lambda driver: self._fan_out.run(driver, limit, now))
        self._came_back(self._fan_out.committed())
        return fanned_out

    async def fan_out_one(self) -> FannedOut:
        now = self._database.literal_now()

        fanned_out = await self._fanning.transact(lambda driver: self._fan_out.run_one(driver, now))
        self._came_back(self._fan_out.committed())
        return fanned_out

    async def claim(self, limit: int, ended: Sequence[tuple[int, int]] = ()) -> ClaimedBatch:
        now = self._database.literal_now()

        return await self._claiming.run(lambda driver: self._claim.run(driver, limit, self._row, now, ended))

    async def ingest(self, groups: Sequence[Group], straight: Straight | None) -> Ingested:
        now = self._database.literal_now()
        if straight is not None and (done := await self._straight.run(groups, straight, self._row, now)) is not None:
            ingested, came_back = done
            self._came_back(came_back)
            return ingested
        try:
            found, new = await self._ingesting.transact(
                lambda driver: self._ingest.together(driver, groups, now), one_statement=independent(groups)
            )
        except (Apart, Held, *REFUSALS) as error:
            if isinstance(error, Held) and len(groups) == 1:
                raise
            found, new = await self._ingesting.transact(lambda driver: self._ingest.apart(driver, groups, now))
        return Ingested(found, new)

    def _came_back(self, rows: CameBack) -> None:
        """What was committed lets these be claimed (again)."""
        self._claim.marks.came_back(rows)
        self._straight.came_back(rows)

    async def record(self, batch: Sequence[Finished]) -> Recorded:
        now = self._database.literal_now()
        if all_well(batch):
            recorded, came_back = await self._recording.transact(
                lambda driver: self._record.all_delivered(driver, batch, now), one_statement=True
            )
        else:
            recorded, came_back = await self._recording.transact(lambda driver: self._record.run(driver, batch, now))
        self._came_back(came_back)
        return recorded

    async def release(self, batch: Sequence[Claimed]) -> None:
        now = self._database.literal_now()
        rows, attempts = [claimed.delivery_row for claimed in batch], [claimed.attempt for claimed in batch]
        in_lane = [(claimed.lane, claimed.endpoint_row) for claimed in batch if claimed.lane is not None]
        jobs = {lane for lane, _ in in_lane} | {c.progress_of for c in batch if c.progress_of is not None}

        async def work(driver: Driver) -> CameBack:
            await self._record.lock_jobs(driver, jobs)
            released = await driver.fetch(self._release, now, rows, attempts, self._row)
            await self._record.hold_back(
                driver, [claimed.delivery_row for claimed in batch if claimed.lane is not None]
            )
            freed, _ = await self._record.free_heads(driver, in_lane, now)
            return [*freed, *(((row[0], row[1]), row[2]) for row in released)]

        self._came_back(await self._recording.transact(work))

    async def make_due(self, limit: int) -> tuple[int, float | None]:
        now = self._database.literal_now()

        async def work(driver: Driver) -> tuple[int, float | None]:
            in_full = self._looks_for_due.in_full()
            since = None if in_full else self._due_since
            made = await driver.fetch(self._make_due, now, limit, since)
            # One statement, and so committed.
            self._came_back([((row[0], row[1]), row[2]) for row in made])
            next_s, seen_to, looked_s = await driver.fetchrow(self._next_due, now, since)
            if in_full:
                self._looks_for_due.took(looked_s)
            self._looks_for_due.left(len(made))
            if len(made) < limit:
                self._due_since = seen_to
            return len(made), next_s

        return await self._housekeeping.run(work)

    async def pass_lanes(self, limit: int) -> int:
        now = self._database.literal_now()

        async def work(driver: Driver) -> tuple[int, CameBack]:
            passable = await driver.fetch(self._passable, now, limit)
            if not passable:
                return 0, ()
            await self._record.lock_jobs(driver, {row[1] for row in passable})
            passed = await driver.fetch(self._pass, [row[0] for row in passable])
            freed, _ = await self._record.free_heads(driver, [(row[0], row[1]) for row in passed], now)
            return len(passed), [*freed, *(((row[1], row[2]), row[3]) for row in passed)]

        passed, came_back = await self._housekeeping.transact(work)
        self._came_back(came_back)
        return passed

    async def orphans(self, limit: int) -> Sequence[Orphan]:
        now = self._database.literal_now()
        # An orphan is in flight, so that the claim, which looks in full now and then, has seen it.
        since = None if self._claim.looks.in_full() else self._claim.flight_since
        rows = await self._housekeeping.run(lambda driver: driver.fetch(self._orphans, now, limit, since))
        return [Orphan(*row) for row in rows]

    async def claimed(self) -> Sequence[Orphan]:
        rows = await self._housekeeping.run(lambda driver: driver.fetch(self._claimed, self._row))
        return [Orphan(*row) for row in rows]

    async def busy(self, seconds: float) -> None:
        await self._housekeeping.run(lambda driver: driver.execute(self._busy, timedelta(seconds=seconds)))

    async def watch(self, queued: Callable[[], None], wake: Callable[[], None]) -> None:
        def heard(payload: str) -> None:
            (queued if payload == QUEUED else wake)()

        await listen(self._database, self._database.tables.channel, heard)

    async def close(self) -> None:
        for role in (
            self._fanning,
            self._claiming,
            self._recording,
            self._housekeeping,
            self._leasing,
            self._ingesting,
            self._going_straight,
        ):
            await role.discard()
