"""Routes of callback URLs, from their registration to their end; two more paths are other providers' names."""

from dispatcher.api.queries import EndpointsQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import endpoints
from dispatcher.service.models import (
    CallbackCreate,
    Endpoint,
    EndpointCreate,
    EndpointUpdate,
    EndpointWithSecret,
    Page,
)
from dispatcher.states import Scope

TAG = "Endpoints"
PATH = "/v1/endpoints"
#: The paths under which the same routes stand, and what clients of each call a callback URL.
_NOUNS = {PATH: "Endpoint", "/v1/webhooks": "Webhook", "/v1/webhooks/subscriptions": "Subscription"}
_EXAMPLE = {"url": "https://example.com/hook", "event_types": ["job.completed", "job.failed"]}


async def create(call: Call[EndpointCreate, TenantQuery], base: str = PATH) -> Reply:
    """Registers an endpoint; the same idempotency key and body again answers the same."""
    quota = await call.door.quotas.of(call.body.tenant or call.owner)
    endpoint, is_new = await endpoints.create(
        call.deployment,
        call.body,
        tenant=call.owner,
        idempotency_key=call.idempotency_key,
        max_endpoints=quota.max_endpoints,
    )
    headers = {"Location": f"{base}/{endpoint.id}"}
    if not is_new:
        headers["Idempotent-Replayed"] = "true"
    return Reply(201, endpoint, headers)


async def create_callback(call: Call[CallbackCreate, TenantQuery]) -> Reply:
    """Registers a job's callback URL; 200 when it is registered already."""
    quota = await call.door.quotas.of(call.body.tenant or call.owner)
    endpoint, is_new = await endpoints.create_callback(
        call.deployment, call.path["job_id"], call.body, tenant=call.owner, max_endpoints=quota.max_endpoints
    )
    call.door.wake()
    return Reply(201 if is_new else 200, endpoint, {"Location": f"{PATH}/{endpoint.id}"})


async def list_page(call: Call[object, EndpointsQuery]) -> Reply:
    """One page of endpoints."""
    page = await endpoints.list_page(
        call.deployment,
        tenant=call.tenant,
        limit=call.query.limit,
        cursor=call.query.cursor,
        job_id=call.query.job_id,
        status=call.query.status,
    )
    return Reply(200, page)


async def get(call: Call[object, TenantQuery]) -> Reply:
    """One endpoint."""
    return Reply(200, await endpoints.get(call.deployment, call.path["id"], tenant=call.tenant))


async def update(call: Call[EndpointUpdate, TenantQuery]) -> Reply:
    """Changes the fields that are given."""
    endpoint = await endpoints.update(call.deployment, call.path["id"], call.body, tenant=call.tenant)
    call.door.wake()
    return Reply(200, endpoint)


async def delete(call: Call[object, TenantQuery]) -> Reply:
    """Deletes the endpoint; what waits ends cancelled."""
    await endpoints.delete(call.deployment, call.path["id"], tenant=call.tenant)
    return Reply(204)


def _resource(base: str) -> tuple[Route, ...]:
    """The routes that an alias has too."""
    noun = _NOUNS[base]
    called = "a callback URL" if base == PATH else f"a {noun.lower()}"
    tag = TAG if base == PATH else "Aliases"
    same = "" if base == PATH else f"Another name of `{PATH}`, as other providers' clients call it. "

    async def create_here(call: Call[EndpointCreate, TenantQuery]) -> Reply:
        return await create(call, base)

    return (
        Route(
            method="POST",
            scope=Scope.ENDPOINTS,
            path=base,
            tag=tag,
            operation=f"create{noun}",
            summary=f"Register {called}",
            description=same
            + "The answer shows the `secret` this once. `target_url`, `event_type` and `events` are read as `url`"
            " and `event_types`. With an `Idempotency-Key` the same request again is answered with the same endpoint.",
            handler=create_here,
            query=TenantQuery,
            body=EndpointCreate,
            example=_EXAMPLE,
            answers={201: Answer("The new endpoint, with its secret.", EndpointWithSecret, located=base)},
            idempotent=True,
            problems=(409,),
        ),
        Route(
            method="GET",
            scope=Scope.READ,
            path=base,
            tag=tag,
            operation=f"list{noun}s",
            summary="List callback URLs" if base == PATH else f"List {noun.lower()}s",
            description=same + "Newest first. Passwords, query values and header values read `***`.",
            handler=list_page,
            query=EndpointsQuery,
            answers={200: Answer("One page.", Page[Endpoint])},
        ),
        Route(
            method="GET",
            scope=Scope.READ,
            path=f"{base}/{{id}}",
            tag=tag,
            operation=f"get{noun}",
            summary=f"Show {called}",
            description=same,
            handler=get,
            query=TenantQuery,
            answers={200: Answer("The endpoint.", Endpoint)},
            problems=(404,),
        ),
        Route(
            method="DELETE",
            scope=Scope.ENDPOINTS,
            path=f"{base}/{{id}}",
            tag=tag,
            operation=f"delete{noun}",
            summary=f"Delete {called}",
            description=same + "What waits for it ends `cancelled` with reason `endpoint_deleted`.",
            handler=delete,
            query=TenantQuery,
            answers={204: Answer("It is gone.")},
            problems=(404,),
        ),
    )


ROUTES: tuple[Route, ...] = (
    *_resource(PATH),
    Route(
        method="PATCH",
        scope=Scope.ENDPOINTS,
        path=f"{PATH}/{{id}}",
        tag=TAG,
        operation="updateEndpoint",
        summary="Change a callback URL",
        description="Only fields that are given change; `null` takes a value away. `***` as a header's value"
        " leaves that header as it is. The change holds for every attempt that begins after the answer.",
        handler=update,
        query=TenantQuery,
        body=EndpointUpdate,
        example={"event_types": ["job.*"], "description": "all events of a job"},
        answers={200: Answer("The endpoint as it is now.", Endpoint)},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path="/v1/jobs/{job_id}/callbacks",
        tag="Callbacks",
        operation="createCallback",
        summary="Register a job's callback URL",
        description="An endpoint that gets this job's events only, and expires after the job has settled. The same"
        " tenant, job and URL again is the same endpoint, with status 200.",
        handler=create_callback,
        query=TenantQuery,
        body=CallbackCreate,
        example={"url": "https://example.com/jobs/1"},
        answers={
            201: Answer("The new callback, with its secret.", EndpointWithSecret, located=PATH),
            200: Answer("The callback that was registered before.", EndpointWithSecret, located=PATH),
        },
        problems=(409,),
    ),
)

#: The same under other providers' names.
ALIASES: tuple[Route, ...] = (
    # Before its shorter sibling, whose `{id}` would match it.
    *_resource("/v1/webhooks/subscriptions"),
    *_resource("/v1/webhooks"),
)
