"""Rows that the engine would have written, so that routes have something to show."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import insert, select

from dispatcher.ids import Kind, public_id, row_id
from tests.api.client import Api

STARTED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sent:
    """One event that an endpoint was sent."""

    event_id: str
    endpoint_id: str
    delivery_id: str
    dead_letter_id: str | None


async def endpoint(api: Api, **fields: object) -> str:
    """Registers an endpoint."""
    answered = await api.post("/v1/endpoints", {"url": "https://example.com/hook", **fields})
    assert answered.status == 201, answered.raw
    return str(answered.json["id"])


async def event(api: Api, **fields: object) -> str:
    """Publishes an event."""
    answered = await api.post("/v1/events", {"type": "job.completed", "data": {"n": 1}, **fields})
    assert answered.status == 202, answered.raw
    return str(answered.json["id"])


async def sent(api: Api, *, tenant: str = "default", state: str = "dead", **fields: object) -> Sent:
    """An event, an endpoint, its delivery in `state` with one attempt, and a dead letter if it is dead."""
    endpoint_id = await endpoint(api)
    event_id = await event(api, **fields)
    database = api.deployment.database
    tables = database.tables
    endpoint_row = row_id(Kind.ENDPOINT, endpoint_id)
    async with database.begin() as connection:
        event_row = await connection.scalar(
            select(tables.events.c.row_id).where(tables.events.c.id == event_id, tables.events.c.tenant == tenant)
        )
        delivery_row = await connection.scalar(
            insert(tables.deliveries)
            .values(
                event_row=event_row,
                endpoint_row=endpoint_row,
                tenant=tenant,
                state=state,
                reason="exhausted" if state == "dead" else None,
                attempts=1,
                last_status=500,
                last_error="http_status",
            )
            .returning(tables.deliveries.c.row_id)
        )
        assert delivery_row is not None
        await connection.execute(
            insert(tables.attempts).values(
                delivery_row=delivery_row,
                number=1,
                started_at=STARTED_AT,
                duration_ms=12.5,
                status=500,
                error="http_status",
                response_excerpt="no",
            )
        )
        letter_row = None
        if state == "dead":
            letter_row = await connection.scalar(
                insert(tables.dead_letters)
                .values(
                    delivery_row=delivery_row,
                    event_row=event_row,
                    endpoint_row=endpoint_row,
                    tenant=tenant,
                    type="job.completed",
                    job_id=fields.get("job_id"),
                    reason="exhausted",
                    attempts=1,
                    last_status=500,
                    last_error="http_status",
                )
                .returning(tables.dead_letters.c.row_id)
            )
    return Sent(
        event_id=event_id,
        endpoint_id=endpoint_id,
        delivery_id=public_id(Kind.DELIVERY, delivery_row),
        dead_letter_id=None if letter_row is None else public_id(Kind.DEAD_LETTER, letter_row),
    )
