"""Client certificates and OAuth2 of endpoints: vetted, sealed, told without what is secret, and changed in parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import ConfigurationError, InvalidField
from dispatcher.ids import Kind, row_id
from dispatcher.rules.credentials import Credentials
from dispatcher.service import endpoints
from dispatcher.service.models import CallbackCreate, Endpoint, EndpointUpdate
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.scene import URL, Scene
from tests.transport.certificates import Authority

OAUTH2 = {
    "token_url": "https://auth.example.com/token?key=k3y",
    "client_id": "client",
    "client_secret": "s3cret",
    "scope": "events",
}
SHOWN = {
    "token_url": "https://auth.example.com/token?key=***",
    "client_id": "client",
    "client_secret": "***",
    "scope": "events",
    "audience": None,
    "auth_method": "client_secret_basic",
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "authority")


@pytest.fixture
def pair(authority: Authority, clock: FakeClock) -> dict[str, str]:
    certificate, key = authority.client("us", at=clock.now())
    return {"client_certificate": certificate, "client_key": key}


async def update(scene: Scene, endpoint_id: str, **fields: object) -> Endpoint:
    return await endpoints.update(scene.deployment, endpoint_id, EndpointUpdate.read(fields), tenant=None)


async def used(scene: Scene, endpoint_id: str) -> Credentials | None:
    deployment = scene.deployment
    policy = await EndpointBook(deployment).read(row_id(Kind.ENDPOINT, endpoint_id))
    assert policy is not None
    return policy.credentials


async def test_credentials_are_sealed_and_told_without_what_is_secret(
    scene: Scene, pair: dict[str, str], clock: FakeClock
) -> None:
    created = await scene.endpoint(**pair, oauth2=OAUTH2)
    read = await endpoints.get(scene.deployment, created.id, tenant=None)
    assert read.oauth2 is not None
    assert read.oauth2.model_dump() == SHOWN
    assert read.client_certificate is not None
    assert read.client_certificate.subject == "CN=us"
    assert (read.client_certificate.expires_at - clock.now()).total_seconds() == 86400
    tables = scene.deployment.database.tables
    async with scene.deployment.database.read() as connection:
        row = (await connection.execute(select(tables.endpoints))).one()
    told = repr(row) + read.model_dump_json() + repr(read) + created.model_dump_json()
    for secret in ("s3cret", "k3y", *pair["client_key"].splitlines()[1:-1]):
        assert secret not in told
    credentials = await used(scene, created.id)
    assert credentials is not None
    assert credentials.endpoint_id == created.id
    assert credentials.identity is not None
    assert credentials.oauth2 is not None
    assert (credentials.identity.key, credentials.oauth2.client_secret) == (pair["client_key"], "s3cret")
    assert credentials.oauth2.token_url == OAUTH2["token_url"]


async def test_an_endpoint_without_them_has_none(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint()
    assert (created.client_certificate, created.oauth2) == (None, None)
    assert await used(sqlite_scene, created.id) is None


async def test_a_jobs_callback_may_have_them(sqlite_scene: Scene, pair: dict[str, str]) -> None:
    body = CallbackCreate.read({"url": URL, **pair, "oauth2": OAUTH2})
    callback, _ = await endpoints.create_callback(sqlite_scene.deployment, "job_1", body, tenant="default")
    assert callback.client_certificate is not None
    assert callback.oauth2 is not None


async def test_a_certificate_is_renewed_under_its_key_or_with_another_and_taken_away(
    scene: Scene, authority: Authority, pair: dict[str, str], clock: FakeClock
) -> None:
    created = await scene.endpoint(**pair)
    other, key = authority.client("renewed", at=clock.now())
    with pytest.raises(InvalidField, match="client_key: does not belong"):
        await update(scene, created.id, client_certificate=other)
    with pytest.raises(InvalidField, match="client_key: does not belong"):
        await update(scene, created.id, client_key=key)
    same = await update(scene, created.id, client_certificate=pair["client_certificate"], client_key="***")
    assert same.client_certificate == created.client_certificate
    renewed = await update(scene, created.id, client_certificate=other, client_key=key)
    assert renewed.client_certificate is not None
    assert renewed.client_certificate.subject == "CN=renewed"
    with pytest.raises(InvalidField, match="client_key: is required"):
        await update(scene, created.id, client_key=None)
    untouched = await update(scene, created.id, description="a note")
    assert untouched.client_certificate == renewed.client_certificate
    bare = await update(scene, created.id, client_certificate=None)
    assert bare.client_certificate is None
    assert await used(scene, created.id) is None


async def test_stars_sent_back_leave_the_client_secret_where_it_is_sent_today(scene: Scene) -> None:
    created = await scene.endpoint(oauth2=OAUTH2)
    changed = await update(scene, created.id, oauth2=SHOWN | {"scope": "more", "audience": "https://api"})
    assert changed.oauth2 is not None
    assert (changed.oauth2.scope, changed.oauth2.token_url) == ("more", SHOWN["token_url"])
    credentials = await used(scene, created.id)
    assert credentials is not None
    assert credentials.oauth2 is not None
    assert (credentials.oauth2.client_secret, credentials.oauth2.scope) == ("s3cret", "more")
    assert credentials.oauth2.token_url == OAUTH2["token_url"]
    # Whoever may change an endpoint and does not know the secret must not have it sent elsewhere.
    for elsewhere in ({"token_url": "https://evil.example.com/token"}, {"client_id": "another"}):
        with pytest.raises(InvalidField, match="oauth2/client_secret"):
            await update(scene, created.id, oauth2=SHOWN | elsewhere)
    assert (await update(scene, created.id, oauth2=None)).oauth2 is None
    assert await used(scene, created.id) is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"oauth2": OAUTH2 | {"client_secret": "***"}}, "oauth2/client_secret"),
        ({"oauth2": OAUTH2 | {"token_url": "https://10.0.0.1/token"}}, "oauth2/token_url"),
        ({"oauth2": OAUTH2, "headers": {"authorization": "Bearer a"}}, "oauth2"),
        ({"oauth2": OAUTH2, "signature_header": "Authorization"}, "oauth2"),
        ({"oauth2": OAUTH2, "url": "https://user:password@example.com/"}, "oauth2"),
        ({"signature_header": "Authorization", "url": "https://user:password@example.com/"}, "signature_header"),
        ({"client_key": "key"}, "client_certificate"),
        ({"client_certificate": "certificate"}, "client_key"),
        ({"client_certificate": "certificate", "client_key": "***"}, "client_key"),
        ({"client_certificate": "certificate", "client_key": "key"}, "client_certificate"),
    ],
)
async def test_what_cannot_be_used_is_refused_and_nothing_is_stored(
    sqlite_scene: Scene, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidField) as raised:
        await sqlite_scene.endpoint(**fields)
    assert raised.value.field == field
    assert (await endpoints.list_page(sqlite_scene.deployment, tenant=None)).data == []


@pytest.mark.parametrize(
    ("oauth2", "field"),
    [
        ({}, "oauth2/token_url"),
        (OAUTH2 | {"client_id": ""}, "oauth2/client_id"),
        (OAUTH2 | {"client_id": "a\nb"}, "oauth2/client_id"),
        (OAUTH2 | {"client_secret": "a" * 1001}, "oauth2/client_secret"),
        (OAUTH2 | {"auth_method": "none"}, "oauth2/auth_method"),
        (OAUTH2 | {"grant_type": "password"}, "oauth2/grant_type"),
    ],
)
def test_a_wrong_field_is_named_without_its_value(oauth2: Mapping[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as raised:
        EndpointUpdate.read({"oauth2": oauth2})
    assert field in {problem.field for problem in raised.value.problems}
    assert "s3cret" not in str(raised.value)


async def test_what_is_changed_has_to_go_with_what_stays(
    sqlite_url: str, clock: FakeClock, pair: dict[str, str]
) -> None:
    async with open_scene(sqlite_url, clock, allow_http=True) as scene:
        guarded = await scene.endpoint(**pair)
        authorized = await scene.endpoint(oauth2=OAUTH2)
        for endpoint, fields, field in (
            (guarded, {"url": "http://example.com/"}, "client_certificate"),
            (authorized, {"headers": {"Authorization": "Bearer a"}}, "oauth2"),
            (authorized, {"url": "https://user:password@example.com/"}, "oauth2"),
        ):
            with pytest.raises(InvalidField) as raised:
                await update(scene, endpoint.id, **fields)
            assert raised.value.field == field


async def test_deleting_wipes_them(sqlite_scene: Scene, pair: dict[str, str]) -> None:
    created = await sqlite_scene.endpoint(**pair, oauth2=OAUTH2)
    await endpoints.delete(sqlite_scene.deployment, created.id, tenant=None)
    e = sqlite_scene.deployment.database.tables.endpoints.c
    columns = [column for column in e if column.name.startswith(("client_", "oauth2_"))]
    async with sqlite_scene.deployment.database.read() as connection:
        assert set((await connection.execute(select(*columns))).one()) == {None}


async def test_a_key_ring_that_lacks_their_key_is_no_other_fault(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint(oauth2=OAUTH2)
    tables = sqlite_scene.deployment.database.tables
    async with sqlite_scene.deployment.database.begin() as connection:
        await connection.execute(tables.endpoints.update().values(oauth2_sealed=b"\x01not ours"))
    with pytest.raises(ConfigurationError, match="DISPATCHER_SECRET_KEY"):
        await used(sqlite_scene, created.id)


@pytest.mark.parametrize("field", ["client_key", "oauth2"])
async def test_a_deployments_defaults_hold_no_credentials(sqlite_url: str, clock: FakeClock, field: str) -> None:
    defaults = {"oauth2": OAUTH2} if field == "oauth2" else {"client_key": "s3cret"}
    with pytest.raises(ConfigurationError, match=rf"DISPATCHER_ENDPOINT_DEFAULTS: {field}") as raised:
        async with open_scene(sqlite_url, clock, endpoint_defaults=defaults):
            pass
    assert "s3cret" not in str(raised.value)
