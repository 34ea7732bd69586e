"""Routes that say whether an endpoint is sent to, and that catch up with what it missed."""

from dispatcher.api.endpoints import PATH, TAG
from dispatcher.api.queries import TenantQuery
from dispatcher.api.route import Answer, Call, Handler, Reply, Route
from dispatcher.service import endpoints
from dispatcher.service.models import Endpoint, Recover, RedeliveryAccepted
from dispatcher.states import Scope


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


async def recover(call: Call[Recover, TenantQuery]) -> Reply:
    """Starts to send what it missed."""
    run = await endpoints.recover(call.deployment, call.path["id"], call.body, tenant=call.tenant)
    call.door.wake()
    return Reply(202, run, {"Location": f"/v1/redeliveries/{run.id}"} if run.id else {})


def _switch(verb: str, summary: str, description: str, handler: Handler) -> Route:
    return Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{PATH}/{{id}}/{verb}",
        tag=TAG,
        operation=f"{verb}Endpoint",
        summary=summary,
        description=description,
        handler=handler,
        query=TenantQuery,
        answers={200: Answer("The endpoint as it is now.", Endpoint)},
        problems=(404, 409),
    )


ROUTES: tuple[Route, ...] = (
    _switch("enable", "Enable", "It matches again. Nothing of what it missed is sent; `recover` does that.", enable),
    _switch("disable", "Disable", "It matches nothing; what waits ends `cancelled`, reason `operator`.", disable),
    _switch("pause", "Pause", "It goes on matching, and keeps what matches; nothing is sent.", pause),
    _switch("resume", "Resume", "What was kept during the pause is sent now.", resume),
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{PATH}/{{id}}/recover",
        tag=TAG,
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
)
