"""API keys: shown once, listed without, revoked."""

import pytest

from tests.api.client import Api


async def test_a_key_is_shown_once(api: Api) -> None:
    made = await api.post("/v1/keys", {"tenant": "acme"})
    assert made.status == 201
    key = made.json["key"]
    (listed,) = (await api.get("/v1/keys")).json["data"]
    assert (listed["id"], listed["tenant"]) == (made.json["id"], "acme")
    assert "key" not in listed
    assert (await api.under(key).get("/v1/endpoints")).status == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"tenant": ""}, {"tenant": None}, {"tenant": "a\u0000"}, {"tenant": "a", "scopes": ["root"]}, {"tenant": 5}],
)
async def test_a_key_without_a_proper_tenant_is_a_422(api: Api, body: dict[str, object]) -> None:
    answered = await api.post("/v1/keys", body)
    assert answered.status == 422
    assert (await api.get("/v1/keys")).json["data"] == []


async def test_an_unknown_key_cannot_be_revoked(api: Api) -> None:
    assert (await api.delete("/v1/keys/key_0000000000000")).status == 404
