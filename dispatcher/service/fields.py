"""Kinds of values that requests and answers share: moments, ids, and JSON that stays as it was written."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, SerializationInfo, StringConstraints, WithJsonSchema

from dispatcher.clock import parse_rfc3339, rfc3339
from dispatcher.outbox.events import check_characters, check_event_id, check_timestamp, check_traceparent
from dispatcher.rules import json_text
from dispatcher.rules.event_types import check_type
from dispatcher.store.endpoint_fields import vetted

#: How long ids and names may be.
TENANT_LENGTH = 128
JOB_ID_LENGTH = 255
IDEMPOTENCY_KEY_LENGTH = 255


def _moment(value: object) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("names no time zone; give an aware time")
        return value.astimezone(UTC)
    if not isinstance(value, str):
        raise ValueError("must be a time like 2026-01-02T03:04:05Z")
    try:
        return parse_rfc3339(value)
    except (ValueError, OverflowError):
        raise ValueError("is no time with a time zone; write it like 2026-01-02T03:04:05Z") from None


def _name(text: str) -> str:
    check_characters("text", text)
    return text


def _json_in_output(text: str, info: SerializationInfo) -> Any:
    if info.mode == "json":
        return json.loads(text)
    raw = json_text.raw(text)
    # Edited by hand, past the checks: as a text it spoils neither its list nor the look at what is wrong with it.
    return text if raw is None else raw


#: An aware UTC moment; in and out as RFC 3339.
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    PlainSerializer(rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-02T03:04:05Z"]}),
]

#: When an event happened.
HappenedAt = Annotated[Moment, vetted(check_timestamp)]

#: JSON as text. In an answer it stands as JSON again, with its numbers and keys as they were written; what is none, as
#: a text.
JsonText = Annotated[str, PlainSerializer(_json_in_output), WithJsonSchema({"description": "Any JSON."})]

#: JSON text that somebody sent: checked, and without its insignificant white space.
SentJson = Annotated[
    str,
    vetted(json_text.compact),
    PlainSerializer(_json_in_output),
    WithJsonSchema({"description": "Any JSON; its numbers and duplicate keys stay as you write them."}),
]

Tenant = Annotated[
    str,
    StringConstraints(min_length=1, max_length=TENANT_LENGTH),
    vetted(_name),
    Field(description="The API client that it belongs to; a tenant's key may name its own only.", examples=["acme"]),
]
JobId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=JOB_ID_LENGTH),
    vetted(_name),
    Field(description="The job that it is about.", examples=["job_1"]),
]
EventType = Annotated[
    str,
    vetted(check_type),
    Field(description="Words of letters, digits and `_`, joined by dots.", examples=["job.completed"]),
]
EventId = Annotated[
    str,
    vetted(check_event_id),
    Field(description="An id of yours for the event, unique per tenant.", examples=["evt_4f9c2d1ab0"]),
]
TraceParent = Annotated[
    str,
    vetted(check_traceparent),
    Field(
        description="W3C trace context that is passed on to receivers.",
        examples=["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    ),
]
IdempotencyKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=IDEMPOTENCY_KEY_LENGTH),
    vetted(_name),
    Field(
        description="The same key with the same content gives the same answer and one event.", examples=["job_1/done"]
    ),
]
Rate = Annotated[
    float,
    Field(
        gt=0, le=100_000, allow_inf_nan=False, description="Deliveries put back per second; null: as fast as it goes."
    ),
]
