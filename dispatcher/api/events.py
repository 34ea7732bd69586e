"""Routes that publish events into the outbox, and show them with their deliveries."""

from msgspec.structs import replace

from dispatcher.api.queries import EventsQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.errors import InvalidField
from dispatcher.service import events
from dispatcher.service.models import (
    BatchAccepted,
    Event,
    EventAccepted,
    EventBatch,
    EventPublish,
    EventWithDeliveries,
    Page,
    parse_event,
    parse_event_batch,
)
from dispatcher.service.sent_events import SentEvent
from dispatcher.states import Scope

_TAG = "Events"
_BATCH_LIMIT = 16 * 1024 * 1024
_EXAMPLE = {"type": "job.completed", "job_id": "job_1", "data": {"status": "success"}}


async def publish(call: Call[SentEvent, TenantQuery]) -> Reply:
    """Writes one event; the committer has it sent."""
    event = call.body
    if call.idempotency_key is not None:
        if event.id is not None:
            raise InvalidField("Idempotency-Key", "stands beside id, which is one already; give one of them")
        if event.idempotency_key not in (None, call.idempotency_key):
            raise InvalidField("idempotency_key", "differs from the header Idempotency-Key; give it once")
        event = replace(event, idempotency_key=call.idempotency_key)
    door = call.door
    accepted = await events.publish(call.deployment, event, tenant=call.owner, ingest=door.ingest, quotas=door.quotas)
    return Reply(202, accepted, {"Location": f"/v1/events/{accepted.id}"})


async def publish_batch(call: Call[list[SentEvent], TenantQuery]) -> Reply:
    """Writes all events or none; the committer has them sent."""
    door = call.door
    accepted = await events.publish_batch(
        call.deployment, call.body, tenant=call.owner, ingest=door.ingest, quotas=door.quotas
    )
    return Reply(202, accepted)


async def list_page(call: Call[object, EventsQuery]) -> Reply:
    """One page of events."""
    page = await events.list_page(
        call.deployment,
        tenant=call.tenant,
        limit=call.query.limit,
        cursor=call.query.cursor,
        type=call.query.type,
        job_id=call.query.job_id,
        since=call.query.since,
        until=call.query.until,
    )
    return Reply(200, page)


async def get(call: Call[object, TenantQuery]) -> Reply:
    """One event with its deliveries."""
    return Reply(200, await events.get(call.deployment, call.path["id"], tenant=call.tenant))


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        scope=Scope.PUBLISH,
        path="/v1/events",
        tag=_TAG,
        operation="publishEvent",
        summary="Publish an event",
        description="Once answered, the event is committed, and is sent to every endpoint that matches it. `data` is"
        " kept as written: numbers and duplicate keys are not re-encoded. The same `idempotency_key` (or header"
        " `Idempotency-Key`), or `id`, with the same content answers the same; with other content it is a 409.",
        handler=publish,
        query=TenantQuery,
        body=EventPublish,
        example=_EXAMPLE,
        read=parse_event,
        body_limit=None,
        answers={202: Answer("The event is committed.", EventAccepted, located="/v1/events")},
        idempotent=True,
        problems=(409,),
    ),
    Route(
        method="POST",
        scope=Scope.PUBLISH,
        path="/v1/events/batch",
        tag=_TAG,
        operation="publishEvents",
        summary="Publish up to 1,000 events",
        description="All or none: an error names the index, like `#/events/3/type`.",
        handler=publish_batch,
        query=TenantQuery,
        body=EventBatch,
        example={"events": [_EXAMPLE]},
        read=parse_event_batch,
        body_limit=_BATCH_LIMIT,
        answers={202: Answer("All events are committed; their ids are in the order of the request.", BatchAccepted)},
        problems=(409,),
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/events",
        tag=_TAG,
        operation="listEvents",
        summary="List events",
        description="Newest first.",
        handler=list_page,
        query=EventsQuery,
        answers={200: Answer("One page.", Page[Event])},
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/events/{id}",
        tag=_TAG,
        operation="getEvent",
        summary="Show an event with its deliveries",
        description="Ids are unique per tenant: the admin, asked for one that several tenants have, gets a 409 and"
        " names the `tenant`.",
        handler=get,
        query=TenantQuery,
        answers={200: Answer("The event.", EventWithDeliveries)},
        problems=(404, 409),
    ),
)
