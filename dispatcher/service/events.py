"""Publishing through the service, and events as they were published: each call stores all of its events or none."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.engine import Row

from dispatcher.engine.ingest import Ingest
from dispatcher.errors import Conflict, InvalidField, NotFound
from dispatcher.outbox.events import insert_events, new_event
from dispatcher.rules.kinds import EventKinds
from dispatcher.rules.new_events import NewEvent
from dispatcher.rules.own_events import HEARTBEAT
from dispatcher.service.delivery_views import view as delivery_view
from dispatcher.service.delivery_views import with_events
from dispatcher.service.models import (
    BATCH_LENGTH,
    BatchAccepted,
    Event,
    EventAccepted,
    EventWithDeliveries,
    Page,
)
from dispatcher.service.pages import DEFAULT_PAGE, Order, fetch_page
from dispatcher.service.quotas import Quota, Quotas
from dispatcher.service.scope import events_of_job, text_filter, within
from dispatcher.service.sent_events import SentEvent
from dispatcher.states import EventKind
from dispatcher.store.database import Database
from dispatcher.store.deployment import Deployment
from dispatcher.store.ingest import Created
from dispatcher.store.tables import Tables

#: Payloads above this many bytes are accepted with a warning: many receivers' limits are near.
WARN_ABOVE_BYTES = 20_000


async def publish(
    deployment: Deployment,
    body: SentEvent,
    *,
    tenant: str,
    ingest: Ingest | None = None,
    quotas: Quotas | None = None,
) -> EventAccepted:
    """Stores an event of `body.tenant`, else of `tenant`; the caller's right to name it was checked.

    The same id or idempotency key with the same content again gives the same answer and stores nothing. With `ingest`
    it shares a transaction with whoever publishes just now, else it has its own; `quotas` hold it to the tenant's.
    Raises `InvalidField`, `IdempotencyConflict`, `TooManyEvents`.
    """
    owner = body.tenant or tenant
    quota = None if quotas is None else await quotas.of(owner)
    event = _new(deployment, body, owner, quota, "")
    if quotas is not None and quota is not None:
        # Only now: what is refused for itself is not counted.
        quotas.admit({owner: 1}, {owner: quota})
    created_at = (await _store(deployment.database, [event], ingest))[event.key]
    return EventAccepted(
        id=event.id, type=event.type, job_id=event.job_id, created_at=created_at, warnings=event.warnings
    )


async def publish_batch(
    deployment: Deployment,
    bodies: Sequence[SentEvent],
    *,
    tenant: str,
    ingest: Ingest | None = None,
    quotas: Quotas | None = None,
) -> BatchAccepted:
    """Stores all events or none, in their order. Raises like `publish`, with fields named `events/3/data`."""
    if not 1 <= len(bodies) <= BATCH_LENGTH:
        raise InvalidField("events", f"takes 1 to {BATCH_LENGTH} events, not {len(bodies)}; split the batch")
    counts = Counter(body.tenant or tenant for body in bodies)
    held = {} if quotas is None else {owner: await quotas.of(owner) for owner in counts}
    events = [
        _new(deployment, body, owner := body.tenant or tenant, held.get(owner), f"events/{place}/")
        for place, body in enumerate(bodies)
    ]
    if quotas is not None:
        quotas.admit(counts, held)
    await _store(deployment.database, events, ingest)
    return BatchAccepted(ids=[event.id for event in events])


async def get(deployment: Deployment, event_id: str, *, tenant: str | None) -> EventWithDeliveries:
    """An event with its deliveries. Raises `NotFound`, and `Conflict` where several tenants have that id."""
    tables = deployment.database.tables
    events, deliveries = tables.events.c, tables.deliveries.c
    async with deployment.database.read() as connection:
        rows = (
            await connection.execute(
                _numbered(tables)
                .where(events.id == text_filter("id", event_id), within(tenant, events.tenant))
                .limit(2)
            )
        ).all()
        if not rows:
            raise NotFound(f"no event {event_id[:128]}; GET /v1/events lists yours")
        if len(rows) > 1:
            raise Conflict("several tenants have an event with this id; name one with tenant")
        sent = await connection.execute(
            with_events(tables).where(deliveries.event_row == rows[0].row_id).order_by(deliveries.row_id)
        )
        return EventWithDeliveries(
            **dict(_view(rows[0], deployment.kinds)), deliveries=[delivery_view(row) for row in sent]
        )


async def list_page(
    deployment: Deployment,
    *,
    tenant: str | None,
    limit: int = DEFAULT_PAGE,
    cursor: str | None = None,
    type: str | None = None,
    job_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Page[Event]:
    """A part of the events, newest first; `since` and `until` are about when they were published.

    Heartbeats only where `type` names them: with many endpoints they would be most of the newest.

    Raises `InvalidField`.
    """
    tables = deployment.database.tables
    events = tables.events.c
    statement = _numbered(tables).where(within(tenant, events.tenant))
    statement = statement.where(events.type != HEARTBEAT if type is None else events.type == text_filter("type", type))
    if job_id is not None:
        statement = statement.where(events.row_id.in_(events_of_job(tables, text_filter("job_id", job_id), tenant)))
    if since is not None:
        statement = statement.where(events.created_at >= since)
    if until is not None:
        statement = statement.where(events.created_at < until)
    async with deployment.database.read() as connection:
        rows, following = await fetch_page(
            connection, statement, Order("events", (events.row_id,)), limit=limit, cursor=cursor
        )
    kinds = deployment.kinds
    return Page[Event](data=[_view(row, kinds) for row in rows], next_cursor=following)


def _new(deployment: Deployment, body: SentEvent, tenant: str, quota: Quota | None, at: str) -> NewEvent:
    return new_event(
        body.type,
        body.data,
        max_payload=deployment.settings.max_payload if quota is None else quota.max_payload,
        at=at,
        job_id=body.job_id,
        kind=body.kind,
        tenant=tenant,
        id=body.id,
        timestamp=body.timestamp,
        traceparent=body.traceparent,
        idempotency_key=body.idempotency_key,
    )


async def _store(database: Database, events: Sequence[NewEvent], ingest: Ingest | None) -> Created:
    if ingest is not None:
        return await ingest.publish(events)
    async with database.begin() as connection:
        return await connection.run_sync(insert_events, database.tables, events, database.literal_now())


def _numbered(tables: Tables) -> Select[Any]:
    events, numbered = tables.events.c, tables.job_events.c
    rejected = tables.rejected_events.c
    return (
        select(
            tables.events, numbered.sequence, numbered.kind.label("numbered_kind"), rejected.reason.label("rejected")
        )
        .outerjoin_from(tables.events, tables.job_events, numbered.event_row == events.row_id)
        .outerjoin(tables.rejected_events, rejected.event_row == events.row_id)
    )


def _view(row: Row[Any], kinds: EventKinds) -> Event:
    return Event(
        id=row.id,
        tenant=row.tenant,
        type=row.type,
        job_id=row.job_id,
        kind=_kind(row, kinds),
        sequence=row.sequence,
        data=row.data,
        timestamp=row.timestamp,
        created_at=row.created_at,
        rejected=row.rejected,
    )


def _kind(row: Row[Any], kinds: EventKinds) -> EventKind:
    try:
        if row.sequence is None:
            return kinds.of(row.type, row.kind, row.job_id)
        # What it was fanned out as stands, whatever the settings say by now.
        return EventKind.STATE if row.numbered_kind is None else EventKind(row.numbered_kind)
    except ValueError:
        # Of a later version, or written by hand; `rejected` says so.
        return EventKind.STATE
