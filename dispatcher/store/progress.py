"""Progress in the transitions that people ask for: what it takes the place of, and when its interval lets it go."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, case, exists, false, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import ColumnElement

from dispatcher.states import DeliveryState, EventKind, Reason
from dispatcher.store.database import Database
from dispatcher.store.tables import Tables

#: As the partial indexes say it, word for word.
_WAITS = text("n.state = 'pending' AND n.progress_of IS NOT NULL")
_IN_FLIGHT = text("n.progress_of IS NOT NULL AND n.attempts > 0 AND n.state = 'sending'")
_ATTEMPTED = text("n.progress_of IS NOT NULL AND n.attempts > 0")


@dataclass(frozen=True, slots=True)
class Progress:
    """A progress event at an endpoint."""

    event_row: int
    event_type: str
    endpoint_row: int
    job_row: int
    sequence: int


def newer_under_way(tables: Tables) -> ColumnElement[bool]:
    """Whether newer progress than `events` of its job and type is pending or sending at `endpoints`; for a select
    from `events`, `job_events` and `endpoints`."""
    n, newer = tables.deliveries.alias("n"), tables.events.alias("newer")
    numbered = tables.job_events.c

    def there(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists(
            select(n.c.row_id)
            .join_from(n, newer, newer.c.row_id == n.c.event_row)
            .where(
                condition,
                n.c.progress_of == numbered.job_row,
                n.c.endpoint_row == tables.endpoints.c.row_id,
                n.c.sequence > numbered.sequence,
                newer.c.type == tables.events.c.type,
            )
            .correlate(tables.events, tables.job_events, tables.endpoints)
        )

    return _if_progress(tables, or_(there(and_(_WAITS)), there(and_(_IN_FLIGHT))))


def newer_published(tables: Tables) -> ColumnElement[bool]:
    """Whether newer progress than `events` of its job and type was fanned out; for a select from `events` and
    `job_events`."""
    later, newer = tables.job_events.alias("later"), tables.events.alias("newer")
    numbered = tables.job_events.c
    return _if_progress(
        tables,
        exists(
            select(later.c.sequence)
            .join_from(later, newer, newer.c.row_id == later.c.event_row)
            .where(
                later.c.job_row == numbered.job_row,
                later.c.sequence > numbered.sequence,
                later.c.kind == EventKind.PROGRESS,
                newer.c.type == tables.events.c.type,
            )
            .correlate(tables.events, tables.job_events)
        ),
    )


def _if_progress(tables: Tables, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return case((tables.job_events.c.kind == EventKind.PROGRESS, condition), else_=false())


def newest(candidates: Iterable[Progress]) -> set[tuple[int, int]]:
    """Of each job, type and endpoint the last one, as (event row, endpoint row)."""
    last: dict[tuple[int, str, int], Progress] = {}
    for progress in candidates:
        key = progress.job_row, progress.event_type, progress.endpoint_row
        if key not in last or progress.sequence > last[key].sequence:
            last[key] = progress
    return {(progress.event_row, progress.endpoint_row) for progress in last.values()}


async def supersede_older(
    connection: AsyncConnection, database: Database, newer: Iterable[Progress]
) -> set[tuple[int, int]]:
    """pending → superseded for older progress of the same job and type at the endpoint; answers the lanes it was in.

    Under the lock of the jobs' rows.
    """
    tables = database.tables
    n, older = tables.deliveries.alias("n"), tables.events.alias("older")
    d = tables.deliveries.c
    lanes: set[tuple[int, int]] = set()
    for progress in newer:
        obsolete = (
            select(n.c.row_id)
            .join_from(n, older, older.c.row_id == n.c.event_row)
            .where(
                _WAITS,
                n.c.progress_of == progress.job_row,
                n.c.endpoint_row == progress.endpoint_row,
                n.c.sequence < progress.sequence,
                older.c.type == progress.event_type,
            )
        )
        superseded = await connection.execute(
            update(tables.deliveries)
            .where(d.row_id.in_(obsolete), d.state == DeliveryState.PENDING)
            .values(
                state=DeliveryState.SUPERSEDED,
                reason=Reason.SUPERSEDED,
                superseded_by=progress.event_row,
                due_at=None,
                updated_at=database.now(),
            )
            .returning(d.lane, d.endpoint_row)
        )
        lanes |= {(row.lane, row.endpoint_row) for row in superseded if row.lane is not None}
    return lanes


async def pace(connection: AsyncConnection, database: Database, places: Collection[tuple[int, int]]) -> None:
    """Puts progress off that may go now and whose endpoint's interval has not passed; `places`: job, endpoint row."""
    if not places:
        return
    tables = database.tables
    d, e, n = tables.deliveries.c, tables.endpoints.c, tables.deliveries.alias("n")
    intervals = {
        row.row_id: timedelta(seconds=row.progress_interval_s)
        for row in await connection.execute(
            select(e.row_id, e.progress_interval_s).where(
                e.row_id.in_({endpoint_row for _, endpoint_row in places}), e.progress_interval_s.is_not(None)
            )
        )
    }
    if not intervals:
        return
    now = (await connection.execute(select(database.now()))).scalar_one()
    for job_row, endpoint_row in sorted(places):
        if endpoint_row not in intervals:
            continue
        here = and_(n.c.progress_of == job_row, n.c.endpoint_row == endpoint_row)
        attempted_at = (
            await connection.execute(
                select(n.c.attempted_at).where(_ATTEMPTED, here).order_by(n.c.sequence.desc()).limit(1)
            )
        ).scalar()
        if attempted_at is None or attempted_at + intervals[endpoint_row] <= now:
            continue
        heads = select(n.c.row_id).where(_WAITS, here, n.c.waiting.is_(False), n.c.due_at.is_(None))
        await connection.execute(
            update(tables.deliveries)
            .where(d.row_id.in_(heads), d.state == DeliveryState.PENDING)
            .values(due_at=attempted_at + intervals[endpoint_row])
        )
