"""What waits, counted in every way of waiting, within a tenant."""

from dispatcher.rules.verdict import Outcome
from dispatcher.service import endpoints, stats
from dispatcher.service.models import Waiting
from tests.service.scene import Scene

NONE = Waiting(count=0, oldest_age_s=None)


async def test_an_idle_deployment_has_nothing_that_waits(sqlite_scene: Scene) -> None:
    counted = await stats.stats(sqlite_scene.deployment, tenant=None, per_endpoint=True)
    assert counted.model_dump() == {
        name: {"count": 0, "oldest_age_s": None} for name in ("not_fanned_out", "pending", "sending", "dead_letters")
    } | {"endpoints": []}


async def test_every_way_of_waiting_is_counted_with_the_oldest_age(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.publish()
    await scene.die()
    scene.clock.advance(10)
    await scene.publish()
    await scene.fan_out()
    await scene.end(await scene.claim(), Outcome.RETRY)
    scene.clock.advance(1)
    for _ in range(3):
        await scene.publish(job_id="job_1")
    await scene.fan_out()
    await scene.claim()
    await endpoints.set_status(scene.deployment, endpoint.id, "pause", tenant=None)
    await scene.publish()
    await scene.fan_out()
    scene.clock.advance(1.5)
    await scene.publish()
    await scene.publish()
    scene.clock.advance(0.25)
    counted = await stats.stats(scene.deployment, tenant="default", per_endpoint=True)
    # Pending: one is due later, two wait in their lane, one for its paused endpoint.
    assert counted.pending == Waiting(count=4, oldest_age_s=2.75)
    assert counted.sending == Waiting(count=1, oldest_age_s=1.75)
    assert counted.dead_letters == Waiting(count=1, oldest_age_s=12.75)
    assert counted.not_fanned_out == Waiting(count=2, oldest_age_s=0.25)
    assert counted.endpoints is not None
    (only,) = counted.endpoints
    assert (only.endpoint_id, only.pending, only.sending, only.dead_letters) == (
        endpoint.id,
        counted.pending,
        counted.sending,
        counted.dead_letters,
    )


async def test_a_tenant_sees_its_own_waiting_only(scene: Scene) -> None:
    await scene.endpoint(tenant="acme")
    await scene.publish(tenant="acme")
    await scene.fan_out()
    await scene.publish(tenant="acme")
    theirs = await stats.stats(scene.deployment, tenant="evil", per_endpoint=False)
    assert (theirs.not_fanned_out, theirs.pending, theirs.endpoints) == (NONE, NONE, None)
    mine = await stats.stats(scene.deployment, tenant="acme", per_endpoint=False)
    assert (mine.not_fanned_out.count, mine.pending.count) == (1, 1)
