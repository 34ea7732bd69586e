"""kill -9, SIGTERM and SIGSTOP of real processes under load: nothing lost, no phantom, order kept, every attempt on
record, and no help needed."""

import asyncio
import os
from collections import Counter
from random import Random

import pytest

from tests.chaos.audit import Audit, Unsettled, audit
from tests.chaos.producers import Ledger, producing
from tests.chaos.scene import GRACE_S, LOOSE, InFlight, Scene, moody, scene
from tests.chaos.witness import Arrival, Witness

#: Each run its own; printed where a promise was broken.
SEED = int(os.environ.get("CHAOS_SEED") or int.from_bytes(os.urandom(4)))


async def settle(at: Scene, ledger: Ledger) -> None:
    """Waits until everything is answered for good, by the workers that are there; then stops them."""
    await at.witness.until(Unsettled(at, ledger).none_left, "everything is accepted or used up")
    for worker in list(at.workers):
        await worker.up()
        assert await at.terminate(worker) == 0


async def besiege(url: str, *, kills: int, workers: int = 1) -> Audit:
    """Kills a worker again and again while producers publish, and starts another each time."""
    random = Random(SEED)
    async with moody(random) as witness, scene(url, witness) as at:
        async with producing(url, witness, random) as ledger:
            for _ in range(workers):
                await at.start()
            for _ in range(kills):
                # One arrival after a start is in the middle of taking over what the last one left.
                await arrivals(witness, random.choice((1, 40, 200, 400)))
                await at.kill(random.choice(at.workers))
                await at.start()
        await settle(at, ledger)
        assert [worker.faults for worker in at.crew if worker.faults] == []
        return await audit(at, ledger)


async def exhaust(url: str, *, pauses: int) -> Audit:
    """Pauses one of two workers again and again until the other has taken over all it had, and lets it go on."""
    random = Random(SEED)
    async with moody(random) as witness, scene(url, witness) as at:
        async with producing(url, witness, random) as ledger:
            for worker in (await at.start(), await at.start()):
                await worker.up()
            for _ in range(pauses):
                await arrivals(witness, random.randint(50, 200))
                worker = random.choice(at.workers)
                taken_over = TakenOver(witness, (await at.pause(worker)).in_flight)
                await witness.until(taken_over.all, "the other worker has taken over what the paused one had")
                worker.resume()
        await settle(at, ledger)
        assert [worker.faults for worker in at.crew if worker.faults] == []
        return await audit(at, ledger)


class TakenOver:
    """What was in flight, and whether each of it was attempted again."""

    def __init__(self, witness: Witness, in_flight: frozenset[InFlight]) -> None:
        self._witness = witness
        self._open = list(in_flight)

    def all(self) -> bool:
        while self._open:
            last = self._open[-1]
            if max(self._witness.answers[last.path, last.event_id], default=0) <= last.attempt:
                return False
            self._open.pop()
        return True


async def arrivals(witness: Witness, more: int) -> None:
    goal = witness.arrived + more
    await witness.until(lambda: witness.arrived >= goal, f"{more} more arrivals")


def check(found: Audit) -> None:
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    assert found.duplicates <= found.in_flight
    assert found.rolled_back
    assert found.events


async def test_a_killed_dispatcher_loses_nothing(database_url: str) -> None:
    found = await besiege(database_url, kills=5)
    check(found)
    assert found.in_flight


async def test_a_dispatcher_takes_over_what_a_killed_neighbour_had_in_flight(postgres_url: str) -> None:
    check(await besiege(postgres_url, kills=3, workers=2))


async def test_a_sigterm_under_load_ends_in_time_with_every_attempt_on_record(database_url: str) -> None:
    random, loop = Random(SEED), asyncio.get_running_loop()
    async with moody(random) as witness, scene(database_url, witness) as at:
        async with producing(database_url, witness, random) as ledger:
            for _ in range(2):
                worker = await at.start()
                await worker.up()
                await arrivals(witness, 150)
                asked_s = loop.time()
                assert await at.terminate(worker) == 0
                assert loop.time() - asked_s < GRACE_S
                assert not [row for row in await at.outpost.deliveries() if row.state == "sending"]
            await at.start()
        await settle(at, ledger)
        found = await audit(at, ledger)
    # Among others: no attempt was interrupted, and each that arrived is logged with the answer it got.
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    assert found.duplicates == 0


async def test_attempts_that_outlast_the_grace_are_logged_as_interrupted_and_made_again(database_url: str) -> None:
    answering = asyncio.Event()

    async def answer(arrival: Arrival) -> int:
        await answering.wait()
        return 200

    async with Witness(answer) as witness, scene(database_url, witness, shutdown_grace="100ms") as at:
        worker = await at.start()
        await worker.up()
        await at.outpost.publish(*["note"] * 10, data='"x"')
        await witness.until(lambda: witness.arrived == 20, "both endpoints were sent everything")
        assert await at.terminate(worker) == 0
        deliveries, attempts = await at.outpost.deliveries(), await at.outpost.attempts()
        assert {(row.state, row.due_at, row.attempts, row.failures) for row in deliveries} == {("pending", None, 1, 0)}
        assert [(row.number, row.error) for row in attempts] == [(1, "interrupted")] * 20
        answering.set()
        worker = await at.start()
        await witness.until(lambda: witness.arrived == 40, "both endpoints were sent everything again")
        await worker.up()
        assert await at.terminate(worker) == 0
        deliveries, attempts = await at.outpost.deliveries(), await at.outpost.attempts()
    assert {(row.state, row.attempts, row.failures) for row in deliveries} == {("delivered", 2, 0)}
    assert [(row.number, row.error, row.status) for row in attempts] == [(1, "interrupted", None), (2, None, 200)] * 20


async def test_a_dispatcher_that_was_paused_for_longer_than_its_lease_overwrites_nothing(postgres_url: str) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    at_first = True

    async def answer(arrival: Arrival) -> int:
        if at_first:
            await first.wait()
            return 500
        if arrival.path == LOOSE:
            await second.wait()
        return 200

    async with Witness(answer) as witness, scene(postgres_url, witness) as at:
        paused = await at.start()
        await paused.up()
        await at.outpost.publish(*["note"] * 10, data='"x"')
        for job in range(3):
            await at.outpost.publish(*["job.step"] * 3, job_id=f"job-{job}", data='"x"')
        # Of the ordered endpoint's jobs only the heads.
        await witness.until(lambda: witness.arrived == 13 + 19, "all that may be in flight is")
        assert len((await at.pause(paused)).in_flight) == 13 + 19
        at_first = False

        other = await at.start()
        await witness.until(lambda: witness.arrived == 13 + 19 + 38, "the other dispatcher has sent everything")
        first.set()
        paused.resume()
        await paused.logs("delivery.lease_lost", 13 + 19)
        loose = [row for row in await at.outpost.deliveries() if at.paths[row.endpoint_row] == LOOSE]
        assert {(row.state, row.attempts, row.last_status) for row in loose} == {("sending", 2, None)}
        second.set()
        assert await at.terminate(other) == 0
        deliveries, attempts = await at.outpost.deliveries(), await at.outpost.attempts()
        assert {(row.state, row.failures) for row in deliveries} == {("delivered", 0)}
        assert Counter((row.error, row.status) for row in attempts) == {("interrupted", None): 32, (None, 200): 38}

        await at.outpost.publish("note", data='"x"')
        await witness.until(lambda: witness.arrived == 13 + 19 + 38 + 2, "the paused dispatcher works again")
        assert await at.terminate(paused) == 0
        assert not paused.faults
        assert not other.faults


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hundred_kills_lose_nothing(
    database_url: str, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if workers > 1 and database_url.startswith("sqlite"):
        pytest.skip("a SQLite file has one dispatcher")
    found = await besiege(database_url, kills=int(os.environ.get("CHAOS_KILLS", "100")), workers=workers)
    with capsys.disabled():
        print(f"\n{database_url.partition(':')[0]}, {workers} process(es), CHAOS_SEED={SEED}\n{found.table()}")
    check(found)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_a_hundred_pauses_overwrite_nothing(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = await exhaust(postgres_url, pauses=int(os.environ.get("CHAOS_KILLS", "100")))
    with capsys.disabled():
        print(f"\npauses, CHAOS_SEED={SEED}\n{found.table()}")
    check(found)
