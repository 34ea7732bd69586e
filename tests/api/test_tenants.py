"""Lists, bulk routes, figures and identities are a tenant's own. Every single route is driven in `test_matrix`."""

from collections.abc import Awaitable, Callable

from dispatcher.api.queries import PageQuery
from dispatcher.api.table import ROUTES
from dispatcher.states import Scope
from tests.api import rows
from tests.api.client import Api

NewKey = Callable[[str], Awaitable[str]]

LISTS = [route for route in ROUTES if issubclass(route.query, PageQuery) and route.scope is not Scope.ADMIN]


async def test_every_list_is_empty_for_another_tenant(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    sent = await rows.sent(acme, tenant="acme", job_id="job_1")
    for route in LISTS:
        filters = [""]
        filters += [f"endpoint_id={sent.endpoint_id}"] * ("endpoint_id" in route.query.model_fields)
        filters += [f"event_id={sent.event_id}"] * ("event_id" in route.query.model_fields)
        filters += ["job_id=job_1"] * ("job_id" in route.query.model_fields)
        for query in filters:
            assert (await rival.get(f"{route.path}?{query}")).json["data"] == [], (route.path, query)
        assert (await acme.get(route.path)).json["data"] != [], route.path
        assert (await api.get(f"{route.path}?tenant=acme")).json["data"] != [], route.path
        assert (await api.get(f"{route.path}?tenant=rival")).json["data"] == [], route.path


async def test_bulk_routes_take_nothing_of_another_tenant(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    sent = await rows.sent(acme, tenant="acme")
    for path in ("/v1/dead-letters/redeliver", "/v1/dead-letters/discard"):
        for body in ({"all": True}, {"ids": [sent.dead_letter_id]}, {"endpoint_id": sent.endpoint_id}):
            answered = await rival.post(path, {**body, "dry_run": True})
            assert answered.json.get("matched", 0) == 0, (path, body)
    assert (await rival.post("/v1/dead-letters/discard", {"all": True})).json["matched"] == 0
    assert (await acme.get(f"/v1/dead-letters/{sent.dead_letter_id}")).status == 200


async def test_figures_are_the_tenants_own(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    await rows.sent(acme, tenant="acme")
    assert (await acme.get("/v1/stats")).json["dead_letters"]["count"] == 1
    assert (await rival.get("/v1/stats?per_endpoint=true")).json["dead_letters"]["count"] == 0


async def test_ids_and_keys_are_the_tenants_own(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    body = {"type": "a.b", "data": 1}
    for identity in ({"id": "same"}, {"idempotency_key": "same"}):
        one, other = (
            await acme.post("/v1/events", {**body, **identity}),
            await rival.post("/v1/events", {**body, **identity}),
        )
        assert (one.status, other.status) == (202, 202)
    hook = {"url": "https://example.com/hook"}
    one, other = [await tenant.post("/v1/endpoints", hook, Idempotency_Key="same") for tenant in (acme, rival)]
    assert one.json["id"] != other.json["id"]
    one, other = [await tenant.post("/v1/jobs/job_1/callbacks", hook) for tenant in (acme, rival)]
    assert one.json["id"] != other.json["id"]
    assert other.status == 201
