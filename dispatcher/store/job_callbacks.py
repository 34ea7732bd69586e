"""Callbacks and the end of their jobs: what a late one is still told, and when the others may expire.

A callback is registered in its producer's transaction, which may commit while the job's terminal event is being fanned
out, and too late to be matched. So it is flagged, and whoever fans out looks at the flagged under the same lock: by
then the fan-out has committed, and what it says about the job counts.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, and_, exists, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.ids import Kind, public_id
from dispatcher.logs import logger
from dispatcher.rules.event_types import matches
from dispatcher.states import DeliveryState, EndpointStatus
from dispatcher.store.database import Database
from dispatcher.store.duty_rows import later
from dispatcher.store.transitions import lock_jobs, put_back, settle_lanes

log = logger("dispatcher.callbacks")

# Written as the partial indexes are declared: a parameter in place of a word would hide the index from the planner.
_OPEN = "job_id IS NOT NULL AND expires_at IS NULL AND status <> 'disabled'"


def after_end(name: Callable[[str], str]) -> str:
    """SQL: whether a match of the fan-out comes after its job's terminal event.

    To a callback that may have missed that one it waits until it was looked for: it must not overtake it.
    """
    return f"""EXISTS (
        SELECT 1 FROM {name("jobs")} j JOIN {name("job_events")} t ON t.event_row = j.settled_by
        WHERE j.row_id = match.lane AND t.sequence < match.sequence
    )"""


async def catch_up(connection: AsyncConnection, database: Database, limit: int) -> tuple[int, int]:
    """Gives callbacks that were registered lately the terminal event of their job, if it has settled already.

    Answers how many it looked at, and how many deliveries it made. Waits while another process fans out.
    """
    tables = database.tables
    e, j, event, d = tables.endpoints.c, tables.jobs.c, tables.events.c, tables.deliveries.c
    if database.dialect == "postgresql":
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({tables.fan_out_lock})"))
    known = exists().where(d.event_row == j.settled_by, d.endpoint_row == e.row_id)
    flagged = (
        await connection.execute(
            select(
                e.row_id,
                e.ordered,
                e.status,
                e.deleted_at,
                e.event_types,
                e.expires_at,
                j.row_id.label("job_row"),
                j.settled_by,
                event.type,
                known.label("known"),
            )
            .select_from(
                tables.endpoints.outerjoin(
                    tables.jobs, and_(j.tenant == e.tenant, j.job_id == e.job_id, j.settled_by.is_not(None))
                ).outerjoin(tables.events, event.row_id == j.settled_by)
            )
            .where(text("catch_up"))
            .order_by(e.row_id)
            .limit(limit)
        )
    ).all()
    if not flagged:
        return 0, 0
    await connection.execute(
        update(tables.endpoints).where(e.row_id.in_([row.row_id for row in flagged])).values(catch_up=False)
    )
    now = (await connection.execute(select(database.now()))).scalar_one()
    lanes = {(row.job_row, row.row_id) for row in flagged if row.job_row is not None and row.ordered}
    await lock_jobs(connection, tables, (job_row for job_row, _ in lanes))
    missed = [(row.settled_by, row.row_id) for row in flagged if _missed(row, now)]
    made = await put_back(connection, database, missed) if missed else []
    # What came after the end has waited for this.
    await settle_lanes(connection, database, lanes)
    return len(flagged), sum(one.outcome == "put_back" for one in made)


def _missed(row: Row[Any], now: Any) -> bool:
    """Whether a flagged callback would have matched its job's terminal event, and has no delivery of it."""
    return (
        row.type is not None
        and not row.known
        and row.status != EndpointStatus.DISABLED
        and row.deleted_at is None
        and (row.expires_at is None or row.expires_at > now)
        and _matches(row)
    )


def _matches(row: Row[Any]) -> bool:
    try:
        return any(matches(pattern, row.type) for pattern in json.loads(row.event_types))
    except (ValueError, TypeError, AttributeError):
        # Edited by hand: this one must not keep all fan-out from going on.
        log.exception("endpoint.unreadable", endpoint_id=public_id(Kind.ENDPOINT, row.row_id))
        return False


async def expire_settled(
    connection: AsyncConnection, database: Database, after_row: int, limit: int, grace: timedelta
) -> int:
    """Sets `expires_at`, `grace` ahead, for callbacks whose job has settled and for which nothing waits or is sending.

    Looks at `limit` callbacks without an expiry behind `after_row`; answers the last of them (0: there are no more).
    """
    tables = database.tables
    e, j, d = tables.endpoints.c, tables.jobs.c, tables.deliveries.c
    looked_at = list(
        (
            await connection.execute(
                select(e.row_id).where(text(_OPEN), e.row_id > after_row).order_by(e.row_id).limit(limit)
            )
        ).scalars()
    )
    if not looked_at:
        return 0
    settled = exists().where(j.tenant == e.tenant, j.job_id == e.job_id, j.settled_at.is_not(None))
    waits = exists().where(d.endpoint_row == e.row_id, d.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)))
    await connection.execute(
        update(tables.endpoints)
        .where(
            e.row_id.in_(looked_at),
            e.expires_at.is_(None),
            e.status != EndpointStatus.DISABLED,
            # What its job ended with may be still to come.
            e.catch_up.is_(False),
            settled,
            ~waits,
        )
        .values(expires_at=later(database, grace.total_seconds()), updated_at=database.now())
    )
    return looked_at[-1] if len(looked_at) == limit else 0
