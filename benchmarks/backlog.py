"""(j) Throughput with a million pending deliveries, or events that wait for the fan-out, against two thousand; on
PostgreSQL, takes minutes.

What is delivered is replaced at once, by the same statement, so that as many deliveries are pending all the time;
events are fanned out meanwhile as fast as that goes.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import TextClause, text

from benchmarks.events import DATA, TYPE
from benchmarks.receivers import Receiver
from benchmarks.rows import Plan, Row, Turns
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker

FEW = 2_000
MANY = 1_000_000
_CHUNK = 50_000
_TOP_UP_EVERY_S = 0.02
#: Attempts before it counts.
_WARM_UP = 2_000

# Past the queue: what is measured begins with the claim.
_PUBLISH = text(
    "WITH made AS (INSERT INTO events (id, type, data)"
    " SELECT 'evt_' || gen_random_uuid(), :type, :data FROM generate_series(1, :count) RETURNING row_id, tenant)"
    " INSERT INTO deliveries (event_row, endpoint_row, tenant)"
    " SELECT made.row_id, e.row_id, made.tenant FROM made CROSS JOIN endpoints e"
)
_PENDING = (_PUBLISH, text("DELETE FROM fanout_queue"))
_QUEUE = text("INSERT INTO events (type, data) SELECT :type, :data FROM generate_series(1, :count)")
#: The first that is pending: all before it were claimed, since the one endpoint's go in the order of their rows.
_FIRST_PENDING = (
    "SELECT min(row_id) FROM deliveries WHERE state = 'pending' AND due_at IS NULL AND NOT waiting"
    " AND endpoint_row = (SELECT row_id FROM endpoints)"
)


async def measure(
    per_s: Callable[[Databases, Receiver, int, int], Awaitable[float]],
    databases: Databases,
    receiver: Receiver,
    *,
    events: int,
    rounds: int,
) -> Turns:
    """Delivers so many events in turns, with `FEW` and with `MANY` that wait."""
    found = Turns([], [])
    for _ in range(rounds):
        found.usual.append(await per_s(databases, receiver, events, FEW))
        found.burdened.append(await per_s(databases, receiver, events, MANY))
    return found


async def _pending_per_s(databases: Databases, receiver: Receiver, events: int, pending: int) -> float:
    async with databases.scene("postgresql") as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        await _publish(scene, pending, *_PENDING)
        await scene.settle()
        first = int(await scene.scalar(_FIRST_PENDING))
        replaced = 0
        async with worker(scene):
            while replaced < events + _WARM_UP:
                await asyncio.sleep(_TOP_UP_EVERY_S)
                next_ = await scene.scalar(_FIRST_PENDING)
                # None: all of them were claimed.
                claimed = pending + replaced if next_ is None else int(next_) - first
                if claimed > replaced:
                    await _publish(scene, claimed - replaced, *_PENDING)
                    replaced = claimed
            return await scene.recorded_per_s(skip=_WARM_UP)


async def _queued_per_s(databases: Databases, receiver: Receiver, events: int, behind: int) -> float:
    async with databases.scene("postgresql") as scene:
        await scene.endpoint(receiver.url, max_in_flight=100)
        await _publish(scene, events + behind, _QUEUE)
        await scene.settle()
        before = await receiver.count()
        async with worker(scene):
            await receiver.reach(before + events)
            return await scene.recorded_per_s(skip=_WARM_UP)


async def _publish(scene: Scene, count: int, *statements: TextClause) -> None:
    for start in range(0, count, _CHUNK):
        chunk = {"type": TYPE, "data": DATA, "count": min(_CHUNK, count - start)}
        async with scene.deployment.database.begin() as connection:
            for statement in statements:
                await connection.execute(statement, chunk if ":count" in statement.text else None)


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on a long backlog."""
    pending, queued = [
        await measure(per_s, databases, receiver, events=plan.events, rounds=plan.rounds)
        for per_s in (_pending_per_s, _queued_per_s)
    ]
    return [
        pending.row(f"throughput with {MANY:,} pending to that with {FEW:,}, on PostgreSQL"),
        Row(
            f"deliveries while {MANY:,} more events are fanned out, to those beside {FEW:,}, on PostgreSQL",
            queued.measured,
        ),
    ]
