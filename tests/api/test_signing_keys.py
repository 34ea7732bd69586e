"""Staged rotation and public keys over HTTP."""

import pytest

from tests.api.client import Api
from tests.receiver import Receiver

JWKS = "/.well-known/jwks.json"


async def test_a_rotation_is_staged_tried_and_activated(either_api: Api, receiver: Receiver) -> None:
    api = either_api
    made = await api.post("/v1/endpoints", {"url": receiver.url("/hook")})
    path = made.headers["Location"]
    nothing = await api.post(f"{path}/rotate-secret/activate")
    assert (nothing.status, nothing.problem) == (409, "conflict")
    staged = await api.post(f"{path}/rotate-secret", {"stage": True, "secret": "the-next-one"})
    assert (staged.status, staged.json["secret"]) == (200, "the-next-one")
    shown = await api.get(path)
    assert shown.json["secret_staged_at"] is not None
    assert b"the-next-one" not in shown.raw

    receiver.answers("/hook", 401, 200)
    refused = await api.post(f"{path}/rotate-secret/activate", {})
    assert refused.status == 409
    assert "status 401" in refused.json["detail"]
    activated = await api.post(f"{path}/rotate-secret/activate", {"force": False})
    assert (activated.status, activated.json["secret_staged_at"]) == (200, None)
    assert b"the-next-one" not in activated.raw
    wrong = await api.post(f"{path}/rotate-secret/activate", {"forced": True})
    assert (wrong.status, wrong.pointers) == (422, ["#/forced"])


async def test_it_is_forced_whatever_the_receiver_says(either_api: Api, receiver: Receiver) -> None:
    api = either_api
    receiver.answers("/hook", 500)
    path = (await api.post("/v1/endpoints", {"url": receiver.url("/hook")})).headers["Location"]
    await api.post(f"{path}/rotate-secret", {"stage": True})
    assert (await api.post(f"{path}/rotate-secret/activate", {"force": True})).status == 200
    assert receiver.received() == []


@pytest.mark.parametrize("stage", [False, True])
async def test_a_secret_that_cannot_be_read_is_a_409_that_says_how_to_do_without(either_api: Api, stage: bool) -> None:
    database = either_api.deployment.database
    path = (await either_api.post("/v1/endpoints", {"url": "https://example.com/"})).headers["Location"]
    async with database.begin() as connection:
        await connection.execute(database.tables.endpoint_secrets.update().values(sealed=b"under a key that is lost"))
    refused = await either_api.post(f"{path}/rotate-secret", {"stage": stage})
    assert (refused.status, refused.problem) == (409, "conflict")
    assert "DISPATCHER_SECRET_KEY, or rotate with `overlap_s` 0" in refused.json["detail"]
    done = await either_api.post(f"{path}/rotate-secret", {"stage": stage, "overlap_s": 0})
    assert (done.status, done.json["secret"][:6]) == (200, "whsec_")


async def test_what_needs_a_secret_that_cannot_be_read_is_a_409_that_names_its_key(either_api: Api) -> None:
    database = either_api.deployment.database
    made = await either_api.post("/v1/endpoints", {"url": "https://example.com/"})
    async with database.begin() as connection:
        await connection.execute(database.tables.endpoint_secrets.update().values(sealed=b"under a key that is lost"))
    path = made.headers["Location"]
    for asked in (f"{path}/test", f"{path}/verify"):
        refused = await either_api.post(asked)
        assert (refused.status, refused.problem) == (409, "conflict"), asked
        assert "DISPATCHER_SECRET_KEY" in refused.json["detail"]


async def test_public_keys_are_shown_to_the_tenant_and_as_jwks_to_whoever_asks(either_api: Api) -> None:
    api = either_api
    made = await api.post("/v1/endpoints", {"url": "https://example.com/", "signatures": ["v1a", "v1"]})
    assert made.json["signatures"] == ["v1", "v1a"]
    listed = await api.get(f"{made.headers['Location']}/public-keys")
    [key] = listed.json["data"]
    assert key["public_key"].startswith("whpk_")
    assert (key["staged"], key["retires_at"]) == (False, None)
    published = await api.under(None).get(f"{JWKS}?endpoint_id={made.json['id']}")
    assert (published.status, published.headers["Content-Type"]) == (200, "application/jwk-set+json")
    [jwk] = published.json["keys"]
    assert (jwk["kid"], jwk["kty"], jwk["crv"], jwk["alg"]) == (key["id"], "OKP", "Ed25519", "EdDSA")
    assert set(jwk) == {"kty", "crv", "x", "kid", "use", "alg"}
    assert (await api.under(None).get(f"{JWKS}?endpoint_id=ep_0000000000000")).json == {"keys": []}
    # The deployment itself has no key that any receiver should trust.
    assert (await api.under(None).get(JWKS)).json == {"keys": []}


@pytest.mark.parametrize("signatures", [[], ["v1a"], ["v2"], "v1", None])
async def test_signatures_without_v1_are_refused_by_name(api: Api, signatures: object) -> None:
    answered = await api.post("/v1/endpoints", {"url": "https://example.com/", "signatures": signatures})
    assert answered.status == 422
    assert answered.pointers[0].startswith("#/signatures")
