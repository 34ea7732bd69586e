"""(e) What order costs: the events of 1,000 jobs to an ordered endpoint, to the same with an unordered one."""

from dataclasses import dataclass
from statistics import median

from benchmarks.drain import Rate, drained, typical
from benchmarks.receivers import Receiver
from benchmarks.rows import NAMES, Plan, Row
from benchmarks.scene import Databases

JOBS = 1_000


@dataclass(frozen=True, slots=True)
class Order:
    """The rounds of a run; the n-th of each belong together."""

    ordered: list[Rate]
    unordered: list[Rate]

    @property
    def ratios(self) -> list[float]:
        """Of each round: the ordered rate to the unordered one."""
        return [one.events_per_s / other.events_per_s for one, other in zip(self.ordered, self.unordered, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return median(self.ratios)


async def measure(databases: Databases, receiver: Receiver, dialect: str, *, events: int, rounds: int) -> Order:
    """Drains the same backlog in turns."""
    found = Order([], [])
    for _ in range(rounds):
        for rates, ordered in ((found.unordered, False), (found.ordered, True)):
            async with databases.scene(dialect) as scene:
                await scene.endpoint(receiver.url, max_in_flight=100, ordered=ordered)
                await scene.backlog(events, jobs=JOBS)
                rates.append(await drained(scene, events))
    return found


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on order."""
    return [row for dialect in NAMES for row in await _rows(databases, receiver, dialect, plan)]


async def _rows(databases: Databases, receiver: Receiver, dialect: str, plan: Plan) -> list[Row]:
    found = await measure(databases, receiver, dialect, events=plan.events, rounds=plan.rounds)
    ordered = typical(found.ordered)
    return [
        Row(
            f"{JOBS:,} jobs to an ordered endpoint, to the same unordered, on {NAMES[dialect]}",
            f"{found.ratio:.2f} ({min(found.ratios):.2f}–{max(found.ratios):.2f}); {ordered.events_per_s:,.0f}"
            f" events/s, {ordered.cpu_us_per_event:.0f} µs CPU each",
            "≥ 0.85",
            found.ratio >= 0.85,
        )
    ]
