"""PUT /v1/tenants/{tenant}/secret: who may, what it answers, and who signs with it."""

from collections.abc import Awaitable, Callable

import pytest

from tests.api.client import Api

NewKey = Callable[[str], Awaitable[str]]
HOOK = {"url": "https://example.com/hook"}


async def test_what_is_made_without_a_secret_is_answered_with_the_tenants(either_api: Api) -> None:
    set_to = await either_api.send("PUT", "/v1/tenants/acme/secret", json={"secret": "s3cret-text"})
    assert (set_to.status, set_to.json) == (200, {"tenant": "acme", "secret": "s3cret-text"})
    endpoint = await either_api.post("/v1/endpoints", {**HOOK, "tenant": "acme"})
    callback = await either_api.post("/v1/jobs/job_1/callbacks", {**HOOK, "tenant": "acme"})
    own = await either_api.post("/v1/endpoints", {**HOOK, "tenant": "acme", "secret": "its-own-secret"})
    other = await either_api.post("/v1/endpoints", HOOK)
    assert (endpoint.json["secret"], callback.json["secret"]) == ("s3cret-text", "s3cret-text")
    assert own.json["secret"] == "its-own-secret"
    assert other.json["secret"].startswith("whsec_")
    for path in ("/v1/endpoints", f"/v1/endpoints/{endpoint.json['id']}"):
        assert b"s3cret-text" not in (await either_api.get(path)).raw


async def test_without_a_secret_one_is_made(api: Api) -> None:
    made = await api.send("PUT", "/v1/tenants/acme/secret")
    again = await api.send("PUT", "/v1/tenants/acme/secret", json={})
    assert made.json["secret"].startswith("whsec_")
    assert again.json["secret"] != made.json["secret"]


async def test_a_tenants_key_sets_its_own_and_finds_no_other(api: Api, new_key: NewKey) -> None:
    acme = api.under(await new_key("acme"))
    assert (await acme.send("PUT", "/v1/tenants/acme/secret", json={"secret": "s3cret-text"})).status == 200
    assert (await acme.post("/v1/endpoints", HOOK)).json["secret"] == "s3cret-text"
    refused = await acme.send("PUT", "/v1/tenants/rival/secret", json={"secret": "not-theirs"})
    assert refused.status == 404
    assert (await api.post("/v1/endpoints", {**HOOK, "tenant": "rival"})).json["secret"] != "not-theirs"
    assert (await api.under(None).send("PUT", "/v1/tenants/acme/secret", json={})).status == 401


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/tenants/acme/secret", {"secret": "short"}, "#/secret"),
        ("/v1/tenants/acme/secret", {"overlap_s": -1}, "#/overlap_s"),
        ("/v1/tenants/acme/secret", {"key": "s3cret-text"}, "#/key"),
        (f"/v1/tenants/{'x' * 129}/secret", {}, "#/tenant"),
        ("/v1/tenants/acme/secret?tenant=rival", {}, "#/tenant"),
    ],
)
async def test_a_wrong_field_is_a_422_that_names_it(api: Api, path: str, body: dict[str, object], pointer: str) -> None:
    answered = await api.send("PUT", path, json=body)
    assert answered.status == 422
    assert answered.pointers == [pointer]
    assert b"short" not in answered.raw
