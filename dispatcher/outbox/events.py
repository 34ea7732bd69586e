"""A new event, checked once for every door: producers, the API and the command line."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Insert, Table, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from dispatcher.clock import parse_rfc3339
from dispatcher.errors import InvalidField, TooLargeField
from dispatcher.ids import EVENT_ID, event_id_for_key, new_event_id
from dispatcher.rules.event_types import check_type
from dispatcher.rules.new_events import NewEvent
from dispatcher.states import EventKind
from dispatcher.store.tables import Tables
from dispatcher.units import format_size

_UNKEPT = re.compile("[\x00-\x1f\ud800-\udfff]")
_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


def new_event(
    type: str,
    data: str,
    *,
    max_payload: int,
    at: str = "",
    job_id: str | None = None,
    kind: str | None = None,
    tenant: str = "default",
    id: str | None = None,
    timestamp: datetime | str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
) -> NewEvent:
    """Checks an event; `data` is compact JSON text. Raises `InvalidField` that names the field and the remedy."""
    check_type(type)
    size = len(data.encode())
    if size > max_payload:
        raise TooLargeField(
            f"{at}data",
            f"is {size} bytes as compact JSON, the limit is {format_size(max_payload)}; send a link to what is large,"
            " or have DISPATCHER_MAX_PAYLOAD, or the tenant's quota, raised",
        )
    if id is not None and idempotency_key is not None:
        raise InvalidField("id", "cannot be given beside idempotency_key, which the id then follows from")
    if id is not None:
        check_event_id(id)
    check_text("tenant", tenant, 128)
    if job_id is not None:
        check_text("job_id", job_id, 255)
    chosen_kind = None if kind is None else check_kind(kind)
    if idempotency_key is not None:
        check_text("idempotency_key", idempotency_key, 255)
    if traceparent is not None:
        check_traceparent(traceparent)
    if idempotency_key is not None:
        chosen = event_id_for_key(tenant, idempotency_key)
    else:
        chosen = id if id is not None else new_event_id()
    return NewEvent(
        id=chosen,
        tenant=tenant,
        type=type,
        data=data,
        job_id=job_id,
        kind=chosen_kind,
        timestamp=None if timestamp is None else check_timestamp(timestamp),
        traceparent=traceparent,
        repeatable="id" if id is not None else "idempotency_key" if idempotency_key is not None else None,
        at=at,
    )


def insert_events(
    connection: Connection, tables: Tables, events: Sequence[NewEvent], now: datetime | None = None
) -> dict[tuple[str, str], datetime]:
    """Inserts events in the caller's transaction, in their order; answers when each (tenant, id) was created.

    One that exists already with the same content is left alone. `now` is their time; null = the database's own.
    Raises `IdempotencyConflict` when one of a repeated id has other content; then some may be inserted, and the
    caller's rollback removes them.
    """
    statement = _insertion(tables.events, connection.dialect.name)
    rows = [_row(event, now) for event in events]
    stored: dict[tuple[str, str], datetime] = {}
    # A statement takes those that have a timestamp, or those that get the database's: as far as their order allows.
    for _, alike in groupby(rows, lambda row: "timestamp" in row):
        group = list(alike)
        # A list, even of one, goes the longer way of many.
        inserted = connection.execute(statement, group if len(group) > 1 else group[0])
        stored |= {(tenant, id): created_at for tenant, id, created_at in inserted}
    repeated = [event for event in events if (event.tenant, event.id) not in stored]
    # Two of one id in this very batch: the first was stored, and the second must say the same.
    repeated += [event for event in events if event.repeatable and event not in repeated and len(events) > 1]
    return stored | _same_or_conflict(connection, tables, repeated) if repeated else stored


@lru_cache(maxsize=16)
def _insertion(events: Table, dialect: str) -> Insert:
    e = events.c
    make = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return make(events).on_conflict_do_nothing(index_elements=[e.tenant, e.id]).returning(e.tenant, e.id, e.created_at)


def _same_or_conflict(
    connection: Connection, tables: Tables, events: Sequence[NewEvent]
) -> dict[tuple[str, str], datetime]:
    e = tables.events.c
    keys = sorted({(event.tenant, event.id) for event in events})
    there = {
        (row.tenant, row.id): row
        for row in connection.execute(
            select(e.tenant, e.id, e.type, e.job_id, e.kind, e.data, e.timestamp, e.created_at).where(
                tuple_(e.tenant, e.id).in_(keys)
            )
        )
    }
    for event in events:
        row = there[event.tenant, event.id]
        if not event.says(row.type, row.job_id, row.kind, row.data, row.timestamp):
            raise event.conflict()
    return {key: row.created_at for key, row in there.items()}


def _row(event: NewEvent, now: datetime | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": event.id,
        "tenant": event.tenant,
        "type": event.type,
        "data": event.data,
        "job_id": event.job_id,
        "kind": event.kind,
        "traceparent": event.traceparent,
    }
    if event.timestamp is not None or now is not None:
        row["timestamp"] = event.timestamp or now
    if now is not None:
        row["created_at"] = now
    return row


def check_text(field: str, value: object, most: int) -> None:
    """Raises `InvalidField` for what is no text of 1 to `most` characters that a database and a header can keep."""
    if not isinstance(value, str) or not 1 <= len(value) <= most:
        raise InvalidField(field, f"must be a text of 1 to {most} characters")
    check_characters(field, value)


def check_characters(field: str, value: str) -> None:
    """Raises `InvalidField` for characters that a database or a header cannot keep."""
    if _UNKEPT.search(value):
        raise InvalidField(field, "must not contain control characters or lone surrogates")


def check_event_id(value: object) -> str:
    """The id, if an event may have it. Raises `InvalidField`."""
    if not isinstance(value, str) or not EVENT_ID.match(value):
        raise InvalidField("id", "must be 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return value


def check_kind(value: object) -> EventKind:
    """The kind, if it is one. Raises `InvalidField`."""
    if not isinstance(value, str) or value not in list(EventKind):
        raise InvalidField("kind", f"must be one of {', '.join(EventKind)}")
    return EventKind(value)


def check_traceparent(value: object) -> str:
    """The trace context, if it is one that may stand in a header. Raises `InvalidField`."""
    if not isinstance(value, str) or not _TRACEPARENT.match(value):
        raise InvalidField(
            "traceparent", "must be a W3C traceparent, like 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        )
    return value


def check_timestamp(value: object) -> datetime:
    """The moment in UTC, if an event may have happened then. Raises `InvalidField`."""
    try:
        moment = parse_rfc3339(value) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        raise InvalidField("timestamp", "must be RFC 3339 with a time zone, like 2026-01-02T03:04:05Z") from None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidField("timestamp", "must be an aware datetime, like datetime.now(UTC)")
    if not 1 < moment.year < 9999:
        # PostgreSQL's driver takes the first and the last moment for infinities.
        raise InvalidField("timestamp", "must lie between the years 2 and 9998")
    return moment.astimezone(UTC)
