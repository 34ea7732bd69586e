"""Routes about a tenant as a whole: its default secret, which it may set itself, and its quota, which it may read."""

from typing import Any

from dispatcher.api.queries import NoQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.errors import NotFound
from dispatcher.service import quotas, tenants
from dispatcher.service.models import TenantQuota, TenantQuotaUpdate, TenantSecret, TenantSecretSet
from dispatcher.states import Scope

_TAG = "Tenants"


async def set_secret(call: Call[TenantSecretSet, NoQuery]) -> Reply:
    """Sets or rotates the default secret."""
    return Reply(200, await tenants.set_secret(call.deployment, _tenant(call), call.body))


async def get_quota(call: Call[object, NoQuery]) -> Reply:
    """What holds, and what is in use."""
    return Reply(200, await quotas.show(call.deployment, _tenant(call)))


async def set_quota(call: Call[TenantQuotaUpdate, NoQuery]) -> Reply:
    """Changes what is given."""
    return Reply(200, await quotas.update(call.deployment, _tenant(call), call.body))


def _tenant(call: Call[Any, NoQuery]) -> str:
    """The tenant of the path. Raises `NotFound` where the caller does not see it."""
    tenant = call.path["tenant"]
    if call.tenant is not None and call.tenant != tenant:
        raise NotFound(f"no tenant {tenant}; this API key belongs to another")
    return tenant


ROUTES: tuple[Route, ...] = (
    Route(
        method="PUT",
        scope=Scope.ENDPOINTS,
        path="/v1/tenants/{tenant}/secret",
        tag=_TAG,
        operation="setTenantSecret",
        summary="Set a tenant's default secret",
        description="Endpoints and callbacks that are made without a secret sign with it from then on. Set again, it is"
        " rotated: those that use it sign with both secrets during `overlap_s` (default: a day), and the additional"
        " signature header carries the old one's value until it ends. Endpoints with a secret of their own keep it.",
        handler=set_secret,
        query=NoQuery,
        body=TenantSecretSet,
        example={"overlap_s": 3600},
        answers={200: Answer("The secret, shown this once.", TenantSecret)},
        problems=(404, 409),
    ),
    Route(
        method="GET",
        scope=Scope.READ,
        path="/v1/tenants/{tenant}/quota",
        tag=_TAG,
        operation="getTenantQuota",
        summary="Show a tenant's quota",
        description="What it may use at most, how many endpoints it has, and whether they must prove that they want"
        " what is sent to them.",
        handler=get_quota,
        query=NoQuery,
        answers={200: Answer("The quota.", TenantQuota)},
        problems=(404,),
    ),
    Route(
        method="PATCH",
        scope=Scope.ADMIN,
        path="/v1/tenants/{tenant}/quota",
        tag=_TAG,
        operation="setTenantQuota",
        summary="Change a tenant's quota",
        description="Only fields that are given change; `null` takes a tenant back to the deployment's. Limits hold in"
        " every process 5 seconds later at the latest. `verify_endpoints` holds at once, for endpoints that are"
        " registered, given another URL or enabled from then on; those that are enabled stay so.",
        handler=set_quota,
        query=NoQuery,
        body=TenantQuotaUpdate,
        example={"max_endpoints": 100, "events_per_s": 50},
        answers={200: Answer("The quota as it is now.", TenantQuota)},
    ),
)
