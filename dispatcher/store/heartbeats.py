"""Heartbeats: what endpoints with a `heartbeat_s` are sent when they were sent nothing else for so long.

The hot path does not know of them: an endpoint is looked at when its time may have come, and what was sent to it
meanwhile puts that off. Of each endpoint the last heartbeat is kept, and no older one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, bindparam, exists, literal_column, select, text, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.ids import Kind, public_id
from dispatcher.rules import own_events as rules
from dispatcher.store.columns import UtcTime
from dispatcher.store.database import Database
from dispatcher.store.own_events import insert_deliveries, insert_unfanned
from dispatcher.store.retention import forget_events

# Written as the partial indexes are declared: a parameter in place of a word would hide the index from the planner.
_BEATS = "status = 'enabled' AND heartbeat_due_at IS NOT NULL"
_SENDING = "state = 'sending'"
_CLAIMABLE = "state = 'pending' AND due_at IS NULL AND NOT waiting"
#: Among so many of an endpoint's newest deliveries the last that was attempted is looked for.
_NEWEST = 20


def due(database: Database, now: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that the time of an endpoint may have come."""
    e = database.tables.endpoints.c
    return exists(select(e.row_id).where(text(_BEATS), e.heartbeat_due_at <= now))


async def send_due(connection: AsyncConnection, database: Database, limit: int) -> tuple[int, int]:
    """Makes a heartbeat for each endpoint that was sent nothing for its `heartbeat_s`, and puts off the others' time.

    Looks at up to `limit` endpoints; answers at how many, and how many heartbeats it made. While something is on its
    way to an endpoint, or can go at once, it is made none: so one waits at most.
    """
    tables = database.tables
    now: datetime = (await connection.execute(select(database.now()))).scalar_one()
    looked_at = await _whose_time_may_have_come(connection, database, now, limit)
    silent, next_looks = [], []
    for row in looked_at:
        busy = row.sending or row.claimable or (row.expires_at is not None and row.expires_at <= now)
        due_at = rules.heartbeat_due_at([now if busy else row.sent_at, row.created_at], now, row.heartbeat_s)
        if due_at <= now:
            silent.append(row)
            due_at = rules.heartbeat_due_at([now], now, row.heartbeat_s)
        next_looks.append({"endpoint": row.row_id, "due_at": due_at})
    if next_looks:
        e = tables.endpoints.c
        put_off = update(tables.endpoints).where(e.row_id == bindparam("endpoint"))
        await connection.execute(put_off.values(heartbeat_due_at=bindparam("due_at")), next_looks)
    if silent:
        await _send(connection, database, silent, now)
    return len(looked_at), len(silent)


async def _whose_time_may_have_come(
    connection: AsyncConnection, database: Database, now: datetime, limit: int
) -> Sequence[Row[Any]]:
    """Endpoints, locked; whether something is under way to each, and when the last that was attempted was sent."""
    tables = database.tables
    e = tables.endpoints.c
    sent_at = f"""(
        SELECT max(newest.updated_at) FROM (
            SELECT n.updated_at, n.attempts FROM {tables.name("deliveries")} n
            WHERE n.endpoint_row = {tables.name("endpoints")}.row_id ORDER BY n.row_id DESC LIMIT {_NEWEST}
        ) newest WHERE newest.attempts > 0)"""
    found = await connection.execute(
        select(
            e.row_id,
            e.tenant,
            e.heartbeat_s,
            e.heartbeat_event,
            e.created_at,
            e.expires_at,
            _there_is(database, "deliveries_sending", _SENDING).label("sending"),
            _there_is(database, "deliveries_claim", _CLAIMABLE).label("claimable"),
            literal_column(sent_at, UtcTime()).label("sent_at"),
        )
        .where(text(_BEATS), e.heartbeat_due_at <= now)
        .order_by(e.heartbeat_due_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True, of=tables.endpoints)
    )
    return found.all()


def _there_is(database: Database, index: str, which: str) -> ColumnElement[bool]:
    """Whether there is such a delivery to an endpoint: by that index, never by its whole history."""
    name, prefix = database.tables.name, database.tables.prefix
    by = f'INDEXED BY "ix_{prefix}{index}"' if database.dialect == "sqlite" else ""
    return literal_column(
        f"""EXISTS (SELECT 1 FROM {name("deliveries")} d {by}
                    WHERE d.endpoint_row = {name("endpoints")}.row_id AND {which})""",
        Boolean(),
    )


async def _send(connection: AsyncConnection, database: Database, silent: Sequence[Row[Any]], now: datetime) -> None:
    """Makes the heartbeats, and forgets those before them."""
    endpoints = database.tables.endpoints
    made = await insert_unfanned(
        connection, database, [(row.tenant, rules.HEARTBEAT, _data(row), now) for row in silent], now
    )
    pairs = list(zip(made, silent, strict=True))
    await insert_deliveries(
        connection, database, [(event_row, row.row_id, row.tenant) for event_row, row in pairs], now
    )
    await connection.execute(
        update(endpoints).where(endpoints.c.row_id == bindparam("endpoint")).values(heartbeat_event=bindparam("event")),
        [{"endpoint": row.row_id, "event": event_row} for event_row, row in pairs],
    )
    before = [row.heartbeat_event for row in silent if row.heartbeat_event is not None]
    await forget_events(connection, database, before)


def _data(row: Row[Any]) -> str:
    return rules.heartbeat(endpoint_id=public_id(Kind.ENDPOINT, row.row_id), heartbeat_s=row.heartbeat_s)
