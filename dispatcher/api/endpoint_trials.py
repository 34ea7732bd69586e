"""Routes that ask an endpoint's receiver whether it takes what is sent to it."""

from dispatcher.api.endpoints import PATH, TAG
from dispatcher.api.queries import TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import endpoints
from dispatcher.service.models import TestResult, VerifyResult
from dispatcher.states import Scope


async def send_test(call: Call[object, TenantQuery]) -> Reply:
    """Sends a test event now."""
    return Reply(200, await endpoints.send_test(call.deployment, call.path["id"], tenant=call.tenant))


async def verify(call: Call[object, TenantQuery]) -> Reply:
    """Challenges the endpoint now."""
    result = await endpoints.verify(call.deployment, call.path["id"], tenant=call.tenant)
    call.door.wake()
    return Reply(200, result)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{PATH}/{{id}}/test",
        tag=TAG,
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
        path=f"{PATH}/{{id}}/verify",
        tag=TAG,
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
)
