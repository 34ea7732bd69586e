"""Retention: what has settled long ago goes, in small batches, oldest first; dead letters stay longer."""

from collections.abc import Sequence
from datetime import date, datetime

from sqlalchemy import Connection, delete, exists, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.states import DeliveryState
from dispatcher.store.database import Database
from dispatcher.store.partitions import list_partitions
from dispatcher.store.tables import Tables

#: Rows in one transaction.
BATCH = 1000
_LIVE = (DeliveryState.PENDING, DeliveryState.SENDING)


async def drop_events(connection: AsyncConnection, database: Database, before: datetime, after_row: int) -> int:
    """Deletes one batch of events that are older than `before`, with their deliveries, attempts and numbers.

    Keeps what still waits, and what a dead letter can redeliver. Looks at rows behind `after_row`; answers the last
    row that it looked at (0: there is nothing more).
    """
    event = database.tables.events.c
    looked_at = (
        await connection.execute(
            select(event.row_id, event.created_at).where(event.row_id > after_row).order_by(event.row_id).limit(BATCH)
        )
    ).all()
    old = [row.row_id for row in looked_at if row.created_at < before]
    if not old:
        return 0
    await forget_events(connection, database, old)
    return old[-1] if len(old) == len(looked_at) == BATCH else 0


async def forget_events(connection: AsyncConnection, database: Database, event_rows: Sequence[int]) -> None:
    """Deletes events with their deliveries, attempts and numbers.

    Keeps what still waits, and what a dead letter can redeliver.
    """
    tables = database.tables
    event, d, letters = tables.events.c, tables.deliveries.c, tables.dead_letters.c
    kept = set(
        (
            await connection.execute(
                select(d.event_row)
                .where(d.event_row.in_(event_rows), d.state.in_(_LIVE))
                .union(
                    select(letters.event_row).where(letters.event_row.in_(event_rows)),
                    select(tables.fanout_queue.c.event_row).where(tables.fanout_queue.c.event_row.in_(event_rows)),
                )
            )
        ).scalars()
    )
    gone = [row for row in event_rows if row not in kept]
    if gone:
        if database.dialect == "sqlite":
            rows = select(d.row_id).where(d.event_row.in_(gone))
            await connection.execute(delete(tables.attempts).where(tables.attempts.c.delivery_row.in_(rows)))
        await connection.execute(delete(tables.deliveries).where(d.event_row.in_(gone)))
        await connection.execute(delete(tables.job_events).where(tables.job_events.c.event_row.in_(gone)))
        rejected = tables.rejected_events
        await connection.execute(delete(rejected).where(rejected.c.event_row.in_(gone)))
        await connection.execute(delete(tables.events).where(event.row_id.in_(gone)))


async def drop_dead_letters(connection: AsyncConnection, database: Database, before: datetime) -> int:
    """Deletes one batch of dead letters that are older than `before`; answers how many."""
    letters = database.tables.dead_letters
    old = select(letters.c.row_id).where(letters.c.created_at < before).order_by(letters.c.row_id).limit(BATCH)
    return (await connection.execute(delete(letters).where(letters.c.row_id.in_(old)))).rowcount


async def drop_jobs(connection: AsyncConnection, database: Database, before: datetime) -> int:
    """Deletes one batch of jobs that nothing was published about since `before` and no event of which is left."""
    tables = database.tables
    j = tables.jobs.c
    left = exists().where(tables.job_events.c.job_row == j.row_id)
    old = select(j.row_id).where(j.updated_at < before, ~left).limit(BATCH)
    # Said once more of the row itself: fan-out may have it, and then it is looked at again when that has committed.
    still_old = delete(tables.jobs).where(j.row_id.in_(old), j.updated_at < before)
    return (await connection.execute(still_old)).rowcount


async def drop_endpoints(connection: AsyncConnection, database: Database, before: datetime) -> int:
    """Deletes one batch of endpoints that were deleted before `before` and that no delivery names any more."""
    tables = database.tables
    e = tables.endpoints.c
    named = exists().where(tables.deliveries.c.endpoint_row == e.row_id)
    buried = exists().where(tables.dead_letters.c.endpoint_row == e.row_id)
    old = select(e.row_id).where(e.deleted_at < before, ~named, ~buried).limit(BATCH)
    return (await connection.execute(delete(tables.endpoints).where(e.row_id.in_(old)))).rowcount


async def drop_runs(connection: AsyncConnection, database: Database, before: datetime) -> int:
    """Deletes one batch of bulk redeliveries that ended before `before`, with their items."""
    runs = database.tables.redeliveries
    old = select(runs.c.row_id).where(runs.c.finished_at < before).limit(10)
    return (await connection.execute(delete(runs).where(runs.c.row_id.in_(old)))).rowcount


def drop_attempts(connection: Connection, tables: Tables, before: date) -> int:
    """PostgreSQL: drops the attempt log's partitions of the days before `before`; answers how many."""
    old = [name for day, name in list_partitions(connection, tables) if day < before]
    for name in old:
        connection.execute(text(f"DROP TABLE {name}"))
    return len(old)


async def drop_retired_secrets(connection: AsyncConnection, database: Database) -> int:
    """Deletes secrets whose overlap has ended: they sign nothing any more."""
    dropped = 0
    for secrets in (database.tables.endpoint_secrets, database.tables.tenant_secrets):
        ended = delete(secrets).where(secrets.c.retires_at.is_not(None), secrets.c.retires_at <= database.now())
        dropped += (await connection.execute(ended)).rowcount
    return dropped
