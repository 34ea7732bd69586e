"""Recording outcomes on PostgreSQL: fenced, in sets, with the lanes and endpoints they touch."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from dispatcher.rules.verdict import Outcome
from dispatcher.states import DeliveryState
from dispatcher.store.hot import Finished, Limits, Recorded
from dispatcher.store.own_events import to_tell
from dispatcher.store.postgres.connection import Driver, integers
from dispatcher.store.postgres.learnt import NOW, Learnt
from dispatcher.store.postgres.marks import CameBack
from dispatcher.store.postgres.outcomes import DELIVERED, FAILED, delivered_as_json, failed_as_json
from dispatcher.store.postgres.progress import due_as_head, took_its_place
from dispatcher.store.tables import Tables
from dispatcher.store.tally import Tally


class Record:
    """The statements of the record, for one set of tables.

    What they let be claimed (again) the claim is to be told of when it is committed, so they answer with it.
    """

    def __init__(self, tables: Tables, limits: Limits) -> None:
        name = tables.name
        now = NOW
        # By their numbers, not by the index of what is in flight: that has a dead entry for whatever lately was.
        fence = (
            "d.row_id = r.row_id AND (d.state = 'sending') IS TRUE AND d.attempts = r.attempt"
            " AND d.dispatcher_row = r.dispatcher_row"
        )
        home = name("destinations")
        # In the order in which fan-out numbers them, which knows them by name: or each would wait for the other.
        in_order = "ORDER BY tenant, job_id FOR NO KEY UPDATE"
        self._lock_jobs = f"SELECT FROM {name('jobs')} WHERE row_id = ANY($1) {in_order}"
        cap = f"(SELECT max_in_flight FROM {name('endpoints')} e WHERE e.row_id = s.endpoint_row)"
        self._endpoints = Learnt(name("endpoint_state"), "endpoint_row", f"COALESCE({cap}, {limits.per_endpoint})")
        self._destinations = Learnt(home, "row_id")
        self._verify = f"UPDATE {home} SET verified_at = {now} WHERE row_id = ANY($2) AND verified_at IS NULL"
        delivered = _delivered(tables, fence, now)
        self._delivered = f"{delivered} SELECT ARRAY(SELECT row_id FROM done)"
        healthy = self._endpoints.healthy(
            "SELECT endpoint_row AS target_row, count(*) AS successes FROM done GROUP BY endpoint_row"
        )
        all_delivered = f"{delivered}, healthy AS ({healthy})"
        self._all_delivered = f"{all_delivered} SELECT ARRAY(SELECT row_id FROM done)"
        # With lanes, too, one round trip. Its statements have a snapshot each, and those behind the lock must see
        # what fan-out did while it held it.
        self.setup = f"""
            SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan;
            CREATE OR REPLACE FUNCTION pg_temp.dispatcher_record_delivered(
                at_time timestamptz, outcomes json, lanes bigint[], endpoint_rows bigint[],
                OUT recorded bigint[], OUT freed_at bigint[], OUT freed_fresh boolean[], OUT freed bigint[],
                OUT held boolean)
            LANGUAGE plpgsql AS $body$
            BEGIN
                PERFORM FROM {name("jobs")} WHERE row_id = ANY(lanes) {in_order};
                {all_delivered} SELECT COALESCE(array_agg(row_id), '{{}}') INTO recorded FROM done;
                WITH heads AS ({_free_heads(tables, "$3", "$4", now)})
                SELECT COALESCE(array_agg(endpoint_row), '{{}}'), COALESCE(array_agg(fresh), '{{}}'),
                       COALESCE(array_agg(row_id), '{{}}'), COALESCE(bool_or(later), false)
                INTO freed_at, freed_fresh, freed, held FROM heads;
            END $body$
        """
        self._delivered_in_lanes = (
            "SELECT * FROM pg_temp.dispatcher_record_delivered($1, $2, $3::text::bigint[], $4::text::bigint[])"
        )
        self._failed = f"""
            WITH r AS ({FAILED}),
            -- What would be retried ends here when its endpoint was disabled or deleted meanwhile, and progress
            -- whose place was taken whatever came of it.
            right_to_go_on AS (
                SELECT r.row_id, {took_its_place(name, "d")} AS superseded_by,
                       CASE WHEN e.deleted_at IS NOT NULL OR e.row_id IS NULL THEN 'endpoint_deleted'
                            WHEN e.status = 'disabled' THEN e.disabled_reason END AS cancelled
                FROM r JOIN {name("deliveries")} d ON d.row_id = r.row_id
                LEFT JOIN {name("endpoints")} e ON e.row_id = d.endpoint_row
            ),
            verdict AS (
                SELECT r.*, g.superseded_by,
                       CASE WHEN g.superseded_by IS NOT NULL THEN 'superseded'
                            WHEN r.state = 'pending' AND g.cancelled IS NOT NULL THEN 'cancelled'
                            ELSE r.state END AS becomes,
                       CASE WHEN g.superseded_by IS NOT NULL THEN 'superseded'
                            WHEN r.state = 'pending' THEN g.cancelled ELSE r.reason END AS why
                FROM r JOIN right_to_go_on g USING (row_id)
            ),
            done AS (
                UPDATE {name("deliveries")} d
                SET state = r.becomes, reason = r.why, superseded_by = r.superseded_by,
                    due_at = CASE WHEN r.becomes = 'pending' AND r.delay_s > 0
                                  THEN {now} + r.delay_s * interval '1 second' END,
                    hold_until = CASE WHEN d.lane IS NOT NULL AND r.becomes = 'pending' AND r.failures > 0
                                      THEN COALESCE(d.hold_until, {now} + r.hold_s * interval '1 second')
                                      ELSE d.hold_until END,
                    dispatcher_row = NULL, failures = r.failures, interruptions = r.interruptions,
                    fresh = d.fresh AND r.failures = 0,
                    last_status = r.status, last_error = r.error, updated_at = {now}
                FROM verdict r WHERE {fence}
                RETURNING d.row_id, d.event_row, d.endpoint_row, d.tenant, d.state, d.reason, d.attempts, d.last_status,
                          d.last_error, d.due_at, d.fresh
            ),
            logged AS (
                INSERT INTO {name("attempts")}
                    (delivery_row, number, started_at, duration_ms, status, error, response_excerpt)
                SELECT r.row_id, r.attempt, r.started_at, r.duration_ms, r.status, r.error, r.excerpt
                FROM done JOIN r USING (row_id)
            ),
            buried AS (
                INSERT INTO {name("dead_letters")} (delivery_row, event_row, endpoint_row, tenant, type, job_id, reason,
                                                    attempts, last_status, last_error, created_at, untold)
                SELECT done.row_id, done.event_row, done.endpoint_row, done.tenant, COALESCE(e.type, ''), e.job_id,
                       done.reason,
                       done.attempts, done.last_status, done.last_error, {now},
                       {to_tell(name, "done.tenant", "done.endpoint_row", "COALESCE(e.type, '')")}
                FROM done LEFT JOIN {name("events")} e ON e.row_id = done.event_row WHERE done.state = 'dead'
            )
            SELECT row_id, state, state = 'pending' AND due_at IS NULL, endpoint_row, fresh FROM done
        """
        self._free_heads = _free_heads(tables, "$1", "$2", "COALESCE($3, clock_timestamp())")
        self._hold_back = f"""
            UPDATE {name("deliveries")} d SET waiting = true
            WHERE d.row_id = ANY($1) AND d.state = 'pending' AND NOT d.late AND NOT d.waiting AND EXISTS (
                SELECT FROM {name("deliveries")} h WHERE h.lane = d.lane AND h.endpoint_row = d.endpoint_row
                AND h.sequence < d.sequence AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late
            )
        """

    async def all_delivered(
        self, driver: Driver, batch: Sequence[Finished], now: datetime | None
    ) -> tuple[Recorded, CameBack]:
        """One batch that is `all_well`, in one statement and round trip."""
        in_lane = [(finished.lane, finished.endpoint_row) for finished in batch if finished.lane is not None]
        if not in_lane:
            done = await driver.fetchval(self._all_delivered, now, delivered_as_json(batch))
            return Recorded(_lost(batch, done), freed=False), ()
        lanes, endpoint_rows = integers([lane for lane, _ in in_lane]), integers([row for _, row in in_lane])
        recorded, freed_at, freed_fresh, freed, held = await driver.fetchrow(
            self._delivered_in_lanes, now, delivered_as_json(batch), lanes, endpoint_rows
        )
        came_back = list(zip(zip(freed_at, freed_fresh, strict=True), freed, strict=True))
        return Recorded(_lost(batch, recorded), freed=bool(freed), held=held), came_back

    async def run(self, driver: Driver, batch: Sequence[Finished], now: datetime | None) -> tuple[Recorded, CameBack]:
        """One batch, inside the caller's transaction."""
        lanes = {finished.lane for finished in batch if finished.lane is not None}
        # A failure asks whether its progress was superseded, which fan-out does under the same lock.
        progress = {f.progress_of for f in batch if f.progress_of is not None and f.outcome is not Outcome.DELIVERED}
        if lanes or progress:
            await self.lock_jobs(driver, lanes | progress)
        good = [finished for finished in batch if finished.outcome is Outcome.DELIVERED]
        bad = [finished for finished in batch if finished.outcome is not Outcome.DELIVERED]
        done: set[int] = set()
        superseded: frozenset[int] = frozenset()
        at_once: CameBack = ()
        if good:
            done.update(await driver.fetchval(self._delivered, now, delivered_as_json(good)))
        if bad:
            ended = await driver.fetch(self._failed, now, failed_as_json(bad))
            done.update(row for row, *_ in ended)
            superseded = frozenset(row for row, state, *_ in ended if state == DeliveryState.SUPERSEDED)
            at_once = [((endpoint_row, fresh), row) for row, _, goes, endpoint_row, fresh in ended if goes]
        kept = [finished for finished in batch if finished.delivery_row in done]
        freed, held = await self.settle_lanes(driver, kept, now) if lanes else ((), False)
        failing = await self._tally(driver, kept, now)
        return Recorded(_lost(batch, done), bool(freed), failing, superseded, held), [*freed, *at_once]

    async def lock_jobs(self, driver: Driver, jobs: Iterable[int]) -> None:
        """Takes the lanes of these jobs: fan-out holds the same rows while it decides who waits behind whom."""
        await driver.execute(self._lock_jobs, list(jobs))

    async def free_heads(
        self, driver: Driver, lanes: Sequence[tuple[int, int]], now: datetime | None
    ) -> tuple[CameBack, bool]:
        """Lets the heads of these lanes go; which had been waiting, and whether one is due later only."""
        freed = await driver.fetch(self._free_heads, [lane for lane, _ in lanes], [row for _, row in lanes], now)
        return [((row[0], row[1]), row[2]) for row in freed], any(row[3] for row in freed)

    async def hold_back(self, driver: Driver, rows: Sequence[int]) -> None:
        """Lets what came back to its lane wait if a redelivery went before it meanwhile."""
        if rows:
            await driver.execute(self._hold_back, rows)

    async def settle_lanes(
        self, driver: Driver, batch: Sequence[Finished], now: datetime | None
    ) -> tuple[CameBack, bool]:
        """Lets the heads of the batch's lanes go as `free_heads` does, and holds back what is no head any more."""
        in_lane = [finished for finished in batch if finished.lane is not None]
        if not in_lane:
            return (), False
        await self.hold_back(driver, [finished.delivery_row for finished in in_lane if finished.state == "pending"])
        return await self.free_heads(
            driver, [(finished.lane, finished.endpoint_row) for finished in batch if finished.lane is not None], now
        )

    async def _tally(self, driver: Driver, batch: Sequence[Finished], now: datetime | None) -> list[int]:
        tally = Tally.of(batch)
        if tally.destinations:
            # Before the endpoints, as the claim does.
            await self._destinations.lock(driver, tally.destinations)
            await self._destinations.note(driver, tally.destinations, now)
        if tally.verified:
            await driver.execute(self._verify, now, list(tally.verified))
        return await self._endpoints.note(driver, tally.endpoints, now)


def all_well(batch: Sequence[Finished]) -> bool:
    """Whether everything was delivered, nobody asked for a pause and no destination is new."""
    return all(
        finished.outcome is Outcome.DELIVERED and finished.pause_endpoint_s is None and not finished.watched
        for finished in batch
    )


def _delivered(tables: Tables, fence: str, now: str) -> str:
    return f"""
        WITH r AS ({DELIVERED}),
        done AS (
            UPDATE {tables.name("deliveries")} d
            SET state = 'delivered', reason = NULL, due_at = NULL, dispatcher_row = NULL, failures = 0,
                interruptions = 0, last_status = r.status, last_error = NULL, updated_at = {now}
            FROM r WHERE {fence}
            RETURNING d.row_id, d.endpoint_row
        ),
        logged AS (
            INSERT INTO {tables.name("attempts")}
                (delivery_row, number, started_at, duration_ms, status, response_excerpt)
            SELECT r.row_id, r.attempt, r.started_at, r.duration_ms, r.status, r.excerpt
            FROM done JOIN r USING (row_id)
        )
    """


def _free_heads(tables: Tables, lanes: str, endpoint_rows: str, now: str) -> str:
    # The head of a lane is the first of it that lives and was not passed: it may go, everything behind it waits.
    return f"""
        UPDATE {tables.name("deliveries")} d
        SET waiting = false, due_at = {due_as_head(tables.name, "d", now, "d.due_at")}
        FROM (SELECT DISTINCT lane, endpoint_row
              FROM unnest({lanes}::bigint[], {endpoint_rows}::bigint[]) AS l(lane, endpoint_row)) l
        CROSS JOIN LATERAL (
            SELECT h.row_id FROM {tables.name("deliveries")} h
            WHERE h.lane = l.lane AND h.endpoint_row = l.endpoint_row
              AND h.lane IS NOT NULL AND h.state IN ('pending', 'sending') AND NOT h.late ORDER BY h.sequence LIMIT 1
        ) head
        WHERE d.row_id = head.row_id AND d.waiting
        RETURNING d.endpoint_row, d.fresh, d.row_id, d.due_at IS NOT NULL AS later
    """


def _lost(batch: Sequence[Finished], done: Collection[int]) -> frozenset[int]:
    if len(done) == len(batch):
        return frozenset()
    return frozenset(finished.delivery_row for finished in batch).difference(done)
