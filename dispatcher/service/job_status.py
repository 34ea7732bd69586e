"""Did you even send it? Where a job's events stand at each endpoint, and why what is not delivered is not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from dispatcher.errors import NotFound
from dispatcher.ids import Kind, public_id
from dispatcher.service.delivery_views import error_of
from dispatcher.service.endpoint_views import disabled_reason_of, status_of
from dispatcher.service.models import JobDeadLetter, JobEndpoint, JobStatus, WaitingDelivery
from dispatcher.service.scope import text_filter, within
from dispatcher.states import DeliveryState, Reason, read_word
from dispatcher.store.deployment import Deployment
from dispatcher.store.job_events import find_job, is_mentioned, queued_events
from dispatcher.store.tables import Tables

#: How many endpoints and dead letters one answer shows.
MOST_ENDPOINTS = 200
MOST_DEAD_LETTERS = 20

_LIVE = (DeliveryState.PENDING, DeliveryState.SENDING)


@dataclass(slots=True)
class _Tally:
    """What the deliveries of the job to one endpoint come to."""

    states: dict[DeliveryState, int] = field(default_factory=dict)
    reasons: dict[Reason, int] = field(default_factory=dict)
    attempted: int = 0
    #: The lowest sequence that is pending or sending.
    waits: int | None = None

    def add(self, row: Row[Any]) -> None:
        state = read_word(DeliveryState, row.state, DeliveryState.DEAD)
        self.states[state] = self.states.get(state, 0) + row.deliveries
        if row.reason and state not in _LIVE:
            reason = read_word(Reason, row.reason, Reason.UNREADABLE)
            self.reasons[reason] = self.reasons.get(reason, 0) + row.deliveries
        self.attempted = max(self.attempted, row.attempted or 0)
        if state in _LIVE:
            self.waits = row.lowest if self.waits is None else min(self.waits, row.lowest)

    @property
    def undelivered(self) -> int:
        return sum(count for state, count in self.states.items() if state is not DeliveryState.DELIVERED)


async def status(deployment: Deployment, job_id: str, *, tenant: str) -> JobStatus:
    """What became of the job's events, counted in the database: one pass over its deliveries, however many there are.

    Raises `NotFound` for a job that nobody has mentioned.
    """
    text_filter("job_id", job_id)
    tables = deployment.database.tables
    async with deployment.database.read() as connection:
        job = await find_job(connection, tables, tenant, job_id)
        if job is None and not await is_mentioned(connection, tables, tenant, job_id):
            raise NotFound(f"tenant {tenant} has no job {job_id}: nothing was published about it yet")
        queued = await queued_events(connection, tables, tenant, job_id)
        tallies = {} if job is None else await _tallies(connection, tables, job.row_id)
        for endpoint_row in await _callbacks(connection, tables, tenant, job_id):
            tallies.setdefault(endpoint_row, _Tally())
        # Those at which something is not delivered first.
        shown = sorted(tallies, key=lambda row: (-tallies[row].undelivered, row))[:MOST_ENDPOINTS]
        chosen = {row: tallies[row] for row in shown}
        endpoints = await _endpoints(connection, tables, job_id, None if job is None else job.row_id, chosen)
    return JobStatus(
        job_id=job_id,
        tenant=tenant,
        last_sequence=0 if job is None else job.last_sequence,
        not_fanned_out=queued,
        settled=job is not None and job.settled_at is not None,
        settled_at=None if job is None else job.settled_at,
        endpoints=endpoints,
        more_endpoints=len(tallies) > MOST_ENDPOINTS,
    )


async def _tallies(connection: AsyncConnection, tables: Tables, job_row: int) -> dict[int, _Tally]:
    numbered, d = tables.job_events.c, tables.deliveries.c
    rows = await connection.execute(
        select(
            d.endpoint_row,
            d.state,
            d.reason,
            func.count().label("deliveries"),
            func.max(case((d.attempts > 0, numbered.sequence))).label("attempted"),
            func.min(numbered.sequence).label("lowest"),
        )
        .join_from(tables.job_events, tables.deliveries, d.event_row == numbered.event_row)
        .where(numbered.job_row == job_row)
        .group_by(d.endpoint_row, d.state, d.reason)
    )
    tallies: dict[int, _Tally] = {}
    for row in rows:
        tallies.setdefault(row.endpoint_row, _Tally()).add(row)
    return tallies


async def _callbacks(connection: AsyncConnection, tables: Tables, tenant: str, job_id: str) -> Sequence[int]:
    e = tables.endpoints.c
    # The last words are the partial index's.
    found = select(e.row_id).where(
        within(tenant, e.tenant), e.job_id == job_id, e.deleted_at.is_(None), e.job_id.is_not(None)
    )
    return (await connection.execute(found.order_by(e.row_id).limit(MOST_ENDPOINTS))).scalars().all()


async def _endpoints(
    connection: AsyncConnection, tables: Tables, job_id: str, job_row: int | None, tallies: dict[int, _Tally]
) -> list[JobEndpoint]:
    e = tables.endpoints
    known = {row.row_id: row for row in await connection.execute(select(e).where(e.c.row_id.in_(tallies)))}
    wanted = {tally.attempted for tally in tallies.values()} | {
        tally.waits for tally in tallies.values() if tally.waits is not None
    }
    deliveries = {} if job_row is None else await _deliveries(connection, tables, job_row, wanted - {0}, tallies)
    letters = [] if job_row is None else await _dead_letters(connection, tables, job_row)
    return [
        _view(endpoint_row, known.get(endpoint_row), job_id, tally, deliveries, letters)
        for endpoint_row, tally in tallies.items()
    ]


async def _deliveries(
    connection: AsyncConnection, tables: Tables, job_row: int, sequences: Iterable[int], endpoints: Iterable[int]
) -> dict[tuple[int, int], Row[Any]]:
    numbered, d, events = tables.job_events.c, tables.deliveries.c, tables.events.c
    rows = await connection.execute(
        select(tables.deliveries, numbered.sequence.label("place"), events.type)
        .join_from(tables.job_events, tables.deliveries, d.event_row == numbered.event_row)
        .join(tables.events, events.row_id == numbered.event_row)
        .where(numbered.job_row == job_row, numbered.sequence.in_(sequences), d.endpoint_row.in_(endpoints))
    )
    return {(row.endpoint_row, row.place): row for row in rows}


async def _dead_letters(connection: AsyncConnection, tables: Tables, job_row: int) -> Sequence[Row[Any]]:
    numbered, letters = tables.job_events.c, tables.dead_letters.c
    return (
        await connection.execute(
            select(tables.dead_letters, numbered.sequence)
            .join_from(
                tables.job_events,
                tables.dead_letters,
                and_(letters.event_row == numbered.event_row, letters.redelivered_at.is_(None)),
            )
            .where(numbered.job_row == job_row)
            .order_by(letters.row_id.desc())
            .limit(MOST_DEAD_LETTERS)
        )
    ).all()


def _view(
    endpoint_row: int,
    endpoint: Row[Any] | None,
    job_id: str,
    tally: _Tally,
    deliveries: dict[tuple[int, int], Row[Any]],
    letters: Sequence[Row[Any]],
) -> JobEndpoint:
    there = endpoint is not None and endpoint.deleted_at is None
    last = deliveries.get((endpoint_row, tally.attempted))
    waiting = None if tally.waits is None else deliveries.get((endpoint_row, tally.waits))
    return JobEndpoint(
        endpoint_id=public_id(Kind.ENDPOINT, endpoint_row),
        url=None if endpoint is None else endpoint.url_shown,
        status=status_of(endpoint) if there and endpoint is not None else None,
        disabled_reason=disabled_reason_of(endpoint) if endpoint is not None else None,
        callback=endpoint is not None and endpoint.job_id == job_id,
        last_sequence=tally.attempted,
        last_status=None if last is None else last.last_status,
        last_error=None if last is None else error_of(last.last_error),
        pending=tally.states.get(DeliveryState.PENDING, 0),
        sending=tally.states.get(DeliveryState.SENDING, 0),
        delivered=tally.states.get(DeliveryState.DELIVERED, 0),
        dead=tally.states.get(DeliveryState.DEAD, 0),
        superseded=tally.states.get(DeliveryState.SUPERSEDED, 0),
        cancelled=tally.states.get(DeliveryState.CANCELLED, 0),
        reasons=tally.reasons,
        waiting=None if waiting is None else _waiting(waiting),
        dead_letters=[_letter(row) for row in letters if row.endpoint_row == endpoint_row],
    )


def _waiting(row: Row[Any]) -> WaitingDelivery:
    return WaitingDelivery(
        delivery_id=public_id(Kind.DELIVERY, row.row_id),
        sequence=row.place,
        type=row.type,
        state=read_word(DeliveryState, row.state, DeliveryState.DEAD),
        due_at=row.due_at,
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=error_of(row.last_error),
    )


def _letter(row: Row[Any]) -> JobDeadLetter:
    return JobDeadLetter(
        id=public_id(Kind.DEAD_LETTER, row.row_id),
        delivery_id=public_id(Kind.DELIVERY, row.delivery_row),
        sequence=row.sequence,
        type=row.type,
        reason=read_word(Reason, row.reason, Reason.UNREADABLE),
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=error_of(row.last_error),
    )
