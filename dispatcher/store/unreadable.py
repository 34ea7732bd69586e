"""Deliveries that no dispatcher can read: found among the others, and ended, so that none of the others waits."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import case, func, insert, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.states import DeliveryState, Reason
from dispatcher.store.database import Database
from dispatcher.store.own_events import to_tell
from dispatcher.store.tables.deliveries import UNKNOWN_STATE
from dispatcher.store.transitions import lock_jobs, settle_lanes

#: The last attempt that a column counts.
_LAST_ATTEMPT = 2**31 - 1
_NEVER_BURIED = [state for state in DeliveryState if state is not DeliveryState.PENDING]


async def of_unknown_state(connection: AsyncConnection, database: Database, limit: int) -> Sequence[int]:
    """Deliveries in a state that there is not."""
    d = database.tables.deliveries.c
    found = select(d.row_id).where(text(UNKNOWN_STATE)).order_by(d.row_id).limit(limit)
    return (await connection.execute(found)).scalars().all()


async def homeless(
    connection: AsyncConnection, database: Database, endpoint_rows: Sequence[int], limit: int
) -> Sequence[int]:
    """Pending deliveries to those of the endpoints that have no row, or are another tenant's."""
    d, e = database.tables.deliveries.c, database.tables.endpoints.c
    its = select(e.row_id).where(e.row_id == d.endpoint_row, e.tenant == d.tenant)
    found = (
        select(d.row_id)
        .where(d.endpoint_row.in_(endpoint_rows), d.state == DeliveryState.PENDING, ~its.exists())
        .limit(limit)
    )
    return (await connection.execute(found)).scalars().all()


async def unclaimable(connection: AsyncConnection, database: Database, limit: int) -> Sequence[int]:
    """Pending deliveries with which a claim fails, and all that it would have taken beside them.

    Looks at everything that is pending: to be asked for when a claim has failed.
    """
    d = database.tables.deliveries.c
    found = select(d.row_id).where(d.state == DeliveryState.PENDING, _unclaimable(database)).limit(limit)
    return (await connection.execute(found)).scalars().all()


def _unclaimable(database: Database) -> ColumnElement[bool] | TextClause:
    if database.dialect != "sqlite":
        return database.tables.deliveries.c.attempts >= _LAST_ATTEMPT
    # SQLite keeps in a column whatever it is given.
    return text(
        f"""(typeof(attempts) <> 'integer' OR typeof(due_at) NOT IN ('integer', 'null')
             OR typeof(lane) NOT IN ('integer', 'null') OR typeof(sequence) NOT IN ('integer', 'null')
             OR (lane IS NOT NULL AND sequence IS NULL) OR endpoint_row IN (
                 SELECT row_id FROM {database.tables.name("endpoints")}
                 WHERE typeof(version) <> 'integer' OR typeof(profile) <> 'text'
                    OR typeof(max_in_flight) NOT IN ('integer', 'null')
                    OR typeof(rate_limit) NOT IN ('integer', 'real', 'null')))"""
    )


async def bury(connection: AsyncConnection, database: Database, delivery_rows: Sequence[int]) -> int:
    """pending, or a state that there is not → dead, `unreadable`; answers how many. Nothing was sent."""
    tables, now = database.tables, database.now()
    d, event = tables.deliveries.c, tables.events.c
    lanes = (
        await connection.execute(
            select(d.lane, d.endpoint_row).where(d.row_id.in_(delivery_rows), d.lane.is_not(None)).distinct()
        )
    ).all()
    lanes_known = {(lane, endpoint_row) for lane, endpoint_row in lanes if isinstance(lane, int)}
    await lock_jobs(connection, tables, (lane for lane, _ in lanes_known))
    # What else is wrong with the row must not keep anybody from looking at it.
    readable = case((d.attempts.between(0, _LAST_ATTEMPT), d.attempts), else_=0)
    ended = await connection.execute(
        update(tables.deliveries)
        .where(d.row_id.in_(delivery_rows), d.state.not_in(_NEVER_BURIED))
        .values(
            state=DeliveryState.DEAD,
            reason=Reason.UNREADABLE,
            due_at=None,
            dispatcher_row=None,
            attempts=readable,
            failures=0,
            interruptions=0,
            updated_at=now,
        )
        .returning(d.row_id)
    )
    buried = ended.scalars().all()
    if not buried:
        return 0
    dead, its = tables.name("deliveries"), tables.name("events")
    letter = select(
        d.row_id,
        d.event_row,
        d.endpoint_row,
        d.tenant,
        func.coalesce(event.type, ""),
        event.job_id,
        d.reason,
        d.attempts,
        d.last_status,
        d.last_error,
        now,
        literal_column(to_tell(tables.name, f"{dead}.tenant", f"{dead}.endpoint_row", f"COALESCE({its}.type, '')")),
    ).select_from(tables.deliveries.outerjoin(tables.events, event.row_id == d.event_row))
    kept = tables.dead_letters.c
    columns: list[Any] = [column for column in kept if column is not kept.row_id and column is not kept.redelivered_at]
    await connection.execute(insert(tables.dead_letters).from_select(columns, letter.where(d.row_id.in_(buried))))
    await settle_lanes(connection, database, lanes_known)
    return len(buried)
