"""A newer release's migration runs under load while dispatchers of this one go on, and others of it start."""

from pathlib import Path
from random import Random

import pytest

from dispatcher.clock import SystemClock
from dispatcher.store import migrate
from tests.chaos.audit import audit
from tests.chaos.newer_release import newer_release
from tests.chaos.producers import producing
from tests.chaos.scene import SETTINGS, moody, scene
from tests.chaos.siege import arrivals, settle
from tests.chaos.test_postgres_faults import SEED, check
from tests.outpost import Outpost

#: Under the load of other tests a deployment takes its time to start.
pytestmark = pytest.mark.timeout(180)


async def test_a_rolling_upgrade_disturbs_nothing(postgres_url: str, tmp_path: Path) -> None:
    random = Random(SEED)
    async with moody(random) as witness, scene(postgres_url, witness) as at:
        newer = Outpost(postgres_url, SystemClock(), **SETTINGS)
        async with producing(postgres_url, witness, random) as ledger:
            for worker in (await at.start(), await at.start()):
                await worker.up()
            await arrivals(witness, 60)
            with newer_release(tmp_path):
                await migrate.upgrade(newer.database)
                await arrivals(witness, 60)
                assert await at.terminate(at.workers[0]) == 0
                async with newer.dispatcher():
                    await arrivals(witness, 60)
            # Rolled back, or started by a host that was not upgraded yet.
            await (await at.start()).up()
            await arrivals(witness, 60)
        await settle(at, ledger)
        found = await audit(at, ledger)
        await newer.close()
    check(found)
    assert found.duplicates == 0
