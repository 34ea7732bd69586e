"""A job's numbered events: read behind a sequence, and asked in one statement which of many jobs have moved."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Select, and_, case, exists, func, literal, or_, select, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.store.database import Database
from dispatcher.store.tables import DatabaseNow, Tables

#: How many of a tenant's queued events are looked through for a job that was never numbered.
QUEUE_LOOKED_THROUGH = 10_000


async def find_job(connection: AsyncConnection, tables: Tables, tenant: str, job_id: str) -> Row[Any] | None:
    """The job's row; null until a first event of it was numbered."""
    jobs = tables.jobs.c
    return (
        await connection.execute(select(tables.jobs).where(jobs.tenant == tenant, jobs.job_id == job_id))
    ).one_or_none()


async def events_behind(
    connection: AsyncConnection, tables: Tables, job_row: int, after: int, limit: int
) -> Sequence[Row[Any]]:
    """Up to `limit` events with a higher `sequence` than `after`, in its order; those that retention dropped are not
    there. A range of the key of `job_events`, however many events the job has.
    """
    numbered, events = tables.job_events.c, tables.events.c
    # The range and its end first: with a join beside them a planner may sort the whole job.
    part = (
        select(numbered.sequence, numbered.event_row)
        .where(numbered.job_row == job_row, numbered.sequence > after)
        .order_by(numbered.sequence)
        .limit(limit)
        .subquery()
    )
    statement: Select[Any] = (
        select(part.c.sequence, events.id, events.type, events.timestamp, events.data)
        .join_from(part, tables.events, events.row_id == part.c.event_row)
        .order_by(part.c.sequence)
    )
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows


async def queued_events(connection: AsyncConnection, tables: Tables, tenant: str, job_id: str) -> int:
    """How many events of the job wait to be numbered, among the tenant's oldest `QUEUE_LOOKED_THROUGH`."""
    queue, events = tables.fanout_queue.c, tables.events.c
    oldest = (
        select(queue.event_row)
        .where(queue.tenant == tenant)
        .order_by(queue.event_row)
        .limit(QUEUE_LOOKED_THROUGH)
        .subquery()
    )
    counted: int = (
        await connection.execute(
            select(func.count())
            .select_from(oldest)
            .join(tables.events, and_(events.row_id == oldest.c.event_row, events.job_id == job_id))
        )
    ).scalar_one()
    return counted


async def is_mentioned(connection: AsyncConnection, tables: Tables, tenant: str, job_id: str) -> bool:
    """Whether a callback of the job is registered or an event of it waits to be numbered."""
    endpoints = tables.endpoints.c
    registered = exists().where(
        endpoints.tenant == tenant, endpoints.job_id == job_id, endpoints.job_id.is_not(None),
        endpoints.deleted_at.is_(None),
    )  # fmt: skip
    if (await connection.execute(select(case((registered, 1), else_=0)))).scalar_one():
        return True
    return await queued_events(connection, tables, tenant, job_id) > 0


async def moved_jobs(
    connection: AsyncConnection, tables: Tables, watched: Iterable[tuple[str, str, int]]
) -> Sequence[tuple[str, str]]:
    """Of (tenant, job, sequence), those jobs that have a higher sequence, or have settled: one statement for all."""
    jobs = tables.name("jobs")
    if connection.dialect.name == "sqlite":
        tenant, job_id, sequence = (f"json_extract(w.value, '$[{place}]')" for place in range(3))
        found = f"json_each(:watched) w CROSS JOIN {jobs} j ON j.tenant = {tenant} AND j.job_id = {job_id}"
    else:
        # `OFFSET 0` has each looked up by the index; else the planner would rather read all jobs, up to some thousands.
        sequence = "CAST(w ->> 2 AS bigint)"
        found = (
            "jsonb_array_elements(CAST(:watched AS jsonb)) w CROSS JOIN LATERAL"
            f" (SELECT * FROM {jobs} j WHERE j.tenant = w ->> 0 AND j.job_id = w ->> 1 OFFSET 0) j"
        )
    statement = text(
        f"SELECT j.tenant, j.job_id FROM {found} WHERE j.last_sequence > {sequence} OR j.settled_at IS NOT NULL"
    )
    rows = await connection.execute(statement, {"watched": msgspec.json.encode(list(watched)).decode()})
    return [(row.tenant, row.job_id) for row in rows]


async def announce_readers(connection: AsyncConnection, database: Database, seconds: float) -> None:
    """PostgreSQL: for so long, every fan-out notifies `readers_channel` of the jobs that it numbered."""
    wakeup = database.tables.wakeup
    until = DatabaseNow() + literal(timedelta(seconds=seconds))
    later = or_(wakeup.c.readers_until.is_(None), wakeup.c.readers_until < until)
    await connection.execute(wakeup.update().where(later).values(readers_until=until))


async def listen_for_numbered(database: Database, heard: Callable[[Sequence[int]], None]) -> None:
    """Calls `heard` with the rows of jobs that any process numbered, with none for *any job*; until it is cancelled.

    On SQLite there is nothing to hear: the process that serves is the one that numbers.
    """
    if database.dialect == "sqlite":
        return
    # Only here: the driver is an extra, and SQLite needs none of it.
    from dispatcher.store.postgres.wakeup import listen

    await listen(
        database,
        database.tables.readers_channel,
        lambda payload: heard([int(row) for row in payload.split(",")] if payload else []),
    )
