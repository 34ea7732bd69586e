"""(c) What a slow endpoint costs the others: their throughput while 10 % of events go to one that takes 10 s."""

import asyncio
import time

from benchmarks.receivers import Receiver, receiver
from benchmarks.rows import NAMES, Plan, Row, Turns
from benchmarks.scene import Databases, Scene
from benchmarks.worker import worker

#: How long the slow endpoint takes for an answer, in seconds.
SLOW_S = 10.0
#: Endpoints, one of them the slow one; each event goes to one of them, in turns.
ENDPOINTS = 10
#: Events that wait while it is measured for long, at most.
_AHEAD = 10_000
_TYPES = [f"bench.to_{number}" for number in range(ENDPOINTS)]
#: How long it is looked at where it is to last.
LASTING_MINUTES = 10


async def measure(databases: Databases, dialect: str, *, events: int, rounds: int) -> Turns:
    """Drains the same healthy events in turns without and with the slow endpoint's between them."""
    found = Turns([], [])
    for _ in range(rounds):
        found.usual.append(await _healthy_per_s(databases, dialect, events, slow=False))
        found.burdened.append(await _healthy_per_s(databases, dialect, events, slow=True))
    return found


async def lasting(databases: Databases, dialect: str, *, minutes: int) -> list[float]:
    """Healthy deliveries per second, minute by minute, while 10 % go to the slow endpoint and the backlog never ends.

    The slow endpoint's own backlog grows all the while.
    """
    async with receiver() as healthy, receiver(delay_s=SLOW_S) as sluggish, databases.scene(dialect) as scene:
        await _register(scene, healthy, sluggish)
        await scene.backlog(_AHEAD, _TYPES)
        published, rates = _AHEAD, []
        async with worker(scene):
            await healthy.reach(1)
            for _ in range(minutes):
                before, began = await healthy.count(), time.monotonic()
                while time.monotonic() < began + 60:
                    if published * (ENDPOINTS - 1) // ENDPOINTS - await healthy.count() < _AHEAD // 2:
                        await scene.backlog(_AHEAD // 2, _TYPES)
                        published += _AHEAD // 2
                    await asyncio.sleep(0.05)
                rates.append((await healthy.count() - before) / (time.monotonic() - began))
    return rates


async def _register(scene: Scene, healthy: Receiver, sluggish: Receiver) -> None:
    for event_type in _TYPES[1:]:
        await scene.endpoint(f"{healthy.url}/{event_type}", event_types=(event_type,), max_in_flight=None)
    await scene.endpoint(sluggish.url, event_types=(_TYPES[0],), max_in_flight=None)


async def _healthy_per_s(databases: Databases, dialect: str, events: int, *, slow: bool) -> float:
    # The receivers are processes of their own, so that the slow one is another destination too.
    async with receiver() as healthy, receiver(delay_s=SLOW_S) as sluggish, databases.scene(dialect) as scene:
        await _register(scene, healthy, sluggish)
        types = _TYPES if slow else _TYPES[1:]
        await scene.backlog(events, types)
        expected = events * (ENDPOINTS - 1) // ENDPOINTS if slow else events
        async with worker(scene) as working:
            await healthy.reach(expected)
            moments = (await healthy.arrivals()).values()
            return expected / (max(moments) - working.started_at_monotonic)


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on a slow endpoint's neighbours."""
    return [
        (await measure(databases, dialect, events=plan.events, rounds=plan.rounds)).row(
            f"healthy endpoints beside one that takes 10 s and gets 10 %, to without it, on {NAMES[dialect]}"
        )
        for dialect in NAMES
    ]


async def lasting_rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on the same for long."""
    return [row for dialect in NAMES for row in await _lasting_rows(databases, receiver, dialect, plan)]


async def _lasting_rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await lasting(databases, dialect, minutes=LASTING_MINUTES)
    return [
        Row(
            f"healthy endpoints' throughput after {LASTING_MINUTES} minutes beside one that takes 10 s and gets 10 %,"
            f" to the first minute's, on {NAMES[dialect]}",
            f"{found[-1] / found[0]:.2f} ({', '.join(f'{rate:,.0f}' for rate in found)} events/s)",
            "≥ 0.90",
            found[-1] / found[0] >= 0.9,
        )
    ]
