"""Endpoints changed: for every attempt that begins after the answer."""

import pytest
from sqlalchemy import select

from dispatcher.engine.endpoint_book import EndpointBook
from dispatcher.errors import Conflict, InvalidField, NotFound
from dispatcher.ids import Kind, row_id
from dispatcher.service import endpoints
from dispatcher.service.models import (
    CallbackCreate,
    Endpoint,
    EndpointUpdate,
    EndpointWithSecret,
    RotateSecret,
)
from dispatcher.states import DeliveryState, EndpointStatus, Reason
from dispatcher.store import endpoint_status
from tests.service.scene import URL, Scene


async def update(scene: Scene, endpoint_id: str, **fields: object) -> Endpoint:
    return await endpoints.update(scene.deployment, endpoint_id, EndpointUpdate.read(fields), tenant=None)


async def test_an_update_changes_what_is_given_and_nothing_else(scene: Scene) -> None:
    before = await scene.endpoint(rate_limit=5, description="old", headers={"X-A": "1"})
    scene.clock.advance(60)
    after = await update(
        scene, before.id, rate_limit=None, target_url="https://example.org/x", events=["job.*"], metadata={"a": "b"}
    )
    changed = {name for name in after.model_dump() if after.model_dump()[name] != before.model_dump()[name]}
    assert changed == {"rate_limit", "url", "event_types", "metadata", "updated_at"}
    assert (after.rate_limit, after.url, after.event_types) == (None, "https://example.org/x", ["job.*"])
    assert await scene.patterns() == [("default", "job.*")]


async def test_every_change_raises_the_version_that_attempts_are_made_under(scene: Scene) -> None:
    endpoint_id = (await scene.endpoint()).id
    endpoint_row = row_id(Kind.ENDPOINT, endpoint_id)

    async def version() -> int:
        e = scene.deployment.database.tables.endpoints.c
        async with scene.deployment.database.read() as connection:
            return int((await connection.execute(select(e.version).where(e.row_id == endpoint_row))).scalar_one())

    seen = [await version()]
    await update(scene, endpoint_id, ordered=False)
    seen.append(await version())
    await endpoints.rotate_secret(scene.deployment, endpoint_id, RotateSecret(), tenant=None)
    seen.append(await version())
    actions: tuple[endpoints.Action, ...] = ("pause", "resume", "disable", "enable")
    for action in actions:
        await endpoints.set_status(scene.deployment, endpoint_id, action, tenant=None)
        seen.append(await version())
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    await update(scene, endpoint_id)
    await endpoints.set_status(scene.deployment, endpoint_id, "enable", tenant=None)
    assert await version() == 7


async def test_stars_sent_back_leave_a_headers_value(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    created = await scene.endpoint(headers={"X-Keep": "kept", "X-Change": "old", "X-Drop": "gone"})
    after = await update(scene, created.id, headers={"x-keep": "***", "X-Change": "new"})
    assert after.headers == {"x-keep": "***", "X-Change": "***"}
    policy = await EndpointBook(scene.deployment).read(row_id(Kind.ENDPOINT, created.id))
    assert policy is not None
    assert policy.headers == {"x-keep": "kept", "X-Change": "new"}
    with pytest.raises(InvalidField, match="headers/X-New"):
        await update(scene, created.id, headers={"X-New": "***"})
    with pytest.raises(InvalidField, match="signature_header"):
        await update(scene, created.id, signature_header="X-KEEP")


async def test_a_paused_endpoint_keeps_what_comes_and_a_disabled_one_matches_nothing(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["b.*", "a"])
    await endpoints.set_status(scene.deployment, endpoint.id, "pause", tenant=None)
    await scene.publish("a")
    await scene.fan_out()
    disabled = await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    assert (disabled.status, disabled.disabled_reason) == (EndpointStatus.DISABLED, Reason.OPERATOR)
    assert disabled.event_types == ["b.*", "a"]
    assert [(one.state, one.reason) for one in await scene.deliveries()] == [(DeliveryState.CANCELLED, Reason.OPERATOR)]
    await scene.publish("a")
    await scene.fan_out()
    enabled = await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    assert (enabled.status, enabled.disabled_reason) == (EndpointStatus.ENABLED, None)
    await scene.publish("b.c")
    await scene.fan_out()
    assert [(one.type, one.state) for one in await scene.deliveries()] == [
        ("b.c", DeliveryState.PENDING),
        ("a", DeliveryState.CANCELLED),
    ]


async def test_an_endpoint_that_the_engine_disabled_matches_its_types_again_once_enabled(scene: Scene) -> None:
    endpoint = await scene.endpoint(event_types=["b", "a"])
    async with scene.deployment.database.begin() as connection:
        await endpoint_status.disable(
            connection, scene.deployment.database, row_id(Kind.ENDPOINT, endpoint.id), Reason.GONE
        )
    assert await scene.patterns() == []
    enabled = await endpoints.set_status(scene.deployment, endpoint.id, "enable", tenant=None)
    assert enabled.event_types == ["b", "a"]
    assert await scene.patterns() == [("default", "a"), ("default", "b")]


async def test_disabling_cancels_more_than_one_batch(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    endpoint = await scene.endpoint()
    for _ in range(3):
        await scene.publish()
    await scene.fan_out()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dispatcher.service.endpoint_changes._CANCEL_BATCH", 2)
        await endpoints.set_status(scene.deployment, endpoint.id, "disable", tenant=None)
    assert {one.state for one in await scene.deliveries()} == {DeliveryState.CANCELLED}


async def test_a_disabled_endpoint_is_neither_paused_nor_resumed(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    await endpoints.set_status(sqlite_scene.deployment, endpoint.id, "disable", tenant=None)
    actions: tuple[endpoints.Action, ...] = ("pause", "resume")
    for action in actions:
        with pytest.raises(Conflict, match="enable it first"):
            await endpoints.set_status(sqlite_scene.deployment, endpoint.id, action, tenant=None)


async def test_enabling_forgets_failures_and_lifts_an_expiry_that_has_passed(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    body = CallbackCreate.read({"url": URL, "expires_in_s": 60})
    callback, _ = await endpoints.create_callback(scene.deployment, "job_1", body, tenant="default")
    state = scene.deployment.database.tables.endpoint_state
    async with scene.deployment.database.begin() as connection:
        await connection.execute(state.update().values(failures_in_row=40, paused_until=scene.clock.now(), ramp=1))
    await endpoints.set_status(scene.deployment, callback.id, "disable", tenant=None)
    scene.clock.advance(61)
    enabled = await endpoints.set_status(scene.deployment, callback.id, "enable", tenant=None)
    assert enabled.expires_at is None
    async with scene.deployment.database.read() as connection:
        row = (await connection.execute(select(state))).one()
    assert (row.failures_in_row, row.paused_until, row.ramp) == (0, None, None)


async def test_deleting_wipes_what_is_secret_and_cancels_what_waits(scene: Scene) -> None:
    endpoint = await scene.endpoint(headers={"X-A": "1"})
    await scene.publish()
    await scene.fan_out()
    await endpoints.delete(scene.deployment, endpoint.id, tenant="default")
    assert [(one.state, one.reason) for one in await scene.deliveries()] == [
        (DeliveryState.CANCELLED, Reason.ENDPOINT_DELETED)
    ]
    with pytest.raises(NotFound):
        await endpoints.get(scene.deployment, endpoint.id, tenant=None)
    tables = scene.deployment.database.tables
    async with scene.deployment.database.read() as connection:
        row = (await connection.execute(select(tables.endpoints))).one()
        secrets = (await connection.execute(select(tables.endpoint_secrets))).all()
    assert (row.url_sealed, row.headers_sealed, secrets) == (b"", None, [])
    assert await scene.patterns() == []


async def test_rotating_keeps_the_old_secret_for_the_overlap(scene: Scene) -> None:
    endpoint = await scene.endpoint(secret="first-secret")
    endpoint_row = row_id(Kind.ENDPOINT, endpoint.id)

    async def keys() -> tuple[bytes, ...]:
        policy = await EndpointBook(scene.deployment).read(endpoint_row)
        assert policy is not None
        return policy.keys

    async def rotate(**fields: object) -> EndpointWithSecret:
        return await endpoints.rotate_secret(scene.deployment, endpoint.id, RotateSecret.read(fields), tenant="default")

    rotated = await rotate(secret="second-secret", overlap_s=60)
    assert rotated.secret == "second-secret"
    assert await keys() == (b"second-secret", b"first-secret")
    scene.clock.advance(61)
    assert await keys() == (b"second-secret",)
    with pytest.raises(InvalidField, match="secret"):
        await rotate(secret="second-secret")
    made = await rotate(overlap_s=0)
    assert made.secret.startswith("whsec_")
    assert len(await keys()) == 1
