"""kill -9, SIGTERM and SIGSTOP of real processes under load: nothing lost, no phantom, order kept, every attempt on
record, and no help needed."""

import asyncio
import os
from collections import Counter
from random import Random

import pytest

from dispatcher.clock import SystemClock
from tests.chaos.audit import Audit, audit
from tests.chaos.faults.migrations import KilledMigrating
from tests.chaos.faults.processes import STEPS, Killed, KilledAtEach, KilledBesideAnother, KilledInReclaim
from tests.chaos.faults.receivers import ReceiverFails
from tests.chaos.producers import producing
from tests.chaos.scene import FAILURES, GRACE_S, LOOSE, moody, scene
from tests.chaos.siege import arrivals, besiege, settle
from tests.chaos.witness import Arrival, Witness
from tests.outpost import Outpost

#: Each run its own; printed where a promise was broken.
SEED = int(os.environ.get("CHAOS_SEED") or int.from_bytes(os.urandom(4)))


def check(found: Audit) -> None:
    assert found.broken == {}, f"CHAOS_SEED={SEED}\n{found.table()}"
    assert found.duplicates <= found.in_flight
    assert found.rolled_back
    assert found.events


async def test_a_killed_dispatcher_loses_nothing(database_url: str) -> None:
    found = await besiege(database_url, Killed(), strikes=2, seed=SEED)
    check(found)
    assert found.in_flight
    assert found.superseded


@pytest.mark.timeout(180)
async def test_a_dispatcher_killed_at_any_step_loses_nothing(sqlite_url: str) -> None:
    found = await besiege(sqlite_url, KilledAtEach(*STEPS), strikes=len(STEPS), seed=SEED, between=(1, 20))
    check(found)
    assert found.in_flight
    assert found.redelivered


@pytest.mark.timeout(180)
async def test_a_dispatcher_killed_in_the_middle_of_a_transaction_loses_nothing(postgres_url: str) -> None:
    steps = [step for step in STEPS if step.startswith("within")]
    check(await besiege(postgres_url, KilledAtEach(*steps), strikes=len(steps), seed=SEED, between=(1, 20)))


async def test_a_dispatcher_killed_while_it_takes_over_leaves_that_to_the_next(sqlite_url: str) -> None:
    check(await besiege(sqlite_url, KilledInReclaim(), strikes=1, seed=SEED))


@pytest.mark.timeout(180)
async def test_a_migration_killed_between_two_statements_changes_nothing_and_the_next_one_works(
    empty_database_url: str,
) -> None:
    # That the fault asserts both is all of it: what is done to a migrated database is the other tests' matter.
    async with KilledMigrating(kills=1).arranged(empty_database_url):
        outpost = Outpost(empty_database_url, SystemClock())
        await outpost.publish()
        assert await outpost.count("events") == 1
        await outpost.close()


async def test_receivers_that_fail_in_every_way_break_no_promise(sqlite_url: str) -> None:
    check(await besiege(sqlite_url, ReceiverFails("receiver-errors", *FAILURES), strikes=1, seed=SEED))


async def test_a_dispatcher_takes_over_what_a_killed_neighbour_had_in_flight(postgres_url: str) -> None:
    check(await besiege(postgres_url, KilledBesideAnother(), strikes=3, seed=SEED))


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
                # Each attempt has its outcome at once; the rest is for a machine that is slow.
                assert loop.time() - asked_s < 3 * GRACE_S
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
        assert len(await at.pause(paused)) == 13 + 19
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
