"""Bulk redeliveries: seen by their tenant, stopped once."""

import pytest

from dispatcher.errors import Conflict, NotFound
from dispatcher.rules.verdict import Outcome
from dispatcher.service import dead_letters, redeliveries
from dispatcher.service.models import DeadLetterRedeliver
from dispatcher.states import RunState
from dispatcher.store.redelivery_runs import running, step
from tests.service.scene import Scene


async def started(scene: Scene) -> str:
    await scene.endpoint(tenant="acme")
    await scene.publish(tenant="acme")
    await scene.die()
    run = await dead_letters.redeliver(scene.deployment, DeadLetterRedeliver(all=True, rate_per_s=2.5), tenant="acme")
    assert run.id is not None
    return run.id


async def test_a_cancelled_run_stays_cancelled(scene: Scene) -> None:
    run_id = await started(scene)
    cancelled = await redeliveries.cancel(scene.deployment, run_id, tenant="acme")
    assert (cancelled.state, cancelled.finished_at, cancelled.done) == (RunState.CANCELLED, scene.clock.now(), 0)
    with pytest.raises(Conflict, match="cancelled"):
        await redeliveries.cancel(scene.deployment, run_id, tenant="acme")
    assert await redeliveries.get(scene.deployment, run_id, tenant=None) == cancelled


async def test_a_run_counts_what_was_delivered_after_it_put_it_back(scene: Scene) -> None:
    run_id = await started(scene)
    scene.clock.advance(1)
    database = scene.deployment.database
    async with database.begin() as connection:
        for run_row in await running(connection, database):
            await step(connection, database, run_row)
    before = await redeliveries.get(scene.deployment, run_id, tenant="acme")
    assert (before.done, before.delivered, before.failed) == (1, 0, 0)
    await scene.end(await scene.claim(), Outcome.DELIVERED)
    after = await redeliveries.get(scene.deployment, run_id, tenant="acme")
    assert (after.done, after.delivered, after.failed) == (1, 1, 0)


async def test_another_tenants_run_is_not_found(sqlite_scene: Scene) -> None:
    run_id = await started(sqlite_scene)
    for call in (redeliveries.get, redeliveries.cancel):
        with pytest.raises(NotFound):
            await call(sqlite_scene.deployment, run_id, tenant="evil")
    run = await redeliveries.get(sqlite_scene.deployment, run_id, tenant="acme")
    assert (run.state, run.tenant, run.rate_per_s, run.matched) == (RunState.RUNNING, "acme", 2.5, 1)
