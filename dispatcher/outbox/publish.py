"""publish: an event, in the same transaction as what it tells of."""

from datetime import datetime
from functools import cache
from typing import Literal

from dispatcher.outbox.events import insert_events, new_event
from dispatcher.outbox.session import Bind, Unit, join
from dispatcher.rules.json_text import encode
from dispatcher.settings import Settings, load
from dispatcher.store.tables import tables


@cache
def producer_settings() -> Settings:
    """The settings that producers in this process write by: read once, at the first event."""
    return load()


def publish(
    session: Unit,
    type: str,
    data: object,
    *,
    job_id: str | None = None,
    tenant: str = "default",
    kind: Literal["state", "progress", "terminal"] | None = None,
    id: str | None = None,
    timestamp: datetime | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
    bind: Bind = None,
) -> str:
    """Writes an event to the outbox in the caller's transaction and returns its id; no await, no commit.

    `session` is a `Session`, `AsyncSession` or `Connection`; an `AsyncConnection` takes
    `await connection.run_sync(publish, …)`. Committed, the event is delivered; rolled back, it never was. With a
    session the row is written when the session flushes.

    `kind` says what it does to its job's progress that waits: `progress` takes the place of older progress, `terminal`
    of all; without it the type decides. `data` is anything that JSON can say. The same `idempotency_key` (or `id`)
    with the same content gives the same id and one event; with other content `IdempotencyConflict`, at the latest when
    the session flushes. `bind` names the outbox's engine for sessions with several. Raises `InvalidField`,
    `ConfigurationError`.
    """
    settings = producer_settings()
    event = new_event(
        type,
        encode(data),
        max_payload=settings.max_payload,
        job_id=job_id,
        tenant=tenant,
        kind=kind,
        id=id,
        timestamp=timestamp,
        traceparent=traceparent,
        idempotency_key=idempotency_key,
    )
    declared = tables(settings.schema_name, settings.table_prefix)
    join(session, lambda connection: insert_events(connection, declared, [event]), bind)
    return event.id
