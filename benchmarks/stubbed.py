"""(h) What an event costs the dispatcher itself: its CPU with HTTP stubbed out, on PostgreSQL.

What was fanned out before is claimed, rendered, signed, judged, logged and recorded; instead of a POST there is one
turn of the event loop. `python -m benchmarks.stubbed` is the command `dispatcher` with that stub.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from unittest.mock import patch

from benchmarks.drain import LEVELS, Rate, drained, raw_loop, typical
from benchmarks.receivers import Receiver
from benchmarks.rows import Plan, Row
from benchmarks.scene import Databases
from dispatcher.cli.main import main
from dispatcher.engine import dispatcher
from dispatcher.rules.egress import EgressRules
from dispatcher.rules.verdict import Exchange
from dispatcher.transport.client import Request

#: 25 and 15 µs where the bare loop takes 57.
_BARS = {"info": 0.44, "warning": 0.26}
#: Where nothing is sent.
_URL = "http://127.0.0.1:9999/hook"


@dataclass(frozen=True, slots=True)
class Stubbed:
    """The rounds of a run; the n-th of each belong together."""

    raw: list[Rate]
    #: By log level.
    ours: dict[str, list[Rate]]

    def ratio(self, level: str) -> float:
        """The dispatcher's CPU for an event to the bare loop's, which POSTs it; the median."""
        rounds = zip(self.ours[level], self.raw, strict=True)
        return median(ours.cpu_us_per_event / raw.cpu_us_per_event for ours, raw in rounds)


class Stub:
    """The transport's interface: every receiver is content at once."""

    def __init__(self, rules: EgressRules, *, connect_timeout_s: float, kind: str, ca_file: Path | None) -> None:
        self._answer = Exchange(status=200, error=None, excerpt="ok")

    async def post(self, request: Request, now: datetime) -> Exchange:
        """What came of a POST that was not made."""
        await asyncio.sleep(0)
        return self._answer

    async def close(self) -> None:
        """Nothing is open."""


async def measure(databases: Databases, receiver: Receiver, *, events: int, rounds: int) -> Stubbed:
    """Runs the bare loop and the stubbed dispatcher in turns."""
    found = Stubbed([], {level: [] for level in LEVELS})
    for _ in range(rounds):
        found.raw.append(await raw_loop(receiver, events))
        for level, rates in found.ours.items():
            async with databases.scene("postgresql", log_level=level) as scene:
                await scene.endpoint(_URL, max_in_flight=100)
                await scene.backlog(events)
                await scene.fan_out()
                rates.append(await drained(scene, events, module="benchmarks.stubbed"))
    return found


async def rows(databases: Databases, receiver: Receiver, plan: Plan) -> list[Row]:
    """The table's lines on the dispatcher's own CPU."""
    found = await measure(databases, receiver, events=plan.events, rounds=plan.rounds)
    return [
        Row(
            f"CPU for an event with HTTP stubbed out, on PostgreSQL at `{level}`, to the bare loop's",
            f"{found.ratio(level):.2f}; {typical(rates).cpu_us_per_event:.0f} µs each",
            f"≤ {_BARS[level]:.2f}",
            found.ratio(level) <= _BARS[level],
        )
        for level, rates in found.ours.items()
    ]


if __name__ == "__main__":
    with patch.object(dispatcher, "HttpClient", Stub):
        main()
