"""Routes for what was given up: look, send again one by one or in bulk, discard."""

from dispatcher.api.queries import DeadLettersQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import dead_letters, redeliveries
from dispatcher.service.models import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterDiscard,
    DeadLetterFilter,
    DeadLetterRedeliver,
    Page,
    Redelivery,
    RedeliveryAccepted,
)
from dispatcher.states import Scope

_TAG = "Dead letters"


async def list_page(call: Call[object, DeadLettersQuery]) -> Reply:
    """One page of dead letters."""
    filters = DeadLetterFilter(**call.query.model_dump(exclude={"limit", "cursor", "tenant"}, exclude_none=True))
    page = await dead_letters.list_page(
        call.deployment, filters, tenant=call.tenant, limit=call.query.limit, cursor=call.query.cursor
    )
    return Reply(200, page)


async def get(call: Call[object, TenantQuery]) -> Reply:
    """One dead letter."""
    return Reply(200, await dead_letters.get(call.deployment, call.path["id"], tenant=call.tenant))


async def redeliver(call: Call[DeadLetterRedeliver, TenantQuery]) -> Reply:
    """Starts a redelivery run, or counts what it would take."""
    run = await dead_letters.redeliver(call.deployment, call.body, tenant=call.tenant)
    call.door.wake()
    return Reply(202, run, {"Location": f"/v1/redeliveries/{run.id}"} if run.id else {})


async def discard(call: Call[DeadLetterDiscard, TenantQuery]) -> Reply:
    """Removes dead letters, or counts what would go."""
    return Reply(200, await dead_letters.discard(call.deployment, call.body, tenant=call.tenant))


async def get_run(call: Call[object, TenantQuery]) -> Reply:
    """Where a redelivery run stands."""
    return Reply(200, await redeliveries.get(call.deployment, call.path["id"], tenant=call.tenant))


async def cancel_run(call: Call[object, TenantQuery]) -> Reply:
    """Stops a redelivery run."""
    return Reply(200, await redeliveries.cancel(call.deployment, call.path["id"], tenant=call.tenant))


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/dead-letters",
        tag=_TAG,
        operation="listDeadLetters",
        summary="List dead letters",
        description="Newest first.",
        handler=list_page,
        query=DeadLettersQuery,
        answers={200: Answer("One page.", Page[DeadLetter])},
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/dead-letters/{id}",
        tag=_TAG,
        operation="getDeadLetter",
        summary="Show a dead letter",
        handler=get,
        query=TenantQuery,
        answers={200: Answer("The dead letter.", DeadLetter)},
        problems=(404,),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/dead-letters/redeliver",
        tag=_TAG,
        operation="redeliverDeadLetters",
        summary="Send dead letters again",
        description="Takes what matches every filter and was not redelivered yet, unless `ids` or `redelivered: true`"
        " is given. Without a filter `all: true` is required. `dry_run` only counts.",
        handler=redeliver,
        query=TenantQuery,
        body=DeadLetterRedeliver,
        example={"reason": "exhausted", "since": "2026-01-02T00:00:00Z", "dry_run": True},
        answers={
            202: Answer(
                "The redelivery run; with `dry_run` only its size.", RedeliveryAccepted, located="/v1/redeliveries"
            )
        },
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/dead-letters/discard",
        tag=_TAG,
        operation="discardDeadLetters",
        summary="Discard dead letters",
        description="Removes what matches every filter. Without one `all: true` is required. `dry_run` only counts.",
        handler=discard,
        query=TenantQuery,
        body=DeadLetterDiscard,
        example={"reason": "gone", "dry_run": True},
        answers={200: Answer("How many went.", DeadLetterCount)},
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/redeliveries/{id}",
        tag="Redeliveries",
        operation="getRedelivery",
        summary="Show a redelivery run",
        handler=get_run,
        query=TenantQuery,
        answers={200: Answer("Where it stands.", Redelivery)},
        problems=(404,),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/redeliveries/{id}/cancel",
        tag="Redeliveries",
        operation="cancelRedelivery",
        summary="Stop a redelivery run",
        description="What was put back stays; the rest is left as it is.",
        handler=cancel_run,
        query=TenantQuery,
        answers={200: Answer("Where it stood when it was stopped.", Redelivery)},
        problems=(404, 409),
    ),
)
