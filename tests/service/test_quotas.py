"""Quotas: the deployment's unless a tenant has its own, counted for the deployment or per process, never past them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dispatcher.errors import InvalidField, OverQuota, TooLargeField, TooManyEvents
from dispatcher.service import endpoints, events, quotas
from dispatcher.service.models import CallbackCreate, EndpointCreate, EventPublish, TenantQuotaUpdate
from dispatcher.service.quotas import BELIEVED_S, Quota, Quotas
from tests.clock import FakeClock
from tests.service.conftest import open_scene
from tests.service.scene import URL, Scene


@pytest.fixture
async def bounded(sqlite_url: str, clock: FakeClock) -> AsyncIterator[Scene]:
    """A deployment whose settings bound every tenant."""
    async with open_scene(sqlite_url, clock, tenant_max_endpoints=3, tenant_events_per_s=10.0) as scene:
        yield scene


async def register(scene: Scene, number: int, most: int | None, tenant: str = "acme") -> bool:
    body = EndpointCreate.read({"url": f"{URL}&n={number}"})
    _, is_new = await endpoints.create(
        scene.deployment, body, tenant=tenant, idempotency_key=str(number), max_endpoints=most
    )
    return is_new


async def publish(scene: Scene, held: Quotas, data: str = "1", tenant: str = "acme") -> None:
    body = EventPublish.read({"type": "a.b", "data": data}).sent()
    await events.publish(scene.deployment, body, tenant=tenant, quotas=held)


async def test_a_tenants_own_quota_goes_before_the_settings(bounded: Scene) -> None:
    assert (await quotas.show(bounded.deployment, "acme")).model_dump() == {
        "tenant": "acme",
        "max_endpoints": 3,
        "events_per_s": 10.0,
        "max_payload": 256 * 1024,
        "verify_endpoints": False,
        "own": [],
        "endpoints": 0,
    }
    changed = await quotas.update(bounded.deployment, "acme", TenantQuotaUpdate(max_endpoints=50, max_payload=1000))
    assert (changed.max_endpoints, changed.events_per_s, changed.max_payload) == (50, 10.0, 1000)
    assert changed.own == ["max_endpoints", "max_payload"]
    assert (await quotas.show(bounded.deployment, "rival")).max_endpoints == 3
    back = await quotas.update(bounded.deployment, "acme", TenantQuotaUpdate(max_endpoints=None))
    assert (back.max_endpoints, back.own) == (3, ["max_payload"])


async def test_a_payload_larger_than_the_deployment_takes_is_no_quota(bounded: Scene) -> None:
    changed = await quotas.update(bounded.deployment, "acme", TenantQuotaUpdate(max_payload=2**30))
    assert changed.max_payload == 256 * 1024


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\x00b", "\ud800"])
async def test_what_is_no_tenant_has_no_quota(sqlite_scene: Scene, tenant: str) -> None:
    for refused in (
        quotas.show(sqlite_scene.deployment, tenant),
        quotas.update(sqlite_scene.deployment, tenant, TenantQuotaUpdate(max_endpoints=1)),
    ):
        with pytest.raises(InvalidField, match="tenant"):
            await refused


async def test_no_more_endpoints_than_the_quota_allows_and_a_repeated_request_is_no_new_one(scene: Scene) -> None:
    assert [await register(scene, number, 2) for number in (1, 2)] == [True, True]
    with pytest.raises(OverQuota, match="acme"):
        await register(scene, 3, 2)
    assert not await register(scene, 1, 2)
    assert (await quotas.show(scene.deployment, "acme")).endpoints == 2
    assert await register(scene, 3, 2, tenant="rival")
    listed = (await endpoints.list_page(scene.deployment, tenant="acme")).data
    await endpoints.delete(scene.deployment, listed[0].id, tenant="acme")
    assert await register(scene, 4, 2)


async def test_many_who_register_at_once_do_not_get_past_it(scene: Scene) -> None:
    outcomes = await asyncio.gather(*(register(scene, number, 3) for number in range(10)), return_exceptions=True)
    assert outcomes.count(True) == 3
    assert sum(isinstance(outcome, OverQuota) for outcome in outcomes) == 7
    assert (await quotas.show(scene.deployment, "acme")).endpoints == 3


async def test_callbacks_count_until_they_have_expired(scene: Scene) -> None:
    async def callback(job_id: str) -> str:
        body = CallbackCreate.read({"url": URL})
        made, _ = await endpoints.create_callback(scene.deployment, job_id, body, tenant="acme", max_endpoints=1)
        return made.id

    first = await callback("job_1")
    assert await callback("job_1") == first
    with pytest.raises(OverQuota):
        await callback("job_2")
    table = scene.deployment.database.tables.endpoints
    async with scene.deployment.database.begin() as connection:
        await connection.execute(table.update().values(status="disabled", disabled_reason="expired"))
    assert await callback("job_2") != first


async def test_a_tenant_publishes_two_seconds_worth_at_once_and_then_at_its_rate(
    bounded: Scene, clock: FakeClock
) -> None:
    held = Quotas(bounded.deployment)
    for _ in range(20):
        await publish(bounded, held)
    with pytest.raises(TooManyEvents, match="10 events/s") as refused:
        await publish(bounded, held)
    assert refused.value.retry_after_s == pytest.approx(0.1)
    await publish(bounded, held, tenant="rival")
    clock.advance(0.125)
    await publish(bounded, held)
    with pytest.raises(TooManyEvents):
        await publish(bounded, held)
    await held.close()
    stored = await events.list_page(bounded.deployment, tenant="acme", limit=200)
    assert len(stored.data) == 21


async def test_a_batch_is_counted_whole_and_takes_its_time_from_what_follows(bounded: Scene, clock: FakeClock) -> None:
    held = Quotas(bounded.deployment)
    bodies = [EventPublish.read({"type": "a.b", "data": "1"}).sent()] * 100
    await events.publish_batch(bounded.deployment, bodies, tenant="acme", quotas=held)
    with pytest.raises(TooManyEvents) as refused:
        await events.publish_batch(bounded.deployment, bodies, tenant="acme", quotas=held)
    assert refused.value.retry_after_s == pytest.approx(10)
    clock.advance(10)
    await events.publish_batch(bounded.deployment, bodies, tenant="acme", quotas=held)
    await held.close()
    assert (await events.list_page(bounded.deployment, tenant="acme", limit=200)).next_cursor is None


async def test_a_batch_of_several_tenants_counts_for_all_or_for_none(bounded: Scene) -> None:
    held = Quotas(bounded.deployment)
    for _ in range(20):
        await publish(bounded, held, tenant="rival")
    body = {"type": "a.b", "data": "1"}
    both = [EventPublish.read(body).sent(), EventPublish.read({**body, "tenant": "rival"}).sent()]
    with pytest.raises(TooManyEvents, match="rival"):
        await events.publish_batch(bounded.deployment, both, tenant="acme", quotas=held)
    # Not one of acme's was counted.
    for _ in range(20):
        await publish(bounded, held)
    await held.close()


async def test_what_is_refused_for_itself_is_not_counted(bounded: Scene) -> None:
    await quotas.update(bounded.deployment, "acme", TenantQuotaUpdate(max_payload=10, events_per_s=0.01))
    held = Quotas(bounded.deployment)
    for _ in range(5):
        with pytest.raises(TooLargeField, match="quota"):
            await publish(bounded, held, data='"more than ten bytes"')
    # However low the rate is, one may be published.
    await publish(bounded, held)
    with pytest.raises(TooManyEvents) as refused:
        await publish(bounded, held)
    assert refused.value.retry_after_s == pytest.approx(100)
    await held.close()


async def test_a_change_holds_in_a_process_that_has_read_the_quota_before(bounded: Scene, clock: FakeClock) -> None:
    held = Quotas(bounded.deployment)
    assert (await held.of("acme")).max_endpoints == 3
    await quotas.update(bounded.deployment, "acme", TenantQuotaUpdate(max_endpoints=7))
    clock.advance(BELIEVED_S)
    assert (await held.of("acme")).max_endpoints == 7
    await held.close()


async def test_without_a_limit_nothing_is_counted_and_nothing_refused(sqlite_scene: Scene) -> None:
    held = Quotas(sqlite_scene.deployment)
    quota = await held.of("acme")
    assert quota == Quota(max_endpoints=None, events_per_s=None, max_payload=256 * 1024)
    held.admit({"acme": 1_000_000}, {"acme": quota})
    assert not held._ahead_until
    await held.close()
