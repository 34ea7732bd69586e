"""What waits, and for how long: read from the same partial indexes as the work itself, never from history."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.ids import Kind, public_id
from dispatcher.service.models import EndpointStats, Stats, Waiting
from dispatcher.service.moments import moment_now
from dispatcher.service.scope import within
from dispatcher.store.deployment import Deployment
from dispatcher.store.tables import Tables

_IN_LANE = "lane IS NOT NULL AND state IN ('pending', 'sending') AND NOT late"
#: Together every pending delivery once; each is written as the partial index that serves it.
_PENDING = (
    "state = 'pending' AND due_at IS NULL AND NOT waiting",
    "state = 'pending' AND due_at IS NOT NULL",
    f"{_IN_LANE} AND state = 'pending' AND due_at IS NULL AND waiting",
)
_SENDING = ("state = 'sending'",)

#: By endpoint row: how many, and since when the oldest.
_Counts = dict[int, tuple[int, datetime]]


async def stats(deployment: Deployment, *, tenant: str | None, per_endpoint: bool = False) -> Stats:
    """Counts and oldest ages of what waits, of one tenant or of all; by endpoint on request."""
    tables = deployment.database.tables
    async with deployment.database.read() as connection:
        now = await moment_now(connection, deployment.database)
        queued = await _queued(connection, tables, tenant, now)
        pending = await _deliveries(connection, tables, tenant, _PENDING)
        sending = await _deliveries(connection, tables, tenant, _SENDING)
        dead = await _dead_letters(connection, tables, tenant)
    return Stats(
        not_fanned_out=queued,
        pending=_total(pending, now),
        sending=_total(sending, now),
        dead_letters=_total(dead, now),
        endpoints=[
            EndpointStats(
                endpoint_id=public_id(Kind.ENDPOINT, endpoint_row),
                pending=_of(pending, endpoint_row, now),
                sending=_of(sending, endpoint_row, now),
                dead_letters=_of(dead, endpoint_row, now),
            )
            for endpoint_row in sorted(pending.keys() | sending.keys() | dead.keys())
        ]
        if per_endpoint
        else None,
    )


async def _queued(connection: AsyncConnection, tables: Tables, tenant: str | None, now: datetime) -> Waiting:
    queue, events = tables.fanout_queue.c, tables.events.c
    count, first = (
        await connection.execute(
            select(func.count(), func.min(queue.event_row))
            .select_from(tables.fanout_queue)
            .where(within(tenant, queue.tenant))
        )
    ).one()
    since = (await connection.execute(select(events.created_at).where(events.row_id == first))).scalar_one_or_none()
    return _waiting(count, since, now)


async def _deliveries(
    connection: AsyncConnection, tables: Tables, tenant: str | None, conditions: tuple[str, ...]
) -> _Counts:
    deliveries = tables.deliveries.c
    parts = [
        select(deliveries.endpoint_row, func.count().label("n"), func.min(deliveries.created_at).label("since"))
        .where(text(condition), within(tenant, deliveries.tenant))
        .group_by(deliveries.endpoint_row)
        for condition in conditions
    ]
    return _folded(await connection.execute(union_all(*parts) if len(parts) > 1 else parts[0]))


async def _dead_letters(connection: AsyncConnection, tables: Tables, tenant: str | None) -> _Counts:
    letters = tables.dead_letters.c
    return _folded(
        await connection.execute(
            select(letters.endpoint_row, func.count(), func.min(letters.created_at))
            .where(letters.redelivered_at.is_(None), within(tenant, letters.tenant))
            .group_by(letters.endpoint_row)
        )
    )


def _folded(rows: Any) -> _Counts:
    counts: _Counts = {}
    for endpoint_row, count, since in rows:
        before = counts.get(endpoint_row)
        counts[endpoint_row] = (count, since) if before is None else (before[0] + count, min(before[1], since))
    return counts


def _total(counts: _Counts, now: datetime) -> Waiting:
    return _waiting(
        sum(count for count, _ in counts.values()), min((since for _, since in counts.values()), default=None), now
    )


def _of(counts: _Counts, endpoint_row: int, now: datetime) -> Waiting:
    count, since = counts.get(endpoint_row, (0, None))
    return _waiting(count, since, now)


def _waiting(count: int, since: datetime | None, now: datetime) -> Waiting:
    age_s = None if since is None else round(max(0.0, (now - since).total_seconds()), 3)
    return Waiting(count=count, oldest_age_s=age_s)
