"""Routes that register callback URLs and change what is sent to them; two more paths are other providers' names."""

from dispatcher.api.queries import EndpointsQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Handler, Reply, Route
from dispatcher.service import endpoints, public_keys
from dispatcher.service.models import (
    ActivateSecret,
    CallbackCreate,
    Endpoint,
    EndpointCreate,
    EndpointUpdate,
    EndpointWithSecret,
    Page,
    PublicKey,
    Recover,
    RedeliveryAccepted,
    RotateSecret,
    TestResult,
    VerifyResult,
)
from dispatcher.states import Scope

_TAG = "Endpoints"
_PATH = "/v1/endpoints"
#: The paths under which the same routes stand, and what clients of each call a callback URL.
_NOUNS = {_PATH: "Endpoint", "/v1/webhooks": "Webhook", "/v1/webhooks/subscriptions": "Subscription"}
_EXAMPLE = {"url": "https://example.com/hook", "event_types": ["job.completed", "job.failed"]}


async def create(call: Call[EndpointCreate, TenantQuery], base: str = _PATH) -> Reply:
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
    return Reply(201 if is_new else 200, endpoint, {"Location": f"{_PATH}/{endpoint.id}"})


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


async def enable(call: Call[object, TenantQuery]) -> Reply:
    """Lets a disabled endpoint match again."""
    id_ = call.path["id"]
    # Whose quota it is, only the endpoint tells those who see every tenant's.
    owner = call.tenant or (await endpoints.get(call.deployment, id_, tenant=None)).tenant
    quota = await call.door.quotas.of(owner)
    endpoint = await endpoints.set_status(
        call.deployment, id_, "enable", tenant=owner, max_endpoints=quota.max_endpoints
    )
    call.door.wake()
    return Reply(200, endpoint)


async def disable(call: Call[object, TenantQuery]) -> Reply:
    """Stops it from matching; what waits ends cancelled."""
    return Reply(200, await endpoints.set_status(call.deployment, call.path["id"], "disable", tenant=call.tenant))


async def pause(call: Call[object, TenantQuery]) -> Reply:
    """Keeps what matches, and sends nothing."""
    return Reply(200, await endpoints.set_status(call.deployment, call.path["id"], "pause", tenant=call.tenant))


async def resume(call: Call[object, TenantQuery]) -> Reply:
    """Sends again, first what was kept."""
    endpoint = await endpoints.set_status(call.deployment, call.path["id"], "resume", tenant=call.tenant)
    call.door.wake()
    return Reply(200, endpoint)


async def rotate_secret(call: Call[RotateSecret, TenantQuery]) -> Reply:
    """Gives it a new secret; both sign during the overlap."""
    return Reply(200, await endpoints.rotate_secret(call.deployment, call.path["id"], call.body, tenant=call.tenant))


async def activate_secret(call: Call[ActivateSecret, TenantQuery]) -> Reply:
    """Lets a staged secret sign, if its receiver accepts it."""
    return Reply(200, await endpoints.activate_secret(call.deployment, call.path["id"], call.body, tenant=call.tenant))


async def list_public_keys(call: Call[object, TenantQuery]) -> Reply:
    """The public keys of one endpoint."""
    return Reply(200, await public_keys.of_endpoint(call.deployment, call.path["id"], tenant=call.tenant))


async def send_test(call: Call[object, TenantQuery]) -> Reply:
    """Sends a test event now."""
    return Reply(200, await endpoints.send_test(call.deployment, call.path["id"], tenant=call.tenant))


async def verify(call: Call[object, TenantQuery]) -> Reply:
    """Challenges the endpoint now."""
    result = await endpoints.verify(call.deployment, call.path["id"], tenant=call.tenant)
    call.door.wake()
    return Reply(200, result)


async def recover(call: Call[Recover, TenantQuery]) -> Reply:
    """Starts to send what it missed."""
    run = await endpoints.recover(call.deployment, call.path["id"], call.body, tenant=call.tenant)
    call.door.wake()
    return Reply(202, run, {"Location": f"/v1/redeliveries/{run.id}"} if run.id else {})


def _switch(verb: str, summary: str, description: str, handler: Handler) -> Route:
    return Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/{verb}",
        tag=_TAG,
        operation=f"{verb}Endpoint",
        summary=summary,
        description=description,
        handler=handler,
        query=TenantQuery,
        answers={200: Answer("The endpoint as it is now.", Endpoint)},
        problems=(404, 409),
    )


def _resource(base: str) -> tuple[Route, ...]:
    """The routes that an alias has too."""
    noun = _NOUNS[base]
    called = "a callback URL" if base == _PATH else f"a {noun.lower()}"
    tag = _TAG if base == _PATH else "Aliases"
    same = "" if base == _PATH else f"Another name of `{_PATH}`, as other providers' clients call it. "

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
            summary="List callback URLs" if base == _PATH else f"List {noun.lower()}s",
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
    *_resource(_PATH),
    Route(
        method="PATCH",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}",
        tag=_TAG,
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
    _switch("enable", "Enable", "It matches again. Nothing of what it missed is sent; `recover` does that.", enable),
    _switch("disable", "Disable", "It matches nothing; what waits ends `cancelled`, reason `operator`.", disable),
    _switch("pause", "Pause", "It goes on matching, and keeps what matches; nothing is sent.", pause),
    _switch("resume", "Resume", "What was kept during the pause is sent now.", resume),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/rotate-secret",
        tag=_TAG,
        operation="rotateEndpointSecret",
        summary="Rotate the secret",
        description="Both secrets sign during `overlap_s` (default: a day); the additional signature header carries"
        " the old one's value until it ends. `overlap_s: 0` switches at once. With `stage` the new secret is only"
        " shown, and signs from its activation on.",
        handler=rotate_secret,
        query=TenantQuery,
        body=RotateSecret,
        example={"overlap_s": 3600},
        answers={200: Answer("The endpoint, with its new secret.", EndpointWithSecret)},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/rotate-secret/activate",
        tag=_TAG,
        operation="activateEndpointSecret",
        summary="Activate a staged secret",
        description="Sends a `webhook.test` event signed with the staged secret alone; a 2xx lets it sign, and the"
        " overlap begins. Anything else is a 409, and the old secret goes on. `force` does without the test.",
        handler=activate_secret,
        query=TenantQuery,
        body=ActivateSecret,
        example={"force": False},
        answers={200: Answer("The endpoint as it is now.", Endpoint)},
        problems=(404, 409),
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path=f"{_PATH}/{{id}}/public-keys",
        tag=_TAG,
        operation="getEndpointPublicKeys",
        summary="Public keys of its signatures",
        description="What verifies its `v1a` signatures: a staged key, then those that sign, the newest first. None"
        " where `signatures` has no `v1a`.",
        handler=list_public_keys,
        query=TenantQuery,
        answers={200: Answer("The keys, all of them.", Page[PublicKey])},
        problems=(404,),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/test",
        tag=_TAG,
        operation="testEndpoint",
        summary="Send a test event",
        description="Sends a signed `webhook.test` event now, once, and tells what came of it.",
        handler=send_test,
        query=TenantQuery,
        answers={200: Answer("What came of it; `delivered` is true for a 2xx.", TestResult)},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/verify",
        tag=_TAG,
        operation="verifyEndpoint",
        summary="Challenge the receiver",
        description="Sends a signed `webhook.verify` event now. A 2xx that repeats its `challenge` proves that the"
        " receiver wants what is sent to it: `verified_at` is set, and an endpoint that was paused for want of it is"
        " enabled.",
        handler=verify,
        query=TenantQuery,
        answers={200: Answer("What came of it; `verified` is true where the challenge was repeated.", VerifyResult)},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{_PATH}/{{id}}/recover",
        tag=_TAG,
        operation="recoverEndpoint",
        summary="Send what it missed",
        description="Makes or revives deliveries of everything that matches, was published since then, and was not"
        " delivered, in publish order.",
        handler=recover,
        query=TenantQuery,
        body=Recover,
        example={"since": "2026-01-02T00:00:00Z", "rate_per_s": 50},
        answers={202: Answer("The redelivery run.", RedeliveryAccepted, located="/v1/redeliveries")},
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
            201: Answer("The new callback, with its secret.", EndpointWithSecret, located=_PATH),
            200: Answer("The callback that was registered before.", EndpointWithSecret, located=_PATH),
        },
        problems=(409,),
    ),
    # Before its shorter sibling, whose `{id}` would match it.
    *_resource("/v1/webhooks/subscriptions"),
    *_resource("/v1/webhooks"),
)
