"""Routes with which the admin gives tenants their API keys, and takes them away."""

from dispatcher.api.queries import NoQuery, PageQuery, TenantQuery
from dispatcher.api.route import Answer, Call, Reply, Route, Scope
from dispatcher.service import keys
from dispatcher.service.models import Key, KeyCreate, KeyWithSecret, Page

_TAG = "Keys"


async def create(call: Call[KeyCreate, TenantQuery]) -> Reply:
    """Makes a key."""
    return Reply(201, await keys.create(call.deployment, call.body))


async def list_page(call: Call[object, PageQuery]) -> Reply:
    """One page of keys."""
    page = await keys.list_page(call.deployment, tenant=call.tenant, limit=call.query.limit, cursor=call.query.cursor)
    return Reply(200, page)


async def revoke(call: Call[object, NoQuery]) -> Reply:
    """Ends a key: at once in this process, within seconds in others."""
    await keys.revoke(call.deployment, call.path["id"])
    call.door.keys.forget()
    return Reply(204)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/keys",
        tag=_TAG,
        operation="createKey",
        summary="Make a tenant's API key",
        description="`key` is shown this once; only its hash is stored.",
        handler=create,
        query=TenantQuery,
        body=KeyCreate,
        example={"tenant": "acme"},
        answers={201: Answer("The key.", KeyWithSecret)},
        scope=Scope.ADMIN,
    ),
    Route(
        method="GET",
        path="/v1/keys",
        tag=_TAG,
        operation="listKeys",
        summary="List API keys",
        handler=list_page,
        query=PageQuery,
        answers={200: Answer("One page.", Page[Key])},
        scope=Scope.ADMIN,
    ),
    Route(
        method="DELETE",
        path="/v1/keys/{id}",
        tag=_TAG,
        operation="revokeKey",
        summary="Revoke an API key",
        description="It holds at once in the process that answers, and within 5 seconds in others.",
        handler=revoke,
        query=NoQuery,
        answers={204: Answer("It is revoked.")},
        scope=Scope.ADMIN,
        problems=(404,),
    ),
)
