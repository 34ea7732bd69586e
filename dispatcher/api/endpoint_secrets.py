"""Routes of what an endpoint's deliveries are signed with."""

from dispatcher.api.endpoints import PATH, TAG
from dispatcher.api.queries import TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import endpoints, public_keys
from dispatcher.service.models import ActivateSecret, Endpoint, EndpointWithSecret, Page, PublicKey, RotateSecret
from dispatcher.states import Scope


async def rotate_secret(call: Call[RotateSecret, TenantQuery]) -> Reply:
    """Gives it a new secret; both sign during the overlap."""
    return Reply(200, await endpoints.rotate_secret(call.deployment, call.path["id"], call.body, tenant=call.tenant))


async def activate_secret(call: Call[ActivateSecret, TenantQuery]) -> Reply:
    """Lets a staged secret sign, if its receiver accepts it."""
    return Reply(200, await endpoints.activate_secret(call.deployment, call.path["id"], call.body, tenant=call.tenant))


async def list_public_keys(call: Call[object, TenantQuery]) -> Reply:
    """The public keys of one endpoint."""
    return Reply(200, await public_keys.of_endpoint(call.deployment, call.path["id"], tenant=call.tenant))


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        scope=Scope.ENDPOINTS,
        path=f"{PATH}/{{id}}/rotate-secret",
        tag=TAG,
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
        path=f"{PATH}/{{id}}/rotate-secret/activate",
        tag=TAG,
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
        path=f"{PATH}/{{id}}/public-keys",
        tag=TAG,
        operation="getEndpointPublicKeys",
        summary="Public keys of its signatures",
        description="What verifies its `v1a` signatures: a staged key, then those that sign, the newest first. None"
        " where `signatures` has no `v1a`.",
        handler=list_public_keys,
        query=TenantQuery,
        answers={200: Answer("The keys, all of them.", Page[PublicKey])},
        problems=(404,),
    ),
)
