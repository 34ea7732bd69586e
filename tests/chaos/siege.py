"""A siege: a fault is inflicted again and again while producers publish; then everything is settled and audited."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import MappingProxyType

from sqlalchemy import func, select

from dispatcher.errors import StoreUnavailable
from tests.chaos.audit import Audit, audit
from tests.chaos.faults import Fault
from tests.chaos.operator import operating
from tests.chaos.producers import Ledger, producing
from tests.chaos.scene import Scene, moody, scene
from tests.chaos.witness import Witness

#: How long nothing may come about before what is left is called stuck, and how often that is looked at, in seconds.
PATIENCE_S = 30.0
LOOK_S = 0.2


class Siege:
    """What is besieged, and what came of it."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene = scene
        self.ledger = ledger
        #: Set at the end.
        self.audited: Audit


async def besiege(
    url: str,
    fault: Fault,
    *,
    strikes: int,
    seed: int | str,
    workers: int | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
    between: Sequence[int] = (1, 40, 200, 400),
) -> Audit:
    """Strikes so often, with `workers` dispatchers (else as many as the fault wants), on a fresh migrated database.

    `between`: after how many arrivals the next strike may come. One after a start is in the middle of taking over.

    Raises `AssertionError` when the deployment does not recover by itself; what broke is in the audit otherwise.
    """
    # Of their own, so that one seed strikes in the same way however many requests came between.
    of_strikes, of_answers = Random(f"{seed} strikes"), Random(f"{seed} answers")
    async with moody(of_answers) as witness, besieged(url, fault, witness, seed, workers, settings) as siege:
        for _ in range(strikes):
            await arrivals(witness, of_strikes.choice(between))
            await fault.strike(siege.scene, of_strikes)
    return siege.audited


@asynccontextmanager
async def besieged(
    url: str,
    fault: Fault,
    witness: Witness,
    seed: int | str,
    workers: int | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Siege]:
    """A scene at work, to be struck: with workers, producers and an operator. Settled and audited afterwards."""
    async with (
        fault.arranged(url) as arranged,
        scene(
            url,
            witness,
            entry=fault.entry,
            environment=fault.environment,
            timeout_s=fault.timeout_s,
            **{**settings, **arranged},
        ) as at,
    ):
        disturbed = fault.disturbs_producers
        async with (
            producing(url, witness, Random(f"{seed} producers"), disturbed=disturbed) as ledger,
            operating(at, Random(f"{seed} operator"), disturbed=disturbed),
        ):
            for _ in range(fault.workers if workers is None else workers):
                await at.start()
            siege = Siege(at, ledger)
            yield siege
        await settle(at, ledger)
        siege.audited = await audit(at, ledger, excuses=fault.excuses)


async def settle(at: Scene, ledger: Ledger) -> None:
    """Waits until nothing is left to do, or nothing comes about any more; then stops the workers that are there."""
    loop = asyncio.get_running_loop()
    await ledger.resolve(at.outpost)
    arrived, since_s = at.witness.arrived, loop.time()
    while not await _idle(at):
        if at.witness.arrived > arrived:
            arrived, since_s = at.witness.arrived, loop.time()
        if loop.time() > since_s + PATIENCE_S:
            # The audit says what is stuck.
            break
        await asyncio.sleep(LOOK_S)
    for worker in list(at.workers):
        await worker.up()
        assert await at.terminate(worker) == 0


async def _idle(at: Scene) -> bool:
    t = at.outpost.tables
    left = (
        (t.fanout_queue, t.fanout_queue.c.event_row.is_not(None)),
        (t.deliveries, t.deliveries.c.state.in_(("pending", "sending"))),
        (t.redeliveries, t.redeliveries.c.state == "running"),
    )
    try:
        async with at.outpost.database.read() as connection:
            # In the order of an event's way, so that nothing is missed on it.
            for table, open_ in (left[2], left[0], left[1]):
                if (await connection.execute(select(func.count()).select_from(table).where(open_))).scalar_one():
                    return False
    except StoreUnavailable:
        return False
    return True


async def arrivals(witness: Witness, more: int) -> None:
    """Returns after so many more requests."""
    goal = witness.arrived + more
    await witness.until(lambda: witness.arrived >= goal, f"{more} more arrivals")
