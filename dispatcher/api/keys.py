"""Routes with which keys are made and taken away, by who has the scope `admin`."""

from dispatcher.api.queries import NoQuery, PageQuery
from dispatcher.api.route import Answer, Call, Reply, Route
from dispatcher.service import keys
from dispatcher.service.models import Key, KeyCreate, KeyWithSecret, Page
from dispatcher.states import Scope

_TAG = "Keys"


async def create(call: Call[KeyCreate, NoQuery]) -> Reply:
    """Makes a key."""
    return Reply(201, await keys.create(call.deployment, call.body))


async def list_page(call: Call[object, PageQuery]) -> Reply:
    """One page of keys."""
    page = await keys.list_page(call.deployment, tenant=call.tenant, limit=call.query.limit, cursor=call.query.cursor)
    return Reply(200, page)


async def revoke(call: Call[object, NoQuery]) -> Reply:
    """Ends a key in every process."""
    await keys.revoke(call.deployment, call.path["id"])
    return Reply(204)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        scope=Scope.ADMIN,
        path="/v1/keys",
        tag=_TAG,
        operation="createKey",
        summary="Make an API key",
        description="`key` is shown this once; only its hash is stored. A key without `tenant` sees every tenant, and"
        " names its `scopes`.",
        handler=create,
        # No tenant here: it would be easy to take for the key's own.
        query=NoQuery,
        body=KeyCreate,
        example={"tenant": "acme", "scopes": ["publish", "read"], "expires_in_s": 2592000},
        answers={201: Answer("The key.", KeyWithSecret)},
    ),
    Route(
        method="GET",
        scope=Scope.ADMIN,
        path="/v1/keys",
        tag=_TAG,
        operation="listKeys",
        summary="List API keys",
        description="Newest first; those that were revoked or have expired too.",
        handler=list_page,
        query=PageQuery,
        answers={200: Answer("One page.", Page[Key])},
    ),
    Route(
        method="DELETE",
        scope=Scope.ADMIN,
        path="/v1/keys/{id}",
        tag=_TAG,
        operation="revokeKey",
        summary="Revoke an API key",
        description="Once this is answered every process refuses it.",
        handler=revoke,
        query=NoQuery,
        answers={204: Answer("It is revoked.")},
        problems=(404,),
    ),
)
