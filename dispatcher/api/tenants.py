"""The route that sets a tenant's default secret, for the admin and for the tenant itself."""

from dispatcher.api.queries import NoQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.errors import NotFound
from dispatcher.service import tenants
from dispatcher.service.models import TenantSecret, TenantSecretSet


async def set_secret(call: Call[TenantSecretSet, NoQuery]) -> Reply:
    """Sets or rotates the default secret."""
    tenant = call.path["tenant"]
    if call.tenant is not None and call.tenant != tenant:
        raise NotFound(f"no tenant {tenant}; this API key belongs to another")
    return Reply(200, await tenants.set_secret(call.deployment, tenant, call.body))


ROUTES: tuple[Route, ...] = (
    Route(
        method="PUT",
        path="/v1/tenants/{tenant}/secret",
        tag="Tenants",
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
)
