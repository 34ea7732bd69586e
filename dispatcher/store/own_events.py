"""The dispatcher's own events: put into the outbox in the transaction of what they tell of, for who asked for them.

They need no fan-out: whoever writes one knows its endpoints, and makes the deliveries with it. So it never costs the
fan-out anything to leave out the endpoint that it is about. They are of no job, so no job's callback is told.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.ids import Kind, new_event_id, public_id
from dispatcher.rules import own_events as rules
from dispatcher.rules.event_types import RESERVED_PREFIX, patterns_for
from dispatcher.states import EndpointStatus
from dispatcher.store.database import Database

#: Deaths at one endpoint that are told of, or counted, in one transaction.
_DEATHS = 10_000
_DEATH_PATTERNS = ", ".join(f"'{pattern}'" for pattern in patterns_for(rules.DELIVERY_DEAD))


def to_tell(name: Callable[[str], str], tenant: str, endpoint_row: str, event_type: str) -> str:
    """SQL: whether a death is to be told of, since another endpoint of the tenant asked for it.

    Never of what is an event of ours already: it would make the next one.
    """
    return f"""(substr({event_type}, 1, {len(RESERVED_PREFIX)}) <> '{RESERVED_PREFIX}' AND EXISTS (
        SELECT 1 FROM {name("subscriptions")} s JOIN {name("endpoints")} about ON about.row_id = {endpoint_row}
        WHERE s.tenant = {tenant} AND s.pattern IN ({_DEATH_PATTERNS}) AND s.job_id = ''
          AND s.endpoint_row <> about.row_id
    ))"""


def untold(database: Database, _: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that deaths are to be told of."""
    return exists(select(database.tables.dead_letters.c.row_id).where(text("untold")))


async def tell_of_disabled(
    connection: AsyncConnection, database: Database, tenant: str, endpoint_row: int, data: str
) -> int:
    """Tells the tenant's other endpoints of one that was disabled in this transaction; answers how many."""
    now = await _now(connection, database)
    return await _publish(connection, database, tenant, rules.ENDPOINT_DISABLED, endpoint_row, [(data, now)], now)


async def tell_of_deaths(connection: AsyncConnection, database: Database, limit: int) -> int:
    """Tells of what died at up to `limit` endpoints; answers of how many.

    Endpoints that have been told of often lately have their turn when `deaths_to_tell` says so.
    """
    tables, now = database.tables, await _now(connection, database)
    e, letters = tables.endpoints.c, tables.dead_letters
    full = now + rules.DEATHS_AHEAD
    has_room = or_(
        e.deaths_told_until.is_(None), e.deaths_told_until <= full - rules.DEATHS_EVERY, e.deaths_told_until > full
    )
    endpoints = (
        await connection.execute(
            select(e.row_id, e.tenant, e.url_shown, e.deaths_told_until)
            .where(e.row_id.in_(select(letters.c.endpoint_row).where(text("untold"))), has_room)
            .order_by(e.row_id)
            .limit(limit)
            # Whom another process tells of just now is left to it.
            .with_for_update(key_share=True, skip_locked=True)
        )
    ).all()
    for endpoint in endpoints:
        rows = list(
            (
                await connection.execute(
                    select(letters.c.row_id)
                    .where(letters.c.endpoint_row == endpoint.row_id, text("untold"))
                    .order_by(letters.c.row_id)
                    .limit(_DEATHS)
                    # What is being redelivered just now is told of later: nobody waits for that.
                    .with_for_update(skip_locked=True)
                )
            ).scalars()
        )
        await connection.execute(update(letters).where(letters.c.row_id.in_(rows)).values(untold=False))
        told, until = rules.deaths_to_tell(endpoint.deaths_told_until, now, len(rows))
        deaths = await _deaths(connection, database, endpoint.url_shown, rows[:told], len(rows) - told)
        await _publish(connection, database, endpoint.tenant, rules.DELIVERY_DEAD, endpoint.row_id, deaths, now)
        await connection.execute(
            update(tables.endpoints).where(e.row_id == endpoint.row_id).values(deaths_told_until=until)
        )
    return len(endpoints)


async def insert_unfanned(
    connection: AsyncConnection,
    database: Database,
    events: Sequence[tuple[str, str, str, datetime]],
    now: datetime,
) -> list[int]:
    """Puts events (tenant, type, data, when it happened) into the outbox that no fan-out will see; their rows."""
    tables = database.tables
    event, queue = tables.events.c, tables.fanout_queue.c
    ids = [new_event_id() for _ in events]
    made = await connection.execute(
        insert(tables.events).returning(event.id, event.row_id),
        [
            {"id": id_, "tenant": tenant, "type": type_, "data": data, "timestamp": happened_at, "created_at": now}
            for id_, (tenant, type_, data, happened_at) in zip(ids, events, strict=True)
        ],
    )
    rows = {row.id: row.row_id for row in made}
    # The trigger has queued them.
    await connection.execute(
        delete(tables.fanout_queue).where(
            queue.tenant.in_({tenant for tenant, *_ in events}), queue.event_row.in_(rows.values())
        )
    )
    return [rows[id_] for id_ in ids]


async def insert_deliveries(
    connection: AsyncConnection, database: Database, deliveries: Iterable[tuple[int, int, str]], now: datetime
) -> None:
    """Makes deliveries (event, endpoint, tenant) that can be sent at once."""
    await connection.execute(
        insert(database.tables.deliveries),
        [
            {
                "event_row": event_row,
                "endpoint_row": endpoint_row,
                "tenant": tenant,
                "created_at": now,
                "updated_at": now,
            }
            for event_row, endpoint_row, tenant in deliveries
        ],
    )


async def _now(connection: AsyncConnection, database: Database) -> datetime:
    now: datetime = (await connection.execute(select(database.now()))).scalar_one()
    return now


async def _publish(
    connection: AsyncConnection,
    database: Database,
    tenant: str,
    event_type: str,
    about: int,
    events: Sequence[tuple[str, datetime]],
    now: datetime,
) -> int:
    """Events (data, when it happened) about an endpoint, to the tenant's others that ask for the type."""
    tables = database.tables
    s, e = tables.subscriptions.c, tables.endpoints.c
    asking = list(
        (
            await connection.execute(
                select(e.row_id)
                .join(tables.subscriptions, s.endpoint_row == e.row_id)
                .where(
                    s.tenant == tenant,
                    s.pattern.in_(patterns_for(event_type)),
                    s.job_id == "",
                    e.row_id != about,
                    # As the fan-out matches.
                    e.status.in_((EndpointStatus.ENABLED, EndpointStatus.PAUSED)),
                    e.deleted_at.is_(None),
                    or_(e.expires_at.is_(None), e.expires_at > now),
                )
                .distinct()
                .order_by(e.row_id)
            )
        ).scalars()
    )
    if not asking or not events:
        return 0
    rows = await insert_unfanned(
        connection, database, [(tenant, event_type, data, happened_at) for data, happened_at in events], now
    )
    await insert_deliveries(
        connection, database, [(event_row, endpoint_row, tenant) for event_row in rows for endpoint_row in asking], now
    )
    return len(asking)


async def _deaths(
    connection: AsyncConnection, database: Database, url_shown: str, rows: Sequence[int], more: int
) -> list[tuple[str, datetime]]:
    letters, events = database.tables.dead_letters, database.tables.events
    found = (
        await connection.execute(
            select(letters, events.c.id.label("event_id"))
            .outerjoin(events, events.c.row_id == letters.c.event_row)
            .where(letters.c.row_id.in_(rows))
            .order_by(letters.c.row_id)
        )
    ).all()
    return [
        (
            rules.delivery_dead(
                endpoint_id=public_id(Kind.ENDPOINT, letter.endpoint_row),
                url_shown=url_shown,
                dead_letter_id=public_id(Kind.DEAD_LETTER, letter.row_id),
                delivery_id=public_id(Kind.DELIVERY, letter.delivery_row),
                event_id=letter.event_id,
                event_type=letter.type,
                job_id=letter.job_id,
                reason=letter.reason,
                attempts=letter.attempts,
                last_status=letter.last_status,
                last_error=letter.last_error,
                more=more if letter is found[-1] else 0,
            ),
            letter.created_at,
        )
        for letter in found
    ]
