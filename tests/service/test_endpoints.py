"""Endpoints through the service: registered once, shown without secrets, listed, and everything wrong named."""

import asyncio
import hmac
import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import ConfigurationError, Conflict, InvalidField, InvalidFields, NotFound
from dispatcher.ids import Kind, row_id
from dispatcher.rules.derived_keys import derived_key
from dispatcher.service import endpoints
from dispatcher.service.models import (
    CallbackCreate,
    Endpoint,
    EndpointCreate,
    EndpointUpdate,
    EndpointWithSecret,
    Recover,
    RotateSecret,
)
from dispatcher.store.keyring import KeyRing
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.scene import URL, Scene


async def update(scene: Scene, endpoint_id: str, **fields: object) -> Endpoint:
    return await endpoints.update(scene.deployment, endpoint_id, EndpointUpdate.read(fields), tenant=None)


async def test_an_endpoint_is_stored_with_every_field_and_read_back(scene: Scene) -> None:
    fields = {
        "description": "für alle",
        "event_types": ["task.failed", "job.*"],
        "profile": "flat",
        "ordered": False,
        "order_hold_s": None,
        "progress_interval_s": 10.0,
        "heartbeat_s": 60.0,
        "signature_header": "X-Agent-Signature",
        "signature_prefix": "sha256=",
        "headers": {"X-Api-Key": "k3y"},
        "rate_limit": 2.5,
        "max_in_flight": 3,
        "retry_schedule": [1, 2.5],
        "timeout_s": 7.5,
        "metadata": {"team": "ü"},
        "secret": "s3cret-text",
    }
    created = await scene.endpoint(tenant="acme", **fields)
    read = await endpoints.get(scene.deployment, created.id, tenant="acme")
    assert created.secret == "s3cret-text"
    assert read.model_dump() == created.model_dump(exclude={"secret"})
    expected = fields | {
        "tenant": "acme",
        "url": "https://example.com/hook?token=***",
        "headers": {"X-Api-Key": "***"},
        "status": "enabled",
        "disabled_reason": None,
        "job_id": None,
        "created_at": "2026-01-01T12:00:00Z",
    }
    del expected["secret"]
    assert {name: read.model_dump()[name] for name in expected} == expected


async def test_what_the_engine_reads_is_what_was_registered(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint(
        headers={"X-Api-Key": "k3y"}, retry_schedule=[1, 2], secret="s3cret-text", timeout_s=3, order_hold_s=None
    )
    policy = await EndpointBook(sqlite_scene.deployment).read(row_id(Kind.ENDPOINT, created.id))
    assert policy is not None
    assert (str(policy.url), policy.headers, policy.keys) == (URL, {"X-Api-Key": "k3y"}, (b"s3cret-text",))
    assert (policy.retry.schedule, policy.timeout_s, policy.hold_s) == ((1.0, 2.0), 3.0, None)


async def test_neither_url_nor_secret_nor_header_is_readable_at_rest(sqlite_scene: Scene) -> None:
    created = await sqlite_scene.endpoint(url="https://u:pa55word@example.com/?t=t0ken", headers={"X-Key": "h3ader"})
    tables = sqlite_scene.deployment.database.tables
    async with sqlite_scene.deployment.database.read() as connection:
        stored = [
            repr(tuple(row))
            for table in (tables.endpoints, tables.endpoint_secrets)
            for row in await connection.execute(select(table))
        ]
    assert len(stored) == 2
    for secret in ("pa55word", "t0ken", "h3ader", created.secret):
        assert not any(secret in row for row in stored)
        assert secret not in repr(await endpoints.get(sqlite_scene.deployment, created.id, tenant=None))
    assert created.secret not in repr(created)


async def test_what_tells_repeated_registrations_is_keyed_with_a_key_of_its_own(sqlite_scene: Scene) -> None:
    deployment = sqlite_scene.deployment
    body = EndpointCreate(url=URL)
    await endpoints.create(deployment, body, tenant="default", idempotency_key="once")
    async with deployment.database.read() as connection:
        digest = await connection.scalar(select(deployment.database.tables.endpoints.c.request_digest))
    said = json.dumps(body.model_dump(mode="json", include=body.model_fields_set), sort_keys=True).encode()
    [key] = deployment.keyring.keys
    own = derived_key(key, "endpoint request")
    assert digest == hmac.new(own, said, "sha256").hexdigest()
    assert own not in (key, derived_key(key, "job link"))


async def test_a_registration_is_known_again_under_a_new_key(sqlite_scene: Scene) -> None:
    deployment, body = sqlite_scene.deployment, EndpointCreate(url=URL)
    first, _ = await endpoints.create(deployment, body, tenant="default", idempotency_key="once")
    rotated = replace(deployment, keyring=KeyRing((b"n" * 32, *deployment.keyring.keys)))
    again, made = await endpoints.create(rotated, body, tenant="default", idempotency_key="once")
    assert (again.id, made) == (first.id, False)


async def test_a_secret_is_made_where_none_is_given(sqlite_scene: Scene) -> None:
    first, second = await sqlite_scene.endpoint(), await sqlite_scene.endpoint()
    assert first.secret.startswith("whsec_")
    assert first.secret != second.secret


async def test_the_same_idempotency_key_and_body_is_the_same_endpoint(scene: Scene) -> None:
    body = EndpointCreate.read({"url": URL, "event_types": ["a"]})

    async def create() -> tuple[EndpointWithSecret, bool]:
        return await endpoints.create(scene.deployment, body, tenant="acme", idempotency_key="k")

    answers = await asyncio.gather(create(), create(), create())
    assert len({(answer.id, answer.secret) for answer, _ in answers}) == 1
    assert sorted(anew for _, anew in answers) == [False, False, True]
    other_tenant, anew = await endpoints.create(scene.deployment, body, tenant="other", idempotency_key="k")
    assert anew
    assert other_tenant.id != answers[0][0].id


async def test_an_idempotency_key_with_another_body_is_a_conflict(sqlite_scene: Scene) -> None:
    for given in ({"secret": "another-secret"}, {"ordered": True}):
        body = EndpointCreate.read({"url": URL})
        await endpoints.create(sqlite_scene.deployment, body, tenant="a", idempotency_key="k")
        with pytest.raises(Conflict, match="another body"):
            await endpoints.create(
                sqlite_scene.deployment, EndpointCreate.read({"url": URL, **given}), tenant="a", idempotency_key="k"
            )


async def test_endpoint_defaults_fill_what_is_not_given(sqlite_url: str, clock: FakeClock) -> None:
    defaults = {"profile": "flat", "signature_header": "X-Agent-Signature", "timeout_s": 3, "event_types": ["job.*"]}
    async with open_scene(sqlite_url, clock, endpoint_defaults=defaults) as scene:
        filled = await scene.endpoint()
        told = await scene.endpoint(profile="raw", timeout_s=None)
    assert (filled.profile, filled.signature_header, filled.timeout_s) == ("flat", "X-Agent-Signature", 3.0)
    assert filled.event_types == ["job.*"]
    assert (told.profile, told.signature_header, told.timeout_s) == ("raw", "X-Agent-Signature", None)


async def test_bad_endpoint_defaults_are_an_operators_error(sqlite_url: str, clock: FakeClock) -> None:
    defaults = {"profile": "yaml", "secret": "s3cret-text"}
    with pytest.raises(ConfigurationError, match=r"DISPATCHER_ENDPOINT_DEFAULTS: .*profile.*secret") as raised:
        async with open_scene(sqlite_url, clock, endpoint_defaults=defaults):
            pass
    assert "s3cret-text" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"headers": {"X-A": "***"}}, "headers/X-A"),
        ({"headers": {"X-Sig": "1"}, "signature_header": "x-sig"}, "signature_header"),
    ],
)
async def test_a_refused_endpoint_names_its_field_and_stores_nothing(
    sqlite_scene: Scene, fields: dict[str, object], field: str
) -> None:
    body = EndpointCreate.read({"url": URL, **fields})
    with pytest.raises(InvalidField) as raised:
        await endpoints.create(sqlite_scene.deployment, body, tenant="default")
    assert raised.value.field == field
    assert (await endpoints.list_page(sqlite_scene.deployment, tenant=None)).data == []


async def test_another_tenants_endpoint_is_not_found(scene: Scene) -> None:
    deployment, theirs = scene.deployment, await scene.endpoint(tenant="acme")
    since = Recover.read({"since": "2026-01-01T00:00:00Z"})
    calls = (
        lambda: endpoints.get(deployment, theirs.id, tenant="evil"),
        lambda: endpoints.update(deployment, theirs.id, EndpointUpdate.read({"ordered": False}), tenant="evil"),
        lambda: endpoints.delete(deployment, theirs.id, tenant="evil"),
        lambda: endpoints.set_status(deployment, theirs.id, "pause", tenant="evil"),
        lambda: endpoints.rotate_secret(deployment, theirs.id, RotateSecret(), tenant="evil"),
        lambda: endpoints.recover(deployment, theirs.id, since, tenant="evil"),
        lambda: endpoints.send_test(deployment, theirs.id, tenant="evil"),
    )
    for call in calls:
        with pytest.raises(NotFound):
            await call()
    assert (await endpoints.list_page(deployment, tenant="evil")).data == []
    assert [one.id for one in (await endpoints.list_page(deployment, tenant="acme")).data] == [theirs.id]
    assert await endpoints.get(deployment, theirs.id, tenant="acme") == await endpoints.get(
        deployment, theirs.id, tenant=None
    )


async def test_pages_stay_stable_while_endpoints_arrive(scene: Scene) -> None:
    made = []
    for _ in range(5):
        made.append((await scene.endpoint()).id)
        scene.clock.advance(1)
    first = await endpoints.list_page(scene.deployment, tenant="default", limit=2)
    await scene.endpoint()
    second = await endpoints.list_page(scene.deployment, tenant="default", limit=2, cursor=first.next_cursor)
    third = await endpoints.list_page(scene.deployment, tenant="default", limit=2, cursor=second.next_cursor)
    listed = [one.id for page in (first, second, third) for one in page.data]
    assert listed == made[::-1]
    assert third.next_cursor is None


async def test_endpoints_of_one_instant_are_each_listed_once(sqlite_scene: Scene) -> None:
    made = {(await sqlite_scene.endpoint()).id for _ in range(5)}
    listed, cursor = [], None
    for _ in range(3):
        page = await endpoints.list_page(sqlite_scene.deployment, tenant=None, limit=2, cursor=cursor)
        listed += [one.id for one in page.data]
        cursor = page.next_cursor
    assert cursor is None
    assert sorted(listed) == sorted(made)


async def test_lists_filter_by_job_and_status(sqlite_scene: Scene) -> None:
    plain = await sqlite_scene.endpoint()
    await endpoints.set_status(sqlite_scene.deployment, plain.id, "pause", tenant=None)
    callback, _ = await endpoints.create_callback(
        sqlite_scene.deployment, "job_1", CallbackCreate.read({"url": URL}), tenant="default"
    )
    by_job = await endpoints.list_page(sqlite_scene.deployment, tenant=None, job_id="job_1")
    paused = await endpoints.list_page(sqlite_scene.deployment, tenant=None, status="paused")
    assert [one.id for one in by_job.data] == [callback.id]
    assert [one.id for one in paused.data] == [plain.id]


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ({"url": "u", "target_url": "u"}, ["target_url"]),
        ({"url": "u", "event_types": ["a"], "event_type": "a", "events": ["a"]}, ["events", "event_type"]),
        (
            {"url": "u", "kind": 1, "heartbeat_s": 5, "progress_interval_s": 0},
            ["heartbeat_s", "kind", "progress_interval_s"],
        ),
        ({"url": "u", "event_types": []}, ["event_types"]),
        (
            {"url": "u", "event_types": ["a..b"], "timeout_s": 0.05, "rate_limit": 0},
            ["event_types", "rate_limit", "timeout_s"],
        ),
        ({"url": "u", "retry_schedule": [1] * 51}, ["retry_schedule"]),
        ({"url": "u", "retry_schedule": [float("nan")]}, ["retry_schedule/0"]),
        ({"url": "u", "secret": "short"}, ["secret"]),
        ({"url": "u", "headers": {"Host": "x"}}, ["headers"]),
        ({"url": "u", "headers": {"X-A": "a\r\nb"}}, ["headers"]),
        ({"url": "u", "metadata": {"a": 1}}, ["metadata/a"]),
        ({"url": "u", "metadata": {str(n): "" for n in range(51)}}, ["metadata"]),
        ({"url": "u", "description": "a\x00"}, ["description"]),
        ({"url": "u", "ordered": None, "profile": None}, ["ordered", "profile"]),
        ({"url": "u", "max_in_flight": True}, ["max_in_flight"]),
        ({}, ["url"]),
        ([], ["body"]),
    ],
)
def test_everything_that_is_wrong_with_an_endpoint_is_named_at_once(payload: object, fields: list[str]) -> None:
    with pytest.raises(InvalidFields) as raised:
        EndpointCreate.read(payload)
    assert sorted(problem.field for problem in raised.value.problems) == sorted(fields)


def test_aliases_are_read_as_the_fields_they_name() -> None:
    for model in (EndpointCreate, CallbackCreate, EndpointUpdate):
        body = model.read({"target_url": "https://example.com/", "event_type": "task.completed"})
        assert (body.url, body.event_types) == ("https://example.com/", ["task.completed"])
        assert model.read({"url": "u", "events": ["a", "b", "a"]}).event_types == ["a", "b"]
