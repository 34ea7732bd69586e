"""Published clients of other providers register here unchanged: shapes 2 and 4."""

import aiohttp

from tests.api.client import Api


async def test_shape_2_registers_with_url_and_events_and_pastes_the_secret(api: Api) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{api.base}/v1/webhooks",
            headers={"Authorization": f"Bearer {api.key}"},
            json={"url": "https://client.example/webhooks/agent", "events": ["task.completed", "task.failed"]},
        ) as response,
    ):
        assert response.status == 201
        webhook = await response.json()
    assert webhook["secret"].startswith("whsec_")
    shown = (await api.get(f"/v1/webhooks/{webhook['id']}")).json
    assert shown["event_types"] == ["task.completed", "task.failed"]
    assert shown["url"] == "https://client.example/webhooks/agent"
    addresses = (await api.get("/v1/egress")).json["addresses"]
    assert addresses, "it allow-lists source addresses"


async def test_shape_4_registers_one_event_type_with_its_own_short_secret(api: Api) -> None:
    secret = "my-23-character-secret!"
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{api.base}/v1/webhooks/subscriptions",
            headers={"Authorization": f"Bearer {api.key}"},
            json={"event_type": "task.completed", "target_url": "https://client.example/agent", "secret": secret},
        ) as response,
    ):
        assert response.status == 201
        subscription = await response.json()
    assert (len(secret), subscription["secret"]) == (23, secret)
    listed = (await api.get("/v1/webhooks/subscriptions")).json["data"]
    assert [(one["id"], one["event_types"]) for one in listed] == [(subscription["id"], ["task.completed"])]
    assert (await api.delete(f"/v1/webhooks/subscriptions/{subscription['id']}")).status == 204
