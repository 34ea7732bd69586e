"""The disturbed and its twin: two deployments under the same load at the same time, of which one is struck."""

import asyncio
from random import Random
from statistics import median

from tests.chaos.audit import Audit
from tests.chaos.faults import Fault
from tests.chaos.scene import Scene
from tests.chaos.siege import arrivals, besieged
from tests.chaos.tally import TWIN_BAR
from tests.chaos.witness import Answer, Arrival, Witness

STRIKES = 3
#: What limits both is the receiver: so many at once, each answered after so long, in seconds; never the processor.
IN_FLIGHT = 16
LATENCY_S = 0.25
#: Throughput is the median of so many windows, of so many seconds.
WINDOWS = 10
WINDOW_S = 1.0
#: How long the disturbed one may take to come back, in seconds.
PATIENCE_S = 120.0


class Undisturbed(Fault):
    """Nothing happens."""

    name = "nothing"

    def __init__(self, workers: int) -> None:
        self.workers = workers

    async def strike(self, at: Scene, random: Random) -> None:
        at.struck(interrupts=False)


async def compare(url: str, twin_url: str, fault: Fault, seed: int | str) -> tuple[float, float, Audit]:
    """Strikes the one, and waits until it does what the other does.

    Answers the share of the twin's throughput, how many seconds after the last strike the windows began in which that
    was measured, and the audit of the disturbed one. Raises `AssertionError` when the twin broke a promise.
    """
    settings = {"lease": "2s", "max_in_flight": str(IN_FLIGHT)}
    twin = Undisturbed(fault.workers)
    random = Random(f"{seed} strikes")
    async with _steady(fault.workers) as witness, _steady(fault.workers) as beside:
        async with (
            besieged(twin_url, twin, beside, seed, settings=settings) as unharmed,
            besieged(url, fault, witness, seed, settings=settings) as siege,
        ):
            await asyncio.gather(arrivals(witness, 100), arrivals(beside, 100))
            for _ in range(STRIKES):
                await arrivals(witness, random.randint(1, 200))
                await fault.strike(siege.scene, random)
            ratio, after_s = await _back(witness, beside)
        assert not unharmed.audited.broken, unharmed.audited.broken
        return ratio, after_s, siege.audited


async def _back(witness: Witness, beside: Witness) -> tuple[float, float]:
    loop = asyncio.get_running_loop()
    from_s = loop.time()
    counts: list[tuple[int, int]] = []
    before = witness.arrived, beside.arrived
    while True:
        await asyncio.sleep(WINDOW_S)
        now = witness.arrived, beside.arrived
        counts.append((now[0] - before[0], now[1] - before[1]))
        before = now
        if len(counts) < WINDOWS:
            continue
        ours, theirs = zip(*counts[-WINDOWS:], strict=True)
        ratio = median(ours) / median(theirs) if median(theirs) else 0.0
        if ratio >= TWIN_BAR or loop.time() > from_s + PATIENCE_S:
            return ratio, (len(counts) - WINDOWS) * WINDOW_S


def _steady(workers: int) -> Witness:
    async def answer(arrival: Arrival) -> Answer:
        await asyncio.sleep(LATENCY_S * workers)
        return 200

    return Witness(answer)
