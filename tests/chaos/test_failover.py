"""Failover to a streaming standby under load: dispatchers go on by themselves, and what was acknowledged is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from statistics import median

import psycopg
import pytest

from dispatcher.clock import SystemClock
from dispatcher.errors import StoreUnavailable
from dispatcher.store import migrate
from tests.chaos.audit import audit
from tests.chaos.producers import Ledger, producing
from tests.chaos.scene import LOOSE, moody, scene
from tests.chaos.siege import arrivals, settle
from tests.chaos.standby import Pair, pair
from tests.chaos.test_postgres_faults import SEED, check
from tests.chaos.witness import Witness
from tests.outpost import Outpost

#: Under the load of other tests a deployment takes its time to come back.
pytestmark = pytest.mark.timeout(180)
#: How many failovers the figures of docs/reliability.md come from.
FAILOVERS = 10


@asynccontextmanager
async def migrated_pair() -> AsyncIterator[Pair]:
    """A migrated primary with a standby that it waits for."""
    async with pair() as opened:
        outpost = Outpost(opened.url, SystemClock())
        await migrate.upgrade(outpost.database)
        await outpost.close()
        yield opened


@pytest.fixture
async def servers() -> AsyncIterator[Pair]:
    async with migrated_pair() as opened:
        yield opened


async def test_a_failover_under_load_loses_nothing_that_was_acknowledged(servers: Pair) -> None:
    random = Random(SEED)
    async with moody(random) as witness, scene(servers.url, witness) as at:
        async with producing(servers.producers_url, witness, random, disturbed=True) as ledger:
            for worker in (await at.start(), await at.start()):
                await worker.up()
            await arrivals(witness, 100)
            await servers.fail_over()
            at.struck()
            await arrivals(witness, 200)
        await settle(at, ledger)
        found = await audit(at, ledger)
    check(found)
    assert found.rolled_back


@pytest.mark.campaign
async def test_dispatchers_stay_with_the_promoted_server_when_the_old_one_comes_back(servers: Pair) -> None:
    async with moody(Random(SEED)) as witness, scene(servers.url, witness) as at:
        await (await at.start()).up()
        await at.outpost.publish()
        await arrivals(witness, 2)
        await servers.fail_over()
        await at.outpost.publish()
        await witness.until(lambda: witness.arrived >= 4, "deliveries after the failover")
        await asyncio.to_thread(servers.primary.start)
        # Every connection is made anew, with the old primary first in the URL, alive and taking writes.
        async with await psycopg.AsyncConnection.connect(servers.standby.url, autocommit=True) as session:
            await session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
        await at.outpost.publish()
        await witness.until(lambda: witness.arrived >= 6, "deliveries after all connections were lost")
        assert await _clients(servers.primary.url) == 0
        assert await _clients(servers.standby.url) > 0
        [worker] = at.workers
        assert await at.terminate(worker) == 0


async def test_a_standby_alone_is_a_database_that_does_not_answer(servers: Pair) -> None:
    outpost = Outpost(servers.url, SystemClock())
    async with outpost.store() as store:
        await asyncio.to_thread(servers.primary.kill)
        for ask in (lambda: outpost.publish(), lambda: store.heartbeat(10), lambda: store.claim(10)):
            with pytest.raises(StoreUnavailable):
                await ask()
        await asyncio.to_thread(servers.standby.promote)
        await outpost.publish()
        assert await store.heartbeat(10)
    await outpost.close()


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_failovers_in_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """How long deliveries stand still, with the default lease and poll interval."""
    loop, random = asyncio.get_running_loop(), Random(SEED)
    still_s, duplicates, in_flight = [], 0, 0
    for _ in range(FAILOVERS):
        async with (
            migrated_pair() as servers,
            moody(random) as witness,
            scene(servers.url, witness, lease="10s", poll_interval="1s") as at,
        ):
            async with producing(servers.producers_url, witness, random, disturbed=True) as ledger:
                for worker in (await at.start(), await at.start()):
                    await worker.up()
                await arrivals(witness, 200)
                killed_s = loop.time()
                await servers.fail_over()
                at.struck()
                promoted_s, known = loop.time(), len(ledger.committed)
                fresh = Fresh(ledger, witness, known)
                await witness.until(fresh.arrived, "an event that was committed after the failover")
                still_s.append((promoted_s - killed_s, loop.time() - promoted_s))
            await settle(at, ledger)
            found = await audit(at, ledger)
            check(found)
            duplicates, in_flight = duplicates + found.duplicates, in_flight + found.in_flight
    with capsys.disabled():
        print(f"\n{FAILOVERS} failovers, CHAOS_SEED={SEED}: {duplicates} duplicates of {in_flight} interrupted")
        for name, seconds in zip(("kill to promoted", "promoted to delivery"), zip(*still_s, strict=True), strict=True):
            print(f"{name:22} median {median(seconds):.2f} s, longest {max(seconds):.2f} s")


class Fresh:
    """Events that were committed after a moment: whether the first of them was sent."""

    def __init__(self, ledger: Ledger, witness: Witness, known: int) -> None:
        self._ledger = ledger
        self._witness = witness
        self._known = known

    def arrived(self) -> bool:
        later = islice(self._ledger.committed, self._known, None)
        return any((LOOSE, event_id) in self._witness.answers for event_id in later)


async def _clients(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
        asked = await session.execute(
            "SELECT count(*)::int FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        row = await asked.fetchone()
    assert row is not None
    return int(row[0])
