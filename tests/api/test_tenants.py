"""No route shows or changes another tenant's things: checked over the whole table."""

from collections.abc import Awaitable, Callable

from dispatcher.api.queries import PageQuery
from dispatcher.api.route import Route, Scope
from dispatcher.api.table import ROUTES
from tests.api import rows
from tests.api.client import Api

NewKey = Callable[[str], Awaitable[str]]

OF_A_TENANT = [route for route in ROUTES if route.scope is Scope.TENANT]
ONE_THING = [route for route in OF_A_TENANT if route.parameters == ("id",)]
LISTS = [route for route in OF_A_TENANT if issubclass(route.query, PageQuery)]


async def things_of(api: Api) -> dict[str, str]:
    """One of each, by the first word of its path under /v1."""
    sent = await rows.sent(api, tenant="acme", job_id="job_1")
    assert sent.dead_letter_id is not None
    run = await api.post("/v1/dead-letters/redeliver", {"all": True})
    return {
        "endpoints": sent.endpoint_id,
        "webhooks": sent.endpoint_id,
        "events": sent.event_id,
        "deliveries": sent.delivery_id,
        "dead-letters": sent.dead_letter_id,
        "redeliveries": str(run.json["id"]),
    }


def path_to(route: Route, things: dict[str, str]) -> str:
    return route.path.replace("{id}", things[route.path.split("/")[2]])


async def test_every_route_with_an_id_answers_404_for_another_tenants_thing(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    things = await things_of(acme)
    before = [(await acme.get(path_to(route, things))).json for route in ONE_THING if route.method == "GET"]
    for route in ONE_THING:
        answered = await rival.send(route.method, path_to(route, things), json=dict(route.example) or None)
        assert (answered.status, answered.problem) == (404, "not-found"), (route.method, route.path, answered)
    after = [(await acme.get(path_to(route, things))).json for route in ONE_THING if route.method == "GET"]
    assert after == before


async def test_every_list_is_empty_for_another_tenant(api: Api, new_key: NewKey) -> None:
    acme, rival = api.under(await new_key("acme")), api.under(await new_key("rival"))
    things = await things_of(acme)
    for route in LISTS:
        filters = [""]
        filters += [f"endpoint_id={things['endpoints']}"] * ("endpoint_id" in route.query.model_fields)
        filters += [f"event_id={things['events']}"] * ("event_id" in route.query.model_fields)
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
