"""Stored deliveries as callers see them, and what an attempt at one sent."""

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.engine import Row

from dispatcher.ids import Kind, public_id
from dispatcher.redaction import REDACTED
from dispatcher.rules import json_text
from dispatcher.service.models import Attempt, Delivery
from dispatcher.states import AttemptError, DeliveryState, Reason, read_word
from dispatcher.store.tables import Tables
from dispatcher.version import USER_AGENT

#: Attempts of one delivery whose ids are told apart.
_ATTEMPT_BITS = 20
_ATTEMPT_MASK = (1 << _ATTEMPT_BITS) - 1


def with_events(tables: Tables) -> Select[Any]:
    """Deliveries with the event that each carries (empty texts where its row is gone), and which took its place."""
    deliveries, events, newer = tables.deliveries.c, tables.events.c, tables.events.alias("newer")
    return (
        select(
            tables.deliveries,
            func.coalesce(events.id, "").label("event_id"),
            func.coalesce(events.type, "").label("type"),
            events.job_id,
            newer.c.id.label("superseded_by_id"),
        )
        .outerjoin_from(tables.deliveries, tables.events, events.row_id == deliveries.event_row)
        .outerjoin(newer, newer.c.row_id == deliveries.superseded_by)
    )


def view(row: Row[Any]) -> Delivery:
    """A row of `with_events` as an answer."""
    return Delivery(
        id=public_id(Kind.DELIVERY, row.row_id),
        tenant=row.tenant,
        event_id=row.event_id,
        endpoint_id=public_id(Kind.ENDPOINT, row.endpoint_row),
        job_id=row.job_id,
        type=row.type,
        sequence=row.sequence,
        **_stands(row),
        superseded_by=row.superseded_by_id,
        attempts=row.attempts,
        due_at=row.due_at,
        last_status=row.last_status,
        last_error=error_of(row.last_error),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _stands(row: Row[Any]) -> dict[str, Any]:
    state = read_word(DeliveryState, row.state, DeliveryState.DEAD)
    if state != row.state:
        # As what it will end.
        return {"state": state, "reason": Reason.UNREADABLE}
    return {"state": state, "reason": read_word(Reason, row.reason, Reason.UNREADABLE) if row.reason else None}


def error_of(word: str | None) -> AttemptError | None:
    """The word of a column `error` or `last_error`."""
    return read_word(AttemptError, word, AttemptError.INTERNAL) if word else None


def attempts_with_endpoint(tables: Tables, delivery_row: int) -> Select[Any]:
    """The attempts at a delivery, oldest first, with what their headers were made from."""
    attempts, deliveries = tables.attempts.c, tables.deliveries.c
    events, endpoints = tables.events.c, tables.endpoints.c
    return (
        select(
            tables.attempts,
            deliveries.previous_sequence,
            func.coalesce(events.id, "").label("event_id"),
            events.traceparent,
            endpoints.signature_header,
            endpoints.header_names,
        )
        .select_from(tables.attempts)
        .join(tables.deliveries, deliveries.row_id == attempts.delivery_row)
        .outerjoin(tables.events, events.row_id == deliveries.event_row)
        .outerjoin(tables.endpoints, endpoints.row_id == deliveries.endpoint_row)
        .where(attempts.delivery_row == delivery_row)
        .order_by(attempts.number, attempts.started_at)
    )


def attempt_view(row: Row[Any]) -> Attempt:
    """A row of `attempts_with_endpoint` as an answer."""
    return Attempt(
        id=public_id(Kind.ATTEMPT, (row.delivery_row << _ATTEMPT_BITS) | (row.number & _ATTEMPT_MASK)),
        number=row.number,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        status=row.status,
        error=error_of(row.error),
        response_excerpt=row.response_excerpt,
        request_headers=_request_headers(row),
    )


def _request_headers(row: Row[Any]) -> dict[str, str]:
    headers = dict.fromkeys(json_text.read(row.header_names, list[str], []), REDACTED)
    headers |= {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": row.event_id,
        "webhook-timestamp": str(int(row.started_at.timestamp())),
        "webhook-signature": REDACTED,
        "x-delivery-attempt": str(row.number),
    }
    if row.previous_sequence is not None:
        headers["x-job-previous"] = str(row.previous_sequence)
    if row.traceparent is not None:
        headers["traceparent"] = row.traceparent
    if row.signature_header is not None:
        headers[row.signature_header] = REDACTED
    return headers
