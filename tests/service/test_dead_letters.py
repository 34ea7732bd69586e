"""Dead letters through the service: listed, sent again in bulk within filter and tenant, discarded."""

import pytest

from dispatcher.errors import InvalidField, InvalidFields, NotFound
from dispatcher.service import dead_letters, deliveries, endpoints, redeliveries
from dispatcher.service.models import DeadLetter, DeadLetterDiscard, DeadLetterFilter, DeadLetterRedeliver
from dispatcher.states import AttemptError, DeliveryState, Reason, RunState
from dispatcher.store.redelivery_runs import running, step
from tests.service.scene import Scene


async def letters(scene: Scene, caller: str | None = None, **filters: object) -> list[DeadLetter]:
    page = await dead_letters.list_page(scene.deployment, DeadLetterFilter.read(filters), tenant=caller)
    return page.data


async def redeliver(scene: Scene, caller: str | None = None, **fields: object) -> int:
    body = DeadLetterRedeliver.read(fields)
    return (await dead_letters.redeliver(scene.deployment, body, tenant=caller)).matched


async def run_everything(scene: Scene) -> None:
    """What a dispatcher does with the runs that are not done."""
    database = scene.deployment.database
    async with database.begin() as connection:
        for run_row in await running(connection, database):
            while not (await step(connection, database, run_row)).finished:
                pass


async def test_a_dead_letter_tells_what_died_and_of_what(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    accepted = await scene.publish(job_id="job_1")
    await scene.die()
    (delivery,) = await scene.deliveries()
    (letter,) = await letters(scene)
    assert letter.model_dump(exclude={"id"}) == {
        "tenant": "default",
        "delivery_id": delivery.id,
        "event_id": accepted.id,
        "endpoint_id": endpoint.id,
        "job_id": "job_1",
        "type": "job.step",
        "reason": Reason.EXHAUSTED,
        "attempts": 1,
        "last_status": 500,
        "last_error": AttemptError.HTTP_STATUS,
        "created_at": "2026-01-01T12:00:00Z",
        "redelivered_at": None,
    }
    assert await dead_letters.get(scene.deployment, letter.id, tenant="default") == letter


async def test_every_filter_narrows_the_list(scene: Scene) -> None:
    first = await scene.endpoint(event_types=["a"])
    await scene.endpoint(event_types=["b"])
    await scene.publish("a", job_id="job_1")
    await scene.die()
    scene.clock.advance(60)
    await scene.publish("b")
    await scene.die()
    late, early = await letters(scene)
    await redeliver(scene, ids=[early.id])
    await run_everything(scene)
    now = scene.clock.now().isoformat()
    for filters, expected in (
        ({"endpoint_id": first.id}, [early.id]),
        ({"type": "b"}, [late.id]),
        ({"reason": "exhausted"}, [late.id, early.id]),
        ({"reason": "gone"}, []),
        ({"job_id": "job_1"}, [early.id]),
        ({"since": now}, [late.id]),
        ({"until": now}, [early.id]),
        ({"redelivered": True}, [early.id]),
        ({"redelivered": False}, [late.id]),
        ({"ids": [late.id]}, [late.id]),
    ):
        assert [letter.id for letter in await letters(scene, **filters)] == expected, filters


async def test_a_bulk_redelivery_puts_back_what_fits_and_counts_what_came_of_it(scene: Scene) -> None:
    await scene.endpoint(event_types=["a"])
    await scene.endpoint(event_types=["b"])
    for event_type in ("a", "a", "b"):
        await scene.publish(event_type)
    await scene.die()
    body = DeadLetterRedeliver.read({"type": "a", "rate_per_s": 100})
    started = await dead_letters.redeliver(scene.deployment, body, tenant="default")
    assert (started.matched, started.dry_run) == (2, False)
    assert started.id is not None
    assert (await redeliveries.get(scene.deployment, started.id, tenant="default")).state is RunState.RUNNING
    scene.clock.advance(1)
    await run_everything(scene)
    assert [one.state for one in await scene.deliveries()].count(DeliveryState.PENDING) == 2
    await scene.die()
    run = await redeliveries.get(scene.deployment, started.id, tenant="default")
    assert (run.state, run.matched, run.done, run.delivered, run.failed, run.skipped) == (RunState.DONE, 2, 2, 0, 2, 0)
    assert run.finished_at == scene.clock.now()
    assert len(await letters(scene)) == 5


async def test_a_bulk_redelivery_takes_what_was_not_redelivered_unless_it_is_asked_for(scene: Scene) -> None:
    await scene.endpoint()
    await scene.publish()
    await scene.die()
    (letter,) = await letters(scene)
    await deliveries.redeliver(scene.deployment, letter.delivery_id, tenant=None)
    assert await redeliver(scene, all=True, dry_run=True) == 0
    assert await redeliver(scene, reason="exhausted", dry_run=True) == 0
    assert await redeliver(scene, redelivered=True, dry_run=True) == 1
    assert await redeliver(scene, ids=[letter.id], dry_run=True) == 1


async def test_two_dead_letters_of_one_delivery_are_one_redelivery(sqlite_scene: Scene) -> None:
    scene = sqlite_scene
    await scene.endpoint()
    await scene.publish()
    await scene.die()
    await deliveries.redeliver(scene.deployment, (await scene.deliveries())[0].id, tenant=None)
    await scene.die()
    ids = [letter.id for letter in await letters(scene)]
    assert len(ids) == 2
    assert await redeliver(scene, ids=ids, dry_run=True) == 1
    assert await redeliver(scene, ids=ids) == 1


async def test_a_dry_run_changes_nothing(sqlite_scene: Scene) -> None:
    await sqlite_scene.endpoint()
    await sqlite_scene.publish()
    await sqlite_scene.die()
    dry = await dead_letters.redeliver(
        sqlite_scene.deployment, DeadLetterRedeliver.read({"all": True, "dry_run": True}), tenant=None
    )
    assert dry.model_dump() == {"id": None, "matched": 1, "dry_run": True}
    counted = await dead_letters.discard(
        sqlite_scene.deployment, DeadLetterDiscard.read({"all": True, "dry_run": True}), tenant=None
    )
    assert counted.model_dump() == {"matched": 1, "dry_run": True}
    await run_everything(sqlite_scene)
    assert [letter.redelivered_at for letter in await letters(sqlite_scene)] == [None]
    assert [one.state for one in await sqlite_scene.deliveries()] == [DeliveryState.DEAD]


async def test_a_run_over_nothing_is_done_at_once(sqlite_scene: Scene) -> None:
    started = await dead_letters.redeliver(
        sqlite_scene.deployment, DeadLetterRedeliver.read({"all": True}), tenant=None
    )
    assert started.id is not None
    assert (await redeliveries.get(sqlite_scene.deployment, started.id, tenant=None)).state is RunState.DONE


async def test_what_cannot_be_put_back_is_skipped_and_counted(sqlite_scene: Scene) -> None:
    endpoint = await sqlite_scene.endpoint()
    await sqlite_scene.publish()
    await sqlite_scene.die()
    await endpoints.delete(sqlite_scene.deployment, endpoint.id, tenant=None)
    started = await dead_letters.redeliver(
        sqlite_scene.deployment, DeadLetterRedeliver.read({"all": True}), tenant=None
    )
    await run_everything(sqlite_scene)
    assert started.id is not None
    run = await redeliveries.get(sqlite_scene.deployment, started.id, tenant=None)
    assert (run.state, run.matched, run.done, run.skipped, run.failed) == (RunState.DONE, 1, 0, 1, 0)


async def test_discarding_deletes_what_fits(sqlite_scene: Scene) -> None:
    await sqlite_scene.endpoint()
    await sqlite_scene.publish("a")
    await sqlite_scene.publish("b")
    await sqlite_scene.die()
    discarded = await dead_letters.discard(
        sqlite_scene.deployment, DeadLetterDiscard.read({"type": "a"}), tenant="default"
    )
    assert discarded.model_dump() == {"matched": 1, "dry_run": False}
    assert [letter.type for letter in await letters(sqlite_scene)] == ["b"]


async def test_bulk_calls_without_a_filter_want_all(sqlite_scene: Scene) -> None:
    for given in ({}, {"tenant": "acme"}, {"dry_run": True}):
        with pytest.raises(InvalidField, match="all"):
            await redeliver(sqlite_scene, **given)
        with pytest.raises(InvalidField, match="all"):
            await dead_letters.discard(sqlite_scene.deployment, DeadLetterDiscard.read(given), tenant=None)


async def test_an_unknown_id_is_named_and_nothing_is_done(scene: Scene) -> None:
    await scene.endpoint()
    await scene.endpoint(tenant="acme")
    await scene.publish()
    await scene.publish(tenant="acme")
    await scene.die()
    (mine,), (theirs,) = await letters(scene, "default"), await letters(scene, "acme")
    with pytest.raises(InvalidFields) as raised:
        await redeliver(scene, "default", ids=[mine.id, theirs.id])
    assert [problem.field for problem in raised.value.problems] == ["ids/1"]
    with pytest.raises(InvalidField, match="ids/0"):
        await redeliver(scene, "default", ids=["ep_0123456789abc"])
    with pytest.raises(InvalidFields, match="ids/0"):
        await dead_letters.discard(scene.deployment, DeadLetterDiscard(ids=[theirs.id]), tenant="default")
    assert len(await letters(scene)) == 2


async def test_a_tenant_sees_and_touches_its_own_only(scene: Scene) -> None:
    await scene.endpoint(tenant="acme")
    await scene.publish(tenant="acme")
    await scene.die()
    (theirs,) = await letters(scene)
    with pytest.raises(NotFound):
        await dead_letters.get(scene.deployment, theirs.id, tenant="evil")
    assert await letters(scene, "evil") == []
    assert await letters(scene, "evil", tenant="acme") == []
    assert await redeliver(scene, "evil", all=True) == 0
    assert await redeliver(scene, None, all=True, tenant="evil", dry_run=True) == 0
    assert await redeliver(scene, None, all=True, tenant="acme", dry_run=True) == 1
    discarded = await dead_letters.discard(scene.deployment, DeadLetterDiscard(all=True), tenant="evil")
    assert discarded.matched == 0
    assert len(await letters(scene, "acme")) == 1


async def test_pages_stay_stable_while_dead_letters_arrive(sqlite_scene: Scene) -> None:
    await sqlite_scene.endpoint()
    for _ in range(4):
        await sqlite_scene.publish()
    await sqlite_scene.die()
    before = [letter.id for letter in await letters(sqlite_scene)]
    first = await dead_letters.list_page(sqlite_scene.deployment, tenant=None, limit=2)
    await sqlite_scene.publish()
    await sqlite_scene.die()
    second = await dead_letters.list_page(sqlite_scene.deployment, tenant=None, limit=2, cursor=first.next_cursor)
    assert [letter.id for letter in first.data + second.data] == before
