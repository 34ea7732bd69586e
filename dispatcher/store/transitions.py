"""The transitions that people ask for, one statement set for both databases: redeliver and cancel.

They join lanes as the engine does: under the lock of the job's row, the first living delivery of a lane may go
and everything behind it waits.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import DeliveryState, EndpointStatus, EventKind, Reason
from dispatcher.store.database import Database
from dispatcher.store.progress import Progress, newer_published, newer_under_way, newest, pace, supersede_older
from dispatcher.store.tables import Tables


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of one (event, endpoint) that was asked to be sent again."""

    event_row: int
    endpoint_row: int
    delivery_row: int | None
    #: `unavailable`: the endpoint is disabled or deleted, or the event is gone. Of progress, `settled`: its job has
    #: settled; `stale`: newer progress has taken its place.
    outcome: Literal["put_back", "sending", "pending", "unavailable", "settled", "stale"]
    #: Attempts that were made before.
    attempts: int = 0


async def put_back(
    connection: AsyncConnection, database: Database, pairs: Sequence[tuple[int, int]], *, newest_only: bool = False
) -> list[PutBack]:
    """delivered | dead | cancelled | superseded → pending, a new round; makes the delivery where there was none.

    Marks its dead letters as redelivered. Not so progress of a job that has settled, or while newer progress of its
    job and type is pending or sending at the endpoint; with `newest_only` not so either where newer was published at
    all. At most some hundred pairs at a time.
    """
    tables, now = database.tables, database.now()
    d, numbered = tables.deliveries.c, tables.job_events.c
    event_rows = sorted({event_row for event_row, _ in pairs})
    jobs = select(numbered.job_row).where(numbered.event_row.in_(event_rows))
    await lock_jobs(connection, tables, (await connection.execute(jobs)).scalars())
    facts = await _facts(connection, tables, pairs)
    standing = {
        (row.event_row, row.endpoint_row): row
        for row in await connection.execute(
            select(d.row_id, d.event_row, d.endpoint_row, d.state, d.attempts, d.lane)
            # The rows alone are what SQLite finds by an index.
            .where(d.event_row.in_(event_rows), tuple_(d.event_row, d.endpoint_row).in_(list(pairs)))
            .order_by(d.row_id)
            .with_for_update(key_share=True)
        )
    }
    under_way = {pair for pair, row in standing.items() if row.state in (DeliveryState.SENDING, DeliveryState.PENDING)}
    stale = {
        pair
        for pair, fact in facts.items()
        if fact.kind == EventKind.PROGRESS and (fact.newer_under_way or (newest_only and fact.newer_published))
    }
    candidates = {
        pair: Progress(fact.event_row, fact.type, fact.endpoint_row, fact.job_row, fact.sequence)
        for pair, fact in facts.items()
        if fact.kind == EventKind.PROGRESS and pair not in under_way | stale
    }
    stale |= candidates.keys() - newest(candidates.values())
    outcomes: list[PutBack] = []
    revived: list[int] = []
    progress: list[Progress] = []
    lanes: set[tuple[int, int]] = set()
    for pair in pairs:
        fact, row = facts.get(pair), standing.get(pair)
        if fact is None or fact.status == EndpointStatus.DISABLED or fact.deleted_at is not None:
            outcomes.append(PutBack(*pair, row.row_id if row else None, "unavailable"))
        elif row is not None and pair in under_way:
            outcomes.append(PutBack(*pair, row.row_id, "sending" if row.state == DeliveryState.SENDING else "pending"))
        elif fact.kind == EventKind.PROGRESS and (fact.settled_by is not None or pair in stale):
            refused: Literal["settled", "stale"] = "stale" if fact.settled_by is None else "settled"
            outcomes.append(PutBack(*pair, row.row_id if row else None, refused))
        elif row is None:
            lane = fact.job_row if fact.ordered else None
            made = await connection.execute(
                insert(tables.deliveries)
                .values(
                    event_row=pair[0],
                    endpoint_row=pair[1],
                    tenant=fact.tenant,
                    lane=lane,
                    sequence=fact.sequence,
                    progress_of=fact.job_row if pair in candidates else None,
                    waiting=lane is not None,
                    fresh=False,
                    created_at=now,
                    updated_at=now,
                )
                .returning(d.row_id)
            )
            outcomes.append(PutBack(*pair, made.scalar_one(), "put_back"))
            if lane is not None:
                lanes.add((lane, pair[1]))
            if pair in candidates:
                progress.append(candidates[pair])
        else:
            outcomes.append(PutBack(*pair, row.row_id, "put_back", row.attempts))
            revived.append(row.row_id)
            if row.lane is not None:
                lanes.add((row.lane, pair[1]))
            if pair in candidates:
                progress.append(candidates[pair])
    if revived:
        await connection.execute(
            update(tables.deliveries)
            .where(d.row_id.in_(revived), d.state.not_in((DeliveryState.SENDING, DeliveryState.PENDING)))
            .values(
                state=DeliveryState.PENDING,
                reason=None,
                superseded_by=None,
                due_at=None,
                waiting=d.lane.is_not(None),
                fresh=False,
                late=False,
                hold_until=None,
                replay=or_(d.attempts > 0, d.replay),
                failures=0,
                interruptions=0,
                updated_at=now,
            )
        )
        letters = tables.dead_letters
        await connection.execute(
            update(letters)
            .where(letters.c.delivery_row.in_(revived), letters.c.redelivered_at.is_(None))
            .values(redelivered_at=now)
        )
    lanes |= await supersede_older(connection, database, progress)
    await settle_lanes(connection, database, lanes)
    await pace(connection, database, {(one.job_row, one.endpoint_row) for one in progress} - lanes)
    return outcomes


async def cancel_delivery(connection: AsyncConnection, database: Database, delivery_row: int, reason: Reason) -> bool:
    """pending → cancelled; false when it is not pending."""
    d = database.tables.deliveries.c
    lane = (await connection.execute(select(d.lane).where(d.row_id == delivery_row))).scalar_one_or_none()
    return await _cancel(connection, database, [delivery_row], [] if lane is None else [lane], reason) > 0


async def cancel_endpoint(
    connection: AsyncConnection, database: Database, endpoint_row: int, reason: Reason, limit: int = 1000
) -> int:
    """pending → cancelled for up to `limit` deliveries of an endpoint; answers how many."""
    d = database.tables.deliveries.c
    rows = (
        await connection.execute(
            select(d.row_id, d.lane)
            .where(d.endpoint_row == endpoint_row, d.state == DeliveryState.PENDING)
            .order_by(d.row_id)
            .limit(limit)
        )
    ).all()
    if not rows:
        return 0
    lanes = {row.lane for row in rows if row.lane is not None}
    return await _cancel(connection, database, [row.row_id for row in rows], lanes, reason)


async def _cancel(
    connection: AsyncConnection, database: Database, delivery_rows: Sequence[int], jobs: Iterable[int], reason: Reason
) -> int:
    tables = database.tables
    d = tables.deliveries.c
    await lock_jobs(connection, tables, jobs)
    cancelled = (
        await connection.execute(
            update(tables.deliveries)
            .where(d.row_id.in_(delivery_rows), d.state == DeliveryState.PENDING)
            .values(state=DeliveryState.CANCELLED, reason=reason, due_at=None, updated_at=database.now())
            .returning(d.lane, d.endpoint_row)
        )
    ).all()
    await settle_lanes(connection, database, {(row[0], row[1]) for row in cancelled if row[0] is not None})
    return len(cancelled)


async def _facts(
    connection: AsyncConnection, tables: Tables, pairs: Sequence[tuple[int, int]]
) -> Mapping[tuple[int, int], Any]:
    e, event, je, j = tables.endpoints.c, tables.events.c, tables.job_events.c, tables.jobs.c
    rows = await connection.execute(
        select(
            event.row_id.label("event_row"),
            e.row_id.label("endpoint_row"),
            e.tenant,
            e.status,
            e.ordered,
            e.deleted_at,
            event.type,
            je.job_row,
            je.sequence,
            je.kind,
            j.settled_by,
            newer_under_way(tables).label("newer_under_way"),
            newer_published(tables).label("newer_published"),
        )
        .select_from(
            tables.events.join(tables.endpoints, e.tenant == event.tenant)
            .outerjoin(tables.job_events, je.event_row == event.row_id)
            .outerjoin(tables.jobs, j.row_id == je.job_row)
        )
        .where(event.row_id.in_({row for row, _ in pairs}), tuple_(event.row_id, e.row_id).in_(list(pairs)))
    )
    return {(row.event_row, row.endpoint_row): row for row in rows}


async def lock_jobs(connection: AsyncConnection, tables: Tables, job_rows: Iterable[int]) -> None:
    """Takes the locks of these jobs' lanes, in the order in which fan-out takes them."""
    rows = set(job_rows)
    if rows:
        j = tables.jobs.c
        await connection.execute(
            select(j.row_id).where(j.row_id.in_(rows)).order_by(j.tenant, j.job_id).with_for_update(key_share=True)
        )


async def settle_lanes(connection: AsyncConnection, database: Database, lanes: Collection[tuple[int, int]]) -> None:
    """Lets the first living delivery of each lane (job and endpoint) go and the others wait; the jobs are locked."""
    tables = database.tables
    d = tables.deliveries.c
    for lane, endpoint_row in sorted(lanes):
        here = and_(d.lane == lane, d.endpoint_row == endpoint_row, d.lane.is_not(None), d.late.is_(False))
        head = (
            select(func.min(d.sequence))
            .where(here, d.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)))
            .scalar_subquery()
        )
        await connection.execute(
            update(tables.deliveries)
            .where(here, d.state == DeliveryState.PENDING, d.waiting.is_(False), d.sequence > head)
            .values(waiting=True)
        )
        await connection.execute(
            update(tables.deliveries)
            .where(here, d.state == DeliveryState.PENDING, d.waiting.is_(True), d.sequence == head)
            .values(waiting=False)
        )
    await pace(connection, database, lanes)
