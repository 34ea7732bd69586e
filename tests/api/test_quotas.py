"""Quotas at the API: what a tenant is told that is past one, and who may see and set it."""

from collections.abc import Awaitable, Callable

from tests.api.client import Api

NewKey = Callable[[str], Awaitable[str]]

HOOK = {"url": "https://example.com/hook"}
EVENT = {"type": "a.b", "data": 1}


async def test_who_publishes_too_fast_is_a_429_that_says_when(api: Api, new_key: NewKey) -> None:
    assert (await api.patch("/v1/tenants/acme/quota", {"events_per_s": 0.1})).status == 200
    acme = api.under(await new_key("acme"))
    assert (await acme.post("/v1/events", EVENT)).status == 202
    refused = await acme.post("/v1/events", EVENT)
    assert (refused.status, refused.problem) == (429, "too-many-events")
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    # For the tenant it counts who publishes, not with which key.
    assert (await api.post("/v1/events/batch", {"events": [{**EVENT, "tenant": "acme"}]})).status == 429
    assert (await api.post("/v1/events", EVENT)).status == 202
    assert len((await acme.get("/v1/events")).json["data"]) == 1


async def test_one_endpoint_too_many_is_a_422_that_names_the_quota(api: Api, new_key: NewKey) -> None:
    await api.patch("/v1/tenants/acme/quota", {"max_endpoints": 1})
    acme = api.under(await new_key("acme"))
    assert (await acme.post("/v1/endpoints", HOOK)).status == 201
    for path in ("/v1/endpoints", "/v1/webhooks", "/v1/jobs/job_1/callbacks"):
        refused = await acme.post(path, HOOK)
        assert (refused.status, refused.problem) == (422, "over-quota"), path
        assert "quota" in refused.json["detail"]
    assert (await api.post("/v1/endpoints", {**HOOK, "tenant": "acme"})).status == 422
    assert (await acme.get("/v1/tenants/acme/quota")).json["endpoints"] == 1


async def test_callbacks_that_have_expired_come_back_only_where_there_is_room(either_api: Api) -> None:
    api = either_api
    await api.patch("/v1/tenants/acme/quota", {"max_endpoints": 1})
    acme = api.under((await api.post("/v1/keys", {"tenant": "acme"})).json["key"])
    expired = (await acme.post("/v1/jobs/job_1/callbacks", HOOK)).json["id"]
    table = api.deployment.database.tables.endpoints
    async with api.deployment.database.begin() as connection:
        await connection.execute(table.update().values(status="disabled", disabled_reason="expired"))
    second = (await acme.post("/v1/jobs/job_2/callbacks", HOOK)).json["id"]
    for who in (acme, api):
        refused = await who.post(f"/v1/endpoints/{expired}/enable")
        assert (refused.status, refused.problem) == (422, "over-quota")
    assert (await acme.get(f"/v1/endpoints/{expired}")).json["status"] == "disabled"
    # One that counts all the time may be switched on and off.
    assert (await acme.post(f"/v1/endpoints/{second}/disable")).status == 200
    assert (await acme.post(f"/v1/endpoints/{second}/enable")).status == 200
    assert (await acme.delete(f"/v1/endpoints/{second}")).status == 204
    assert (await acme.post(f"/v1/endpoints/{expired}/enable")).status == 200


async def test_a_payload_past_the_quota_is_a_413(api: Api, new_key: NewKey) -> None:
    await api.patch("/v1/tenants/acme/quota", {"max_payload": 100})
    acme = api.under(await new_key("acme"))
    refused = await acme.post("/v1/events", {"type": "a.b", "data": "x" * 200})
    assert (refused.status, refused.pointers) == (413, ["#/data"])
    assert (await api.post("/v1/events", {"type": "a.b", "data": "x" * 200})).status == 202


async def test_a_tenant_sees_its_quota_and_does_not_set_it(api: Api, new_key: NewKey) -> None:
    acme = api.under(await new_key("acme"))
    shown = await acme.get("/v1/tenants/acme/quota")
    assert shown.json == {
        "tenant": "acme",
        "max_endpoints": None,
        "events_per_s": None,
        "max_payload": 262_144,
        "verify_endpoints": False,
        "own": [],
        "endpoints": 0,
    }
    assert (await acme.patch("/v1/tenants/acme/quota", {"max_endpoints": 5})).status == 403
    assert (await acme.get("/v1/tenants/rival/quota")).status == 404
    wrong: list[dict[str, object]] = [
        {"max_endpoints": -1},
        {"events_per_s": 0},
        # Nobody could be told when to try again.
        {"events_per_s": 1e-300},
        {"max_payload": 0},
        {"max_payload": "1KiB"},
        {"verify_endpoints": "yes"},
    ]
    for body in [*wrong, {"own": []}]:
        assert (await api.patch("/v1/tenants/acme/quota", body)).status == 422, body


async def test_only_the_operator_says_whether_a_tenant_must_prove_its_endpoints(
    either_api: Api,
) -> None:
    api = either_api
    acme = api.under((await api.post("/v1/keys", {"tenant": "acme"})).json["key"])
    reader = api.under((await api.post("/v1/keys", {"scopes": ["read", "endpoints"]})).json["key"])
    path = "/v1/tenants/acme/quota"
    required = await api.patch(path, {"verify_endpoints": True})
    assert (required.status, required.json["verify_endpoints"], required.json["own"]) == (
        200,
        True,
        ["verify_endpoints"],
    )
    for who in (acme, reader):
        for body in ({"verify_endpoints": False}, {"verify_endpoints": None}):
            assert (await who.patch(path, body)).status == 403
    assert (await acme.get(path)).json["verify_endpoints"] is True
    made = (await acme.post("/v1/endpoints", HOOK)).json
    assert (made["status"], made["verified_at"]) == ("paused", None)
    assert (await acme.post(f"/v1/endpoints/{made['id']}/enable")).status == 409
    assert (await api.post("/v1/endpoints", {**HOOK, "tenant": "acme"})).json["status"] == "paused"
    assert (await api.post("/v1/endpoints", HOOK)).json["status"] == "enabled"
    assert (await api.patch(path, {"verify_endpoints": None})).json["own"] == []
    assert (await acme.post(f"/v1/endpoints/{made['id']}/enable")).json["status"] == "enabled"
