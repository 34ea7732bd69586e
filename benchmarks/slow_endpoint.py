"""(c) What a slow endpoint costs the others: their throughput while 10 % of events go to one that takes 10 s."""

from dataclasses import dataclass
from statistics import median

from benchmarks.receivers import receiver
from benchmarks.scene import Databases
from benchmarks.worker import worker

#: How long the slow endpoint takes for an answer, in seconds.
SLOW_S = 10.0
#: Endpoints, one of them the slow one; each event goes to one of them, in turns.
ENDPOINTS = 10
_TYPES = [f"bench.to_{number}" for number in range(ENDPOINTS)]


@dataclass(frozen=True, slots=True)
class Fairness:
    """Healthy deliveries per second, round by round."""

    alone: list[float]
    beside_slow: list[float]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(beside / alone for beside, alone in zip(self.beside_slow, self.alone, strict=True))


async def measure(databases: Databases, dialect: str, *, events: int, rounds: int) -> Fairness:
    """Drains the same healthy events in turns without and with the slow endpoint's between them."""
    alone: list[float] = []
    beside_slow: list[float] = []
    for _ in range(rounds):
        alone.append(await _healthy_per_s(databases, dialect, events, slow=False))
        beside_slow.append(await _healthy_per_s(databases, dialect, events, slow=True))
    return Fairness(alone, beside_slow)


async def _healthy_per_s(databases: Databases, dialect: str, events: int, *, slow: bool) -> float:
    # The receivers are processes of their own, so that the slow one is another destination too.
    async with receiver() as healthy, receiver(delay_s=SLOW_S) as sluggish, databases.scene(dialect) as scene:
        for event_type in _TYPES[1:]:
            await scene.endpoint(f"{healthy.url}/{event_type}", event_types=(event_type,), max_in_flight=None)
        await scene.endpoint(sluggish.url, event_types=(_TYPES[0],), max_in_flight=None)
        types = _TYPES if slow else _TYPES[1:]
        await scene.backlog(events, types)
        expected = events * (ENDPOINTS - 1) // ENDPOINTS if slow else events
        async with worker(scene) as working:
            await healthy.reach(expected)
            moments = (await healthy.arrivals()).values()
            return expected / (max(moments) - working.started_at_monotonic)
