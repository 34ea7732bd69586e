"""Keys: which are let in, and whose things they see."""

from collections.abc import Awaitable, Callable

import pytest

from dispatcher.api.auth import tenant_scope
from dispatcher.api.table import ROUTES
from dispatcher.errors import InvalidField
from dispatcher.service.keys import ADMIN, Caller
from dispatcher.states import Scope
from tests.api.client import ADMIN_KEY, Api

NewKey = Callable[[str], Awaitable[str]]


async def test_the_public_routes_are_exactly_those_of_the_contract_and_public_keys() -> None:
    public = {route.path for route in ROUTES if route.scope is None}
    assert public == {"/healthz", "/readyz", "/openapi.json", "/docs", "/.well-known/jwks.json"}


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ADMIN_KEY}",
        ADMIN_KEY,
        f"Bearer {ADMIN_KEY}x",
        f"Bearer {ADMIN_KEY[:-1]}",
        "Bearer whk_unknown",
        "Bearer \u00e9",
        f"Bearer {'x' * 5000}",
    ],
)
async def test_a_wrong_key_is_a_401(api: Api, authorization: str) -> None:
    answered = await api.send("GET", "/v1/endpoints", headers={"Authorization": authorization})
    assert answered.status == 401
    assert ADMIN_KEY not in answered.raw.decode()


async def test_the_scheme_may_be_written_in_any_case(api: Api) -> None:
    answered = await api.send("GET", "/v1/endpoints", headers={"Authorization": f"bearer {ADMIN_KEY}"})
    assert answered.status == 200


async def test_a_tenants_key_that_names_another_tenant_is_a_403(api: Api, new_key: NewKey) -> None:
    tenant = api.under(await new_key("acme"))
    assert (await tenant.get("/v1/endpoints?tenant=rival")).status == 403
    assert (await tenant.post("/v1/events", {"type": "a.b", "data": 1, "tenant": "rival"})).status == 403
    batch = {"events": [{"type": "a.b", "data": 1}, {"type": "a.b", "data": 1, "tenant": "rival"}]}
    assert (await tenant.post("/v1/events/batch", batch)).status == 403
    assert (await tenant.get("/v1/endpoints?tenant=acme")).status == 200
    assert (await tenant.post("/v1/events", {"type": "a.b", "data": 1, "tenant": "acme"})).status == 202


async def test_the_admin_names_the_tenant_in_the_body_or_in_the_query(api: Api) -> None:
    body = {"url": "https://example.com/hook"}
    assert (await api.post("/v1/endpoints", {**body, "tenant": "acme"})).json["tenant"] == "acme"
    assert (await api.post("/v1/endpoints?tenant=acme", body)).json["tenant"] == "acme"
    assert (await api.post("/v1/endpoints", body)).json["tenant"] == "default"
    assert (await api.post("/v1/endpoints?tenant=acme", {**body, "tenant": "rival"})).status == 422


async def test_the_admin_may_publish_for_several_tenants_in_one_batch(api: Api) -> None:
    good = {"type": "a.b", "data": 1}
    answered = await api.post("/v1/events/batch", {"events": [good, {**good, "tenant": "acme"}]})
    owners = {event["id"]: event["tenant"] for event in (await api.get("/v1/events")).json["data"]}
    assert [owners[identifier] for identifier in answered.json["ids"]] == ["default", "acme"]
    one_other = {"events": [good, {**good, "tenant": "rival"}]}
    assert (await api.post("/v1/events/batch?tenant=acme", one_other)).status == 422
    assert len((await api.get("/v1/events")).json["data"]) == 2


async def test_an_event_id_that_several_tenants_have_wants_the_tenant_named(api: Api) -> None:
    for tenant in ("acme", "rival"):
        await api.post("/v1/events", {"type": "a.b", "data": tenant, "id": "same", "tenant": tenant})
    assert (await api.get("/v1/events/same")).status == 409
    assert (await api.get("/v1/events/same?tenant=acme")).json["data"] == "acme"


def test_the_admin_sees_every_tenant_unless_one_is_named() -> None:
    tenant = Caller(tenant="acme", scopes=frozenset({Scope.READ}))
    assert tenant_scope(ADMIN) is None
    assert tenant_scope(ADMIN, "acme", None) == "acme"
    assert tenant_scope(tenant, None) == "acme"
    with pytest.raises(InvalidField, match="tenant"):
        tenant_scope(ADMIN, "acme", "rival")
